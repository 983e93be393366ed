"""Data sets that live in memory: seeded, split three ways, and ready to look at.

Shapes: N samples, B batch, K classes, C channels, H W height and width.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision import datasets
from torchvision.transforms import v2

from kdcourse import _files

GLYPHS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# The text faces that every matplotlib from 3.8 on ships, byte for byte the same.
FACES = tuple(
    [f"DejaVu{family}{style}" for family in ("Sans", "SansMono")
     for style in ("", "-Bold", "-Oblique", "-BoldOblique")]
    + [f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")]
    + [f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")]
    + ["cmr10", "cmb10", "cmss10", "cmtt10"]
)


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

    def check(self, classes: int, shape: tuple[int, ...], name: str) -> None:
        """Raise `ValueError` unless it can be the split `name` of a data set with so many classes
        and inputs of this shape."""
        if len(self) == 0:
            raise ValueError(f"Expected at least one sample in {name}, got none.")
        _check_split(self, classes, name)
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

    Each is a `Split`, in memory, or does what one does: see `kdcourse.streams`.

    params: what reproduces the data (`{"name": "glyphs", "train": 4000, "seed": 0, …}`).
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    params: dict

    def __post_init__(self):
        for name in ("train", "val", "test"):
            getattr(self, name).check(len(self.classes), self.train.shape, name)

    @property
    def name(self) -> str:
        return self.params["name"]

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


def generator(*key) -> torch.Generator:
    """A CPU random generator for a key such as `(seed, "order", epoch)`.

    Different keys give independent streams, so that initialisation, data order and augmentation
    do not disturb each other.

    >>> torch.rand(1, generator=generator(0, "a")) == torch.rand(1, generator=generator(0, "a"))
    tensor([True])
    """
    return torch.Generator().manual_seed(int(_files.digest(list(key))[:15], 16))


# --- what is drawn here -------------------------------------------------------------------------


@functools.cache
def _atlas() -> tuple[torch.Tensor, str]:
    """Every glyph in every face, [faces, 36, 48, 48] in [0, 1], and its SHA-256."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    side, height = 48, 34  # the canvas, and how tall the capital H stands on it, in pixels
    atlas = np.zeros((len(FACES), len(GLYPHS), side, side), dtype=np.uint8)
    for i, face in enumerate(FACES):
        # The basic layout engine: the other one depends on a library that is not everywhere.
        def font(size, path=str(folder / f"{face}.ttf")):
            return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)

        _, top, _, bottom = font(100).getbbox("H")
        scaled = font(round(100 * height / (bottom - top)))
        for j, glyph in enumerate(GLYPHS):
            left, top, right, bottom = scaled.getbbox(glyph)
            canvas = Image.new("L", (side, side))
            place = ((side - left - right) / 2, (side - top - bottom) / 2)
            ImageDraw.Draw(canvas).text(place, glyph, fill=255, font=scaled)
            atlas[i, j] = np.asarray(canvas)
    return torch.from_numpy(atlas).float() / 255, _files.digest(atlas.tobytes())


def _draw_glyphs(count: int, size: int, rng: torch.Generator) -> Split:
    atlas, _ = _atlas()

    def uniform(low, high, *shape):
        return torch.rand(count, *shape, generator=rng) * (high - low) + low

    y = torch.arange(count) % len(GLYPHS)  # as balanced as the count allows
    y = y[torch.randperm(count, generator=rng)]
    face = torch.randint(len(FACES), (count,), generator=rng)
    angle, shear = uniform(-0.25, 0.25), uniform(-0.25, 0.25)  # radians; share of the height
    scale, shift = uniform(0.7, 1.0), uniform(-0.12, 0.12, 2) * 2  # grid units: the image is 2 wide
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    place = torch.stack(
        [torch.stack([cos, sin + shear * cos], 1), torch.stack([-sin, cos - shear * sin], 1)], 1
    )
    # Where the picture's own coordinates land on the glyph: place @ (position - shift).
    grid_map = torch.cat([place, -place @ shift[:, :, None]], 2)
    ink, paper = uniform(0.5, 1.0), uniform(0.0, 0.4, 1, 4, 4)
    noise = uniform(0.0, 0.15)
    x = torch.empty(count, 1, size, size)
    for part in torch.arange(count).split(2000):  # keeps the memory small
        grid = F.affine_grid(grid_map[part], (len(part), 1, size, size), align_corners=False)
        glyph = F.grid_sample(atlas[face[part], y[part]][:, None], grid, align_corners=False)
        cloud = F.interpolate(paper[part], size=(size, size), mode="bicubic", align_corners=False)
        drawn = cloud + (ink[part, None, None, None] - cloud) * glyph
        drawn += noise[part, None, None, None] * torch.randn(drawn.shape, generator=rng)
        x[part] = (drawn.clamp(0, 1) * 255).round() / 255  # 8 bits, as a camera would store it
    return Split(x, y)


