"""What is examined: a copy of a scheme, one batch, its teachers, and what was found.

Shapes: B batch, K classes, N samples.
"""

import torch
from torch import nn

from kdcourse.data import Batch
from kdcourse.doctor import copies
from kdcourse.doctor.findings import Diagnosis, Finding
from kdcourse.taps import logits_of
from kdcourse.tasks import Task, each, first, pieces
from kdcourse.teachers import Ensemble, Teacher


class Setup:
    """The set-up under examination.

    original, scheme: the user's scheme, and the copy of it that is run.
    train: the training split; batch: its first samples, as a training step sees them.
    teachers: a `Source` for each, of the copy; originals: the teachers in the user's scheme.
    networks: those that the teachers run, students left out.
    edges: those of the first samples; terms: their names in the history.
    """

    def __init__(self, scheme, data, device):
        self.original, self.data, self.device = scheme, data, device
        self.scheme = copies.copy_of(scheme, data).to(device)
        self.train = data.train.to(device)
        self.batch = next(self.train.batches(min(32, len(self.train)), seed=0))
        self.edges, self.terms, self.diagnosis = [], set(), Diagnosis()
        names = list(scheme.teachers)
        if not names and isinstance(getattr(scheme, "teacher", None), nn.Module):
            names = ["teacher"]  # a network that a scheme of one's own calls by itself
        self.originals = [getattr(scheme, name) for name in names]
        self.teachers = [Source(self, getattr(self.scheme, name), "The teacher",
                                f"{name}: " if len(names) > 1 else "") for name in names]
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
    """A teacher in a set-up: a `Teacher`, or a plain network that the scheme calls by itself.

    name: what it is called in findings; prefix: stands in front of them, where a scheme has several
    teachers.
    """

    def __init__(self, setup: Setup, teacher, name: str, prefix: str):
        self.setup, self.teacher, self.name, self.prefix = setup, teacher, name, prefix

    def look(self, what: str) -> None:
        self.setup.look(f"{self.prefix}{what}")

    def report(self, problem: str, why: str, remedy: str) -> None:
        self.setup.report(f"{self.prefix}{problem}", why, remedy)

    def members(self) -> list["Source"]:
        """The teachers of an ensemble, and of ensembles within it."""
        found = [self.teacher]
        while any(isinstance(teacher, Ensemble) for teacher in found):
            found = [one for teacher in found for one in getattr(teacher, "teachers", [teacher])]
        return [Source(self.setup, teacher, f"Teacher {number} of the ensemble", self.prefix)
                for number, teacher in enumerate(found, 1) if teacher is not self.teacher]

    def networks(self) -> list[nn.Module]:
        """The networks that run when the teacher answers a batch, those in functions included."""
        if not isinstance(self.teacher, Teacher):
            return [self.teacher]
        with copies.called_modules() as called:
            self.on_batch(self.setup.batch)
        found = [module for module in called if not isinstance(module, Teacher)
                 and next(module.parameters(), None) is not None]
        inner = {part for module in found for part in module.modules() if part is not module}
        return [module for module in found if module not in inner]

    def on_batch(self, batch: Batch) -> torch.Tensor | None:
        """The logits [B, K] for a batch of training samples, as in training; None where there are
        none, and for a plain network."""
        try:
            return self.teacher(batch).logits.float() if isinstance(self.teacher, Teacher) else None
        except Exception:  # whatever its own code raises
            return None

    def on_inputs(self, x: torch.Tensor, y=None) -> torch.Tensor | None:
        """The logits [N, K] for any inputs; None where it has none for them."""
        x = each(lambda t: t.to(self.setup.device), x)
        try:
            if isinstance(self.teacher, Teacher):
                return self.teacher.predict(x, y).float()
            return torch.cat([self._in_scheme(part) for part in pieces(x, 100)])
        except Exception:  # it may return None, or not take these inputs
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


def probabilities(found, who: str, logits: torch.Tensor, task: Task) -> None:
    """Report logits that are outputs of a softmax; found: a `Setup` or a `Source`."""
    try:
        rows_MK = task.flat(logits)
    except ValueError:  # a teacher's features
        return
    if task.has_classes and (rows_MK >= 0).all() and ((rows_MK.sum(1) - 1).abs() < 1e-3).all():
        found.report(f"The {who} answers with probabilities, where logits belong.",
                     "The softmax of a softmax is almost uniform: hardly anything is learned.",
                     "Take the softmax off its end.")


def reaches(value: torch.Tensor, tensors) -> bool:
    """Whether a scalar has a gradient other than 0 for any of the tensors."""
    tensors = [tensor for tensor in tensors if tensor.requires_grad]
    if not tensors or not value.requires_grad:
        return False
    gradients = torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True)
    return any(gradient is not None and gradient.any() for gradient in gradients)


def not_finite(outcome) -> str:
    """Which term of an outcome is NaN or inf; "" for none."""
    bad = [name for name, part in outcome.parts.items() if not torch.isfinite(part).all()]
    if not bad and torch.isfinite(outcome.loss):
        return ""
    return ", ".join(bad) or "the weighted sum"


def first_three(names: list[str]) -> str:
    """The first three names, in a sentence."""
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
