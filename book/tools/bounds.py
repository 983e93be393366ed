"""What bounds a training step: launching its operations, moving its tensors, or its arithmetic.

Each gives a time below which no step can be: operations times the time of the smallest one, bytes
over the bandwidth, floating-point operations over the fastest matrix product, all measured in the
same run. The largest of them is what bounds the step (the roofline of Williams, Waterman &
Patterson 2009, with launches as a third bound).
"""

import time
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import kdcourse as kd


class Count(TorchDispatchMode):
    """Counts operations that compute something, and the bytes that they read and write, each tensor
    once for every operation: caches and fused kernels move less."""

    def __init__(self):
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        read, written = (
            [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]
            for tree in ((args, kwargs), result))
        places = {t.untyped_storage().data_ptr() for t in read}
        view = not function._schema.is_mutable and any(
            t.untyped_storage().data_ptr() in places for t in written)
        if not view:
            self.operations += 1
            self.bytes += sum(t.nbytes for t in (*read, *written))
        return result


def counted(step: Callable) -> tuple[int, int]:
    """The operations of a step, and the bytes that they read and write."""
    with Count() as count:
        step()
    return count.operations, count.bytes


def best(work: Callable, device: torch.device, times: int = 7) -> float:
    """The seconds of the fastest of several calls, the first not counted."""
    seconds = []
    for _ in range(times + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _wait(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def machine(device: torch.device, precision: str, large: bool = True) -> dict:
    """Seconds to launch an operation, bytes per second of a copy, and floating-point operations
    per second of a matrix product. large: sizes that no cache holds."""
    one = torch.zeros(1, device=device)
    launches = 1000 if large else 10

    def launch():
        for _ in range(launches):
            one.add_(1)

    numbers = (2**26 if device.type == "cuda" else 2**24) if large else 2**10
    source, target = torch.zeros(2, numbers, device=device).unbind()
    n = (8192 if device.type == "cuda" else 1024) if large else 16
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.ones(2, n, n, device=device, dtype=dtype).unbind()
    return {"launch_seconds": best(launch, device) / launches,
            "bytes_per_second": 2 * source.nbytes / best(lambda: target.copy_(source), device),
            "flops_per_second": 2 * n**3 / best(lambda: a @ b, device)}


def bounds(operations: int, bytes_moved: int, flops: float, of: dict) -> dict[str, float]:
    """The seconds below which a step cannot be, by what they are spent on."""
    return {"launches": operations * of["launch_seconds"],
            "memory": bytes_moved / of["bytes_per_second"],
            "arithmetic": flops / of["flops_per_second"]}


def flops(student, teacher, shape, batch: int) -> float:
    """Two for each multiply-accumulate of the student's forward pass, twice as many in its backward
    pass, and those of a live teacher."""
    theirs = 0 if teacher is None else kd.measure.macs(teacher, shape)
    return 2.0 * batch * (3 * kd.measure.macs(student, shape) + theirs)
