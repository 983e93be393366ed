"""What a network costs: size, arithmetic, time and memory."""

import statistics
import time

import safetensors.torch
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kdcourse import _files
from kdcourse._trees import call, each
from kdcourse.taps import device_of, evaluating


def parameters(model: nn.Module) -> int:
    """Count the parameters, and the weights that layers of `torch.ao.quantization` have packed."""
    return sum(t.numel() for t in (*model.parameters(), *_packed(model)))


def macs(model: nn.Module, shape) -> int | None:
    """Count multiply-accumulates of matrix products, convolutions and attention for one input.

    shape: [C, H, W]. Here and below an example [1, …] may stand for it: a tensor (of token ids), or
    a dict of tensors. By torch's `FlopCounterMode`. None for a network with packed weights, whose
    int8 products it does not count: take those of the network that was converted.

    >>> macs(nn.Linear(10, 5), (10,))
    50
    """
    if _packed(model):
        return None
    products = sdpa_kernel(SDPBackend.MATH)  # attention as matrix products, which are counted
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), products, counter:
        call(model, _inputs(shape, 1, device_of(model)))
    return counter.get_total_flops() // 2  # it counts the multiplication and the addition


def file_mb(model: nn.Module) -> float:
    """Give the size of `state_dict` as a safetensors file, in MB (10^6 bytes); a tensor that has
    several names is counted once.

    >>> file_mb(nn.Linear(1000, 250))
    1.0011...
    """
    distinct = {}
    packed = {f"packed.{number}": tensor for number, tensor in enumerate(_packed(model))}
    for name, tensor in [*model.state_dict().items(), *packed.items()]:
        # Not what `get_extra_state` gives, and not a copy that was unpacked for the state_dict.
        if isinstance(tensor, torch.Tensor) and (name in packed or not tensor.is_quantized):
            place = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
            # A clone, because the format refuses tensors that overlap in memory.
            copy = tensor.int_repr() if tensor.is_quantized else tensor.detach()
            copy = copy.cpu().clone(memory_format=torch.contiguous_format)
            distinct.setdefault(place, (name, copy))
    return len(safetensors.torch.save(dict(distinct.values()))) / 1e6


def latency(model: nn.Module, shape, batch: int = 1, seconds: float = 0.5):
    """Measure the milliseconds of one call: (median, interquartile range), after a warm-up.

    On the model's device; on a CPU with one thread. seconds: how long to measure.
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
    seconds: how long to measure, though at least six calls.
    """
    times = _times(model, shape, batch, seconds, least=7)
    return _median_iqr([1e3 * batch / milliseconds for milliseconds in times])


def _times(model, shape, batch, seconds, least) -> list[float]:
    """Measure the milliseconds of each call; torch.utils.benchmark makes too few of long ones."""
    device = device_of(model)
    x = _inputs(shape, batch, device)
    wait = getattr(torch, device.type).synchronize if device.type != "cpu" else lambda: None
    end = time.perf_counter() + 1.2 * (0.02 if _files.smoke() else seconds)
    times = []
    with evaluating(model), torch.inference_mode():
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

    Weights, buffers and, on a GPU, what torch allocates for one call and its inputs
    (`max_memory_allocated`, which is reset); on a CPU the largest sum of one module's inputs and
    outputs: a lower bound, without tensors kept for a shortcut. None on other devices.

    >>> round(peak_memory(nn.Linear(1000, 250), (1000,)), 3)  # 251,000 for input, weights, output
    1.006
    """
    device = device_of(model)
    backend, sizes = getattr(torch, device.type, None), []
    with evaluating(model), torch.inference_mode():
        if device.type == "cpu":
            # Not one hook for all modules: torch keeps a mark of it, and torch.compile warns later.
            handles = [module.register_forward_hook(
                lambda _, *tensors: sizes.append(_bytes(tensors)), with_kwargs=True)
                for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
            try:
                inputs = _inputs(shape, batch, device)
                sizes.append(_bytes([inputs, call(model, inputs)]))
            finally:
                for handle in handles:
                    handle.remove()
        elif hasattr(backend, "max_memory_allocated"):
            for _ in range(2):  # the first call also allocates workspaces
                before = backend.memory_allocated(device)
                backend.reset_peak_memory_stats(device)
                call(model, _inputs(shape, batch, device))
                sizes = [backend.max_memory_allocated(device) - before]
        else:
            return None
    weights = [*model.parameters(), *model.buffers(), *_packed(model)]
    return (_bytes(weights) + max(sizes)) / 1e6


def _packed(model: nn.Module) -> list[torch.Tensor]:
    """Unpack the weights of layers of `torch.ao.quantization`, which are no parameters."""
    names = ("_packed_params", "_packed_weight", "_packed_weight_ih", "_packed_weight_hh", "param")
    return [tensor for module in model.modules() for name in names
            for tensor in _unpacked(getattr(module, name, None))]


def _unpacked(packed) -> list[torch.Tensor]:
    """Unpack what torch has packed: weight and bias, of a recurrent cell those of its parts."""
    if not isinstance(packed, torch.ScriptObject):
        return []
    if hasattr(packed, "unpack"):
        return [leaf for leaf in tree_leaves(packed.unpack()) if leaf is not None]
    return [leaf for part in tree_leaves(packed.__getstate__()) for leaf in _unpacked(part)]


def _bytes(tree) -> int:
    """Add up the bytes of the tensors in nested lists and dicts, each tensor once."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def _inputs(shape, batch: int, device):
    """Make a batch of inputs of a shape [C, H, W], or of copies of an example [1, …]."""
    if isinstance(shape, (dict, torch.Tensor)):
        return each(lambda t: t[:1].expand(batch, *t.shape[1:]).contiguous().to(device), shape)
    return torch.full((batch, *shape), 0.5, device=device)
