"""A training's state in one file: written whole or not at all, read without pickle."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from kdcourse import _files

VERSION = "2"


def state(scheme) -> dict:
    """All that a scheme has learned: what `state_dict` holds, and buffers that it leaves out."""
    whole, frozen = scheme.state_dict(), scheme.frozen_tensors()
    hidden = {name: tensor for name, tensor in scheme.named_buffers()
              if name not in whole and name not in frozen}
    groups = {"scheme": whole, "buffer": hidden}
    return {f"{group}.{name}": value for group, entries in groups.items()
            for name, value in entries.items()}


@torch.no_grad()
def put_back(scheme, found: dict) -> None:
    """Give a scheme what `state` took from one like it."""
    scheme.load_state_dict(_part(found, "scheme"))
    buffers = dict(scheme.named_buffers())
    for name, value in _part(found, "buffer").items():
        buffers[name].copy_(value)


def random_state(device) -> torch.Tensor:
    """The states of the random generators, of the CPU's and of the device's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states).to(device)


def _set_random_state(states: torch.Tensor) -> None:
    length = len(torch.get_rng_state())
    torch.set_rng_state(states[:length])
    if len(states) > length:
        torch.cuda.set_rng_state(states[length:])


def save(path: Path, scheme, optimizer, best, random, progress: dict, settings: dict) -> None:
    """Write everything that the next epoch depends on.

    best: the `state` of the best epoch so far, or None. random: `random_state` of each process.
    progress: what is counted, settings: what must be the same when the training goes on (both as
    plain Python).
    """
    tensors, plain = {f"random.{rank}": states for rank, states in enumerate(random)}, {}
    found = state(scheme) | {f"best.{name}": value for name, value in (best or {}).items()}
    for number, p in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(p, {}).items():
            found[f"optimizer.{number}.{name}"] = value
    for name, value in found.items():
        (tensors if isinstance(value, torch.Tensor) else plain)[name] = value
    groups = [{key: value for key, value in group.items() if key != "params"}
              for group in optimizer.param_groups]
    header = {"version": VERSION, "settings": settings, "progress": progress, "plain": plain,
              "groups": groups}
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    _files.write(path, to_bytes(copies, {"kdcourse": json.dumps(header, default=_plain)}))


def _plain(value):
    """A number of NumPy's or in a tensor, as Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"Expected what a checkpoint can keep, tensors and plain Python, got "
                    f"{type(value).__name__}. Keep it as a tensor, or out of get_extra_state.")


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


def restore(header: dict, tensors: dict, scheme, optimizer, rank: int) -> dict | None:
    """Put everything back where `save` found it; return the `state` of the best epoch, if any."""
    everything = tensors | header["plain"]
    put_back(scheme, everything)
    parameters = _parameters(optimizer)
    for key, value in _part(everything, "optimizer").items():
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
    _set_random_state(tensors[f"random.{rank}"])
    return _part(everything, "best") or None


def _part(entries: dict, group: str) -> dict:
    return {name.removeprefix(f"{group}."): value for name, value in entries.items()
            if name.startswith(f"{group}.")}


def _parameters(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]
