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
    """Concentrate on some of the teacher's modes: `reverse_kl`. T² is included.

    Published weight: none beside labels; MiniLLM trains on it by policy gradients. TRL's
    `GKDTrainer` with beta = 1 minimises it alone, without T²: `(1 / T**2) * ReverseKL(T)`.
    """

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
    """Interpolate `KD` (beta = 0) and `ReverseKL` (beta = 1): `jensen_shannon`. T² is included.

    Published weight: 1, without labels and without T², for variant "paper" (TRL, `GKDTrainer`):
    `(1 / T**2) * JS(beta, T, variant="paper")`. That is `(beta * (1 - beta) / T**2)` times
    "scaled": 1/4 of it at beta = 1/2.
    """

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


def skew_kl(student_BK, teacher_BK, alpha: float = 0.1, T: float = 1.0, reduction: str = "mean"):
    r"""Compute the KL divergence from the teacher to a mixture of teacher and student, times T².

    .. math:: L = T^2\,\mathrm{KL}(p \,\|\, \alpha p + (1-\alpha) q)

    Ko et al. 2024 (DistiLLM, arXiv:2402.03898), section 3.1: SKL. Finite, whatever the student
    rules out (-inf), for alpha above 0; at alpha = 0 it is `kd`. The paper compares tokens without
    a temperature (T = 1). At large T the gradient is that of `kd` times (1 - α)². Raises
    `ValueError` for settings out of range and for logits that are not [B, K], of one shape.

    student_BK, teacher_BK: logits [B, K].
    alpha: the share of the first distribution in the mixture, from 0 to below 1. The paper's, and
        that of the authors' scripts (GPT-2 on Dolly), is 0.1.
    T: temperature, above 0.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    >>> skew_kl(s, t, alpha=0.5)  # (1/4, 3/4) to (3/8, 5/8)
    tensor(0.0354)
    """
    _check_skew(alpha, T)
    log_q, log_p = _log_softmaxes(student_BK, teacher_BK, T)
    return inputs.reduce(T**2 * _kl_to_mixture(log_p, log_q, alpha), reduction)


class SkewKL(Loss, function=skew_kl):
    """Match the teacher, without the penalty of `KD` for a class of probability near 0: `skew_kl`.
    T² is included.

    Published weight: 1 for the defaults, on responses of the data set and of the student, with 1
    for the next words of a second corpus, for GPT-2 (1.5B) to GPT-2 (0.1B) on Dolly at batch 8 on
    each of 16 GPUs (jongwooko/distillm, scripts/gpt2/distillm/train_0.1B_1.5B.sh, `--kd-ratio`, and
    `--lm-coef` of arguments.py).
    """

    softened = True

    def __init__(self, alpha: float = 0.1, T: float = 1.0, student=None, teacher=None):
        _check_skew(alpha, T)
        super().__init__(student, teacher, alpha=alpha, T=T)


def skew_reverse_kl(student_BK, teacher_BK, alpha: float = 0.1, T: float = 1.0,
                    reduction: str = "mean"):
    r"""Compute the KL divergence from the student to a mixture of teacher and student, times T².

    .. math:: L = T^2\,\mathrm{KL}(q \,\|\, (1-\alpha) p + \alpha q)

    Ko et al. 2024 (DistiLLM, arXiv:2402.03898), section 3.1: SRKL. Finite, whatever the teacher
    rules out (-inf), for alpha above 0; at alpha = 0 it is `reverse_kl`. Arguments and errors as
    for `skew_kl`.

    >>> s, t = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 0.0]])
    >>> skew_reverse_kl(s, t, alpha=0.5)  # (1/4, 3/4) to (3/8, 5/8)
    tensor(0.0354)
    """
    _check_skew(alpha, T)
    log_q, log_p = _log_softmaxes(student_BK, teacher_BK, T)
    return inputs.reduce(T**2 * _kl_to_mixture(log_q, log_p, alpha), reduction)


class SkewReverseKL(Loss, function=skew_reverse_kl):
    """Concentrate on some of the teacher's modes, without the penalty of `ReverseKL` for a class of
    probability near 0: `skew_reverse_kl`. T² is included.

    Published weight: 1 for the defaults, as for `SkewKL`, for GPT-2 (1.5B) to GPT-2 (0.3B), batch 8
    on each of 16 GPUs, and GPT-2 (0.7B), batch 4 (jongwooko/distillm, scripts/gpt2/distillm/); for
    OPT and OpenLLaMA, too (scripts/opt/, scripts/openllama2/).
    """

    softened = True

    def __init__(self, alpha: float = 0.1, T: float = 1.0, student=None, teacher=None):
        _check_skew(alpha, T)
        super().__init__(student, teacher, alpha=alpha, T=T)


