"""Checks for any loss that compares a student with a teacher."""

import contextlib

import torch

from kdcourse._random import generator


@contextlib.contextmanager
def stub():
    """Report a function that still raises NotImplementedError, and go on."""
    try:
        yield
    except NotImplementedError:
        print("Not done yet: your function raises NotImplementedError.")


def require(holds, sentence: str) -> None:
    """Raise `AssertionError` with the sentence unless it holds."""
    if not holds:
        raise AssertionError(sentence)


def student_only_gradient(fn, student=None, teacher=None) -> None:
    """Check that a loss `fn(student, teacher)` trains the student and never the teacher.

    student, teacher: tensors to try it on, by default logits [8, 10]; for a loss on features pass
        features. They are copied.

    Raises `AssertionError` when the result is not one number, when no gradient reaches the student
    (or NaN does), and when one reaches the teacher. A stub is reported as not done yet.

    >>> from kdcourse.losses import kd
    >>> student_only_gradient(kd)
    >>> student_only_gradient(lambda student, teacher: (student - teacher).square().mean())
    Traceback (most recent call last):
        ...
    AssertionError: Expected no gradient for the teacher, got one: ...
    """
    with stub():
        rng = generator(0, "checks", "gradient")
        given = [2 * torch.randn(8, 10, generator=rng) if x is None else x for x in
                 (student, teacher)]
        for sentence in gradients(fn, *given)[2].values():
            raise AssertionError(sentence)


def same_loss(fn, reference, student=(8, 10), teacher=None, draws: int = 3) -> None:
    """Check a loss that you wrote against a function that is known to be right, on random inputs.

    fn, reference: functions of (student, teacher). Fill in other arguments with a lambda or
        `functools.partial`, and a `reduction` too, so that both return one number.
    student, teacher: shapes of the inputs, such as (8, 16, 7, 7); the teacher's is the student's
        unless given. A list of shapes makes a list of tensors.

    Raises `AssertionError` for another value (a constant factor is named), another gradient, a
    gradient that reaches the teacher, and inputs that were changed. A stub is reported as not done
    yet.

    >>> from kdcourse.losses import rkd_distance
    >>> same_loss(rkd_distance, rkd_distance, (6, 8), (6, 32))
    >>> same_loss(lambda s, t: 2 * rkd_distance(s, t), rkd_distance, (6, 8), (6, 32))
    Traceback (most recent call last):
        ...
    AssertionError: Expected ...: it is 2 times that, whatever the input. ...
    """
    with stub():
        rng, values, distances = generator(0, "checks", "same loss"), [], []
        for _ in range(draws):
            given = [_draw(shape, rng) for shape in (student, teacher or student)]
            value, gradient, wrong = gradients(fn, *given)
            for sentence in wrong.values():
                raise AssertionError(sentence)
            right, expected, _ = gradients(reference, *given)
            values.append((value, right))
            distances.append((gradient - expected).norm() / expected.norm().clamp(min=1e-12))
        for value, right in values:
            if abs(value - right) <= 1e-4 * abs(right):
                continue
            factors = [value / right if right else float("nan") for value, right in values]
            constant = max(factors) - min(factors) <= 1e-3 * abs(factors[0])
            raise AssertionError(
                f"Expected {right:.5g}, got {value:.5g}" + (
                    f": it is {factors[0]:.4g} times that, whatever the input. Is it summed where "
                    "the mean belongs, averaged where the sum does, or a factor forgotten?"
                    if constant else ", and not by a constant factor. Take the formula step by "
                    "step, on an input that is small enough for paper."))
        require(max(distances) < 1e-3,
                "Expected the gradient of the formula, got another, although the value is right. "
                "Is a part of what depends on the student detached?")


def _draw(shape, rng):
    if isinstance(shape, list):
        return [_draw(one, rng) for one in shape]
    return torch.randn(*shape, generator=rng)


def gradients(fn, student, teacher, *more) -> tuple[float, torch.Tensor, dict[str, str]]:
    """Give the value of `fn(student, teacher, *more)`, the student's gradient as one vector, and
    what is wrong: sentences by "one number", "in place", "student gradient", "teacher gradient".

    student, teacher: a tensor or a list of tensors each; they are copied.
    """
    given = [side if isinstance(side, list) else [side] for side in (student, teacher)]
    leaves = [[x.detach().clone().requires_grad_() for x in side] for side in given]
    # Handed over as copies: an in-place operation on a leaf would stop with torch's own words.
    handed = [[x.clone() for x in side] for side in leaves]
    loss = fn(*(side if isinstance(whole, list) else side[0]
                for side, whole in zip(handed, (student, teacher), strict=True)), *more)
    if sentence := no_number(loss):
        return float("nan"), torch.zeros(0), {"one number": sentence}
    if any(x._version for side in handed for x in side):
        return float("nan"), torch.zeros(0), {"in place": (
            "Expected the inputs to stay as they were handed over, but your function changed them "
            "in place. Write x = x / y, not x /= y.")}
    if loss.requires_grad:
        loss.backward()
    ours, theirs = (torch.cat([(torch.zeros_like(x) if x.grad is None else x.grad).flatten()
                               for x in side]) for side in leaves)
    wrong = {}
    if not ours.any():
        wrong["student gradient"] = (
            "Expected a gradient for the student, got none. Is there a .detach() or .item() too "
            "many?")
    elif not torch.isfinite(ours).all():
        wrong["student gradient"] = (
            "Expected a finite gradient for the student, got NaN or inf. Look for a square root, a "
            "norm or a logarithm at 0.")
    if theirs.any():
        wrong["teacher gradient"] = (
            "Expected no gradient for the teacher, got one: the teacher would be pulled towards "
            "the student. Call teacher.detach().")
    return float(loss.detach()), ours, wrong


def no_number(value) -> str:
    """A sentence unless the value is a tensor with one entry, else ""."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return ""
    got = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
    return (f"Expected one number (a tensor without dimensions), got {got}. Sum over the classes, "
            "then average over the samples.")
