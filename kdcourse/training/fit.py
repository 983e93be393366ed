"""The training loop, for every scheme."""

import contextlib
import dataclasses
import itertools
import operator
import time
import warnings
from collections.abc import Callable

import torch

from kdcourse import _files
from kdcourse._key import key_of, stamp
from kdcourse._machine import default_device, progress
from kdcourse._random import generator, seeded
from kdcourse.data import Batch, Dataset, Stream, check_dataset
from kdcourse.data.dataset import shortened
from kdcourse.schemes import Outcome, Scheme, check_scheme
from kdcourse.taps import device_of, predict
from kdcourse.training.checkpoint import Best, Checkpoint
from kdcourse.training.history import History, Log
from kdcourse.training.optim import Optimisers
from kdcourse.training.processes import Team
from kdcourse.training.recipe import Recipe, as_recipe
from kdcourse.training.step import make_step


@dataclasses.dataclass(frozen=True)
class Step:
    """The argument of `on_step`: gradients are in `.grad`, the optimisers have not stepped yet.

    number: of the step in the training, from 0. batch, outcome: of the last micro-batch.
    """

    number: int
    scheme: Scheme
    batch: Batch
    outcome: Outcome


def fit(scheme: Scheme, data: Dataset, recipe: Recipe | None = None, seed: int = 0, device=None,
        label: str = "", checkpoint=None, on_step: Callable[[Step], dict | None] | None = None,
        on_epoch: Callable[[dict], None] | None = None) -> History:
    """Train everything in the scheme that can be trained; return the history.

    seed: of the order of the samples and of dropout. (Weights have the seed of their model.)
    device: by default `kd.default_device()`.
    label: prefix of the progress bar.
    checkpoint: a file, such as "run.safetensors", that keeps the state after each epoch; all
        processes must see it. Where it exists, the training goes on from it, whatever the weights
        are now: killed at any moment and started again, it ends with the same student, to the last
        bit on a CPU, and on a GPU with PyTorch's deterministic algorithms; else to rounding. A
        finished training returns at once, so every training needs a file of its own:
        one of another scheme, data, recipe, seed, torch version or number of threads is refused.
    on_step: called in every step with a `Step`, before gradients are clipped. It may return scalars
        by name (best as tensors on the device, so that nothing waits for them), which become
        columns of the history, as means over the epoch.
    on_epoch: called after every epoch with its row of the history: for loggers.

    What was frozen stays frozen: in a student in train mode, a module in eval mode stays in eval
    mode, and so does batch normalisation whose parameters are all frozen (`requires_grad_(False)`;
    without parameters, those of the module around it), so that running statistics do not move. A
    student in eval mode as a whole is trained in train mode. The same holds for `scheme.train()`.

    Under `torchrun` or `accelerate launch` each process computes its share of every batch. For
    per-sample losses on networks without batch statistics the gradient is that of one process;
    relations and batch normalisation see the share. Losses and accuracies in the history are those
    of all processes; the first writes the checkpoint. A stream is not divided: every process reads
    its part with a loader of its own (see `kdcourse.data.from_loaders`).

    Ctrl-C ends the training and returns the history so far, with `interrupted=True`; the student
    keeps its weights of that moment. The global random generator is left as it was.

    Raises `ValueError` when data, recipe and scheme do not fit together, `FloatingPointError` at
    the end of the epoch in which the loss or the weights became NaN or inf, with the first bad step
    (the checkpoint of the epoch before stays), and `MemoryError` that says what to lower.

    >>> from kdcourse import data, models, schemes
    >>> scheme = schemes.Supervised(models.mlp(hidden=(32,)))
    >>> len(fit(scheme, data.glyphs(train=256, val=72, test=72), Recipe(epochs=2), seed=0))
    2
    """
    check_scheme(scheme)
    check_dataset(data)
    recipe, seed = as_recipe(recipe), operator.index(seed)
    device = torch.device(device) if device is not None else default_device()
    team = Team(sharded=isinstance(data.train, Stream))
    size, steps = team.plan(data.train, recipe.batch, device)
    epochs = recipe.epochs
    if _files.smoke():
        steps, epochs = min(steps, 2), 1
        print("KDCOURSE_SMOKE=1: fit makes two steps only; the numbers mean nothing.")
    if recipe.patience and getattr(data.val, "first", data.val).y is None:
        raise ValueError("Expected labels to validate with, for Recipe(patience=…), got none. "
                         "Leave patience out.")
    scheme.check(data)
    if recipe.patience and not scheme.scored:
        raise ValueError("Expected a student with an output for each class, for Recipe(patience=…),"
                         " got one without. Leave patience out.")
    origin = _origin(scheme, data, recipe, seed)
    train, val = data.train.to(device), data.val.to(device)
    scheme.to(device)
    first = next(train.batches(size, seed))
    with enough_memory(recipe, device):
        scheme.build(first[:4], seed)
    file = Checkpoint(checkpoint, scheme, data, recipe, seed, team, device)
    lay_out(scheme, recipe.channels_last)
    optimisers = Optimisers(scheme, recipe, device, max(2, epochs * steps))
    model = team.wrap(scheme, device, team.share(first).split(recipe.accumulate)[0])
    if recipe.compile:
        model = torch.compile(model)
    step = make_step(scheme, model, team, recipe, device, on_step)
    history, log = file.history(), Log(team)
    best = Best(scheme, recipe, history)

    try:
        with (enough_memory(recipe, device), progress(
                epochs, label or "epochs", "epoch", len(history), off=team.rank > 0) as bar,
              seeded(generator(seed, "training").initial_seed(), device)):
            best.state = file.restore(optimisers)
            for epoch in range(len(history), epochs if not best.over else 0):
                start = time.perf_counter()
                scheme.train()
                batches = itertools.islice(train.batches(size, seed, epoch), steps)
                for number, batch in enumerate(batches, epoch * steps):
                    part, outcome = step(number, batch, log)
                    if on_step and (notes := on_step(Step(number, scheme, part, outcome))):
                        log.note(notes)
                    optimisers.step(number)
                    scheme.after_step()  # nothing in this loop synchronises with the device
                row, history.step = {"epoch": epoch + 1} | log.close(), step.name
                _check_weights(optimisers.parameters, epoch + 1)
                team.same(scheme)
                due = epoch + 1 == epochs or (epoch + 1) % recipe.validate_every == 0
                row[data.task.column] = _score(scheme, val, team, recipe) if due else None
                row["seconds"] = time.perf_counter() - start
                history.rows.append(row)
                best.note()
                file.save(history, optimisers, best.state)
                if on_epoch:
                    on_epoch(row)
                bar.set_postfix_str(history.summary())
                bar.update()
                if best.over:
                    break
    except KeyboardInterrupt:
        history.interrupted, origin = True, None
        print(f"Stopped by hand after {len(history)} of {epochs} epochs; here is the history.")
    except FloatingPointError as error:
        best.put_back()
        if file.path and file.path.exists():
            error.add_note(f"{file.path} holds the state after epoch {len(history)}.")
        raise
    best.put_back()
    for number, student in enumerate(scheme.students):
        stamp(student, [*origin, number] if origin else None)
    if scheme.judged is not scheme.student:
        stamp(scheme.judged, [*origin, "average"] if origin else None)
    return history


