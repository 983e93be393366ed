"""What every loss is: a term with a formula, and sums of weighted terms.

Shapes: B batch, K classes.
"""

import copy
import math

import torch
from torch import nn

from kdcourse.models import View


class Loss(nn.Module):
    """One term of an objective: compares the student's view of a batch with the teacher's.

    A subclass writes `values`, one number per sample, and sets `per_sample`; or, where a number
    per sample makes no sense (relations between samples), it overrides `forward`. Arguments always
    come in the order `student, teacher, labels`; student and teacher are logits [B, K], or the
    `View` that a scheme passes.

    Terms can be weighted and added: `0.1 * CE() + 0.9 * KD(T=4)` is an `Objective`.
    """

    per_sample = True  # values() exists: the loss is a mean over samples
    needs_teacher = True

    def build(self, student: View, teacher: View | None, seed: int) -> None:
        """Check shapes and make what must be trained (projections). Called before the optimiser
        exists, possibly more than once; makes nothing twice."""

    def values(self, student, teacher=None, labels=None) -> torch.Tensor:
        """One loss per sample, [B]."""
        raise NotImplementedError

    def forward(self, student, teacher=None, labels=None) -> torch.Tensor:
        return self.values(student, teacher, labels).mean()

    def __repr__(self):
        return f"{type(self).__name__}({self.extra_repr()})"

    def __mul__(self, weight):
        return Objective([(weight, self)])

    __rmul__ = __mul__

    def __add__(self, other):
        return Objective([(1.0, self)]) + other

    def __radd__(self, other):  # sum() starts from 0
        return Objective([(1.0, self)]) if other == 0 else NotImplemented


class Objective(nn.Module):
    """A weighted sum of terms, in order. Made by `0.1 * CE() + 0.9 * KD(T=4)`.

    `terms` are named after their class; a second term of one kind gets `_2` and so on, so that
    both are logged. Every term is a copy: two objectives never share parameters.
    """

    def __init__(self, pairs: list[tuple[float, Loss]]):
        super().__init__()
        self.weights: dict[str, float] = {}
        self.terms = nn.ModuleDict()
        for weight, term in pairs:
            if not isinstance(weight, (int, float)) or not math.isfinite(weight):
                raise TypeError(f"Expected a finite number as the weight of {term!r}, got "
                                f"{weight!r}. Write, for example, 0.9 * {term!r}.")
            kind, name, count = type(term).__name__, type(term).__name__, 1
            while name in self.terms:
                count += 1
                name = f"{kind}_{count}"
            self.weights[name] = float(weight)
            self.terms[name] = copy.deepcopy(term)

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for term in self.terms.values())

    def build(self, student: View, teacher: View | None, seed: int) -> None:
        """`build` of every term."""
        for term in self.terms.values():
            term.build(student, teacher, seed)

    def parts(self, student, teacher=None, labels=None) -> dict[str, torch.Tensor]:
        """Every term by name, as a scalar and *without* its weight."""
        return {name: term(student, teacher, labels) for name, term in self.terms.items()}

    def total(self, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        """The weighted sum of `parts`."""
        return sum(self.weights[name] * part for name, part in parts.items())

    def forward(self, student, teacher=None, labels=None) -> torch.Tensor:
        return self.total(self.parts(student, teacher, labels))

    def _pairs(self):
        return [(self.weights[name], term) for name, term in self.terms.items()]

    def __mul__(self, weight):
        if not isinstance(weight, (int, float)):
            return NotImplemented
        return Objective([(weight * inner, term) for inner, term in self._pairs()])

    __rmul__ = __mul__

    def __add__(self, other):
        if isinstance(other, Loss):
            other = Objective([(1.0, other)])
        if not isinstance(other, Objective):
            return NotImplemented
        return Objective(self._pairs() + other._pairs())

    def __radd__(self, other):
        return self if other == 0 else NotImplemented

    def __repr__(self):
        return " + ".join(
            repr(term) if weight == 1 else f"{weight:.10g} * {term!r}"
            for weight, term in self._pairs()
        )


def as_objective(loss) -> Objective:
    """A copy of an objective; a single term becomes an objective of one."""
    if isinstance(loss, Loss):
        return Objective([(1.0, loss)])
    if isinstance(loss, Objective):
        return copy.deepcopy(loss)
    raise TypeError(
        f"Expected a loss such as 0.1 * CE() + 0.9 * KD(T=4), got {type(loss).__name__}. "
        "Subclass kdcourse.losses.Loss to bring your own."
    )
