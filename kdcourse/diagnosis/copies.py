"""A copy of a scheme to examine, and everything else left as it was."""

import contextlib
import copy
import random

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook


def copy_of(scheme, data):
    """A copy of the scheme with weights of its own. Data, and teachers that are not saved, which
    copies of a scheme share, are not copied."""
    memo = {id(data): data, id(data.params): data.params}
    for split in (data.train, data.val, data.test):
        memo |= {id(thing): thing for thing in (split, *vars(split).values())}
    for module in scheme.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:  # deepcopy refuses those
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(scheme, memo)
    except Exception as error:
        raise TypeError(f"Expected a scheme that copy.deepcopy can copy, to look at the copy; got "
                        f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def called_modules():
    """Collects the modules that are called in the block, outer ones before those in them, and
    whether each was in train mode in its first call."""
    called: dict[nn.Module, bool] = {}

    def note(module, args):
        called.setdefault(module, module.training)

    hook = register_module_forward_pre_hook(note)
    try:
        yield called
    finally:
        hook.remove()


@contextlib.contextmanager
def left_as_it_was(scheme):
    """Restores what is not copied: modes, buffers and gradients of the scheme, devices of its
    teachers, and buffers and gradients of any other module that is called in the block."""
    saved, modes = {}, {}

    def save(module, args=None):
        if module in saved:
            return
        own = list(module.parameters(recurse=False))
        tensors = [*module.buffers(recurse=False), *(p.grad for p in own if p.grad is not None)]
        saved[module] = ([(p, p.grad) for p in own],
                         [(tensor, tensor.detach().clone()) for tensor in tensors])

    places = {teacher: tensor.device for teacher in scheme.teachers.values()
              for tensor in (*teacher.parameters(), *teacher.buffers())}
    for module in scheme.modules():
        save(module)
        modes[module] = module.training
    hook = register_module_forward_pre_hook(save)
    try:
        yield
        own = {module for student in scheme.students for module in student.modules()}
        if any(p.grad is not gradient for module in own for p, gradient in saved[module][0]):
            raise TypeError(
                "Expected a student whose copy stands by itself, got one that computes with the "
                "original: is its forward replaced by a function that holds on to its layers? "
                "Write a class with a forward method.")
    finally:
        hook.remove()
        for teacher, place in places.items():
            teacher.to(place)
        for module, mode in modes.items():
            module.training = mode
        for gradients, tensors in saved.values():
            for p, gradient in gradients:
                p.grad = gradient
            for tensor, old in tensors:
                if not torch.equal(tensor, old):
                    with torch.no_grad():
                        tensor.copy_(old)


@contextlib.contextmanager
def seeded(device):
    """Draws from seed 0 in the block; afterwards all generators stand where they stood."""
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


def parameters(*networks) -> list[nn.Parameter]:
    """The parameters of several networks, each once."""
    return list({id(p): p for network in networks for p in network.parameters()}.values())
