"""Attention transfer. B batch, C channels, H W height and width, N tokens, D features."""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import maps_pair, on_one_grid
from kdcourse.losses.numerics import root, scaled, unit


@inputs.full_precision
def attention_transfer(student, teacher, p: float = 2.0, variant: str = "code",
                       reduction: str = "mean"):
    r"""Compute the distance between both sides' attention maps, each divided by its length.

    .. math:: L = \left\lVert \frac{Q_S}{\lVert Q_S \rVert_2} - \frac{Q_T}{\lVert Q_T \rVert_2}
            \right\rVert_2, \qquad Q = \mathrm{vec}\Big(\sum_c |A_c|^p\Big)

    Zagoruyko & Komodakis 2017 (arXiv:1612.03928), section 3.1, equations 1 and 2, for the channels
    c of a layer A. A layer that is 0 everywhere gets no gradient. Raises `ValueError` for shapes
    that do not fit and for settings out of range.

    student, teacher: maps [B, C, H, W], or tokens [B, N, D], laid out on their grid without class
        tokens; of two grids, the larger attention map is averaged down.
    p: the power, at least 1; the paper's experiments use 2. (mdistiller takes it of A, not of its
        absolute value: another loss for odd p in front of a ReLU.)
    variant: "code", as in the authors' PyTorch code (szagoruyko/attention-transfer, utils.py): L²
        divided by H W. Published weights belong to it: `AT`. (Of two grids, other code averages the
        activations, not the attention maps.) "paper" is L as above, between 0 and √2.

    >>> student = torch.tensor([[[[3.0, 0.0]]]])  # one channel, active on the left
    >>> teacher = torch.tensor([[[[0.0, 1.0]], [[0.0, 2.0]]]])  # two, active on the right
    >>> attention_transfer(student, teacher, variant="paper")  # at a right angle: √2
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
    """Match where a layer is active: `attention_transfer`. Trains nothing of its own.

    Published weight: 1000 for each of the layers (the ends of the three or four stages), with 1 for
    the labels: for wide ResNets on CIFAR-10 at batch 128 and ResNet-34 to ResNet-18 on ImageNet at
    batch 256 (szagoruyko/attention-transfer, README.md, `--beta 1e+3`), and for all pairs on
    CIFAR-100 at batch 64 (RepDistiller, scripts/run_cifar_distill.sh).

    With variant "paper" no number does the same. The paper adds β/2 times the sum over the batch
    for each layer, β "about 0.1": 1000 divided by the number of elements of the attention map and
    by the batch size. For the mean over the batch, as here, that is the weight 1000 / (2 H W).
    """

    takes = "maps"
    edition = 2

    def __init__(self, student=None, teacher=None, *, p: float = 2.0, variant: str = "code"):
        _check_settings(p, variant)
        super().__init__(student, teacher, p=p, variant=variant)


def _check_settings(p, variant) -> None:
    inputs.check_choice("variant", variant, ("paper", "code"))
    inputs.check(1 <= p < float("inf"), "a power p of at least 1", p, "The paper uses 2.")
