"""How good the answers of a network are, and how close to its teacher's.

Shapes: N samples, K classes. Functions take logits [N, K] and labels [N] (or soft ones [N, K]),
each tensor on any device. What does not fit raises `ValueError`: other shapes, no samples, one
class, labels outside 0 … K - 1 (also -100: `evaluate` with a task leaves
out samples without a label, for the others select first), soft labels that
do not sum to 1 and, where the softmax is taken, probabilities in the place of logits.

A network that diverged has logits that are not numbers (NaN). Such a sample has no answer: it is
not right, does not agree, and makes nll, ece and teacher_kl NaN.
"""

import math

import torch
import torch.nn.functional as F

from kdcourse import losses
from kdcourse.tasks import ONE_LABEL, Numbers, Task


def accuracy(logits_NK: torch.Tensor, labels: torch.Tensor) -> float:
    """Give the share of samples whose largest logit is the label's, in [0, 1].

    >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    0.5
    """
    return float(_right(logits_NK, labels).float().mean())


def top_k(logits_NK: torch.Tensor, labels: torch.Tensor, k: int = 5) -> float:
    """Give the share of samples whose label is among the k largest logits, in [0, 1].

    Of equal logits the first class counts as the larger, as in `accuracy`, which is k = 1.
    Raises `ValueError` unless 1 <= k <= K.

    >>> top_k(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([1, 2]), k=2)
    0.5
    """
    labels_N1 = _class_numbers(logits_NK, labels)[:, None]
    classes = torch.arange(logits_NK.shape[1], device=logits_NK.device)
    if not 1 <= k <= len(classes):
        raise ValueError(f"Expected k from 1 to the number of classes, {len(classes)}, got {k}.")
    own_N1 = logits_NK.gather(1, labels_N1)
    ahead_NK = ~(logits_NK <= own_N1)  # not ">", so that NaN never counts as right
    ahead_NK |= (logits_NK == own_N1) & (classes < labels_N1)
    return float((ahead_NK.sum(1) < k).float().mean())


def nll(logits_NK: torch.Tensor, labels: torch.Tensor) -> float:
    """Give the negative log-likelihood of the labels, in nats per sample."""
    _check_no_probabilities(logits_NK)
    labels = _checked_labels(logits_NK, labels)
    return float(losses.cross_entropy(logits_NK, labels.to(logits_NK.device)))


