"""Execute notebooks in full and store their outputs: `nox -s run`, or `nox -s run -- 01`.

A notebook is written only when every cell has run, so a failed or stopped run changes nothing.
What a chapter costs is read from its recorded results and written into two Markdown cells, which
have the tags `opening-time` and `cost-table`.
"""

import argparse
import ast
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
COVER = ROOT / "book" / "_static" / "hinton.png"
RESULTS = ROOT / "kdcourse" / "results"


def fingerprint(notebook) -> str:
    """SHA-256 of all code: it is stored with the outputs, so that a test can name stale ones."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def stub(solution: str) -> str:
    """What a reader starts from: the solution's functions and classes, without their insides."""
    made = []
    for node in ast.parse(solution).body:
        if isinstance(node, ast.ClassDef):
            node.body = [_empty(part) if isinstance(part, ast.FunctionDef) else part
                         for part in node.body]
        elif not isinstance(node, ast.FunctionDef):
            continue  # the reader writes what stands around it
        made.append(ast.unparse(node if isinstance(node, ast.ClassDef) else _empty(node)))
    return "\n\n\n".join(made)


def _empty(function: ast.FunctionDef) -> ast.FunctionDef:
    said = [function.body[0]] if ast.get_docstring(function) else []
    function.body = [*said, *ast.parse("raise NotImplementedError").body]
    return function


def solutions(notebook) -> list[str]:
    """The solution of each exercise, in their order: the code in the fold below it."""
    return [code for cell in notebook.cells if cell.cell_type == "markdown"
            for fold in re.findall(r"<details>(.*?)</details>", cell.source, re.DOTALL)
            for code in re.findall(r"```python\n(.*?)```", fold, re.DOTALL)]


def write_stubs(notebook) -> None:
    """Make every cell tagged `exercise-stub` from its solution: there is one source for both."""
    cells = [cell for cell in notebook.cells
             if "exercise-stub" in cell.metadata.get("tags", [])]
    for cell, solution in zip(cells, solutions(notebook), strict=True):
        cell.source = stub(solution)


def clean(notebook) -> None:
    """Take out what changes from run to run without meaning anything."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "kdcourse": {"sources": fingerprint(notebook)},
        }
    )
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        for output in cell.get("outputs", []):
            # A live widget's number means nothing without its kernel; its static form stays.
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


def write(path: Path, notebook) -> None:
    """Replace the file at once: a reader sees the old notebook or the new one, never a half."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            nbformat.write(notebook, file)
        os.chmod(partial, 0o644)  # mkstemp's files are private
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def execute(path: Path):
    """The notebook with the outputs of a full run, in a kernel of its own."""
    notebook = nbformat.read(path, as_version=4)
    write_stubs(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=None,  # a cell may measure for an hour
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()
    clean(notebook)
    return notebook


def store(path: Path, notebook) -> None:
    """Write the notebook, and the picture of README and front page where it has that."""
    write(path, notebook)
    for cell in notebook.cells:
        if "cover" in cell.metadata.get("tags", []):
            pictures = [output.data["image/png"] for output in cell.outputs
                        if "image/png" in output.get("data", {})]
            COVER.write_bytes(base64.b64decode(pictures[0]))


def chapter(path: Path) -> str | None:
    """The number of a chapter; None for a page that records nothing."""
    return path.name[:2] if path.name[:2].isdigit() else None


# --- what a chapter costs -------------------------------------------------------------------------


def recorded(path: Path) -> dict:
    """What ships with the package of a chapter: "rows" and, where it was measured, "opened"."""
    file = RESULTS / f"{chapter(path)}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else {"rows": []}


def record_opening(path: Path, seconds: float) -> None:
    """Note beside the rows how long the notebook ran when all of them were recorded."""
    from kdcourse.experiment import where  # imports torch, so only when it is needed

    found = recorded(path) | {"opened": {"seconds": seconds} | where()}
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in found.pop("rows"))
    rest = "".join(f', "{name}": {json.dumps(value)}' for name, value in found.items())
    file = RESULTS / f"{chapter(path)}.json"
    partial = file.with_suffix(".partial")
    partial.write_text(f'{{"rows": [\n{rows}\n]{rest}}}\n', "utf-8", newline="\n")
    os.replace(partial, file)


