"""The laws of Hinton's loss, and mistakes recognised by their value. B batch, K classes."""

import contextlib
import itertools
import math

import torch

from kdcourse._random import generator
from kdcourse.checks.any_loss import gradients, report_stub

# What a function raises on inputs of a shape or type that it does not take.
_SHAPE_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)
_TAKES = ("F.kl_div wants log-probabilities of the student first (log_softmax), then probabilities "
          "of the teacher (softmax)")


def distillation_loss(fn, T: float = 4.0, *, masked: bool = False) -> None:
    """Check a distillation loss `fn(student, teacher, T)` on logits [B, K] against the laws of
    Hinton's loss: T² times the KL divergence, summed over classes, averaged over samples.

    masked: also check that a class with logit -inf on both sides (a padded vocabulary) adds 0. Most
        losses in plain PyTorch give NaN there.

    Raises `AssertionError` with the sentence of the first broken law; `broken_laws` lists them. A
    stub that raises `NotImplementedError` is reported as not done yet.

    >>> from kdcourse.losses import kd
    >>> distillation_loss(kd, masked=True)
    ✓ It passes.
    >>> distillation_loss(lambda s, t, T: kd(s, t, T) / s.shape[1])
    Traceback (most recent call last):
        ...
    AssertionError: ...divided by the number of classes...
    """
    with report_stub():
        for law, sentence in _laws(fn, T):
            if masked or law != "masked":
                raise AssertionError(sentence)


def broken_laws(fn, T: float = 4.0) -> dict[str, str]:
    """Find the laws of Hinton's loss that `fn(student, teacher, T)` breaks, each with its sentence.

    A mistake that is recognised by its value has one of these keys: "classes", "temperature",
    "batch", "swapped", "softened", "probabilities", "logarithm", "sign". The others: "one number",
    "in place", "finite", "negative", "equality", "value", "student gradient", "gradient", "teacher
    gradient", "overflow", "clipped", "half precision", "batching", "masked". A law that says
    nothing while an earlier one is broken is left out.

    >>> from kdcourse.losses import kd
    >>> broken_laws(kd)
    {}
    >>> list(broken_laws(lambda s, t, T: kd(s, t, T) / T**2))
    ['temperature']
    """
    return dict(_laws(fn, T))


def _laws(fn, T: float):
    """Yield (law, sentence) for each broken law."""
    rng = generator(0, "checks")
    # Two draws of (student, teacher): a wrong loss may have the right value on one.
    draws = [[(2 * torch.randn(8, 10, generator=rng)).double() for _ in range(2)] for _ in range(2)]
    student, teacher = draws[0]

    def loss(student, teacher):
        return float(fn(student.clone(), teacher.clone(), T))

    value, gradient, faults = gradients(fn, student, teacher, T)
    if "one number" in faults or "in place" in faults:
        yield from faults.items()
        return
    values, rights = [value, loss(*draws[1])], [_by_loops(*pair, T) for pair in draws]
    is_right = _close(values, rights, T)
    mistake = None if is_right else (
        _recognised(loss, draws, values, T) or _takes_probabilities(loss, draws, rights, T))
    yield from _value(loss, student, values, rights, T, mistake)
    yield from faults.items()
    if is_right and "student gradient" not in faults:
        p, q = ((x / T).softmax(1) for x in (teacher, student))
        expected = (T * (q - p) / len(student)).flatten()
        if not (gradient - expected).norm() <= 1e-3 * expected.norm():
            yield "gradient", (
                "Expected the gradient T (q - p) / B for the student, got another, although the "
                "value is right. Is a part of what depends on the student detached?")
    if is_right:
        yield from _batching(loss, student, teacher, T)
    yield from _large_logits(fn, is_right)
    if is_right:
        yield from _masked_class(fn, student, teacher, T)


def _value(loss, student, values, rights, T, mistake):
    expected = f"Expected {rights[0]:.4f}, got {values[0]:.4f}"
    negative = "Expected a loss of at least 0, got {:.4f}. A divergence is never negative: {}."
    equal, small = loss(student, student), 1e-6 * max(1, T**2)
    if mistake:
        law, reason = mistake
        yield law, negative.format(values[0], reason) if values[0] < 0 else f"{expected}: {reason}."
    elif not all(map(math.isfinite, values)):
        yield "finite", f"{expected}. A logarithm met 0 or less: {_TAKES}."
    elif min(values) < 0:
        yield "negative", negative.format(min(values), _TAKES)
    elif not abs(equal) < small:
        entropy = torch.distributions.Categorical(logits=student / T).entropy().mean()
        yield "equality", f"Expected 0 where student and teacher agree, got {equal:.4f}" + (
            ", T² times the teacher's entropy: this is the cross-entropy with soft targets. Its "
            "gradient is right; subtract the entropy (or use the KL divergence) so that 0 means "
            "agreement." if abs(equal - T**2 * entropy) < small else
            ". Are both put through the same temperature and softmax?")
    elif not _close(values, rights, T):
        yield "value", (
            f"{expected}. Compare with T² Σ p log(p / q), summed over classes and averaged over "
            "samples, p and q the softmax of logits / T.")


