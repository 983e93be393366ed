"""The report: networks side by side, as text, as HTML and as plain Python.

Shapes: N samples, K classes.
"""

import contextlib
import dataclasses
import functools
import statistics

import torch
from torch import nn

from kdcourse import schemes
from kdcourse.data import Dataset
from kdcourse.measure import efficiency, quality
from kdcourse.taps import answers, device_of, predict
from kdcourse.tasks import ONE_LABEL
from kdcourse.teachers import Teacher


@dataclasses.dataclass
class Report:
    """A table of networks: one column for each, `rows` by name with one number per quantity.

    partner: whom the students are compared with. batch: how many samples at once for the
    throughput, which counts in `unit`. device, threads: on what it was measured.
    """

    title: str
    rows: dict[str, dict]
    partner: str = "teacher"
    batch: int = 128
    device: str = "cpu"
    threads: int = 1
    unit: str = "images"

    FORMATS = {  # noqa: RUF012
        "accuracy": ("accuracy", "{:.1%}"), "top5": ("top-5 accuracy", "{:.1%}"),
        "agreement": ("agrees with {partner}", "{:.1%}"),
        "r2": ("R²", "{:.3f}"), "rmse": ("RMSE", "{:.4g}"),
        "teacher_rmse": ("RMSE to {partner}", "{:.4g}"),
        "nll": ("NLL (nats)", "{:.3f}"), "ece": ("ECE", "{:.3f}"),
        "teacher_kl": ("KL to {partner} (nats)", "{:.3f}"), "parameters": ("parameters", "{:,}"),
        "macs": ("MACs", "{:,}"), "file_mb": ("file (MB)", "{:.3g}"),
        "latency_ms": ("latency, batch 1 (ms)", "{:.2f}"),
        "latency_iqr_ms": ("its spread (IQR, ms)", "{:.2f}"),
        "throughput": ("throughput, batch {batch} ({unit}/s)", "{:,.0f}"),
        "throughput_iqr": ("its spread (IQR, {unit}/s)", "{:,.0f}"),
        "peak_mb": ("peak memory, batch 1 (MB)", "{:.3g}"),
    }

    def to_dict(self) -> dict:
        """Plain Python, for a results file."""
        return dataclasses.asdict(self)

    def caption(self) -> str:
        """What was measured, and on what."""
        threads = f", 1 thread for the latency and {self.threads} for the throughput"
        return f"{self.title}; on {self.device}{threads if self.device == 'cpu' else ''}"

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """The header, and one line of text per quantity."""
        lines = [
            [title.format(partner=self.partner, batch=self.batch, unit=self.unit),
             *(form.format(row[key]) if row.get(key) is not None else "–"
               for row in self.rows.values())]
            for key, (title, form) in self.FORMATS.items()
            if any(row.get(key) is not None for row in self.rows.values())
        ]
        return ["", *self.rows], lines

    def __repr__(self):
        header, lines = self.cells()
        return self.caption() + "\n" + text_table(header, lines)

    def _repr_html_(self):
        header, lines = self.cells()
        return html_table(header, lines, self.caption())


