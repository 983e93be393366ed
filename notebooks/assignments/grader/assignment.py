"""What is asked of a submission, and what its answers are worth."""

import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Law:
    """One thing that must hold of an answer, and its points.

    question: the question that it belongs to, such as "q1".
    points: what it is worth.
    names: the functions of the submission that it needs.
    draw: `draw(rng)` gives fresh inputs: tensors, numbers, texts, lists and dictionaries.
    run: `run(given, inputs)` asks the submission, whose functions are attributes of `given`. It
        runs in the worker as text, so it may use nothing but `torch`, `np` and its arguments.
    expect: `expect(inputs)` gives what is right, computed here, in the parent.
    read: `read(found, inputs)`, also here, makes of what came back what `expect` is compared with,
        such as a ratio of two numbers: a worker that formed it could as well make it up.
    says: the sentence when it does not hold: what was expected and why it matters, not the answer.
    uses: functions that `run` calls. Their text travels along.
    draws: how often it is tried. All must hold.
    """

    question: str
    points: float
    names: tuple[str, ...]
    draw: Callable
    run: Callable
    expect: Callable
    says: str
    read: Callable | None = None
    uses: tuple[Callable, ...] = ()
    draws: int = 3
    tolerance: float = 1e-3
    seconds: float = 10

    def source(self) -> str:
        """The text that the worker runs."""
        functions = (*self.uses, self.run)
        return "\n\n".join(textwrap.dedent(inspect.getsource(one)) for one in functions)


@dataclass(frozen=True)
class Assignment:
    """A named list of laws, or a contest.

    measure: `measure(code, seed, result)` grades what laws cannot. It fills in a `Grade`.
    measured: its questions and their points.
    names: the functions of the submission that it needs.

    A contest is graded one submission at a time and with one seed for all, so that the scores can
    be compared.
    """

    name: str
    title: str
    laws: tuple[Law, ...] = ()
    measure: Callable | None = None
    measured: dict[str, float] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def questions(self) -> dict[str, float]:
        """The points of each question."""
        points: dict[str, float] = {}
        for law in self.laws:
            points[law.question] = points.get(law.question, 0) + law.points
        return points | self.measured


def load(path) -> Assignment:
    """The assignment that a file such as `notebooks/assignments/1_loss.py` defines."""
    path = Path(path).resolve()
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a file with the laws of an assignment, got {path}. They lie in "
            "notebooks/assignments/ of the repository.")
    spec = importlib.util.spec_from_file_location(f"kdcourse_assignment_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = getattr(module, "ASSIGNMENT", None)
    if not isinstance(found, Assignment):
        raise ValueError(f"Expected {path.name} to define ASSIGNMENT, an Assignment, got "
                         f"{type(found).__name__}.")
    return found


def differs(found, expected, tolerance: float) -> str:
    """How two answers differ, in a few words; nothing where they agree to `tolerance`."""
    if isinstance(expected, dict):
        if not isinstance(found, dict) or set(map(str, expected)) != set(found):
            return "other parts came back"
        parts = [(found[str(key)], value) for key, value in expected.items()]
    elif isinstance(expected, (list, tuple)):
        if not isinstance(found, list) or len(found) != len(expected):
            return f"expected {len(expected)} values"
        parts = list(zip(found, expected, strict=True))
    elif expected is None or isinstance(expected, (str, bool)):
        return "" if type(found) is type(expected) and found == expected else (
            f"got {str(found)[:40]}")
    else:
        return _far(found, expected, tolerance)
    return next((text for pair in parts if (text := differs(*pair, tolerance))), "")


def _far(found, expected, tolerance: float) -> str:
    """How two arrays differ, relative to the larger one's scale."""
    if isinstance(found, bool) or not isinstance(found, (int, float, torch.Tensor)):
        return f"got {type(found).__name__} where numbers were expected"
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    if found.shape != expected.shape:
        return f"got the shape {list(found.shape)}, expected {list(expected.shape)}"
    if found.is_complex():
        return "got complex numbers"
    found, expected = (np.asarray(x.double()) for x in (found, expected))
    if not np.isfinite(found[np.isfinite(expected)]).all():
        return "got NaN or infinity"
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    same = np.isclose(found, expected, rtol=tolerance, atol=tolerance * max(scale, 1e-3))
    if same.all():
        return ""
    if found.size == 1:
        return f"got {float(found.ravel()[0]):.5g}"
    return f"{int((~same).sum())} of {found.size} numbers differ"
