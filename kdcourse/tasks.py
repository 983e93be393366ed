"""What a row is: how a network's output and the labels become rows of logits [M, K].

Losses on logits compare rows. With one label per sample a row is a sample; a sequence has a row for
each token, a segmented image one for each pixel, a sample with several labels one for each class.

Shapes: B batch, K classes, N tokens, H W height and width, D numbers, M rows.
"""

import dataclasses
from typing import NamedTuple

import torch

from kdcourse._labels import other_tasks


class Rows(NamedTuple):
    """The rows of one batch.

    logits: [M, K]. labels: [M], or soft [M, K]; None without labels. weight: [M], 0 where padded or
    ignored; None where all rows count. total: a scalar by which weighted sums are divided; None
    for the sum of `weight`. task: the task whose rows they are. whole: of a part of a batch, labels
    and weight of all rows of the batch, and the part's share of the samples. others: weight and
    total for terms that read no labels, where the task is `partly`.
    """

    logits: torch.Tensor
    labels: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    total: torch.Tensor | None = None
    task: "Task | None" = None
    whole: tuple | None = None
    others: tuple = (None, None)

    def counted(self) -> "Rows":
        """Keep the rows that count. Synchronises with the device: not for a training step."""
        if self.weight is None:
            return self
        kept = self.weight > 0
        labels = None if self.labels is None else self.labels[kept]
        return self._replace(logits=self.logits[kept], labels=labels, weight=None)

    def without_labels(self) -> "Rows":
        """Give the rows for terms that read no labels: those without a label count, too."""
        if self.task is None or not self.task.partly:
            return self
        return self._replace(labels=None, weight=self.others[0], total=self.others[1], whole=None)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Compute the weighted mean of one value per row, [M]; 0 where no row counts."""
        if self.weight is None:
            return values.mean()
        values = values.flatten(1).mean(1) if values.ndim > 1 else values
        weight = self.weight.to(values.dtype)
        total = weight.sum().clamp(min=1) if self.total is None else self.total.to(values.dtype)
        return (values * weight).masked_fill(weight == 0, 0).sum() / total


@dataclasses.dataclass(frozen=True)
class Task:
    """What the labels of a data set are. A task of your own is a subclass of one of those below.

    shape, axis: shape of an output, and its axis of classes. plain: an output is rows already.
    has_classes: whether rows are logits of classes. keeps_inputs: integers stay integers (token
    ids), and sequences of vectors [N, L, D] stay as they are. column: the score's, in a history.
    mask: the entry of a dict of inputs that is 0 for padding.
    ignore: the label of rows without one; None: every row has a label. partly: such a row still
    counts in terms that read no labels.
    """

    shape, axis = "[B, K]", 1
    plain, has_classes, keeps_inputs, partly = False, True, False, False
    column, mask = "val_accuracy", "attention_mask"
    ignore = None

    @property
    def ndim(self) -> int:
        """Count the dimensions of an output."""
        return self.shape.count(",") + 1

    def flat(self, output: torch.Tensor) -> torch.Tensor:
        """Cut an output into rows [M, K]. Raises `ValueError` for an output of another rank."""
        if output.ndim != self.ndim:
            raise ValueError(f"Expected logits of shape {self.shape} for {self!r}, got "
                             f"{list(output.shape)}. Wrap the model, or say what the labels are: "
                             "task=kd.tasks.….")
        return output if self.plain else output.movedim(self.axis, -1).flatten(0, -2)

    def labels(self, y: torch.Tensor) -> torch.Tensor:
        """Cut labels into those of the rows, [M] or soft [M, K]."""
        if self.plain:
            return y
        return y.movedim(self.axis, -1).flatten(0, -2) if y.is_floating_point() else y.flatten()

    def weight(self, x, y: torch.Tensor | None) -> torch.Tensor | None:
        """Give 1 for each row that counts, 0 for the others, [M]; None where all do. With `ignore`
        those count that have a label: a soft label of zeros is none."""
        if y is None or self.ignore is None:
            return None
        known = (y != 0).any(self.axis) if y.is_floating_point() else y != self.ignore
        return known.flatten().float()

    def rows(self, output: torch.Tensor, x=None, y=None, total=None) -> Rows:
        """Cut an output, and the labels where there are some, into rows."""
        flat = self.flat(output)
        labels, weight = None if y is None else self.labels(y), self.weight(x, y)
        for given, what in ((labels, "labels"), (weight, "a mask")):
            if given is not None and len(given) != len(flat):
                raise ValueError(f"Expected {what} for each of the rows of logits "
                                 f"{list(output.shape)}, got "
                                 f"{list((weight if y is None else y).shape)} for {self!r}. Bring "
                                 "the two to one length or size in the model (pixels: "
                                 "F.interpolate(logits, size)).")
        if labels is not None and weight is not None and not labels.is_floating_point():
            labels = labels.masked_fill(weight == 0, 0)  # any class: the row does not count
        others = (self.weight(x, None) if self.partly else None, None)
        if total is not None and total.ndim:  # of rows with a label, and of all
            total, others = total[0], (others[0], total[1])
        return Rows(flat, labels, weight, total, self, others=others)

    def outputs(self, output: torch.Tensor) -> int:
        """Count the classes of an output."""
        self.flat(output[:1])
        return output.shape[self.axis]

    def check_output(self, output: torch.Tensor, names, of: str) -> None:
        """Raise `ValueError` unless a student's output fits classes of these names."""
        found = self.outputs(output)
        if found < len(names):
            raise ValueError(f"Expected a student with an output for each of the {len(names)} "
                             f"classes of {of}, got {found}. Make it with classes={len(names)}."
                             + (" For one output with a sigmoid: task=kd.tasks.Labels()."
                                if found == 1 else ""))

    def hard(self, y: torch.Tensor) -> bool:
        """Tell class numbers from soft labels, which have the rank of an output."""
        return y.ndim == self.ndim - 1

    def known(self, y: torch.Tensor) -> torch.Tensor:
        """Give the class numbers of hard labels, without those that are ignored."""
        return y.flatten() if self.ignore is None else y[y != self.ignore]

    def take(self, y: torch.Tensor, name: str) -> torch.Tensor:
        """Convert labels to int64, or float32 where they are soft."""
        if not self.hard(y):
            return y.float()
        if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
            raise ValueError(f"Expected whole numbers as labels in {name}, got {y.dtype}. Use "
                             f"y.astype(int), or {self.shape.replace('B', 'N', 1)} for soft "
                             f"labels.{other_tasks(y)}")
        return y.long()

    def count(self, y: torch.Tensor) -> int:
        """Count the classes that occur in labels."""
        if not self.hard(y):
            return y.shape[self.axis]
        known = self.known(y)
        return 1 + int(known.max()) if len(known) else 1

    def check(self, y: torch.Tensor, classes: int, name: str) -> None:
        """Raise `ValueError` unless these are labels for so many classes."""
        if self.hard(y):
            known = self.known(y)
            low, high = (int(known.min()), int(known.max())) if len(known) else (0, 0)
            if low < 0 or high >= classes:
                raise ValueError(
                    f"Expected labels from 0 to {classes - 1} in {name} ({classes} classes), "
                    f"got {low} to {high}. Renumber the labels from 0, or name all classes."
                    f"{self._hint(low if low < 0 else high)}")
        elif y.ndim != self.ndim or y.shape[self.axis] != classes:
            shape = self.shape.replace("B", "N", 1).replace("K", str(classes))
            remedy = ""
            if y.ndim == self.ndim and y.shape[self.axis] == 1:
                remedy = f" For class numbers drop an axis: y.squeeze({self.axis})."
            raise ValueError(f"Expected soft labels of shape {shape} in {name}, or class numbers "
                             f"{self._hard_shape()}, got {list(y.shape)}."
                             f"{other_tasks(y) or remedy}")
        else:
            y_MK = y.movedim(self.axis, -1).flatten(0, -2)
            valid = (y_MK >= 0).all(1) & ((y_MK.sum(1) - 1).abs() < 1e-3)  # False for NaN
            if not self.plain:
                valid |= (y_MK == 0).all(1)  # a row without a label
            if not valid.all():
                bad = int((~valid).nonzero()[0])
                raise ValueError(
                    f"Expected soft labels in {name} that are at least 0 and sum to 1 in each row, "
                    f"got {[round(value, 4) for value in y_MK[bad].tolist()[:6]]} in row {bad}. "
                    f"For class numbers pass them as {self._hard_shape()}; for logits pass their "
                    f"softmax.{other_tasks(y)}")

    def _hard_shape(self) -> str:
        """Give the shape of class numbers: that of an output without the axis of classes."""
        return self.shape.replace("B", "N", 1).replace(", K", "")

    def _hint(self, label: int) -> str:
        """Say how a label that stands for none is stated; "" for one that is just too large."""
        name = type(self).__name__
        return "" if 0 <= label != 255 else (
            f" Where {label} means no label, pass task=kd.tasks.{name}(ignore={label}).")

    def sums(self, rows: Rows) -> torch.Tensor:
        """Compute the sums that `score` takes, added up over batches: of right rows, and of all."""
        labels = rows.labels if rows.labels.ndim == 1 else rows.labels.argmax(1)
        # A row with NaN has no answer, while `argmax` takes NaN for the largest.
        right = (rows.logits.argmax(1) == labels) & ~rows.logits.isnan().any(1)
        counts = torch.ones_like(right) if rows.weight is None else rows.weight > 0
        return torch.stack([(right & counts).sum(), counts.sum()])

    def score(self, sums: torch.Tensor) -> float:
        """Compute the score of the history: here the accuracy over rows."""
        right, count = sums
        return float(right.float() / count)


