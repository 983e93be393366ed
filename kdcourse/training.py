"""The one training loop. It does not know which scheme it runs."""

import contextlib
import copy
import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from kdcourse import _checkpoint, _files, models
from kdcourse.data import Batch, Dataset, Split, generator
from kdcourse.schemes import Scheme
from kdcourse.streams import Stream


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Recipe:
    """How long and how fast to train. Frozen: two arms with one recipe had the same budget.

    epochs: passes over the training split.
    batch: samples per step, over all processes; a last incomplete batch is left out. A loader in
        `kdcourse.streams` must bring batches of this size.
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
        the groups bring their weight decay.
    schedule: "one-cycle" (rises along a cosine to the peak and falls to almost 0) or "cosine"
        (rises along a line and falls along a cosine to 0), by step.
    warmup: the share of the steps in which the learning rate rises, from 0 to below 1.
    label_smoothing: the share of the uniform distribution in the labels, for every term that looks
        at them, in [0, 1).
    accumulate: parts into which a batch is cut, to fit into memory; one step for all of them. For
        per-sample losses on networks without batch statistics the gradient is that of the batch;
        relations and batch normalisation see a part at a time.
    patience: stop after so many looks at the validation split without a better one, and return to
        the student of the best; None trains to the end and keeps the last.
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
                text = getattr(value, "__qualname__", None) or repr(value)
                shown.append(f"{field.name}={text}")
        return f"Recipe({', '.join(shown)})"


def _quoted(choice) -> str:
    return f'"{choice}"' if isinstance(choice, str) else repr(choice)


@dataclasses.dataclass
class History:
    """What happened in each epoch: `rows` of epoch, loss, every part, val_accuracy, seconds.

    `history["loss"]` is one column; `val_accuracy` is None in epochs that were not validated.
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
        device=None, label: str = "", checkpoint=None) -> History:
    """Train everything in the scheme that can be trained; return what happened.

    seed: decides the order of the samples and dropout. (Weights have the seed of their model.)
    device: by default the one of `default_device()`.
    label: stands in front of the progress bar.
    checkpoint: a file, such as "run.safetensors", in which the state is kept after each epoch; all
        processes must see it. When it is there already, the training goes on from it: killed at any
        moment and started again, it ends with the same student, to the last bit on a CPU. A
        finished training returns at once. One of another scheme, data, recipe, seed, precision,
        torch version or number of threads is refused.

    Under `torchrun` or `accelerate launch` each process computes its share of every batch. For
    per-sample losses on networks without batch statistics the gradient is that of one process;
    relations and batch normalisation see the share. Losses and accuracies in the history are those
    of all processes; the first writes the checkpoint. A stream is not shared out again: every
    process reads its part with a loader of its own (see `kdcourse.streams`).

    Ctrl-C ends the training and returns the history so far, with `interrupted=True`. The student
    keeps what it has learned. The global random generator is left as it was.

    Raises `ValueError` when data, recipe and scheme do not fit together, `FloatingPointError` at
    the end of the epoch in which the loss became NaN or inf, with the first bad step (the
    checkpoint of the epoch before stays), and `MemoryError` that says what to lower.

    >>> from kdcourse import data, models, schemes
    >>> scheme = schemes.Supervised(models.mlp(hidden=(32,)))
    >>> len(fit(scheme, data.glyphs(train=256, val=72, test=72), Recipe(epochs=2), seed=0))
    2
    """
    recipe = recipe or Recipe()
    team = _Team(sharded=isinstance(data.train, Stream))
    device = torch.device(device) if device is not None else default_device()
    size, steps = team.plan(data.train, recipe.batch, device)
    epochs = recipe.epochs
    if _files.smoke():
        steps, epochs = min(steps, 2), 1
        print("KDCOURSE_SMOKE=1: fit makes two steps only; the numbers mean nothing.")
    scheme.check(data)
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
                last = epoch + 1 == epochs
                due = last or (epoch + 1) % recipe.validate_every == 0
                row["val_accuracy"] = _accuracy(scheme.student, val, team) if due else None
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
    return history


