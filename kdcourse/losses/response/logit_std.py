"""Logit standardization: `kd` of z-scores. B batch, K classes; z, v: logits of both sides."""

import math

import torch

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss
from kdcourse.losses.numerics import centred_unit
from kdcourse.losses.response.hinton import kd

VARIANTS = ("paper", "code")


def logit_standardization(student_BK, teacher_BK, T: float = 2.0, variant: str = "paper",
                          reduction: str = "mean"):
    r"""Compute `kd` of logits with mean 0 and standard deviation 1 in each sample.

    .. math:: L = T^2\,\mathrm{KL}\!\left( \mathrm{softmax}(\tilde v / T) \,\|\,
        \mathrm{softmax}(\tilde z / T) \right), \qquad
        \tilde z = \frac{z - \bar z}{\sigma(z)}

    Sun et al. 2024 (arXiv:2403.01427), algorithms 1 and 2. The gradient is divided by the student's
    σ, so weights are larger than for `kd`; the paper's best is 9, next to 0.1 for the labels. `dkd`
    and `mlkd` take the same z-scores by their setting `standardize`. Equal logits, and two classes
    (always +1 and -1), get no gradient. Raises `ValueError` for T <= 0, another variant and logits
    that are not [B, K], of one shape.

    student_BK, teacher_BK: finite logits [B, K] (leave out classes that are ruled out).
    T: the base temperature, above 0.
    variant: "paper" divides the variance by K, "code" (the authors') by K - 1.

    >>> s, t = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[10.0, 30.0, 50.0]])
    >>> logit_standardization(s, t)  # evenly spaced, both
    tensor(0.)
    """
    _check_settings(T, variant)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    return kd(z_scores(student_BK, variant), z_scores(teacher_BK, variant), T, reduction)


def z_scores(x_BK, variant: str | None) -> torch.Tensor:
    """Give logits mean 0 and standard deviation 1 in each sample; for None leave them as they are.
    Equal logits become 0, without a gradient."""
    if variant is None:
        return x_BK
    K = x_BK.shape[1]
    return math.sqrt(K if variant == "paper" else K - 1) * centred_unit(x_BK, 1)[0]


class LogitStd(Loss, function=logit_standardization):
    """Match softened z-scores of the logits: `logit_standardization`. T² is included.

    Published weight, for variant "code" and at T = 2: 9 with 0.1 for the labels, for ResNet-32x4 to
    ResNet-8x4 on CIFAR-100 at batch 64; 9 with 1 for the labels, for ResNet-34 to ResNet-18 on
    ImageNet at batch 512 (sunshangquan/logit-standardization-KD, README.md and the files of
    configs/ that it names). With "paper" the same weight is within 1 % for 100 classes.
    """

    def __init__(self, T: float = 2.0, variant: str = "paper", student=None, teacher=None):
        _check_settings(T, variant)
        super().__init__(student, teacher, T=T, variant=variant)


def check_standardize(variant: str | None) -> None:
    """Raise unless `variant` is one of `z_scores`, for the settings of other losses."""
    if variant not in (None, *VARIANTS):
        raise ValueError(f'Expected standardize None, "paper" or "code", got {variant!r}.')


def _check_settings(T, variant) -> None:
    inputs.check_temperature(T)
    inputs.check_choice("variant", variant, VARIANTS)
