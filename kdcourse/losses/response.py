"""Losses on the answer of a network: its logits.

Shapes: B batch, K classes. v are the teacher's logits, z the student's, p and q their softmax at
temperature T.
Values are in nats. All of it is computed in float32 at least, whatever autocast says.
"""

import math

import torch
import torch.nn.functional as F

from kdcourse.losses.base import Loss, Objective
from kdcourse.models import View


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
    student_BK, teacher_BK = _pair(student_BK, teacher_BK, T)
    log_q = F.log_softmax(student_BK / T, dim=1)
    log_p = F.log_softmax(teacher_BK / T, dim=1)
    p = log_p.exp()
    log_ratio = (log_p - log_q).masked_fill(p == 0, 0)  # 0 log 0 = 0, also in the gradient
    return _reduce(T**2 * (p * log_ratio).sum(1), reduction)


def soft_cross_entropy(student_BK, teacher_BK, T: float = 4.0, reduction: str = "mean"):
    r"""Cross-entropy with the teacher's soft targets, times T²: what Hinton et al. 2015 wrote down.

    .. math:: L = -T^2 \sum_k p_k \log q_k = \mathrm{kd} + T^2 H(p)

    The gradient is that of `kd`; the value differs by the entropy of the teacher, so it does not
    reach 0. Arguments, shapes and errors as for `kd`.

    >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> soft_cross_entropy(s, t, T=1), kd(s, t, T=1)  # log 2, and 0
    (tensor(0.6931), tensor(0.))
    """
    student_BK, teacher_BK = _pair(student_BK, teacher_BK, T)
    log_q = F.log_softmax(student_BK / T, dim=1)
    p = F.softmax(teacher_BK / T, dim=1)
    return _reduce(-(T**2) * (p * log_q.masked_fill(p == 0, 0)).sum(1), reduction)


def cross_entropy(student_BK, labels, reduction: str = "mean"):
    r"""Cross-entropy with the labels, at temperature 1.

    .. math:: L = -\log q_y \quad\text{or, with soft labels}\quad L = -\sum_k y_k \log q_k

    student_BK: logits [B, K]. labels: class numbers [B], or soft labels [B, K].
    reduction: "mean", or "none" for one value per sample, [B].

    Raises `ValueError` for logits that are not [B, K] and labels that do not match them.

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2]))  # log 4
    tensor(1.3863)
    """
    student_BK = _logits(student_BK, "student")
    labels = _labels(student_BK, labels)
    if labels.ndim == 2:  # not by F.cross_entropy, for which 0 log 0 is NaN
        log_q = F.log_softmax(student_BK, dim=1).masked_fill(labels == 0, 0)
        return _reduce(-(labels * log_q).sum(1), reduction)
    return F.cross_entropy(student_BK, labels, reduction=_known(reduction))


def label_smoothing(student_BK, labels, smoothing: float = 0.1, reduction: str = "mean"):
    r"""Cross-entropy with labels mixed with the uniform distribution.

    .. math:: L = -(1-\varepsilon)\log q_y - \frac{\varepsilon}{K}\sum_k \log q_k

    Szegedy et al. 2016, section 7 (arXiv:1512.00567). The soft labels of somebody who knows
    nothing: a control for distillation.

    smoothing: the share ε of the uniform distribution, in [0, 1]. Rest as for `cross_entropy`.

    >>> label_smoothing(torch.zeros(1, 4), torch.tensor([2]))  # log 4, whatever the target
    tensor(1.3863)
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"Expected smoothing between 0 and 1, got {smoothing}.")
    student_BK = _logits(student_BK, "student")
    labels = _labels(student_BK, labels)
    return F.cross_entropy(student_BK, labels, label_smoothing=smoothing,
                           reduction=_known(reduction))


class CE(Loss):
    """`cross_entropy` with the labels."""

    needs_teacher = False

    def values(self, student, teacher=None, labels=None):
        return cross_entropy(student, labels, "none")


class LabelSmoothing(Loss):
    """`label_smoothing` of the labels."""

    needs_teacher = False

    def __init__(self, smoothing: float = 0.1):
        super().__init__()
        if not 0 <= smoothing <= 1:
            raise ValueError(f"Expected smoothing between 0 and 1, got {smoothing}.")
        self.smoothing = smoothing

    def values(self, student, teacher=None, labels=None):
        return label_smoothing(student, labels, self.smoothing, "none")

    def extra_repr(self):
        return f"smoothing={self.smoothing:.10g}"


class KD(Loss):
    """`kd`: match the teacher's softened answer. T² is included."""

    def __init__(self, T: float = 4.0):
        super().__init__()
        _check_temperature(T)
        self.T = T

    def values(self, student, teacher=None, labels=None):
        return kd(student, teacher, self.T, "none")

    def extra_repr(self):
        return f"T={self.T:.10g}"


def hinton(T: float = 4.0, alpha: float = 0.9) -> Objective:
    """`(1 - alpha) * CE() + alpha * KD(T)`: the weighted mean of labels and teacher.

    alpha: the weight of the *soft* part, in [0, 1]. T² is inside `KD`. A part of weight 0 is left
    out. Raises `ValueError` for alpha outside [0, 1] and T <= 0.

    >>> hinton(T=4, alpha=0.9)
    0.1 * CE() + 0.9 * KD(T=4)
    """
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"Expected alpha between 0 (labels only) and 1 (teacher only), got {alpha}. "
            "For two free weights write, for example, 1.0 * CE() + 5.0 * KD(T=4)."
        )
    parts = [(round(1 - alpha, 10), CE()), (alpha, KD(T))]
    return Objective([(weight, term) for weight, term in parts if weight])


def _check_temperature(T) -> None:
    if not T > 0 or not math.isfinite(T):
        raise ValueError(f"Expected a temperature T above 0, got {T}. Typical values are 1 to 20.")


def _logits(x, who: str) -> torch.Tensor:
    """Logits [B, K] out of a tensor or a `View`, in float32 at least."""
    if isinstance(x, View):
        x = x.logits
    if not isinstance(x, torch.Tensor) or x.ndim != 2:
        got = list(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"Expected {who} logits of shape [B, K], got {got}.")
    return x if x.dtype == torch.float64 else x.float()


def _pair(student, teacher, T):
    _check_temperature(T)
    student, teacher = _logits(student, "student"), _logits(teacher, "teacher").detach()
    if student.shape != teacher.shape:
        raise ValueError(
            f"Expected student and teacher logits of one shape [B, K], got {list(student.shape)} "
            f"and {list(teacher.shape)}. Both must answer for the same classes in the same order."
        )
    return student, teacher


def _labels(student_BK, labels) -> torch.Tensor:
    """Labels that fit the logits: int64 [B], or soft [B, K] in the logits' dtype."""
    expected = f"labels of shape [{len(student_BK)}] (or {list(student_BK.shape)}, soft)"
    if not isinstance(labels, torch.Tensor):
        raise ValueError(f"Expected {expected}, got {type(labels).__name__}.")
    if labels.shape not in (student_BK.shape[:1], student_BK.shape):
        raise ValueError(f"Expected {expected}, got {list(labels.shape)}.")
    if labels.ndim == 2:
        return labels.to(student_BK.dtype)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"Expected whole numbers as labels, got {labels.dtype}. "
                         "Use labels.long().")
    return labels.long()


def _known(reduction: str) -> str:
    if reduction not in ("mean", "none"):
        raise ValueError(f'Expected reduction "mean" or "none", got {reduction!r}.')
    return reduction


def _reduce(values_B, reduction: str):
    return values_B.mean() if _known(reduction) == "mean" else values_B
