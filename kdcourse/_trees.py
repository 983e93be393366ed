"""Inputs of a network: a tensor, or a dict of tensors by the names of its arguments."""

import torch


def each(function, x):
    """Apply a function to a tensor, or to each tensor of a dict; leave None as it is."""
    if isinstance(x, dict):
        return {name: function(part) for name, part in x.items()}
    return None if x is None else function(x)


def first(x) -> torch.Tensor:
    """Give the tensor itself, or the first of a dict, for the number of samples and the device."""
    return next(iter(x.values())) if isinstance(x, dict) else x


def select(x, index: torch.Tensor):
    """Take rows by their numbers; leave None as it is."""
    if isinstance(x, torch.Tensor):
        return x.index_select(0, index)  # faster than x[index]
    return each(lambda part: part.index_select(0, index), x)


def pieces(x, size: int) -> list:
    """Cut inputs into pieces of `size` samples."""
    return [each(lambda part, start=start: part[start : start + size], x)
            for start in range(0, len(first(x)), size)]


def call(model, x):
    """Call a model with its inputs; the entries of a dict are arguments by name."""
    return model(**x) if isinstance(x, dict) else model(x)