@dataclasses.dataclass(frozen=True)
class Classes(Task):
    """One label per sample, the default: logits [B, K], labels [B] or soft [B, K].

    ignore: the label of samples without one, such as -100; then a soft label of zeros is none, too.
        Terms that read labels, scores and measures leave these samples out; terms that compare with
        the teacher have all samples. None: every label must be that of a class.

    A term that reads labels (`needs_labels`) has the mean over the samples with one, or 0.

    >>> Classes(ignore=-100).rows(torch.rand(3, 7), y=torch.tensor([4, -100, 0])).weight
    tensor([1., 0., 1.])
    """

    ignore: int | None = None
    # An output is rows already, with a label each; or some have none, and count without.
    plain = property(lambda self: self.ignore is None)
    partly = property(lambda self: self.ignore is not None)

    def __post_init__(self):
        if self.ignore is not None and (isinstance(self.ignore, bool)
                                        or not isinstance(self.ignore, int)):
            raise ValueError(f"Expected ignore as a whole number, the label of samples without "
                             f"one, or None, got {self.ignore!r}. Often it is -100.")

    def __repr__(self):
        return f"Classes({'' if self.plain else f'ignore={self.ignore}'})"


ONE_LABEL = Classes()


@dataclasses.dataclass(frozen=True)
class Dense(Task):
    """A label for each place in a sample. A soft label of zeros is none.

    >>> Tokens().rows(torch.rand(2, 3, 7), y=torch.tensor([[4, 1, -100], [2, 0, 6]])).weight
    tensor([1., 1., 0., 1., 1., 1.])
    """

    ignore: int = -100

    def rows(self, output, x=None, y=None, total=None):
        if y is not None and type(self).labels is Task.labels and output.ndim == self.ndim:
            places = self._places(output)
            theirs = list(y.shape) if self.hard(y) else self._places(y)
            if places != theirs:  # as many places on another grid are others
                raise ValueError("Expected labels for each of the rows of logits "
                                 f"{list(output.shape)}, place by place, got {list(y.shape)} for "
                                 f"{self!r}. Bring the two to one length or size in the model "
                                 "(pixels: F.interpolate(logits, size)).")
        return super().rows(output, x, y, total)

    def _places(self, output: torch.Tensor) -> list[int]:
        """Give the shape of an output without the axis of classes."""
        return [*output.shape[: self.axis], *output.shape[self.axis + 1 :]]


