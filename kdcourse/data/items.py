"""What a loader yields: inputs, labels and sample ids as tensors, or a sentence.

Shapes: B batch, K classes, C channels, H W height and width.
"""

from collections.abc import Mapping

import numpy as np
import torch

from kdcourse._trees import each
from kdcourse.data.dataset import like
from kdcourse.tasks import Task


def tensors_of(item, name: str) -> list:
    """Convert what a loader yielded to x, y and index (or None): tensors, or dicts of tensors.

    Raises `ValueError` for what is no batch, has no tensors, and for ids that are none.
    """
    if isinstance(item, Mapping) and "labels" in item:
        item = ({key: part for key, part in item.items() if key != "labels"}, item["labels"])
    sequence = isinstance(item, (tuple, list))
    if not sequence or len(item) not in (2, 3):
        got = f"a {type(item).__name__}" + (f" of {len(item)}" if sequence else "")
        remedy = "Let the loader's collate_fn return that."
        if isinstance(item, Mapping):
            got += f" with the keys {list(item)}"
            remedy = ("In a dict, labels have the key 'labels': rename theirs in collate_fn; where "
                      "there are none, yield (inputs, None).")
        raise ValueError(f"Expected batches (x, y) or (x, y, index) in {name}, got {got}. {remedy}")
    x, y, index = (_tensor(part, what, name) for part, what in zip(
        (*item, None), ("inputs", "labels", "sample ids")))
    if index is not None:
        _check_ids(index, name)
    return [x, y, index]


def _tensor(part, what: str, name: str):
    """Make a tensor, or a dict of tensors, of what a loader yielded; None stays."""
    try:
        return each(torch.as_tensor, dict(part) if isinstance(part, Mapping) else part)
    except (TypeError, ValueError, RuntimeError) as error:
        values = [*part.values()] if isinstance(part, Mapping) else part
        while isinstance(values, (list, tuple)) and values:
            values = values[0]
        remedy = "Convert them in the dataset or in collate_fn."
        if isinstance(values, str):
            remedy = "Number them from 0 on, in the dataset or in collate_fn."
        elif isinstance(values, (torch.Tensor, np.ndarray)):
            remedy = ("Stack them in collate_fn: those of one batch must have one size, those of "
                      "another batch may have another.")
        raise ValueError(f"Expected tensors in the batches of {name}, got something else as {what},"
                         f" {type(values).__name__} ({error}). {remedy}") from None


def _check_ids(index, name: str) -> None:
    """Raise `ValueError` unless a batch's third entry can be sample ids."""
    got = "a dict"
    if isinstance(index, torch.Tensor):
        whole = not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)
        if whole and index.ndim == 1 and (index.device.type != "cpu" or (index >= 0).all()):
            return  # on a GPU the comparison would wait for it
        got = f"{str(index.dtype).removeprefix('torch.')} {list(index.shape)}"
        got += f", {index.flatten()[:3].tolist()} first" if whole else ""
    raise ValueError(
        f"Expected sample ids [B], whole numbers of at least 0, as the third entry of the batches "
        f"of {name}, got {got}. A weight or a mask is no id: where the network takes it, yield a "
        'dict of inputs by name, ({"x": x, "mask": mask}, y); else leave it out in collate_fn.')


def kind_of(x, y, task: Task) -> str:
    """Describe what must be alike in all batches of a loader. Sequences may differ in their length,
    images and labels of their pixels in height and width."""
    any_length = isinstance(x, dict) or task.keeps_inputs
    free = lambda t: ["any"] * (t.ndim - 1)  # noqa: E731
    shape = free if any_length or y is None or y.ndim > 2 else lambda t: list(t.shape[1:])
    labels = "no labels" if y is None else f"labels {shape(y)} of {y.dtype}"
    inputs = dict(sorted(x.items())) if isinstance(x, dict) else x
    found = each(free if any_length else lambda t: like(tuple(t.shape[1:]), task), inputs)
    return f"{found} and {labels}"


def same(one, other) -> bool:
    """Tell whether two batches have the same content."""
    if isinstance(one, dict):
        return isinstance(other, dict) and same([*one.values()], [*other.values()])
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.equal(other)
    return one is other or (one is not None and other is not None and len(one) == len(other)
                            and all(map(same, one, other)))
