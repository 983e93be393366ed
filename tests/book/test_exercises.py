"""Each exercise: its solution passes the check, the stub is reported as not done yet and stops
nothing, and a common wrong answer gets a sentence that helps."""

import ast
import contextlib
import functools
import io
import re
import symtable
import warnings
from pathlib import Path

import pytest
from helpers.modules import load

import run as tools

nbformat = pytest.importorskip("nbformat")
FOLDER = Path(__file__).parent
PATHS = sorted((FOLDER.parents[1] / "notebooks").glob("[0-9][0-9]_*.ipynb"))


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
    solutions = tools.solutions(notebook)
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
    return load(FOLDER / "wrong" / f"c{path.stem[:2]}.py", f"wrong_{path.stem[:2]}").WRONG


def run(source: str, path: Path, namespace: dict) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(source, path.name, "exec"), namespace)
    return out.getvalue()


def needed(before: list[str], code: str) -> list[str]:
    """The cells of `before` that bind what `code` uses, and what those cells use in turn. The
    others train, measure and draw: the notebooks' own test runs them."""
    asked = set().union(*names_in(code)[:2])
    while True:
        kept, names, inside = [], set(asked), set()
        for cell in reversed(before):
            uses, later, binds, changes = names_in(cell)
            if names & (binds | changes):
                kept.insert(0, cell)
                names = names - (binds - changes) | uses | later
                inside |= later
        if inside <= asked:
            return kept
        asked |= inside  # a function may use what a later cell defines


def names_in(code: str) -> tuple[set[str], set[str], set[str], set[str]]:
    """The global names that code uses itself, that functions in it use, that it binds, and of
    which it changes a part."""
    top = symtable.symtable(code, "cell", "exec")
    binds = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    uses = {s.get_name() for s in top.get_symbols() if s.is_referenced()} - binds
    later, scopes = set(), top.get_children()
    while scopes:
        scope = scopes.pop()
        later |= {s.get_name() for s in scope.get_symbols() if s.is_global()} - binds
        scopes += scope.get_children()
    changed = [node.value if isinstance(node, ast.Subscript) else node.target
               for node in ast.walk(ast.parse(code)) if isinstance(node, ast.AugAssign)
               or (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store))]
    return uses, later, binds, {node.id for node in changed if isinstance(node, ast.Name)}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_exercises(path, smoke):
    before, exercises = read(path)
    wrong, namespace = wrong_answers(path), {}
    code = [part for one in exercises for part in (one.stub, one.solution, one.check)]
    code += [answer for _, answer, _ in wrong]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # figures without a screen
        for source in needed(before, "\n".join(code)):
            run(source, path, namespace)
        for exercise in exercises:
            stubbed = dict(namespace)
            run(exercise.stub, path, stubbed)
            assert "Not done yet" in run(exercise.check, path, stubbed), exercise.stub
            tried = [(code, message) for name, code, message in wrong if exercise.defines(name)]
            assert tried, f"no wrong answer in tests/book/wrong for:\n{exercise.stub}"
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
        assert exercise.stub == tools.stub(exercise.solution), f"nox -s run -- {path.stem[:2]}"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_wrong_answer_belongs_to_an_exercise(path):
    names = {name for name, *_ in wrong_answers(path)}
    assert all(any(exercise.defines(name) for exercise in read(path)[1]) for name in names)


def test_a_stub_keeps_what_it_promises_and_nothing_else():
    made = tools.stub('''
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
