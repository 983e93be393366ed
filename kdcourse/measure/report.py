"""The report: networks side by side, as text, as HTML and as plain Python.

Shapes: N samples, K classes.
"""

import contextlib
import dataclasses
import functools
import itertools
import statistics
from html import escape

import torch
from torch import nn

from kdcourse import schemes
from kdcourse.data import SPLITS, Dataset, check_dataset
from kdcourse.measure import efficiency, quality
from kdcourse.measure.passes import check_same_order, marked_split
from kdcourse.taps import device_of, predict
from kdcourse.tasks import ONE_LABEL, Classes, Numbers, Task
from kdcourse.teachers import Teacher


@dataclasses.dataclass
class Report:
    """Hold a table of networks: `rows` by network, each with one number per quantity.

    partner: whom the students are compared with. batch: samples at once for the throughput, which
    counts in `unit`. device, threads: on what it was measured.
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
        """Give plain Python, for a results file."""
        return dataclasses.asdict(self)

    def caption(self) -> str:
        """Say what was measured, and on what."""
        threads = f", 1 thread for the latency and {self.threads} for the throughput"
        return f"{self.title}; on {self.device}{threads if self.device == 'cpu' else ''}"

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Give the header, and one line of text per quantity that some network has."""
        lines = []
        for key, (title, form) in self.FORMATS.items():
            values = [row.get(key) for row in self.rows.values()]
            if any(value is not None for value in values):
                texts = ["–" if value is None else form.format(value) for value in values]
                lines.append([title.format_map(vars(self)), *texts])
        return ["", *self.rows], lines

    def __repr__(self):
        return self.caption() + "\n" + text_table(*self.cells())

    def _repr_html_(self):
        return html_table(*self.cells(), self.caption())


def report(scheme, data: Dataset, split: str = "test", batch: int = 128) -> Report:
    """Put student and teacher side by side on one split: quality, size and speed.

    Columns: each teacher that answers for these inputs (an ensemble is one column: the sum of its
    networks), and the networks that the scheme trains (`Scheme.networks`), each compared with the
    mean over its `Scheme.partners`: students of `Mutual` with their peers, exits of `MultiExit`
    with the end.

    Rows: what `evaluate` gives, for more than five classes also top-5 accuracy; parameters,
    multiply-accumulates, the weights as a safetensors file, latency and peak memory of one sample,
    throughput with `batch` samples at once, on this machine. Times are medians and interquartile
    ranges. Students are measured as they are exported: without hooks, not compiled. A teacher whose
    outputs are not of the data's classes has sizes and times only. Outputs without labels that no
    term compares as classes, such as embeddings, are compared as numbers.

    Raises `ValueError` for a loader that gives other samples, or another order, in each pass.
    """
    schemes.check_scheme(scheme)
    check_dataset(data)
    if split not in SPLITS:
        raise ValueError(f"Expected one of the splits {list(SPLITS)}, got {split!r}.")
    teachers, students, device = scheme.teachers, scheme.networks(), device_of(scheme.student)
    predictors = {name: teacher.predict for name, teacher in teachers.items()} | {
        name: functools.partial(predict, student) for name, student in students.items()}
    logits, labels, marks = {}, None, []
    for name, predictor in predictors.items():
        try:
            logits[name], labels, seen = marked_split(predictor, getattr(data, split))
            marks += [] if logits[name] is None else [seen]
        except (TypeError, ValueError):  # outputs that are no rows of this task, such as features
            if name in students and scheme.reads_logits:
                raise
            logits[name] = torch.zeros(0, 0)
    check_same_order(marks, split)
    logits = {name: found for name, found in logits.items() if found is not None}
    networks = {name: _AsNetwork(teacher) for name, teacher in teachers.items()
                if teacher.networks()} | students
    rows, task = {}, task_of(scheme, data)
    with contextlib.ExitStack() as stack:
        # The networks behind stored answers may be on another device than the student.
        for part in itertools.chain(students.values(), *(t.networks() for t in teachers.values())):
            stack.callback(part.to, device_of(part))
            part.to(device)
        for name, found in logits.items():
            partners = scheme.partners(name, list(logits)) if name in students else []
            others = [logits[partner] for partner in partners if partner in logits]
            rows[name] = _quality(found, labels, others, task)
            if name in networks:
                rows[name] |= _costs(networks[name], data.train.head(1), batch)
    partner = scheme.partner
    if teachers:
        partner = next(iter(teachers)) if len(teachers) == 1 else "its teachers"
    kind = ("samples" if data.task.plain or not data.task.has_classes else
            f"rows of {data.task!r}")
    if isinstance(data.task, Classes) and data.task.partly and labels is not None:
        kind = "samples with a label"
    title = f"{data.name}, {max(map(len, logits.values())):,} {kind} of the {split} split"
    unit = "images" if not isinstance(data.shape, dict) and len(data.shape) == 3 else "samples"
    return Report(title, rows, partner, batch, device.type, torch.get_num_threads(), unit)


