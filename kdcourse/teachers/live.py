"""A network that is asked in every step.

Shapes: B batch, K classes, N samples, C channels, H W height and width.
"""

import re
from collections.abc import Callable

import torch
from torch import nn

from kdcourse._key import is_as_made
from kdcourse._tensors import fingerprint
from kdcourse.data import Batch, Dataset
from kdcourse.taps import Output, describe, device_of, evaluating, logits_of
from kdcourse.taps import taps as taps_of
from kdcourse.tasks import call, each, first, pieces
from kdcourse.teachers.base import Teacher


class Live(Teacher):
    """A network that answers every batch anew.

    The network is frozen where it stands: eval mode (dropout off, batch statistics fixed), no
    gradients, no gradient to any of its parameters.

    transform: what is done to the inputs first, on their device: any callable on `batch.x`. The
        course's networks take inputs in [0, 1] and normalise for themselves; others want
        `weights.transforms()` of torchvision, or from `torchvision.transforms.v2`
        `Compose([Resize(224, antialias=True), Normalize(mean, std)])`, or `RGB()` for a network
        with three channels and grey images. A module moves with the teacher.

    Raises `TypeError` for what is no network and for a transform that cannot be called; in
    `check`, `ValueError` when the network does not take the data's inputs.

    >>> from kdcourse import models
    >>> teacher = Live(models.convnet(width=8, channels=3), lambda x: x.expand(-1, 3, -1, -1))
    >>> teacher.predict(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 36])
    """

    def __init__(self, model: nn.Module, transform: Callable | None = None, **settings):
        super().__init__()
        if settings:
            raise TypeError(_as_transform(settings))
        if not isinstance(model, nn.Module) or isinstance(model, Teacher):
            raise TypeError(f"Expected a network (nn.Module) as teacher, got "
                            f"{type(model).__name__}. Pass the model itself.")
        if transform is not None and not callable(transform):
            raise TypeError(f"Expected a transform that can be called with a batch of inputs, got "
                            f"{transform!r}. Write lambda x: …, or take one of torchvision's.")
        self.model, self.transform = model, transform
        self.eval().requires_grad_(False)
        self._taps = {(): taps_of(model, ())}

    def forward(self, batch: Batch, paths: tuple[str, ...] = ()) -> Output:
        self.tap(paths)
        taps, x = self._taps[paths], self._inputs(batch.x)
        view = taps(**x) if isinstance(x, dict) else taps(x)
        view.index = batch.index
        return view

    def _inputs(self, x):
        return x if self.transform is None else self.transform(x)

    def tap(self, paths: tuple[str, ...]) -> None:
        """Raise `ValueError` unless the network has modules at these paths."""
        if paths not in self._taps:
            self._taps[paths] = taps_of(self.model, paths)

    @torch.no_grad()
    def predict(self, x, y: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [N, K] for any inputs [N, C, H, W] (or a dict), on the device of the inputs."""
        device, here = device_of(self.model), first(x).device
        with evaluating(self):
            asked = (self._inputs(each(lambda t: t.to(device), part)) for part in pieces(x, 500))
            return torch.cat([logits_of(call(self.model, part)).float().to(here)
                              for part in asked])

    def check(self, data: Dataset) -> None:
        """Raise `ValueError` unless the network takes the inputs of the data."""
        x = data.train.head(2)
        try:
            self.predict(x)
        except Exception as error:  # each library has its own for a wrong shape
            raise ValueError(
                f"Expected a teacher that takes inputs of shape {each(_shape, x)}, got "
                f"{type(error).__name__}: {error}. Where it takes others, say how to make them: "
                "kd.Live(model, transform=v2.RGB()) makes three channels of one, v2.Resize(224) "
                "another size (with v2 of torchvision.transforms).") from error

    def identity(self):
        """The network and the transform: what recorded results are found by."""
        return [self.model, self.transform]

    def __repr__(self):
        digest = fingerprint(self.model)
        if is_as_made(self.model) and self.model.provenance["how"][0] == "teacher":
            name = self.model.spec
        else:  # weights that change are no part of the name
            name = describe(self.model) + ("" if self.saved else f"#{digest[:8]}")
        return name if self.transform is None else f"Live({name}, {_described(self.transform)})"


def as_teacher(teacher) -> Teacher:
    """A network becomes `Live(network)`; a teacher stays what it is, with its weights frozen.

    Raises `TypeError` for what is neither.
    """
    if isinstance(teacher, Teacher):
        return teacher.eval().requires_grad_(False)
    if isinstance(teacher, nn.Module):
        return Live(teacher)
    raise TypeError(f"Expected a network (nn.Module) or a teacher such as Live(network), got "
                    f"{type(teacher).__name__}. Pass the model itself; a class of your own that "
                    "answers batches is a subclass of kd.teachers.Teacher.")


def _as_transform(settings: dict) -> str:
    """What to write in place of the mean, std and size that `Live` once had."""
    unknown = sorted(settings.keys() - {"mean", "std", "size"})
    if unknown:
        return f"Expected Live(model, transform), got another argument {unknown[0]!r}."
    steps, size = [], settings.get("size")
    if size is not None:
        size = [size, size] if isinstance(size, int) else list(size)
        steps.append(f"v2.Resize({size}, antialias=True)")
    if settings.keys() & {"mean", "std"}:
        mean, std = (
            torch.as_tensor(settings.get(name, default), dtype=torch.float64).flatten().tolist()
            for name, default in (("mean", 0.0), ("std", 1.0)))
        steps.append(f"v2.Normalize({mean}, {std})")
    return (f"Expected a transform in place of {' and '.join(settings)}. Write kd.Live(model, "
            f"transform=v2.Compose([{', '.join(steps)}])), with v2 of torchvision.transforms.")


def _shape(x: torch.Tensor) -> list[int]:
    return list(x.shape[1:])


def _described(transform: Callable) -> str:
    """A transform as text that is the same in every process."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(repr(transform).split()))
    if isinstance(transform, nn.Module) and transform.state_dict():
        text += f"#{fingerprint(transform)[:8]}"
    return f"transform={text}"
