"""The one training loop. It does not know which scheme it runs."""

import dataclasses
import math
import os
import time

import torch
from torch import nn
from tqdm.auto import tqdm

from kdcourse import _files, models
from kdcourse.data import Dataset, generator
from kdcourse.schemes import Scheme


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast to train. Frozen: two arms with one recipe had the same budget.

    epochs: passes over the training split.
    batch: samples per step; a last incomplete batch is left out.
    lr: the peak of the learning rate; it rises to it and falls to almost 0 (one cycle, by step).
    weight_decay: of AdamW, on matrices and kernels only; biases and norms are left alone.
    clip: the largest gradient norm, over everything that is trained; None does not clip.
    precision: "fp32", or "bf16" for autocast (faster where the hardware has it, slower elsewhere).
    channels_last: keep images with the channels innermost: faster for convolutions on CPUs.
    validate_every: epochs between two looks at the validation split; the last is always looked at.

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

    def __post_init__(self):
        for name in ("epochs", "batch", "validate_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected {name} to be a whole number of at least 1, got "
                                 f"{value!r}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"Expected a learning rate above 0, got {self.lr}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"Expected a weight decay of at least 0, got {self.weight_decay}.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"Expected clip above 0, or None, got {self.clip}.")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f'Expected precision "fp32" or "bf16", got {self.precision!r}.')


@dataclasses.dataclass
class History:
    """What happened in each epoch: `rows` of epoch, loss, every part, val_accuracy, seconds.

    `history["loss"]` is one column; `val_accuracy` is None in epochs that were not validated.
    interrupted: True when Ctrl-C ended the training early.
    """

    rows: list[dict] = dataclasses.field(default_factory=list)
    device: str = "cpu"
    interrupted: bool = False

    def __getitem__(self, column: str) -> list:
        return [row[column] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def seconds(self) -> float:
        return sum(self["seconds"])

    def to_dict(self) -> dict:
        """Plain Python, for a results file."""
        return dataclasses.asdict(self)

    def __repr__(self):
        if not self.rows:
            return "History(no epoch was finished)"
        end = ", interrupted" if self.interrupted else ""
        return (f"History({len(self)} epochs in {self.seconds:.1f} s on {self.device}: "
                f"{_summary(self)}{end})")


def default_device() -> torch.device:
    """The device that Hugging Face accelerate picks: a GPU where there is one, else the CPU."""
    from accelerate import PartialState  # a second to import

    return PartialState().device


def fit(scheme: Scheme, data: Dataset, recipe: Recipe | None = None, seed: int = 0,
        device=None, label: str = "") -> History:
    """Train everything in the scheme that can be trained; return what happened.

    seed: decides the order of the samples and dropout. (Weights have the seed of their model.)
    device: by default the one of `default_device()`.
    label: stands in front of the progress bar.

    Ctrl-C ends the training and returns the history so far, with `interrupted=True`. The student
    keeps what it has learned. The global random generator is left as it was.

    Raises `ValueError` when data, recipe and scheme do not fit together, and `FloatingPointError`
    at the end of the epoch in which the loss became NaN or inf, with the first bad step.

    >>> from kdcourse import data, models, schemes
    >>> scheme = schemes.Supervised(models.mlp(hidden=(32,)))
    >>> len(fit(scheme, data.glyphs(train=256, val=72, test=72), Recipe(epochs=2), seed=0))
    2
    """
    recipe = recipe or Recipe()
    device = torch.device(device) if device is not None else default_device()
    steps = len(data.train) // recipe.batch
    epochs = recipe.epochs
    if _files.smoke():
        steps, epochs = min(steps, 2), 1
        print("KDCOURSE_SMOKE=1: fit makes two steps only; the numbers mean nothing.")
    scheme.check(data)
    train, val = data.train.to(device), data.val.to(device)
    format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    scheme.to(device).to(memory_format=format)
    scheme.build(next(train.batches(min(2, len(train)))), seed)
    trained = [p for p in scheme.parameters() if p.requires_grad]
    next(train.batches(recipe.batch, seed))  # says in a sentence when the batch is too large
    optimizer = _optimizer(trained, recipe, device)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, max(2, epochs * steps))
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    history, log = History(device=str(device)), _Log(device)
    optimizer.zero_grad()  # whatever an earlier training or the caller left there

    try:
        with _seeded(seed, device), _bar(epochs, label) as bar:
            for epoch in range(epochs):
                start = time.perf_counter()
                scheme.train()
                for step, batch in enumerate(train.batches(recipe.batch, seed, epoch)):
                    if step == steps:  # smoke mode
                        break
                    with autocast:
                        outcome = scheme(batch)
                    outcome.loss.backward()
                    if recipe.clip is not None:
                        nn.utils.clip_grad_norm_(trained, recipe.clip)
                    optimizer.step()
                    optimizer.zero_grad()
                    schedule.step()
                    scheme.after_step()
                    log.add(outcome)  # stays on the device: nothing in this loop waits for it
                row = {"epoch": epoch + 1} | log.close(epoch * steps)
                last = epoch + 1 == epochs
                due = last or (epoch + 1) % recipe.validate_every == 0
                row["val_accuracy"] = _accuracy(scheme.student, val) if due else None
                row["seconds"] = time.perf_counter() - start
                history.rows.append(row)
                bar.set_postfix_str(_summary(history))
                bar.update()
    except KeyboardInterrupt:
        history.interrupted = True
        print(f"Stopped by hand after {len(history)} of {epochs} epochs; here is the history.")
    return history


class _Log:
    """Sums of the loss and its parts over an epoch, and the first step that was not finite.

    Everything stays on the device; `close` is the one place that waits for it.
    """

    def __init__(self, device):
        self.device = device
        self._reset()

    def _reset(self):
        self.sums, self.names, self.count = None, [], 0
        self.bad, self.bad_values = torch.full((), -1, device=self.device), None

    def add(self, outcome) -> None:
        self.names = ["loss", *outcome.parts]
        values = torch.stack([outcome.loss.detach().float(),
                              *(part.detach().float() for part in outcome.parts.values())])
        first = ~torch.isfinite(values[0]) & (self.bad < 0)
        self.bad = torch.where(first, self.count, self.bad)
        self.bad_values = (values if self.bad_values is None
                           else torch.where(first, values, self.bad_values))
        self.sums = values if self.sums is None else self.sums + values
        self.count += 1

    def close(self, steps_before: int) -> dict:
        means = dict(zip(self.names, (self.sums / self.count).tolist(), strict=True))
        bad, values = int(self.bad), dict(zip(self.names, self.bad_values.tolist(), strict=True))
        self._reset()
        if bad >= 0:
            parts = [name for name, value in values.items()
                     if name != "loss" and not math.isfinite(value)]
            raise FloatingPointError(
                f"The loss became NaN or inf at step {steps_before + bad + 1} "
                f"(part: {', '.join(parts) or 'the weighted sum'}). Lower Recipe(lr=…), set "
                "Recipe(clip=1.0), or look at the logits of that part."
            )
        return means


def _optimizer(parameters, recipe, device):
    if not parameters:
        raise ValueError("Expected something to train, got a scheme without trainable parameters. "
                         "Was the student frozen (requires_grad_(False))?")
    # A decay on biases and norms would pull them to 0 for no reason; matrices and kernels have one.
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=device.type in ("cpu", "cuda"))


