"""The labels of the data, plain and smoothed. B batch, K classes; q: the student's softmax."""

import torch  # noqa: F401 - for the examples
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss


def cross_entropy(student_BK, labels, reduction: str = "mean"):
    r"""Compute the cross-entropy with the labels, at temperature 1.

    .. math:: L = -\log q_y \quad\text{or, with soft labels}\quad L = -\sum_k y_k \log q_k

    student_BK: logits [B, K]. labels: class numbers [B], or soft labels [B, K]. Raises `ValueError`
    where they do not match.

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2]))  # log 4
    tensor(1.3863)
    """
    student_BK = inputs.logits(student_BK, "student")
    labels = inputs.labels(student_BK, labels)
    if labels.ndim == 2:  # not by F.cross_entropy, for which 0 log 0 is NaN
        log_q = F.log_softmax(student_BK, dim=1).masked_fill(labels == 0, 0)
        return inputs.reduce(-(labels * log_q).sum(1), reduction)
    return inputs.reduce(F.cross_entropy(student_BK, labels, reduction="none"), reduction)


class CE(Loss, function=cross_entropy):
    """Learn from the labels: `cross_entropy`."""
    needs_teacher = False


def label_smoothing(student_BK, labels, smoothing: float = 0.1, reduction: str = "mean"):
    r"""Compute the cross-entropy with labels mixed with the uniform distribution.

    .. math:: L = -(1-\varepsilon)\log q_y - \frac{\varepsilon}{K}\sum_k \log q_k

    Szegedy et al. 2016 (arXiv:1512.00567), section 7. Other code spreads ε over the K - 1 wrong
    classes: that is this with ε K / (K - 1). A class that the student rules out (-inf)
    makes the loss +inf. Rest as for `cross_entropy`.

    smoothing: the share ε of the uniform distribution, in [0, 1].

    >>> label_smoothing(torch.zeros(1, 4), torch.tensor([2]))  # log 4, whatever the target
    tensor(1.3863)
    """
    inputs.check_share("smoothing", smoothing)
    student_BK = inputs.logits(student_BK, "student")
    labels = inputs.labels(student_BK, labels)
    values_B = F.cross_entropy(student_BK, labels, label_smoothing=smoothing, reduction="none")
    return inputs.reduce(values_B, reduction)


class LabelSmoothing(Loss, function=label_smoothing):
    """Learn from smoothed labels: `label_smoothing`."""
    needs_teacher = False

    def __init__(self, smoothing: float = 0.1, student=None, teacher=None):
        inputs.check_share("smoothing", smoothing)
        super().__init__(student, teacher, smoothing=smoothing)
