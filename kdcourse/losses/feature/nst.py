"""Neuron selectivity transfer. B batch, C D channels, H W height and width, N places."""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import maps_pair, on_one_grid
from kdcourse.losses.numerics import unit

KERNELS = ("poly", "linear", "gaussian")


@inputs.full_precision
def nst(student, teacher, kernel: str = "poly", reduction: str = "mean"):
    r"""Compute the squared maximum mean discrepancy (MMD) between both sides' channel patterns.

    .. math:: L = \frac{1}{C_T^2} \sum_{i,i'} k(t_i, t_{i'})
        + \frac{1}{C_S^2} \sum_{j,j'} k(s_j, s_{j'}) - \frac{2}{C_T C_S} \sum_{i,j} k(t_i, s_j)

    Huang & Wang 2017 (arXiv:1707.01219), section 4. A point :math:`t_i` (or :math:`s_j`) is a
    channel of one sample, divided by its length. The official code leaves out the first sum, a
    constant for the student. A channel of 0 gets no gradient. Raises `ValueError` for shapes that
    do not fit and for another kernel.

    student, teacher: maps [B, C, H, W], or tokens [B, N, D], laid out on their grid without class
        tokens. Of two grids, the larger is averaged down.
    kernel: "linear", x·y; "poly", (x·y)², the paper's :math:`(x \cdot y + c)^d` with d=2 and c=0;
        "gaussian", :math:`\exp(-\lVert x - y \rVert^2 / 2\sigma^2)` with :math:`\sigma^2` the mean
        squared distance of a teacher's channel and a student's in this sample, at least 1e-4,
        through which the gradient goes too.

    >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]]]])
    >>> nst(left, torch.cat([left, right], 1), "linear")  # the means (1, 0) and (1/2, 1/2)
    tensor(0.5000)
    """
    inputs.check_choice("kernel", kernel, KERNELS)
    maps = on_one_grid(*maps_pair(student, teacher))
    dtype = torch.promote_types(*(x.dtype for x in maps))  # products are of one dtype
    student_BCN, teacher_BCN = (unit(x.to(dtype).flatten(2)) for x in maps)
    pairs = (teacher_BCN, teacher_BCN), (student_BCN, student_BCN), (teacher_BCN, student_BCN)
    if kernel == "gaussian":
        squares = [_squared_distances(a, b) for a, b in pairs]
        sigma2 = squares[2].mean((1, 2), keepdim=True).clamp(min=1e-4)  # far above rounding
        kernels = [(-square / (2 * sigma2)).exp() for square in squares]
    else:
        kernels = [a @ b.transpose(1, 2) for a, b in pairs]
        if kernel == "poly":
            kernels = [product.square() for product in kernels]
    tt, ss, ts = (k.mean((1, 2)) for k in kernels)
    return inputs.reduce(tt + ss - 2 * ts, reduction)


def _squared_distances(a_BCN, b_BDN) -> torch.Tensor:
    """Compute ||a_i - b_j||² of all pairs, [B, C, D], for points of length 1 or 0."""
    lengths = a_BCN.square().sum(2)[:, :, None] + b_BDN.square().sum(2)[:, None]
    return lengths - 2 * a_BCN @ b_BDN.transpose(1, 2)


class NST(FeatureLoss, function=nst):
    """Match the distribution of the channels' patterns: `nst`. Trains nothing of its own.

    Published weight, for "poly" and with 1 for the labels: 50, for ResNet-101 to Inception-BN on
    ImageNet at batch 512 (TuSimple/neuron-selectivity-transfer, config/cfgs.py), and for each of
    the three stages of all pairs on CIFAR-100 at batch 64 (RepDistiller,
    scripts/run_cifar_distill.sh). The paper writes λ/2 before the loss; neither code has the half.
    """

    takes = "maps"

    def __init__(self, student=None, teacher=None, *, kernel: str = "poly"):
        inputs.check_choice("kernel", kernel, KERNELS)
        super().__init__(student, teacher, kernel=kernel)
