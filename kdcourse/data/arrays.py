"""Data from your own arrays.

Shapes: N samples, K classes, C channels, H W height and width, D features, L tokens.
"""

from collections.abc import Mapping

import numpy as np
import torch

from kdcourse import _files
from kdcourse._tensors import parts_bytes
from kdcourse.data.dataset import Dataset, Split, check_split, drawn
from kdcourse.tasks import ONE_LABEL, Task, Unlabelled, each, first


def from_arrays(x, y, classes=None, val=None, test=None, seed: int = 0, name: str = "arrays",
                task: Task | None = None):
    """A `Dataset` from your own arrays or tensors.

    x: [N, C, H, W] (or [N, H, W], [N, D]); floats, or uint8 from 0 to 255 (divided by 255 here). A
        dict of arrays, which the network gets by name, keeps its types. With `Tokens()` integers
        [N, L] stay integers.
    y: [N] whole numbers from 0 to K-1, or [N, K] soft labels; for another task what it says. None:
        no labels, for objectives that read none.
    classes: K names, or their number; by default as many as the labels show.
    val, test: `(x, y)` pairs of their own. What is not given is split off `x`, stratified where
        there is one label per sample, by `seed`: 10 % each.
    task: what the labels are, such as `kd.tasks.Tokens()`; by default one label per sample.

    Raises `ValueError` in a sentence for: no data, what is no pair, x and y of different lengths,
    labels that are out of range or not whole numbers, NaN or inf in the inputs.

    >>> data = from_arrays(np.random.rand(100, 3, 8, 8), np.arange(100) % 4)
    >>> len(data.train), len(data.val), len(data.test), data.classes
    (80, 10, 10, ('0', '1', '2', '3'))
    """
    task = task or ONE_LABEL
    whole = as_split(x, y, "train", task)
    given = {part: as_split(*_pair(given, part), part, task) for part, given in
             (("val", val), ("test", test)) if given is not None}
    if classes is None:
        labels = [part.y for part in (whole, *given.values()) if part.y is not None]
        if not labels and task != Unlabelled():
            raise ValueError("Expected classes where there are no labels to count them, got none. "
                             "Give classes=, their number, or task=kd.tasks.Unlabelled().")
        classes = max(map(task.count, labels), default=0)
    classes = range(classes) if isinstance(classes, int) else classes
    for part, split in {"train": whole, **given}.items():
        check_split(split, len(classes), part)  # before anything is counted by class
    missing = [part for part in ("val", "test") if part not in given]
    if missing:
        share = max(1, round(0.1 * len(whole)))
        hard = torch.zeros(len(whole), dtype=torch.int64)  # all in one stratum
        if task == ONE_LABEL and whole.y is not None:
            hard = whole.y if whole.y.ndim == 1 else whole.y.argmax(1)
        sizes = [len(whole) - share * len(missing)] + [share] * len(missing)
        if sizes[0] < 1:
            raise ValueError(
                f"Expected at least {len(missing) + 1} samples to split, got {len(whole)}. "
                "Bring more, or pass val=(x, y) and test=(x, y)."
            )
        rows = stratified(hard, sizes, seed, name)
        for part, index in zip(missing, rows[1:], strict=True):
            given[part] = whole[index]
        whole = whole[rows[0]]
    content = [part for split in (whole, given["val"], given["test"])
               for x in (split.x, split.y) for part in parts_bytes(x)]
    params = {"name": name, "train": len(whole), "val": len(given["val"]),
              "test": len(given["test"]), "seed": seed, "sha256": _files.digest(*content)[:12]}
    if task != ONE_LABEL:
        params["task"] = repr(task)
    return drawn(Dataset(whole, given["val"], given["test"], tuple(map(str, classes)), params,
                         task=task))


def _pair(given, name: str) -> tuple:
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        kind = f"{len(given)} things" if isinstance(given, (tuple, list)) else type(given).__name__
        raise ValueError(f"Expected {name}=(x, y), a pair of inputs and labels, got {kind}. Leave "
                         "it out to have 10 % split off.")
    return given


def as_split(x, y, name: str, task: Task) -> Split:
    """A split of arrays or tensors; raises `ValueError` for what cannot be one."""
    x = dict(x) if isinstance(x, Mapping) else x
    x = each(lambda values: _tensor(values, f"inputs in {name}"), x)
    y = each(lambda values: _tensor(values, f"labels in {name}"), y)
    if not isinstance(x, dict) and not task.keeps_inputs and x.ndim not in (2, 3, 4):
        raise ValueError(f"Expected inputs of shape [N, C, H, W], [N, H, W] or [N, D] in {name}, "
                         f"got {list(x.shape)}.")
    count = len(first(x))
    if count == 0:
        raise ValueError(f"Expected at least one sample in {name}, got none.")
    lengths = {len(part) for part in x.values()} if isinstance(x, dict) else {count}
    if len(lengths) > 1:
        raise ValueError(f"Expected equally many samples in all inputs of {name}, got "
                         f"{sorted(lengths)}.")
    if y is not None and count != len(y):
        raise ValueError(f"Expected as many labels as inputs in {name}, got {len(y)} labels for "
                         f"{count} inputs.")
    return Split(as_inputs(x, task), y if y is None else task.take(y, name), task=task)


def as_inputs(x, task: Task):
    """Images [N, C, H, W] (or [N, H, W], [N, D]) as floats: uint8 is divided by 255. A dict stays
    as it is; so do token ids and sequences, of a task that has them."""
    if isinstance(x, dict):
        return x
    if task.keeps_inputs:
        return x.float() if x.is_floating_point() else x.long()
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