def glyphs(train: int = 4000, val: int = 2000, test: int = 4000, seed: int = 0, size: int = 28):
    """36 classes (0-9 and A-Z) in 20 typefaces, drawn here and now. Nothing is downloaded.

    Each image [1, size, size] in [0, 1] is a glyph of a face that ships with matplotlib: turned by
    up to 0.25 rad, sheared by up to 0.25, scaled by 0.7 to 1, moved by up to 12 % of the width,
    on a cloudy background, with noise of up to 0.15. O and 0, I and 1, S and 5 really look alike.

    The three splits are drawn from three different streams of `seed`: the same call gives the
    same images, another seed gives fresh ones. A longer split does not begin with a shorter one.

    Raises `ValueError` when a split is empty.

    >>> data = glyphs(train=100, val=50, test=50)
    >>> data.train.x.shape, len(data.classes)
    (torch.Size([100, 1, 28, 28]), 36)
    """
    counts = {"train": train, "val": val, "test": test}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"Expected at least one sample in {name}, got {count}.")
    splits = {
        name: _draw_glyphs(count, size, generator(seed, "glyphs", name))
        for name, count in counts.items()
    }
    params = {"name": "glyphs", **counts, "seed": seed, "size": size}
    return Dataset(**splits, classes=tuple(GLYPHS), params=params)


def glyphs_fingerprint() -> str:
    """SHA-256 of all that `glyphs` draws from. Another font file or rasteriser changes it."""
    return _atlas()[1]


# --- what others collected ----------------------------------------------------------------------


def digits(seed: int = 0):
    """1,797 real scans of handwritten digits, [1, 8, 8] in [0, 1], that ship with scikit-learn.

    Split 80/10/10, stratified, by `seed`.

    >>> data = digits()
    >>> len(data.train), len(data.val), len(data.test)
    (1437, 180, 180)
    """
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(scans).float().view(-1, 1, 8, 8) / 16  # the scans hold 0 to 16
    return from_arrays(x, labels, seed=seed, name="digits")


def mnist(root=None, train=None, val=5000, test=None, seed=0, download=True):
    """MNIST: 60,000 + 10,000 scans of handwritten digits, [1, 28, 28]. See `cifar10`."""
    return _torchvision(datasets.MNIST, "mnist", root, train, val, test, seed, download)


def fashion_mnist(root=None, train=None, val=5000, test=None, seed=0, download=True):
    """Fashion-MNIST: 60,000 + 10,000 pictures of clothes, [1, 28, 28]. See `cifar10`."""
    return _torchvision(datasets.FashionMNIST, "fashion_mnist", root, train, val, test, seed,
                        download)


def cifar10(root=None, train=None, val=5000, test=None, seed=0, download=True):
    """CIFAR-10: 50,000 + 10,000 photographs in 10 classes, [3, 32, 32] in [0, 1].

    torchvision downloads it once (170 MB, checked by MD5) to `root`, by default the `data` folder
    in `KDCOURSE_HOME`. `val` images are taken out of the official training set, stratified, by
    `seed`; the official test set is the test set. `train` and `test` take a stratified subset:
    `cifar10(train=4000)` has 4,000 training images. `None` takes all.

    Raises `ConnectionError` when the files are not there and cannot be fetched, `ValueError` when
    one is cut short, and when more images are asked for than there are.
    """
    return _torchvision(datasets.CIFAR10, "cifar10", root, train, val, test, seed, download)


