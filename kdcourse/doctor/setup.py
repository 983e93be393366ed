"""What is examined: a copy of a scheme, one batch, its teachers, and what was found."""

import torch
from torch import nn

from kdcourse.data import Batch
from kdcourse.doctor import copies
from kdcourse.doctor.findings import Diagnosis, Finding
from kdcourse.taps import logits_of
from kdcourse.tasks import Task, each, first, pieces
from kdcourse.teachers import Teacher


class Setup:
    """The set-up under examination.

    original, scheme: the user's scheme, and the copy of it that is run.
    train: a split of the doctor's own; batch: its first samples, as a training step sees them.
    teachers: a `Source` for each; networks: those that the teachers run, students left out.
    fits, steps: whether the scheme could be built, and make a step.
    edges: those after `build`; terms: their names in the history.
    """

    def __init__(self, scheme, data, device):
        self.original, self.data, self.device = scheme, data, device
        self.scheme = copies.copy_of(scheme, data).to(device)
        self.train = data.train.to(device)
        self.batch = next(self.train.batches(min(32, len(self.train)), seed=0))
        self.fits, self.steps, self.edges, self.terms = False, False, [], set()
        self.diagnosis = Diagnosis()
        found, plain = self.scheme.teachers, getattr(self.scheme, "teacher", None)
        if not found and isinstance(plain, nn.Module):  # kept as it is, as in a first attempt
            found = {"teacher": plain}
        self.teachers = [Source(self, f"{name}: " if len(found) > 1 else "", teacher)
                         for name, teacher in found.items()]
        students = {module for one in (scheme, self.scheme) for student in one.students
                    for module in student.modules()}
        self.networks = [network for network in dict.fromkeys(
            network for source in self.teachers for network in source.networks())
            if network not in students]

    def look(self, what: str) -> None:
        """Note what is looked at."""
        self.diagnosis.looked.append(what)

    def report(self, problem: str, why: str, remedy: str) -> None:
        """Note what was found."""
        self.diagnosis.append(Finding(problem, why, remedy))


class Source:
    """One teacher in a set-up: a `Teacher`, or a plain network in the scheme.

    prefix: stands in front of what is found, where a scheme has several teachers.
    """

    def __init__(self, setup: Setup, prefix: str, teacher):
        self.setup, self.prefix, self.teacher = setup, prefix, teacher
        self.plain = not isinstance(teacher, Teacher)

    def look(self, what: str) -> None:
        self.setup.look(f"{self.prefix}{what}")

    def report(self, problem: str, why: str, remedy: str) -> None:
        self.setup.report(f"{self.prefix}{problem}", why, remedy)

    def networks(self) -> list[nn.Module]:
        """The networks that run when the teacher answers a batch."""
        if self.plain:
            return [self.teacher]
        with copies.called_modules() as called:
            self.on_batch(self.setup.batch)
        found, inner = [], set()
        for module in called:
            if isinstance(module, Teacher):
                continue
            if module not in inner and any(True for _ in module.parameters()):
                found.append(module)
            inner |= set(module.modules())
        return found

    def on_batch(self, batch: Batch) -> torch.Tensor | None:
        """The logits for a batch, the way the scheme asks; None for a plain network."""
        return None if self.plain else on_batch(self.teacher, batch)

    def on_inputs(self, x: torch.Tensor) -> torch.Tensor | None:
        """The logits for any inputs; None where it has none for them."""
        x = each(lambda t: t.to(self.setup.device), x)
        if not self.plain:
            return on_inputs(self.teacher, x)
        try:
            return torch.cat([self._in_scheme(part) for part in pieces(x, 100)])
        except Exception:  # the scheme may not run on these inputs
            return None

    def _in_scheme(self, x: torch.Tensor) -> torch.Tensor:
        """A plain network's logits while the scheme runs, which may change its inputs."""
        outputs = []
        hook = self.teacher.register_forward_hook(lambda *call: outputs.append(call[2]))
        batch, rows = self.setup.batch, torch.arange(len(first(x)), device=first(x).device)
        y = each(lambda y: y[rows % len(y)], batch.y)  # any labels will do
        try:
            self.setup.scheme(Batch(x, y, rows % len(self.setup.train), task=batch.task))
        finally:
            hook.remove()
        return logits_of(outputs[0]).float()


def on_batch(teacher: Teacher, batch: Batch) -> torch.Tensor | None:
    """A teacher's logits for a batch; None where it has none for it."""
    try:
        return teacher(batch).logits.float()
    except Exception:  # stored answers of other data, an error in its own code
        return None


def on_inputs(teacher: Teacher, x: torch.Tensor, y=None) -> torch.Tensor | None:
    """A teacher's logits for any inputs; None where no network is behind it."""
    try:
        return teacher.predict(x, y).float()
    except Exception:  # it may return None, or not take these inputs
        return None


def are_probabilities(logits: torch.Tensor, task: Task) -> bool:
    """Whether these are outputs of a softmax."""
    try:
        logits = task.flat(logits)
    except ValueError:  # features
        return False
    fair = (logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all()
    return task.has_classes and bool(fair)


def first_three(names: list[str]) -> str:
    """The first three names, in a sentence."""
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
