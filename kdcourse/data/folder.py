"""Images in folders, one folder for each class.

Shapes: N samples, C channels, H W height and width.
"""

from pathlib import Path

import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as vision

from kdcourse.data.arrays import from_arrays
from kdcourse.data.dataset import SPLITS, Dataset
from kdcourse.tasks import Classes

LIMIT = 2e9  # bytes in memory, as float32


def folder(root, size: int | None = None, channels: int = 3, seed: int = 0,
           name: str | None = None, unlabelled: str | None = None) -> Dataset:
    """Load small images, `root/train/CLASS/*.png` (or jpg, webp …), into memory: [C, H, W] in
    [0, 1].

    `root/val` and `root/test` are read where they are there; else 10 % of the training images are
    split off for each, stratified, by `seed`. Files are found by torchvision's `ImageFolder`:
    classes are the names of the folders in `train`, sorted as text ("10" before "2").

    size: resize the shorter side to so many pixels, and cut out the square in the middle. None
        leaves images as they are, which must then be of one size.
    channels: 3, or 1 for grey.
    name: of the data; by default that of the folder.
    unlabelled: the name of a folder in `train` (or `val`, `test`) whose images have no label: they
        get -100, and the task is `kd.tasks.Classes(ignore=-100)`.

    Raises `ValueError` for a folder without images or of another layout, where there is no folder
    `train/UNLABELLED`, for a class in `val` or
    `test` that is not in `train`, images of several sizes, a file that cannot be read, and more
    than 2 GB (about 160,000 images of 32 x 32 in colour, 3,300 of 224 x 224), for which
    `kd.data.from_loaders` is made.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> for number in range(40):
    ...     file = root / "train" / ("cat" if number % 2 else "dog") / f"{number}.png"
    ...     file.parent.mkdir(parents=True, exist_ok=True)
    ...     Image.new("RGB", (8, 6), (6 * number, 0, 0)).save(file)
    >>> data = folder(root)
    >>> data.classes, data.shape, len(data.train), len(data.val), len(data.test)
    (('cat', 'dog'), (3, 6, 8), 32, 4, 4)
    """
    root = Path(root).expanduser()
    if channels not in (1, 3):
        raise ValueError(f"Expected channels 1 or 3, got {channels!r}.")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"Expected size as a number of pixels of at least 1, got {size!r}.")
    if not (root / "train").is_dir():
        raise ValueError(f"Expected a folder train in {root}, with a folder of images for each "
                         f"class, got {_listed(root)}.")
    others = sorted(one.name for one in root.iterdir()
                    if one.is_dir() and one.name not in SPLITS and not one.name.startswith("."))
    if others:
        raise ValueError(f"Expected the folders train, val and test in {root}, got {others} beside "
                         "them. Rename or move them.")
    found = {part: _images(root / part) for part in SPLITS if (root / part).is_dir()}
    classes = [one for one in found["train"].classes if one != unlabelled]
    if unlabelled is not None and len(classes) == len(found["train"].classes):
        raise ValueError(f"Expected a folder {unlabelled!r} in {root / 'train'}, with images that "
                         f"have no label, got {_listed(root / 'train')}.")
    _check_memory(found, size, channels)
    read = {part: _read(images, classes, part, size, channels, unlabelled)
            for part, images in found.items()}
    shapes = {part: list(x.shape[1:]) for part, (x, _) in read.items()}
    if len(set(map(tuple, shapes.values()))) > 1:
        raise ValueError(f"Expected images of one size in {root}, got {shapes}. Give size=….")
    x, y = read.pop("train")
    task = None if unlabelled is None else Classes(ignore=-100)
    return from_arrays(x, y, classes=classes, seed=seed, name=name or root.resolve().name,
                       task=task, **read)


def _listed(root: Path) -> str:
    if not root.is_dir():
        return "no such folder"
    names = sorted(one.name for one in root.iterdir())
    return f"{names[:5]}{' and more' if names[5:] else ''}"


def _images(path: Path) -> ImageFolder:
    try:
        return ImageFolder(path, allow_empty=path.name != "train")
    except FileNotFoundError as error:
        raise ValueError(f"Expected a folder of images for each class in {path}, got none for some "
                         f"({error}).") from None


def _check_memory(found: dict[str, ImageFolder], size: int | None, channels: int) -> None:
    count = sum(map(len, found.values()))
    width, height = (size, size) if size else _opened(found["train"].samples[0][0]).size
    needed = 4 * count * channels * width * height
    if needed > LIMIT:
        raise ValueError(
            f"Expected images that take at most {LIMIT / 1e9:.3g} GB in memory, got {count:,} of "
            f"{height} x {width}, which take {needed / 1e9:.3g} GB. Give a smaller size=…, or use "
            "kd.data.from_loaders with DataLoader(torchvision.datasets.ImageFolder(…)).")


def _read(images: ImageFolder, classes: list[str], part: str, size: int | None, channels: int,
          unlabelled: str | None):
    """Read a split: uint8 [N, C, H, W] and labels [N], -100 for images of the folder `unlabelled`.
    """
    unknown = sorted(set(images.classes) - {*classes, unlabelled})
    if unknown:
        raise ValueError(f"Expected the classes of train in {images.root}, got {unknown[:5]}, "
                         "which train has not.")
    if not images.samples:
        raise ValueError(f"Expected at least one image in {images.root}, got none. Remove the "
                         f"folder to have 10 % of train split off as {part}.")
    x, first = None, images.samples[0][0]
    for place, (file, _) in enumerate(images.samples):
        image = _opened(file).convert("RGB" if channels == 3 else "L")
        if size is not None:
            image = vision.center_crop(vision.resize(image, size, antialias=True), size)
        pixels = vision.pil_to_tensor(image)
        if x is None:
            x = pixels.new_empty(len(images), *pixels.shape)
        if pixels.shape != x.shape[1:]:
            raise ValueError(f"Expected images of one size, got {list(x.shape[2:])} in {first} and "
                             f"{list(pixels.shape[1:])} in {file}. Give size=….")
        x[place] = pixels
    # A split that lacks a class numbers those after it otherwise.
    numbers = {name: number for number, name in enumerate(classes)} | {unlabelled: -100}
    return x, torch.tensor([numbers[images.classes[label]] for label in images.targets])


def _opened(file: str) -> Image.Image:
    try:
        image = Image.open(file)
        image.load()
    except OSError as error:
        raise ValueError(f"Expected an image in {file}, got a file that cannot be read ({error}). "
                         "Repair or remove it.") from None
    return image
