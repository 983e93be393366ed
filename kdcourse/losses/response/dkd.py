"""Decoupled distillation. B batch, K classes; q, p: the softmax of student and teacher at T."""

import math

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss
from kdcourse.losses.numerics import kl
from kdcourse.losses.response.logit_std import check_standardize, z_scores


def dkd(student_BK, teacher_BK, labels, alpha: float = 1.0, beta: float = 8.0, T: float = 4.0,
        reduction: str = "mean", *, standardize: str | None = None):
    r"""Weigh two divergences: target against the rest, and the rest among themselves.

    .. math:: L = T^2 \left( \alpha\,\mathrm{KL}(b^p \,\|\, b^q)
        + \beta\,\mathrm{KL}(\hat p \,\|\, \hat q) \right), \quad
        b^p = (p_y,\ 1 - p_y), \quad \hat p_k = \frac{p_k}{1 - p_y} \ (k \ne y)

    Zhao et al. 2022 (arXiv:2203.08679), equation 8: TCKD (target class) and NCKD (the others). By
    equation 7 `kd` is TCKD + (1 - p_y) NCKD. T² is in the authors' code, which also has a warm-up.
    With 2 classes NCKD is 0. Classes that are ruled out (-inf) count as in `kd`. Raises
    `ValueError` for settings out of range and for shapes that do not match.

    student_BK, teacher_BK: logits [B, K]. labels: class numbers [B], the target classes.
    alpha, beta: weights of TCKD and NCKD, 0 or more, not both 0. In the authors' code beta depends
        on the pair of networks: `DKD`.
    T: temperature, above 0.
    standardize: None, or take z-scores of the logits first (Sun et al. 2024, arXiv:2403.01427), as
        in `logit_standardization`: "paper" divides the variance by K, "code" by K - 1. Needs
        finite logits. Their code multiplies alpha and beta by 9 and takes T = 2 for ResNet32x4 and
        ResNet8x4 on CIFAR-100, B = 64: `CE() + DKD(9, 72, 2, standardize="code")`.

    >>> s, t, y = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, math.log(2)]]), torch.tensor([2])
    >>> dkd(s, t, y, T=1)  # 1/2 against 1/3 for the target; the others agree: log(3 / sqrt 8)
    tensor(0.0589)
    """
    _check_settings(alpha, beta, T, standardize)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    if standardize:
        student_BK, teacher_BK = (z_scores(x, standardize) for x in (student_BK, teacher_BK))
    labels_B1 = inputs.class_numbers(student_BK, labels)[:, None]
    binary_q, others_q = _decoupled(student_BK / T, labels_B1)
    binary_p, others_p = _decoupled(teacher_BK / T, labels_B1)
    terms = ((alpha, binary_p, binary_q), (beta, others_p, others_q))
    values_B = sum(weight * kl(p, q) for weight, p, q in terms if weight)  # 0 times inf is NaN
    return inputs.reduce(T**2 * values_B, reduction)


class DKD(Loss):
    """Match the target class and the others, with a weight each: `dkd`. T² is included.

    Published weights, with 1 for the labels and alpha = 1: on CIFAR-100, T = 4 and batch 64, beta
    is 8 (teacher ResNet-32x4; ResNet-50 to MobileNetV2; WRN-40-2 to ShuffleNetV1), 6 (teacher
    VGG-13; WRN-40-2 to WRN-16-2 and WRN-40-1) or 2 (ResNet-56 to ResNet-20, ResNet-110 to
    ResNet-32), raised from 0 over the first 20 of 240 epochs (megvii-research/mdistiller,
    configs/cifar100/dkd/). On ImageNet at T = 1 and batch 512 beta is 0.5 (ResNet-34 to ResNet-18)
    or 2 (ResNet-50 to MobileNetV1), over 1 epoch (configs/imagenet/); the paper's results there had
    alpha = 0.5, as an author says in issue 32.
    """

    omitted = ("standardize",)

    needs_labels = True

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, T: float = 4.0,
                 student=None, teacher=None, *, standardize: str | None = None):
        _check_settings(alpha, beta, T, standardize)
        super().__init__(student, teacher, alpha=alpha, beta=beta, T=T, standardize=standardize)

    def values(self, student, teacher=None, labels=None):
        return dkd(student, teacher, labels, **self.settings(), reduction="none")


def _check_settings(alpha, beta, T, standardize) -> None:
    inputs.check_weights(alpha=alpha, beta=beta)
    inputs.check_temperature(T)
    check_standardize(standardize)


def other_classes(scaled_BK, labels_B1):
    """Give the logits with -inf at the label, and a mask [B, 1]: True where all others are -inf,
    too. There they are 0, as a log-softmax of -inf alone is NaN."""
    is_label = torch.arange(scaled_BK.shape[1], device=scaled_BK.device) == labels_B1
    others = scaled_BK.masked_fill(is_label, -math.inf)
    empty_B1 = (others == -math.inf).all(1, keepdim=True)
    return others.masked_fill(empty_B1, 0), empty_B1


def _decoupled(scaled_BK, labels_B1):
    """Give log-probabilities: of the label against all others [B, 2]; of the others [B, K]."""
    others, empty_B1 = other_classes(scaled_BK, labels_B1)
    sum_B1 = others.logsumexp(1, keepdim=True).masked_fill(empty_B1, -math.inf)
    binary_B2 = torch.cat([scaled_BK.gather(1, labels_B1), sum_B1], 1)
    return (F.log_softmax(binary_B2, dim=1),
            F.log_softmax(others, dim=1).masked_fill(empty_B1, -math.inf))
