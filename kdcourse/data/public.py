"""What others collected: sets of scikit-learn and torchvision.

Shapes: N samples, C channels, H W height and width.
"""

from pathlib import Path

import torch
from torchvision import datasets
from torchvision.transforms import v2

from kdcourse import _files
from kdcourse.data.arrays import from_arrays, stratified
from kdcourse.data.dataset import Dataset, Split, drawn


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
    kept, held = stratified(labels[0], [rest if train is None else train, val], seed, name)
    tested = torch.arange(len(labels[1]))
    if test is not None:
        (tested,) = stratified(labels[1], [test], seed, name)
    params = {"name": name, "train": len(kept), "val": val, "test": len(tested), "seed": seed}
    return drawn(Dataset(
        train=Split(images[0][kept], labels[0][kept]),
        val=Split(images[0][held], labels[0][held]),
        test=Split(images[1][tested], labels[1][tested]),
        classes=tuple(names),
        params=params,
    ))


def _stack(raw, to_tensor) -> torch.Tensor:
    """torchvision's `.data`, [N, H, W] tensor or [N, H, W, C] array, as float [N, C, H, W]."""
    raw = torch.as_tensor(raw)
    raw = raw[:, None] if raw.ndim == 3 else raw.permute(0, 3, 1, 2)
    return to_tensor(raw.contiguous())


def _readable(label: str) -> str:
    return label.split(" - ")[0]  # MNIST calls its classes "0 - zero"
