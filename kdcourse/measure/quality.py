"""How good the answers are, and where they changed.

Shapes: N samples, K classes. Functions take logits [N, K] and labels [N] (or soft ones [N, K]).
"""

import torch
import torch.nn.functional as F

from kdcourse import losses


def accuracy(logits_NK: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of samples whose largest logit is the label's, in [0, 1].

    >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    0.5
    """
    return float((logits_NK.argmax(1) == _hard(labels)).float().mean())


def top_k(logits_NK: torch.Tensor, labels: torch.Tensor, k: int = 5) -> float:
    """The share of samples whose label is among the k largest logits, in [0, 1].

    Of equal logits the first class counts as the larger, as in `accuracy`, which is k = 1.
    Raises `ValueError` unless 1 <= k <= K.

    >>> top_k(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([1, 2]), k=2)
    0.5
    """
    classes = logits_NK.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"Expected k from 1 to the number of classes, {classes}, got {k}.")
    labels_N1 = _hard(labels).to(logits_NK.device)[:, None]
    own_N1 = logits_NK.gather(1, labels_N1)
    ahead_NK = ~(logits_NK <= own_N1)  # not "above", so that NaN never counts as right
    first_NK = torch.arange(classes, device=logits_NK.device) < labels_N1
    ahead_NK |= (logits_NK == own_N1) & first_NK
    return float((ahead_NK.sum(1) < k).float().mean())


def nll(logits_NK: torch.Tensor, labels: torch.Tensor) -> float:
    """Negative log-likelihood of the labels, in nats per sample: the cross-entropy at T = 1."""
    return float(losses.cross_entropy(logits_NK, labels))


def reliability(logits_NK: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> list[dict]:
    """How often the network is right, by how sure it was: the rows of a reliability diagram.

    The confidence of an answer is its largest probability. Rows: equal bins (low, high] of the
    confidence, with count, mean confidence and accuracy (None in an empty bin).
    """
    # On the CPU, because not every device has float64.
    confidence, answer = logits_NK.cpu().double().softmax(1).max(1)
    right = (answer == _hard(labels).cpu()).double()
    # ceil - 1: a value on an edge belongs to the bin below, as in Guo et al. 2017.
    which = ((confidence * bins).ceil() - 1).clamp(0, bins - 1).long()
    rows = []
    for i in range(bins):
        inside = which == i
        count = int(inside.sum())
        rows.append({
            "low": i / bins, "high": (i + 1) / bins, "count": count,
            "confidence": float(confidence[inside].mean()) if count else None,
            "accuracy": float(right[inside].mean()) if count else None,
        })
    return rows


def ece(logits_NK: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    r"""Expected calibration error: the mean distance between confidence and accuracy, in [0, 1].

    .. math:: \sum_b \frac{n_b}{N} \, |\mathrm{acc}_b - \mathrm{conf}_b|

    Guo et al. 2017, section 2 (arXiv:1706.04599), 15 bins of equal width.

    >>> ece(torch.tensor([[9.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])) > 0.24  # sure, 3 of 4 right
    True
    """
    rows = [row for row in reliability(logits_NK, labels, bins) if row["count"]]
    gaps = [row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows]
    return sum(gaps) / len(labels)


def agreement(logits_NK: torch.Tensor, teacher_NK: torch.Tensor) -> float:
    """The share of samples to which two networks give the same class, right or wrong.

    "Fidelity" in Stanton et al. 2021 (arXiv:2106.05945).
    """
    return float((logits_NK.argmax(1) == teacher_NK.argmax(1)).float().mean())


def teacher_kl(logits_NK: torch.Tensor, teacher_NK: torch.Tensor) -> float:
    """KL(teacher || student) at T = 1, in nats per sample."""
    return float(losses.kd(logits_NK, teacher_NK, T=1))


def entropy(logits_NK: torch.Tensor, T: float = 1.0) -> torch.Tensor:
    """The entropy of softmax(logits / T), in nats, [N], on the CPU."""
    log_p = F.log_softmax(logits_NK.cpu().double() / T, 1)
    p = log_p.exp()
    return -(p * log_p.masked_fill(p == 0, 0)).sum(1)


def per_class(logits_NK: torch.Tensor, labels: torch.Tensor, classes: int) -> list[float | None]:
    """The accuracy on the samples of each class; None for a class without samples."""
    labels = _hard(labels).cpu()
    right = (logits_NK.argmax(1).cpu() == labels).double()
    return [float(right[labels == k].mean()) if (labels == k).any() else None
            for k in range(classes)]


def confusion(logits_NK: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Counts [K, K]: row = label, column = the network's answer."""
    labels, classes = _hard(labels), logits_NK.shape[1]
    flat = labels * classes + logits_NK.argmax(1).to(labels.device)
    return torch.bincount(flat, minlength=classes**2).view(classes, classes)


def confusion_moved(before_NK: torch.Tensor, after_NK: torch.Tensor,
                    labels: torch.Tensor) -> torch.Tensor:
    """The confusions that came and those that went away, from one network to another.

    Counts [K, K], `confusion` after minus before: row = label, column = answer. Off the diagonal a
    number above 0 is a confusion that came, one below 0 a confusion that went away; on the diagonal
    are right answers won or lost. Every row adds up to 0, because both saw the same samples.

    Raises `ValueError` when the networks do not answer for the same samples and classes.

    >>> before, after = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    >>> confusion_moved(before, after, torch.tensor([0])).tolist()
    [[1, -1], [0, 0]]
    """
    _check_same(before_NK, after_NK)
    return confusion(after_NK, labels) - confusion(before_NK, labels)


def per_class_gain(before_NK: torch.Tensor, after_NK: torch.Tensor,
                   labels: torch.Tensor) -> list[float | None]:
    """`per_class` accuracy after minus before, in [-1, 1]; None for a class without samples.

    Raises `ValueError` when the networks do not answer for the same samples and classes.

    >>> before, after = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    >>> per_class_gain(before, after, torch.tensor([0]))
    [1.0, None]
    """
    _check_same(before_NK, after_NK)
    classes = before_NK.shape[1]
    pairs = zip(per_class(before_NK, labels, classes), per_class(after_NK, labels, classes),
                strict=True)
    return [None if before is None else after - before for before, after in pairs]


def evaluate(logits_NK: torch.Tensor, labels: torch.Tensor, teacher_NK=None) -> dict[str, float]:
    """accuracy, nll and ece; with a teacher's logits also agreement and teacher_kl."""
    result = {"accuracy": accuracy(logits_NK, labels), "nll": nll(logits_NK, labels),
              "ece": ece(logits_NK, labels)}
    if teacher_NK is not None:
        teacher_NK = teacher_NK.to(logits_NK.device)
        result["agreement"] = agreement(logits_NK, teacher_NK)
        result["teacher_kl"] = teacher_kl(logits_NK, teacher_NK)
    return result


def _hard(labels: torch.Tensor) -> torch.Tensor:
    return labels if labels.ndim == 1 else labels.argmax(1)


def _check_same(before_NK: torch.Tensor, after_NK: torch.Tensor) -> None:
    if before_NK.shape != after_NK.shape:
        raise ValueError(
            f"Expected logits of two networks for the same samples and classes, got shapes "
            f"{list(before_NK.shape)} and {list(after_NK.shape)}. Predict on the same split."
        )
