"""What a loss promises, as a row of a table. `tests/losses/test_laws.py` puts it through every law.

A new loss adds its row to the `ROWS` of its family, in the file `laws_FAMILY.py` beside this one.
The oracle is written from the paper, in NumPy, float64, without kdcourse.
"""

import dataclasses
from collections.abc import Callable

import torch

from kdcourse import data


def randn(*shape, seed=0, scale=1.0):
    """Reproducible float64 numbers."""
    return scale * torch.randn(shape, generator=data.generator(seed), dtype=torch.float64)


def logits(B=5, seed=0, K=7):
    """Logits of a student and a teacher, and labels."""
    return randn(B, K, seed=seed + 1, scale=2), randn(B, K, seed=seed + 2, scale=2), (
        torch.arange(B) % K)


@dataclasses.dataclass
class Law:
    """One function of `kdcourse.losses` in one setting.

    function: its name in `kdcourse.losses`; setting: what is special about this row.
    call(student, teacher, labels): the loss, a scalar.
    oracle(student, teacher, labels): the same on float64 arrays; [B] where `values` is given, else
        one number. Arguments that are tuples of tensors come as tuples of arrays.
    example(B, seed): student, teacher, labels for it, in float64; small, as slopes are measured.
    term(): the thin module, which on the same tensors gives the same number (None: another row
        has it). For a term that makes something to train, say so in `projects`.
    values(student, teacher, labels): one loss per sample [B]; None for a relation.
    equal(teacher): the student at which the loss and its gradient are 0; None: not a matching loss.
    least: how many samples it needs.
    kind: "logits" or "features": which extremes it is shown.
    uses_teacher: False for losses of the labels.
    classes: True where the order of the classes does not matter.
    tempered(T): the same loss at temperature T, where it includes T².
    masked: what a class does that both sides rule out (logit -inf): it "adds 0", as if it were not
        there; "counts" as a class of probability 0; "inf", as the targets give it a share; or
        "no", which asks for finite logits.
    """

    function: str
    setting: str
    call: Callable
    oracle: Callable
    example: Callable = logits
    term: Callable | None = None
    values: Callable | None = None
    equal: Callable | None = None
    least: int = 1
    kind: str = "logits"
    uses_teacher: bool = True
    classes: bool = False
    tempered: Callable | None = None
    projects: bool = False
    masked: str = "adds 0"
    rtol: float = 1e-9

    def __str__(self):
        return f"{self.function}, {self.setting}" if self.setting else self.function


def each(function, x):
    """`function` of a tensor, or of every tensor in a tuple."""
    if isinstance(x, tuple | list):
        return tuple(each(function, part) for part in x)
    return function(x) if isinstance(x, torch.Tensor) else x


def tensors(x) -> list[torch.Tensor]:
    """The tensors in a tensor or a tuple."""
    return [x] if isinstance(x, torch.Tensor) else [t for part in x for t in tensors(part)]
