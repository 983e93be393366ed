"""Hints (FitNets). B batch, C channels, H W height and width, N tokens, D features."""

import math

import torch  # noqa: F401 - for the example
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature import projections

VARIANTS = ("paper", "mean")
LARGEST = 20_000_000  # weights of a regressor; the authors' have some hundred thousand


def hint(student, teacher, variant: str = "mean", reduction: str = "mean"):
    r"""Compute half the squared distance between the student's features and the teacher's.

    .. math:: L = \tfrac12 \lVert u_h - r \rVert_2^2 = \tfrac12 \sum_i (u_{h,i} - r_i)^2

    Romero et al. 2015 (FitNets, arXiv:1412.6550), equation 3: :math:`u_h` is the teacher's hint,
    :math:`r` the student's layer behind a regressor (`Hint`). Raises `ValueError` for shapes that
    do not fit and for another variant.

    student, teacher: features of one shape, [B, D], [B, N, D] or [B, C, H, W].
    variant: "mean", which most code runs: the mean of the squared differences over all elements,
        without the half. Published weights belong to it: `Hint`. "paper" is the sum above. (The
        authors' code keeps the half, sums over the channels and averages over the places.)

    >>> student, teacher = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.0, 5.0, 0.0]])
    >>> hint(student, teacher), hint(student, teacher, variant="paper")  # 3² / 3, and 3² / 2
    (tensor(3.), tensor(4.5000))
    """
    inputs.check_choice("variant", variant, VARIANTS)
    student, teacher = inputs.features_pair(student, teacher, 2, 3, 4)
    square = (student - teacher).square().flatten(1)
    return inputs.reduce(square.sum(1) / 2 if variant == "paper" else square.mean(1), reduction)


class Hint(FeatureLoss):
    """Match features behind a regressor, which is trained along: `hint`.

    projection: "paper" is a linear regressor to the teacher's width; for maps a convolution without
        padding, with a kernel that takes the student's larger map to the size of the teacher's. A
        smaller one, which the authors' code refuses, gets the teacher's map averaged down to it.
        "1x1" averages the larger map down first, and needs far fewer weights. "code" is the
        regressor of the FitNet rows in published tables, for maps and tokens: a convolution, batch
        normalisation and a ReLU. The kernel is 3 with stride 2 where the student's map is twice as
        large; a transposed one of 4 with stride 2 where it is half as large; otherwise as in
        "paper". None trains nothing and needs equal shapes. A kernel of more than 20 million
        weights is refused with `ValueError`, in `build`.

    Takes vectors [B, D], tokens [B, N, D] and maps [B, C, H, W]; tokens beside a map, or beside a
    sequence of another length, are laid out on their grid. The authors give the regressor the
    teacher's non-linearity. Here it is linear, but for "code": tap both sides before the ReLU, and
    for "code" the teacher behind it.

    Published weight: 100, with 1 for the labels, with "code" at the second of three stages, for all
    pairs on CIFAR-100 at batch 64 (RepDistiller, scripts/run_cifar_distill.sh, models/util.py;
    mdistiller, mdistiller/engine/cfg.py). With variant "paper" that is 200 / (C H W) for the
    teacher's map: 0.0061 for 128 x 16 x 16. The paper itself has no weight: it trains on the hint
    alone first, up to that layer, and on the outputs afterwards.
    """

    takes = "places"
    edition = 2

    def __init__(self, student=None, teacher=None, *, projection: str | None = "paper",
                 variant: str = "mean"):
        inputs.check_choice("projection", projection, ("paper", "1x1", "code", None))
        inputs.check_choice("variant", variant, VARIANTS)
        super().__init__(student, teacher, projection=projection, variant=variant)
        self.regressor: nn.Module | None = None

    def build(self, student, teacher, seed):
        student, teacher = self.aligned(*self.pick(student, teacher))
        if self.projection is None:
            hint(student, teacher)  # raises where the shapes do not fit
        elif self.regressor is None and self.projection == "code":
            self.regressor = self.seeded(seed, student, lambda: _regressor(student, teacher))
        elif self.regressor is None:
            kernel = _kernel(student, teacher)
            self.regressor = self.seeded(seed, student, lambda: projections.layer(
                student.ndim, projections.width(student), projections.width(teacher), kernel))

    def values(self, student, teacher=None, labels=None):
        student, teacher = self.aligned(student, teacher)
        if self.projection is not None:
            student = projections.projected(student, self.regressor)
        return hint(student, teacher, self.variant, "none")

    def aligned(self, student, teacher):
        """Give both sides as the regressor takes them: the teacher's map is not the larger one,
        but for "code"."""
        if self.projection == "code":
            return projections.maps_pair(student, teacher)
        student, teacher = projections.comparable_pair(student, teacher)
        if student.ndim < 4 or self.projection is None:
            return student, teacher
        pooled, teacher = projections.on_one_grid(student, teacher)
        return (pooled if self.projection == "1x1" else student), teacher


def _regressor(student, teacher) -> nn.Module:
    """Make the regressor "code", from the student's map to the teacher's shape."""
    channels, outputs = student.shape[1], teacher.shape[1]
    sizes = list(zip(student.shape[2:], teacher.shape[2:]))
    if all(s == 2 * t for s, t in sizes):
        layer = nn.Conv2d(channels, outputs, 3, stride=2, padding=1)
    elif all(2 * s == t for s, t in sizes):
        layer = nn.ConvTranspose2d(channels, outputs, 4, stride=2, padding=1)
    elif all(s >= t for s, t in sizes):
        layer = nn.Conv2d(channels, outputs, _kernel(student, teacher))
    else:
        raise inputs.shape_error("maps of which the student's is at least as large, or half as "
                                 "large", student, teacher, 'Use projection="paper" or "1x1".')
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def _kernel(student, teacher) -> list[int]:
    """Give the kernel that takes the student's map to the teacher's size."""
    kernel = [s - t + 1 for s, t in zip(student.shape[2:], teacher.shape[2:])]
    weights = projections.width(student) * projections.width(teacher) * math.prod(kernel)
    if weights > LARGEST:
        raise ValueError(f"Expected a regressor of at most {LARGEST // 10**6} million weights, got "
                         f"{weights / 1e6:.0f} million, from {list(student.shape)} to "
                         f"{list(teacher.shape)}: a map that much larger needs as large a kernel. "
                         'Use projection="1x1", or tap layers of nearly one size.')
    return kernel
