"""Augmented images that can be drawn again exactly as they were.

Shapes: N samples, B batch, C channels, H W height and width. `(seed, view, index)` decides what a
sample looks like, whatever batch it is in and on whatever device it is drawn: so a teacher's
answers can be stored for every view, and all arms of one seed get the same images.
"""

import dataclasses
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from kdcourse import _files
from kdcourse._random import generator
from kdcourse.data.dataset import Batch, Dataset, Split, with_digest
from kdcourse.tasks import Pixels, each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Shift, turn, scale, mirror and erase; each amount is drawn uniformly up to its limit.

    shift: the largest shift along each axis, as a share of the side, 0 to below 1.
    rotate: the largest angle, in radians.
    scale: the largest change of size: 0.2 draws between 0.8 and 1.2 times.
    flip: mirror half of the views, left to right. Not for letters or digits.
    erase: the side of a square that is painted grey, as a share of the side.

    Pixels from outside the image repeat its edge. Raises `ValueError` for a limit out of range.
    """

    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    flip: bool = False
    erase: float = 0.0

    def __post_init__(self):
        for name in ("shift", "scale", "erase"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Expected {name} from 0 to below 1, got {getattr(self, name)}.")
        if not self.rotate >= 0:
            raise ValueError(f"Expected rotate of at least 0 radians, got {self.rotate}.")

    def __call__(self, x: torch.Tensor, drawn_B7: torch.Tensor) -> torch.Tensor:
        """Augment the inputs [B, C, H, W] by `drawn_B7`, numbers from -1 to 1."""
        dx, dy, angle, size, flip, left, top = drawn_B7.to(x).unbind(1)
        if self.shift or self.rotate or self.scale or self.flip:
            zoom, angle = 1 / (1 + self.scale * size), self.rotate * angle
            mirror = torch.where(flip < 0, -1.0, 1.0) if self.flip else torch.ones_like(flip)
            cos, sin = zoom * angle.cos(), zoom * angle.sin()
            # From the position of a pixel in the view to that in the sample, both from -1 to 1.
            rows = (torch.stack([cos * mirror, -sin, 2 * self.shift * dx], 1),
                    torch.stack([sin * mirror, cos, 2 * self.shift * dy], 1))
            grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
            x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        if self.erase:
            row = _in_interval(x.shape[2], top, self.erase)[:, None, :, None]
            column = _in_interval(x.shape[3], left, self.erase)[:, None, None, :]
            x = x.masked_fill(row & column, 0.5)
        return x


def _in_interval(size: int, drawn_B: torch.Tensor, length: float) -> torch.Tensor:
    """Which of `size` pixels lie in an interval of that share of the side, [B, size]."""
    pixel = torch.arange(size, device=drawn_B.device) / size
    start_B1 = (drawn_B[:, None] + 1) / 2 * (1 - length)
    return (pixel >= start_B1) & (pixel < start_B1 + length)


@dataclasses.dataclass(frozen=True)
class Augmented(Split):
    """A training split whose shuffled batches are augmented; in order, without a seed, it is plain.

    views: the number of different views; epoch e has view 1 + e % views. None: a new one in every
    epoch, which cannot be stored.
    """

    augment: Augment = Augment()
    views: int | None = None
    seed: int = 0
    _drawn: dict = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def digest(self) -> str:
        """SHA-256 of the samples and of how they are augmented."""
        settings = [dataclasses.asdict(self.augment), self.views, self.seed]
        return _files.digest(super().digest(), settings)

    def identity(self):
        """Samples and augmentation: its part of the key of recorded results."""
        return [*super().identity(), self.augment, self.views, self.seed]

    def batches(self, size: int, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """Yield batches as `Split.batches` does; with a seed, in the view of the epoch."""
        for batch in super().batches(size, seed, epoch):
            if seed is not None:
                view = 1 + (epoch if self.views is None else epoch % self.views)
                batch = dataclasses.replace(batch, x=self.seen(batch.index, view), view=view)
            yield batch

    def seen(self, index: torch.Tensor, view: int) -> torch.Tensor:
        """Return the samples `index` in that view; view 0 is the samples as they are."""
        index = index.to(self.x.device)
        if view == 0:
            return self.x[index]
        if view not in self._drawn:
            self._drawn.clear()  # one view is in use at a time
            drawn = torch.rand(len(self.x), 7, generator=generator(self.seed, "view", view))
            self._drawn[view] = (2 * drawn - 1).to(self.x.device)
        return self.augment(self.x[index], self._drawn[view][index])


def augmented(data: Dataset, views: int | None = None, seed: int = 0, **limits) -> Dataset:
    """Augment the training split of a data set; validation and test stay as they are.

    views: the number of different views of each sample; None: a new one in every epoch. `kd.Cached`
        needs a number.
    limits: those of `Augment`: shift, rotate, scale, flip, erase.

    Augmentation happens on the device, a batch at a time. Raises `ValueError` for inputs that are
    not images [C, H, W], for labels of pixels, and for views below 1.

    >>> from kdcourse.data.glyphs import glyphs
    >>> data = augmented(glyphs(train=64, val=36, test=36), views=4, shift=0.1, rotate=0.2)
    >>> next(data.train.batches(8, seed=0, epoch=5)).view  # 1 + 5 % 4
    2
    """
    if isinstance(data.shape, dict) or len(data.shape) != 3:
        raise ValueError("Expected images [C, H, W] to augment, got inputs of shape "
                         f"{each(list, data.shape)}.")
    if isinstance(data.task, Pixels) and data.train.y is not None:
        raise ValueError("Expected labels that stay where they are when an image is moved, got a "
                         "label for each pixel. Augment images and labels together in your loader.")
    if views is not None and views < 1:
        raise ValueError(f"Expected at least 1 view, or None for ever new ones, got {views}.")
    augment = Augment(**limits)
    train = Augmented(data.train.x, data.train.y, augment, views, seed, task=data.task)
    params = data.params | {"augment": dataclasses.asdict(augment), "views": views,
                            "view_seed": seed}
    result = dataclasses.replace(data, train=train, params=params, made="")
    return with_digest(result) if data.made == data.digest() else result
