"""Normalised distillation. B batch, K classes; q, p: the softmax of student and teacher."""

import math

import torch  # noqa: F401 - for the example
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss
from kdcourse.losses.response.dkd import other_classes


def nkd(student_BK, teacher_BK, labels, gamma: float = 1.5, T: float = 1.0,
        reduction: str = "mean"):
    r"""Weigh two cross-entropies: of the target class, and of the others, normalised to sum 1.

    .. math:: L = -p_y \log q_y - \gamma\,T^2 \sum_{k \ne y} \hat p_k \log \hat q_k, \qquad
        \hat p = \mathrm{softmax}(v_{k \ne y} / T)

    Yang et al. 2023 (NKD, arXiv:2303.13005). The target class is compared at temperature 1. Not 0
    where both agree. With 2 classes the second term is 0. Against `dkd`: no divergence of the
    target against the rest, but the label's cross-entropy, weighed by the teacher's probability
    for it; the other terms have one gradient. Classes that are ruled out (-inf) count as in `kd`.
    Raises `ValueError` for settings out of range and for shapes that do not match.

    student_BK, teacher_BK: logits [B, K]. labels: class numbers [B], the target classes.
    gamma: the weight of the other classes, 0 or more.
    T: their temperature, above 0.

    >>> s, t, y = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, math.log(2)]]), torch.tensor([2])
    >>> nkd(s, t, y, gamma=1)  # 1/2 log 3 for the target, log 2 for the others
    tensor(1.2425)
    """
    _check_settings(gamma, T)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    labels_B = inputs.class_numbers(student_BK, labels)
    labels_B1 = labels_B[:, None]
    p_B = teacher_BK.softmax(1).gather(1, labels_B1)[:, 0]
    values_B = F.cross_entropy(student_BK, labels_B, reduction="none")
    values_B = p_B * values_B.masked_fill(p_B == 0, 0)  # 0 times inf is NaN
    if gamma:
        log_q, log_p = (_log_softmax_of_others(x / T, labels_B1) for x in (student_BK, teacher_BK))
        p = log_p.exp()
        values_B = values_B - gamma * T**2 * (p * log_q.masked_fill(p == 0, 0)).sum(1)
    return inputs.reduce(values_B, reduction)


class NKD(Loss):
    """Match the target class and the others, each as a cross-entropy: `nkd`. T² is included.

    Published weight: 1, with 1 for the labels. On ImageNet for the defaults (ResNet-34 to ResNet-18
    and ResNet-50 to MobileNet, batch 256) and, beside `ViTKD`, for `gamma=1` (DeiT III-Small to
    DeiT-Tiny, batch 1024); on CIFAR-100 for `gamma=3.5, T=3` (ResNet-34 to ResNet-18, batch 128;
    yzd-v/cls_KD, configs/distillers/). For soft labels (MixUp) their code takes the largest one;
    here pass `labels.argmax(1)`.
    """

    needs_labels = True

    def __init__(self, gamma: float = 1.5, T: float = 1.0, student=None, teacher=None):
        _check_settings(gamma, T)
        super().__init__(student, teacher, gamma=gamma, T=T)

    def values(self, student, teacher=None, labels=None):
        return nkd(student, teacher, labels, **self.settings(), reduction="none")


def _check_settings(gamma, T) -> None:
    inputs.check(0 <= gamma < math.inf, "a weight gamma of 0 or more", gamma)
    inputs.check_temperature(T)


def _log_softmax_of_others(scaled_BK, labels_B1):
    others, empty_B1 = other_classes(scaled_BK, labels_B1)
    return F.log_softmax(others, dim=1).masked_fill(empty_B1, -math.inf)
