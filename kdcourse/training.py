"""The one training loop. It does not know which scheme it runs."""

import contextlib
import copy
import dataclasses
import itertools
import math
import numbers
import operator
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from kdcourse import _checkpoint, _files
from kdcourse._key import key_of, named, stamp
from kdcourse._machine import default_device
from kdcourse._random import generator
from kdcourse._team import Team
from kdcourse.data import Batch, Dataset
from kdcourse.data.loaders import Stream
from kdcourse.schemes import Scheme
from kdcourse.taps import device_of, predict
from kdcourse.teachers import Teacher


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Recipe:
    """How long and how fast to train. Frozen: two arms with one recipe had the same budget.

    epochs: passes over the training split.
    batch: samples per step, over all processes; a last incomplete batch is left out. A loader in
        `kdcourse.data.from_loaders` must bring batches of this size.
    lr: the peak of the learning rate.
    weight_decay: on matrices and kernels only; biases and norms are left alone.
    clip: the largest gradient norm, over everything that is trained; None does not clip.
    precision: "fp32", "bf16" for autocast (faster where the hardware has it, slower elsewhere), or
        "auto": the faster of the two for this scheme on this machine, measured before training and
        noted in the history.
    channels_last: keep images with the channels innermost: faster for convolutions on CPUs. "auto"
        measures that too.
    validate_every: epochs between two looks at the validation split; the last is always looked at.
    optimizer: "adamw", "sgd" (Nesterov momentum 0.9), or a function `(groups, lr)` that makes one;
        the groups bring their weight decay. What it sets stays, a learning rate per group too.
    schedule: "one-cycle" (rises along a cosine to the peak and falls to almost 0; with "adamw" and
        "sgd" the momentum goes from 0.95 to 0.85 and back meanwhile) or "cosine" (rises along a
        line and falls along a cosine to 0), by step.
    warmup: the share of the steps in which the learning rate rises, from 0 to below 1.
    label_smoothing: the share of the uniform distribution in the labels, for every term that looks
        at them, in [0, 1).
    accumulate: parts into which a batch is cut, to fit into memory; one step for all of them. For
        per-sample losses on networks without batch statistics the gradient is that of the batch;
        relations and batch normalisation see a part at a time.
    patience: stop after so many looks at the validation split without a better one, and return to
        the weights of the best, the student's and all others of the scheme; None trains to the end
        and keeps the last.
    compile: compile the scheme's step with `torch.compile`: a minute of waiting, then faster.

    Raises `ValueError` for a value that cannot be.
    """

    epochs: int = 60
    batch: int = 128
    lr: float = 5e-3
    weight_decay: float = 0.01
    clip: float | None = None
    precision: str = "fp32"
    channels_last: bool | str = True
    validate_every: int = 1
    optimizer: str | Callable = "adamw"
    schedule: str = "one-cycle"
    warmup: float = 0.3
    label_smoothing: float = 0.0
    accumulate: int = 1
    patience: int | None = None
    compile: bool = False

    def __post_init__(self):
        for name in ("epochs", "batch", "validate_every", "accumulate", "patience"):
            value = getattr(self, name)
            if name == "patience" and value is None:
                continue
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected {name} to be a whole number of at least 1, got "
                                 f"{value!r}.")
        for name in ("lr", "weight_decay", "clip", "warmup", "label_smoothing"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) and not (name == "clip" and value is None):
                raise ValueError(f"Expected {name} to be a number, got {value!r}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"Expected a learning rate above 0, got {self.lr}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"Expected a weight decay of at least 0, got {self.weight_decay}.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"Expected clip above 0, or None, got {self.clip}.")
        for name, choices in (("precision", ("fp32", "bf16", "auto")),
                              ("channels_last", (True, False, "auto")),
                              ("schedule", ("one-cycle", "cosine"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"Expected {name} {' or '.join(map(_quoted, choices))}, got "
                                 f"{getattr(self, name)!r}.")
        if self.optimizer not in ("adamw", "sgd") and not callable(self.optimizer):
            raise ValueError('Expected optimizer "adamw", "sgd" or a function (groups, lr), got '
                             f"{self.optimizer!r}.")
        for name in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Expected {name} from 0 to below 1, got {getattr(self, name)}.")

    def __repr__(self):
        # Recorded results are found by this text, so what was added later appears only where it
        # differs from what was always done.
        shown = []
        for number, field in enumerate(dataclasses.fields(self)):
            value = getattr(self, field.name)
            if number < 8 or value != field.default:
                shown.append(f"{field.name}={getattr(value, '__qualname__', repr(value))}")
        return f"Recipe({', '.join(shown)})"


def _quoted(choice) -> str:
    return f'"{choice}"' if isinstance(choice, str) else repr(choice)


@dataclasses.dataclass
class History:
    """What happened in each epoch: `rows` of epoch, loss, every part and note of the scheme's
    `Outcome` (means over the epoch), val_accuracy (of numbers val_r2), seconds.

    `history["loss"]` is one column; `val_accuracy` is None in epochs that were not validated, and
    without labels.
    precision, channels_last: what was used, also where the recipe said "auto".
    interrupted: True when Ctrl-C ended the training early.
    best: with early stopping, the epoch whose student was kept.
    """

    rows: list[dict] = dataclasses.field(default_factory=list)
    device: str = "cpu"
    interrupted: bool = False
    precision: str = "fp32"
    channels_last: bool = True
    best: int | None = None

    def __getitem__(self, column: str) -> list:
        return [row[column] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def scores(self) -> list[float | None]:
        """The score on the validation split, epoch by epoch: accuracy, or R² of numbers."""
        column = next((name for name in ("val_accuracy", "val_r2") if name in self.rows[0]), None
                      ) if self.rows else None
        return self[column] if column else []

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


def fit(scheme: Scheme, data: Dataset, recipe: Recipe | None = None, seed: int = 0,
        device=None, label: str = "", checkpoint=None) -> History:
    """Train everything in the scheme that can be trained; return what happened.

    seed: decides the order of the samples and dropout. (Weights have the seed of their model.)
    device: by default the one of `default_device()`.
    label: stands in front of the progress bar.
    checkpoint: a file, such as "run.safetensors", in which the state is kept after each epoch; all
        processes must see it. When it is there already, the training goes on from it, whatever the
        weights are now: killed at any moment and started again, it ends with the same student, to
        the last bit on a CPU. A finished training returns at once. So every training needs a file
        of its own. One of another scheme, data, recipe, seed, precision, torch version or number of
        threads is refused.

    Under `torchrun` or `accelerate launch` each process computes its share of every batch. For
    per-sample losses on networks without batch statistics the gradient is that of one process;
    relations and batch normalisation see the share. Losses and accuracies in the history are those
    of all processes; the first writes the checkpoint. A stream is not shared out again: every
    process reads its part with a loader of its own (see `kdcourse.data.from_loaders`).

    Ctrl-C ends the training and returns the history so far, with `interrupted=True`. The student
    keeps what it has learned. The global random generator is left as it was.

    Raises `ValueError` when data, recipe and scheme do not fit together, `FloatingPointError` at
    the end of the epoch in which the loss or the weights became NaN or inf, with the first bad step
    (the checkpoint of the epoch before stays), and `MemoryError` that says what to lower.

    >>> from kdcourse import data, models, schemes
    >>> scheme = schemes.Supervised(models.mlp(hidden=(32,)))
    >>> len(fit(scheme, data.glyphs(train=256, val=72, test=72), Recipe(epochs=2), seed=0))
    2
    """
    recipe, seed = recipe or Recipe(), operator.index(seed)
    team = Team(sharded=isinstance(data.train, Stream))
    device = torch.device(device) if device is not None else default_device()
    size, steps = team.plan(data.train, recipe.batch, device)
    epochs = recipe.epochs
    if _files.smoke():
        steps, epochs = min(steps, 2), 1
        print("KDCOURSE_SMOKE=1: fit makes two steps only; the numbers mean nothing.")
    if recipe.patience and getattr(data.val, "first", data.val).y is None:
        raise ValueError("Expected labels to validate with, for Recipe(patience=…), got none. "
                         "Leave patience out.")
    scheme.check(data)
    origin = _origin(scheme, data, recipe, seed)
    train, val = data.train.to(device), data.val.to(device)
    scheme.to(device)
    first = next(train.batches(size, seed))  # a sentence when the batch is too large
    scheme.build(first[:4], seed)
    run = _Run(scheme, data, recipe, seed, device, team, checkpoint)
    history = run.start(team.share(first), steps, epochs)
    log = _Log(team)

    try:
        with run, _bar(epochs, label, team, len(history)) as bar:
            for epoch in range(len(history), epochs if not run.over else 0):
                start = time.perf_counter()
                scheme.train()
                for batch in itertools.islice(train.batches(size, seed, epoch), steps):
                    for part, share in run.parts(batch):
                        with run.autocast:
                            outcome = run.model(part)
                        (outcome.loss * share).backward()
                        log.add(outcome, share)
                    if recipe.clip is not None:
                        nn.utils.clip_grad_norm_(run.trained, recipe.clip)
                    run.optimizer.step()
                    run.optimizer.zero_grad()
                    run.schedule.step()
                    scheme.after_step()
                    log.step()  # stays on the device: nothing in this loop waits for it
                row = {"epoch": epoch + 1} | log.close(epoch * steps)
                run.check_weights(epoch + 1)
                team.same(scheme)
                last = epoch + 1 == epochs
                due = last or (epoch + 1) % recipe.validate_every == 0
                row[data.task.column] = _score(scheme.student, val, team, recipe) if due else None
                row["seconds"] = time.perf_counter() - start
                history.rows.append(row)
                run.finish_epoch()
                bar.set_postfix_str(_summary(history))
                bar.update()
                if run.over:
                    break
    except KeyboardInterrupt:
        history.interrupted = True
        print(f"Stopped by hand after {len(history)} of {epochs} epochs; here is the history.")
    else:
        for number, student in enumerate(scheme.students):
            stamp(student, [*origin, number] if origin else None)
    return history


def _origin(scheme, data, recipe, seed: int) -> list | None:
    """How this training's students come about: their key from then on. None for what has none."""
    try:
        key = key_of([scheme, data, recipe, seed])
    except ValueError:
        return None
    return ["trained", key.exact, key.bits]


class _Run:
    """What stands around the loop: optimiser, schedule, precision, processes, checkpoint.

    As a context it draws dropout and the like from the seed and, where a checkpoint was found, puts
    everything back; at the end the weights of the best epoch return and nothing stays compiled.
    """

    def __init__(self, scheme, data, recipe, seed, device, team, checkpoint):
        self.scheme, self.recipe, self.seed, self.device = scheme, recipe, seed, device
        self.team = team
        self.checkpoint = Path(checkpoint) if checkpoint is not None else None
        self.best = self.header = None
        self.frozen = {}
        if self.checkpoint:
            # What the checkpoint brings has other values after a while: it is no part of the key.
            frozen = scheme.frozen_tensors()
            kept = [*scheme.state_dict(keep_vars=True).values(),
                    *(b for name, b in scheme.named_buffers() if name not in frozen)]
            self.frozen = {part: named(part) for part in scheme.modules()
                            if isinstance(part, Teacher) and not part.saved}
            if not self.checkpoint.parent.is_dir():
                raise FileNotFoundError(f"Expected a folder {self.checkpoint.parent} for the "
                                        "checkpoint, got none. Make it first.")
            self.settings = {
                "scheme": named(scheme, kept), "data": repr(data),
                "recipe": named(recipe), "seed": seed,
                "torch": torch.__version__, "threads": torch.get_num_threads(),
                "device": device.type, "processes": team.size, "smoke": _files.smoke(),
                "trained parameters": _files.digest(
                    [name for name, p in scheme.named_parameters() if p.requires_grad])[:8],
                "training samples": data.train.digest()[:8],
            }

    def start(self, first: Batch, steps: int, epochs: int) -> History:
        """Make optimiser and schedule; return the history so far: of a checkpoint, or empty."""
        recipe, history = self.recipe, History(device=str(self.device))
        if recipe.label_smoothing:  # over all of the student's outputs
            self.classes = first.task.outputs(predict(self.scheme.student, first[:2].x))
        part = self.divided(first)[0]
        if self.checkpoint and self.checkpoint.exists():
            self.header, self.tensors = _checkpoint.load(self.checkpoint, self.settings)
            history = History(**self.header["progress"]["history"])
        else:
            with _in_memory(recipe, self.device):
                history.precision, history.channels_last = _fastest(
                    self.scheme, part, recipe, self.device, self.team)
        self.history = history
        _lay_out(self.scheme, history.channels_last)
        self.trained = [p for p in self.scheme.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.trained, recipe, self.device)
        self.schedule = _schedule(self.optimizer, recipe, max(2, epochs * steps))
        self.autocast = torch.autocast(self.device.type, torch.bfloat16,
                                       enabled=history.precision == "bf16")
        self.model = self.team.wrap(self.scheme, self.device, part)
        if recipe.compile:
            self.model.compile()
        self.optimizer.zero_grad()  # whatever an earlier training or the caller left there
        return history

    def divided(self, batch: Batch) -> list[Batch]:
        """This process's share of a batch, labels smoothed, cut as the recipe says."""
        recipe = self.recipe
        if recipe.label_smoothing and batch.y is not None:
            smooth = batch.task.smoothed(batch.y, self.classes, recipe.label_smoothing)
            batch = dataclasses.replace(batch, y=smooth)
        return [batch] if recipe.accumulate == 1 else batch.split(recipe.accumulate)

    def parts(self, batch: Batch):
        """This process's share of a batch in parts, each with its weight."""
        pieces = self.divided(self.team.share(batch))
        weight = batch.task.weight(batch.x, batch.y)
        rows = None  # that count in the whole batch, where it is cut
        if weight is not None and (len(pieces) > 1 or self.team.size > 1):
            rows = weight.sum()
            rows = (self.team.sum(rows) if self.team.sharded else rows).clamp(min=1)
        for piece in pieces:
            whole = piece is pieces[-1] or self.team.size == 1
            share = len(piece) / self.recipe.batch
            if rows is not None:
                piece = dataclasses.replace(piece, total=rows * share)
            with contextlib.nullcontext() if whole else self.model.no_sync():
                # The mean over the processes of these weighted means is the mean over the batch.
                yield piece, share * self.team.size

    def check_weights(self, epoch: int) -> None:
        """Raise when a gradient broke the weights although every loss was finite."""
        if not torch.stack([p.detach().isfinite().all() for p in self.trained]).all():
            raise FloatingPointError(
                f"The weights became NaN or inf in the last step of epoch {epoch}, in which the "
                "loss was still finite: its gradient was not. Lower Recipe(lr=…), and look for a "
                "square root, a logarithm or a division at 0 in the loss."
            )

    def finish_epoch(self) -> None:
        """Remember the best weights, and write the checkpoint."""
        history = self.history
        *earlier, score = history.scores
        if self.recipe.patience and score is not None and all(
                other is None or other < score for other in earlier):
            history.best = len(history)
            self.best = {name: value.clone() if isinstance(value, torch.Tensor) else value
                         for name, value in _checkpoint.state(self.scheme).items()}
        if any(named(teacher) != name for teacher, name in self.frozen.items()):
            raise ValueError("Expected a teacher that stays as it is, got one whose weights were "
                             "changed in the training: no checkpoint would keep them. Use kd.EMA, "
                             "or a subclass of kd.teachers.Teacher with saved = True.")
        if self.checkpoint:
            random = self.team.gather(_checkpoint.random_state(self.device))
        if self.checkpoint and self.team.rank == 0:
            progress = {"history": history.to_dict(), "schedule": self.schedule.state_dict()}
            _checkpoint.save(self.checkpoint, self.scheme, self.optimizer, self.best, random,
                             progress, self.settings)

    @property
    def over(self) -> bool:
        """True when validation has not improved for as long as the recipe is patient."""
        if self.recipe.patience is None or self.history.best is None:
            return False
        looks = [epoch for epoch, score in enumerate(self.history.scores, 1) if score is not None]
        return sum(epoch > self.history.best for epoch in looks) >= self.recipe.patience

    def __enter__(self):
        self._seeded, self._memory = _seeded(self.seed, self.device), _in_memory(
            self.recipe, self.device)
        self._seeded.__enter__()
        self._memory.__enter__()
        if self.header:
            self.best = _checkpoint.restore(self.header, self.tensors, self.scheme, self.optimizer,
                                            self.team.rank)
            self.schedule.load_state_dict(self.header["progress"]["schedule"])
            self.tensors = None
        return self

    def __exit__(self, kind, error, trace):
        self._seeded.__exit__(kind, error, trace)
        self.scheme._compiled_call_impl = None
        if self.best and kind in (None, KeyboardInterrupt, FloatingPointError):
            _checkpoint.put_back(self.scheme, self.best)
        if isinstance(error, FloatingPointError) and self.checkpoint and self.checkpoint.exists():
            error.add_note(f"{self.checkpoint} holds the state after epoch {len(self.history)}.")
        return self._memory.__exit__(kind, error, trace)


class _Log:
    """The loss, its parts and the notes of every step of an epoch, kept on the device until
    `close`, which is the one place that waits for it."""

    never = 2**40

    def __init__(self, team):
        self.team = team
        self._reset()

    def _reset(self):
        self.names, self.values, self.shares, self.steps, self.count = [], [], [], [], 0
        self.terms = 1  # the loss and its parts come first, then notes

    def add(self, outcome, share: float) -> None:
        """Note a part of a step, which counts for `share` of it."""
        values = {"loss": outcome.loss, **outcome.parts}
        if taken := values.keys() & outcome.notes:
            raise ValueError(f"Expected notes with names of their own, got {sorted(taken)}, which "
                             "are parts of the loss. Give them other names.")
        values |= outcome.notes
        self.names, self.terms = list(values), 1 + len(outcome.parts)
        self.values.append(torch.stack([value.detach() for value in values.values()]))
        self.shares.append(share)
        self.steps.append(self.count)

    def step(self) -> None:
        """The step is over."""
        self.count += 1

    def close(self, steps_before: int) -> dict:
        """The means of the epoch, over all processes; raises when some step was not finite."""
        values = torch.stack(self.values).float()  # [parts of steps, names]
        bad = (~torch.isfinite(values[:, 0])).nonzero()
        first = int(bad[0]) if len(bad) else None
        mine = self.never if first is None else self.steps[first]
        anywhere = int(self.team.least(torch.tensor(mine, device=values.device)))
        shares = torch.tensor(self.shares, device=values.device)[:, None]
        means = self.team.sum((values * shares).sum(0)) / (self.count * self.team.size)
        names, terms = self.names, self.terms
        self._reset()
        if anywhere < self.never:
            found = values[first or 0, 1:terms].tolist() if mine == anywhere else []
            parts = [name for name, value in zip(names[1:], found) if not math.isfinite(value)]
            raise FloatingPointError(
                f"The loss became NaN or inf at step {steps_before + anywhere + 1} "
                f"(part: {', '.join(parts) or 'the weighted sum'}). Lower Recipe(lr=…), set "
                "Recipe(clip=1.0), or look at the logits of that part."
            )
        return dict(zip(names, means.tolist(), strict=True))


def _fastest(scheme, part, recipe, device, team) -> tuple[str, bool]:
    """Precision and channels_last: as the recipe says, or the fastest step of those it leaves open.

    Each candidate makes a few steps on a copy of the scheme; the fastest of them counts. A network
    that cannot be trained in bf16 is trained in fp32.
    """
    precisions = ("fp32", "bf16") if recipe.precision == "auto" else (recipe.precision,)
    layouts = (True, False) if recipe.channels_last == "auto" else (bool(recipe.channels_last),)
    candidates = list(itertools.product(precisions, layouts))
    if len(candidates) == 1 or _files.smoke():
        return candidates[0]
    seconds = torch.full((len(candidates),), math.inf, device=device)
    trials = [copy.deepcopy(scheme).train() for _ in candidates]
    failed = set()
    with _seeded(0, device):
        for turn in range(7):  # interleaved, so that a busy moment hits all of them
            for number, (precision, last) in enumerate(candidates):
                if number in failed:
                    continue
                _lay_out(trials[number], last)  # a live teacher is shared by all
                start = time.perf_counter()
                try:
                    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                        loss = trials[number](part).loss
                    loss.backward()
                    float(loss.detach())  # wait for the device
                except RuntimeError as error:
                    if precision == "fp32" or _out_of_memory(error):
                        raise
                    failed.add(number)
                    continue
                if turn > 1:
                    taken = time.perf_counter() - start
                    seconds[number] = min(taken, float(seconds[number]))
    return candidates[int(team.sum(seconds).argmin())]


def _lay_out(scheme, channels_last: bool) -> None:
    """Images, kernels and a live teacher with the channels innermost, or outermost."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for tensor in (*scheme.parameters(), *scheme.buffers()):
        if tensor.ndim == 4:  # scheme.to(memory_format=…) fails where there is one with five
            tensor.data = tensor.data.to(memory_format=layout)


def _optimizer(parameters, recipe, device):
    if not parameters:
        raise ValueError("Expected something to train, got a scheme without trainable parameters. "
                         "Was the student frozen (requires_grad_(False))?")
    # A decay on biases and norms would pull them to 0 for no reason; matrices and kernels have one.
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if callable(recipe.optimizer):
        made = recipe.optimizer(groups, recipe.lr)
        if not isinstance(made, torch.optim.Optimizer):
            raise TypeError("Expected an optimiser from the function in Recipe(optimizer=…), got "
                            f"{type(made).__name__}. Return it.")
        return made
    fused = device.type in ("cpu", "cuda")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)


def _schedule(optimizer, recipe, steps: int):
    if recipe.schedule == "one-cycle":
        rise = float(recipe.warmup)
        if math.isclose(rise * steps, 1):
            rise *= 1 + 1e-6  # PyTorch divides by rise * steps - 1
        peaks = [group["lr"] for group in optimizer.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, peaks, steps, pct_start=rise, cycle_momentum=not callable(recipe.optimizer))
    rising = recipe.warmup * steps

    def share(step):
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def _out_of_memory(error) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextlib.contextmanager
def _in_memory(recipe, device):
    """What does not fit into the memory says what to lower."""
    try:
        yield
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        raise MemoryError(
            f"Expected a step of {recipe.batch} samples to fit into the memory of {device}, but it "
            "is full. Lower Recipe(batch=…), raise Recipe(accumulate=…) to cut the batch into "
            'parts, or use precision="bf16".'
        ) from error


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


def _score(model: nn.Module, split, team, recipe) -> float | None:
    """The task's score, such as the share of right answers; each process counts its share of the
    samples. None without labels."""
    # Without gradients no activations are kept, so that more fits than in a step of the training.
    size, sums = min(500, 4 * -(-recipe.batch // recipe.accumulate)), None
    mine = split if isinstance(split, Stream) else split[team.rank :: team.size]
    idle = not isinstance(split, Stream) and not len(mine)  # more processes than samples
    for part in (split[:1] if idle else mine).batches(size):
        if part.y is None:
            return None
        found = part.task.sums(part.task.rows(predict(model, part.x, size), part.x, part.y))
        sums = (0 if idle else 1) * found if sums is None else sums + found
    return split.task.score(team.sum(sums.to(device_of(model)) if team.size > 1 else sums))


def _bar(epochs: int, label: str, team, done: int):
    """One progress line; none where nobody watches (no terminal), and none left behind."""
    notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    # tqdm reads TQDM_DISABLE by itself in a terminal, but not in a notebook.
    disable = bool(os.environ.get("TQDM_DISABLE")) if notebook else None
    return tqdm(total=epochs, desc=label or "epochs", leave=False, unit="epoch", initial=done,
                disable=disable if team.rank == 0 else True)


def _summary(history: History) -> str:
    seen = [score for score in history.scores if score is not None]
    form = ".1%" if "val_accuracy" in history.rows[-1] else ".3f"
    score = f", validation {seen[-1]:{form}}" if seen else ""
    return f"loss {history.rows[-1]['loss']:.3f}{score}"
