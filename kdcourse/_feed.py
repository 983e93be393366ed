"""Tensors that Python computes anew in every step, also where the step is a graph.

When a captured step is replayed, no Python runs. What a step takes from Python (random numbers of
the CPU, a count of steps, rows of a table on disk) it gets by `fed`. While the step is captured,
`Feeds` keeps the functions; before each replay it calls them, and copies what they return to where
the graph reads it.
"""

import contextlib

import torch

_active: "Feeds | None" = None


class NotCaptured(Exception):
    """The reason for which a step cannot be captured, in words."""


def fed(make, device: torch.device, reads: torch.Tensor | None = None) -> torch.Tensor:
    """Return the tensor `make()` on the device. `make` runs once in every step, captured or not.

    reads: a tensor of the batch that `make` reads. It must be the batch's own, or a slice of it: in
    a replay nothing else has the samples of that step before the graph runs.

    >>> fed(lambda: torch.arange(3), torch.device("cpu"))
    tensor([0, 1, 2])
    """
    if _active is None:
        return _sent(make(), device)
    return _active.take(make, device, reads)


def view_of(batch) -> int:
    """Return the number of the augmentation of a batch, in a function for `fed`."""
    return batch.view if _active is None else _active.view


def _sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # else the copy waits for all work of the GPU
    return tensor.to(device, non_blocking=True)


class Feeds:
    """The functions that a step gave to `fed`, in order, each with the tensor that the graph reads.

    view: of the batch of this step. found: why the step cannot be captured, in words, or None.
    """

    def __init__(self):
        self.view, self.around, self.entries = 0, (), []
        self.storages, self.taken, self.found = set(), None, None

    @contextlib.contextmanager
    def collecting(self, tensors, *around):
        """Run a step in the block, and keep what it gives to `fed`. tensors: those of the batch.
        around: make the contexts in which each function is called."""
        self.around = around
        self.storages = {t.untyped_storage().data_ptr() for t in tensors}
        self.entries, self.taken = [], None
        with self._here():
            yield

    @contextlib.contextmanager
    def replaced(self):
        """Capture the same step in the block: `fed` returns the tensors that were made before, as
        nothing may be copied from the CPU now, and keeps the functions of this pass."""
        self.taken = 0
        with self._here():
            yield
        if self.taken != len(self.entries):
            raise NotCaptured("the step took other tensors from Python when it ran again")

    def refresh(self) -> None:
        """Call the functions, and copy what they return to where the graph reads it."""
        if not self.entries:
            return
        with self._here():
            for make, device, target in self.entries:
                value = _sent(make(), device)
                if value.shape != target.shape:
                    raise ValueError(f"Expected a tensor {list(target.shape)} from Python in every "
                                     f"step of a captured training, got {list(value.shape)}. Use "
                                     "Recipe(capture=False).")
                target.copy_(value, non_blocking=True)

    def take(self, make, device, reads) -> torch.Tensor:
        """Give the tensor that the graph reads."""
        if reads is not None and reads.untyped_storage().data_ptr() not in self.storages:
            self.found = ("a teacher with stored answers is asked for samples that the scheme "
                          "chose, and Python looks them up before the graph runs")
        if self.taken is None:
            with contextlib.ExitStack() as stack:
                for context in self.around:
                    stack.enter_context(context())
                value = _sent(make(), device).clone()
            self.entries.append((make, device, value))
            return value
        if self.taken == len(self.entries):
            raise NotCaptured("the step took other tensors from Python when it ran again")
        value = self.entries[self.taken][2]
        self.entries[self.taken] = (make, device, value)
        self.taken += 1
        return value

    @contextlib.contextmanager
    def _here(self):
        global _active
        before, _active = _active, self
        try:
            yield
        finally:
            _active = before
