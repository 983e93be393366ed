"""Laws that a learner's function must keep. A check passes silently or says what is wrong.

Each check raises `AssertionError` with a sentence: what was expected, what came, why it matters.
Shapes: B batch, K classes.
"""

import torch

from kdcourse import _files
from kdcourse.data import generator


def distillation_loss(fn, T: float = 4.0) -> None:
    """Check a distillation loss `fn(student, teacher, T)` on logits [B, K] against the laws of
    Hinton's loss: T² times the KL divergence, summed over classes, averaged over samples.

    Raises `AssertionError` that names the first law it breaks: swapped arguments, probabilities
    taken for logits, mean over classes, missing T², not 0 at equality, a gradient that reaches the
    teacher, overflow at large logits. A stub that raises `NotImplementedError` is reported as not
    done yet, and nothing is raised.

    >>> from kdcourse.losses import kd
    >>> distillation_loss(kd)
    >>> distillation_loss(lambda s, t, T: kd(s, t, T) / s.shape[1])
    Traceback (most recent call last):
        ...
    AssertionError: ...divided by the number of classes...
    """
    with _stub() as stub:
        _distillation_laws(fn, T)
    if stub.not_done:
        print("Not done yet: your function raises NotImplementedError.")


def _distillation_laws(fn, T: float) -> None:
    rng = generator(0, "checks")
    student = (2 * torch.randn(8, 10, generator=rng)).double()
    teacher = (2 * torch.randn(8, 10, generator=rng)).double()

    handed = student.clone(), teacher.clone()
    value = _scalar(fn(*handed, T))
    assert all(map(torch.equal, handed, (student, teacher))), (
        "Expected the logits to stay as they were handed over, but your function changed them in "
        "place. Write student / T, not student /= T."
    )
    right = _by_loops(student, teacher, T)
    close = lambda other: abs(value - other) <= 1e-5 * abs(other)  # noqa: E731
    other_laws = {
        "it is divided by the number of classes: nn.KLDivLoss() and F.kl_div average over every "
        'entry by default. Use reduction="batchmean"': right / student.shape[1],
        "T² is missing: the soft part's gradient shrinks as 1/T², so it loses to the labels. "
        "Multiply by T**2": right / T**2,
        "T² is missing and it is divided by the number of classes. Multiply by T**2 and use "
        'reduction="batchmean"': right / T**2 / student.shape[1],
        "it is summed over the batch: the step would grow with the batch. Average over samples":
            right * len(student),
        "student and teacher are swapped: this is the reverse divergence, KL(student || teacher)":
            _by_loops(teacher, student, T),
        "the logits are multiplied by T, not divided": _by_loops(student * T**2, teacher * T**2, T),
        "the temperature softens the teacher only. Divide both logits by T":
            _by_loops(student * T, teacher, T),
        "the temperature softens the student only. Divide both logits by T":
            _by_loops(student, teacher * T, T),
    }
    assert value >= 0, (
        f"Expected a loss of at least 0, got {value:.4f}. A divergence is never negative: F.kl_div "
        "wants log-probabilities of the student first (log_softmax), then probabilities of the "
        "teacher (softmax)."
    )
    for reason, wrong in other_laws.items():
        assert close(right) or not close(wrong), (
            f"Expected {right:.4f}, got {value:.4f}: {reason}.")

    equal = _scalar(fn(student, student.clone(), T))
    entropy = -(student / T).softmax(1).mul((student / T).log_softmax(1)).sum(1).mean()
    assert abs(equal - T**2 * float(entropy)) > 1e-6, (
        f"Expected 0 where student and teacher agree, got {equal:.4f}, T² times the teacher's "
        "entropy: this is the cross-entropy with soft targets. Its gradient is right; subtract the "
        "entropy (or use the KL divergence) so that 0 means agreement."
    )
    assert abs(equal) < 1e-6, (
        f"Expected 0 where student and teacher agree, got {equal:.4f}. Are both put through the "
        "same temperature and softmax?"
    )
    assert close(right), (
        f"Expected {right:.4f}, got {value:.4f}. Compare with T² Σ p log(p / q), summed over "
        "classes and averaged over samples, p and q the softmax of logits / T."
    )

    student.requires_grad_(), teacher.requires_grad_()
    loss = fn(student, teacher, T)
    if loss.requires_grad:
        loss.backward()
    assert student.grad is not None and student.grad.abs().max() > 0, (
        "Expected a gradient for the student, got none. Is there a .detach() or .item() too many?")
    assert teacher.grad is None or teacher.grad.abs().max() == 0, (
        "Expected no gradient for the teacher, got one: the teacher would be pulled towards the "
        "student. Call teacher.detach()."
    )

    far = torch.full((2, 10), -100.0)
    far[:, 0] = 100.0
    near = far.roll(1, 1).requires_grad_()
    large = fn(near, far, 1.0)
    assert torch.isfinite(large), (
        f"Expected a finite loss for logits of ±100, got {large.item()}. log(softmax(x)) rounds to "
        "log 0: use log_softmax."
    )
    large.backward()
    assert torch.isfinite(near.grad).all(), (
        "Expected a finite gradient for logits of ±100, got NaN. Work with log_softmax of both "
        "sides."
    )


