"""The settings of a training."""

import dataclasses
import itertools
import math
import numbers
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Recipe:
    """The settings of a training. Frozen: two arms with one recipe have the same budget.

    epochs: passes over the training split.
    batch: samples per step, over all processes; a last incomplete batch is left out. A loader in
        `kdcourse.data.from_loaders` must bring batches of this size.
    lr: the peak of the learning rate.
    weight_decay: on matrices and kernels only; biases and norms have none.
    clip: the largest gradient norm, over everything that is trained; None does not clip.
    precision: "fp32", or "bf16" for autocast. `kd.fastest` measures which is faster.
    channels_last: keep images with the channels innermost, which is faster for convolutions on
        CPUs. `kd.fastest` measures that, too. Networks that have a convolution of 1x1 with a stride
        and fewer than 8 channels are kept with the channels outermost: torch overruns its memory.
    validate_every: epochs between two validations; the last epoch is always validated.
    optimizer: "adamw", "sgd" (Nesterov momentum 0.9), or a function `(groups, lr)` that makes one;
        the groups bring their weight decay. What it sets stays, a learning rate per group too.
    schedule: by step, "one-cycle" (rises along a cosine to the peak and falls to almost 0; with
        "adamw" and "sgd" the momentum goes from 0.95 to 0.85 and back) or "cosine" (rises along a
        line and falls along a cosine to 0); or a tuple of epochs, after each of which the rate is
        divided by 10, as in (150, 180, 210): () keeps it as it is.
    warmup: the share of the steps in which the learning rate rises, from 0 to below 1; without
        effect for a tuple of epochs.
    accumulate: micro-batches into which a batch is cut, to fit into memory. For per-sample losses
        on networks without batch statistics the gradient is that of the batch; relations and batch
        normalisation see one micro-batch at a time.
    patience: stop after so many validations without a better one, and return to the weights of the
        best, of all that the scheme trains; None trains to the end and keeps the last.
    compile: compile the scheme's step with `torch.compile`, which takes about a minute (on
        a CPU from torch 2.7 on: its compiler before stops at the backward pass of `KD`).
    capture: on a CUDA GPU, replay forward and backward pass as a CUDA graph after a few steps: as
        small networks on a GPU are slowed down by launching kernels, not by computing. Losses and
        weights are those of the eager step, to rounding. Where a step cannot be captured it stays
        eager, and `history.step` says why. What a forward pass takes from outside of the scheme's
        modules (a global variable, an iterator) is not seen, and stays as it was at the capture:
        keep it as an attribute. No part of the key of recorded results.

    Raises `ValueError` for a value that cannot be.
    """

    epochs: int = 60
    batch: int = 128
    lr: float = 5e-3
    weight_decay: float = 0.01
    clip: float | None = None
    precision: str = "fp32"
    channels_last: bool = True
    validate_every: int = 1
    optimizer: str | Callable = "adamw"
    schedule: str | tuple[int, ...] = "one-cycle"
    warmup: float = 0.3
    accumulate: int = 1
    patience: int | None = None
    compile: bool = False
    capture: bool = dataclasses.field(default=False, metadata={"in_key": False})

    def __post_init__(self):
        for name in ("epochs", "batch", "validate_every", "accumulate", "patience"):
            value = getattr(self, name)
            if (not isinstance(value, int) or value < 1) and (name, value) != ("patience", None):
                raise ValueError(f"Expected {name} to be a whole number of at least 1, got "
                                 f"{value!r}.")
        for name in ("lr", "weight_decay", "clip", "warmup"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) and (name, value) != ("clip", None):
                raise ValueError(f"Expected {name} to be a number, got {value!r}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"Expected a learning rate above 0, got {self.lr}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"Expected a weight decay of at least 0, got {self.weight_decay}.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"Expected clip above 0, or None, got {self.clip}.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"Expected warmup from 0 to below 1, got {self.warmup}.")
        if isinstance(self.schedule, (tuple, list)):
            object.__setattr__(self, "schedule", tuple(self.schedule))
            ordered = (0, *self.schedule, self.epochs)
            if not all(isinstance(epoch, int) for epoch in ordered) or any(
                    one >= other for one, other in itertools.pairwise(ordered)):
                raise ValueError(f"Expected a schedule of rising epochs from 1 to "
                                 f"{self.epochs - 1}, got {self.schedule!r}.")
        for name, choices in (("precision", ("fp32", "bf16")), ("channels_last", (True, False)),
                              ("schedule", ("one-cycle", "cosine"))):
            value = getattr(self, name)
            if value not in choices and not (name == "schedule" and isinstance(value, tuple)):
                shown = " or ".join(f'"{choice}"' if isinstance(choice, str) else repr(choice)
                                    for choice in choices)
                raise ValueError(f"Expected {name} {shown}, got {getattr(self, name)!r}."
                                 + (" kd.fastest(scheme, data, recipe) measures the faster one."
                                    if getattr(self, name) == "auto" else ""))
        if not isinstance(self.capture, bool):
            raise ValueError(f"Expected capture True or False, got {self.capture!r}.")
        if self.optimizer not in ("adamw", "sgd") and not callable(self.optimizer):
            raise ValueError('Expected optimizer "adamw", "sgd" or a function (groups, lr), got '
                             f"{self.optimizer!r}.")

    def __repr__(self):
        shown = []
        for number, field in enumerate(dataclasses.fields(self)):
            value = getattr(self, field.name)
            if number < 8 or value != field.default:
                shown.append(f"{field.name}={getattr(value, '__qualname__', repr(value))}")
        return f"Recipe({', '.join(shown)})"


def as_recipe(recipe) -> Recipe:
    """Give the recipe, the default for None. Raises `TypeError` for anything else."""
    if recipe is None:
        return Recipe()
    if not isinstance(recipe, Recipe):
        remedy = ("kd.Recipe(" + ", ".join(f"{name}={value!r}" for name, value in recipe.items())
                  + ")" if isinstance(recipe, dict) else "kd.Recipe(epochs=…)")
        raise TypeError(f"Expected a Recipe, got {type(recipe).__name__}. Pass {remedy}.")
    return recipe
