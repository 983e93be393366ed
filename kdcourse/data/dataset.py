"""What a training step sees: batches, splits, and data sets of three splits.

Shapes: N samples, B batch, K classes, C channels, H W height and width.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch

from kdcourse import _files
from kdcourse._random import generator
from kdcourse._tensors import parts_bytes
from kdcourse.tasks import ONE_LABEL, Task, each, first


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one training step sees.

    x: inputs [B, C, H, W], raw in [0, 1]; each model normalises for itself. Or a dict of tensors,
        which a network gets as arguments by name.
    y: labels [B], or soft labels [B, K]; of another shape in another task; None where there are
        none.
    index: sample ids [B], the row of each sample in its split; None where a loader gives none.
    view: which augmentation was drawn; 0 is the sample as it is.
    task: how outputs and labels are cut into rows, see `kdcourse.tasks`.
    total: for a part of a batch, by what its sums over rows are divided, so that the parts' losses,
        each weighted by its share of the samples, add up to that of the batch; else None.
    """

    x: torch.Tensor | dict[str, torch.Tensor]
    y: torch.Tensor | None
    index: torch.Tensor | None
    view: int = 0
    task: Task = ONE_LABEL
    total: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(first(self.x))

    def __getitem__(self, places) -> "Batch":
        """Some of the samples, by a slice or a tensor of places."""
        if isinstance(places, torch.Tensor):
            places = places.to(first(self.x).device)
        x, y, index = (each(lambda t: t[places], part) for part in (self.x, self.y, self.index))
        return Batch(x, y, index, self.view, self.task)

    def split(self, parts: int) -> list["Batch"]:
        """The batch cut into so many parts, as even as can be; at least one sample in each."""
        if parts == 1:
            return [self]
        places = np.array_split(range(len(self)), min(parts, len(self)))
        return [self[part[0] : part[-1] + 1] for part in places]  # slices: nothing is copied


