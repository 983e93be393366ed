"""Checks for any loss that compares a student with a teacher."""

import contextlib

import torch

from kdcourse._random import generator

PASSED = "✓ It passes."


@contextlib.contextmanager
def report_stub():
    """Print ✓ at the end; report a function that still raises NotImplementedError, and go on."""
    try:
        yield
        print(PASSED)
    except NotImplementedError:
        print("Not done yet: your function raises NotImplementedError.")


def require(condition, sentence: str) -> None:
    """Raise `AssertionError` with the sentence unless the condition holds."""
    if not condition:
        raise AssertionError(sentence)


def student_only_gradient(fn, student=None, teacher=None) -> None:
    """Check that the gradient of a loss `fn(student, teacher)` reaches the student only.

    student, teacher: inputs for it, by default logits [8, 10]; for a loss on features pass
        features. They are copied.

    Raises `AssertionError` when the result is not one number, when no gradient reaches the student
    (or NaN does), and when one reaches the teacher. A stub is reported as not done yet.

    >>> from kdcourse.losses import kd
    >>> student_only_gradient(kd)
    ✓ It passes.
    >>> student_only_gradient(lambda student, teacher: (student - teacher).square().mean())
    Traceback (most recent call last):
        ...
    AssertionError: Expected no gradient for the teacher, got one: ...
    """
    with report_stub():
        rng = generator(0, "checks", "gradient")
        inputs = [2 * torch.randn(8, 10, generator=rng) if x is None else x
                  for x in (student, teacher)]
        for sentence in gradients(fn, *inputs)[2].values():
            raise AssertionError(sentence)


def same_loss(fn, reference, student=(8, 10), teacher=None, draws: int = 3) -> None:
    """Check a loss that you wrote against a function that is known to be right, on random inputs.

    fn, reference: functions of (student, teacher). Fill in other arguments with a lambda or
        `functools.partial`, and a `reduction` too, so that both return one number.
    student, teacher: shapes of the inputs, such as (8, 16, 7, 7); the teacher's is the student's
        unless given. A list of shapes makes a list of tensors.

    Raises `AssertionError` for another value (a constant factor is named) or gradient, a gradient
    that reaches the teacher, and changed inputs. A stub is reported as not done yet.

    >>> from kdcourse.losses import rkd_distance
    >>> same_loss(rkd_distance, rkd_distance, (6, 8), (6, 32))
    ✓ It passes.
    >>> same_loss(lambda s, t: 2 * rkd_distance(s, t), rkd_distance, (6, 8), (6, 32))
    Traceback (most recent call last):
        ...
    AssertionError: Expected ...: it is 2 times that, whatever the input. ...
    """
    with report_stub():
        rng, values, errors = generator(0, "checks", "same loss"), [], []
        for _ in range(draws):
            inputs = [_draw(shape, rng) for shape in (student, teacher or student)]
            value, gradient, faults = gradients(fn, *inputs)
            for sentence in faults.values():
                raise AssertionError(sentence)
            right, expected, _ = gradients(reference, *inputs)
            values.append((value, right))
            errors.append((gradient - expected).norm() / expected.norm().clamp(min=1e-12))
        factors = [value / right if right else float("nan") for value, right in values]
        constant = max(factors) - min(factors) <= 1e-3 * abs(factors[0])
        hint = (f": it is {factors[0]:.4g} times that, whatever the input. Is it summed where the "
                "mean belongs, averaged where the sum does, or a factor forgotten?" if constant else
                ", and not by a constant factor. Take the formula step by step, on an input that "
                "is small enough for paper.")
        for value, right in values:
            require(abs(value - right) <= 1e-4 * abs(right),
                    f"Expected {right:.5g}, got {value:.5g}{hint}")
        require(max(errors) < 1e-3,
                "Expected the gradient of the formula, got another, although the value is right. "
                "Is a part of what depends on the student detached?")


def _draw(shape, rng):
    if isinstance(shape, list):
        return [_draw(one, rng) for one in shape]
    return torch.randn(*shape, generator=rng)


def gradients(fn, student, teacher, *more) -> tuple[float, torch.Tensor, dict[str, str]]:
    """Compute `fn(student, teacher, *more)` and the student's gradient as one vector, and find
    faults: sentences by "one number", "in place", "student gradient", "teacher gradient".

    student, teacher: a tensor or a list of tensors each; they are copied.
    """
    given = [side if isinstance(side, list) else [side] for side in (student, teacher)]
    leaves = [[x.detach().clone().requires_grad_() for x in side] for side in given]
    # torch itself stops in-place changes of a leaf, with another message: pass copies.
    copies = [[x.clone() for x in side] for side in leaves]
    loss = fn(*(side if isinstance(whole, list) else side[0]
                for side, whole in zip(copies, (student, teacher), strict=True)), *more)
    faults = {}
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        got = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        faults["one number"] = (
            f"Expected one number (a tensor without dimensions), got {got}. Sum over the classes, "
            "then average over the samples.")
    elif any(x._version for side in copies for x in side):
        faults["in place"] = (
            "Expected the inputs to stay as they were handed over, but your function changed them "
            "in place. Write x = x / y, not x /= y.")
    if faults:
        return float("nan"), torch.zeros(0), faults
    if loss.requires_grad:
        loss.backward()
    of_student, of_teacher = (
        torch.cat([(torch.zeros_like(x) if x.grad is None else x.grad).flatten() for x in side])
        for side in leaves)
    if not of_student.any():
        faults["student gradient"] = (
            "Expected a gradient for the student, got none. Is there a .detach() or .item() too "
            "many?")
    elif not of_student.isfinite().all():
        faults["student gradient"] = (
            "Expected a finite gradient for the student, got NaN or inf. Look for a square root, a "
            "norm or a logarithm at 0.")
    if of_teacher.any():
        faults["teacher gradient"] = (
            "Expected no gradient for the teacher, got one: the teacher would be pulled towards "
            "the student. Call teacher.detach().")
    return float(loss.detach()), of_student, faults