def report(scheme, data: Dataset, split: str = "test", batch: int = 128) -> Report:
    """Put student and teacher side by side on one split: quality, size and speed.

    Columns: each teacher that answers for these inputs (an ensemble is one column: the sum of its
    networks), and the networks that the scheme trains (`Scheme.networks`), each compared with the
    mean over its `Scheme.partners`: students of `Mutual` with their peers, exits of `MultiExit`
    with the end.

    Rows: accuracy, also top-5 where there are more than five classes, agreement with the teacher,
    NLL, ECE, KL(teacher || student); parameters, multiply-accumulates, the weights as a safetensors
    file, latency and peak memory of one image, throughput with `batch` images at once, on this
    machine. Times are medians and interquartile ranges. Students are measured as they are exported:
    without hooks, not compiled. Of tokens, pixels and several labels those that count are measured;
    of numbers R² and the root mean squared error; without labels what compares with the teacher. A
    teacher whose outputs are not of the data's classes has sizes and times only.
    """
    if not isinstance(scheme, schemes.Scheme):
        raise TypeError(f"Expected a scheme such as Distiller(student, teacher), got "
                        f"{type(scheme).__name__}. For a network alone: report(Supervised(net), "
                        "data).")
    teachers, networks = scheme.teachers, scheme.networks()
    device = device_of(scheme.student)
    columns = {name: (teacher.predict, _AsNetwork(teacher) if teacher.networks() else None)
               for name, teacher in teachers.items()}
    columns |= {name: (functools.partial(predict, network), network)
                for name, network in networks.items()}
    logits, labels = {}, None
    for name, (answer, _) in columns.items():
        try:
            logits[name], known = answers(answer, getattr(data, split))
        except ValueError:  # outputs that are no rows of this task, such as features
            if name in networks:
                raise
            logits[name], known = torch.zeros(0, 0), None
        labels = labels if known is None else known
    logits = {name: found for name, found in logits.items() if found is not None}
    rows = {}
    for name, found in logits.items():
        partners = scheme.partners(name, list(logits)) if name in networks else []
        others = [logits[one] for one in partners if one in logits]
        others = [other for other in others if other.shape == found.shape]
        rows[name] = _right(found, labels, others, data.task) if _fits(found, labels) else {}
        _, network = columns[name]
        if network is not None:
            with _moved(network, device):
                rows[name] |= _costs(network, data.train.head(1), batch)
    partner = scheme.partner
    if teachers:
        partner = next(iter(teachers)) if len(teachers) == 1 else "its teachers"
    kind = "samples" if data.task.plain else f"rows of {data.task!r}"
    images = not isinstance(data.shape, dict) and len(data.shape) == 3
    return Report(f"{data.name}, {max(map(len, logits.values())):,} {kind} of the {split} split",
                  rows, partner, batch, device.type, torch.get_num_threads(),
                  "images" if images else "samples")


def _fits(logits_MK: torch.Tensor, labels) -> bool:
    """Whether the logits stand for the classes of the labels; those of a teacher need not."""
    if labels is None or labels.ndim == 2:
        return labels is None or labels.shape == logits_MK.shape
    return len(labels) == len(logits_MK) and int(labels.max()) < logits_MK.shape[1]


def _right(logits_MK: torch.Tensor, labels, others, task) -> dict:
    task = ONE_LABEL if task.has_classes else task  # the logits are rows already
    row = quality.evaluate(logits_MK, labels, task=task)
    if task.has_classes and labels is not None and logits_MK.shape[1] > 5:
        row["top5"] = quality.top_k(logits_MK, labels)
    pairs = [quality.evaluate(logits_MK, labels, other, task) for other in others]
    for key in pairs[0].keys() - row.keys() if pairs else ():
        row[key] = statistics.fmean(pair[key] for pair in pairs)
    return row


@contextlib.contextmanager
def _moved(model: nn.Module, device):
    """Move the model to that device; networks behind stored answers may lie on another."""
    parts = list(model.networks) if isinstance(model, _AsNetwork) else [model]
    before = [device_of(part) for part in parts]
    model.to(device)
    try:
        yield
    finally:
        for part, place in zip(parts, before, strict=True):
            part.to(place)


def _costs(model: nn.Module, example, batch: int) -> dict:
    latency = efficiency.latency(model, example)
    throughput = efficiency.throughput(model, example, batch)
    return {"parameters": efficiency.parameters(model), "macs": efficiency.macs(model, example),
            "file_mb": efficiency.file_mb(model),
            "latency_ms": latency[0], "latency_iqr_ms": latency[1],
            "throughput": throughput[0], "throughput_iqr": throughput[1],
            "peak_mb": efficiency.peak_memory(model, example)}


class _AsNetwork(nn.Module):
    """A teacher as a network on raw inputs, with its weights in the `state_dict`."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.networks, self._teacher = nn.ModuleList(teacher.networks()), (teacher,)

    def forward(self, *args, **kwargs):
        with torch.compiler.set_stance("force_eager"):  # as students are measured
            return self._teacher[0].predict(kwargs or args[0])


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
