"""Activation boundaries. B batch, C channels, H W height and width."""

import math

import torch  # noqa: F401 - for the example
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import on_one_grid, projected


def activation_boundaries(student, teacher, margin: float = 1.0, reduction: str = "mean"):
    r"""Compute the squared hinge loss that puts the student on the teacher's side of each ReLU.

    .. math:: L = \sum_i \begin{cases}
            \max(0, \mu - s_i)^2 & \text{if } t_i > 0 \\
            \max(0, \mu + s_i)^2 & \text{otherwise}
        \end{cases}

    Heo et al. 2019 (AAAI, arXiv:1811.03233), section 3: a neuron's sign decides whether its ReLU is
    active; how large the teacher's value is does not count. Summed over the elements of a sample.
    Raises `ValueError` for shapes that do not fit and for a margin that is not above 0.

    student, teacher: features before the ReLU, of one shape: [B, D], [B, N, D] or [B, C, H, W].
    margin: :math:`\mu`; 1 in the authors' code.

    >>> student, teacher = torch.tensor([[2.0, 0.5, 0.5]]), torch.tensor([[9.0, 9.0, -9.0]])
    >>> activation_boundaries(student, teacher)  # 0 + 0.5² + 1.5²
    tensor(2.5000)
    """
    _check_margin(margin)
    student, teacher = inputs.features_pair(student, teacher, 2, 3, 4)
    short = (margin - student.where(teacher > 0, -student)).clamp(min=0)
    short = short.masked_fill(teacher.isnan(), math.nan)  # which has no sign
    return inputs.reduce(short.square().flatten(1).sum(1), reduction)


class AB(FeatureLoss):
    """Match which neurons are active: `activation_boundaries`. Trains a 1x1 convolution with batch
    normalisation on the student's map. Of two maps of different size, the larger is averaged down.

    student, teacher: paths of what goes *into* a ReLU, as for `OFD`.
    margin: as for `activation_boundaries`.

    The paper has it as a first stage of training, alone: the student starts with it, and is then
    trained with the labels or with KD, without it.

    Published weight: 0.003 for the last layer and half of that for each layer before it, for
    WRN-22-4 to WRN-16-2 on CIFAR-10 at batch 128 (bhheo/AB_distillation,
    cifar10_AB_distillation.py): `3e-3 * AB(...) + 1.5e-3 * AB(...) + ...`. RepDistiller trains the
    first stage for 30 epochs on CIFAR-100 at batch 64 (helper/pretrain.py).
    """

    def __init__(self, student=None, teacher=None, *, margin: float = 1.0):
        _check_margin(margin)
        super().__init__(student, teacher, margin=margin)
        self.connector: nn.Module | None = None

    def build(self, student, teacher, seed):
        student, teacher = inputs.one_batch(*self.pick(student, teacher), 4)
        if self.connector is None:
            channels, outputs = student.shape[1], teacher.shape[1]
            self.connector = self.seeded(seed, student, lambda: nn.Sequential(
                nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs)))

    def values(self, student, teacher=None, labels=None):
        student, teacher = inputs.one_batch(student, teacher, 4)
        student, teacher = on_one_grid(projected(student, self.connector), teacher)
        return activation_boundaries(student, teacher, self.margin, "none")


def _check_margin(margin) -> None:
    inputs.check(0 < margin < math.inf, "a margin above 0", margin, "The authors' code takes 1.")
