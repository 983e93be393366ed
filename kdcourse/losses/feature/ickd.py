"""Inter-channel correlation. B batch, C channels, H W height and width, N tokens, D features."""

import torch
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import maps_pair, projected
from kdcourse.losses.numerics import scaled, unit


@inputs.full_precision
def channel_correlation(student, teacher, reduction: str = "mean"):
    r"""Compare how the channels of a layer correlate, as a matrix with rows of length 1.

    .. math:: L = \frac{1}{C} \lVert G^S - G^T \rVert_F^2, \qquad
        G_{[c,:]} = \frac{\tilde G_{[c,:]}}{\lVert \tilde G_{[c,:]} \rVert_2}, \quad
        \tilde G_{cd} = \sum_i F_{ci} F_{di}

    Liu et al. 2021 (ICKD, arXiv:2202.03680), section 3, as in the authors' code, which divides the
    rows by their length. Between 0 and 4. A channel that is 0 everywhere gets no gradient. Raises
    `ValueError` for shapes that do not fit.

    student, teacher: maps [B, C, H, W], or tokens [B, N, D], laid out on their grid without class
        tokens; of as many channels and of any two sizes.

    >>> student = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # apart: rows (1, 0), (0, 1)
    >>> teacher = torch.tensor([[[[1.0]], [[1.0]]]])  # the same twice: rows (√½, √½)
    >>> channel_correlation(student, teacher)  # 2 ((1 - √½)² + ½) / 2 = 2 - √2
    tensor(0.5858)
    """
    student, teacher = maps_pair(student, teacher)
    if student.shape[1] != teacher.shape[1]:
        raise inputs.shape_error("with as many channels", student, teacher,
                                 "ICKD trains a layer that gives the student the teacher's.")
    difference = _correlation_rows(student.flatten(2)) - _correlation_rows(teacher.flatten(2))
    return inputs.reduce(difference.square().sum((1, 2)) / student.shape[1], reduction)


def _correlation_rows(x_BCN) -> torch.Tensor:
    x_BCN = scaled(x_BCN, (1, 2))
    return unit(x_BCN @ x_BCN.transpose(1, 2))


class ICKD(FeatureLoss):
    """Match the correlations between channels: `channel_correlation`. Trains a 1x1 convolution with
    batch normalisation on the student's map, to as many channels as the teacher's.

    Published weight: 4, with 1 for the labels, at the last map before the average pooling, for
    ResNet-32x4 to ResNet-8x4 on CIFAR-100 at batch 64 (ADLab-AutoDrive/ICKD,
    Cifar100/train_student.sh, `-b 4`).
    """

    def __init__(self, student=None, teacher=None):
        super().__init__(student, teacher)
        self.connector: nn.Module | None = None

    def build(self, student, teacher, seed):
        student, teacher = maps_pair(*self.pick(student, teacher))
        if self.connector is None:
            channels, outputs = student.shape[1], teacher.shape[1]
            self.connector = self.seeded(seed, student, lambda: nn.Sequential(
                nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs)))

    def values(self, student, teacher=None, labels=None):
        student, teacher = maps_pair(student, teacher)
        return channel_correlation(projected(student, self.connector), teacher, "none")
