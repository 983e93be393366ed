"""Looking at a module without a trace: its mode, its parts, and what a forward pass may write."""

import contextlib
import copy
import random

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from kdcourse._random import kept

_TORCH = set(vars(nn.Module()))  # what torch keeps in a module: hooks, its parts, its mode
_PARTS = ("_parameters", "_buffers", "_modules")


def copied(model: nn.Module, shared=()) -> nn.Module:
    """Make a deep copy that keeps the `shared` objects. `copy.deepcopy` fails on tensors with a
    gradient history that a module keeps of its last call, so these are detached."""
    memo = {id(value): value.detach().clone() for module in model.modules()
            for value in vars(module).values()
            if isinstance(value, torch.Tensor) and not value.is_leaf}
    return copy.deepcopy(model, memo | {id(value): value for value in shared})


def switch(module: nn.Module, mode: bool) -> None:
    """Set the mode of a module. What `torch.export` made refuses that: it computes as it did when
    it was made, and only its flag is set."""
    try:
        module.train(mode)
    except NotImplementedError:
        module.training = mode
        for child in module.children():
            switch(child, mode)


@contextlib.contextmanager
def untouched(modules):
    """Put back what the block changed in the modules (not in their parts, unless these are listed):
    parameters, buffers, plain attributes, modes; and the random generators.

    A layer that was made in the block (`LazyLinear`, or one that a forward pass assigns) stays as
    it is, with the attributes of the module that holds it. The copies of the tensors lie in the
    memory of the CPU until the block ends.
    """
    before = [_Before(module) for module in dict.fromkeys(modules)]
    devices = {t.device for one in before for t, *_ in one.tensors}
    numbers, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with kept(*devices):
            yield
    finally:
        random.setstate(numbers)
        np.random.set_state(arrays)  # noqa: NPY002
        for one in before:
            one.put_back()


class _Before:
    """A module as it is now."""

    def __init__(self, module: nn.Module):
        self.module, self.kind, self.mode = module, type(module), module.training
        self.parts = {} if self._scripted else {
            group: dict(vars(module)[group]) for group in _PARTS}
        self.attributes = {} if self._scripted else {
            name: value for name, value in vars(module).items() if name not in _TORCH}
        self.contents = {name: value.copy() for name, value in self.attributes.items()
                         if type(value) in (list, dict, set)}
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False),
                   *(t for t in self.attributes.values() if isinstance(t, torch.Tensor))]
        self.tensors = [(t, t.data, _copy(t)) for t in tensors if not is_lazy(t)]

    @property
    def _scripted(self) -> bool:  # its attributes lie in C++
        return isinstance(self.module, torch.jit.ScriptModule)

    @torch.no_grad()
    def put_back(self) -> None:
        module = self.module
        module.training = self.mode
        for tensor, data, kept_data in self.tensors:
            if tensor.shape != data.shape or tensor.data_ptr() != data.data_ptr():
                tensor.data = data  # it was resized, or another one was assigned to its `data`
            if not _equal(data, kept_data):
                data.copy_(kept_data)
        if self._scripted or self._has_made():
            return
        for group in _PARTS:
            vars(module)[group].update(self.parts[group])
        for name in [name for name in vars(module) if name not in _TORCH]:
            if name not in self.attributes:
                del vars(module)[name]
        vars(module).update(self.attributes)
        for name, content in self.contents.items():
            held = self.attributes[name]
            held.clear()
            (held.extend if isinstance(held, list) else held.update)(content)

    def _has_made(self) -> bool:
        """Whether the module got a parameter, a buffer or a module that it did not have."""
        return type(self.module) is not self.kind or any(
            part is not None and self.parts[group].get(name) is None
            for group in _PARTS for name, part in vars(self.module)[group].items())


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return tensor.clone() if tensor.device.type in ("cpu", "meta") else tensor.cpu()


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    try:
        return torch.equal(one, other.to(one.device))
    except RuntimeError:  # a type whose numbers torch does not compare
        return False


def check_whole(model: nn.Module, who: str) -> None:
    """Raise `ValueError` for a network whose weights are not all in this process: sharded by FSDP
    or DeepSpeed, offloaded, or never loaded (on the meta device)."""
    sharded = any(type(part).__name__ == "FullyShardedDataParallel" for part in model.modules())
    for name, p in model.named_parameters():
        if sharded or p.is_meta or hasattr(p, "device_mesh") or hasattr(p, "ds_id"):
            what = "on the meta device" if p.is_meta else "a shard"
            raise ValueError(
                f"Expected a {who} whose weights are all in this process, got {name} as {what}. "
                "Load it whole, without device_map, FSDP or DeepSpeed; for a network that does "
                "not fit on one device write the loop, with the functions in kd.losses.")


def tree(modules: dict[str, nn.Module], lines: int = 40) -> str:
    """List the module paths with their classes, as deep as fits into so many lines."""
    for depth in range(4, 0, -1):
        shown = [(path, type(module).__name__) for path, module in modules.items()
                 if path and path.count(".") < depth]
        if len(shown) <= lines:
            break
    rest = [f"  … and {len(shown) - lines} more"] if len(shown) > lines else []
    return "\n".join([f"  {path}  ({kind})" for path, kind in shown[:lines]] + rest)
