"""Remove one move between devices at a time, and list those whose absence no test notices.

    python tests/helpers/planted.py [kdcourse/measure …]

Works on a copy of the repository, with one process: tests/test_anywhere.py first, which takes
seconds; then, on the pretend device, the tests of the same name; at last all that train.
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ON_DEVICE = [f"tests/{name}" for name in (
    "test_devices.py", "measure", "doctor", "schemes", "teachers", "training", "experiment",
    "data/test_streams.py", "test_taps.py", "test_zoo.py")]


def moves(path: Path):
    """Yield (place, source without the move) for each call of .to(device) or .cpu() in a file."""
    source = path.read_text("utf-8")
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def at(line, column):
        return starts[line - 1] + column

    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr == "cpu" or (node.func.attr == "to" and is_move(node)):
            before = at(node.func.value.end_lineno, node.func.value.end_col_offset)
            after = at(node.end_lineno, node.end_col_offset)
            whole = source.encode()
            place = f"{node.end_lineno}: {ast.unparse(node)}"
            yield place, (whole[:before] + whole[after:]).decode()


def is_move(call: ast.Call) -> bool:
    """Whether the call can change the device: not only the type or the layout."""
    texts = [ast.unparse(argument) for argument in call.args]
    return bool(texts) and not texts[0].endswith("dtype") and not texts[0].startswith("torch.")


def noticed(folder: Path, name: str) -> str | None:
    """Return the first test that fails, or None."""
    env = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    own = f"tests/{name.split('/')[1]}"
    own = own if (folder / own).is_dir() else own.replace("tests/", "tests/test_")
    stages = [["--device", "pretend", "tests/test_anywhere.py"], ["--device", "pretend", own],
              ["--device", "pretend", *ON_DEVICE]]
    for tests in stages:
        if tests[-1] == own and not (folder / own).exists():
            continue
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "--show-capture=no",
             "-p", "no:cacheprovider", *tests],
            cwd=folder, env=env, capture_output=True, text=True)
        if done.returncode:
            failed = [line for line in done.stdout.splitlines()
                      if line.startswith(("FAILED", "ERROR"))]
            return (failed or done.stdout.splitlines()[-1:] or ["?"])[0]
    return None


def main(*wanted: str) -> None:
    missed, count = [], 0
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "copy"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(
            ".git", ".nox", "_build", "__pycache__"))
        for path in sorted((folder / "kdcourse").rglob("*.py")):
            name = str(path.relative_to(folder))
            if wanted and not name.startswith(wanted):
                continue
            before = path.read_text("utf-8")
            for place, changed in moves(path):
                path.write_text(changed, "utf-8")
                found, count = noticed(folder, name), count + 1
                print(f"{'found ' if found else 'MISSED'} {name} {place}   {found or ''}"[:200],
                      flush=True)
                missed += [] if found else [f"{name} {place}"]
            path.write_text(before, "utf-8")
    print(f"{count - len(missed)} of {count} were noticed.", *missed, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
