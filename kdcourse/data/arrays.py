"""Data from your own arrays.

Shapes: N samples, K classes, C channels, H W height and width, D features, L tokens.
"""

import warnings
from collections.abc import Mapping

import numpy as np
import torch

from kdcourse import _files
from kdcourse._tensors import parts_bytes
from kdcourse._trees import each
from kdcourse.data.dataset import SPLITS, Dataset, Split, with_digest
from kdcourse.tasks import ONE_LABEL, Classes, Task, Tokens, Unlabelled


def from_arrays(x, y, classes=None, val=None, test=None, seed: int = 0, name: str = "arrays",
                task: Task | None = None):
    """Make a `Dataset` from your own arrays or tensors.

    x: [N, C, H, W] (or [N, H, W], [N, D]); floats, or uint8 from 0 to 255 (divided by 255 here). A
        dict of arrays, which the network gets by name, keeps its types. With `Tokens()` integers
        [N, L] stay integers.
    y: [N] whole numbers from 0 to K-1, or [N, K] soft labels; of another shape in another task.
        None: no labels, for objectives that read none. Where some samples have none, say which
        number stands for that: `task=kd.tasks.Classes(ignore=-100)`.
    classes: K names, or their number; by default as many as the labels show, and a warning where
        one of these has no sample (labels from 1 to K make K + 1 classes).
    val, test: `(x, y)` pairs of their own. What is not given is split off `x`, stratified where
        there is one label per sample, by `seed`: 10 % each. Samples without a label stay in train:
        both are 10 % of those with one.
    task: what the labels are, such as `kd.tasks.Tokens()`; by default one label per sample.

    Raises `ValueError` for no data, what is no pair, x and y of different lengths, labels that are
    out of range or not whole numbers, a split with labels that are all `ignore`, NaN or inf in the
    inputs, images [N, H, W, C] with the channels last, and images from 0 to 255 that are not uint8.

    >>> data = from_arrays(np.random.rand(100, 3, 8, 8), np.arange(100) % 4)
    >>> len(data.train), len(data.val), len(data.test), data.classes
    (80, 10, 10, ('0', '1', '2', '3'))
    """
    task = task or ONE_LABEL
    splits = {}
    for part, pair in {"train": (x, y), "val": val, "test": test}.items():
        if pair is None:
            continue
        sequence = isinstance(pair, (tuple, list))
        if not sequence or len(pair) != 2:
            got = f"{len(pair)} things" if sequence else type(pair).__name__
            raise ValueError(f"Expected {part}=(x, y), a pair of inputs and labels, got {got}. "
                             "Leave it out to have 10 % split off.")
        splits[part] = as_split(*pair, part, task)
    if classes is None:
        labels = [split.y for split in splits.values() if split.y is not None]
        if not labels and task != Unlabelled():
            raise ValueError("Expected classes where there are no labels to count them, got none. "
                             "Give classes=, their number, or task=kd.tasks.Unlabelled().")
        classes = max(map(task.count, labels), default=0)
        if isinstance(task, Classes) and all(map(task.hard, labels)):
            labels = list(map(task.known, labels))
            if labels and all(map(len, labels)):
                _warn_of_empty_classes(labels, classes)
    classes = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
    for part, split in splits.items():  # before samples are counted by class
        split.check(len(classes), split.shape, part)
    missing = [part for part in SPLITS if part not in splits]
    if missing:
        splits |= _split_off(splits["train"], missing, seed, name)
    splits = {part: splits[part] for part in SPLITS}  # in this order
    content = [part for split in splits.values() for values in (split.x, split.y)
               for part in parts_bytes(values)]
    params = {"name": name, **{part: len(split) for part, split in splits.items()},
              "seed": seed, "sha256": _files.digest(*content)[:12]}
    if task != ONE_LABEL:
        params["task"] = repr(task)
    return with_digest(Dataset(**splits, classes=classes, params=params, task=task))


def _warn_of_empty_classes(labels: list[torch.Tensor], count: int) -> None:
    """Warn of classes without a sample among those that were counted."""
    found = torch.cat(labels).unique().tolist()  # sorted
    if found[0] >= 0 and len(found) < count:
        first = next(number for number, label in enumerate(found) if number != label)
        warnings.warn(
            f"Labels from {found[0]} to {found[-1]} make {count} classes, of which "
            f"{count - len(found)} (class {first} is the first) have no sample. Subtract 1 from "
            "labels that start at 1; np.unique(y, return_inverse=True)[1] renumbers any; "
            f"classes={count} states that all of them are meant.", stacklevel=3)