def opening_time(found: dict) -> str:
    """What a reader waits, in a sentence: the cell with the tag `opening-time`."""
    opened = _time(found["opened"]["seconds"]) if found.get("opened") else "not measured yet"
    hardware = " and ".join(sorted({row["hardware"] for row in found["rows"]}))
    seconds = sum(row["seconds"] for row in found["rows"])
    return (f"Opening it with the recorded results: **{opened}**. "
            f"Computing all {len(found['rows'])} runs anew: **{_time(seconds)}** on {hardware}.")


def cost_table(found: dict) -> str:
    """What was run, where and when, as a table: the cell with the tag `cost-table`."""
    groups: dict[tuple, list[dict]] = {}
    for row in found["rows"]:
        place = tuple(row[name] for name in ("hardware", "torch", "python", "date"))
        groups.setdefault(place, []).append(row)
    lines = ["| runs | seeds | time | hardware | torch | Python | date |",
             "|---|---|---|---|---|---|---|"]
    for place, rows in sorted(groups.items()):
        cells = (len(rows), len({row["seed"] for row in rows}),
                 _time(sum(row["seconds"] for row in rows)), *place)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


COSTS = {"opening-time": opening_time, "cost-table": cost_table}


def write_costs(notebook, found: dict) -> None:
    """Fill the Markdown cells that have one of these tags."""
    for cell in notebook.cells:
        for tag in COSTS.keys() & set(cell.metadata.get("tags", [])):
            cell.source = COSTS[tag](found)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


# --- the command ----------------------------------------------------------------------------------


def find(names: list[str]) -> list[Path]:
    """Paths from "01", "01_hinton" or a path; all chapters when there is no name."""
    if not names:
        return sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
    paths = []
    for name in names:
        found = [Path(name)] if Path(name).is_file() else sorted(FOLDER.glob(f"{name}*.ipynb"))
        if not found:
            sys.exit(f"Expected a notebook such as 01 or 01_hinton.ipynb, found none for {name!r}.")
        paths += found
    return [path.resolve() for path in paths]


def forget(path: Path) -> None:
    """Delete the chapter's measured rows: those that ship, and those of this computer."""
    from kdcourse._files import home  # imports torch, so only when it is needed

    for folder in (RESULTS, home() / "results"):
        (folder / f"{chapter(path)}.json").unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copy", action="store_true", help=argparse.SUPPRESS)  # nothing is stored
    parser.add_argument("names", nargs="*", help="such as 01; all chapters when left out")
    parser.add_argument(
        "--fresh", action="store_true", help="measure everything anew: forget the recorded rows"
    )
    parser.add_argument(
        "--moved", action="store_true",
        help="a change of code changed no number: give the recorded rows their new keys"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N",
        help="execute N copies of the notebook at a time, which share the missing runs of its "
             "comparisons (on several cores, or on one GPU); one of them is stored"
    )
    arguments = parser.parse_args()
    os.environ |= {"TQDM_DISABLE": "1", "KDCOURSE_RECORD": "moved" if arguments.moved else "1"}
    os.environ.pop("MPLBACKEND", None)  # figures belong into the notebook
    os.environ.pop("KDCOURSE_SMOKE", None)  # token numbers do not
    for path in find(arguments.names):
        if arguments.copy:
            execute(path)
            continue
        if arguments.fresh:
            forget(path)
        print(f"{path.name} ...", end=" ", flush=True)
        start, rows = time.perf_counter(), recorded(path)["rows"]
        copies = [subprocess.Popen([sys.executable, __file__, "--copy", str(path)])
                  for _ in range(1, arguments.jobs)]
        try:
            notebook = execute(path)
        except CellExecutionError as error:
            sys.exit(f"failed; the file is left as it was.\n\n{error}")
        finally:
            for process in copies:  # what is left of their work has no reader
                process.terminate()
                process.wait()
        seconds = time.perf_counter() - start
        if rows and recorded(path)["rows"] == rows:  # this is what a reader waits who opens it
            record_opening(path, seconds)
        write_costs(notebook, recorded(path))
        store(path, notebook)
        print(f"{seconds:.0f} s, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
