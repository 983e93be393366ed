"""Tensors and a header in one file: written whole or not at all, read without pickle."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from kdcourse import _files
from kdcourse._tensors import tensor_bytes


def save(path: Path, kind: str, tensors: dict[str, torch.Tensor], settings: dict, **more) -> None:
    """Write a safetensors file.

    kind: what it is, such as "stored answers". settings: what it belongs to; `load` asks for it.
    more: plain Python besides.
    """
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"kind": kind, "settings": settings, "sha256": _digest(copies), **more}
    _files.write(path, to_bytes(copies, {"kdcourse": json.dumps(header, default=_plain)}))


def load(path: Path, kind: str, settings: dict, remedies=None) -> tuple[dict, dict]:
    """The header and the tensors of a file that is whole and was written with these settings.

    remedies: by the name of a setting, a sentence to add where it differs, with {} for its value.

    Raises `ValueError` for a file that is cut short, altered or of another kind, and for one of
    other settings.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["kdcourse"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        whole = header["kind"] == kind and header["sha256"] == _digest(tensors)
        found = header["settings"]
    except (SafetensorError, KeyError, ValueError, OSError):
        whole = False
    if not whole:
        raise ValueError(f"Expected {kind} in {path}, got a file that is cut short, altered or of "
                         "another kind; it was not used. Delete it, or name another.")
    for name, value in settings.items():
        if found.get(name) != value:
            remedy = (remedies or {}).get(name, "").format(found.get(name))
            raise ValueError(f"Expected {kind} in {path} to be of {name} {value}, got "
                             f"{found.get(name)}; it was not used.{remedy} Otherwise delete the "
                             "file, or name another.")
    return header, tensors


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    return _files.digest(*(part for name in sorted(tensors)
                           for part in (name, tensor_bytes(tensors[name]))))


def _plain(value):
    """A number of NumPy's or in a tensor, as Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"Expected what a file can keep, tensors and plain Python, got "
                    f"{type(value).__name__}. Keep it as a tensor, or out of get_extra_state.")