def _split_off(split: Split, parts: list[str], seed: int, name: str) -> dict[str, Split]:
    """Split 10 % of the samples off for each of the parts; the rest is "train". Samples without a
    label are part of the rest, and not counted."""
    strata, labelled = torch.zeros(len(split), dtype=torch.int64), torch.arange(len(split))
    if isinstance(split.task, Classes) and split.y is not None:
        strata = split.y if split.y.ndim == 1 else split.y.argmax(1)
        if split.task.partly:
            labelled = split.task.weight(None, split.y).nonzero()[:, 0]
    share = max(1, round(0.1 * len(labelled)))
    rest = len(labelled) - share * len(parts)
    if rest < 1:
        what = "samples" if len(labelled) == len(split) else "samples with a label"
        raise ValueError(f"Expected at least {len(parts) + 1} {what} to split, got "
                         f"{len(labelled)}. Bring more, or pass val=(x, y) and test=(x, y).")
    rows = stratified(strata[labelled], [rest] + [share] * len(parts), seed, name)
    rows = [labelled[index] for index in rows[1:]]
    kept = torch.ones(len(split), dtype=torch.bool).index_fill(0, torch.cat(rows), False)
    rows = [kept.nonzero()[:, 0], *rows]
    return {part: split[index] for part, index in zip(["train", *parts], rows, strict=True)}


def as_split(x, y, name: str, task: Task) -> Split:
    """Make a split of arrays or tensors. Raises `ValueError` for what cannot be one."""
    x = dict(x) if isinstance(x, Mapping) else x
    x = each(lambda values: _tensor(values, f"inputs in {name}"), x)
    y = each(lambda values: _tensor(values, f"labels in {name}"), y)
    if not isinstance(x, dict) and not task.keeps_inputs and x.ndim not in (2, 3, 4):
        raise ValueError(f"Expected inputs of shape [N, C, H, W], [N, H, W] or [N, D] in {name}, "
                         f"got {list(x.shape)}.")
    if not isinstance(x, dict) and not task.keeps_inputs:
        _check_images(x, name)
    lengths = {len(part) for part in (x.values() if isinstance(x, dict) else [x])}
    if len(lengths) > 1:
        raise ValueError(f"Expected equally many samples in all inputs of {name}, got "
                         f"{sorted(lengths)}.")
    if y is not None and lengths != {len(y)}:
        raise ValueError(f"Expected as many labels as inputs in {name}, got {len(y)} labels for "
                         f"{lengths.pop()} inputs.")
    split = Split(as_inputs(x, task), y if y is None else task.take(y, name), task=task)
    if name == "train":
        _warn_of_copies(split)
    return split


def _warn_of_copies(split: Split) -> None:
    """Warn of labels of tokens that are the tokens themselves, as transformers takes them."""
    x, y, task = split.x, split.y, split.task
    if y is None or not isinstance(task, Tokens) or y.is_floating_point():
        return
    known = y != task.ignore
    for ids in x.values() if isinstance(x, dict) else [x]:
        if (ids.shape == y.shape and not ids.is_floating_point() and known.sum() > 1
                and torch.equal(ids[known].long(), y[known])):
            warnings.warn(
                "All labels are the tokens of the inputs at the same places, so a term such as CE "
                "trains the student to copy its input. The labels of a language model are the "
                "next tokens, and nothing shifts them here (in transformers the model does): "
                f"torch.cat([y[:, 1:], torch.full_like(y[:, :1], {task.ignore})], 1).",
                stacklevel=4)


def _check_images(x: torch.Tensor, name: str) -> None:
    """Raise `ValueError` for images with the channels last, and for values from 0 to 255 that are
    not divided by 255 (as uint8 is)."""
    if x.ndim == 4:
        _, H, W, C = x.shape
        if H > 4 and W > 4 and (C in (3, 4) or (C == 1 and H == W)):
            raise ValueError(f"Expected images [N, C, H, W] in {name}, got {list(x.shape)}, with "
                             "the channels last. Bring them to the second place: "
                             "torch.as_tensor(x).permute(0, 3, 1, 2).")
    if x.ndim < 3 or x.dtype in (torch.uint8, torch.bool) or not x.numel():
        return
    low, high = x.aminmax()
    if low >= 0 and 16 < high <= 255 and (high > 100 or (x == x.round()).all()):
        raise ValueError(f"Expected images in [0, 1], or uint8 from 0 to 255, in {name}, got "
                         f"{str(x.dtype).removeprefix('torch.')} from {float(low):g} to "
                         f"{float(high):g}. Divide by 255: x / 255; or pass x.astype('uint8').")


def as_inputs(x, task: Task):
    """Convert images [N, C, H, W] (or [N, H, W], [N, D]) to floats; uint8 is divided by 255.

    A dict is not changed; integers and sequences of a task that has them keep their shape.
    """
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
    """Draw disjoint sets of rows of these sizes, with every class in its share where possible.

    Raises `ValueError` for a size below 1, and for more rows than there are.
    """
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
            possible = counts.min() >= 2 and min(size, len(rest) - size) >= len(counts)
            rest, part = train_test_split(
                rest, test_size=size, stratify=labels[rest] if possible else None,
                random_state=seed % 2**32)  # scikit-learn takes no negative seed
        taken.append(torch.from_numpy(np.sort(part)))
    return taken[::-1]
