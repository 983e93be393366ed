"""What all teachers have in common.

Shapes: B batch, K classes, N samples, C channels, H W height and width.
"""

import collections
import copy

import torch
from torch import nn

from kdcourse._modules import switch
from kdcourse.data import Batch, Dataset
from kdcourse.data.dataset import refuse_inputs
from kdcourse.taps import Output


class Teacher(nn.Module):
    """A frozen module whose outputs a student learns from.

    It stays in eval mode whatever `train()` is called with, gives outputs without gradients, is
    left out of `state_dict()` (strict `load_state_dict` works without it), and copies of a scheme
    share it. As a part of a scheme it moves with it: `scheme.to(…)` reaches its weights.

    For a teacher of your own write `forward(batch, paths)`, which returns an `Output` of the batch
    with a tensor for each of the module paths. Where it has outputs for any inputs write `predict`
    as well, and `check` where it fits some data only.

    Two class attributes: `saved = True` is for a teacher that changes while the student is trained
    (its tensors are kept in `state_dict()` and checkpoints, and a copy of a scheme gets a copy of
    it), `uses_labels = True` for outputs that depend on `batch.y`, so that `Cached` checks labels.

    >>> class FromLabels(Teacher):
    ...     uses_labels = True
    ...     def forward(self, batch, paths=()):
    ...         return Output(5 * nn.functional.one_hot(batch.y, 36).float(), index=batch.index)
    >>> batch = Batch(torch.rand(2, 1, 28, 28), torch.tensor([3, 0]), torch.arange(2))
    >>> FromLabels()(batch).logits.argmax(1)
    tensor([3, 0])
    """

    saved = False
    uses_labels = False

    @torch.no_grad()
    def __call__(self, batch: Batch, paths: tuple[str, ...] = ()) -> Output:
        """Compute logits [B, K] (in another task, as that says; any tensor where no term compares
        logits), and the tensors at the module paths."""
        if not isinstance(batch, Batch):
            refuse_inputs(batch)
        try:
            nn.Module.train(self, False)  # the network may also be in use elsewhere, in train mode
        except NotImplementedError:  # from a network of torch.export
            self.train()
        output = super().__call__(batch, tuple(paths))
        if not isinstance(output, Output):
            raise TypeError(f"Expected an Output from the forward of {type(self).__name__}, got "
                            f"{type(output).__name__}. Return kd.Output(logits).")
        return output.detached()  # no_grad does not detach what was stored with a gradient

    def predict(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor | None:
        """Compute logits [N, K] for any inputs [N, C, H, W], with labels y where they are known.
        By default None: there are outputs for the training samples only."""
        return None

    def tap(self, paths: tuple[str, ...]) -> None:
        """Raise `ValueError` unless `forward` can return the tensors at these module paths. Called
        when a scheme is made; by default nothing is checked."""

    def check(self, data: Dataset) -> None:
        """Raise `ValueError` unless the teacher fits the data; by default it fits any."""

    def networks(self) -> list[nn.Module]:
        """List its networks, each once, those of teachers inside it included."""
        found = [network for part in self.children()
                 for network in (part.networks() if isinstance(part, Teacher) else [part])]
        return list(dict.fromkeys(found))

    def after_step(self) -> None:
        """Do nothing. Called by `Scheme.after_step`, after each step of the optimiser."""

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode."""
        self.training = False
        for part in self.children():
            switch(part, False)
        return self

    def state_dict(self, *, destination=None, prefix="", keep_vars=False):
        """Return nothing, or with `saved` what other modules return."""
        if self.saved:
            return super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        return collections.OrderedDict() if destination is None else destination

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        if not self.saved:  # strict loading expects all tensors, so they are put there
            nn.Module.state_dict(self, destination=state_dict, prefix=prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __deepcopy__(self, memo):
        if not self.saved:
            return self
        twin = memo[id(self)] = type(self).__new__(type(self))
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin
