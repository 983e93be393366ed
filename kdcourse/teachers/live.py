"""A network that runs in every step.

Shapes: B batch, K classes, N samples, C channels, H W height and width.
"""

import re
from collections.abc import Callable

import torch
from torch import nn

from kdcourse._key import is_as_made
from kdcourse._modules import check_whole, untouched
from kdcourse._tensors import fingerprint
from kdcourse._trees import each
from kdcourse.data import Batch, Dataset
from kdcourse.outputs import OutputError, remedy, shown_inputs
from kdcourse.taps import Output, describe, device_of, in_precision_of, predict
from kdcourse.taps import taps as taps_of
from kdcourse.teachers.base import Teacher


class Live(Teacher):
    """A network that runs on every batch. It is frozen: eval mode (dropout off, batch statistics
    fixed), no gradients, `requires_grad` off in all parameters.

    It may be in half or double precision (its inputs are converted), and a program of
    `torch.jit` or `torch.export`, whose modules cannot be tapped. It needs no logits where only its
    inner tensors are compared.

    transform: what is done to the inputs first, on their device: any callable on `batch.x`. The
        course's networks take inputs in [0, 1] and normalise for themselves; others want
        `weights.transforms()` of torchvision, or from `torchvision.transforms.v2`
        `Compose([Resize(224, antialias=True), Normalize(mean, std)])`, or `RGB()` for a network
        with three channels and grey images. A module moves with the teacher.

    Raises `TypeError` for what is no network and for a transform that cannot be called;
    `ValueError` for weights that are sharded (FSDP, DeepSpeed) or not loaded, and in `check` when
    the network does not take the data's inputs.

    >>> from kdcourse import models
    >>> teacher = Live(models.convnet(width=8, channels=3), lambda x: x.expand(-1, 3, -1, -1))
    >>> teacher.predict(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 36])
    """

    def __init__(self, model: nn.Module, transform: Callable | None = None):
        super().__init__()
        if not isinstance(model, nn.Module) or isinstance(model, Teacher):
            raise TypeError(f"Expected a network (nn.Module) as teacher, got "
                            f"{type(model).__name__}. Pass the model itself.")
        if transform is not None and not callable(transform):
            raise TypeError(f"Expected a transform that can be called with a batch of inputs, got "
                            f"{transform!r}. Write lambda x: …, or take one of torchvision's.")
        check_whole(model, "teacher")
        self.model, self.transform = model, transform
        self.eval().requires_grad_(False)
        self._taps = {(): taps_of(model, ())}

    def forward(self, batch: Batch, paths: tuple[str, ...] = ()) -> Output:
        if paths not in self._taps:
            self.tap(paths)
        taps, x = self._taps[paths], batch.x
        if self.transform is not None:
            x = self.transform(x)
        weight = next(self.model.parameters(), None)  # as it is now: weights may be replaced
        if getattr(weight, "dtype", None) != getattr(x, "dtype", None):
            x = in_precision_of(self.model, x)
        output = taps(**x) if isinstance(x, dict) else taps(x)
        output.index = batch.index
        return output

    def tap(self, paths: tuple[str, ...]) -> None:
        """Raise `ValueError` unless the network has modules at these paths."""
        if paths not in self._taps:
            self._taps[paths] = taps_of(self.model, paths)

    def predict(self, x, y: torch.Tensor | None = None) -> torch.Tensor:
        """Compute logits [N, K] for any inputs [N, C, H, W] (or a dict), on the inputs' device."""
        self.eval()
        return predict(self.model, x, transform=self.transform)

    def check(self, data: Dataset) -> None:
        """Raise `ValueError` unless the network takes the inputs of the data, and `OutputError`
        where `kd.Logits` finds no logits in what the network returns."""
        x = data.train.head(2)
        try:
            with untouched(self.model.modules()):
                self(Batch(each(lambda t: t.to(device_of(self)), x), None, None))
        except OutputError:  # the network took the inputs
            raise
        except (AttributeError, KeyError) as error:
            raise ValueError(
                f"Expected a teacher that runs on inputs of shape {each(list, data.shape)}, got "
                f"{type(error).__name__}: {error}. Its forward, or the transform, reads something "
                "that is not there. Print what the network inside it returns, and the inputs: "
                f"here {shown_inputs(x)}."
            ) from error
        except Exception as error:  # each library has its own for a wrong shape
            resize = "" if isinstance(x, dict) else (
                "Where it takes others, say how to make them: kd.Live(model, transform=v2.RGB()) "
                "makes three channels of one, v2.Resize(224) another size (with v2 of "
                "torchvision.transforms).")
            raise ValueError(
                f"Expected a teacher that takes inputs of shape {each(list, data.shape)}, got "
                f"{type(error).__name__}: {error}. {remedy(error, x, resize)} The inputs here are "
                f"{shown_inputs(x)}.") from error

    def identity(self):
        """Give the network and the transform, by which recorded results are found."""
        return [self.model, self.transform]

    def __repr__(self):
        digest = fingerprint(self.model)
        if is_as_made(self.model) and self.model.provenance["how"][0] == "teacher":
            name = self.model.spec
        else:  # weights that change are no part of the name
            name = describe(self.model) + ("" if self.saved else f"#{digest[:8]}")
        return name if self.transform is None else f"Live({name}, {_described(self.transform)})"


def as_teacher(teacher) -> Teacher:
    """Make `Live(network)` of a network; freeze the weights of a teacher, which stays what it is.
    Raises `TypeError` for what is neither."""
    if isinstance(teacher, Teacher):
        return teacher.eval().requires_grad_(False)
    if isinstance(teacher, nn.Module):
        return Live(teacher)
    remedy = ("kd.Ensemble([…]) averages several" if isinstance(teacher, (list, tuple)) else
              "Pass the model itself; a teacher of your own is a subclass of kd.teachers.Teacher")
    raise TypeError(f"Expected a network (nn.Module) or a teacher such as Live(network), got "
                    f"{type(teacher).__name__}. {remedy}.")


def _described(transform: Callable) -> str:
    """Describe a transform by a text that is the same in every process."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(repr(transform).split()))
    if isinstance(transform, nn.Module) and transform.state_dict():
        text += f"#{fingerprint(transform)[:8]}"
    return f"transform={text}"