def freezes_teacher(step) -> None:
    """Check a training step `step(student, teacher, x, y, optimizer)` that you wrote: afterwards
    the student has moved, and the teacher is exactly what it was, batch statistics included.

    The step is called three times on small random networks with batch normalisation and dropout;
    the teacher is handed over in train mode, as a careless caller would. The optimiser holds the
    student's parameters.

    Raises `AssertionError` that says what moved. A stub is reported as not done yet.
    """
    with _stub() as stub:
        _freezing_laws(step)
    if stub.not_done:
        print("Not done yet: your function raises NotImplementedError.")


def _freezing_laws(step) -> None:
    rng = generator(0, "checks", "freezing")
    x, y = torch.rand(16, 1, 8, 8, generator=rng), torch.arange(16) % 4

    def network():
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(),
            torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(216, 4))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher, student = network(), network()
        before = {key: value.clone() for key, value in teacher.state_dict().items()}
        start = [p.clone() for p in student.parameters()]
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        seen = []
        hook = teacher.register_forward_hook(lambda *call: seen.append(call[2].detach().clone()))
        for _ in range(3):
            step(student.train(), teacher.train(), x, y, optimizer)
        hook.remove()
    assert seen, "Expected the teacher to be asked, but it was never called."
    moved = [key for key, value in teacher.state_dict().items() if not value.equal(before[key])]
    statistics = [key for key in moved if "running" in key or "num_batches" in key]
    assert not statistics, (
        f"Expected the teacher to stay as it was, but its batch statistics moved ({statistics[0]}):"
        " it was in train mode, and no_grad does not stop that. Call teacher.eval() first."
    )
    assert not moved, (
        f"Expected the teacher to stay as it was, but its weights moved ({moved[0]}). Give the "
        "optimiser the student's parameters only."
    )
    assert all(answer.equal(seen[0]) for answer in seen), (
        "Expected the teacher to give the same answer each time, but it changes its mind: dropout "
        "is on. Call teacher.eval() first."
    )
    assert all(p.grad is None or not p.grad.any() for p in teacher.parameters()), (
        "Expected no gradient in the teacher, got one: memory and time for nothing. Ask the "
        "teacher under torch.no_grad()."
    )
    assert any(not p.equal(old) for p, old in zip(student.parameters(), start, strict=True)), (
        "Expected the student to learn, but none of its weights moved. Are there backward() and "
        "optimizer.step()?"
    )


def same_budget(comparison, seeds: int = 5) -> None:
    """Check a `Comparison`: every arm on the same `seeds` or more, with the same data and the same
    recipe (the learning rate may differ: it is tuned for each arm).

    Raises `AssertionError` that names the arm.
    """
    import re

    seeds = min(seeds, 2) if _files.smoke() else seeds  # smoke mode runs two

    def budget(row):
        return re.sub(r"lr=[^,]+", "lr", row["recipe"]), row["data"], row["split"]

    arms = {arm: [row for row in comparison.rows if row["arm"] == arm] for arm in comparison.arms}
    first, *others = arms.items()
    for arm, rows in arms.items():
        assert len(rows) >= seeds, (
            f"Expected at least {seeds} seeds per arm, got {len(rows)} for {arm!r}. The spread "
            "between seeds is what a difference is measured against."
        )
    for arm, rows in others:
        assert {row["seed"] for row in rows} == {row["seed"] for row in first[1]}, (
            f"Expected the same seeds for {arm!r} as for {first[0]!r}: pairs need both.")
        assert {*map(budget, rows)} == {*map(budget, first[1])}, (
            f"Expected the same budget for {arm!r} as for {first[0]!r}, got another recipe, data "
            "or split. Then the difference may come from there.")


def _by_loops(student, teacher, T) -> float:
    """T² KL(p || q) written out: float64, a loop over samples and classes."""
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = _softmax(t, T), _softmax(s, T)
        total += sum(T**2 * a * (torch.tensor(a).double().log() - torch.tensor(b).double().log())
                     for a, b in zip(p, q, strict=True) if a > 0)
    return float(total) / len(student)


def _softmax(logits, T) -> list[float]:
    import math

    shift = max(logits)
    powers = [math.exp((x - shift) / T) for x in logits]
    return [power / sum(powers) for power in powers]


def _scalar(value) -> float:
    assert isinstance(value, torch.Tensor) and value.numel() == 1, (
        f"Expected one number (a tensor without dimensions), got "
        f"{list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__}. "
        "Sum over the classes, then average over the samples."
    )
    return float(value)


class _stub:
    """Turns the NotImplementedError of an unfinished exercise into a flag."""

    not_done = False

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.not_done = kind is not None and issubclass(kind, NotImplementedError)
        return self.not_done