def _large_logits(fn, is_right):
    def at_opposite_logits(size, dtype):
        """Compute the loss, and whether it and its gradient are finite."""
        teacher = torch.full((2, 10), -size, dtype=dtype)
        teacher[:, 0] = size
        value, gradient, _ = gradients(fn, teacher.roll(1, 1), teacher, 1.0)
        return value, math.isfinite(value) and bool(gradient.isfinite().all())

    value, finite = at_opposite_logits(100.0, torch.float32)
    if not finite:
        yield "overflow", (
            "Expected a finite gradient for logits of ±100, got NaN. Work with log_softmax of both "
            "sides." if math.isfinite(value) else
            f"Expected a finite loss for logits of ±100, got {value}. log(softmax(x)) rounds to "
            "log 0: use log_softmax.")
        return
    if is_right and not abs(value - 200) < 1:
        yield "clipped", (
            f"Expected 200.0 for logits of ±100, got {value:.1f}: something is added inside the "
            "logarithm, or cut off, so a student that is sure of a wrong class learns almost "
            "nothing. Use log_softmax, which needs no such help.")
    with contextlib.suppress(RuntimeError):  # an operation that does not exist in half precision
        value, finite = at_opposite_logits(20.0, torch.float16)
    if not finite:
        got = "a gradient of NaN" if math.isfinite(value) else value
        yield "half precision", (
            f"Expected a finite loss and gradient for logits of ±20 in half precision, got {got}. "
            "Probabilities below 6e-8 round to 0 there, and 0 · log 0 is NaN. Use log_softmax of "
            "both sides, in float32: student.float(), teacher.float().")


def _batching(loss, student, teacher, T):
    whole = loss(student, teacher)
    for size, words in ((1, "one sample"), (3, "three samples")):
        try:
            mean = sum(len(s) * loss(s, t) for s, t in zip(
                student.split(size), teacher.split(size), strict=True)) / len(student)
            if _close([mean], [whole], T):
                continue
            got = f"{mean:.4f}"
        except _SHAPE_ERRORS as error:
            got = f"{type(error).__name__}: {error}"
        yield "batching", (
            f"Expected the same mean in any batching, {whole:.4f}, got this for {words} at a time: "
            f"{got}. Is the batch size written down in it, or is there a squeeze() that also takes "
            "away a batch of one?")
        return


def _masked_class(fn, student, teacher, T):
    rest = _by_loops(student[:, 1:], teacher[:, 1:], T)
    masked = [x.index_fill(1, torch.tensor([0]), -math.inf) for x in (student, teacher)]
    value, gradient, _ = gradients(fn, *masked, T)
    finite = gradient.isfinite().all()
    if not (_close([value], [rest], T) and finite):
        got = f"{value:.4f}" if finite else f"{value:.4f} and a gradient of NaN"
        yield "masked", (
            f"Expected {rest:.4f} with one class at -inf on both sides, got {got}: 0 · log 0 must "
            "count as 0. Put (log_p - log_q).masked_fill(p == 0, 0) in place of the logarithm.")


def _recognised(loss, draws, values, T) -> tuple[str, str] | None:
    """Find the mistake that gives exactly these values: its law, and the sentence."""
    # With fewer samples and classes, too: a weight of 1/2 looks like 8 samples over T² = 16, and
    # one of 1/10 like 10 classes, but only here.
    fewer = [x[1:, 1:] for x in draws[1]]
    with contextlib.suppress(*_SHAPE_ERRORS):  # the function may be written for 10 classes
        draws, values = [*draws, fewer], [*values, loss(*fewer)]
    candidates = [itertools.product(_lookalikes(*pair, T), _factors(*pair[0].shape, T))
                  for pair in draws]
    for row in zip(*candidates, strict=True):  # of each draw the same candidate
        if _close(values, [value * factor for (_, _, value), (_, _, factor) in row], T):
            (law, reason, _), (factor_law, factor_reason, _) = row[0]
            law = law or factor_law
            return (law, ". Also, ".join(filter(None, (reason, factor_reason)))) if law else None
    return None