def cifar100(root=None, train=None, val=5000, test=None, seed=0, download=True):
    """CIFAR-100: 50,000 + 10,000 photographs in 100 classes, [3, 32, 32]. See `cifar10`."""
    return _torchvision(datasets.CIFAR100, "cifar100", root, train, val, test, seed, download)


def _torchvision(source, name, root, train, val, test, seed, download) -> Dataset:
    root = Path(root) if root is not None else _files.make_folder(_files.home() / "data")
    try:
        parts = [source(root, train=flag, download=download) for flag in (True, False)]
    except (OSError, RuntimeError, AssertionError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, OSError) or "download" in str(error).lower():
            raise ConnectionError(
                f"Expected the files of {name} in {root}, and could not fetch them ({error}). "
                "Go online once, or copy the files there; kd.data.glyphs() and kd.data.digits() "
                "need no network."
            ) from error
        raise ValueError(  # torchvision checks the archive, not what lies unpacked beside it
            f"Expected the files of {name} in {root}, got one that is cut short or altered "
            f"({error!r}). Delete its folder there and call this again."
        ) from error
    to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    images = [_stack(part.data, to_tensor) for part in parts]
    labels = [torch.as_tensor(part.targets) for part in parts]
    names = [_readable(label) for label in parts[0].classes]
    rest = len(labels[0]) - val
    if not 0 < val < len(labels[0]):
        raise ValueError(f"Expected val between 1 and {len(labels[0]) - 1}, got {val}.")
    kept, held = _stratified(labels[0], [rest if train is None else train, val], seed, name)
    tested = torch.arange(len(labels[1]))
    if test is not None:
        (tested,) = _stratified(labels[1], [test], seed, name)
    params = {"name": name, "train": len(kept), "val": val, "test": len(tested), "seed": seed}
    return Dataset(
        train=Split(images[0][kept], labels[0][kept]),
        val=Split(images[0][held], labels[0][held]),
        test=Split(images[1][tested], labels[1][tested]),
        classes=tuple(names),
        params=params,
    )


def _stack(raw, to_tensor) -> torch.Tensor:
    """torchvision's `.data`, [N, H, W] tensor or [N, H, W, C] array, as float [N, C, H, W]."""
    raw = torch.as_tensor(raw)
    raw = raw[:, None] if raw.ndim == 3 else raw.permute(0, 3, 1, 2)
    return to_tensor(raw.contiguous())


def _readable(label: str) -> str:
    return label.split(" - ")[0]  # MNIST calls its classes "0 - zero"


def from_arrays(x, y, classes=None, val=None, test=None, seed: int = 0, name: str = "arrays"):
    """A `Dataset` from your own arrays or tensors.

    x: [N, C, H, W] (or [N, H, W], [N, D]); floats, or uint8 from 0 to 255 (divided by 255 here).
    y: [N] whole numbers from 0 to K-1, or [N, K] soft labels.
    classes: K names; by default the numbers.
    val, test: `(x, y)` pairs of their own. What is not given is split off `x`, stratified, by
    `seed`: 10 % each.

    Raises `ValueError` in a sentence for: no data, what is no pair, x and y of different lengths,
    labels that are out of range or not whole numbers, NaN or inf in the inputs.

    >>> data = from_arrays(np.random.rand(100, 3, 8, 8), np.arange(100) % 4)
    >>> len(data.train), len(data.val), len(data.test), data.classes
    (80, 10, 10, ('0', '1', '2', '3'))
    """
    whole = _split(x, y, "train")
    given = {part: _split(*_pair(given, part), part) for part, given in
             (("val", val), ("test", test)) if given is not None}
    if classes is None:
        widest = [whole, *given.values()]
        count = (whole.y.shape[1] if whole.y.ndim == 2
                 else 1 + max(int(part.y.max()) for part in widest))
        classes = [str(i) for i in range(count)]
    for part, split in {"train": whole, **given}.items():
        _check_split(split, len(classes), part)  # before anything is counted by class
    missing = [part for part in ("val", "test") if part not in given]
    if missing:
        share = max(1, round(0.1 * len(whole)))
        hard = whole.y if whole.y.ndim == 1 else whole.y.argmax(1)
        sizes = [len(whole) - share * len(missing)] + [share] * len(missing)
        if sizes[0] < 1:
            raise ValueError(
                f"Expected at least {len(missing) + 1} samples to split, got {len(whole)}. "
                "Bring more, or pass val=(x, y) and test=(x, y)."
            )
        rows = _stratified(hard, sizes, seed, name)
        for part, index in zip(missing, rows[1:], strict=True):
            given[part] = Split(whole.x[index], whole.y[index])
        whole = Split(whole.x[rows[0]], whole.y[rows[0]])
    content = [part.numpy().tobytes() for split in (whole, given["val"], given["test"])
               for part in (split.x, split.y)]
    params = {"name": name, "train": len(whole), "val": len(given["val"]),
              "test": len(given["test"]), "seed": seed, "sha256": _files.digest(*content)[:12]}
    return Dataset(whole, given["val"], given["test"], tuple(map(str, classes)), params)