@dataclasses.dataclass(frozen=True)
class Tokens(Dense):
    """A label for each token: logits [B, N, K], labels [B, N], or soft [B, N, K].

    ignore: the label of tokens that do not count, such as padding. mask: the entry [B, N] of a
        dict of inputs that is 0 for tokens that do not count; read where there are no labels.
    partly: True for masked language models: terms that read no labels then count all tokens that
        `mask` lets through, with a label or without.

    The labels of a language model are the next tokens: shift them by one yourself.
    """

    mask: str = "attention_mask"
    partly: bool = False
    shape, axis, keeps_inputs = "[B, N, K]", 2, True

    def __repr__(self):
        more = ", partly=True" if self.partly else ""
        return f"Tokens(ignore={self.ignore}, mask={self.mask!r}{more})"

    def weight(self, x, y):
        if y is None and isinstance(x, dict) and self.mask in x:
            return (x[self.mask] != 0).flatten().float()
        return super().weight(x, y)


@dataclasses.dataclass(frozen=True)
class Pixels(Dense):
    """A label for each pixel: logits [B, K, H, W], labels [B, H, W], or soft [B, K, H, W].

    ignore: the label of pixels that do not count, in many data sets 255.
    """

    shape = "[B, K, H, W]"


@dataclasses.dataclass(frozen=True)
class Entries(Task):
    """A label, or a number, for each entry of an output, whose shape the labels have."""

    def flat(self, output):
        if output.ndim < 2:
            raise ValueError(f"Expected outputs of shape {self.shape} for {self!r}, got "
                             f"{list(output.shape)}. Let the model return one with an axis of "
                             "samples: outputs[:, None] for a single number each.")
        return output.flatten(1)

    def rows(self, output, x=None, y=None, total=None):
        if y is not None and y.shape != output.shape:
            raise ValueError(f"Expected labels of the shape of the output, {list(output.shape)}, "
                             f"for {self!r}, got {list(y.shape)}. A map [B, 1, H, W] has labels "
                             "y[:, None] of y [N, H, W]; bring sizes together in the model "
                             "(F.interpolate(outputs, size)).")
        return super().rows(output, x, y, total)

    def check_output(self, output, names, of):
        if self.outputs(output) != len(names):
            raise ValueError(
                f"Expected a student with exactly one output for each of the {len(names)} classes "
                f"of {of}, got {self.outputs(output)}, of shape {list(output.shape)}. A map "
                "[B, 1, H, W] has labels y[:, None] of y [N, H, W].")

    def count(self, y):
        return y.shape[1] if y.ndim > 1 else len(y)