def _origin(scheme, data, recipe, seed: int) -> list | None:
    """Give the key of this training, by which its students are known later; None without one."""
    try:
        key = key_of([scheme, data, recipe, seed])
    except ValueError:
        return None
    return ["trained", key.exact, key.bits]


def lay_out(scheme: Scheme, channels_last: bool) -> None:
    """Store images and kernels, those of teachers too, with channels innermost or outermost.

    Outermost in any case where a layer overruns its memory otherwise (see `_overruns`)."""
    innermost = channels_last and not any(map(_overruns, scheme.modules()))
    layout = torch.channels_last if innermost else torch.contiguous_format
    for tensor in (*scheme.parameters(), *scheme.buffers()):
        if tensor.ndim == 4:  # scheme.to(memory_format=…) fails where there is one with five
            tensor.data = tensor.data.to(memory_format=layout)


def _overruns(module) -> bool:
    """Tell whether this is a layer whose backward pass writes past the end of a buffer, on CPUs
    with AVX2 and without AVX-512, with channels innermost (torch 2.15, oneDNN 3.13): a convolution
    of 1x1 with a stride, of fewer than 8 channels. Sooner or later the process crashes."""
    return (isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1)
            and module.stride != (1, 1) and module.in_channels < 8 * module.groups)


def out_of_memory(error: RuntimeError) -> bool:
    """Tell whether the error is one of a full memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextlib.contextmanager
def enough_memory(recipe: Recipe, device: torch.device):
    """Turn the error of a full memory into a `MemoryError` that says what to lower."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise MemoryError(
            f"Expected a step of {recipe.batch} samples to fit into the memory of {device}, but it "
            "is full. Lower Recipe(batch=…), raise Recipe(accumulate=…) to cut the batch into "
            'parts, or use precision="bf16".') from error


def _check_weights(parameters, epoch: int) -> None:
    """Raise `FloatingPointError` for weights that are not finite although every loss was."""
    if not torch.stack([p.detach().isfinite().all() for p in parameters]).all():
        raise FloatingPointError(
            f"The weights became NaN or inf in the last step of epoch {epoch}, in which the "
            "loss was still finite: its gradient was not. Lower Recipe(lr=…), and look for a "
            "square root, a logarithm or a division at 0 in the loss.")


def _score(scheme: Scheme, split, team: Team, recipe: Recipe) -> float | None:
    """Compute the task's score, such as the accuracy, of the network that is judged; each process
    its share of the samples. None without labels or logits, and with a warning where no row has a
    label, as in a stream."""
    if not scheme.scored:
        return None
    model = scheme.judged
    # Without gradients no activations are kept, so more samples fit than in a training step.
    size, total = min(500, 4 * -(-recipe.batch // recipe.accumulate)), None
    mine = split if isinstance(split, Stream) else shortened(split)[team.rank :: team.size]
    idle = not isinstance(split, Stream) and not len(mine)  # more processes than samples
    for part in (split[:1] if idle else mine).batches(size):
        if part.y is None:
            return None
        sums = part.task.sums(part.task.rows(predict(model, part.x, size), part.x, part.y))
        total = sums * (not idle) if total is None else total + sums
    total = team.sum(total.to(device_of(model)) if team.size > 1 else total)
    if split.task.ignore is not None and not total[-1].any():  # the number of rows
        warnings.warn(f"No row of the validation has a label ({split.task!r}), so there is no "
                      "score.", stacklevel=3)
        return None
    return split.task.score(total)
