"""Other divergences. B batch, K classes; z, v: student's, teacher's logits; q, p: softmax."""

import math

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss
from kdcourse.losses.numerics import kl


def reverse_kl(student_BK, teacher_BK, T: float = 1.0, reduction: str = "mean"):
    r"""Compute the reverse Kullback-Leibler divergence, KL(student || teacher), times T².

    .. math:: L = T^2 \sum_k q_k \log\frac{q_k}{p_k}

    Gu et al. 2024 (MiniLLM, arXiv:2306.08543) compare whole texts sampled from the student, without
    a temperature; this is one distribution. At large T the gradient is that of `kd`. Arguments and
    errors as for `kd`, but T = 1 unless given. A class to which the student gives no probability
    adds exactly 0; one that only the teacher rules out (-inf) makes the loss +inf.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    >>> reverse_kl(s, t)  # log(2 / sqrt 3)
    tensor(0.1438)
    """
    log_q, log_p = _log_softmaxes(student_BK, teacher_BK, T)
    return inputs.reduce(T**2 * kl(log_q, log_p), reduction)


class ReverseKL(Loss, function=reverse_kl):
    """Concentrate on some of the teacher's modes: `reverse_kl`. T² is included."""

    softened = True

    def __init__(self, T: float = 1.0, student=None, teacher=None):
        inputs.check_temperature(T)
        super().__init__(student, teacher, T=T)


def jensen_shannon(student_BK, teacher_BK, beta: float = 0.5, T: float = 1.0,
                   variant: str = "scaled", reduction: str = "mean"):
    r"""Compute the generalised Jensen-Shannon divergence: `kd` at beta = 0, `reverse_kl` at 1.

    .. math:: L = T^2 \frac{D_\beta}{\beta (1-\beta)}, \qquad
        D_\beta = \beta\,\mathrm{KL}(p \,\|\, m) + (1-\beta)\,\mathrm{KL}(q \,\|\, m), \quad
        m = \beta p + (1-\beta) q

    Agarwal et al. 2024 (GKD, arXiv:2306.13649), equation 1, define D, which is 0 at both ends.
    Divided by β (1-β) it tends to the two KL divergences. For 0 < beta < 1 the loss is finite
    whatever is ruled out (-inf). Rest as for `kd`. Raises `ValueError` for settings out of range.

    beta: where between the two, in [0, 1]. At 1/2, 4 times the Jensen-Shannon divergence.
    T: temperature, above 0. At large T the gradient of "scaled" is that of `kd` for every beta.
    variant: "scaled" as above, or "paper" for T² D, 0 at both ends.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    >>> [round(float(jensen_shannon(s, t, beta)), 4) for beta in (0, 0.5, 1)]
    [0.1308, 0.1353, 0.1438]
    """
    _check_settings(beta, T, variant)
    log_q, log_p = _log_softmaxes(student_BK, teacher_BK, T)
    scale = T**2 * (1 if variant == "scaled" else beta * (1 - beta))
    if scale == 0:  # 0 times +inf would be NaN
        return inputs.reduce(0 * log_q.exp().sum(1), reduction)
    divergence_B = _skewed(log_p, log_q, beta) if beta <= 0.5 else _skewed(log_q, log_p, 1 - beta)
    return inputs.reduce(scale * divergence_B, reduction)


class JS(Loss, function=jensen_shannon):
    """Interpolate `KD` (beta = 0) and `ReverseKL` (beta = 1): `jensen_shannon`. T² is included."""

    softened = True

    def __init__(self, beta: float = 0.5, T: float = 1.0, variant: str = "scaled",
                 student=None, teacher=None):
        _check_settings(beta, T, variant)
        super().__init__(student, teacher, beta=beta, T=T, variant=variant)


def _check_settings(beta, T, variant) -> None:
    inputs.check_share("beta", beta)
    inputs.check_temperature(T)
    inputs.check_choice("variant", variant, ("scaled", "paper"))


def _skewed(log_a, log_b, share):
    """Compute KL(a || m) / (1 - share) + KL(b || m) / share, m = share a + (1 - share) b, for a
    share up to 1/2."""
    if share < torch.finfo(log_a.dtype).tiny:
        return kl(log_a, log_b)  # the limit: the second term vanishes
    a, b = log_a.exp(), log_b.exp()
    ratio = (log_a - log_b).masked_fill((a == 0) & (b == 0), 0)
    near, far = ratio.clamp(max=30), ratio.clamp(min=30)  # beyond 30, exp may overflow
    # log(m / b) is as small as the share that divides it: a difference of logs would lose digits
    m_over_b = torch.log1p(share * torch.expm1(near))
    far_a_over_m = -torch.logaddexp(torch.full_like(far, math.log(share)), math.log1p(-share) - far)
    a_over_m = torch.where(ratio < 30, near - m_over_b, far_a_over_m)
    m_over_b = torch.where(ratio < 30, m_over_b, far - far_a_over_m)
    return (a * a_over_m.masked_fill(a == 0, 0) / (1 - share)
            - b * m_over_b.masked_fill(b == 0, 0) / share).sum(1)


def total_variation(student_BK, teacher_BK, T: float = 1.0, reduction: str = "mean"):
    r"""Compute the total variation distance: half the absolute difference of probabilities.

    .. math:: L = \frac{1}{2} \sum_k |p_k - q_k|

    Wen et al. 2023 (arXiv:2307.15190) take it word by word. Between 0 and 1. Without a factor T² or
    T: at large T value and gradient fall as 1/T. Where p = q the gradient is 0. Arguments and
    errors as for `kd`, but T = 1 unless given.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    >>> total_variation(s, t)  # 1/2 against 3/4
    tensor(0.2500)
    """
    log_q, log_p = _log_softmaxes(student_BK, teacher_BK, T)
    return inputs.reduce((log_p.exp() - log_q.exp()).abs().sum(1) / 2, reduction)


class TV(Loss, function=total_variation):
    """Match probabilities in absolute difference: `total_variation`. Without a factor T²."""

    softened = True

    def __init__(self, T: float = 1.0, student=None, teacher=None):
        inputs.check_temperature(T)
        super().__init__(student, teacher, T=T)


def _log_softmaxes(student_BK, teacher_BK, T):
    """Give log q and log p."""
    inputs.check_temperature(T)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    return F.log_softmax(student_BK / T, dim=1), F.log_softmax(teacher_BK / T, dim=1)
