"""Samples of other classes. B batch, N negatives, M samples of the training set."""

import torch
from torch import nn

from kdcourse.losses import inputs


class OtherClasses(nn.Module):
    """Sort M samples by class into `order`: a sample's class is `size` places from `start` on. A
    sample with a number below 0 has no label: it is a class of its own."""

    def __init__(self, classes, samples: int | None = None):
        super().__init__()
        inputs.check(isinstance(classes, torch.Tensor) and not classes.is_floating_point()
                     and classes.ndim == 1 and samples in (None, len(classes)),
                     f"class numbers [{samples or 'M'}], one for each training sample",
                     inputs.described(classes))
        classes = classes.detach().long()
        own = classes.amax() + 1 + torch.arange(len(classes), device=classes.device)
        classes = torch.where(classes < 0, own, classes)
        ordered, order = classes.sort(stable=True)
        start = torch.searchsorted(ordered, classes)
        size = torch.searchsorted(ordered, classes, right=True) - start
        inputs.check(int(size.max()) < len(classes), "training samples of at least two classes, to "
                     "draw negatives from another one", "one class")
        for name, value in (("order", order), ("start", start), ("size", size)):
            self.register_buffer(name, value, persistent=False)  # computed from the data

    def pick(self, index_B, drawn_BN) -> torch.Tensor:
        """Map whole numbers of at least 0 to samples of other classes, [B, N]."""
        start, size = self.start[index_B][:, None], self.size[index_B][:, None]
        place = drawn_BN.to(index_B.device, non_blocking=True) % (len(self.order) - size)
        return self.order[torch.where(place < start, place, place + size)]
