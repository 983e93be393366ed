"""A copy of a scheme to look at, and everything else left as it was."""

import contextlib
import copy
import inspect
import random

import numpy as np
import torch
from torch import nn

from kdcourse.teachers import Teacher


def twin_of(scheme, data):
    """A copy that shares no weight with the scheme, not even the teacher's; data is not copied."""
    memo = {}
    for split in (data.train, data.val, data.test):
        memo |= {id(thing): thing for thing in (split, *vars(split).values())}
    memo |= {id(data): data, id(data.params): data.params}
    things = [thing for module in scheme.modules()
              for thing in inside(list(vars(module).values()))]
    for thing in things:
        if isinstance(thing, torch.Tensor) and not thing.is_leaf:  # torch copies leaves only
            memo[id(thing)] = thing.detach().clone()
    try:
        for module in reversed([*scheme.modules()]):  # a teacher before the one that it is in
            if isinstance(module, Teacher) and id(module) not in memo:
                module.copied(memo)
        return copy.deepcopy(scheme, memo)
    except Exception as error:
        raise TypeError(f"Expected a scheme that copy.deepcopy can copy, to look at the copy; got "
                        f"{type(error).__name__}: {error}") from error


def networks(thing) -> list[nn.Module]:
    """The networks in a teacher, each once."""
    holders = (Teacher, nn.ModuleList)
    found = []
    for part in inside(list(vars(thing).values()) if isinstance(thing, holders) else thing):
        if isinstance(part, nn.Module):
            found += networks(part) if isinstance(part, holders) else [part]
    return list(dict.fromkeys(found))


def inside(thing, depth: int = 4):
    """A thing and what is in it, as far as networks and tensors."""
    yield thing
    if depth == 0 or isinstance(thing, (nn.Module, torch.Tensor, type)):
        return
    if isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, (list, tuple)):
        parts = thing
    elif inspect.isfunction(thing):
        parts = list(inspect.getclosurevars(thing).nonlocals.values())
    elif inspect.ismethod(thing):
        parts = [thing.__self__]
    else:
        parts = list(getattr(thing, "__dict__", {}).values())
    for part in parts[:1000]:
        yield from inside(part, depth - 1)


@contextlib.contextmanager
def watching(networks):
    """Collects the paths of the modules that are called in train mode."""
    awake, hooks = [], []
    for network in networks:
        for path, module in network.named_modules():
            def note(module, args, path=path):
                if module.training:
                    awake.append(path)

            hooks.append(module.register_forward_pre_hook(note))
    try:
        yield awake
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def left_as_it_was(scheme):
    """Puts back what a function that holds on to a network may change: it is not copied with it."""
    concerned = [scheme, *networks(getattr(scheme, "teacher", None))]
    modes = {module: module.training for network in concerned for module in network.modules()}
    tensors = {t: t.detach().clone() for network in concerned for t in network.buffers()}
    gradients = {p: p.grad for p in parameters(*(one.parameters() for one in concerned))}
    tensors |= {g: g.clone() for g in gradients.values() if g is not None}
    own = parameters(*(student.parameters() for student in scheme.students))
    try:
        yield
        if any(p.grad is not gradients[p] for p in own):
            raise TypeError(
                "Expected a student whose copy stands by itself, got one that computes with the "
                "original: is its forward replaced by a function that holds on to its layers? "
                "Write a class with a forward method.")
    finally:
        for module, mode in modes.items():
            module.training = mode
        for p, gradient in gradients.items():
            p.grad = gradient
        for tensor, old in tensors.items():
            if not torch.equal(tensor, old):  # batch statistics are written without a new version
                with torch.no_grad():
                    tensor.copy_(old)


@contextlib.contextmanager
def chance_untouched(device):
    """Chance is fixed inside the block; afterwards all generators stand where they stood."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cpu = torch.get_rng_state()
    where = (device,) if device.type == "cuda" else ()  # others have one generator
    there = getattr(torch, device.type)
    gpu = there.get_rng_state(*where) if hasattr(there, "get_rng_state") else None
    torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if gpu is not None:
            there.set_rng_state(gpu, *where)


def state_of(network) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers by name."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def parameters(*sources) -> list[nn.Parameter]:
    """The parameters of several sources, each once."""
    return list({id(p): p for source in sources for p in source}.values())
