"""Digests of tensors, and sketches: a few numbers by which two machines compare their tensors."""

import numpy as np
import torch
from torch import nn

from kdcourse import _files

BUCKETS = 32  # numbers in a sketch
TOLERANCE = 0.3  # relative distance below which two tensors count as two trainings of one thing


def sketch(tensor: torch.Tensor) -> list[float]:
    """Add every entry, with a random sign, to one of `BUCKETS` random buckets; return the sums,
    divided by the tensor's norm and rounded to three digits, and the norm.

    The sketches of the last tensors are kept under their digest, which takes less time: the keys
    of a comparison hold the same stored answers, once for every run.
    """
    name = _files.digest(str(tensor.dtype), tensor_bytes(tensor))
    if name not in _sketches:
        _sketches[name] = _computed(tensor)
        for oldest in list(_sketches)[:-256]:
            del _sketches[oldest]
    return list(_sketches[name])


_sketches = {}


def _computed(tensor: torch.Tensor) -> list[float]:
    flat = tensor.detach().flatten().double().cpu().nan_to_num(posinf=1e6, neginf=-1e6)
    rng = torch.Generator().manual_seed(0)
    bucket = torch.randint(2 * BUCKETS, flat.shape, generator=rng)
    sign = 1 - 2 * (bucket % 2)
    sums = torch.zeros(BUCKETS, dtype=torch.float64).index_add_(0, bucket // 2, sign * flat)
    norm = float(flat.norm())
    return [round(value, 3) for value in (sums / (norm or 1)).tolist()] + [float(f"{norm:.3g}")]


def distance(one: list[float], other: list[float]) -> float:
    """Estimate the relative distance of two tensors from their sketches."""
    a, b = (np.array(numbers[:-1]) * numbers[-1] for numbers in (one, other))
    return float(np.linalg.norm(a - b) / max(one[-1], other[-1], 1e-12))


def fingerprint(source: nn.Module | torch.Tensor | dict | None) -> str:
    """SHA-256 of a tensor, of a dict of tensors, or of all values in a network's `state_dict`."""
    if not isinstance(source, nn.Module):
        return _files.digest(*parts_bytes(source))
    return _files.digest(*(
        tensor_bytes(value) if isinstance(value, torch.Tensor) else repr(value).encode()
        for value in source.state_dict().values()))


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """Return the numbers of a tensor of any type and layout as bytes."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()  # NumPy has no bfloat16


def parts_bytes(x: torch.Tensor | dict | None) -> list[bytes]:
    """Return the bytes of a tensor, or of each in a dict with its name; of None, an empty list."""
    if isinstance(x, dict):
        return [part for name, t in sorted(x.items()) for part in (name.encode(), tensor_bytes(t))]
    return [] if x is None else [tensor_bytes(x)]