def _factors(B: int, K: int, T: float) -> list[tuple[str, str, float]]:
    """List wrong factors between the sum and the mean: the law, the sentence, the factor."""
    return [
        ("", "", 1),
        ("classes", "it is divided by the number of classes: nn.KLDivLoss() and F.kl_div average "
         'over every entry by default. Use reduction="batchmean"', 1 / K),
        ("temperature", "T² is missing: the soft part's gradient shrinks as 1/T², so it loses to "
         "the labels. Multiply by T**2", 1 / T**2),
        ("temperature", "T² is missing and it is divided by the number of classes. Multiply by "
         'T**2 and use reduction="batchmean"', 1 / T**2 / K),
        ("batch", "it is summed over the batch: the step would grow with the batch. Average over "
         "samples", B),
        ("batch", "it is summed over the batch, and T² is missing. Average over samples, and "
         "multiply by T**2", B / T**2),
        ("batch", "it is divided by the batch size twice: the step would shrink with the batch. "
         "Divide once", 1 / B),
        ("temperature", "it is multiplied by T, not by T². Multiply by T**2", 1 / T),
        ("temperature", "T² is there twice. Multiply by T**2 once", T**2),
    ]


def _lookalikes(student, teacher, T) -> list[tuple[str, str, float]]:
    """List what is easily computed in place of T² KL(p || q): the law, the sentence, the value."""

    def soft(logits, at=T):
        return (logits / at).softmax(1)

    def reduce(values_BK):
        return T**2 * float(values_BK.sum(1).mean())

    def kl(p, q):
        return reduce(p * (p.log() - q.log()))

    p, q = soft(teacher), soft(student)
    swapped = "student and teacher are swapped"
    rows = [
        ("", "", kl(p, q)),
        ("swapped", f"{swapped}: this is the reverse divergence, KL(student || teacher)", kl(q, p)),
        ("softened", "the logits are multiplied by T, not divided",
         kl(soft(teacher, 1 / T), soft(student, 1 / T))),
        ("softened", "the temperature softens the teacher only. Divide both logits by T",
         kl(p, soft(student, 1))),
        ("softened", "the temperature softens the student only. Divide both logits by T",
         kl(soft(teacher, 1), q)),
        ("", "this is the cross-entropy with soft targets", reduce(-p * q.log())),
        ("swapped", f"{swapped}: the teacher is measured against the student's answers",
         reduce(-q * p.log())),
        ("sign", "its sign is wrong. It is p log(p / q), not p log(q / p)", -kl(p, q)),
        ("logarithm", f"the student's probabilities go in without a logarithm. {_TAKES}",
         reduce(p * (p.log() - q))),
        ("swapped", f"{swapped}, and a logarithm is missing. {_TAKES}", reduce(q * (q.log() - p))),
        ("logarithm", "with log_target=True F.kl_div wants logarithms of the teacher's "
         "probabilities too (log_softmax)", reduce(p.exp() * (p - q.log()))),
        *[("logarithm", f"the student's logits go in without log_softmax. {_TAKES}",
           reduce(p * (p.log() - z))) for z in (student, student / T)],
    ]
    for first, second in itertools.product((1, T), repeat=2):
        pp, qq = soft(soft(teacher, first), second), soft(soft(student, first), second)
        rows += [("probabilities", f"{which} probabilities, where logits belong: a second softmax "
                  "makes them almost uniform. Pass logits, and take the softmax once", value)
                 for which, value in (("both sides are", kl(pp, qq)),
                                      ("the student's answers are", kl(p, qq)),
                                      ("the teacher's answers are", kl(pp, q)))]
    return rows


def _takes_probabilities(loss, draws, rights, T) -> tuple[str, str] | None:
    """Find whether the function is right on probabilities or log-probabilities."""
    for inputs, of_student, of_teacher in (
            ("probabilities", torch.softmax, torch.softmax),
            ("log-probabilities", torch.log_softmax, torch.log_softmax),
            ("log-probabilities of the student and probabilities of the teacher",
             torch.log_softmax, torch.softmax)):
        with contextlib.suppress(*_SHAPE_ERRORS):
            values = [loss(of_student(s / T, 1), of_teacher(t / T, 1)) for s, t in draws]
            for factor, more in ((1, ""), (1 / T**2, ", and multiply by T**2")):
                if _close(values, [factor * right for right in rights], T):
                    return "probabilities", (
                        f"your function wants {inputs}, and networks answer with logits. Take the "
                        f"softmax inside, at temperature T{more}")
    return None


def _by_loops(student, teacher, T) -> float:
    """Compute T² KL(p || q) in float64, by a loop over samples and classes."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        log_q, log_p = ((x / T).log_softmax(0).tolist() for x in (s, t))
        total += sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))
    return T**2 * total / len(student)


def _close(values: list[float], others: list[float], T: float) -> bool:
    """Compare up to the rounding of a right loss in float32: T² multiplies that of logarithms."""
    tolerance = min(1e-5 + 2e-7 * T**2, 2e-3)
    return all(abs(value - other) <= tolerance * abs(other)
               for value, other in zip(values, others, strict=True))
