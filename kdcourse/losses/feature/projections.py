"""What losses on inner tensors share: two sides on one grid, and the layers that project.

B batch, C channels, H W height and width, N tokens, D features.
"""

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse.losses import inputs


def on_one_grid(first_BCHW, second_BCHW, pool=F.adaptive_avg_pool2d):
    """Average (or `pool`) two maps to the smaller height and the smaller width of the two."""
    size = tuple(map(min, first_BCHW.shape[2:], second_BCHW.shape[2:]))
    return tuple(x if x.shape[2:] == size else pool(x, size) for x in (first_BCHW, second_BCHW))


def comparable_pair(student, teacher) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring features into shapes to compare place by place; the teacher's without a gradient.

    Two vectors, two maps, and two sequences of one length stay as they are. Otherwise tokens are
    laid out as a map (`inputs.maps`).
    """
    student, teacher = inputs.one_batch(student, teacher, 2, 3, 4)
    if (student.ndim == 2) != (teacher.ndim == 2):
        raise inputs.shape_error(
            "features that are both vectors [B, D], or both maps or tokens", student, teacher,
            "Tap other modules, or average the map over its places first.")
    if student.ndim == teacher.ndim != 4 and (
            student.ndim == 2 or student.shape[1] == teacher.shape[1]):
        return student, teacher
    return inputs.maps(student, teacher)


def maps_pair(student, teacher) -> tuple[torch.Tensor, torch.Tensor]:
    """Give both sides as maps [B, C, H, W] (`inputs.maps`); the teacher's without a gradient."""
    student, teacher = inputs.one_batch(student, teacher, 3, 4)
    return inputs.maps(student, teacher)


def width(x) -> int:
    """Give the number of a map's channels, or of a token's or vector's features."""
    return x.shape[1 if x.ndim == 4 else -1]


def layer(ndim: int, channels: int, outputs: int, kernel=1, bias: bool = True) -> nn.Module:
    """Make a layer to `outputs` channels: a convolution for maps (ndim 4), else a linear layer."""
    if ndim == 4:
        return nn.Conv2d(channels, outputs, kernel, bias=bias)
    return nn.Linear(channels, outputs, bias=bias)


@inputs.full_precision
def projected(x, layer, *more) -> torch.Tensor:
    """Compute `layer(x, *more)` in float32 at least. Raises where `layer` is None."""
    if layer is None:
        raise ValueError("Expected build() to be called first, got a term without its projection. "
                         "A scheme does it in scheme.build; in your own loop call "
                         "term.build(student, teacher, seed) with the first batch, before the "
                         "optimiser is made.")
    return layer(inputs.floats(x), *more)
