"""The state of a training, saved after each epoch, so that it can be resumed."""

import dataclasses
from pathlib import Path

import torch

from kdcourse import _files, _store
from kdcourse._key import named
from kdcourse._random import global_state, set_global_state
from kdcourse.teachers import Teacher
from kdcourse.training.history import History

KIND = "a checkpoint of kd.fit"


class Checkpoint:
    """The file of a training, or none for the path None.

    It holds what it belongs to (scheme, data, recipe, seed, versions, …); a file of another
    training is refused.
    """

    def __init__(self, path, scheme, data, recipe, seed: int, team, device):
        self.path, self.scheme, self.team, self.device = path, scheme, team, device
        self.found = None  # header and tensors
        if path is None:
            return
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"Expected a folder {self.path.parent} for the checkpoint, got "
                                    "none. Make it first.")
        # Tensors in the file change in the training, so they are no part of what it belongs to.
        frozen = scheme.frozen_tensors()
        kept = [*scheme.state_dict(keep_vars=True).values(),
                *(b for name, b in scheme.named_buffers() if name not in frozen)]
        self.teachers = {part: named(part) for part in scheme.modules()
                         if isinstance(part, Teacher) and not part.saved}
        self.settings = {
            "scheme": named(scheme, kept), "data": repr(data),
            "recipe": named(dataclasses.replace(recipe, capture=False)),
            "seed": seed, "torch": torch.__version__, "threads": torch.get_num_threads(),
            "device": device.type, "processes": team.size, "smoke": _files.smoke(),
            "trained parameters": _files.digest(
                [name for name, p in scheme.named_parameters() if p.requires_grad])[:8],
            "training samples": data.train.digest()[:8],
        }
        if self.path.exists():
            threads = " Call torch.set_num_threads({}) first."
            self.found = _store.load(self.path, KIND, self.settings, {"threads": threads})

    def history(self) -> History:
        """Read the history so far, or make an empty one."""
        if self.found is None:
            return History(device=str(self.device))
        return History(**self.found[0]["history"])

    def restore(self, optimisers) -> dict | None:
        """Restore everything that was saved; return the `state` of the best epoch, if any."""
        if self.found is None:
            return None
        (header, tensors), self.found = self.found, None
        everything = tensors | header["plain"]
        put_back(self.scheme, everything)
        slots = [(optimizer, p) for optimizer, p in _parameters(optimisers)]
        for key, value in _part(everything, "optimizer").items():
            number, _, name = key.partition(".")
            optimizer, p = slots[int(number)]
            if isinstance(value, torch.Tensor) and value.shape == p.shape:
                value = torch.empty_like(p).copy_(value)  # in the layout of its parameter
            elif isinstance(value, torch.Tensor) and optimizer.defaults.get("fused"):
                value = value.to(p.device)  # the count of steps
            optimizer.state[p][name] = value
        groups = [group for optimizer in optimisers.optimizers for group in optimizer.param_groups]
        for number, (group, entries) in enumerate(zip(groups, header["groups"], strict=True)):
            group.update({key: tuple(value) if isinstance(value, list) else value
                          for key, value in entries.items()})
            for key, value in _part(tensors, f"group.{number}").items():  # timm's LAMB: its steps
                here = group.get(key)
                group[key] = value.to(here.device) if isinstance(here, torch.Tensor) else value
        for schedule, saved in zip(optimisers.schedules, header["schedules"], strict=True):
            schedule.load_state_dict(saved)
        set_global_state(tensors[f"random.{self.team.rank}"], self.device)
        return _part(everything, "best") or None

    def save(self, history: History, optimisers, best: dict | None) -> None:
        """Write everything that the next epoch depends on. best: the `state` of the best epoch.

        Raises `ValueError` for a teacher that is not saved and has changed.
        """
        if self.path is None:
            return
        if any(named(teacher) != name for teacher, name in self.teachers.items()):
            raise ValueError("Expected a teacher that stays as it is, got one whose weights were "
                             "changed in the training: no checkpoint would keep them. Use kd.EMA, "
                             "or a subclass of kd.teachers.Teacher with saved = True.")
        random = self.team.gather(global_state(self.device).to(self.device))
        if self.team.rank:
            return
        found = state(self.scheme) | {f"best.{name}": value for name, value in (best or {}).items()}
        found |= {f"random.{rank}": states for rank, states in enumerate(random)}
        for number, (optimizer, p) in enumerate(_parameters(optimisers)):
            for name, value in optimizer.state.get(p, {}).items():
                found[f"optimizer.{number}.{name}"] = value
        groups = [{key: value for key, value in group.items() if key != "params"}
                  for optimizer in optimisers.optimizers for group in optimizer.param_groups]
        for number, group in enumerate(groups):
            held = [key for key, value in group.items() if isinstance(value, torch.Tensor)]
            found |= {f"group.{number}.{key}": group.pop(key) for key in held}
        tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
        _store.save(self.path, KIND, tensors, self.settings, history=history.to_dict(),
                    plain={name: v for name, v in found.items() if name not in tensors},
                    groups=groups,
                    schedules=[schedule.state_dict() for schedule in optimisers.schedules])


class Best:
    """The weights of the epoch with the best validation accuracy, for early stopping."""

    def __init__(self, scheme, recipe, history: History):
        self.scheme, self.patience, self.history = scheme, recipe.patience, history
        self.state = None

    def note(self) -> None:
        """Keep the weights of the last epoch if it is better than all before."""
        validated = self.history.validated
        epoch = self.history.rows[-1]["epoch"]
        if self.patience and epoch in validated:
            accuracy = validated.pop(epoch)
            if all(accuracy > other for other in validated.values()):
                self.history.best = epoch
                self.state = {name: value.clone() if isinstance(value, torch.Tensor) else value
                              for name, value in state(self.scheme).items()}

    @property
    def over(self) -> bool:
        """True after `patience` validations without a better one."""
        if self.patience is None or self.history.best is None:
            return False
        return sum(epoch > self.history.best for epoch in self.history.validated) >= self.patience

    def put_back(self) -> None:
        """Load the best weights into the scheme, if any were kept."""
        if self.state:
            put_back(self.scheme, self.state)


def state(scheme) -> dict:
    """Collect `state_dict` and the buffers that it leaves out."""
    whole, frozen = scheme.state_dict(), scheme.frozen_tensors()
    hidden = {name: tensor for name, tensor in scheme.named_buffers()
              if name not in whole and name not in frozen}
    return {f"{group}.{name}": value for group, entries in
            (("scheme", whole), ("buffer", hidden)) for name, value in entries.items()}


@torch.no_grad()
def put_back(scheme, found: dict) -> None:
    """Load what `state` collected."""
    scheme.load_state_dict(_part(found, "scheme"))
    buffers = dict(scheme.named_buffers())
    for name, value in _part(found, "buffer").items():
        buffers[name].copy_(value)


def _part(entries: dict, group: str) -> dict:
    return {name.removeprefix(f"{group}."): value for name, value in entries.items()
            if name.startswith(f"{group}.")}


def _parameters(optimisers):
    return [(optimizer, p) for optimizer in optimisers.optimizers
            for group in optimizer.param_groups for p in group["params"]]
