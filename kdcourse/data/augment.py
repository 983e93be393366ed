"""Augmented images that can be drawn again exactly as they were.

Shapes: N samples, B batch, C channels, H W height and width. `(seed, view, index)` decides what a
sample looks like, whatever batch it is in and on whatever device it is drawn: so a teacher's
answers can be stored for every view, and all arms of one seed get the same images. In a stream
without sample ids the place in the stream is the index.
"""

import dataclasses
import math
import numbers
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from kdcourse import _files
from kdcourse._random import generator
from kdcourse._trees import each, select
from kdcourse.data.dataset import Batch, Dataset, Split, check_dataset, with_digest
from kdcourse.data.loaders import Stream

ROWS = 2**24  # ids from here on have no row in a table of drawn numbers, but a draw of their own


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Shift, turn, scale, mirror, crop and erase; amounts are drawn uniformly up to their limits.

    shift: the largest shift along each axis, as a share of that side, 0 to below 1; continuous.
    rotate: the largest angle to either side, in radians, up to π; `degrees` is the same in degrees.
    scale: the smallest and the largest factor of size, such as `(0.8, 1.2)`; 0.2 is the same pair.
    flip: the probability of mirroring left and right; True is 0.5. Not for letters or digits.
    erase: the sides of a rectangle that is painted grey, as a share of the image's sides.
    degrees: the largest angle to either side, in degrees, up to 180.
    crop: the standard augmentation of CIFAR (He et al. 2016, arXiv:1512.03385, section 4.2): pad so
        many pixels of zeros (black) on each side, and cut out a window of the image's size at a
        whole number of pixels. Published numbers have `crop=4, flip=0.5`. In place of `shift`.

    A crop comes first, then the affine map. `shift`, `rotate` and `scale` interpolate, and repeat
    the image's edge outside of it; `crop` copies pixels. Raises `ValueError` for a limit out of
    range, for `rotate` that must be meant in degrees, and for two limits of one thing.
    """

    shift: float = 0.0
    rotate: float = 0.0
    scale: float | tuple[float, float] = 0.0
    flip: float = False
    erase: float = 0.0
    degrees: float = 0.0
    crop: int = 0

    def __post_init__(self):
        if isinstance(self.scale, (tuple, list)):
            object.__setattr__(self, "scale", tuple(self.scale))  # a list of a JSON file
        for name, value in vars(self).items():
            pair = value if name == "scale" and isinstance(value, tuple) else (value,)
            if not all(isinstance(number, numbers.Real) for number in pair):
                raise ValueError(f"Expected a number as {name}, got {value!r}.")
        for name, remedy in {"shift": "It is a share of the side; crop=4 shifts by up to 4 pixels.",
                             "erase": "It is a share of the side."}.items():
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Expected {name} from 0 to below 1, got {getattr(self, name)}. "
                                 f"{remedy}")
        self._check_scale()
        if not 0 <= self.flip <= 1:
            raise ValueError(f"Expected flip as a probability from 0 to 1, got {self.flip}.")
        if not self.rotate >= 0:
            raise ValueError(f"Expected rotate of at least 0 radians, got {self.rotate}.")
        if self.rotate > math.pi or (self.rotate >= 2 and self.rotate == round(self.rotate)):
            raise ValueError(f"Expected rotate in radians, up to π, got {self.rotate}. If it is in "
                             f"degrees, write degrees={self.rotate}.")
        if not 0 <= self.degrees <= 180:
            raise ValueError(f"Expected degrees from 0 to 180, got {self.degrees}.")
        if isinstance(self.crop, bool) or self.crop % 1 != 0 or self.crop < 0:
            raise ValueError("Expected crop as a whole number of pixels of at least 0, got "
                             f"{self.crop}. The standard for CIFAR is crop=4.")
        for one, other in (("rotate", "degrees"), ("shift", "crop")):
            if getattr(self, one) and getattr(self, other):
                raise ValueError(f"Expected {one} or {other}, got both. They limit the same thing.")

    def _check_scale(self) -> None:
        if not isinstance(self.scale, tuple):
            if not 0 <= self.scale < 1:
                raise ValueError(f"Expected scale from 0 to below 1, got {self.scale}. 0.2 draws "
                                 "factors from 0.8 to 1.2, as scale=(0.8, 1.2) does.")
        elif len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ValueError("Expected scale as a pair (smallest, largest) of factors above 0, got "
                             f"{self.scale}. (0.8, 1.2) draws from 0.8 to 1.2 times the size.")

    def settings(self) -> dict:
        """Give the limits for a data set's `params`, by which recorded results are found."""
        kept = dataclasses.asdict(self)
        return {name: value for name, value in kept.items()
                if value or name not in ("degrees", "crop")}  # rows were recorded without them

    def __call__(self, x: torch.Tensor, drawn_B7: torch.Tensor) -> torch.Tensor:
        """Augment the inputs [B, C, H, W] by `drawn_B7`, numbers from -1 to 1."""
        dx, dy, angle, size, flip, left, top = drawn_B7.to(x).unbind(1)
        mirrored = flip < 2 * (0.5 if self.flip is True else self.flip) - 1
        if self.crop:
            x = _crop(x, dx, dy, int(self.crop))
        if (self.shift or self.rotate or self.degrees or self.scale
                or (self.flip and not self.crop)):
            x = self._move(x, dx, dy, angle, size, mirrored)
        elif self.flip:  # pixels stay what they are
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        if self.erase:
            row = _in_interval(x.shape[2], top, self.erase)[:, None, :, None]
            column = _in_interval(x.shape[3], left, self.erase)[:, None, None, :]
            x = x.masked_fill(row & column, 0.5)
        return x

    def _move(self, x, dx, dy, angle, size, mirrored) -> torch.Tensor:
        """Apply the affine map."""
        H, W = x.shape[2:]
        middle, half = 1, self.scale
        if isinstance(self.scale, tuple):
            middle, half = sum(self.scale) / 2, (self.scale[1] - self.scale[0]) / 2
        zoom = 1 / (middle + half * size)
        angle = (math.radians(self.degrees) or self.rotate) * angle
        mirror = torch.where(mirrored, -1.0, 1.0)
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        # From the position of a pixel in the view to that in the sample, each axis from -1 to 1:
        # so a step along the height is H / W steps along the width.
        rows = (torch.stack([cos * mirror, -sin * (H / W), 2 * self.shift * dx], 1),
                torch.stack([sin * mirror * (W / H), cos, 2 * self.shift * dy], 1))
        grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _crop(x, dx, dy, pixels: int) -> torch.Tensor:
    """Pad zeros, and cut out a window of the same size at a whole number of pixels."""
    (B, C, H, W), places = x.shape, 2 * pixels + 1
    start = [((d + 1) / 2 * places).long().clamp(0, places - 1)[:, None] for d in (dy, dx)]
    row, column = (first + torch.arange(side, device=x.device)
                   for first, side in zip(start, (H, W), strict=True))
    x = F.pad(x, [pixels] * 4)
    x = x.gather(2, row[:, None, :, None].expand(B, C, H, x.shape[3]))
    return x.gather(3, column[:, None, None, :].expand(B, C, H, W))


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
        settings = [self.augment.settings(), self.views, self.seed]
        return _files.digest(super().digest(), settings)

    def identity(self):
        """Samples and augmentation: its part of the key of recorded results."""
        return [*super().identity(), self.augment, self.views, self.seed]

    def batches(self, size: int, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """Yield batches as `Split.batches` does; with a seed, in the view of the epoch."""
        for batch in super().batches(size, seed, epoch):
            if seed is not None:
                view = view_of(epoch, self.views)
                batch = dataclasses.replace(batch, x=self.seen(batch.index, view), view=view)
            yield batch

    def seen(self, index: torch.Tensor, view: int) -> torch.Tensor:
        """Return the samples `index` in that view; view 0 is the samples as they are."""
        index = index.to(self.x.device)
        if view == 0:
            return self.x[index]
        if view not in self._drawn:
            self._drawn.clear()  # one view is in use at a time
            drawn_N7 = _uniform(len(self.x), generator(self.seed, "view", view))
            self._drawn[view] = drawn_N7.to(self.x.device)
        return self.augment(self.x[index], self._drawn[view][index])

    def at(self, index: torch.Tensor, view: int) -> Split:
        """Return the samples `index` in that view, with their labels."""
        index = index.to(self.x.device)
        return Split(self.seen(index, view), select(self.y, index), task=self.task)


@dataclasses.dataclass(frozen=True, eq=False)
class AugmentedStream(Stream):
    """A training stream whose batches in the order of a seed are augmented, on their device, as
    those of `Augmented` are; without a seed they are plain.

    views: as in `Augmented`; a number is for batches with sample ids. Without ids, numbers are
    drawn for the place in the epoch: of several processes, each has places of its own.
    """

    augment: Augment = Augment()
    views: int | None = None
    seed: int = 0
    _drawn: dict = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def digest(self) -> str:
        """SHA-256 of how the samples are augmented."""
        return _files.digest([self.augment.settings(), self.views, self.seed])

    def identity(self):
        """Augmentation: its part of the key of recorded results."""
        return [self.augment, self.views, self.seed]

    def batches(self, size: int | None = None, seed: int | None = None, epoch: int = 0
                ) -> Iterator[Batch]:
        """Yield batches as `Stream.batches` does; with a seed, in the view of the epoch."""
        view, place = view_of(epoch, self.views), 0
        for batch in super().batches(size, seed, epoch):
            yield batch if seed is None else self.seen(batch, view, place)
            place += len(batch)

    def seen(self, batch: Batch, view: int, place: int = 0) -> Batch:
        """Return a plain batch in that view. place: of its first sample in the epoch."""
        if batch.index is None:
            ids = _own_places(place + torch.arange(len(batch)))
        else:  # ids that a loader has on a GPU are copied, which waits for it
            ids = batch.index.cpu() if batch.ids is None else batch.ids
        drawn_B7 = self._to_device(self._numbers(ids, view))
        return dataclasses.replace(batch, x=self.augment(batch.x, drawn_B7), view=view)

    def _numbers(self, ids: torch.Tensor, view: int) -> torch.Tensor:
        """Return the numbers of these samples, [B, 7]: the rows that data in memory have."""
        if view not in self._drawn:
            if self.views is None:
                self._drawn.clear()  # none comes again
            self._drawn[view] = generator(self.seed, "view", view), torch.zeros(0, 7)
        source, drawn_N7 = self._drawn[view]
        rows = ids[ids < ROWS]
        missing = int(rows.max()) + 1 - len(drawn_N7) if len(rows) else 0
        if missing > 0:  # drawn row by row, so a longer table begins with the shorter one
            missing = max(missing, len(drawn_N7), min(self.count or 0, ROWS))
            drawn_N7 = torch.cat([drawn_N7, _uniform(missing, source)])
            self._drawn[view] = source, drawn_N7
        if len(rows) == len(ids):
            return drawn_N7[ids]
        return torch.cat([drawn_N7[[one]] if one < ROWS else
                          _uniform(1, generator(self.seed, "view", view, one))
                          for one in ids.tolist()])


def view_of(epoch: int, views: int | None) -> int:
    """Give the number of the view that an epoch has, from 1."""
    return 1 + (epoch if views is None else epoch % views)


def _uniform(count: int, source: torch.Generator) -> torch.Tensor:
    """Draw numbers from -1 to 1, [count, 7]."""
    return 2 * torch.rand(count, 7, generator=source) - 1


def _own_places(places: torch.Tensor) -> torch.Tensor:
    """Number the places in this process's part of an epoch as a `DistributedSampler` deals them
    out, so that no two processes draw the same."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return places
    return places * distributed.get_world_size() + distributed.get_rank()


def augmented(data: Dataset, views: int | None = None, seed: int = 0, **limits) -> Dataset:
    """Augment the training split of a data set; validation and test stay as they are.

    views: the number of different views of each sample; None: a new one in every epoch. `kd.Cached`
        needs a number.
    limits: those of `Augment`: shift, rotate or degrees, scale, flip, erase, crop.

    Augmentation happens on the device, a batch at a time, so student and teacher get one view. Of
    data from loaders, too, each batch in its own height and width; with sample ids the views are,
    to the bit, those of the same data in memory. Without ids a view belongs to the place in the
    epoch, and views must be None.

    Raises `ValueError` for inputs that are not images [C, H, W], for labels of pixels, for data
    that are augmented already, for views below 1, and for views of a stream without ids.

    >>> from kdcourse.data.glyphs import glyphs
    >>> data = augmented(glyphs(train=64, val=36, test=36), views=4, shift=0.1, rotate=0.2)
    >>> next(data.train.batches(8, seed=0, epoch=5)).view  # 1 + 5 % 4
    2
    """
    check_dataset(data)
    stream = isinstance(data.train, Stream)
    if isinstance(data.train, (Augmented, AugmentedStream)):
        raise ValueError(f"Expected data without augmentation, got {data!r}. Name all limits in "
                         "one call.")
    if isinstance(data.shape, dict) or len(data.shape) != 3:
        raise ValueError("Expected images [C, H, W] to augment, got inputs of shape "
                         f"{each(list, data.shape)}."
                         + (" Augment in your loader." if stream else ""))
    labels = data.train.first.y if stream else data.train.y
    if labels is not None and labels.ndim > 2:  # maps of labels or numbers
        raise ValueError("Expected labels that stay where they are when an image is moved, got a "
                         "label for each pixel. Augment images and labels together in your loader.")
    if views is not None and views < 1:
        raise ValueError(f"Expected at least 1 view, or None for ever new ones, got {views}.")
    if stream and views is not None and data.train.index is None:
        raise ValueError(f"Expected sample ids from the loader for views={views}, by which a "
                         "sample gets the same view again, got batches (x, y). Yield (x, y, "
                         "index), or leave views out for ever new ones.")
    augment = Augment(**limits)
    settings = {"augment": augment, "views": views, "seed": seed}
    if stream:
        plain = {field.name: getattr(data.train, field.name)
                 for field in dataclasses.fields(data.train)}
        train = AugmentedStream(**plain, **settings)
    else:
        train = Augmented(data.train.x, data.train.y, task=data.task, **settings)
    params = data.params | {"augment": augment.settings(), "views": views,
                            "view_seed": seed}
    result = dataclasses.replace(data, train=train, params=params, made="")
    return with_digest(result) if data.made == data.digest() else result
