"""A graph for the CPU: what a CUDA graph does, with operations that are recorded and run again.

While a function is captured its operations are noted with their very tensors, and what they wrote
is put back. A replay runs them again, and copies the results to the tensors of the capture: no
Python of the step runs, addresses stay, numbers that Python read or counted stay as they were. As
on CUDA, a value that is read by the host while a step is captured is an error.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount",
         "unique_consecutive", "equal", "is_nonzero")


def tensors_of(tree) -> list:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def place(tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Tape(TorchDispatchMode):
    """The operations of a function, and the tensors that were there before."""

    def __init__(self):
        super().__init__()
        self.operations, self.made, self.before, self.constants = [], set(), {}, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        masks = [t for t in tensors_of(args[1]) if t.dtype == torch.bool] if name == "index" else []
        if name in READS or masks:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        for tensor in tensors_of((args, kwargs)):
            if place(tensor) not in self.made | self.before.keys():
                self.before[place(tensor)] = tensor, tensor.untyped_storage().clone()
        result = function(*args, **kwargs)
        keep = lambda tree: tree_map(lambda leaf: leaf, tree)  # noqa: E731 - lists may be emptied
        self.operations.append((function, keep(args), keep(kwargs), result))
        new = {place(t) for t in tensors_of(result)} - self.before.keys()
        self.made |= new
        if name == "lift_fresh":
            self.constants |= new
        return result

    def put_back(self) -> None:
        """Undo what was written, and spoil what was computed: only a replay computes."""
        for tensor, storage in self.before.values():
            tensor.untyped_storage().copy_(storage)
        with torch.no_grad():
            for *_, result in self.operations:
                for tensor in tensors_of(result):
                    if place(tensor) in self.made - self.constants and tensor.is_floating_point():
                        tensor.detach().fill_(torch.nan)

    def replay(self) -> None:
        with torch.no_grad():
            for function, args, kwargs, result in self.operations:
                again = function(*args, **kwargs)
                for old, new in zip(tensors_of(result), tensors_of(again), strict=True):
                    if place(old) != place(new):
                        old.detach().copy_(new)


class CPUGraphs:
    """In the place of `kdcourse.training.step.CudaGraphs`. replays: how many there were."""

    def __init__(self, device):
        self.captures, self.replays, self.warm = 0, 0, 0

    @contextlib.contextmanager
    def warming(self):
        self.warm += 1
        yield

    def capture(self, function, generators):
        tape, generators = Tape(), [torch.default_generator, *generators]
        states = [generator.get_state() for generator in generators]
        try:
            with tape:
                function()
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
            tape.put_back()
        self.captures += 1

        def replay():
            self.replays += 1
            tape.replay()

        return replay
