"""Each exercise: its solution passes the check, the stub is reported as not done yet and stops
nothing, and a common wrong answer gets a sentence that helps."""

import contextlib
import functools
import importlib.util
import io
import re
import runpy
import warnings
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
FOLDER = Path(__file__).parent
PATHS = sorted((FOLDER.parent / "notebooks").glob("[0-9][0-9]_*.ipynb"))
tools = runpy.run_path(str(FOLDER.parent / "notebooks" / "run.py"))


class Exercise:
    """What a reader starts from, the solution, and the check."""

    def __init__(self, stub, solution, check):
        self.stub, self.solution, self.check = stub, solution, check

    def defines(self, name: str) -> bool:
        return re.search(rf"^(def|class) {name}\b", self.solution, re.MULTILINE) is not None


@functools.cache
def read(path: Path):
    """The chapter's code before its first exercise, cell by cell, and its exercises. Code between
    the exercises (an expected picture) belongs to the check above it."""
    notebook = nbformat.read(path, as_version=4)
    before, exercises = [], []
    solutions = tools["solutions"](notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"][1:]  # not the installation
    for cell in code:
        tags = cell.metadata.get("tags", [])
        if "exercise-stub" in tags:
            exercises.append(Exercise(cell.source, solutions[len(exercises)], None))
        elif "exercise-check" in tags:
            exercises[-1].check = cell.source
        elif not exercises:
            before.append(cell.source)
    assert len(exercises) == len(solutions) >= 3, "one solution for each exercise"
    return before, exercises


def wrong_answers(path: Path) -> list[tuple[str, str, str]]:
    """(name of the function, a common wrong answer, what the reader should be told)."""
    spec = importlib.util.spec_from_file_location(
        f"wrong_{path.stem[:2]}", FOLDER / "wrong" / f"c{path.stem[:2]}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


def run(source: str, path: Path, namespace: dict) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(source, path.name, "exec"), namespace)
    return out.getvalue()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_exercises(path, smoke):
    import matplotlib.pyplot as plt

    before, exercises = read(path)
    wrong, namespace = wrong_answers(path), {}
    with warnings.catch_warnings(), plt.rc_context():  # a chapter sets its own figure style
        warnings.simplefilter("ignore")  # figures without a screen
        for source in before:
            run(source, path, namespace)
        for exercise in exercises:
            stubbed = dict(namespace)
            run(exercise.stub, path, stubbed)
            assert "Not done yet" in run(exercise.check, path, stubbed), exercise.stub
            tried = [(code, message) for name, code, message in wrong if exercise.defines(name)]
            assert tried, f"no wrong answer in tests/wrong for:\n{exercise.stub}"
            for code, message in tried:
                mistaken = dict(namespace)
                run(code, path, mistaken)
                with pytest.raises(AssertionError, match=message):  # of: `code`
                    run(exercise.check, path, mistaken)
            run(exercise.solution, path, namespace)  # later exercises may build on it
            assert "Not done yet" not in run(exercise.check, path, namespace), exercise.solution


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_stubs_are_made_from_the_solutions(path):
    for exercise in read(path)[1]:
        assert exercise.stub == tools["stub"](exercise.solution), f"nox -s run -- {path.stem[:2]}"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_wrong_answer_belongs_to_an_exercise(path):
    names = {name for name, *_ in wrong_answers(path)}
    assert all(any(exercise.defines(name) for exercise in read(path)[1]) for name in names)


def test_a_stub_keeps_what_it_promises_and_nothing_else():
    made = tools["stub"]('''
import math

LIMIT = 3


def area(radius: float) -> float:
    """Of a circle."""
    return math.pi * radius**2


class Half(Loss):
    factor = 0.5

    def values(self, student, teacher=None, labels=None):
        return self.factor * student
''')
    assert made == '''def area(radius: float) -> float:
    """Of a circle."""
    raise NotImplementedError


class Half(Loss):
    factor = 0.5

    def values(self, student, teacher=None, labels=None):
        raise NotImplementedError'''
