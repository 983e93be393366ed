"""Batches, splits, and data sets of three splits.

Shapes: N samples, B batch, K classes, C channels, H W height and width.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from kdcourse import _files
from kdcourse._random import generator
from kdcourse._tensors import parts_bytes
from kdcourse._trees import each, first, select
from kdcourse.tasks import ONE_LABEL, Classes, Task

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Batch:
    """The samples of one training step.

    x: inputs [B, C, H, W] in [0, 1], which each model normalises for itself; or a dict of tensors,
        which a network gets as arguments by name.
    y: labels [B], or soft labels [B, K]; of another shape in another task; or None.
    index: the row of each sample in its split, [B]; None where a loader gives none.
    view: the number of the augmentation; 0 is the sample as it is.
    task: how outputs and labels are cut into rows, see `kdcourse.tasks`.
    total: for a part of a batch, the number by which sums over its rows are divided, so that the
        parts' losses, weighted by their shares of the samples, add up to that of the batch; of
        tokens of which some real ones have no label two, of those with a label and of all.
    whole: for a part of a batch, the labels of the whole batch, the part's share of the samples and
        its labels, where a term divides by what depends on labels (`CE(weight=…)`); None else.
    ids: of a loader's batch, `index` on the CPU, so that a table on disk is read without waiting
        for the device; None in memory.
    """

    x: torch.Tensor | dict[str, torch.Tensor]
    y: torch.Tensor | None
    index: torch.Tensor | None = None
    view: int = 0
    task: Task = ONE_LABEL
    total: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    whole: tuple[torch.Tensor, float, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(first(self.x))

    def __getitem__(self, places) -> "Batch":
        """Select samples, by a slice or a tensor of places on any device."""
        if isinstance(places, torch.Tensor):
            places = places.to(first(self.x).device)
        x, y, index = (each(lambda t: t[places], part) for part in (self.x, self.y, self.index))
        ids = self.ids
        if ids is not None:
            ids = ids[places.cpu() if isinstance(places, torch.Tensor) else places]
        return Batch(x, y, index, self.view, self.task, ids=ids)

    def split(self, parts: int) -> list["Batch"]:
        """Cut the batch into parts of nearly equal size, with at least one sample in each."""
        if parts == 1:
            return [self]
        places = np.array_split(range(len(self)), min(parts, len(self)))
        return [self[part[0] : part[-1] + 1] for part in places]  # slices: nothing is copied


def refuse_inputs(*given, **named) -> None:
    """Raise `TypeError` for what was passed to a scheme or a teacher in the place of a batch."""
    got = [type(value).__name__ for value in given if value is not None]
    got += [f"{name}=" for name in named]
    raise TypeError(
        f"Expected a Batch, got {', '.join(got) or 'nothing'}. Pass kd.data.Batch(x, y), with the "
        "sample ids as index= where the teacher is Cached; for logits alone call scheme.student(x) "
        "or teacher.predict(x). The Trainer of transformers passes a batch by name where it finds "
        'no labels: give it label_names=["labels"].')


@dataclasses.dataclass(frozen=True)
class Split:
    """Samples in memory.

    x: inputs [N, C, H, W], float32; in general a tensor or a dict of tensors.
    y: labels [N] int64, or [N, K] float32; of another shape in another task; or None.
    """

    x: torch.Tensor | dict[str, torch.Tensor]
    y: torch.Tensor | None
    task: Task = dataclasses.field(default=ONE_LABEL, kw_only=True)  # replaced by a data set's own

    def __len__(self) -> int:
        return len(first(self.x))

    @property
    def shape(self) -> tuple[int, ...] | dict:
        """The shape of one input, [C, H, W]; of a dict, that of each entry."""
        return each(lambda t: tuple(t.shape[1:]), self.x)

    def head(self, count: int):
        """Return the inputs of the first samples, [count, C, H, W]."""
        return each(lambda t: t[:count], self.x)

    def __getitem__(self, places) -> "Split":
        """Select samples, by a slice or a tensor of places, as a plain split."""
        return Split(*(each(lambda t: t[places], part) for part in (self.x, self.y)),
                     task=self.task)

    def digest(self) -> str:
        """SHA-256 of inputs and labels."""
        return _files.digest(*parts_bytes(self.x), *parts_bytes(self.y))

    def identity(self):
        """Inputs and labels: its part of the key of recorded results."""
        return [self.x, self.y]

    def check(self, classes: int, shape: tuple[int, ...], name: str) -> None:
        """Raise `ValueError` for no samples, inputs that are not finite or of another shape, and
        labels that do not fit so many classes. name: that of the split, for the message."""
        if len(self) == 0:
            raise ValueError(f"Expected at least one sample in {name}, got none.")
        for x in self.x.values() if isinstance(self.x, dict) else [self.x]:
            finite = x.isfinite()
            if not finite.all():
                bad = int((~finite).flatten(1).any(1).nonzero()[0])
                raise ValueError(f"Expected finite inputs in {name}, got NaN or inf (first in "
                                 f"sample {bad}). Remove or repair those samples.")
        if self.y is not None:
            self.task.check(self.y, classes, name)
        ours, theirs = (each(lambda one: like(one, self.task), one) for one in (self.shape, shape))
        if ours != theirs:
            raise ValueError(f"Expected inputs of one shape, got {each(list, self.shape)} in "
                             f"{name} and {each(list, shape)} in train. Only images may differ in "
                             "height and width.")

    def to(self, device) -> "Split":
        """Copy the split to another device."""
        x, y = (each(lambda t: t.to(device), part) for part in (self.x, self.y))
        return dataclasses.replace(self, x=x, y=y)

    def batches(self, size: int, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """Yield batches of `size` samples.

        With a `seed`: in an order drawn for (seed, epoch), without the last incomplete batch, so
        that every step has `size` samples. Without: every sample once, in order.
        """
        count = len(self)
        if size < 1:
            raise ValueError(f"Expected a batch size of at least 1, got {size}.")
        order = torch.arange(count)
        if seed is not None:
            if size > count:
                raise ValueError(f"Expected a batch of at most {count} samples (all there are), "
                                 f"got {size}. Lower Recipe(batch=…) or bring more data.")
            order = torch.randperm(count, generator=generator(seed, "order", epoch))
            order = order[: count - count % size]
        for index in order.to(first(self.x).device).split(size):
            yield Batch(select(self.x, index), select(self.y, index), index, task=self.task)


def shortened(split):
    """Give the first 180 samples of a split in smoke mode; otherwise, and of a stream, all."""
    return split[:180] if _files.smoke() and isinstance(split, Split) else split


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Three splits and the names of their classes.

    train, val, test: each a `Split`, or a `Stream` of `kdcourse.data.from_loaders`.
    params: what reproduces the data (`{"name": "glyphs", "train": 4000, "seed": 0, …}`).
    made: a digest of the samples at the time when `params` alone gave them; as long as it is that
        of the samples, recorded results are found by the params.
    task: what the labels are, see `kdcourse.tasks`; its splits have the same.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    params: dict
    made: str = dataclasses.field(default="", repr=False, compare=False)
    task: Task = ONE_LABEL

    def __post_init__(self):
        for name in SPLITS:
            split = getattr(self, name)
            if getattr(split, "task", self.task) != self.task:
                split = dataclasses.replace(split, task=self.task)
                object.__setattr__(self, name, split)
            split.check(len(self.classes), self.train.shape, name)
            if self.task.partly and isinstance(split, Split) and split.y is not None and not (
                    self.task.weight(None, split.y).any()):
                raise ValueError(
                    f"Expected at least one sample with a label in {name}, got {len(split)} "
                    f"without, for {self.task!r}. Pass None for the labels of this split, or "
                    f"{name}=(x, y) with some.")

    @property
    def name(self) -> str:
        return self.params["name"]

    @property
    def shape(self) -> tuple[int, ...] | dict:
        """The shape of one input, [C, H, W]; of a dict, that of each entry."""
        return self.train.shape

    def digest(self) -> str:
        """SHA-256 of all samples in memory."""
        splits = (self.train, self.val, self.test)
        return _files.digest([[str(type(split)), split.digest()] for split in splits])

    def identity(self):
        """Params, and the samples where params alone do not give them: its part of the key of
        recorded results."""
        splits = [] if self.made == self.digest() else [self.train, self.val, self.test]
        # Rows were recorded before there were tasks: the usual one is no part of the key.
        return [self.params, self.classes, splits, *([] if self.task == ONE_LABEL else [self.task])]

    def __repr__(self):
        settings = ", ".join(f"{k}={v!r}" for k, v in self.params.items() if k != "name")
        return f"{self.name}({settings})"

    def show(self, rows: int = 3, columns: int = 12, split: str = "train", ax=None):
        """Draw the first `rows * columns` samples of a split with their class names."""
        import matplotlib.pyplot as plt

        part = getattr(self, split)
        if isinstance(self.shape, dict) or len(self.shape) != 3 or self.shape[0] not in (1, 3):
            raise ValueError("Expected images [C, H, W] with 1 or 3 channels to draw, got inputs "
                             f"of shape {self.shape}.")
        x = part.x[: rows * columns].cpu().clamp(0, 1).expand(-1, 3, -1, -1)
        rows = -(-len(x) // columns)
        if ax is None:
            _, ax = plt.subplots(figsize=(0.62 * columns, 0.95 * rows), layout="constrained")
        gap = round(0.55 * self.shape[1])  # room for the class name above each picture
        x = F.pad(x, (1, 1, gap, 0, 0, 0, 0, rows * columns - len(x)), value=1)
        height, width = x.shape[2:]
        sheet = x.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
        ax.imshow(sheet.reshape(rows * height, columns * width, 3).numpy(), interpolation="nearest")
        ax.set_axis_off()
        if isinstance(self.task, Classes) and part.y is not None:
            has_label = self.task.weight(None, part.y)
            for i, label in enumerate(part.y[: rows * columns]):
                if has_label is not None and not has_label[i]:
                    continue
                row, column = divmod(i, columns)
                name = self.classes[int(label if label.ndim == 0 else label.argmax())]
                ax.text((column + 0.5) * width, row * height + gap - 2, name, ha="center",
                        va="bottom")
        return ax


def check_dataset(data) -> None:
    """Raise `TypeError` for anything but a `Dataset`, with the function that makes one."""
    if isinstance(data, Dataset):
        return
    kind = type(data).__name__
    remedy = "kd.data.from_arrays(x, y)"
    if isinstance(data, Split):
        kind, remedy = "one of its splits", "the whole data set, with train, val and test"
    elif not isinstance(data, (tuple, list, dict, torch.Tensor, np.ndarray)) and (
            hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        remedy = "kd.data.from_loaders(train_loader, val_loader, classes=…)"
    raise TypeError(f"Expected a data set with train, val and test, got {kind}. Pass {remedy}.")


def like(shape: tuple[int, ...], task: Task) -> list:
    """Give what all inputs of a data set have in common: of images [C, H, W] the channels, of
    others the shape."""
    images = len(shape) == 3 and not task.keeps_inputs
    return [shape[0], "any", "any"] if images else list(shape)


def with_digest(data: Dataset) -> Dataset:
    """Return the data set with the digest of its samples: its params alone give them."""
    return dataclasses.replace(data, made=data.digest())