@dataclasses.dataclass(frozen=True)
class Labels(Entries):
    """Several labels per sample or pixel: logits z [B, K] or [B, K, H, W], labels of this shape
    that are 0 or 1, or probabilities. A single sigmoid is K = 1.

    Each label is a row of two logits (0, z), whose softmax is (1 - sigmoid(z), sigmoid(z)). So `CE`
    is the binary cross-entropy and `KD` the KL divergence of two Bernoulli distributions.

    >>> Labels().rows(torch.tensor([[3.0, -1.0]]), y=torch.tensor([[1, 0]])).logits
    tensor([[ 0.,  3.],
            [ 0., -1.]])
    """

    shape = "[B, K, …]"

    def flat(self, output):
        z_M = super().flat(output).flatten()
        return torch.stack([torch.zeros_like(z_M), z_M], 1)

    def labels(self, y):
        y = y.flatten()
        return torch.stack([1 - y, y], 1) if y.is_floating_point() else y

    def take(self, y, name):
        return y.float() if y.is_floating_point() else y.long()

    def check(self, y, classes, name):
        if y.ndim < 2 or y.shape[1] != classes or not ((y >= 0) & (y <= 1)).all():
            raise ValueError(f"Expected labels of shape [N, {classes}] in {name}, or "
                             f"[N, {classes}, H, W], each from 0 to 1, got {list(y.shape)}. One "
                             "column for each class; of one map [N, H, W] make [N, 1, H, W], "
                             "y[:, None].")


@dataclasses.dataclass(frozen=True)
class Numbers(Entries):
    """Numbers, embeddings or maps of numbers to be predicted: outputs and targets [B, D], or
    [B, D, H, W] (depth, heatmaps); `classes` of the data are the names of the D. A row is a sample.
    Terms that compare classes are refused; use `SquaredError` and `LogitMSE`. The score is R², the
    share of the variance that is explained, over all numbers."""

    shape = "[B, D, …]"
    has_classes, column = False, "val_r2"

    def labels(self, y):
        return y.flatten(1)

    def take(self, y, name):
        return y.float() if y.ndim > 1 else y.float()[:, None]

    def check(self, y, classes, name):
        if y.ndim < 2 or y.shape[1] != classes or not y.isfinite().all():
            raise ValueError(f"Expected finite targets of shape [N, {classes}] in {name}, or "
                             f"[N, {classes}, H, W], got {list(y.shape)}. Of one map [N, H, W] "
                             "make [N, 1, H, W], y[:, None].")

    def sums(self, rows):
        # On the CPU: not every device has float64, which the variance of large numbers needs.
        z, y = rows.logits.cpu().double(), rows.labels.cpu().double()
        count = torch.full_like(y[0], len(y))
        return torch.stack([(z - y).square().sum(0), y.square().sum(0), y.sum(0), count])

    def score(self, sums):
        errors, squares, total, count = sums
        return float(1 - errors.sum() / (squares - total.square() / count).sum())


@dataclasses.dataclass(frozen=True)
class Unlabelled(Task):
    """No labels at all (y is None), and no score: for terms that compare with a teacher."""

    plain = True

    def outputs(self, output):
        return output.shape[-1] if output.ndim == 2 else 0

    def check_output(self, output, names, of):
        """Accept any output: there are no classes that it must have."""

    def check(self, y, classes, name):
        raise ValueError(f"Expected no labels in {name} for Unlabelled(), got {list(y.shape)}. "
                         "Pass y=None, or another task.")
