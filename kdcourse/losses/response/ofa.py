"""OFA-KD's loss. B batch, K classes; q, p: the softmax of student and teacher at T; y: label."""

import math

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss

VARIANTS = ("code", "paper")


def ofa(student_BK, teacher_BK, labels, gamma: float = 1.0, T: float = 1.0, variant: str = "code",
        reduction: str = "mean"):
    r"""Compute the cross-entropy with the teacher, with a larger weight on the target class.

    .. math:: L = -\sum_k w_k \log q_k, \qquad
        w_k = \begin{cases} (1 + p_y)^\gamma - 1 & k = y \\ p_k^\gamma & k \ne y \end{cases}

    Hao et al. 2023 (OFA-KD, arXiv:2310.19444), for teachers of another architecture: the surer the
    teacher is of the label, the more the target counts. At gamma = 1 it is the cross-entropy of
    `soft_cross_entropy`, without T². Not 0 where both agree. Classes that are ruled out (-inf)
    count as in `kd`. Raises `ValueError` for settings out of range and for shapes that do not
    match.

    student_BK, teacher_BK: logits [B, K]. labels: class numbers [B], the target classes.
    gamma: the exponent, above 0.
    T: temperature, above 0; without a factor T², as in the authors' code.
    variant: "code" as above, from the authors' repository (Hao840/OFAKD), which adds the labels'
        cross-entropy apart. "paper" has :math:`w_y = (1 + p_y)^\gamma` and :math:`w_k = p_k`: the
        labels are inside (take no `CE` beside it), and gamma changes the target class only.

    >>> s, t, y = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]]), torch.tensor([1])
    >>> ofa(s, t, y)  # (3/4 + 1/4) log 2
    tensor(0.6931)
    >>> ofa(s, t, y, gamma=2)  # ((7/4)² - 1 + (1/4)²) log 2
    tensor(1.4729)
    """
    _check_settings(gamma, T, variant)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    labels_B1 = inputs.class_numbers(student_BK, labels)[:, None]
    log_q, p = F.log_softmax(student_BK / T, dim=1), F.softmax(teacher_BK / T, dim=1)
    target_B1 = torch.expm1(gamma * torch.log1p(p.gather(1, labels_B1)))
    if variant == "code":
        weights_BK = (p if gamma == 1 else p**gamma).scatter(1, labels_B1, target_B1)
    else:
        weights_BK = p.scatter(1, labels_B1, 1 + target_B1)
    log_q = log_q.masked_fill(weights_BK == 0, 0)  # 0 log 0 = 0, also in the gradient
    return inputs.reduce(-(weights_BK * log_q).sum(1), reduction)


class OFA(Loss):
    """Match a teacher of another architecture, the target class more: `ofa`. Without a factor T².

    Published weight: 1, with 1 for labels smoothed by 0.1, for variant "code", and 1 for the same
    term at an exit behind each of the student's four stages: `LabelSmoothing(0.1) + OFA() + …`.
    Gamma is 1 for Swin-T to ResNet-18 on CIFAR-100 (batch 128 on each of 8 GPUs), 1.5 for DeiT-T to
    ResNet-18 on ImageNet (batch 64 on each; Hao840/OFAKD, README.md, train.py and configs/). The
    exits are networks of their own, and are not part of this term.
    """

    needs_labels = True

    def __init__(self, gamma: float = 1.0, T: float = 1.0, variant: str = "code",
                 student=None, teacher=None):
        _check_settings(gamma, T, variant)
        super().__init__(student, teacher, gamma=gamma, T=T, variant=variant)

    def values(self, student, teacher=None, labels=None):
        return ofa(student, teacher, labels, **self.settings(), reduction="none")


def _check_settings(gamma, T, variant) -> None:
    inputs.check(0 < gamma < math.inf, "an exponent gamma above 0", gamma)
    inputs.check_temperature(T)
    inputs.check_choice("variant", variant, VARIANTS)
