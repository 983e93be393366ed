"""Make what is handed out from the masters: `nox -s assignments`, or `-- 1` for one of them.

A master is a notebook in this folder, written for otter-grader: questions, solutions and checks in
one file. From it come, in `_build/assignments/NAME/`,

    student/NAME.ipynb                what students get: one file, without solutions
    autograder/NAME-autograder.zip    what Gradescope gets: it runs the checks that students see
    solutions/NAME.ipynb              for you

Otter runs the checks on the solutions. When one of them fails, nothing is handed out.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

FOLDER = Path(__file__).resolve().parent
OUT = FOLDER.parents[1] / "_build" / "assignments"


class Failed(Exception):
    """A master that cannot be handed out; the sentence says why."""


def masters(names=()) -> list[Path]:
    """The masters whose names begin so, such as "1" or "1_loss"; all when there is no name."""
    found = sorted(FOLDER.glob("*.ipynb"))
    for name in names:
        if not any(path.stem.startswith(name) for path in found):
            raise Failed(f"Expected an assignment such as {found[0].stem}, found none for "
                         f"{name!r}.")
    return [path for path in found
            if not names or any(path.stem.startswith(name) for name in names)]


def build(master: Path, out: Path = OUT, checked: bool = True) -> Path:
    """Make the three folders of one master; the folder that holds them. Replaces older ones.

    checked: whether otter runs the checks on the solutions.
    """
    out = Path(out) / master.stem
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".") as partial:
        # A process of its own: otter changes the working folder and starts a kernel.
        done = subprocess.run(
            [sys.executable, "-m", "otter", "assign", str(master), partial, "--no-pdfs",
             *([] if checked else ["--no-run-tests"])],
            capture_output=True, text=True, encoding="utf-8", errors="replace",
            env=os.environ | {
                "MPLBACKEND": "agg", "PYTHONUTF8": "1", "KDCOURSE_SMOKE": "1"})
        if done.returncode:
            raise Failed(f"{master.name}: {_reason(done.stderr)}")
        made = Path(partial) / "autograder"
        (archive,) = made.glob(f"{master.stem}-autograder_*.zip")
        archive.rename(made / f"{master.stem}-autograder.zip")  # else a new name each time
        (Path(partial) / "solutions").mkdir()
        notebook = nbformat.read(made / master.name, as_version=4)
        tidy(notebook)
        nbformat.write(notebook, Path(partial) / "solutions" / master.name)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for folder in Path(partial).iterdir():
            shutil.move(folder, out / folder.name)
    return out


def tidy(notebook) -> None:
    """Take otter's marks out of the solutions, and the stub behind each of them."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(
                r"\n *# END SOLUTION(\n *raise NotImplementedError\b.*)?|^ *# BEGIN SOLUTION.*\n",
                "", cell.source, flags=re.MULTILINE)
            cell.source = re.sub(r'^ *""" *# BEGIN PROMPT.*?""";? *# END PROMPT\n?| *# SOLUTION'
                                 r"( NO PROMPT)?$", "", cell.source, flags=re.MULTILINE | re.DOTALL)


def _reason(said: str) -> str:
    """What otter said last, without its traceback."""
    parts = re.split(r"^\w*(?:Error|Exception): ", said, flags=re.MULTILINE)
    return parts[-1].strip() if len(parts) > 1 else said.strip()[-2000:]


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="such as 1; all of them when left out")
    parser.add_argument("--out", type=Path, default=OUT, help="default: _build/assignments")
    parser.add_argument("--unchecked", action="store_true",
                        help="do not run the checks on the solutions, which takes a while")
    asked = parser.parse_args(arguments)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        try:
            running = [pool.submit(build, path, asked.out, not asked.unchecked)
                       for path in masters(asked.names)]
        except Failed as error:
            print(error, file=sys.stderr)
            return 2
        for future in running:
            try:
                folder = future.result()
            except Failed as error:
                failed += 1
                print(f"\nNot made. {error}\n", file=sys.stderr)
                continue
            name = folder.name
            print(f"\n{name}")
            for what, path in (("for students", f"student/{name}.ipynb"),
                               ("for Gradescope", f"autograder/{name}-autograder.zip"),
                               ("solutions", f"solutions/{name}.ipynb")):
                print(f"  {what:15} {folder / path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