def _check_skew(alpha, T) -> None:
    inputs.check(0 <= alpha < 1, "alpha from 0 to below 1", alpha)
    inputs.check_temperature(T)


def _kl_to_mixture(log_a, log_b, share):
    """Compute KL(a || share a + (1 - share) b)."""
    if share < torch.finfo(log_a.dtype).tiny:
        return kl(log_a, log_b)
    a = log_a.exp()
    ratio = (log_a - log_b).masked_fill(a == 0, 0)  # 0 log 0 = 0, also in the gradient
    near, far = ratio.clamp(max=1), ratio.clamp(min=1)
    near = near - torch.log1p(share * torch.expm1(near))  # exactly 0 where a = b
    # where b is far below a, the gradient is as small as b: that of a difference loses digits
    far = -torch.logaddexp(torch.full_like(far, math.log(share)), math.log1p(-share) - far)
    return (a * torch.where(ratio < 1, near, far)).sum(1)


def symmetric_kl(student_BK, teacher_BK, beta: float = 0.5, T: float = 1.0,
                 reduction: str = "mean"):
    r"""Compute a weighted mean of both KL divergences: `kd` at beta = 0, `reverse_kl` at 1.

    .. math:: L = T^2 \left( (1-\beta)\,\mathrm{KL}(p \,\|\, q)
        + \beta\,\mathrm{KL}(q \,\|\, p) \right)

    At beta = 1/2 it is half the divergence of Jeffreys 1946. The code of Ko et al. 2024 (DistiLLM,
    arXiv:2402.03898) has it with beta = 0.9, where none of their scripts uses it. A class that one
    side rules out (-inf) makes the loss +inf, as in the two divergences. Rest as for `kd`. Raises
    `ValueError` for settings out of range.

    beta: the weight of the reverse divergence, in [0, 1].
    T: temperature, above 0. At large T the gradient is that of `kd` for every beta.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    >>> symmetric_kl(s, t)  # 1/2 of (3/4 - 1/2) log 3
    tensor(0.1373)
    """
    _check_symmetric(beta, T)
    log_q, log_p = _log_softmaxes(student_BK, teacher_BK, T)
    parts = ((1 - beta, log_p, log_q), (beta, log_q, log_p))
    values_B = sum(weight * kl(a, b) for weight, a, b in parts if weight)  # 0 times inf is NaN
    return inputs.reduce(T**2 * values_B, reduction)


class SymmetricKL(Loss, function=symmetric_kl):
    """Add `KD` and `ReverseKL`, with weights 1 - beta and beta: `symmetric_kl`. T² is included.

    No published weight: no script of jongwooko/distillm uses it (distillm/losses.py, beta = 0.9).
    """

    softened = True

    def __init__(self, beta: float = 0.5, T: float = 1.0, student=None, teacher=None):
        _check_symmetric(beta, T)
        super().__init__(student, teacher, beta=beta, T=T)


def _check_symmetric(beta, T) -> None:
    inputs.check_share("beta", beta)
    inputs.check_temperature(T)


def total_variation(student_BK, teacher_BK, T: float = 1.0, reduction: str = "mean"):
    r"""Compute the total variation distance: half the absolute difference of probabilities.

    .. math:: L = \frac{1}{2} \sum_k |p_k - q_k|

    Wen et al. 2023 (arXiv:2307.15190) take it word by word, without a temperature. Between 0 and 1.
    No factor T² or T is included: at large T value and gradient fall as 1/T. Where p = q the
    gradient is 0. Arguments and errors as for `kd`, but T = 1 unless given.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    >>> total_variation(s, t)  # 1/2 against 3/4
    tensor(0.2500)
    """
    log_q, log_p = _log_softmaxes(student_BK, teacher_BK, T)
    return inputs.reduce((log_p.exp() - log_q.exp()).abs().sum(1) / 2, reduction)


class TV(Loss, function=total_variation):
    """Match probabilities in absolute difference: `total_variation`. Without a factor T².

    Published weight: 0.5 on texts by the teacher and 0.5 on texts by the student, without labels,
    at T = 1 and batch 8 (MANGA-UOFA/fdistill, dart/scripts/run_tvd_symm.sh and dart/kd.py,
    `_tvd_symm_step`). At another T their summa/kd.py multiplies by T² (`calc_tvd_loss`), which is
    `T**2 * TV(T)`; dart/kd.py has no T there.
    """

    softened = True

    def __init__(self, T: float = 1.0, student=None, teacher=None):
        inputs.check_temperature(T)
        super().__init__(student, teacher, T=T)


def _log_softmaxes(student_BK, teacher_BK, T):
    """Give log q and log p."""
    inputs.check_temperature(T)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    return F.log_softmax(student_BK / T, dim=1), F.log_softmax(teacher_BK / T, dim=1)
