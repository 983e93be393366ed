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
        given = [2 * torch.randn(8, 10, generator=rng) if x is None else x.detach().clone()
                 for x in (student, teacher)]
        for sentence in reached(fn, *(x.requires_grad_() for x in given)).values():
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
        rng = generator(0, "checks", "same loss")
        found = []
        for _ in range(draws):
            given = [_draw(shape, rng) for shape in (student, teacher or student)]
            value, gradient, sentence = _asked(fn, given)
            if sentence:
                raise AssertionError(sentence)
            right, expected, _ = _asked(reference, given)
            found.append((value, right, _distance(gradient, expected)))
        wrong = [pair for *pair, _ in found if not abs(pair[0] - pair[1]) <= 1e-4 * abs(pair[1])]
        if wrong:
            value, right = wrong[0]
            factors = [value / right if right else float("nan") for value, right, _ in found]
            constant = max(factors) - min(factors) <= 1e-3 * abs(factors[0])
            raise AssertionError(
                f"Expected {right:.5g}, got {value:.5g}" + (
                    f": it is {factors[0]:.4g} times that, whatever the input. Is it summed where "
                    "the mean belongs, averaged where the sum does, or a factor forgotten?"
                    if constant else ", and not by a constant factor. Take the formula step by "
                    "step, on an input that is small enough for paper."))
        assert max(off for *_, off in found) < 1e-3, (
            "Expected the gradient of the formula, got another, although the value is right. Is a "
            "part of what depends on the student detached?")


def _draw(shape, rng):
    if isinstance(shape, list):
        return [_draw(one, rng) for one in shape]
    return torch.randn(*shape, generator=rng)


def _leaves(value) -> list[torch.Tensor]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _asked(fn, given) -> tuple[float, list, str]:
    """Give the value, the student's gradient, and a sentence on a wrong gradient or input."""
    student, teacher = ([x.clone().requires_grad_() for x in _leaves(side)] for side in given)
    # Handed over as copies: an in-place operation on a leaf would stop with torch's own words.
    copies = [[x.clone() for x in side] for side in (student, teacher)]
    handed = [side if isinstance(whole, list) else side[0]
              for side, whole in zip(copies, given, strict=True)]
    loss = fn(*handed)
    if sentence := no_number(loss):
        return 0.0, [], sentence
    if any(not torch.equal(x, old) for side, whole in zip(copies, given, strict=True)
           for x, old in zip(side, _leaves(whole), strict=True)):
        return 0.0, [], ("Expected the inputs to stay as they were handed over, but your function "
                         "changed them in place. Write x = x / norm, not x /= norm.")
    if loss.requires_grad:
        loss.backward()
    for sentence in misled([x.grad for x in student], [x.grad for x in teacher]).values():
        return 0.0, [], sentence
    return float(loss.detach()), [x.grad for x in student], ""


def _distance(gradient: list, expected: list) -> float:
    """Compute the distance of two gradients, relative to the length of the expected one."""
    flat = [torch.cat([torch.zeros(1) if g is None else g.flatten() for g in side])
            for side in (gradient, expected)]
    if flat[0].shape != flat[1].shape:
        return float("inf")
    return float((flat[0] - flat[1]).norm() / flat[1].norm().clamp(min=1e-12))


def reached(fn, student, teacher) -> dict[str, str]:
    """Find what is wrong with the gradients of `fn(student, teacher)`."""
    loss = fn(student, teacher)
    if sentence := no_number(loss):
        return {"one number": sentence}
    if loss.requires_grad:
        loss.backward()
    return misled([student.grad], [teacher.grad])


def misled(student: list, teacher: list) -> dict[str, str]:
    """Find what is wrong with these gradients of the two sides (None where there is none)."""
    wrong, given = {}, [gradient for gradient in student if gradient is not None]
    if not any(gradient.any() for gradient in given):
        wrong["student gradient"] = (
            "Expected a gradient for the student, got none. Is there a .detach() or .item() too "
            "many?")
    elif not all(torch.isfinite(gradient).all() for gradient in given):
        wrong["student gradient"] = (
            "Expected a finite gradient for the student, got NaN or inf. Look for a square root, a "
            "norm or a logarithm at 0.")
    if any(gradient is not None and gradient.any() for gradient in teacher):
        wrong["teacher gradient"] = (
            "Expected no gradient for the teacher, got one: the teacher would be pulled towards "
            "the student. Call teacher.detach().")
    return wrong


def no_number(value) -> str:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return ""
    got = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
    return (f"Expected one number (a tensor without dimensions), got {got}. Sum over the classes, "
            "then average over the samples.")
