"""Laws that a learner's function must keep. A check passes silently or says what is wrong.

Each check raises `AssertionError` with a sentence: what was expected, what came, why it matters.
Shapes: B batch, K classes.
"""

import torch

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

    value = _scalar(fn(student, teacher, T))
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
    fn(student, teacher, T).backward()
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
        f"Expected a finite loss for logits of ±100, got {float(large)}. log(softmax(x)) rounds to "
        "log 0: use log_softmax."
    )
    large.backward()
    assert torch.isfinite(near.grad).all(), (
        "Expected a finite gradient for logits of ±100, got NaN. Work with log_softmax of both "
        "sides."
    )


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
