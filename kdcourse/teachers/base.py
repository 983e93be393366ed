"""What all teachers have in common.

Shapes: B batch, K classes, N samples, C channels, H W height and width.
"""

import collections
import copy

import torch
from torch import nn

from kdcourse.data import Batch, Dataset
from kdcourse.taps import Output


class Teacher(nn.Module):
    """A module that is asked and never trained.

    It stays in eval mode whatever `train()` is told, answers without gradients, is left out of
    `state_dict()` (strict `load_state_dict` works without it), and copies of a scheme share it. As
    a part of a scheme it moves with it: `scheme.to(…)` reaches its weights and buffers.

    For a teacher of your own write `forward(batch, paths)`, which returns an `Output` of the batch
    with a tensor for each of the module paths. Where it can be asked about any inputs write
    `predict` as well, and `check` where it fits some data only.

    Two class attributes: `saved = True` is for a teacher that changes while the student is trained
    (its tensors are kept in `state_dict()` and checkpoints, and a copy of a scheme gets a copy of
    it), `uses_labels = True` for answers that depend on `batch.y`, to which `Cached` then belongs.

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
        """The answer to a batch: logits [B, K] (in another task, as that says; any tensor where no
        term compares logits), and the tensors at the module paths."""
        self.eval()  # the caller may have the network, too, and have called its train()
        answer = super().__call__(batch, tuple(paths))
        if not isinstance(answer, Output):
            raise TypeError(f"Expected an Output from the forward of {type(self).__name__}, got "
                            f"{type(answer).__name__}. Return kd.Output(logits).")
        return answer.detached()  # no_grad does not detach what was stored with a gradient

    def predict(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor | None:
        """Logits [N, K] for any inputs [N, C, H, W], with labels y where they are known; None
        from a teacher that answers for the training samples only, which is the default."""
        return None

    def tap(self, paths: tuple[str, ...]) -> None:
        """Raise `ValueError` unless `forward` can return the tensors at these module paths. Called
        when a scheme is made; by default nothing is checked."""

    def check(self, data: Dataset) -> None:
        """Raise `ValueError` unless the teacher fits the data; by default it fits any."""

    def networks(self) -> list[nn.Module]:
        """The networks that it asks, each once, those of teachers in it included."""
        found = [network for part in self.children()
                 for network in (part.networks() if isinstance(part, Teacher) else [part])]
        return list(dict.fromkeys(found))

    def after_step(self) -> None:
        """Called by `Scheme.after_step`, after each step of the optimiser. Does nothing here."""

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode."""
        return super().train(False)

    def state_dict(self, *, destination=None, prefix="", keep_vars=False):
        """Nothing, or with `saved` what other modules return."""
        if self.saved:
            return super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        return collections.OrderedDict() if destination is None else destination

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        if not self.saved:  # strict loading expects all tensors: it finds those that are there
            nn.Module.state_dict(self, destination=state_dict, prefix=prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __deepcopy__(self, memo):
        if not self.saved:
            return self
        twin = memo[id(self)] = type(self).__new__(type(self))
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin
