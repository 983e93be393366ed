"""Decoupled distillation. B batch, K classes; q, p: the softmax of student and teacher at T."""

import math

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss
from kdcourse.losses.numerics import kl


def dkd(student_BK, teacher_BK, labels, alpha: float = 1.0, beta: float = 8.0, T: float = 4.0,
        reduction: str = "mean"):
    r"""Weigh two divergences: target against the rest, and the rest among themselves.

    .. math:: L = T^2 \left( \alpha\,\mathrm{KL}(b^p \,\|\, b^q)
        + \beta\,\mathrm{KL}(\hat p \,\|\, \hat q) \right), \quad
        b^p = (p_y,\ 1 - p_y), \quad \hat p_k = \frac{p_k}{1 - p_y} \ (k \ne y)

    Zhao et al. 2022 (arXiv:2203.08679), equation 8: TCKD (target class) and NCKD (the others). By
    equation 7 `kd` is TCKD + (1 - p_y) NCKD. T² is in the authors' code, which also has a warm-up.
    With 2 classes NCKD is 0. Classes that are ruled out (-inf) count as in `kd`. Raises
    `ValueError` for settings out of range and for shapes that do not match.

    student_BK, teacher_BK: logits [B, K]. labels: class numbers [B], the target classes.
    alpha, beta: weights of TCKD and NCKD, 0 or more, not both 0. The defaults are those of the
        authors' code for CIFAR-100.
    T: temperature, above 0.

    >>> s, t, y = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, math.log(2)]]), torch.tensor([2])
    >>> dkd(s, t, y, T=1)  # 1/2 against 1/3 for the target; the others agree: log(3 / sqrt 8)
    tensor(0.0589)
    """
    _check_settings(alpha, beta, T)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    labels_B1 = inputs.class_numbers(student_BK, labels)[:, None]
    binary_q, others_q = _decoupled(student_BK / T, labels_B1)
    binary_p, others_p = _decoupled(teacher_BK / T, labels_B1)
    terms = ((alpha, binary_p, binary_q), (beta, others_p, others_q))
    values_B = sum(weight * kl(p, q) for weight, p, q in terms if weight)  # 0 times inf is NaN
    return inputs.reduce(T**2 * values_B, reduction)


class DKD(Loss):
    """Match the target class and the others, with a weight each: `dkd`. T² is included."""

    softened = True

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, T: float = 4.0,
                 student=None, teacher=None):
        _check_settings(alpha, beta, T)
        super().__init__(student, teacher, alpha=alpha, beta=beta, T=T)

    def values(self, student, teacher=None, labels=None):
        return dkd(student, teacher, labels, **self.settings(), reduction="none")


def _check_settings(alpha, beta, T) -> None:
    inputs.check_weights(alpha=alpha, beta=beta)
    inputs.check_temperature(T)


def _decoupled(scaled_BK, labels_B1):
    """Give log-probabilities: of the label against all others [B, 2]; of the others [B, K]."""
    is_label = torch.arange(scaled_BK.shape[1], device=scaled_BK.device) == labels_B1
    others = scaled_BK.masked_fill(is_label, -math.inf)
    empty_B1 = (others == -math.inf).all(1, keepdim=True)
    others = others.masked_fill(empty_B1, 0)  # a log-softmax of -inf alone is NaN
    sum_B1 = others.logsumexp(1, keepdim=True).masked_fill(empty_B1, -math.inf)
    binary_B2 = torch.cat([scaled_BK.gather(1, labels_B1), sum_B1], 1)
    return (F.log_softmax(binary_B2, dim=1),
            F.log_softmax(others, dim=1).masked_fill(empty_B1, -math.inf))
