"""A second place for tensors that needs no GPU, to find code that works on one device only."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

PLACE = torch.device("meta")  # the one device besides the CPU that every PyTorch has
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class _There(torch.Tensor):
    """A tensor that says it is on `PLACE`; its numbers, `inner`, are on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), dtype=inner.dtype, device=PLACE,
            requires_grad=inner.requires_grad)

    def __init__(self, inner):
        self.inner = inner

    def tolist(self):  # PyTorch's own takes no subclass
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError("Expected tensors from Elsewhere() inside its with block.")


class Elsewhere(TorchDispatchMode):
    """Inside the block `there(tensor)` is a copy in another place.

    Operations compute there too, and refuse tensors of two places as CUDA does, except for numbers
    without dimensions. It is stricter than CUDA in one point: CUDA takes an index from the CPU, and
    waits for the device. NumPy cannot read what lies there.

    >>> with Elsewhere() as there:
    ...     (there(torch.ones(2)) + torch.ones(2, device=there.device)).cpu()
    tensor([2., 2.])
    """

    device = PLACE

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(PLACE)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        theirs = [t for t in tensors if isinstance(t, _There)]
        if theirs and func not in MOVES and any(
                t.ndim for t in tensors if not isinstance(t, _There)):
            raise RuntimeError("Expected all tensors to be on the same device, but found at least "
                               f"two devices, {PLACE} and cpu! ({func})")
        stays = bool(theirs)
        if kwargs.get("device") is not None:
            stays = torch.device(kwargs["device"]) == PLACE
            kwargs["device"] = "cpu"
        args, kwargs = tree_map_only(_There, lambda t: t.inner, (args, kwargs))
        result = func(*args, **kwargs)
        if func is torch.ops.aten.copy_.default:
            return tensors[0]
        for t in theirs:
            if t.inner is result:  # in place
                return t
        return tree_map_only(torch.Tensor, _There, result) if stays else result
