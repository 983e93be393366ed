"""Checks of a training step and of what is compared."""

import copy
import re

import torch
import torch.nn.functional as F

from kdcourse import _files
from kdcourse._random import generator, seeded
from kdcourse.checks.any_loss import PASSED, report_stub, require
from kdcourse.data import Batch, Stream
from kdcourse.losses import inputs
from kdcourse.losses import kd as soft_loss
from kdcourse.teachers import as_teacher


@report_stub()
def freezes_teacher(step) -> None:
    """Check a training step `step(student, teacher, x, y, optimizer)` that you wrote: afterwards
    the student has moved, and the teacher is exactly what it was, batch statistics included.

    The step is called three times on small random networks with batch normalisation and dropout,
    both in train mode. The optimiser holds the student's parameters.

    Raises `AssertionError` that says what moved. A stub is reported as not done yet.
    """
    _frozen(step)


def _frozen(step) -> None:
    rng = generator(0, "checks", "freezing")
    x, y = torch.rand(16, 1, 8, 8, generator=rng), torch.arange(16) % 4
    with seeded(0):
        teacher, student = (torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(),
            torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(216, 4)) for _ in range(2))
        before, start = (copy.deepcopy(net.state_dict()) for net in (teacher, student))
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        drops_out = []
        teacher.register_forward_hook(lambda module, *_: drops_out.append(module[4].training))
        for _ in range(3):
            step(student.train(), teacher.train(), x, y, optimizer)
    require(drops_out, "Expected the step to call the teacher, but it was never called.")
    for name, now in teacher.named_buffers():
        require(now.equal(before[name]), (
            f"Expected the teacher to stay as it was, but its batch statistics moved ({name}): it "
            "was in train mode, and no_grad does not stop that. Call teacher.eval() first."))
    for name, now in teacher.named_parameters():
        require(now.equal(before[name]), (
            f"Expected the teacher to stay as it was, but its weights moved ({name}). Give the "
            "optimiser the student's parameters only."))
    require(not any(drops_out), (
        "Expected the teacher to give the same answer each time, but it changes its mind: dropout "
        "is on. Call teacher.eval() first."))
    require(not any(p.grad is not None and p.grad.any() for p in teacher.parameters()), (
        "Expected no gradient in the teacher, got one: memory and time for nothing. Call the "
        "teacher under torch.no_grad()."))
    require(not all(now.equal(start[name]) for name, now in student.named_parameters()), (
        "Expected the student to learn, but none of its weights moved. Are there backward() and "
        "optimizer.step()?"))


@report_stub()
def distillation_step(step, T: float = 4.0, alpha: float = 0.9) -> None:
    r"""Check a training step as `freezes_teacher` does, and that it moves the student down the
    gradient of `(1 - alpha) * CE + alpha * KD` at T, and no other.

    .. math:: L = (1-\alpha)\,\mathrm{CE}(y, q_1) + \alpha\,T^2\,\mathrm{KL}(p_T \,\|\, q_T)

    Hinton et al. 2015 (arXiv:1503.02531); CE is a mean over the batch, KL a sum over classes and a
    mean over the batch. `step` gets (student, teacher, x, y, optimizer): images [16, 1, 8, 8], four
    classes, float32 on the CPU (the step may use autocast). The student is in train mode and has a
    gradient left from before.

    T: temperature, above 0. alpha: the weight of the teacher's term, in [0, 1].

    Raises `ValueError` for T or alpha out of range, and `AssertionError` that names the mistake
    where it is a common one: no teacher in the loss, weights exchanged, no temperature or T², an
    old gradient that was added, eval mode. A stub is reported as not done yet.
    """
    inputs.check_share("alpha", alpha)
    inputs.check_temperature(T)
    _frozen(step)
    rng = generator(0, "checks", "step")
    x, y = torch.rand(16, 1, 8, 8, generator=rng), torch.arange(16) % 4
    with seeded(1):
        teacher, student = (torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(),
            torch.nn.Flatten(), torch.nn.Linear(216, 4)) for _ in range(2))
        with torch.no_grad():
            teacher[-1].weight.mul_(20)  # sure of its answers, as trained ones are
        right = copy.deepcopy(student)
        for parameter in student.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        step(student.train(), teacher.train(), x, y, torch.optim.SGD(student.parameters(), lr=0.1))
        moved = _flat(student) - _flat(right)
        with torch.no_grad():
            answers = teacher.eval()(x)

    def expected(soft, weight=alpha, train=True):
        net = copy.deepcopy(right).train(train)
        logits = net(x)
        loss = (1 - weight) * F.cross_entropy(logits, y) + weight * soft(logits)
        return -0.1 * torch.cat([g.flatten() for g in torch.autograd.grad(loss, net.parameters())])

    def at(T):
        return lambda logits: soft_loss(logits, answers, T=T)

    meant = (f"Expected a step down the gradient of (1 − {alpha:g}) × CE + {alpha:g} × KD at "
             f"T = {T:g}")
    wrong = {
        "one of the labels only: the teacher's output is not in the loss": expected(at(T), 0.0),
        "one of the labels' term alone: the teacher is called, but its term is not in the loss":
            expected(lambda logits: 0 * logits.sum()),
        "one with the weights exchanged: α is the teacher's": expected(at(T), 1 - alpha),
        "one without labels": expected(at(T), 1.0),
        "one at T = 1": expected(at(1.0)),
        "one without the factor T²": expected(lambda logits: at(T)(logits) / T**2),
        "that with the gradient of the batch before added: call optimizer.zero_grad()":
            expected(at(T)) - 0.05,
        "that of a student in eval mode": expected(at(T), train=False),
    }
    def close(other):  # up to the rounding of autocast in bfloat16, about 1 %
        return (moved - other).norm() < 0.04 * other.norm()

    if close(expected(at(T))):
        return
    for name, other in wrong.items():
        require(not close(other), f"{meant}, got {name}.")
    require(False, f"{meant}, got another one. Are both terms means over the batch?")


