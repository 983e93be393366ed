"""Attention transfer. B batch, C channels, H W height and width, N tokens, D features."""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import maps_pair, on_one_grid
from kdcourse.losses.numerics import root, scaled, unit


@inputs.full_precision
def attention_transfer(student, teacher, p: float = 2.0, variant: str = "paper",
                       reduction: str = "mean"):
    r"""Compute the distance between both sides' attention maps, each divided by its length.

    .. math:: L = \left\lVert \frac{Q_S}{\lVert Q_S \rVert_2} - \frac{Q_T}{\lVert Q_T \rVert_2}
            \right\rVert_2, \qquad Q = \mathrm{vec}\Big(\sum_c |A_c|^p\Big)

    Zagoruyko & Komodakis 2017 (arXiv:1612.03928), section 3.1, equations 1 and 2, for the channels
    c of a layer A. Between 0 and √2. The paper adds :math:`\beta/2` times the sum of this over the
    batch for each layer, :math:`\beta = 1000 / (B H W)`: a weight of 1000 / (2 H W) for the mean. A
    layer that is 0 everywhere gets no gradient. Raises `ValueError` for shapes that do not fit and
    for settings out of range.

    student, teacher: maps [B, C, H, W], or tokens [B, N, D], laid out on their grid without class
        tokens; of two grids, the larger attention map is averaged down.
    p: the power, at least 1; the paper's experiments use 2.
    variant: "paper", or "code" as in the authors' PyTorch code: the paper's value squared, divided
        by H W; for weights near 1000.

    >>> student = torch.tensor([[[[3.0, 0.0]]]])  # one channel, active on the left
    >>> teacher = torch.tensor([[[[0.0, 1.0]], [[0.0, 2.0]]]])  # two, active on the right
    >>> attention_transfer(student, teacher)  # at a right angle: the square root of 2
    tensor(1.4142)
    """
    _check_settings(p, variant)
    maps = on_one_grid(*(_attention(x, p) for x in maps_pair(student, teacher)))
    student_BN, teacher_BN = (unit(x.flatten(1)) for x in maps)
    square = (student_BN - teacher_BN).square()
    return inputs.reduce(root(square.sum(1)) if variant == "paper" else square.mean(1), reduction)


def _attention(x_BCHW, p) -> torch.Tensor:
    """Sum |x|^p over the channels, [B, 1, H, W], up to a factor for each sample."""
    return scaled(x_BCHW, (1, 2, 3)).abs().pow(p).sum(1, keepdim=True)


class AT(FeatureLoss, function=attention_transfer):
    """Match where a layer is active: `attention_transfer`. Trains nothing of its own."""

    takes = "maps"

    def __init__(self, student=None, teacher=None, *, p: float = 2.0, variant: str = "paper"):
        _check_settings(p, variant)
        super().__init__(student, teacher, p=p, variant=variant)


def _check_settings(p, variant) -> None:
    inputs.check_choice("variant", variant, ("paper", "code"))
    inputs.check(1 <= p < float("inf"), "a power p of at least 1", p, "The paper uses 2.")
