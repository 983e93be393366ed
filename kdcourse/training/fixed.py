"""What a captured step takes for granted: nothing is read by Python, and no Python state changes.

A graph replays operations on a GPU. Python, which chose them, does not run again: a number that it
read, drew or counted stays what it was at the capture.
"""

import contextlib
import operator
import random

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_OF_TORCH = set(vars(nn.Module())) - {"training"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_LARGE = 64  # entries of a list or dict that are compared; of a longer one only their number


def why_not(scheme, recipe, team, on_step, device, graphs) -> str:
    """Say why the steps of a training cannot be captured; an empty string if nothing is known."""
    reason = ""
    if device.type not in graphs:
        reason = f"graphs are captured on CUDA devices, and this is {device.type}"
    elif recipe.compile:
        reason = "Recipe(compile=True) compiles the step instead"
    elif team.size > 1:
        reason = "several processes exchange gradients within the step"
    elif on_step is not None:
        reason = "on_step is Python within the step"
    else:
        for path, module in scheme.named_modules():
            if hasattr(module, "_orig_mod"):
                reason = f"{path} was compiled by torch.compile"
            for hook in [hook for name in _HOOKS for hook in vars(module)[name].values()
                         ] if not isinstance(module, torch.jit.ScriptModule) else []:
                if not _ours(type(hook)):
                    reason = f"{path or 'the scheme'} has a hook, which is Python within the step"
        for path, p in scheme.named_parameters():
            if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
                reason = f"{path} has a hook, which is Python within the step"
    return f"eager: {reason}" if reason else ""


class HostReads(TorchDispatchMode):
    """Find the first operation that needs a value on the host (`.item()`, `if loss > 0`, a boolean
    mask as an index), or a tensor of another device. `found`: that operation, in words.

    Neither can be captured; and on a GPU the first makes Python wait for all that was launched.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device, self.found, self.looks = device, None, True

    @contextlib.contextmanager
    def excepted(self):
        """Do not look into the block."""
        before, self.looks = self.looks, False
        try:
            yield
        finally:
            self.looks = before

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.looks and self.found is None:
            self.found = self._why(function, args, kwargs)
        return function(*args, **kwargs)

    def _why(self, function, args, kwargs) -> str | None:
        name = function._schema.name.removeprefix("aten::")
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [t for t in args[1] if t is not None and t.dtype in (torch.bool, torch.uint8)]
            if masks and (name == "index" or args[2].numel() > 1):
                return "the step indexes by a mask, so that a shape depends on values"
        elif (name in ("_local_scalar_dense", "bincount", "nonzero", "masked_select")
              or torch.Tag.data_dependent_output in function.tags
              or (name == "repeat_interleave" and kwargs.get("output_size") is None)
              or (torch.Tag.dynamic_output_shape in function.tags and name != "repeat_interleave")):
            return f"the step reads values of a tensor in Python ({name})"
        if "attention" in name:  # its seed of dropout lies on the CPU, but not in a graph
            return None
        others = {t.device for t in tensors if t.device.type != self.device.type}
        onto = kwargs.get("device")
        if onto is not None and torch.device(onto).type != self.device.type and tensors:
            others.add(torch.device(onto))
        here = any(t.device.type == self.device.type for t in tensors) or (
            onto is not None and torch.device(onto).type == self.device.type)
        if others and here:
            return f"the step uses a tensor of the {others.pop()} ({name})"
        return None


class PythonState:
    """What Python keeps in the modules of a scheme and `forward` may read: plain attributes, modes,
    which tensors are parameters, which of them have a gradient.

    generators, parameters: those of the scheme. found: after `watching`, what a graph would not do.
    """

    def __init__(self, scheme):
        self.scheme, self.found, self.allowed = scheme, None, set()
        self.parameters = [p for p in scheme.parameters() if p.requires_grad]
        self.generators = [value for module in scheme.modules() for value in vars(module).values()
                           if isinstance(value, torch.Generator)]
        self._collect()

    def _collect(self) -> None:
        """List the places that are compared, so that a step only looks into dicts."""
        self.places, self.spaces = [], []
        for path, module in self.scheme.named_modules():
            space, ours = vars(module), _ours(type(module))
            self.spaces.append(space)
            for name in space:
                if name not in _OF_TORCH:
                    self.places.append((space, name, path, ours))
            for part in ("_parameters", "_buffers", "_modules"):
                own = {} if isinstance(module, torch.jit.ScriptModule) else space[part]
                self.places += [(own, name, path, False) for name in own]
        # The tensors of a teacher are frozen, and its parameters are compared as attributes.
        frozen = self.scheme.frozen_tensors()
        self.tensors = [t for name, t in (*self.scheme.named_parameters(),
                                          *self.scheme.named_buffers()) if name not in frozen]
        self.pairs = [place[:2] for place in self.places]
        self.values = None

    def _read(self) -> tuple[list, list]:
        numbers = list(map(len, self.spaces))
        for tensor in self.tensors:
            numbers += tensor.requires_grad, tensor.data_ptr()
        return [space.get(name) for space, name in self.pairs], numbers

    def accept(self) -> None:
        """Take the present state as known."""
        if self.values is None or len(self.spaces[0]) != self.numbers[0]:
            self._collect()
        before = self.values or []
        self.values, self.numbers = self._read()
        if len(before) != len(self.values) or not all(map(operator.is_, before, self.values)):
            self.inside = [i for i, value in enumerate(self.values) if _has_content(value)]
        self.contents = [self._frozen(i, self.values[i]) for i in self.inside]

    def changed(self) -> str | None:
        """Say what is not as `accept` found it; None without a difference."""
        if self.values is None:
            return None
        values, numbers = self._read()
        contents = [self._frozen(i, values[i]) for i in self.inside]
        if numbers == self.numbers and contents == self.contents and all(
                map(operator.is_, self.values, values)):
            return None
        known = dict(zip(self.inside, self.contents))
        for i, (before, now) in enumerate(zip(self.values, values)):
            if i in known or before is not now:
                before = known[i] if i in known else self._frozen(i, before)
                now = self._frozen(i, now)
                if before != now:
                    path, name = self.places[i][2], self.places[i][1]
                    self._collect()
                    return _difference(path, name, before, now)
        if numbers == self.numbers:
            return None  # other objects with the same values
        self._collect()
        return "an attribute, or which parameters have a gradient, changes"

    def _frozen(self, i: int, value):
        return _frozen(value, self.places[i][3])

    def _now(self) -> dict:
        """Read everything, by module path and attribute."""
        self._collect()
        values, _ = self._read()
        found = {(path, name): _frozen(value, ours)
                 for (_, name, path, ours), value in zip(self.places, values)}
        return found | {("", f"tensor {i}"): (t.requires_grad, t.data_ptr())
                        for i, t in enumerate(self.tensors)}

    @contextlib.contextmanager
    def watching(self):
        """Find out whether the passes in the block change attributes, or draw random numbers that
        are not the device's."""
        self.found, self.allowed = None, set()
        device = self.parameters[0].device
        before, drawn = self._now(), _drawn(device)
        yield self
        after = self._now()
        for path, name in {**before, **after}:
            known, value = (found.get((path, name)) for found in (before, after))
            if known != value and (path, name) not in self.allowed and self.found is None:
                self.found = (f"{_difference(path, name, known, value)} in the passes, which a "
                              "replay does not do")
        if self.found is None and drawn != _drawn(device):
            self.found = "the step draws random numbers in Python, which a replay would repeat"

    @contextlib.contextmanager
    def excepted(self):
        """Allow changes of the attributes that the block changes: before a replay it runs, too."""
        before = self._now()
        yield
        self.allowed |= {key for key, value in self._now().items() if before.get(key) != value}


def _difference(path: str, name: str, known, value) -> str:
    place, values = f"{path}.{name}".lstrip("."), [str(known), str(value)]
    if any(isinstance(x, tuple) or len(str(x)) > 40 for x in (known, value)):
        return f"{place} changes"
    return f"{place} changes from {values[0]} to {values[1]}"


def _has_content(value) -> bool:
    """Tell whether the same object may later have another content that is compared."""
    return isinstance(value, (list, dict, set)) or (
        hasattr(value, "__dict__") and not isinstance(value, (torch.Tensor, nn.Module)))


def _drawn(device) -> tuple:
    """The states of the random generators of the host."""
    own = () if device.type == "cpu" else (torch.get_rng_state().numpy().tobytes(),)
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), name, keys.tobytes(), rest, *own


def _frozen(value, ours: bool, depth: int = 3):
    """Give what can be compared later. ours: an attribute of one of the package's own classes; a
    tensor that these keep aside is not read by a later step."""
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return value
    if isinstance(value, (float, complex)):
        return value if value == value else "nan"
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        if len(value) > _LARGE or not depth:
            return type(value).__name__, len(value)
        entries = value.values() if isinstance(value, dict) else value
        found = [_frozen(entry, ours, depth - 1) for entry in entries]
        return (frozenset if isinstance(value, (set, frozenset)) else tuple)(
            found if not isinstance(value, dict) else zip(map(str, value), found))
    if ours and isinstance(value, torch.Tensor):
        return None
    if _ours(type(value)):
        return id(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, random.Random):
        return hash(value.getstate())
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, torch.Generator):
        return id(value)
    if (depth and hasattr(value, "__dict__") and not callable(value)
            and not isinstance(value, (torch.Tensor, type))
            and not type(value).__module__.startswith("torch")):
        return id(value), tuple((name, _frozen(part, ours, depth - 1))
                                for name, part in vars(value).items())
    return id(value)


def _ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]
