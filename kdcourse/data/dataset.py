"""What a training step sees: batches, splits, and data sets of three splits.

Shapes: N samples, B batch, K classes, C channels, H W height and width.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch

from kdcourse import _files
from kdcourse._key import tensor_bytes
from kdcourse._random import generator


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one training step sees.

    x: inputs [B, C, H, W], raw in [0, 1]; each model normalises for itself.
    y: labels [B], or soft labels [B, K].
    index: sample ids [B], the row of each sample in its split; None where a loader gives none.
    view: which augmentation was drawn; 0 is the sample as it is.
    """

    x: torch.Tensor
    y: torch.Tensor
    index: torch.Tensor | None
    view: int = 0

    def __getitem__(self, places) -> "Batch":
        """Some of the samples, by a slice or a tensor of places."""
        if isinstance(places, torch.Tensor):
            places = places.to(self.x.device)
        index = None if self.index is None else self.index[places]
        return Batch(self.x[places], self.y[places], index, self.view)

    def split(self, parts: int) -> list["Batch"]:
        """The batch cut into so many parts, as even as can be; at least one sample in each."""
        if parts == 1:
            return [self]
        rows = np.array_split(range(len(self.x)), min(parts, len(self.x)))
        return [self[part[0] : part[-1] + 1] for part in rows]  # slices: nothing is copied


@dataclasses.dataclass(frozen=True)
class Split:
    """Inputs `x` [N, C, H, W] in float32 and labels `y` [N] int64 (or [N, K] float32)."""

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, [C, H, W]."""
        return tuple(self.x.shape[1:])

    def head(self, count: int) -> torch.Tensor:
        """The inputs of the first samples, [count, C, H, W]."""
        return self.x[:count]

    def digest(self) -> str:
        """SHA-256 of inputs and labels."""
        return _files.digest(tensor_bytes(self.x), tensor_bytes(self.y))

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
            raise ValueError(f"Expected inputs of one shape, got {list(self.shape)} in {name} and "
                             f"{list(shape)} in train.")

    def to(self, device) -> "Split":
        """The same split on another device."""
        return Split(self.x.to(device), self.y.to(device))

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
            order = torch.arange(count, device=self.x.device)
        else:
            if size > count:
                raise ValueError(
                    f"Expected a batch of at most {count} samples (all there are), got {size}. "
                    "Lower Recipe(batch=…) or bring more data."
                )
            order = torch.randperm(count, generator=generator(seed, "order", epoch))
            order = order[: count - count % size].to(self.x.device)
        for index in order.split(size):  # index_select is faster than self.x[index]
            yield Batch(self.x.index_select(0, index), self.y.index_select(0, index), index)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Three splits and what they are called.

    Each is a `Split`, in memory, or does what one does: see `kdcourse.data.from_loaders`.

    params: what reproduces the data (`{"name": "glyphs", "train": 4000, "seed": 0, …}`).
    made: a digest of the samples that `params` gave, where this package drew them: other samples
        under the same params are noticed by it.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    params: dict
    made: str = dataclasses.field(default="", repr=False, compare=False)

    def __post_init__(self):
        for name in ("train", "val", "test"):
            getattr(self, name).check(len(self.classes), self.train.shape, name)

    @property
    def name(self) -> str:
        return self.params["name"]

    def digest(self) -> str:
        """SHA-256 of all samples; of a stream, which nobody can read ahead, nothing."""
        return _files.digest([split.digest() for split in (self.train, self.val, self.test)])

    def identity(self):
        """What recorded results are found by: the params; and the samples, where the params do not
        say it all."""
        splits = [] if self.made == self.digest() else [self.train, self.val, self.test]
        return [self.params, self.classes, splits]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, [C, H, W]."""
        return self.train.shape

    def __repr__(self):
        settings = ", ".join(f"{k}={v!r}" for k, v in self.params.items() if k != "name")
        return f"{self.name}({settings})"

    def show(self, rows: int = 3, columns: int = 12, split: str = "train", ax=None):
        """Draw the first `rows * columns` samples of a split with their class names."""
        import matplotlib.pyplot as plt

        part = getattr(self, split)
        if len(self.shape) != 3 or self.shape[0] not in (1, 3):
            raise ValueError("Expected images [C, H, W] with 1 or 3 channels to draw, got inputs "
                             f"of shape {list(self.shape)}.")
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
    if not torch.isfinite(split.x).all():
        bad = int((~torch.isfinite(split.x)).flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f"Expected finite inputs in {name}, got NaN or inf (first in sample {bad}). "
            "Remove or repair those samples."
        )
    check_labels(split.y, classes, name)


def check_labels(y: torch.Tensor, classes: int, name: str) -> None:
    """Raise `ValueError` unless these are labels [N] from 0 to classes - 1, or soft ones."""
    if y.ndim == 1:
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"Expected labels from 0 to {classes - 1} in {name} ({classes} classes), "
                f"got {low} to {high}. Renumber the labels from 0, or name all classes."
            )
    elif y.ndim != 2 or y.shape[1] != classes:
        raise ValueError(f"Expected soft labels of shape [N, {classes}] in {name}, "
                         f"got {list(y.shape)}.")
    else:
        fair = (y >= 0).all(1) & ((y.sum(1) - 1).abs() < 1e-3)  # NaN is neither
        if not fair.all():
            bad = int((~fair).nonzero()[0])
            raise ValueError(
                f"Expected soft labels in {name} that are at least 0 and sum to 1 in each row, got "
                f"{[round(value, 4) for value in y[bad].tolist()[:6]]} in row {bad}. For "
                "class numbers pass them as [N]; for logits pass their softmax."
            )
