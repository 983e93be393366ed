"""The labels of the data, plain and smoothed. B batch, K classes; q: the student's softmax."""

import math

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss


def cross_entropy(student_BK, labels, reduction: str = "mean", *, weight=None,
                  ignore_index: int = -100):
    r"""Compute the cross-entropy with the labels, at temperature 1.

    .. math:: L = -w_y \log q_y \quad\text{or, with soft labels}\quad L = -\sum_k w_k y_k \log q_k

    student_BK: logits [B, K], K at least 2. labels: class numbers [B], or soft labels [B, K].
    weight: w, a number of 0 or more for each class [K]; None: 1. As in torch, the mean over class
        numbers is divided by the sum of their weights, that over soft labels by their number.
    ignore_index: a class number that does not count: its value is 0, and it is left out of the
        mean. Where none counts, the mean is 0, without a gradient.

    Raises `ValueError` where they do not match, and for class numbers outside 0 … K - 1: of labels
    on the CPU only, as the check would wait for a GPU. `fit` gets labels that were checked before.

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2]))  # log 4
    tensor(1.3863)
    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([2, -100]))  # of one label
    tensor(1.3863)
    """
    student_BK = inputs.logits(student_BK, "student")
    labels = inputs.labels(student_BK, labels, ignore_index)
    weight_K = None if weight is None else _weights(weight, student_BK.shape[1]).to(student_BK)
    if labels.ndim == 2:  # not by F.cross_entropy, for which 0 log 0 is NaN
        log_q = F.log_softmax(student_BK, dim=1).masked_fill(labels == 0, 0)
        labels = labels if weight_K is None else labels * weight_K
        return inputs.reduce(-(labels * log_q).sum(1), reduction)
    values_B = F.cross_entropy(student_BK, labels, weight_K, ignore_index=ignore_index,
                               reduction="none")
    if reduction == "mean":
        return _mean_over_labels(values_B, labels, weight_K, ignore_index)
    return inputs.reduce(values_B, reduction)


def label_smoothing(student_BK, labels, smoothing: float = 0.1, reduction: str = "mean", *,
                    ignore_index: int = -100):
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
    labels = inputs.labels(student_BK, labels, ignore_index)
    if labels.ndim == 2:
        values_B = F.cross_entropy(student_BK, labels, label_smoothing=smoothing, reduction="none")
        return inputs.reduce(values_B, reduction)
    values_B = F.cross_entropy(student_BK, labels, label_smoothing=smoothing, reduction="none",
                               ignore_index=ignore_index)
    if reduction == "mean":
        return _mean_over_labels(values_B, labels, None, ignore_index)
    return inputs.reduce(values_B, reduction)


class LabelLoss(Loss):
    """Learn from labels, of which some may not count (`ignore_index`)."""

    needs_teacher = False

    @property
    def by_labels(self) -> bool:
        """Whether the mean is divided by more than the number of labels that the task counts."""
        return getattr(self, "weight", None) is not None or self.ignore_index != -100

    def reduced(self, values, labels=None, rows=None):
        if labels.ndim == 2 or (rows is not None and not self.by_labels):
            return super().reduced(values, labels, rows)
        weight = getattr(self, "weight", None)
        weight = None if weight is None else weight.to(values.dtype)
        if rows is None:
            return _mean_over_labels(values, labels, weight, self.ignore_index)
        counted = 1 if rows.weight is None else rows.weight
        labels, counts, share = (labels, counted, 1) if rows.whole is None else rows.whole
        if rows.whole is not None and counts is not None:
            labels = labels.masked_fill(counts == 0, 0)  # any class: the row does not count
        counts = 1 if counts is None else counts
        total = (_shares(labels, weight, self.ignore_index) * counts).sum() * share
        return (values * counted).mean() * (len(values) / total.masked_fill(total == 0, 1))

    def extra_repr(self):
        shown = {name: value for name, value in self.settings().items() if value is not None}
        if shown["ignore_index"] == -100:
            del shown["ignore_index"]
        if "weight" in shown:
            shown["weight"] = f"[{', '.join(f'{w:.4g}' for w in self.weight.tolist())}]"
        return ", ".join(f"{name}={value}" for name, value in shown.items())


class CE(LabelLoss, function=cross_entropy):
    """Learn from the labels: `cross_entropy`.

    weight: a weight for each class, where some are rare. The mean is divided by the sum of the
        labels' weights: in `kd.fit` of those of the whole batch, over all its parts (`accumulate`)
        and processes.
    ignore_index: the class number of samples that do not count. (Where a task ignores rows, such as
        `Tokens`, they are left out already.)

    >>> CE(weight=[1, 2.5])
    CE(weight=[1, 2.5])
    """

    def __init__(self, student=None, teacher=None, *, weight=None, ignore_index: int = -100):
        if weight is not None:
            weight = _weights(weight)
            inputs.check(((weight >= 0) & (weight < math.inf)).all(),
                         "finite weights of classes of at least 0", weight.tolist())
        super().__init__(student, teacher, weight=weight, ignore_index=ignore_index)


class LabelSmoothing(LabelLoss, function=label_smoothing):
    """Learn from smoothed labels: `label_smoothing`."""

    def __init__(self, smoothing: float = 0.1, student=None, teacher=None, *,
                 ignore_index: int = -100):
        inputs.check_share("smoothing", smoothing)
        super().__init__(student, teacher, smoothing=smoothing, ignore_index=ignore_index)


def _weights(weight, K: int | None = None) -> torch.Tensor:
    """Check weights of classes [K]."""
    weight_K = torch.as_tensor(weight)
    if weight_K.ndim != 1 or K not in (None, len(weight_K)):
        count = "" if K is None else f"{K} "
        raise ValueError(f"Expected one weight for each of the {count}classes, got "
                         f"{list(weight_K.shape)}.")
    return weight_K if weight_K.is_floating_point() else weight_K.float()


def _mean_over_labels(values_B, labels_B, weight_K, ignore_index: int):
    """Take the mean over the labels that count, by their weights. Values are weighted already."""
    # With shares of 1 it has the bits of `values_B.mean()`.
    total = _shares(labels_B, weight_K, ignore_index).sum().to(values_B.dtype)
    return values_B.mean() * (len(values_B) / total.masked_fill(total == 0, 1))


def _shares(labels_B, weight_K, ignore_index: int) -> torch.Tensor:
    """Give the weight of each label, [B]; 0 for those that do not count."""
    shares_B = labels_B != ignore_index
    return shares_B if weight_K is None else weight_K[labels_B.where(shares_B, 0)] * shares_B
