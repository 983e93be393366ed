"""Grade one submission: every law of every question, whatever the submission does."""

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from kdcourse._random import generator
from kdcourse.grading import extract
from kdcourse.grading.assignment import Assignment, Law, differs
from kdcourse.grading.process import Lost, Worker


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

    seed: of the random inputs. The same seed gives the same inputs; a fresh one, fresh inputs.
    """
    start, path = time.perf_counter(), Path(path)
    of = assignment.questions()
    result = Grade(path.name, seed, dict.fromkeys(of, 0.0), of, sha256=fingerprint(path))
    try:
        parts = extract.cells(path)
    except extract.Unreadable as error:
        result.sentences.append(f"This submission {error}.")
        return result
    with Worker() as worker:
        gone: dict[str, str] = {}  # questions whose process was lost: asking again would cost time
        for law in assignment.laws:
            if law.question in gone:
                continue
            sentence, lost = _holds(law, parts, worker, seed)
            if not sentence:
                result.points[law.question] += law.points
            else:
                sentence = f"{law.question}: {sentence}"
                if sentence not in result.sentences:  # an exception may stop several laws
                    result.sentences.append(sentence)
                if lost:
                    gone[law.question] = sentence
    if assignment.measure:
        try:
            code = extract.definitions(parts, assignment.names)
            assignment.measure(code, seed, result)
        except extract.Unreadable as error:
            result.sentences.append(f"This submission cannot be graded: {error}.")
        except Lost as error:
            result.sentences.append(f"The code {error}.")
        except NotImplementedError:
            result.sentences.append("The code is not done yet.")
    result.seconds = time.perf_counter() - start
    return result


def _holds(law: Law, parts: list[str], worker: Worker, seed: int) -> tuple[str, bool]:
    """What is wrong, and whether the rest of the question is lost with it."""
    called = " or ".join(law.names)
    try:
        code = extract.definitions(parts, law.names)
    except extract.Unreadable as error:
        return f"{error}.", True
    for number in range(law.draws):
        rng = generator(seed, "grading", law.question, law.run.__name__, number)
        inputs = law.draw(rng)
        expected = law.expect(inputs)
        try:
            found = worker.ask(code, law.source(), inputs, law.run.__name__, law.seconds)
        except NotImplementedError:
            return f"{called} is not done yet.", True
        except Lost as error:
            # An exception may concern this law alone; a process that is gone concerns them all.
            return f"{called} {error}.", worker.process is None
        if law.read:
            try:
                found = law.read(found, inputs)
            except Exception as error:  # what came back may be anything
                return f"{law.says} ({type(error).__name__})", False
        if difference := differs(found, expected, law.tolerance):
            return f"{law.says} ({difference})", False
    return "", False


def fingerprint(path) -> str:
    """SHA-256 of a file."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


