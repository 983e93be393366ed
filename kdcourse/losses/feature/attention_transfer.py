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

    Zagoruyko & Komodakis 2017, "Paying More Attention to Attention", section 3.1, equations 1 and 2
    (arXiv:1612.03928): the attention map of a layer A sums :math:`|A|^p` over its channels. The
    channels may differ in number, and the scale of a layer does not matter. A value lies between 0
    and the square root of 2, per sample. The paper adds :math:`\beta/2` times the sum of
    this over the batch for each layer, with :math:`\beta = 1000 / (B H W)`: a weight of
    :math:`1000 / (2 H W)` for the mean over the batch, which this is.

    student, teacher: maps [B, C, H, W], or tokens [B, N, D], laid out on their grid without class
        tokens. No gradient reaches the teacher. Of two attention maps of different size, the larger
        is averaged down. (The paper takes equal sizes; RepDistiller averages the activations.)
    p: the power, at least 1; the paper's experiments use 2. Larger means that peaks count more.
    variant: "paper", the distance itself. "code" is what the authors' PyTorch code minimises: the
        mean over the H W places of the squared differences, so the paper's value squared, over H W.
        Weights near 1000 belong to that one. (A question about the difference is open: issue 34 of
        szagoruyko/attention-transfer.)
    reduction: "mean", or "none" for one value per sample, [B].

    Both variants are exactly 0 where the directions are equal. There the paper's distance has a
    kink, and its gradient is set to 0. A layer that is 0 everywhere has the direction 0, with a
    gradient of 0. Raises `ValueError` for features that are neither maps nor tokens on a square
    grid, for two batch sizes, for p below 1 and for an unknown variant.

    >>> student = torch.tensor([[[[3.0, 0.0]]]])  # one channel that looks to the left
    >>> teacher = torch.tensor([[[[0.0, 1.0]], [[0.0, 2.0]]]])  # two that look to the right
    >>> attention_transfer(student, teacher)  # at a right angle: the square root of 2
    tensor(1.4142)
    >>> attention_transfer(student, teacher, variant="code")  # 2 / (2 places)
    tensor(1.)
    """
    _check_settings(p, variant)
    maps = on_one_grid(*(_attention(x, p) for x in maps_pair(student, teacher)))
    student_BN, teacher_BN = (unit(x.flatten(1)) for x in maps)
    square = (student_BN - teacher_BN).square()
    return inputs.reduce(root(square.sum(1)) if variant == "paper" else square.mean(1), reduction)


def _attention(x_BCHW, p) -> torch.Tensor:
    """Sum |x|^p over the channels, [B, 1, H, W], up to a factor per sample."""
    return scaled(x_BCHW, (1, 2, 3)).abs().pow(p).sum(1, keepdim=True)


class AT(FeatureLoss, function=attention_transfer):
    """Attend to the teacher's places: `attention_transfer`. Trains nothing of its own."""

    def __init__(self, student=None, teacher=None, *, p: float = 2.0, variant: str = "paper"):
        _check_settings(p, variant)
        super().__init__(student, teacher, p=p, variant=variant)


def _check_settings(p, variant) -> None:
    inputs.check_choice("variant", variant, ("paper", "code"))
    if not 1 <= p < float("inf"):
        raise ValueError(f"Expected a power p of at least 1, got {p}. The paper uses 2.")
