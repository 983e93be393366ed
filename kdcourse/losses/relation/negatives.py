"""Samples of other classes. B batch, N negatives, M samples of the training set."""

import torch
from torch import nn


class OtherClasses(nn.Module):
    """Lay M samples out by class, in `order`: a sample's class is `size` places from `start` on.
    Raises `ValueError` for anything but class numbers [M] of two classes at least."""

    def __init__(self, classes, samples: int | None = None):
        super().__init__()
        if (not isinstance(classes, torch.Tensor) or classes.ndim != 1
                or classes.is_floating_point() or samples not in (None, len(classes))):
            got = f"{list(classes.shape)}" if isinstance(classes, torch.Tensor) else classes
            raise ValueError(f"Expected class numbers [{samples or 'M'}], one for each training "
                             f"sample, got {got}.")
        classes = classes.detach().long()
        order = classes.argsort(stable=True)
        laid = classes[order]
        start = torch.searchsorted(laid, classes)
        size = torch.searchsorted(laid, classes, right=True) - start
        if int(size.max()) == len(classes):
            raise ValueError("Expected training samples of at least two classes, to draw negatives "
                             "from another one, got one class.")
        for name, value in (("order", order), ("start", start), ("size", size)):
            self.register_buffer(name, value, persistent=False)  # they follow from the data

    def pick(self, index_B, drawn_BN) -> torch.Tensor:
        """Map any numbers from 0 up to samples of other classes, [B, N]."""
        start, size = self.start[index_B][:, None], self.size[index_B][:, None]
        place = drawn_BN.to(index_B.device, non_blocking=True) % (len(self.order) - size)
        return self.order[torch.where(place < start, place, place + size)]