def reliability(logits_NK: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> list[dict]:
    """Give accuracy by confidence (the largest probability): the rows of a reliability diagram.

    Rows: equal bins (low, high] of the confidence, with count, mean confidence and accuracy (None
    in an empty bin). A sample whose confidence is NaN is in no bin.
    """
    losses.inputs.check_count("bins", bins)
    _check_no_probabilities(logits_NK)
    right = _right(logits_NK, labels).cpu().double()
    confidence = _confidence(logits_NK)
    # ceil - 1: a value on an edge belongs to the bin below, as in Guo et al. 2017.
    which = ((confidence * bins).ceil() - 1).clamp(0, bins - 1).nan_to_num(-1).long()
    rows = []
    for i in range(bins):
        inside = which == i
        means = [float(values[inside].mean()) if inside.any() else None
                 for values in (confidence, right)]
        rows.append({"low": i / bins, "high": (i + 1) / bins, "count": int(inside.sum()),
                     "confidence": means[0], "accuracy": means[1]})
    return rows


def ece(logits_NK: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    r"""Give the expected calibration error: the mean distance of accuracy and confidence, 0 to 1.

    .. math:: \sum_b \frac{n_b}{N} \, |\mathrm{acc}_b - \mathrm{conf}_b|

    Guo et al. 2017, section 2 (arXiv:1706.04599), with the bins of `reliability`. `nan` where a
    confidence is.

    >>> ece(torch.tensor([[9.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])) > 0.24  # confidence 1
    True
    """
    rows = [row for row in reliability(logits_NK, labels, bins) if row["count"]]
    if sum(row["count"] for row in rows) < len(logits_NK):
        return math.nan
    gaps = [row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows]
    return sum(gaps) / len(labels)


def _confidence(logits_NK: torch.Tensor) -> torch.Tensor:
    """Compute the largest probability, in float64 on the CPU: not every device has float64."""
    return logits_NK.cpu().double().softmax(1).amax(1)


def agreement(logits_NK: torch.Tensor, teacher_NK: torch.Tensor) -> float:
    """Give the share of samples with the same class from both networks, right or wrong.

    "Fidelity" in Stanton et al. 2021 (arXiv:2106.05945).
    """
    losses.inputs.logits_pair(logits_NK, teacher_NK)
    teacher_NK = teacher_NK.detach().to(logits_NK.device)
    numbers = ~teacher_NK.isnan().any(1)
    return float((_right(logits_NK, teacher_NK.argmax(1)) & numbers).float().mean())


def teacher_kl(logits_NK: torch.Tensor, teacher_NK: torch.Tensor) -> float:
    """Give KL(teacher || student) at T = 1, in nats per sample."""
    for x_NK in (logits_NK, teacher_NK):
        losses.inputs.logits(x_NK, "the")
    logits_NK, teacher_NK = logits_NK.detach(), teacher_NK.detach()
    losses.inputs.logits_pair(logits_NK, teacher_NK)
    _check_no_probabilities(logits_NK, teacher_NK)
    return float(losses.kd(logits_NK, teacher_NK.to(logits_NK.device), T=1))


def entropy(logits_NK: torch.Tensor, T: float = 1.0) -> torch.Tensor:
    """Give the entropy of softmax(logits / T), in nats, [N], on the CPU."""
    losses.inputs.check_temperature(T)
    losses.inputs.logits(logits_NK, "the")
    _check_no_probabilities(logits_NK)
    log_p = F.log_softmax(logits_NK.cpu().double() / T, 1)
    p = log_p.exp()
    return -(p * log_p.masked_fill(p == 0, 0)).sum(1)


def per_class(logits_NK: torch.Tensor, labels: torch.Tensor, classes: int) -> list[float | None]:
    """Give the accuracy on the samples of each class; None for a class without samples."""
    labels, right = _class_numbers(logits_NK, labels).cpu(), _right(logits_NK, labels)
    if classes <= int(labels.max()):
        raise ValueError(f"Expected labels from 0 to {classes - 1} for classes={classes}, got "
                         f"{int(labels.max())}.")
    right = right.cpu().double()
    return [float(right[labels == k].mean()) if (labels == k).any() else None
            for k in range(classes)]


def recall_at_1(features_ND: torch.Tensor, labels: torch.Tensor, metric: str = "cosine",
                batch: int = 500) -> float:
    r"""Give the share of samples whose nearest neighbour is of their class, in [0, 1].

    .. math:: \frac{1}{N} \sum_i \big[\, y_{n(i)} = y_i \,\big], \qquad
        n(i) = \arg\min_{j \neq i} d(x_i, x_j)

    Retrieval as in metric learning (Oh Song et al. 2016, arXiv:1511.06452), also for classes that
    were not in the training. Of equally near neighbours the share that is of the class counts; the
    only sample of a class is left out: so chance is the share of the class among the other samples.
    A vector of 0 has the cosine 0 with all.

    features_ND: one vector per sample [N, D]; further dimensions are flattened.
    metric: "cosine" or "euclidean".
    batch: samples compared with all others at once. It changes memory (about twice batch * N
        numbers of 8 bytes, 80 MB for 10,000 samples) and time, not the result.

    In float64 on the CPU. `nan` for features that are not finite, and where no class has two
    samples. Raises `ValueError` for fewer than 2 samples, other than N labels, an unknown metric.

    >>> features = torch.tensor([[1.0, 0.0], [9.0, 1.0], [0.0, 2.0], [0.1, 9.0]])
    >>> recall_at_1(features, torch.tensor([0, 0, 1, 1]))  # by direction
    1.0
    >>> recall_at_1(features, torch.tensor([0, 0, 1, 1]), "euclidean")  # the long ones are far away
    0.5
    """
    losses.inputs.check_choice("metric", metric, ("cosine", "euclidean"))
    N = len(features_ND)
    if N < 2 or len(labels) != N:
        raise ValueError(f"Expected features and labels of the same samples, at least 2, got {N} "
                         f"and {len(labels)}. Show both of them one split.")
    K = max(2, labels.shape[1] if labels.ndim == 2 else 1 + int(labels.max()))
    labels = _class_numbers(torch.empty(N, K), labels)
    x_ND = features_ND.detach().cpu().double().reshape(N, -1)
    if not torch.isfinite(x_ND).all():
        return math.nan
    x_ND = x_ND / x_ND.abs().max().clamp(min=1e-300)  # so that squares stay in range
    if metric == "cosine":
        x_ND = F.normalize(x_ND / x_ND.abs().amax(1, keepdim=True).clamp(min=1e-300))
    else:
        x_ND = x_ND - x_ND.mean(0)  # far from 0, products would lose the digits of a distance
    norms_N, shares = x_ND.square().sum(1), []
    for rows in torch.arange(N).split(batch):
        # The squared distance, without the sample's own |x|², which is the same for all.
        distance = torch.addmm(norms_N, x_ND[rows], x_ND.T, alpha=-2)
        distance[torch.arange(len(rows)), rows] = math.inf  # from itself
        smallest, nearest = distance.min(1)
        tied = distance <= (smallest + 1e-13 * (norms_N[rows] + norms_N[nearest]))[:, None]
        same_class = labels == labels[rows][:, None]
        share = (tied & same_class).sum(1) / tied.sum(1).double()
        shares.append(share[same_class.sum(1) > 1])
    return float(torch.cat(shares).mean())  # the mean of nothing is nan


def confusion(logits_NK: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Count answers [K, K], on the CPU: row = label, column = the network's class. Raises
    `ValueError` for logits that are NaN, which are no class."""
    labels, classes = _class_numbers(logits_NK, labels).cpu(), logits_NK.shape[1]
    broken = int(logits_NK.isnan().any(1).sum())
    losses.inputs.check(broken == 0, "logits that are numbers", f"NaN in {broken} samples",
                        "Count the others, or find out why the network diverged.")
    flat = labels * classes + logits_NK.argmax(1).cpu()
    return torch.bincount(flat, minlength=classes**2).view(classes, classes)


def r2(outputs_ND: torch.Tensor, targets_ND: torch.Tensor) -> float:
    r"""Give the share of the variance that is explained, of all D numbers together; 1 at best.

    .. math:: 1 - \sum_{nd} (z_{nd} - y_{nd})^2 \,/\, \sum_{nd} (y_{nd} - \bar y_d)^2

    >>> r2(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [2.0], [4.0]]))  # 1 - 1 / 4.67
    0.785...
    """
    _check_numbers(outputs_ND, targets_ND)
    task = Numbers()
    return task.score(task.sums(task.rows(outputs_ND, y=targets_ND)))


def rmse(outputs_ND: torch.Tensor, targets_ND: torch.Tensor) -> float:
    """Give the root of the mean squared error, over samples and numbers."""
    _check_numbers(outputs_ND, targets_ND)
    difference = outputs_ND.cpu().double() - targets_ND.cpu().double()
    return float(difference.square().mean().sqrt())


def evaluate(logits_NK: torch.Tensor, labels, teacher_NK=None, task: Task = ONE_LABEL
             ) -> dict[str, float]:
    """Give accuracy, nll and ece; with a teacher's logits also agreement and teacher_kl.

    labels: None where there are none; then only what compares with the teacher.
    task: cuts outputs and labels into rows first, of which those that count are measured; `Numbers`
        have r2, rmse, and teacher_rmse.
    """
    def counted(outputs):
        return task.rows(outputs, y=None if labels is None else labels.to(outputs.device)).counted()

    teacher_NK = None if teacher_NK is None else counted(teacher_NK).logits
    logits_NK, labels = counted(logits_NK)[:2]
    with_labels = {"accuracy": accuracy, "nll": nll, "ece": ece}
    with_teacher = {"agreement": agreement, "teacher_kl": teacher_kl}
    if not task.has_classes:
        with_labels, with_teacher = {"r2": r2, "rmse": rmse}, {"teacher_rmse": rmse}
    result = {}
    for measures, target in ((with_labels, labels), (with_teacher, teacher_NK)):
        if target is not None:
            result |= {name: measure(logits_NK, target) for name, measure in measures.items()}
    return result


def _right(logits_NK: torch.Tensor, labels) -> torch.Tensor:
    """Tell whose largest logit is the label's, [N]; not where a logit is NaN, which `argmax` takes
    for the largest."""
    labels = _class_numbers(logits_NK, labels)
    return (logits_NK.argmax(1) == labels) & ~logits_NK.isnan().any(1)


def _class_numbers(logits_NK: torch.Tensor, labels) -> torch.Tensor:
    """Check labels, and give them as class numbers [N] beside the logits; of soft ones the largest.
    """
    labels = _checked_labels(logits_NK, labels)
    return (labels if labels.ndim == 1 else labels.argmax(1)).to(logits_NK.device)


def _checked_labels(logits_NK: torch.Tensor, labels) -> torch.Tensor:
    """Check logits and labels; give int64 [N], or soft [N, K], on the CPU, where ranges are read.
    """
    losses.inputs.logits(logits_NK, "the")
    labels = labels.cpu() if isinstance(labels, torch.Tensor) else labels
    if isinstance(labels, torch.Tensor) and labels.ndim == 1 and (labels == labels.long()).all():
        labels = labels.long()  # whole numbers, and True and False, of any dtype
    labels = losses.inputs.labels(logits_NK, labels)
    if labels.ndim == 2:
        wrong = ~((labels >= 0).all(1) & ((labels.double().sum(1) - 1).abs() < 1e-2))  # also of NaN
        losses.inputs.check(not wrong.any(), "soft labels that are at least 0 and sum to 1 in each "
                            "row", f"others in {int(wrong.sum())} of {len(labels)} rows",
                            "For several labels per sample give task=kd.tasks.Labels() to "
                            "`evaluate`.")
    return labels


def _check_no_probabilities(*given: torch.Tensor) -> None:
    """Raise for rows that all sum to 1 and have nothing below 0, whose softmax is another
    distribution."""
    for x_NK in given:
        losses.inputs.logits(x_NK, "the")
        sums = x_NK.float().sum(1)
        if bool((x_NK >= 0).all() & ((sums - 1).abs() < 1e-2).all()):
            raise ValueError(f"Expected logits, got {list(x_NK.shape)} of which each row sums to "
                             "1, as probabilities do. Leave out the softmax at the end of the "
                             "network, or pass their logarithm, probabilities.log().")


def _check_numbers(outputs_ND: torch.Tensor, targets_ND: torch.Tensor) -> None:
    """Raise unless both are of one shape [N, D], with something in it."""
    if outputs_ND.shape != targets_ND.shape or outputs_ND.ndim != 2 or 0 in outputs_ND.shape:
        raise ValueError(f"Expected outputs and targets of one shape [N, D], got "
                         f"{list(outputs_ND.shape)} and {list(targets_ND.shape)}. Of one number "
                         "per sample: targets[:, None].")
