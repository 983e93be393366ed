"""A copy of a scheme to examine, while everything else is restored afterwards."""

import contextlib
import random

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from kdcourse.taps import copied


def copy_of(scheme, data):
    """Copy a scheme, without its data, and without teachers that are not `saved`."""
    parts = [part for split in (data.train, data.val) for part in (split, split.x, split.y)]
    try:
        return copied(scheme, [data, *parts])
    except Exception as error:
        raise TypeError(f"Expected a scheme that copy.deepcopy can copy, to look at the copy; got "
                        f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def isolated(scheme, device):
    """Draw from seed 0 in the block, and restore afterwards: random generators, the scheme's modes,
    its teachers' devices, and buffers of the scheme and of other modules that were called.

    Yields the modules called so far, outer ones first: was each in train mode in its first call?
    """
    called, values = {}, {}

    def note(module, args=None):
        called.setdefault(module, module.training)
        for buffer in module.buffers(recurse=False):
            if buffer not in values:
                values[buffer] = buffer.detach().clone()

    @torch.no_grad()
    def restore_buffers():
        for buffer, value in values.items():
            if not torch.equal(buffer, value):
                buffer.copy_(value)

    own = hasattr(getattr(torch, device.type, None), "get_rng_state")  # the device has a generator
    with contextlib.ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        stack.enter_context(torch.random.fork_rng(
            [device] if own else [], device_type=device.type if own else "cuda"))
        torch.default_generator.manual_seed(0)  # torch.manual_seed reseeds every GPU, too
        stack.enter_context(torch.inference_mode(False))
        stack.callback(restore_buffers)
        for module in scheme.modules():
            note(module)
            stack.callback(setattr, module, "training", module.training)
        for teacher in scheme.teachers.values():
            for tensor in [*teacher.parameters(), *teacher.buffers()][:1]:
                stack.callback(teacher.to, tensor.device)
        stack.enter_context(register_module_forward_pre_hook(note))
        stack.enter_context(torch.enable_grad())
        yield called
