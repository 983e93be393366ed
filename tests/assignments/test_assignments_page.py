"""The page for those who hand out assignments: its code runs, and its numbers are the programs'."""

import re
from pathlib import Path

import pytest

from grader import grade, load
from kdcourse import checks

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks" / "assignments"
PAGE = (ROOT / "book" / "assignments.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)


def test_the_check_says_what_the_page_says(capsys):
    exec(BLOCKS[0], {})
    assert "no gradient for the teacher, got one" in capsys.readouterr().out


def test_the_law_on_the_page_grades(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import torch\n" + BLOCKS[1], "utf-8")
    answer = tmp_path / "one.py"
    for code, points in (("(logits / T).softmax(1)", 2), ("logits.softmax(1)", 0)):
        answer.write_text(f"def softened(logits, T):\n    return {code}\n", "utf-8")
        assert grade(load(path), answer, seed=1).total == points


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_points_and_minutes_are_those_of_the_assignment(number):
    (laws,) = FOLDER.glob(f"{number}_*.py")
    row = re.search(rf"^\* - {number} .*\n  - (.*)\n  - (\d+)\n  - (\d+)$", PAGE, re.M)
    assert float(row[2]) == sum(load(laws).questions().values())
    master = laws.with_suffix(".ipynb").read_text("utf-8")
    minutes = [int(cell) for cell in re.findall(r"^ *\"\| \d .*\| \d+ \| (\d+) \|\\n\",?$",
                                                master, re.M)]
    if row[1].isdigit():
        assert int(row[1]) == sum(minutes)


def test_the_fifth_has_as_many_points_as_its_rubric():
    paper = (FOLDER / "5_own_experiment.md").read_text("utf-8")
    rows = re.findall(r"^\| [a-z ]+ \|", paper.split("## What counts")[1], re.M)
    assert "Twelve points" in paper and 2 * (len(rows) - 1) == 12
    assert re.search(r"^\* - 5 An experiment.*\n.*\n  - none\n  - 12$", PAGE, re.M)


def test_every_check_is_named():
    named = set(re.findall(r"^\* - `(\w+)\(", PAGE, re.M))
    assert named == set(checks.__all__) - {"broken_laws"}
