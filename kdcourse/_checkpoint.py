"""A training's state in one file: written whole or not at all, read without pickle."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from kdcourse import _files

VERSION = "2"


def save(path: Path, scheme, optimizer, best, progress: dict, settings: dict) -> None:
    """Write everything that the next epoch depends on.

    best: the student's weights of the best epoch so far, or None. progress: what is counted,
    settings: what must be the same when the training goes on (both as plain Python).
    """
    tensors, plain = {"random.cpu": torch.get_rng_state()}, {}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    for group, entries in (("scheme", scheme.state_dict()), ("best", best or {}),
                           ("teacher", scheme.moving().state_dict())):
        for name, value in entries.items():
            (tensors if isinstance(value, torch.Tensor) else plain)[f"{group}.{name}"] = value
    for number, p in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(p, {}).items():
            key = f"optimizer.{number}.{name}"
            (tensors if isinstance(value, torch.Tensor) else plain)[key] = value
    groups = [{key: value for key, value in group.items() if key != "params"}
              for group in optimizer.param_groups]
    header = {"version": VERSION, "settings": settings, "progress": progress, "plain": plain,
              "groups": groups}
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    _files.write(path, to_bytes(copies, {"kdcourse": json.dumps(header)}))


def load(path: Path, settings: dict) -> tuple[dict, dict]:
    """The header and the tensors of a checkpoint that was written under the same `settings`.

    Raises `ValueError` for a file that is no whole checkpoint, and for one of other settings.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["kdcourse"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = header["settings"] if header["version"] == VERSION else None
    except (SafetensorError, KeyError, ValueError, OSError):
        found = None
    if found is None:
        raise ValueError(f"Expected a checkpoint of kd.fit in {path}, got a file that is cut short "
                         "or of another kind; it was not used. Delete it, or name another file.")
    for name, value in settings.items():
        if found.get(name) != value:
            remedy = {"threads": f" Call torch.set_num_threads({found.get(name)}) first."}
            raise ValueError(
                f"Expected the checkpoint {path} to be of {name} {value}, got {found.get(name)}: "
                f"going on would not give the same student.{remedy.get(name, '')} Otherwise delete "
                "the file to train anew, or name another."
            )
    return header, tensors


def restore(header: dict, tensors: dict, scheme, optimizer) -> dict | None:
    """Put everything back where `save` found it; return the best student's weights, if any."""
    everything = tensors | header["plain"]
    part = lambda group: {name.removeprefix(f"{group}."): value  # noqa: E731
                          for name, value in everything.items() if name.startswith(f"{group}.")}
    scheme.load_state_dict(part("scheme"))
    if moving := scheme.moving():
        moving.load_state_dict(part("teacher"))
    state = part("optimizer")
    parameters = _parameters(optimizer)
    for key, value in state.items():
        number, _, name = key.partition(".")
        p = parameters[int(number)]
        if isinstance(value, torch.Tensor) and value.shape == p.shape:
            value = torch.empty_like(p).copy_(value)  # in the layout of its parameter
        elif isinstance(value, torch.Tensor) and optimizer.defaults.get("fused"):
            value = value.to(p.device)  # the count of steps
        optimizer.state[p][name] = value
    for group, entries in zip(optimizer.param_groups, header["groups"], strict=True):
        group.update({key: tuple(value) if isinstance(value, list) else value
                      for key, value in entries.items()})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return part("best") or None


def _parameters(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]
