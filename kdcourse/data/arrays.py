"""Data from your own arrays.

Shapes: N samples, K classes, C channels, H W height and width, D features.
"""

import numpy as np
import torch

from kdcourse import _files
from kdcourse.data.dataset import Dataset, Split, check_split, drawn


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
    whole = as_split(x, y, "train")
    given = {part: as_split(*_pair(given, part), part) for part, given in
             (("val", val), ("test", test)) if given is not None}
    if classes is None:
        widest = [whole, *given.values()]
        count = (whole.y.shape[1] if whole.y.ndim == 2
                 else 1 + max(int(part.y.max()) for part in widest))
        classes = [str(i) for i in range(count)]
    for part, split in {"train": whole, **given}.items():
        check_split(split, len(classes), part)  # before anything is counted by class
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
        rows = stratified(hard, sizes, seed, name)
        for part, index in zip(missing, rows[1:], strict=True):
            given[part] = Split(whole.x[index], whole.y[index])
        whole = Split(whole.x[rows[0]], whole.y[rows[0]])
    content = [part.numpy().tobytes() for split in (whole, given["val"], given["test"])
               for part in (split.x, split.y)]
    params = {"name": name, "train": len(whole), "val": len(given["val"]),
              "test": len(given["test"]), "seed": seed, "sha256": _files.digest(*content)[:12]}
    return drawn(Dataset(whole, given["val"], given["test"], tuple(map(str, classes)), params))


def _pair(given, name: str) -> tuple:
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        kind = f"{len(given)} things" if isinstance(given, (tuple, list)) else type(given).__name__
        raise ValueError(f"Expected {name}=(x, y), a pair of inputs and labels, got {kind}. Leave "
                         "it out to have 10 % split off.")
    return given


def as_split(x, y, name: str) -> Split:
    """A split of arrays or tensors; raises `ValueError` for what cannot be one."""
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
    return Split(as_inputs(x), y)


def as_inputs(x: torch.Tensor) -> torch.Tensor:
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


def stratified(labels: torch.Tensor, sizes: list[int], seed: int, name: str):
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
