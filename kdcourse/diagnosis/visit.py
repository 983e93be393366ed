"""What the doctor has in hand: a copy of the scheme, one batch, and a sheet of paper."""

import torch

from kdcourse.diagnosis import copies
from kdcourse.diagnosis.report import Diagnosis, Finding


class Visit:
    """One look at a copy (`twin`) of a scheme; `diagnosis` is what came of it.

    teacher: the twin's, None where it has none; networks: those in it that are no student.
    train: a split of the doctor's own; batch: its first samples, as a training step sees them.
    """

    def __init__(self, scheme, data, device):
        self.scheme, self.data, self.device = scheme, data, device
        self.twin = copies.twin_of(scheme, data).to(device)
        self.teacher = getattr(self.twin, "teacher", None)
        students = {id(module) for student in [*scheme.students, *self.twin.students]
                    for module in student.modules()}
        self.networks = [network for network in copies.networks(self.teacher)
                         if id(network) not in students]
        self.train = data.train.to(device)
        self.batch = next(self.train.batches(min(32, len(self.train)), seed=0))
        self.fits = self.steps = False  # whether it can be built, and make a step
        self.diagnosis = Diagnosis()

    def look(self, what: str) -> None:
        """Note what is looked at."""
        self.diagnosis.looked.append(what)

    def report(self, problem: str, why: str, remedy: str) -> None:
        """Note what was found."""
        self.diagnosis.append(Finding(problem, why, remedy))


def probabilities(logits: torch.Tensor) -> bool:
    """Whether these are answers of a softmax."""
    return bool((logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all())


def some(names: list[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
