"""What a student is worth: accuracy, calibration, agreement with its teacher, size and speed.

Shapes: N samples, K classes. Functions take logits [N, K] and labels [N] and return a float.
"""

import dataclasses
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse import _files, losses, models
from kdcourse.data import Dataset


def accuracy(logits_NK: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of samples whose largest logit is the label's, in [0, 1].

    >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    0.5
    """
    return float((logits_NK.argmax(1) == _hard(labels)).float().mean())


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


# --- size and speed -----------------------------------------------------------------------------


def parameters(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulate operations for one input of `shape` [C, H, W].

    Matrix products, convolutions and attention, as torch's own counter sees them.

    >>> macs(nn.Linear(10, 5), (10,))
    50
    """
    from torch.utils.flop_counter import FlopCounterMode

    with models.evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape, device=models.device_of(model)))
    return counter.get_total_flops() // 2  # it counts the multiplication and the addition


def latency(model: nn.Module, shape: tuple[int, ...], batch: int = 1, seconds: float = 0.5):
    """Milliseconds for one call on a batch: (median, interquartile range), after a warm-up.

    On the model's device; on a CPU with one thread, as a small device would run it.
    `seconds` is how long to measure.
    """
    device = models.device_of(model)
    x = torch.rand(batch, *shape, device=device)
    wait = getattr(torch, device.type).synchronize if device.type != "cpu" else lambda: None
    seconds = 0.02 if _files.smoke() else seconds
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with models.evaluating(model), torch.inference_mode():
            times, end = [], time.perf_counter() + 1.2 * seconds
            while time.perf_counter() < end or len(times) < 25:
                start = time.perf_counter()
                model(x)
                wait()
                times.append(1e3 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    low, median, high = statistics.quantiles(times[len(times) // 6 :])  # the first are the warm-up
    return median, high - low


# --- several seeds ------------------------------------------------------------------------------


def interval(values: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of the values and the ends of its confidence interval (Student's t).

    The ends are NaN for fewer than two values: one run says nothing about the spread.

    >>> interval([1.0, 2.0, 3.0])
    (2.0, -0.48..., 4.48...)
    """
    from scipy import stats

    if not values:
        raise ValueError("Expected at least one value, got none.")
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half


def paired_difference(ours: list[float], baseline: list[float], level: float = 0.95):
    """Mean of `ours - baseline`, seed by seed, and the ends of its confidence interval.

    Two arms that share data order and seed share part of their luck; the pairs take it out.
    """
    if len(ours) != len(baseline):
        raise ValueError(f"Expected pairs, got {len(ours)} and {len(baseline)} values. "
                         "Run both arms on the same seeds.")
    return interval([a - b for a, b in zip(ours, baseline, strict=True)], level)


# --- the report ---------------------------------------------------------------------------------


@dataclasses.dataclass
class Report:
    """A table of networks: `columns` by name, and one row of numbers each."""

    title: str
    rows: dict[str, dict]

    FORMATS = {  # noqa: RUF012
        "accuracy": ("accuracy", "{:.1%}"), "agreement": ("agrees with teacher", "{:.1%}"),
        "nll": ("NLL (nats)", "{:.3f}"), "ece": ("ECE", "{:.3f}"),
        "teacher_kl": ("KL to teacher (nats)", "{:.3f}"), "parameters": ("parameters", "{:,}"),
        "macs": ("MACs", "{:,}"), "latency_ms": ("latency, batch 1 (ms)", "{:.2f}"),
        "latency_iqr_ms": ("its spread (IQR, ms)", "{:.2f}"),
    }

    def to_dict(self) -> dict:
        """Plain Python, for a results file."""
        return dataclasses.asdict(self)

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """The header, and one line of text per quantity."""
        lines = [
            [title, *(form.format(row[key]) if row.get(key) is not None else "–"
                      for row in self.rows.values())]
            for key, (title, form) in self.FORMATS.items()
            if any(row.get(key) is not None for row in self.rows.values())
        ]
        return ["", *self.rows], lines

    def __repr__(self):
        header, lines = self.cells()
        return self.title + "\n" + text_table(header, lines)

    def _repr_html_(self):
        header, lines = self.cells()
        return html_table(header, lines, self.title)


def report(scheme, data: Dataset, split: str = "test") -> Report:
    """Student and teacher side by side on one split: right, calibrated, alike, small, fast?

    Latency is for one sample on this machine (median and interquartile range).
    """
    part = getattr(data, split)
    rows, teacher_logits = {}, None
    teacher = getattr(scheme, "teacher", None)
    networks = {"student": scheme.student}
    if teacher is not None:
        model = getattr(getattr(teacher, "source", None) or teacher, "model", None)
        if model is not None:
            networks = {"teacher": model, **networks}
            teacher_logits = models.predict(model, part.x)
    for name, model in networks.items():
        logits = models.predict(model, part.x)
        labels = part.y.to(logits.device)
        against = teacher_logits if name != "teacher" else None
        median, spread = latency(model, data.shape)
        rows[name] = evaluate(logits, labels, against) | {
            "parameters": parameters(model), "macs": macs(model, data.shape),
            "latency_ms": median, "latency_iqr_ms": spread,
        }
    return Report(f"{data.name}, {len(part):,} samples of the {split} split", rows)


def text_table(header: list[str], lines: list[list[str]]) -> str:
    """Columns of equal width: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *lines]) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                  for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in [header, *lines]
    )


def html_table(header: list[str], lines: list[list[str]], caption: str) -> str:
    """The same as an HTML table that takes its colours from the page."""
    from html import escape

    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header[1:])
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(line[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in line[1:]) + "</tr>" for line in lines
    )
    return (f'<table class="table"><caption>{escape(caption)}</caption>'
            f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>")