def _flat(net) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def same_budget(comparison, seeds: int = 5) -> None:
    """Check a `Comparison`: every arm on the same `seeds` or more, with the same data and the same
    recipe (learning rate and weight decay may differ: they are tuned for each arm).

    Raises `AssertionError` that names the arm.
    """
    seeds = min(seeds, 2) if _files.smoke() else seeds  # smoke mode runs two

    def budget(row):
        recipe = re.sub(r"\b(lr|weight_decay)=[^,)]+(, )?", "", row["recipe"])
        return recipe, row["data"], row["split"]

    arms = {arm: [row for row in comparison.rows if row["arm"] == arm] for arm in comparison.arms}
    for arm, rows in arms.items():
        require(len(rows) >= seeds, (
            f"Expected at least {seeds} seeds per arm, got {len(rows)} for {arm!r}. The spread "
            "between seeds is what a difference is measured against."))
    first, first_rows = next(iter(arms.items()))
    for arm, rows in arms.items():
        require({row["seed"] for row in rows} == {row["seed"] for row in first_rows}, (
            f"Expected the same seeds for {arm!r} as for {first!r}: pairs need both."))
        require({*map(budget, rows)} == {*map(budget, first_rows)}, (
            f"Expected the same budget for {arm!r} as for {first!r}, got another recipe, data "
            "or split. Then the difference may come from there."))
    print(PASSED)


def aligned(cached, data, teacher=None, samples: int = 64) -> None:
    """Check that stored answers belong to their samples, by computing a few of them again.

    cached: a `Cached` teacher.
    data: what a student is to be trained on with these answers.
    teacher: the one that gave the answers; needed when they were made from logits (`Cached.of`).
    samples: how many are compared in every view, spread over the training split; of a stream the
        first of an epoch.

    Raises `AssertionError` when an answer belongs to another sample, or to another teacher, and
    where only the largest logits are stored.
    """
    source = as_teacher(teacher) if teacher is not None else cached.source
    require(source is not None, (
        "Expected a teacher to compare with, got answers that were made from logits alone. Pass "
        "the teacher: aligned(cached, data, teacher)."))
    of_view = " in view {}" if "views" in cached.params else ""
    train = data.train.to("cpu")
    found = _by_id if isinstance(train, Stream) else _in_memory
    for batch, ids_N, stored_NK, places in found(cached, train, samples):
        right = source.predict(batch.x, batch.y).to(stored_NK)
        close = torch.isclose(stored_NK[places], right, rtol=1e-3, atol=1e-3).flatten(1).all(1)
        wrong = (~close).nonzero()[:, 0]
        if len(wrong):  # name the row that holds the right answer to the first wrong one
            distance, row = (stored_NK - right[wrong[0]]).abs().flatten(1).amax(1).min(0)
            sample = int(batch.index[wrong[0]])
            where = (f"the answer to sample {sample} lies in row {ids_N[row]}."
                     if distance < 1e-3 else
                     f"no row holds the teacher's answer to sample {sample}: was it another "
                     "teacher, or another augmentation?")
            raise AssertionError(
                f"Expected each stored answer to belong to its sample, but {len(wrong)} of "
                f"{len(places)} do not{of_view.format(batch.view)}; {where} Look answers up by the "
                "sample's index, never by its place in a shuffled batch.")
    print(PASSED)


def _in_memory(cached, train, samples: int):
    """Yield, for each view, samples spread over the split, and all rows of it: their ids, their
    answers, and the places of the samples among them."""
    augmented, N = "views" in cached.params, len(train)
    stored_VNK = cached.logits if augmented else cached.logits[None]
    require(stored_VNK.shape[1] == N, (
        f"Expected an answer for each of the {N} training samples, got {stored_VNK.shape[1]}. Make "
        "the cache from this data."))
    places = torch.linspace(0, N - 1, min(samples, N)).long()
    few = train[places]
    for view, stored_NK in enumerate(stored_VNK, start=1):
        few = train.at(places, view) if augmented else few
        yield Batch(few.x, few.y, places, view), torch.arange(N), stored_NK, places


def _by_id(cached, train, samples: int):
    """Yield, for each view, the first batches of a stream, with the same."""
    require(cached.top is None, (
        f"Expected all logits of each sample to compare, got {cached.top} of its classes. Leave "
        "top or draws out."))
    for view in range(cached.params.get("views", 1)):
        left = samples
        for batch in train.batches(None, 0, view):
            batch = batch[:left]
            yield batch, batch.index, cached(batch).logits, torch.arange(len(batch))
            left -= len(batch)
            if left <= 0:
                break
