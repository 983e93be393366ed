"""A copy of a scheme to examine, and everything else left as it was."""

import contextlib
import random

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from kdcourse.taps import copied


def copy_of(scheme, data):
    """A copy of the scheme with weights of its own. Data, and teachers unless they are `saved`, are
    shared with it."""
    shared = [data] + [thing for split in (data.train, data.val) for thing in
                       (split, split.x, split.y)]
    try:
        return copied(scheme, shared)
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
    """Restores the scheme's modes, its teachers' devices, and buffers and gradients of the scheme
    and of any other module that is called in the block."""
    saved, modes = {}, {module: module.training for module in scheme.modules()}

    def save(module, args=None):
        if module not in saved:
            own = list(module.parameters(recurse=False))
            tensors = [*module.buffers(recurse=False), *(p.grad for p in own if p.grad is not None)]
            saved[module] = ([(p, p.grad) for p in own],
                             [(tensor, tensor.detach().clone()) for tensor in tensors])

    places = {teacher: tensor.device for teacher in scheme.teachers.values()
              for tensor in (*teacher.parameters(), *teacher.buffers())}
    for module in modes:
        save(module)
    hook = register_module_forward_pre_hook(save)
    try:
        yield
        if any(p.grad is not gradient for student in scheme.students
               for module in student.modules() for p, gradient in saved[module][0]):
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
    own = hasattr(getattr(torch, device.type, None), "get_rng_state")  # the device has a generator
    with torch.random.fork_rng([device] if own else [], device_type=device.type if own else "cuda"):
        torch.default_generator.manual_seed(0)  # torch.manual_seed reseeds every GPU, too
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def parameters(*networks) -> list[nn.Parameter]:
    """The parameters of several networks, each once."""
    return list(dict.fromkeys(p for network in networks for p in network.parameters()))