class _Run:
    """What stands around the loop: optimiser, schedule, precision, processes, checkpoint.

    As a context it draws dropout and the like from the seed and, where a checkpoint was found, puts
    everything back; at the end the student of the best epoch returns and nothing stays compiled.
    """

    def __init__(self, scheme, data, recipe, seed, device, team, checkpoint):
        self.scheme, self.recipe, self.seed, self.device = scheme, recipe, seed, device
        self.team, self.classes = team, len(data.classes)
        self.checkpoint = Path(checkpoint) if checkpoint is not None else None
        self.best = self.header = None
        if self.checkpoint:
            self.settings = {
                "scheme": repr(scheme), "data": repr(data), "recipe": repr(recipe), "seed": seed,
                "torch": torch.__version__, "threads": torch.get_num_threads(),
                "device": device.type, "processes": team.size, "smoke": _files.smoke(),
            }

    def start(self, first: Batch, steps: int, epochs: int) -> History:
        """Make optimiser and schedule; return the history so far: of a checkpoint, or empty."""
        recipe, history = self.recipe, History(device=str(self.device))
        if self.checkpoint and self.checkpoint.exists():
            self.header, self.tensors = _checkpoint.load(self.checkpoint, self.settings)
            history = History(**self.header["progress"]["history"])
        else:
            history.precision, history.channels_last = _fastest(
                self.scheme, first, recipe, self.device, self.team)
        self.history = history
        format = torch.channels_last if history.channels_last else torch.contiguous_format
        self.scheme.to(memory_format=format)
        self.trained = [p for p in self.scheme.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.trained, recipe, self.device)
        self.schedule = _schedule(self.optimizer, recipe, max(2, epochs * steps))
        self.autocast = torch.autocast(self.device.type, torch.bfloat16,
                                       enabled=history.precision == "bf16")
        self.model = self.team.wrap(self.scheme, self.device)
        if recipe.compile:
            self.model.compile()
        self.optimizer.zero_grad()  # whatever an earlier training or the caller left there
        return history

    def parts(self, batch: Batch):
        """This process's share of a batch, cut as the recipe says; each part with its weight."""
        mine, recipe = self.team.share(batch), self.recipe
        if recipe.label_smoothing:
            soft = mine.y if mine.y.ndim == 2 else F.one_hot(mine.y, self.classes).float()
            smooth = soft.lerp(torch.full_like(soft, 1 / soft.shape[1]), recipe.label_smoothing)
            mine = dataclasses.replace(mine, y=smooth)
        pieces = [mine] if recipe.accumulate == 1 else mine.split(recipe.accumulate)
        for piece in pieces:
            whole = piece is pieces[-1] or self.team.size == 1
            with contextlib.nullcontext() if whole else self.model.no_sync():
                # The mean over the processes of these weighted means is the mean over the batch.
                yield piece, len(piece.x) * self.team.size / recipe.batch

    def finish_epoch(self) -> None:
        """Remember the best student, and write the checkpoint."""
        row, history = self.history.rows[-1], self.history
        if self.recipe.patience and row["val_accuracy"] is not None:
            best = max(r["val_accuracy"] for r in history.rows if r["val_accuracy"] is not None)
            earlier = [r["val_accuracy"] for r in history.rows[:-1]]
            if row["val_accuracy"] == best and best not in earlier:
                history.best = row["epoch"]
                self.best = {name: value.clone() if isinstance(value, torch.Tensor) else value
                             for name, value in self.scheme.student.state_dict().items()}
        if self.checkpoint and self.team.rank == 0:
            progress = {"history": history.to_dict(), "schedule": self.schedule.state_dict()}
            _checkpoint.save(self.checkpoint, self.scheme, self.optimizer, self.best, progress,
                             self.settings)

    @property
    def over(self) -> bool:
        """True when validation has not improved for as long as the recipe is patient."""
        if self.recipe.patience is None or self.history.best is None:
            return False
        looks = [row["epoch"] for row in self.history.rows if row["val_accuracy"] is not None]
        return sum(epoch > self.history.best for epoch in looks) >= self.recipe.patience

    def __enter__(self):
        self._seeded = _seeded(self.seed, self.device)
        self._seeded.__enter__()
        if self.header:
            self.best = _checkpoint.restore(self.header, self.tensors, self.scheme, self.optimizer)
            self.schedule.load_state_dict(self.header["progress"]["schedule"])
            self.tensors = None
        return self

    def __exit__(self, kind, error, trace):
        self._seeded.__exit__(kind, error, trace)
        self.scheme._compiled_call_impl = None
        if self.best and kind in (None, KeyboardInterrupt):
            self.scheme.student.load_state_dict(self.best)
        if isinstance(error, FloatingPointError) and self.checkpoint and self.checkpoint.exists():
            error.add_note(f"{self.checkpoint} holds the state after epoch {len(self.history)}.")
        if isinstance(error, RuntimeError) and _out_of_memory(error):
            raise MemoryError(
                f"Expected a step of {self.recipe.batch} samples to fit into the memory of "
                f"{self.device}, but it is full. Lower Recipe(batch=…), raise Recipe(accumulate=…) "
                'to cut the batch into parts, or use precision="bf16".'
            ) from error


class _Team:
    """The processes that train together; nearly always one.

    sharded: whether each of them reads a part of the training data, not all of it.
    """

    def __init__(self, sharded: bool):
        self.sharded = sharded
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.distributed.is_initialized():
            default_device()  # accelerate meets the others
        self.size, self.rank = 1, 0
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.size, self.rank = torch.distributed.get_world_size(), torch.distributed.get_rank()

    def plan(self, train, batch: int, device) -> tuple[int, int]:
        """How many samples a batch of `train` holds in this process, and the steps per epoch."""
        if not self.sharded or self.size == 1:
            return batch, len(train) // batch
        train.check_parts()
        if batch % self.size:
            raise ValueError(f"Expected Recipe(batch=…) to be a multiple of the {self.size} "
                             f"processes, each with a loader of its own, got {batch}.")
        size = batch // self.size
        steps = torch.tensor(len(train) // size, device=device)
        return size, int(self.least(steps))  # who has more would wait for the others for ever

    def wrap(self, scheme, device):
        """The scheme, with gradients averaged over the processes."""
        if self.size == 1:
            return scheme
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(scheme, device_ids=ids)

    def share(self, batch: Batch) -> Batch:
        """The samples of a batch that this process computes."""
        if self.size == 1 or self.sharded:
            return batch
        if len(batch.x) < self.size:
            raise ValueError(f"Expected a batch of at least one sample for each of {self.size} "
                             f"processes, got {len(batch.x)}. Raise Recipe(batch=…).")
        return batch[self.rank::self.size]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def least(self, value: torch.Tensor) -> torch.Tensor:
        """The smallest over all processes."""
        if self.size > 1:
            torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MIN)
        return value


