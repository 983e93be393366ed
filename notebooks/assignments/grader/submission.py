"""Grade one submission: every law of every question, whatever the submission does."""

import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from grader import extract
from grader.assignment import Assignment, Law, differs
from grader.process import Lost, Worker


@dataclass
class Grade:
    """What a submission got, question by question, and a sentence for what it did not get."""

    submission: str
    seed: int
    points: dict[str, float]
    of: dict[str, float]
    sentences: list[str] = field(default_factory=list)
    details: dict = field(default_factory=dict)  # what a contest measured
    seconds: float = 0.0
    sha256: str = ""

    @property
    def total(self) -> float:
        return sum(self.points.values())

    def __str__(self):
        lines = [f"{self.submission}: {self.total:g} of {sum(self.of.values()):g} points"]
        lines += [f"  {name}: {self.points[name]:g} of {most:g}" for name, most in self.of.items()]
        return "\n".join(lines + [f"  - {sentence}" for sentence in self.sentences])


def grade(assignment: Assignment, path, seed: int) -> Grade:
    """Grade the notebook, script or zip file at `path`.

    Whatever is wrong with the submission costs points and gives a sentence; nothing is raised.
    Mistakes in the laws are raised.

    seed: of the random inputs. The same seed gives the same inputs; a fresh one, fresh inputs.
    """
    start, path = time.perf_counter(), Path(path)
    of = assignment.questions()
    result = Grade(printable(path.name), seed, dict.fromkeys(of, 0.0), of,
                   sha256=fingerprint(path))
    drawn = [[_drawn(law, seed, number) for number in range(law.draws)] for law in assignment.laws]
    try:
        _grade(assignment, drawn, path, result)
    except KeyboardInterrupt:
        raise
    except extract.Unreadable as error:
        result.sentences.append(f"The submission {path.name} {error}.")
    except BaseException as error:  # PanicException, of libraries in Rust, is no Exception
        result.points = dict.fromkeys(of, 0.0)
        result.sentences.append(f"The submission {path.name} could not be graded "
                                f"({type(error).__name__}: {error}).")
        result.sha256 = ""  # the next run tries again: the reason may be a full disk
    result.sentences = [printable(sentence) for sentence in result.sentences]
    result.seconds = time.perf_counter() - start
    return result


def _grade(assignment: Assignment, drawn: list[list], path: Path, result: Grade) -> None:
    """Fill in the points and sentences."""
    wanted = [*(law.names for law in assignment.laws), assignment.names]
    *codes, measured = extract.functions(path, wanted)
    with Worker() as worker:
        gone = set()  # questions whose process was lost: asking again would cost time
        for law, draws, (code, missing) in zip(assignment.laws, drawn, codes, strict=True):
            if law.question in gone:
                continue
            wrong, lost = (f"{missing}.", True) if missing else _wrong(law, draws, code, worker)
            if not wrong:
                result.points[law.question] += law.points
            else:
                sentence = f"{law.question}: {wrong}"
                if sentence not in result.sentences:  # an exception may stop several laws
                    result.sentences.append(sentence)
                if lost:
                    gone.add(law.question)
    if assignment.measure:
        code, missing = measured
        if missing:
            result.sentences.append(f"This submission cannot be graded: {missing}.")
            return
        try:
            assignment.measure(code, result.seed, result)
        except Lost as error:
            result.sentences.append(f"The code {error}.")
        except NotImplementedError:
            result.sentences.append("The code is not done yet.")


def _drawn(law: Law, seed: int, number: int) -> tuple:
    """The inputs of one draw, and what is right."""
    key = json.dumps([seed, "grading", law.question, law.run.__name__, number])
    digest = hashlib.sha256(key.encode()).hexdigest()
    inputs = law.draw(torch.Generator().manual_seed(int(digest[:15], 16)))
    return inputs, law.expect(inputs)


def _wrong(law: Law, draws: list[tuple], code: str, worker: Worker) -> tuple[str, bool]:
    """What is wrong, and whether the rest of the question is lost with it."""
    called = " or ".join(law.names)
    for inputs, expected in draws:
        try:
            found = worker.ask(code, law.source(), inputs, law.run.__name__, law.seconds)
        except NotImplementedError:
            return f"{called} is not done yet.", True
        except Lost as error:
            # An exception may concern this law alone; a process that is gone concerns them all.
            return f"{called} {error}.", worker.process is None
        try:
            if law.read:
                found = law.read(found, inputs)
            difference = differs(found, expected, law.tolerance)
        except Exception as error:  # what came back may be anything
            difference = type(error).__name__
        if difference:
            return f"{law.says} ({difference})", False
    return "", False


def printable(text: str, most: int = 1000) -> str:
    r"""A text that every table, file and terminal can take: no control characters, not too long.

    A name on disk need not be valid Unicode, and what a submission says may hold anything.

    >>> print(printable("Andr\udce9 says:\n\x00é"))
    Andr\udce9 says:\n\x00é
    """
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text if len(text) <= most else text[:most] + " ..."


def fingerprint(path) -> str:
    """SHA-256 of a file, or "" where there is none that can be read."""
    if not os.path.isfile(path):  # reading a named pipe would wait for ever
        return ""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
