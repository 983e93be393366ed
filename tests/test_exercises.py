"""Each exercise: its solution passes the check; the unfinished stub says so and stops nothing."""

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
PATHS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def run(path: Path, solved: bool) -> list[str]:
    """Execute a chapter up to its last exercise; return what each check printed."""
    cells = nbformat.read(path, as_version=4).cells
    tagged = [(set(cell.metadata.get("tags", [])), cell) for cell in cells]
    solutions = [code for cell in cells if cell.cell_type == "markdown"
                 for fold in re.findall(r"<details>(.*?)</details>", cell.source, re.DOTALL)
                 for code in re.findall(r"```python\n(.*?)```", fold, re.DOTALL)]
    stubs = [cell.source for tags, cell in tagged if "exercise-stub" in tags]
    assert len(solutions) == len(stubs) >= 3, "one solution for each exercise"
    code = [(tags, cell.source) for tags, cell in tagged if cell.cell_type == "code"][1:]
    last = max(i for i, (tags, _) in enumerate(code) if "exercise-check" in tags)
    namespace, printed, waiting = {}, [], list(solutions)
    for tags, source in code[: last + 1]:
        if "exercise-stub" in tags and solved:
            source = waiting.pop(0)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(source, path.name, "exec"), namespace)
        if "exercise-check" in tags:
            printed.append(out.getvalue())
    return printed


@pytest.mark.parametrize("solved", [True, False], ids=["solutions", "stubs"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_exercises(path, solved, smoke):
    import matplotlib.pyplot as plt

    with warnings.catch_warnings(), plt.rc_context():  # a chapter sets its own figure style
        warnings.simplefilter("ignore")  # figures without a screen
        checks = run(path, solved)
    for output in checks:
        assert ("Not done yet" in output) is not solved, output