@dataclasses.dataclass(frozen=True)
class Split:
    """Inputs `x` [N, C, H, W] in float32 and labels `y` [N] int64 (or [N, K] float32); in general a
    tensor or a dict of tensors, and what the task says, or None."""

    x: torch.Tensor | dict[str, torch.Tensor]
    y: torch.Tensor | None
    task: Task = dataclasses.field(default=ONE_LABEL, kw_only=True)  # a data set gives it its own

    def __len__(self) -> int:
        return len(first(self.x))

    @property
    def shape(self) -> tuple[int, ...] | dict:
        """The shape of one input, [C, H, W]; of a dict, that of each entry."""
        return each(lambda t: tuple(t.shape[1:]), self.x)

    def head(self, count: int):
        """The inputs of the first samples, [count, C, H, W]."""
        return each(lambda t: t[:count], self.x)

    def __getitem__(self, places) -> "Split":
        """Some of the samples, by a slice or a tensor of places: a plain split of them."""
        return Split(*(each(lambda t: t[places], part) for part in (self.x, self.y)),
                     task=self.task)

    def digest(self) -> str:
        """SHA-256 of inputs and labels."""
        return _files.digest(*parts_bytes(self.x), *parts_bytes(self.y))

    def identity(self):
        """Inputs and labels: what recorded results are found by."""
        return [self.x, self.y]

    def check(self, classes: int, shape: tuple[int, ...], name: str) -> None:
        """Raise `ValueError` unless it can be the split `name` of a data set with so many classes
        and inputs of this shape."""
        if len(self) == 0:
            raise ValueError(f"Expected at least one sample in {name}, got none.")
        check_split(self, classes, name)
        if self.shape != shape:
            mine, train = (found if isinstance(found, dict) else list(found)
                           for found in (self.shape, shape))
            raise ValueError(f"Expected inputs of one shape, got {mine} in {name} and {train} in "
                             "train.")

    def to(self, device) -> "Split":
        """The same split on another device."""
        x, y = (each(lambda t: t.to(device), part) for part in (self.x, self.y))
        return dataclasses.replace(self, x=x, y=y)

    def batches(self, size: int, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """Yield batches of `size` samples.

        With a `seed` the order is drawn afresh for each (seed, epoch), and the last incomplete
        batch is left out, so that every step sees `size` samples. Without a seed: every sample
        once, in order.
        """
        count = len(self)
        if size < 1:
            raise ValueError(f"Expected a batch size of at least 1, got {size}.")
        if seed is None:
            order = torch.arange(count, device=first(self.x).device)
        else:
            if size > count:
                raise ValueError(
                    f"Expected a batch of at most {count} samples (all there are), got {size}. "
                    "Lower Recipe(batch=…) or bring more data."
                )
            order = torch.randperm(count, generator=generator(seed, "order", epoch))
            order = order[: count - count % size].to(first(self.x).device)
        for index in order.split(size):  # index_select is faster than x[index]
            x, y = (each(lambda t, rows=index: t.index_select(0, rows), part)
                    for part in (self.x, self.y))
            yield Batch(x, y, index, task=self.task)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Three splits and what they are called.

    Each is a `Split`, in memory, or does what one does: see `kdcourse.data.from_loaders`.

    params: what reproduces the data (`{"name": "glyphs", "train": 4000, "seed": 0, …}`).
    task: what the labels are, see `kdcourse.tasks`; its splits have the same.
    made: a digest of the samples that `params` gave, where this package drew them: other samples
        under the same params are noticed by it.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    params: dict
    made: str = dataclasses.field(default="", repr=False, compare=False)
    task: Task = ONE_LABEL

    def __post_init__(self):
        for name in ("train", "val", "test"):
            split = getattr(self, name)
            if getattr(split, "task", self.task) != self.task:
                split = dataclasses.replace(split, task=self.task)
                object.__setattr__(self, name, split)
            split.check(len(self.classes), self.train.shape, name)

    @property
    def name(self) -> str:
        return self.params["name"]

    def digest(self) -> str:
        """SHA-256 of all samples; of a stream, which nobody can read ahead, nothing."""
        return _files.digest([[str(type(split)), split.digest()]
                              for split in (self.train, self.val, self.test)])

    def identity(self):
        """What recorded results are found by: the params; and the samples, where the params do not
        say it all."""
        splits = [] if self.made == self.digest() else [self.train, self.val, self.test]
        # Rows were recorded before there were tasks: the usual one is no part of the key.
        return [self.params, self.classes, splits, *([] if self.task == ONE_LABEL else [self.task])]

    @property
    def shape(self) -> tuple[int, ...] | dict:
        """The shape of one input, [C, H, W]; of a dict, that of each entry."""
        return self.train.shape

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
        rows = math.ceil(min(len(part), rows * columns) / columns)
        if ax is None:
            _, ax = plt.subplots(figsize=(0.62 * columns, 0.95 * rows), layout="constrained")
        height, width = self.shape[1:]
        gap = round(0.55 * height)  # room for the class name above each picture
        sheet = np.ones((rows * (height + gap), columns * (width + 2), 3), dtype=np.float32)
        for i in range(min(len(part), rows * columns)):
            row, column = divmod(i, columns)
            top, left = row * (height + gap) + gap, column * (width + 2) + 1
            picture = part.x[i].cpu().permute(1, 2, 0).expand(-1, -1, 3).clamp(0, 1)
            sheet[top : top + height, left : left + width] = picture.numpy()
            if self.task != ONE_LABEL or part.y is None:
                continue
            label = part.y[i] if part.y.ndim == 1 else part.y[i].argmax()
            ax.text(left + width / 2, top - 2, self.classes[int(label)], ha="center", va="bottom")
        ax.imshow(sheet, interpolation="nearest")
        ax.set_axis_off()
        return ax


def drawn(data: Dataset) -> Dataset:
    """The same data, with a note that its params say all about its samples as they are now."""
    return dataclasses.replace(data, made=data.digest())


def check_split(split: Split, classes: int, name: str) -> None:
    """Raise `ValueError` unless inputs are finite and labels fit so many classes."""
    for x in split.x.values() if isinstance(split.x, dict) else (split.x,):
        finite = torch.isfinite(x) if x.is_floating_point() else torch.ones(1, 1)
        if not finite.all():
            bad = int((~finite).flatten(1).any(1).nonzero()[0])
            raise ValueError(f"Expected finite inputs in {name}, got NaN or inf (first in sample "
                             f"{bad}). Remove or repair those samples.")
    if split.y is not None:
        split.task.check(split.y, classes, name)
