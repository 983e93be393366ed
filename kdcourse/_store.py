"""Tensors with a header in one safetensors file, read without pickle and checked by a digest."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from kdcourse import _files
from kdcourse._tensors import tensor_bytes


def save(path: Path, kind: str, tensors: dict[str, torch.Tensor], settings: dict, **more) -> None:
    """Write the file as a whole or not at all.

    kind: what it holds, such as "stored answers". settings: what it was computed from; `load`
    compares them. more: other entries of the header, plain Python.
    """
    copies = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
              for name, tensor in tensors.items()}  # safetensors takes no shared memory
    header = {"kind": kind, "settings": settings, "sha256": _digest(copies), **more}
    _files.write(path, to_bytes(copies, {"kdcourse": json.dumps(header, default=_plain)}))


def load(path: Path, kind: str, settings: dict, remedies: dict | None = None,
         renew: str = "To start anew, delete the file or name another.") -> tuple[dict, dict]:
    """Return the header and the tensors of a file that was written with the same settings.

    remedies: by the name of a setting, a sentence for where it differs, with {} for its value.
    renew: how to get a file that is right.

    Raises `ValueError` for a file that is cut short, altered or of another kind, and for one of
    other settings.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["kdcourse"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = header["settings"]
        if header["kind"] != kind or header["sha256"] != _digest(tensors):
            raise ValueError
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise ValueError(f"Expected {kind} in {path}, got a file that is cut short, altered or of "
                         f"another kind; it was not used. {renew}") from None
    for name, value in settings.items():
        if found.get(name) != value:
            remedy = (remedies or {}).get(name, "").format(found.get(name))
            raise ValueError(f"Expected {kind} in {path} to be of {name} {value}, got "
                             f"{found.get(name)}; it was not used.{remedy} {renew}")
    return header, tensors


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    return _files.digest(*(part for name, tensor in sorted(tensors.items())
                           for part in (name, tensor_bytes(tensor))))


def _plain(value):
    """A number of NumPy or in a tensor, as one of Python."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"Expected what a file can keep, tensors and plain Python, got "
                    f"{type(value).__name__}. Keep it as a tensor, or out of get_extra_state.")
