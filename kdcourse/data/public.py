"""Published data sets, from scikit-learn and torchvision.

Shapes: N samples, C channels, H W height and width.
"""

from pathlib import Path

import torch
from torchvision import datasets
from torchvision.transforms.v2.functional import to_dtype

from kdcourse import _files
from kdcourse.data.arrays import from_arrays, stratified
from kdcourse.data.dataset import Dataset, Split, with_digest


def digits(seed: int = 0):
    """Load 1,797 scans of handwritten digits, [1, 8, 8] in [0, 1], that ship with scikit-learn.

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
    """Load MNIST: 60,000 + 10,000 scans of handwritten digits, [1, 28, 28]. See `cifar10`."""
    return _torchvision(datasets.MNIST, "mnist", root, train, val, test, seed, download)


def fashion_mnist(root=None, train=None, val=5000, test=None, seed=0, download=True):
    """Load Fashion-MNIST: 60,000 + 10,000 pictures of clothes, [1, 28, 28]. See `cifar10`."""
    return _torchvision(datasets.FashionMNIST, "fashion_mnist", root, train, val, test, seed,
                        download)


def cifar10(root=None, train=None, val=5000, test=None, seed=0, download=True):
    """Load CIFAR-10: 50,000 + 10,000 photographs in 10 classes, [3, 32, 32] in [0, 1].

    torchvision downloads it once (170 MB, checked by MD5) to `root`, by default the `data` folder
    in `KDCOURSE_HOME`. `val` images are taken out of the official training set, stratified, by
    `seed`; the official test set is the test set. `train` and `test` take a stratified subset:
    `cifar10(train=4000)` has 4,000 training images. `None` takes all.

    Raises `ConnectionError` for files that are missing and cannot be downloaded, `ValueError` for
    a file that is cut short, and for more images than there are.
    """
    return _torchvision(datasets.CIFAR10, "cifar10", root, train, val, test, seed, download)


def cifar100(root=None, train=None, val=5000, test=None, seed=0, download=True):
    """Load CIFAR-100: 50,000 + 10,000 photographs in 100 classes. See `cifar10`."""
    return _torchvision(datasets.CIFAR100, "cifar100", root, train, val, test, seed, download)


def _torchvision(source, name, root, train, val, test, seed, download) -> Dataset:
    root = Path(root) if root is not None else _files.make_folder(_files.home() / "data")
    try:
        sources = [source(root, train=flag, download=download) for flag in (True, False)]
    except (OSError, RuntimeError, AssertionError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, OSError) or "download" in str(error).lower():
            raise ConnectionError(
                f"Expected the files of {name} in {root}, and could not fetch them ({error}). "
                "Go online once, or copy the files there; kd.data.glyphs() and kd.data.digits() "
                "need no network.") from error
        raise ValueError(  # torchvision checks the archive, not what lies unpacked beside it
            f"Expected the files of {name} in {root}, got one that is cut short or altered "
            f"({error!r}). Delete its folder there and call this again.") from error
    whole, held_out = map(_as_split, sources)
    if not 0 < val < len(whole):
        raise ValueError(f"Expected val between 1 and {len(whole) - 1}, got {val}.")
    sizes = [len(whole) - val if train is None else train, val]
    train_rows, val_rows = stratified(whole.y, sizes, seed, name)
    if test is not None:
        held_out = held_out[stratified(held_out.y, [test], seed, name)[0]]
    splits = {"train": whole[train_rows], "val": whole[val_rows], "test": held_out}
    params = {"name": name, **{part: len(split) for part, split in splits.items()}, "seed": seed}
    classes = tuple(label.split(" - ")[0] for label in sources[0].classes)  # MNIST has "0 - zero"
    return with_digest(Dataset(**splits, classes=classes, params=params))


def _as_split(source) -> Split:
    raw = torch.as_tensor(source.data)  # [N, H, W] or [N, H, W, C]
    raw = raw[:, None] if raw.ndim == 3 else raw.permute(0, 3, 1, 2)
    x = to_dtype(raw.contiguous(), torch.float32, scale=True)
    return Split(x, torch.as_tensor(source.targets))