def task_of(scheme, data: Dataset) -> Task:
    """Give the task by which outputs are measured: that of the data, or `Numbers` where the data
    have no classes and no term compares the outputs as classes, such as embeddings."""
    classes = bool(data.classes) or any(
        term.needs_classes and term.on_rows
        for one in scheme.objectives() for term in one.terms.values())
    return data.task if classes else Numbers()


def _quality(logits_MK: torch.Tensor, labels, others, task) -> dict:
    """Evaluate rows of logits, and compare them with each of `others`; the mean is reported."""
    if not logits_MK.numel() or not _fits(logits_MK, labels):
        return {}
    task = ONE_LABEL if task.has_classes else task  # the logits are rows already
    row = quality.evaluate(logits_MK, labels, task=task)
    if task.has_classes and labels is not None and logits_MK.shape[1] > 5:
        row["top5"] = quality.top_k(logits_MK, labels)
    pairs = [quality.evaluate(logits_MK, None, other, task) for other in others
             if other.shape == logits_MK.shape]
    for key in pairs[0] if pairs else ():
        row[key] = statistics.fmean(pair[key] for pair in pairs)
    return row


def _fits(logits_MK: torch.Tensor, labels) -> bool:
    """Whether the logits are of the classes of the labels; those of a teacher need not be."""
    if labels is None or labels.ndim == 2:
        return labels is None or labels.shape == logits_MK.shape
    return len(labels) == len(logits_MK) and int(labels.max()) < logits_MK.shape[1]


def _costs(model: nn.Module, example, batch: int) -> dict:
    latency = efficiency.latency(model, example)
    throughput = efficiency.throughput(model, example, batch)
    return {"parameters": efficiency.parameters(model), "macs": efficiency.macs(model, example),
            "file_mb": efficiency.file_mb(model),
            "latency_ms": latency[0], "latency_iqr_ms": latency[1],
            "throughput": throughput[0], "throughput_iqr": throughput[1],
            "peak_mb": efficiency.peak_memory(model, example)}


class _AsNetwork(nn.Module):
    """Wrap a teacher as a network on raw inputs, with its weights in the `state_dict`."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.networks, self._teacher = nn.ModuleList(teacher.networks()), (teacher,)

    def forward(self, *args, **kwargs):
        # Students are not compiled here either. A teacher without logits raises after its pass.
        with torch.compiler.set_stance("force_eager"), contextlib.suppress(TypeError):
            return self._teacher[0].predict(kwargs or args[0])


def text_table(header: list[str], lines: list[list[str]]) -> str:
    """Make columns of equal width: the first to the left, the others to the right. A cell of two
    lines becomes one."""
    rows = [[cell.replace("\n", " ") for cell in line] for line in (header, *lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if i else cell.ljust(width)
                  for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows)


def html_table(header: list[str], lines: list[list[str]], caption: str) -> str:
    """Make the same as an HTML table that takes its colours from the page."""
    def text(cell: str) -> str:
        return escape(cell).replace("\n", "<br>")

    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in header[1:])
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{text(line[0])}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in line[1:]) + "</tr>" for line in lines)
    return (f'<table class="table"><caption>{escape(caption)}</caption>'
            f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>")