class _Log:
    """The loss and its parts in every step of an epoch, kept on the device until `close`, which is
    the one place that waits for it."""

    never = 2**40

    def __init__(self, team):
        self.team = team
        self._reset()

    def _reset(self):
        self.names, self.values, self.shares, self.steps, self.count = [], [], [], [], 0

    def add(self, outcome, share: float) -> None:
        """Note a part of a step, which counts for `share` of it."""
        self.names = ["loss", *outcome.parts]
        self.values.append(torch.stack(
            [outcome.loss.detach(), *(part.detach() for part in outcome.parts.values())]))
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
        names = self.names
        self._reset()
        if anywhere < self.never:
            parts = [name for name, value in zip(names, values[first or 0].tolist(), strict=True)
                     if name != "loss" and not math.isfinite(value)] if mine == anywhere else []
            raise FloatingPointError(
                f"The loss became NaN or inf at step {steps_before + anywhere + 1} "
                f"(part: {', '.join(parts) or 'the weighted sum'}). Lower Recipe(lr=…), set "
                "Recipe(clip=1.0), or look at the logits of that part."
            )
        return dict(zip(names, means.tolist(), strict=True))


def _fastest(scheme, batch, recipe, device, team) -> tuple[str, bool]:
    """Precision and channels_last: as the recipe says, or the fastest step of those it leaves open.

    Each candidate makes a few steps on a copy of the scheme; the fastest of them counts.
    """
    precisions = ("fp32", "bf16") if recipe.precision == "auto" else (recipe.precision,)
    layouts = (True, False) if recipe.channels_last == "auto" else (bool(recipe.channels_last),)
    candidates = list(itertools.product(precisions, layouts))
    if len(candidates) == 1 or _files.smoke():
        return candidates[0]
    seconds = torch.full((len(candidates),), math.inf, device=device)
    trials = []
    for precision, last in candidates:
        trial = copy.deepcopy(scheme).train()
        trial.to(memory_format=torch.channels_last if last else torch.contiguous_format)
        trials.append((trial, precision))
    with _seeded(0, device):
        for turn in range(7):  # interleaved, so that a busy moment hits all of them
            for number, (trial, precision) in enumerate(trials):
                start = time.perf_counter()
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    loss = trial(batch).loss
                loss.backward()
                float(loss.detach())  # wait for the device
                if turn > 1:
                    taken = time.perf_counter() - start
                    seconds[number] = min(taken, float(seconds[number]))
    return candidates[int(team.sum(seconds).argmin())]


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
        return recipe.optimizer(groups, recipe.lr)
    fused = device.type in ("cpu", "cuda")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)


def _schedule(optimizer, recipe, steps: int):
    if recipe.schedule == "one-cycle":
        momentum = {"betas", "momentum"} & optimizer.defaults.keys()
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.lr, steps, pct_start=recipe.warmup, cycle_momentum=bool(momentum))
    rising = recipe.warmup * steps

    def share(step):
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def _out_of_memory(error) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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


def _accuracy(model: nn.Module, split, team) -> float:
    """The share of right answers; each process counts its share of the samples."""
    if isinstance(split, Stream):
        parts = split.batches()
    else:
        mine = slice(team.rank, None, team.size)
        parts = [Split(split.x[mine], split.y[mine])]
    counts = torch.zeros(2, dtype=torch.int64, device=models.device_of(model))  # right, seen
    for part in parts:
        if len(part.x):
            labels = part.y if part.y.ndim == 1 else part.y.argmax(1)
            counts[0] += (models.predict(model, part.x).argmax(1) == labels).sum()
            counts[1] += len(labels)
    right, seen = team.sum(counts)
    return float(right.float() / seen)


def _bar(epochs: int, label: str, team, done: int):
    """One progress line; none where nobody watches (no terminal), and none left behind."""
    notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    # tqdm reads TQDM_DISABLE by itself in a terminal, but not in a notebook.
    disable = bool(os.environ.get("TQDM_DISABLE")) if notebook else None
    return tqdm(total=epochs, desc=label or "epochs", leave=False, unit="epoch", initial=done,
                disable=disable if team.rank == 0 else True)


def _summary(history: History) -> str:
    seen = [row["val_accuracy"] for row in history.rows if row["val_accuracy"] is not None]
    accuracy = f", validation {seen[-1]:.1%}" if seen else ""
    return f"loss {history.rows[-1]['loss']:.3f}{accuracy}"
