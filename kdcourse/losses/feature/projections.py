"""What losses on inner tensors share: two sides on one grid, directions, and the layers between.

Shapes: B batch, C channels, H W height and width, N tokens, D features.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse.losses import inputs


def pooled(x_BCHW, size) -> torch.Tensor:
    """The map averaged down to `size`, (H, W). A map of that size stays as it is."""
    size = tuple(size)
    return x_BCHW if x_BCHW.shape[2:] == size else F.adaptive_avg_pool2d(x_BCHW, size)


def on_one_grid(student_BCHW, teacher_BCHW) -> tuple[torch.Tensor, torch.Tensor]:
    """Both maps on the smaller height and the smaller width of the two: the larger is averaged.

    >>> [x.shape for x in on_one_grid(torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4))]
    [torch.Size([2, 8, 4, 4]), torch.Size([2, 16, 4, 4])]
    """
    ours, theirs = student_BCHW.shape[2:], teacher_BCHW.shape[2:]
    size = [min(a, b) for a, b in zip(ours, theirs, strict=True)]
    return pooled(student_BCHW, size), pooled(teacher_BCHW, size)


def of_one_kind(student, teacher) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that can be compared place by place; the teacher's without a gradient.

    Two vectors, two maps, and two sequences of one length stay as they are. Otherwise tokens are
    laid out as a map (`inputs.as_map`): so a transformer meets a convolutional network, and a
    sequence with a class token one without.

    >>> [x.shape for x in of_one_kind(torch.zeros(2, 17, 8), torch.zeros(2, 16, 4, 4))]
    [torch.Size([2, 8, 4, 4]), torch.Size([2, 16, 4, 4])]
    """
    student = inputs.features(student, "student", 2, 3, 4)
    teacher = inputs.features(teacher, "teacher", 2, 3, 4).detach()
    _one_batch(student, teacher)
    if (student.ndim == 2) != (teacher.ndim == 2):
        raise ValueError(
            "Expected student and teacher features that are both vectors [B, D], or both maps or "
            f"tokens, got {list(student.shape)} and {list(teacher.shape)}. Tap other modules, or "
            "average the map over its places first."
        )
    if student.ndim == teacher.ndim and (student.ndim != 3 or student.shape[1] == teacher.shape[1]):
        return student, teacher
    return inputs.as_map(student, "student"), inputs.as_map(teacher, "teacher")


def maps_of(student, teacher) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sides as maps [B, C, H, W]; the teacher's without a gradient. Tokens [B, N, D] are laid
    out on their grid (`inputs.as_map`)."""
    student = inputs.features(student, "student", 3, 4)
    teacher = inputs.features(teacher, "teacher", 3, 4).detach()
    _one_batch(student, teacher)
    return inputs.as_map(student, "student"), inputs.as_map(teacher, "teacher")


def unit(x, dim=-1) -> torch.Tensor:
    """The direction of x along `dim` (one or several): x divided by its length, for any size of x.

    What is 0 (below 1e-30 in float32) has no direction: it stays 0, and its gradient is 0.

    >>> unit(torch.tensor([[3.0, 4.0], [3e-25, 4e-25], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    x = scaled(x, dim)
    square = x.square().sum(dim, keepdim=True)
    return x * torch.where(square > 0, square, 1).rsqrt()


def scaled(x, dim) -> torch.Tensor:
    """x with 1 as its largest absolute value along `dim`, so that no power of it leaves float32.

    For what does not depend on the scale of x: the divisor counts as a constant.
    """
    top = x.detach().abs().amax(dim, keepdim=True)
    return x / torch.where(top > 1e-30, top, math.inf)


def root(square) -> torch.Tensor:
    """The square root; at 0 its gradient is 0 instead of infinite."""
    return torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)


@inputs.full_precision
def projected(x, layer) -> torch.Tensor:
    """`layer(x)` in float32 at least, also under autocast; raises where `layer` is still None."""
    if layer is None:
        raise ValueError("Expected build() to be called first, got a term without its projection. "
                         "A scheme does it in scheme.build; in your own loop call "
                         "term.build(student, teacher, seed) with the first batch, before the "
                         "optimiser is made.")
    return layer(inputs.floats(x))


def between(inputs_: int, outputs: int, ndim: int, kernel=1, bias: bool = True) -> nn.Module:
    """A layer from `inputs_` to `outputs` channels: a convolution for maps (ndim 4), a linear
    layer for tokens and vectors."""
    if ndim == 4:
        return nn.Conv2d(inputs_, outputs, kernel, bias=bias)
    return nn.Linear(inputs_, outputs, bias=bias)


def _one_batch(student, teacher) -> None:
    if len(student) != len(teacher):
        raise ValueError(f"Expected student and teacher features of one batch, got "
                         f"{list(student.shape)} and {list(teacher.shape)}.")
