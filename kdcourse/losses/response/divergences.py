"""Losses that compare the answers as distributions: divergences between softmaxes.

Shapes: B batch, K classes. v are the teacher's logits, z the student's, p and q their softmax at
temperature T. Values are in nats. All of it is computed in float32 at least, also under autocast.
"""

import math

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss


def kd(student_BK, teacher_BK, T: float = 4.0, reduction: str = "mean"):
    r"""The distillation loss: Kullback-Leibler divergence of the softened answers, times T².

    .. math::

        L = T^2 \sum_k p_k \log\frac{p_k}{q_k}, \qquad
        p = \mathrm{softmax}(v / T), \quad q = \mathrm{softmax}(z / T)

    Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", section 2
    (arXiv:1503.02531). Sum over classes, mean over samples. The paper minimises the cross-entropy
    with soft targets; this is that minus the teacher's entropy: same gradient, and 0 when the
    student agrees. Without T² the gradient would vanish as 1/T² when T grows; with it, it tends to
    (z - v) / K (centred logits) once T is large compared with the logits, and changes with T below.

    student_BK, teacher_BK: logits [B, K]. No gradient reaches the teacher.
    T: temperature, above 0. Larger means softer.
    reduction: "mean", or "none" for one value per sample, [B].

    A class to which the teacher gives no probability (logit -inf, or underflow) adds exactly 0.
    A class that the student rules out (-inf) although the teacher does not makes the loss +inf.

    Raises `ValueError` for T <= 0, for logits that are not [B, K] and for two different shapes.

    >>> kd(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 2.0, 3.0]]))
    tensor(0.)
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


def soft_cross_entropy(student_BK, teacher_BK, T: float = 4.0, reduction: str = "mean"):
    r"""Cross-entropy with the teacher's soft targets, times T²: what Hinton et al. 2015 wrote down.

    .. math:: L = -T^2 \sum_k p_k \log q_k = \mathrm{kd} + T^2 H(p)

    The gradient is that of `kd`; the value differs by the entropy of the teacher, so it does not
    reach 0. Arguments, shapes and errors as for `kd`.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> soft_cross_entropy(s, t, T=1), kd(s, t, T=1)  # log 2, and 0
    (tensor(0.6931), tensor(0.))
    """
    inputs.check_temperature(T)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    log_q = F.log_softmax(student_BK / T, dim=1)
    p = F.softmax(teacher_BK / T, dim=1)
    return inputs.reduce(-(T**2) * (p * log_q.masked_fill(p == 0, 0)).sum(1), reduction)


def reverse_kl(student_BK, teacher_BK, T: float = 1.0, reduction: str = "mean"):
    r"""Kullback-Leibler divergence the other way round: the student's answers are the ones judged.

    .. math:: L = T^2 \sum_k q_k \log\frac{q_k}{p_k}

    Gu et al. 2024, "MiniLLM: Knowledge Distillation of Large Language Models" (arXiv:2306.08543):
    a student that cannot be everywhere settles on some of the teacher's answers instead of
    spreading over all of them. The paper means whole texts, drawn from the student, and has no
    temperature; this is one answer, summed exactly over its classes, and T² keeps weights
    comparable with `kd`: both have the same gradient, (z - v) / K (centred logits), once T is large
    compared with the logits.

    Arguments and shapes as for `kd`, but T = 1 unless given. Sum over classes, mean over samples.

    A class to which the student gives no probability adds exactly 0, also where the teacher rules
    it out too. A class that the teacher rules out (-inf) although the student does not makes the
    loss +inf: mask such classes in both.

    Raises `ValueError` for T <= 0, for logits that are not [B, K] and for two different shapes.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    >>> reverse_kl(s, t), kd(s, t, T=1)  # log(2 / sqrt 3), and the other way round
    (tensor(0.1438), tensor(0.1308))
    """
    log_q, log_p = _log_answers(student_BK, teacher_BK, T)
    return inputs.reduce(T**2 * _kl(log_q, log_p), reduction)


def jensen_shannon(student_BK, teacher_BK, beta: float = 0.5, T: float = 1.0,
                   variant: str = "scaled", reduction: str = "mean"):
    r"""Generalised Jensen-Shannon divergence: from `kd` (beta = 0) to `reverse_kl` (beta = 1).

    .. math::

        D_\beta = \beta\,\mathrm{KL}(p \,\|\, m) + (1-\beta)\,\mathrm{KL}(q \,\|\, m), \qquad
        m = \beta p + (1-\beta) q

    .. math:: L = T^2 \frac{D_\beta}{\beta (1-\beta)}

    Agarwal et al. 2024, "On-Policy Distillation of Language Models", equation 1 (arXiv:2306.13649),
    define D. It tends to 0 at both ends, whatever p and q are: near them beta would set the size of
    the gradient and not its kind. So variant "scaled", the default, divides by its curvature: where
    p and q nearly agree the loss is the same for every beta; it tends to KL(p || q) as beta falls
    to 0 and to KL(q || p) as beta rises to 1, without a jump, and there it *is* `kd` and
    `reverse_kl`. At beta = 1/2 it is 4 times the Jensen-Shannon divergence.

    beta: where between the two, in [0, 1].
    T: temperature, above 0. Once it is large compared with the logits, the gradient of "scaled" is
        that of `kd`, (z - v) / K (centred logits), for every beta.
    variant: "scaled" as above, or "paper" for T² D as the paper has it, 0 at both ends.

    Shapes and reduction as for `kd`. For 0 < beta < 1 the loss is finite whatever is ruled out:
    D is at most log 2 at beta = 1/2. A class that both rule out (-inf) adds exactly 0. At the ends
    "scaled" is +inf where `kd` or `reverse_kl` is, and "paper" is 0 all the same.

    Raises `ValueError` for beta outside [0, 1], T <= 0, another variant, logits that are not
    [B, K] and two different shapes.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    >>> [round(float(jensen_shannon(s, t, beta)), 4) for beta in (0, 0.5, 1)]
    [0.1308, 0.1353, 0.1438]
    """
    inputs.check_share("beta", beta)
    inputs.check_choice("variant", variant, ("scaled", "paper"))
    log_q, log_p = _log_answers(student_BK, teacher_BK, T)
    scale = T**2 * (1 if variant == "scaled" else beta * (1 - beta))
    if scale == 0:  # 0 times +inf would be NaN
        return inputs.reduce(0 * log_q.exp().sum(1), reduction)
    divergence_B = _skewed(log_p, log_q, beta) if beta <= 0.5 else _skewed(log_q, log_p, 1 - beta)
    return inputs.reduce(scale * divergence_B, reduction)


def total_variation(student_BK, teacher_BK, T: float = 1.0, reduction: str = "mean"):
    r"""Total variation distance: how much probability lies in the wrong place.

    .. math:: L = \frac{1}{2} \sum_k |p_k - q_k|

    Wen et al. 2023, "f-Divergence Minimization for Sequence-Level Knowledge Distillation"
    (arXiv:2307.15190), take it word by word. Between 0 and 1, symmetric, and never infinite: a
    class ruled out (-inf) by either side just has probability 0. No factor T² or T, as no paper
    that we know has one: at large T value and gradient fall as 1/T, so set the weight for the T
    that you use. Where p = q the slope has a corner; the gradient there is 0.

    Arguments and shapes as for `kd`, but T = 1 unless given. Sum over classes, mean over samples.

    Raises `ValueError` for T <= 0, for logits that are not [B, K] and for two different shapes.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    >>> total_variation(s, t)  # 1/2 against 3/4
    tensor(0.2500)
    """
    log_q, log_p = _log_answers(student_BK, teacher_BK, T)
    return inputs.reduce((log_p.exp() - log_q.exp()).abs().sum(1) / 2, reduction)


def dkd(student_BK, teacher_BK, labels, alpha: float = 1.0, beta: float = 8.0, T: float = 4.0,
        reduction: str = "mean"):
    r"""Decoupled distillation: how sure of the label, and what about the other classes, apart.

    .. math::

        L = T^2 \left( \alpha\,\mathrm{KL}(b^p \,\|\, b^q)
        + \beta\,\mathrm{KL}(\hat p \,\|\, \hat q) \right)

    .. math::

        b^p = (p_y,\ 1 - p_y), \qquad \hat p_k = \frac{p_k}{1 - p_y} \quad (k \ne y)

    Zhao et al. 2022, "Decoupled Knowledge Distillation", equation 8 (arXiv:2203.08679). The first
    term is the paper's TCKD (target class), the second NCKD (the others among themselves). Equation
    7 is why: `kd` is TCKD + (1 - p_y) NCKD, so a teacher that is sure of the label silences what it
    knows of the other classes. T² is in the authors' code; their warm-up is a matter of schedules.

    labels: class numbers [B]. They decide what is the target, the teacher may think otherwise.
    alpha, beta: weights of TCKD and NCKD, 0 or more, not both 0. As set here they are those of the
        authors' code for CIFAR-100.
    T: temperature, above 0.

    Shapes and reduction as for `kd`. With 2 classes only one other is left, so NCKD and its
    gradient are exactly 0. Classes that are ruled out (-inf) count as in `kd`.

    Raises `ValueError` for weights below 0, T <= 0, logits that are not [B, K], two different
    shapes and labels that do not match them.

    >>> s, t, y = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, math.log(2)]]), torch.tensor([2])
    >>> dkd(s, t, y, T=1)  # 1/2 against 1/3 for the target; the others agree: log(3 / sqrt 8)
    tensor(0.0589)
    """
    inputs.check_weights(alpha=alpha, beta=beta)
    inputs.check_temperature(T)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    labels_B1 = inputs.class_numbers(student_BK, labels)[:, None]
    binary_q, others_q = _decoupled(student_BK / T, labels_B1)
    binary_p, others_p = _decoupled(teacher_BK / T, labels_B1)
    terms = ((alpha, binary_p, binary_q), (beta, others_p, others_q))
    values_B = sum(weight * _kl(p, q) for weight, p, q in terms if weight)  # 0 times inf is NaN
    return inputs.reduce(T**2 * values_B, reduction)


def _log_answers(student_BK, teacher_BK, T):
    """log q and log p."""
    inputs.check_temperature(T)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    return F.log_softmax(student_BK / T, dim=1), F.log_softmax(teacher_BK / T, dim=1)


def _kl(log_a, log_b):
    """KL(a || b) per row, with 0 log 0 = 0, also in the gradient."""
    a = log_a.exp()
    return (a * (log_a - log_b).masked_fill(a == 0, 0)).sum(1)


def _skewed(log_a, log_b, share):
    """KL(a || m) / (1 - share) + KL(b || m) / share for m = share a + (1 - share) b, share <= 1/2.

    log(m / b) is of the size of the share and divided by it, so it must not come from subtracting
    logarithms: it is log1p(share expm1(log a - log b)), unless that overflows.
    """
    if share < torch.finfo(log_a.dtype).tiny:
        return _kl(log_a, log_b)  # the limit: the second term vanishes
    a, b = log_a.exp(), log_b.exp()
    ratio = (log_a - log_b).masked_fill((a == 0) & (b == 0), 0)
    near, far = ratio.clamp(max=30), ratio.clamp(min=30)
    m_over_b = torch.log1p(share * torch.expm1(near))
    far_a_over_m = -torch.logaddexp(torch.full_like(far, math.log(share)), math.log1p(-share) - far)
    a_over_m = torch.where(ratio < 30, near - m_over_b, far_a_over_m)
    m_over_b = torch.where(ratio < 30, m_over_b, far - far_a_over_m)
    parts = (a * a_over_m.masked_fill(a == 0, 0) / (1 - share)
             - b * m_over_b.masked_fill(b == 0, 0) / share)
    return parts.sum(1)


def _decoupled(scaled_BK, labels_B1):
    """log-probabilities: of the label against all others [B, 2], and of the others among themselves
    [B, K], -inf for the label. All -inf where every other class is ruled out."""
    is_label = torch.arange(scaled_BK.shape[1], device=scaled_BK.device) == labels_B1
    others = scaled_BK.masked_fill(is_label, -math.inf)
    nobody_B1 = (others == -math.inf).all(1, keepdim=True)
    others = others.masked_fill(nobody_B1, 0)  # a log-softmax of nothing is NaN
    together_B1 = others.logsumexp(1, keepdim=True).masked_fill(nobody_B1, -math.inf)
    binary_B2 = torch.cat([scaled_BK.gather(1, labels_B1), together_B1], 1)
    return (F.log_softmax(binary_B2, dim=1),
            F.log_softmax(others, dim=1).masked_fill(nobody_B1, -math.inf))


class KD(Loss):
    """`kd`: match the teacher's softened answer. T² is included."""

    def __init__(self, T: float = 4.0, student=None, teacher=None):
        super().__init__(student, teacher)
        inputs.check_temperature(T)
        self.T = T

    def values(self, student, teacher=None, labels=None):
        return kd(student, teacher, self.T, "none")

    def extra_repr(self):
        return f"T={self.T:.10g}"


