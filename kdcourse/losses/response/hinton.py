"""Hinton's distillation. B batch, K classes; z, v: student's, teacher's logits; q, p: softmax."""

import math  # noqa: F401 - for the example

import torch  # noqa: F401 - for the example
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss, Objective
from kdcourse.losses.response.labels import CE


def kd(student_BK, teacher_BK, T: float = 4.0, reduction: str = "mean"):
    r"""Compute the Kullback-Leibler divergence of the softened outputs, times T².

    .. math:: L = T^2 \sum_k p_k \log\frac{p_k}{q_k}, \qquad
        p = \mathrm{softmax}(v / T), \quad q = \mathrm{softmax}(z / T)

    Hinton, Vinyals & Dean 2015 (arXiv:1503.02531), section 2: their cross-entropy with soft
    targets, minus the teacher's entropy. With T² the gradient tends to (z - v) / K (centred logits)
    as T grows, instead of vanishing as 1/T².

    student_BK, teacher_BK: logits [B, K].
    T: temperature, above 0. Larger means softer.
    reduction: "mean", or "none" for one value per sample, [B]; summed over classes, in nats.

    A class to which the teacher gives no probability adds exactly 0; one that only the student
    rules out (-inf) makes the loss +inf. Raises `ValueError` for T <= 0 and for logits that are not
    [B, K], of one shape.

    >>> kd(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]]), T=1)  # log 2 - H(1/4)
    tensor(0.1308)
    """
    inputs.check_temperature(T)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    log_q = F.log_softmax(student_BK / T, dim=1)
    log_p = F.log_softmax(teacher_BK / T, dim=1)
    p = log_p.exp()
    log_ratio = (log_p - log_q).masked_fill(p == 0, 0)  # 0 log 0 = 0, also in the gradient
    return inputs.reduce(T**2 * (p * log_ratio).sum(1), reduction)


class KD(Loss, function=kd):
    """Match the teacher's softened output: `kd`. T² is included.

    Published weight: 0.9 with 0.1 for the labels at T = 4, for all pairs on CIFAR-100 at batch 64
    (RepDistiller, scripts/run_cifar_distill.sh; mdistiller, mdistiller/engine/cfg.py): `hinton`.
    """

    softened = linear = True

    def __init__(self, T: float = 4.0, student=None, teacher=None):
        inputs.check_temperature(T)
        super().__init__(student, teacher, T=T)


def soft_cross_entropy(student_BK, teacher_BK, T: float = 4.0, reduction: str = "mean"):
    r"""Compute the cross-entropy with the teacher's soft targets, times T², as Hinton et al. 2015.

    .. math:: L = -T^2 \sum_k p_k \log q_k = \mathrm{kd} + T^2 H(p)

    It has the gradient of `kd`, but does not reach 0. Arguments and errors as for `kd`.

    >>> soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2), T=1)  # log 2, where kd is 0
    tensor(0.6931)
    """
    inputs.check_temperature(T)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    log_q = F.log_softmax(student_BK / T, dim=1)
    p = F.softmax(teacher_BK / T, dim=1)
    return inputs.reduce(-(T**2) * (p * log_q.masked_fill(p == 0, 0)).sum(1), reduction)


def hinton(T: float = 4.0, alpha: float = 0.9) -> Objective:
    """Make the weighted mean of labels and teacher: `(1 - alpha) * CE() + alpha * KD(T)`.

    alpha: the weight of the *soft* part, in [0, 1]. A part of weight 0 is left out. Raises
    `ValueError` for alpha outside [0, 1] and T <= 0.

    >>> hinton(T=4, alpha=0.9)
    0.1 * CE() + 0.9 * KD(T=4)
    """
    inputs.check(0 <= alpha <= 1, "alpha between 0 (labels only) and 1 (teacher only)", alpha,
                 "For two free weights write, for example, 1.0 * CE() + 5.0 * KD(T=4).")
    pairs = [(round(1 - alpha, 10), CE()), (alpha, KD(T))]
    return Objective([(weight, term) for weight, term in pairs if weight])
