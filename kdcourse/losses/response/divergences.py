"""Losses that compare the answers as distributions: divergences between softmaxes.

Shapes: B batch, K classes. v are the teacher's logits, z the student's, p and q their softmax at
temperature T. Values are in nats. All of it is computed in float32 at least, also under autocast.
"""

import math  # noqa: F401 - for an example

import torch  # noqa: F401 - for the examples
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