def _seeded(seed: int, device):
    """Dropout and the like draw from `seed` inside the block; outside nothing is changed."""
    cuda = [torch.cuda.current_device()] if device.type == "cuda" else []
    fork = torch.random.fork_rng(devices=cuda)

    class Seeded:
        def __enter__(self):
            fork.__enter__()
            torch.manual_seed(generator(seed, "training").initial_seed())

        def __exit__(self, *error):
            return fork.__exit__(*error)

    return Seeded()


def _accuracy(model: nn.Module, split) -> float:
    labels = split.y if split.y.ndim == 1 else split.y.argmax(1)
    return float((models.predict(model, split.x).argmax(1) == labels).float().mean())


def _bar(epochs: int, label: str):
    """One progress line; none where nobody watches (no terminal), and none left behind."""
    notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    # tqdm reads TQDM_DISABLE by itself in a terminal, but not in a notebook.
    disable = bool(os.environ.get("TQDM_DISABLE")) if notebook else None
    return tqdm(total=epochs, desc=label or "epochs", leave=False, unit="epoch", disable=disable)


def _summary(history: History) -> str:
    seen = [row["val_accuracy"] for row in history.rows if row["val_accuracy"] is not None]
    accuracy = f", validation {seen[-1]:.1%}" if seen else ""
    return f"loss {history.rows[-1]['loss']:.3f}{accuracy}"
