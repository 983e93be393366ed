"""WHO says it: sources of targets.

A teacher answers `teacher(batch)` with a `View`. It is not a module and not a part of the scheme's
modules, so it is never trained, never saved with the student and never woken by `train()`.
Shapes: B batch, K classes, N samples.
"""

import torch
from torch import nn

from kdcourse import _files, models
from kdcourse.data import Batch, Dataset
from kdcourse.models import View


class Live:
    """A network that answers every batch anew.

    The network is frozen where it stands: eval mode (dropout off, batch statistics fixed), no
    gradients, no gradient to any of its parameters.

    >>> teacher = Live(models.convnet(width=8))
    >>> any(p.requires_grad for p in teacher.model.parameters())
    False
    """

    def __init__(self, model: nn.Module):
        if not isinstance(model, nn.Module):
            raise TypeError(f"Expected a network (nn.Module) as teacher, got "
                            f"{type(model).__name__}. Pass the model itself, not its name.")
        self.model = model.eval().requires_grad_(False)
        self._taps = {(): models.taps(model, ())}

    @torch.no_grad()
    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> View:
        """The teacher's view of the batch: logits [B, K], and the tensors at the paths `taps`."""
        self.model.eval()  # somebody else may have the model too, and train() all or part of it
        self.tap(taps)
        view = self._taps[taps](batch.x)
        view.index = batch.index
        return view

    def tap(self, taps: tuple[str, ...]) -> None:
        """Raise `ValueError` unless the network has modules at these paths."""
        if taps not in self._taps:
            self._taps[taps] = models.taps(self.model, taps)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, K] for any inputs [N, C, H, W]."""
        return models.predict(self.model, x)

    def to(self, device) -> "Live":
        """Move the network."""
        self.model.to(device)
        return self

    def check(self, data: Dataset) -> None:
        """A live teacher answers for any data."""

    def __deepcopy__(self, memo):
        return self  # frozen, so copies of a scheme share it

    def __repr__(self):
        if hasattr(self.model, "card"):  # from kd.teacher: the name says it all
            return self.model.spec
        weights = [t.detach().cpu().contiguous() for t in self.model.state_dict().values()]
        digest = _files.digest(*(t.flatten().view(torch.uint8).numpy().tobytes() for t in weights))
        return f"{models.describe(self.model)}#{digest[:8]}"  # the same structure, other weights


class Cached:
    """The teacher's answers to the training samples, computed once and kept by sample id.

    Exact for data without augmentation, and several times faster than `Live`: the teacher runs
    once instead of once per epoch. Refuses other data than it was made for.

    teacher: a network, or `Live(network)`.

    >>> from kdcourse.data import glyphs
    >>> data = glyphs(train=64, val=36, test=36)
    >>> Cached(models.convnet(width=8), data).logits.shape
    torch.Size([64, 36])
    """

    def __init__(self, teacher, data: Dataset):
        self.source = as_teacher(teacher)
        self.logits = self.source.predict(data.train.x).cpu()
        self.params, self._x = data.params, data.train.x
        self._name = repr(self.source)

    @classmethod
    def of(cls, logits: torch.Tensor, data: Dataset, name: str) -> "Cached":
        """Answers that come from elsewhere: logits [N, K], one row per training sample.

        name: what they are; recorded results are found by it, so other answers need another name.
        Raises `ValueError` when there are not as many rows as training samples.
        """
        expected = [len(data.train), len(data.classes)]
        if list(logits.shape) != expected:
            raise ValueError(f"Expected logits of shape {expected}, one row per training sample, "
                             f"got {list(logits.shape)}.")
        self = cls.__new__(cls)
        self.source, self.logits, self.params, self._name = None, logits, data.params, name
        self._x = data.train.x
        return self

    def tap(self, taps: tuple[str, ...]) -> None:
        """Raise `ValueError` when inner tensors are asked for: only logits are stored."""
        if taps:
            raise ValueError(f"Expected a teacher with its layers for the taps {list(taps)}, got "
                             "stored logits. Use the network itself, or Live(network).")

    def __call__(self, batch: Batch, taps: tuple[str, ...] = ()) -> View:
        """The stored logits [B, K] of the batch's samples."""
        self.tap(taps)
        if batch.view != 0:
            raise ValueError(
                f"Expected samples as they are (view 0), got augmentation {batch.view}. "
                "The cached answers are for the plain images: use Live(teacher)."
            )
        return View(self.logits[batch.index.to(self.logits.device)], index=batch.index)

    def predict(self, x: torch.Tensor) -> torch.Tensor | None:
        """Logits for any inputs, from the teacher behind the cache; None if there is none."""
        return self.source.predict(x) if self.source else None

    def to(self, device) -> "Cached":
        """Move the stored answers."""
        self.logits = self.logits.to(device)
        return self

    def check(self, data: Dataset) -> None:
        """Raise `ValueError` unless `data` is what the answers were made for."""
        if data.params != self.params:
            raise ValueError(
                f"Expected the data that was cached, {self.params}, got {data.params}. "
                "Make Cached(teacher, data) again for this data."
            )
        if data.train.x is not self._x and not torch.equal(data.train.x, self._x):
            raise ValueError(
                "Expected the training samples that were cached, in the same order, got others: "
                "the answers would belong to other images. Make Cached(teacher, data) again."
            )

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        return f"Cached({self._name})"


def as_teacher(teacher):
    """A network becomes `Live(network)`; a teacher stays what it is."""
    if isinstance(teacher, nn.Module):
        return Live(teacher)
    if callable(teacher) and hasattr(teacher, "predict") and hasattr(teacher, "check"):
        return teacher
    raise TypeError(f"Expected a network or a teacher such as Live(network), got "
                    f"{type(teacher).__name__}. Pass the model itself.")
