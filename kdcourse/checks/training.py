"""Checks of a training step and of what is compared."""

import copy
import re

import torch

from kdcourse import _files
from kdcourse._random import generator, seeded
from kdcourse.checks.any_loss import require, stub
from kdcourse.teachers import as_teacher


def freezes_teacher(step) -> None:
    """Check a training step `step(student, teacher, x, y, optimizer)` that you wrote: afterwards
    the student has moved, and the teacher is exactly what it was, batch statistics included.

    The step is called three times on small random networks with batch normalisation and dropout;
    the teacher is handed over in train mode, as a careless caller would. The optimiser holds the
    student's parameters.

    Raises `AssertionError` that says what moved. A stub is reported as not done yet.
    """
    with stub():
        _freezing_laws(step)


def _freezing_laws(step) -> None:
    rng = generator(0, "checks", "freezing")
    x, y = torch.rand(16, 1, 8, 8, generator=rng), torch.arange(16) % 4

    def network():
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(),
            torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(216, 4))

    with seeded(0):
        teacher, student = network(), network()
        before = {key: value.clone() for key, value in teacher.state_dict().items()}
        start = [p.clone() for p in student.parameters()]
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        in_eval, frozen = [], copy.deepcopy(teacher).eval()

        def compare(module, args, kwargs, output):
            with torch.no_grad():  # the same inputs in the same precision, whatever they are
                in_eval.append(torch.allclose(output, frozen(*args, **kwargs), atol=1e-5))

        hook = teacher.register_forward_hook(compare, with_kwargs=True)
        for _ in range(3):
            step(student.train(), teacher.train(), x, y, optimizer)
        hook.remove()
    require(in_eval, "Expected the teacher to be asked, but it was never called.")
    moved = [key for key, value in teacher.state_dict().items() if not value.equal(before[key])]
    for key in moved:
        require("running" not in key and "num_batches" not in key, (
            f"Expected the teacher to stay as it was, but its batch statistics moved ({key}): it "
            "was in train mode, and no_grad does not stop that. Call teacher.eval() first."))
    require(not moved, (
        f"Expected the teacher to stay as it was, but its weights moved ({', '.join(moved[:1])}). "
        "Give the optimiser the student's parameters only."))
    require(all(in_eval), (
        "Expected the teacher to give the same answer each time, but it changes its mind: dropout "
        "is on. Call teacher.eval() first."))
    require(not any(p.grad is not None and p.grad.any() for p in teacher.parameters()), (
        "Expected no gradient in the teacher, got one: memory and time for nothing. Ask the "
        "teacher under torch.no_grad()."))
    require(not all(p.equal(old) for p, old in zip(student.parameters(), start, strict=True)), (
        "Expected the student to learn, but none of its weights moved. Are there backward() and "
        "optimizer.step()?"))


def same_budget(comparison, seeds: int = 5) -> None:
    """Check a `Comparison`: every arm on the same `seeds` or more, with the same data and the same
    recipe (the learning rate may differ: it is tuned for each arm).

    Raises `AssertionError` that names the arm.
    """
    seeds = min(seeds, 2) if _files.smoke() else seeds  # smoke mode runs two

    def budget(row):
        return re.sub(r"lr=[^,]+", "lr", row["recipe"]), row["data"], row["split"]

    arms = {arm: [row for row in comparison.rows if row["arm"] == arm] for arm in comparison.arms}
    first, its_rows = next(iter(arms.items()))
    for arm, rows in arms.items():
        require(len(rows) >= seeds, (
            f"Expected at least {seeds} seeds per arm, got {len(rows)} for {arm!r}. The spread "
            "between seeds is what a difference is measured against."))
    for arm, rows in arms.items():
        require({row["seed"] for row in rows} == {row["seed"] for row in its_rows}, (
            f"Expected the same seeds for {arm!r} as for {first!r}: pairs need both."))
        require({*map(budget, rows)} == {*map(budget, its_rows)}, (
            f"Expected the same budget for {arm!r} as for {first!r}, got another recipe, data "
            "or split. Then the difference may come from there."))


def aligned(cached, data, teacher=None, samples: int = 64) -> None:
    """Check that stored answers belong to their samples: the teacher is asked again for a few.

    cached: a `Cached` teacher.
    data: what a student is to be trained on with these answers.
    teacher: who gave them; needed when the cache was made from logits (`Cached.of`).
    samples: so many are asked, spread over the training split (and over the views).

    Raises `AssertionError` when an answer belongs to another sample, or to another teacher.
    """
    source = as_teacher(teacher) if teacher is not None else cached.source
    require(source is not None, (
        "Expected a teacher to ask again, got answers that were made from logits alone. Pass the "
        "teacher: aligned(cached, data, teacher)."))
    stored = cached.logits if cached.logits.ndim == 3 else cached.logits[None]
    require(stored.shape[1] == len(data.train), (
        f"Expected an answer for each of the {len(data.train)} training samples, got "
        f"{stored.shape[1]}. Make the cache from this data."))
    places = torch.linspace(0, len(data.train) - 1, min(samples, len(data.train))).long()
    train = data.train.to("cpu")
    for view, answers in enumerate(stored):
        x = train.seen(places, view + 1) if len(stored) > 1 else train.x[places]
        again = source.predict(x, train.y[places]).to(answers)
        close = torch.isclose(answers[places], again, rtol=1e-3, atol=1e-3).all(1)
        if close.all():
            continue
        # find the row where the right answer lies
        wrong = int((~close).nonzero()[0, 0])
        distance = (answers - again[wrong]).abs().amax(1)
        found = int(distance.argmin())
        where = (f"the answer to sample {int(places[wrong])} lies in row {found}"
                 if distance[found] < 1e-3 else "no row holds the teacher's answer to sample "
                 f"{int(places[wrong])}: was it another teacher, or another augmentation?")
        raise AssertionError(
            f"Expected each stored answer to belong to its sample, but {int((~close).sum())} of "
            f"{len(places)} do not{f' in view {view + 1}' if len(stored) > 1 else ''}; {where}. "
            "Look answers up by the sample's index, never by its place in a shuffled batch.")