class ReverseKL(Loss):
    """`reverse_kl`: settle on some of the teacher's answers. T² is included."""

    def __init__(self, T: float = 1.0, student=None, teacher=None):
        super().__init__(student, teacher)
        inputs.check_temperature(T)
        self.T = T

    def values(self, student, teacher=None, labels=None):
        return reverse_kl(student, teacher, self.T, "none")

    def extra_repr(self):
        return f"T={self.T:.10g}"


class JS(Loss):
    """`jensen_shannon`: between `KD` (beta = 0) and `ReverseKL` (beta = 1). T² is included."""

    def __init__(self, beta: float = 0.5, T: float = 1.0, variant: str = "scaled",
                 student=None, teacher=None):
        super().__init__(student, teacher)
        inputs.check_share("beta", beta)
        inputs.check_temperature(T)
        inputs.check_choice("variant", variant, ("scaled", "paper"))
        self.beta, self.T, self.variant = beta, T, variant

    def values(self, student, teacher=None, labels=None):
        return jensen_shannon(student, teacher, self.beta, self.T, self.variant, "none")

    def extra_repr(self):
        return f"beta={self.beta:.10g}, T={self.T:.10g}, variant={self.variant!r}"


class TV(Loss):
    """`total_variation`: move the probability that lies in the wrong place. Without a factor T²."""

    def __init__(self, T: float = 1.0, student=None, teacher=None):
        super().__init__(student, teacher)
        inputs.check_temperature(T)
        self.T = T

    def values(self, student, teacher=None, labels=None):
        return total_variation(student, teacher, self.T, "none")

    def extra_repr(self):
        return f"T={self.T:.10g}"


class DKD(Loss):
    """`dkd`: the target class and the others, each with a weight of its own. T² is included."""

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, T: float = 4.0,
                 student=None, teacher=None):
        super().__init__(student, teacher)
        inputs.check_weights(alpha=alpha, beta=beta)
        inputs.check_temperature(T)
        self.alpha, self.beta, self.T = alpha, beta, T

    def values(self, student, teacher=None, labels=None):
        return dkd(student, teacher, labels, self.alpha, self.beta, self.T, "none")

    def extra_repr(self):
        return f"alpha={self.alpha:.10g}, beta={self.beta:.10g}, T={self.T:.10g}"