def _pair(given, name: str) -> tuple:
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        kind = f"{len(given)} things" if isinstance(given, (tuple, list)) else type(given).__name__
        raise ValueError(f"Expected {name}=(x, y), a pair of inputs and labels, got {kind}. Leave "
                         "it out to have 10 % split off.")
    return given


def _split(x, y, name: str) -> Split:
    x, y = _tensor(x, f"inputs in {name}"), _tensor(y, f"labels in {name}")
    if x.ndim not in (2, 3, 4):
        raise ValueError(f"Expected inputs of shape [N, C, H, W], [N, H, W] or [N, D] in {name}, "
                         f"got {list(x.shape)}.")
    if len(x) == 0:
        raise ValueError(f"Expected at least one sample in {name}, got none.")
    if len(x) != len(y):
        raise ValueError(f"Expected as many labels as inputs in {name}, got {len(y)} labels for "
                         f"{len(x)} inputs.")
    if y.ndim == 1:
        if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
            raise ValueError(
                f"Expected whole numbers as labels in {name}, got {y.dtype}. "
                "Use y.astype(int), or [N, K] for soft labels."
            )
        y = y.long()
    else:
        y = y.float()
    return Split(_as_inputs(x), y)


def _as_inputs(x: torch.Tensor) -> torch.Tensor:
    """Images [N, C, H, W] (or [N, H, W], [N, D]) as floats: uint8 is divided by 255."""
    if x.ndim == 3:
        x = x[:, None]  # [N, H, W]: one channel
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def _tensor(values, what: str) -> torch.Tensor:
    try:
        values = torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Expected numbers as {what}, got something else ({error}). For labels "
                         "that are names, pass np.unique(names, return_inverse=True)[1].") from None
    if values.ndim == 0:
        raise ValueError(f"Expected an array as {what}, got the single number {values}.")
    return values


def _check_split(split: Split, classes: int, name: str) -> None:
    if not torch.isfinite(split.x).all():
        bad = int((~torch.isfinite(split.x)).flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f"Expected finite inputs in {name}, got NaN or inf (first in sample {bad}). "
            "Remove or repair those samples."
        )
    _check_labels(split.y, classes, name)


def _check_labels(y: torch.Tensor, classes: int, name: str) -> None:
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


def _stratified(labels: torch.Tensor, sizes: list[int], seed: int, name: str):
    """Disjoint sets of rows, `sizes` of them, with every class in its share where possible."""
    from sklearn.model_selection import train_test_split

    if min(sizes) < 1 or sum(sizes) > len(labels):
        raise ValueError(f"Expected sizes of at least 1 that sum to at most {len(labels)} (the "
                         f"samples of {name}), got {sizes}. Ask for fewer.")
    rest, taken = np.arange(len(labels)), []
    for size in reversed(sizes):
        if size == len(rest):
            part, rest = rest, rest[:0]
        else:
            counts = np.unique(labels[rest], return_counts=True)[1]
            fair = counts.min() >= 2 and min(size, len(rest) - size) >= len(counts)
            # scikit-learn takes no negative seed.
            rest, part = train_test_split(rest, test_size=size, random_state=seed % 2**32,
                                          stratify=labels[rest] if fair else None)
        taken.append(torch.from_numpy(np.sort(part)))
    return taken[::-1]
