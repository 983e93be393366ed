"""Augmented: the same sample seen differently, drawn so that it can be seen that way again.

Shapes: N samples, B batch, C channels, H W height and width. `(seed, view, index)` decides what a
sample looks like, whatever batch it is in and on whatever device it is drawn: so a teacher's
answers can be stored for every view, and all arms of one seed see the same images.
"""

import dataclasses
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from kdcourse import _files
from kdcourse._random import generator
from kdcourse.data.dataset import Batch, Dataset, Split
from kdcourse.tasks import Pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """How far a view may lie from its sample; every number is drawn evenly up to these limits.

    shift: the largest shift along each axis, as a share of the side, 0 to below 1.
    rotate: the largest angle, in radians.
    scale: the largest change of size: 0.2 draws between 0.8 and 1.2 times.
    flip: mirror every second view, left to right. Not for letters or digits.
    erase: the side of a square that is painted grey, as a share of the side.

    What comes in from outside repeats the edge. Raises `ValueError` for a limit that cannot be.
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
        """The inputs [B, C, H, W] as `drawn_B7`, numbers from -1 to 1, says."""
        dx, dy, angle, size, flip, left, top = drawn_B7.to(x).unbind(1)
        if self.shift or self.rotate or self.scale or self.flip:
            zoom, angle = 1 / (1 + self.scale * size), self.rotate * angle
            mirror = torch.where(flip < 0, -1.0, 1.0) if self.flip else torch.ones_like(flip)
            cos, sin = zoom * angle.cos(), zoom * angle.sin()
            # Where in the sample (from -1 to 1) each pixel of the view is looked up.
            rows = (torch.stack([cos * mirror, -sin, 2 * self.shift * dx], 1),
                    torch.stack([sin * mirror, cos, 2 * self.shift * dy], 1))
            grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
            x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        if self.erase:
            height, width = x.shape[2:]
            row = torch.arange(height, device=x.device) / height
            column = torch.arange(width, device=x.device) / width
            corner = lambda place: (place[:, None] + 1) / 2 * (1 - self.erase)  # noqa: E731
            inside = lambda at, place: (at >= corner(place)) & (  # noqa: E731
                at < corner(place) + self.erase)
            hole = inside(row, top)[:, None, :, None] & inside(column, left)[:, None, None, :]
            x = x.masked_fill(hole, 0.5)
        return x


@dataclasses.dataclass(frozen=True)
class Augmented(Split):
    """A training split whose batches are augmented; in order and without a seed, it is plain.

    views: how many different ones there are; epoch e shows number 1 + e % views. None: a new one in
    every epoch, which cannot be stored.
    """

    augment: Augment = Augment()
    views: int | None = None
    seed: int = 0
    _drawn: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def digest(self) -> str:
        """SHA-256 of the samples and of how they are augmented."""
        settings = [dataclasses.asdict(self.augment), self.views, self.seed]
        return _files.digest(super().digest(), settings)

    def identity(self):
        """Samples and augmentation: what recorded results are found by."""
        return [*super().identity(), self.augment, self.views, self.seed]

    def to(self, device) -> "Augmented":
        """The same split on another device, with the same views."""
        return dataclasses.replace(super().to(device), _drawn={})

    def batches(self, size: int, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """As `Split.batches`; with a seed, in the view of the epoch."""
        for batch in super().batches(size, seed, epoch):
            if seed is None:
                yield batch
            else:
                view = 1 + (epoch if self.views is None else epoch % self.views)
                yield dataclasses.replace(batch, x=self.seen(batch.index, view), view=view)

    def seen(self, index: torch.Tensor, view: int) -> torch.Tensor:
        """What the samples look like in that view; view 0 is the samples as they are."""
        index = index.to(self.x.device)
        if view == 0:
            return self.x[index]
        if view not in self._drawn:
            self._drawn.clear()  # one view at a time is in use
            rng = generator(self.seed, "view", view)
            drawn = 2 * torch.rand(len(self.x), 7, generator=rng) - 1
            self._drawn[view] = drawn.to(self.x.device)
        return self.augment(self.x[index], self._drawn[view][index])


def augmented(data: Dataset, views: int | None = None, seed: int = 0, **limits) -> Dataset:
    """The data set with an augmented training split; validation and test stay as they are.

    views: how many different views of each sample there are; None: a new one in every epoch.
        `kd.Cached` needs a number.
    limits: those of `Augment`: shift, rotate, scale, flip, erase.

    Augmentation happens on the device, a batch at a time. Raises `ValueError` for inputs that are
    not images [C, H, W], and for views below 1.

    >>> from kdcourse.data.glyphs import glyphs
    >>> data = augmented(glyphs(train=64, val=36, test=36), views=4, shift=0.1, rotate=0.2)
    >>> next(data.train.batches(8, seed=0, epoch=5)).view  # 1 + 5 % 4
    2
    """
    if isinstance(data.shape, dict) or len(data.shape) != 3:
        raise ValueError(f"Expected images [C, H, W] to augment, got inputs of shape "
                         f"{data.shape if isinstance(data.shape, dict) else list(data.shape)}.")
    if isinstance(data.task, Pixels) and data.train.y is not None:
        raise ValueError("Expected labels that stay where they are when an image is moved, got a "
                         "label for each pixel. Augment images and labels together in your loader.")
    if views is not None and views < 1:
        raise ValueError(f"Expected at least 1 view, or None for ever new ones, got {views}.")
    augment = Augment(**limits)
    train = Augmented(data.train.x, data.train.y, augment, views, seed, task=data.task)
    params = data.params | {"augment": dataclasses.asdict(augment), "views": views,
                            "view_seed": seed}
    made = dataclasses.replace(data, train=train, params=params)
    # The samples are those of `data`: if its params told all of them, the new params do.
    return dataclasses.replace(made, made=made.digest() if data.made == data.digest() else "")
