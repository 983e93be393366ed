"""What a network costs: size, arithmetic, time and memory."""

import statistics
import time

import safetensors.torch
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kdcourse import _files
from kdcourse.taps import device_of, evaluating
from kdcourse.tasks import call, each


def parameters(model: nn.Module) -> int:
    """Count the parameters."""
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, shape) -> int:
    """Count multiply-accumulates for one input of `shape` [C, H, W]. Here and below an example
    [1, …] may stand for the shape: a tensor (of token ids), or a dict of tensors.

    Matrix products, convolutions and attention, by torch's `FlopCounterMode`.

    >>> macs(nn.Linear(10, 5), (10,))
    50
    """
    plain = sdpa_kernel(SDPBackend.MATH)  # attention as matrix products, which are counted
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), plain, counter:
        call(model, _inputs(shape, 1, device_of(model)))
    return counter.get_total_flops() // 2  # it counts the multiplication and the addition


def file_mb(model: nn.Module) -> float:
    """Give the size of the weights as a safetensors file, in MB (10^6 bytes).

    All that `state_dict` holds, each tensor once where several names share it.

    >>> file_mb(nn.Linear(1000, 250))
    1.0011...
    """
    once = {}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor):  # not what `get_extra_state` gives
            place = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
            once.setdefault(place, (name, tensor))
    # Clones, because the format refuses tensors that overlap in memory.
    return len(safetensors.torch.save(
        {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
         for name, tensor in once.values()})) / 1e6


def latency(model: nn.Module, shape, batch: int = 1, seconds: float = 0.5):
    """Measure the milliseconds of one call: (median, interquartile range), after a warm-up.

    On the model's device; on a CPU with one thread. `seconds` is how long to measure.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _median_iqr(_times(model, shape, batch, seconds, least=25))
    finally:
        torch.set_num_threads(threads)


def throughput(model: nn.Module, shape, batch: int = 128, seconds: float = 0.5):
    """Measure samples per second, `batch` at once: (median, interquartile range), after a warm-up.

    On the model's device, the samples already there; on a CPU with all the threads that torch has.
    `seconds` is how long to measure, though at least six calls.
    """
    times = _times(model, shape, batch, seconds, least=7)
    return _median_iqr([1e3 * batch / milliseconds for milliseconds in times])


def _times(model, shape, batch, seconds, least) -> list[float]:
    """Measure the milliseconds of each call.

    Not by torch.utils.benchmark: of calls longer than `seconds` it makes one or two.
    """
    device = device_of(model)
    x = _inputs(shape, batch, device)
    wait = getattr(torch, device.type).synchronize if device.type != "cpu" else lambda: None
    seconds = 0.02 if _files.smoke() else seconds
    with evaluating(model), torch.inference_mode():
        times, end = [], time.perf_counter() + 1.2 * seconds
        while time.perf_counter() < end or len(times) < least:
            start = time.perf_counter()
            call(model, x)
            wait()
            times.append(1e3 * (time.perf_counter() - start))
    return times[max(1, len(times) // 6):]  # the first are the warm-up


def _median_iqr(values: list[float]) -> tuple[float, float]:
    low, median, high = statistics.quantiles(values)
    return median, high - low


def peak_memory(model: nn.Module, shape, batch: int = 1) -> float | None:
    """Give the most memory that inference holds at one time, in MB (10^6 bytes).

    Weights, buffers and inputs, and on a GPU what torch allocates for one call
    (`max_memory_allocated`, which is reset). On a CPU, where torch does not count that, the largest
    sum of one module's inputs and outputs: a lower bound, as tensors kept for a shortcut are not in
    it. None on other devices.

    >>> round(peak_memory(nn.Linear(1000, 250), (1000,)), 3)  # 251,000 for input, weights, output
    1.006
    """
    device = device_of(model)
    backend = getattr(torch, device.type, None)
    with evaluating(model), torch.inference_mode():
        if device.type == "cpu":
            most = _largest_activations(model, _inputs(shape, batch, device))
        elif hasattr(backend, "max_memory_allocated"):
            call(model, _inputs(shape, batch, device))  # the first call sets things up
            before = backend.memory_allocated(device)
            backend.reset_peak_memory_stats(device)
            call(model, _inputs(shape, batch, device))
            most = backend.max_memory_allocated(device) - before
        else:
            return None
    kept = {t.data_ptr(): t.nbytes for t in [*model.parameters(), *model.buffers()]}
    return (sum(kept.values()) + most) / 1e6


def _inputs(like, batch: int, device):
    """Make a batch of inputs of a shape [C, H, W], or of copies of an example [1, …]."""
    if isinstance(like, (dict, torch.Tensor)):
        return each(lambda t: t[:1].expand(batch, *t.shape[1:]).contiguous().to(device), like)
    return torch.full((batch, *like), 0.5, device=device)


def _largest_activations(model: nn.Module, x) -> int:
    """Give the bytes of inputs and outputs of the module with the most."""
    sums = [0]

    def note(module, args, kwargs, output):
        tensors = [t for t in tree_leaves((args, kwargs, output)) if isinstance(t, torch.Tensor)]
        sums.append(sum({t.data_ptr(): t.nbytes for t in tensors}.values()))

    hook = register_module_forward_hook(note, with_kwargs=True)
    try:
        call(model, x)
    finally:
        hook.remove()
    return max(sums)
