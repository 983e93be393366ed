"""The laws of Hinton's loss, and mistakes recognised by their value. B batch, K classes."""

import contextlib
import math

import torch

from kdcourse._random import generator
from kdcourse.checks.any_loss import gradients, stub

# What a function raises on inputs of a shape or kind that it does not take.
SHAPE_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)


def distillation_loss(fn, T: float = 4.0, *, masked: bool = False) -> None:
    """Check a distillation loss `fn(student, teacher, T)` on logits [B, K] against the laws of
    Hinton's loss: T² times the KL divergence, summed over classes, averaged over samples.

    masked: also ask that a class which both sides rule out (logit -inf, as in a padded vocabulary)
        adds 0. Most losses in plain PyTorch give NaN there, so only those who need it ask.

    Raises `AssertionError` that names the first law it breaks: swapped arguments, probabilities
    taken for logits, mean over classes, missing T², not 0 at equality, a gradient that reaches the
    teacher, overflow at large logits or in half precision, another mean in another batching. A stub
    that raises `NotImplementedError` is reported as not done yet, and nothing is raised.

    >>> from kdcourse.losses import kd
    >>> distillation_loss(kd, masked=True)
    >>> distillation_loss(lambda s, t, T: kd(s, t, T) / s.shape[1])
    Traceback (most recent call last):
        ...
    AssertionError: ...divided by the number of classes...
    """
    with stub():
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
    """Yield (law, sentence) for each law that is broken."""
    rng = generator(0, "checks")
    # Two draws of (student, teacher): a wrong loss may have the right value on one.
    draws = [[(2 * torch.randn(8, 10, generator=rng)).double() for _ in range(2)] for _ in range(2)]
    student, teacher = draws[0]

    def ask(student, teacher):
        return float(fn(student.clone(), teacher.clone(), T))

    value, gradient, wrong = gradients(fn, student, teacher, T)
    if "one number" in wrong or "in place" in wrong:
        yield from wrong.items()
        return
    values, rights = [value, ask(*draws[1])], [_by_loops(*pair, T) for pair in draws]
    is_right = all(_close(*pair, T) for pair in zip(values, rights, strict=True))
    yield from _value(ask, draws, values, rights, T, is_right)
    yield from wrong.items()
    if is_right and "student gradient" not in wrong:
        p, q = ((x / T).softmax(1) for x in (teacher, student))
        expected = (T * (q - p) / len(student)).flatten()
        if not (gradient - expected).norm() <= 1e-3 * expected.norm():
            yield "gradient", (
                "Expected the gradient T (q - p) / B for the student, got another, although the "
                "value is right. Is a part of what depends on the student detached?")
    if is_right:
        yield from _batching(ask, student, teacher, T)
    yield from _large(fn, is_right)
    if is_right:
        yield from _masking(fn, student, teacher, T)


_WANTS = ("F.kl_div wants log-probabilities of the student first (log_softmax), then probabilities "
          "of the teacher (softmax)")


def _value(ask, draws, values, rights, T, is_right):
    value, right, small = values[0], rights[0], 1e-6 * max(1, T**2)
    known = None if is_right else (
        _recognised(ask, draws, values, T) or _wants_probabilities(ask, draws, rights, T))
    if known:
        law, reason = known
        yield law, (
            f"Expected {right:.4f}, got {value:.4f}: {reason}." if not value < 0 else
            f"Expected a loss of at least 0, got {value:.4f}. A divergence is never negative: "
            f"{reason}.")
    elif not all(map(math.isfinite, values)):
        yield "finite", (f"Expected {right:.4f}, got {value:.4f}. A logarithm met 0 or less: "
                         f"{_WANTS}.")
    elif min(values) < 0:
        yield "negative", (f"Expected a loss of at least 0, got {min(values):.4f}. A divergence is "
                           f"never negative: {_WANTS}.")
    elif abs((equal := ask(draws[0][0], draws[0][0])) - T**2 * _entropy(draws[0][0], T)) < small:
        yield "equality", (
            f"Expected 0 where student and teacher agree, got {equal:.4f}, T² times the teacher's "
            "entropy: this is the cross-entropy with soft targets. Its gradient is right; subtract "
            "the entropy (or use the KL divergence) so that 0 means agreement.")
    elif not abs(equal) < small:
        yield "equality", (
            f"Expected 0 where student and teacher agree, got {equal:.4f}. Are both put through "
            "the same temperature and softmax?")
    elif not is_right:
        yield "value", (
            f"Expected {right:.4f}, got {value:.4f}. Compare with T² Σ p log(p / q), summed over "
            "classes and averaged over samples, p and q the softmax of logits / T.")


def _large(fn, is_right):
    def far_apart(size, dtype):
        """Ask about two sides that are sure of different classes."""
        far = torch.full((2, 10), -size, dtype=dtype)
        far[:, 0] = size
        value, gradient, _ = gradients(fn, far.roll(1, 1), far, 1.0)
        return value, math.isfinite(value) and bool(gradient.isfinite().all())

    value, finite = far_apart(100.0, torch.float32)
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
    try:
        value, finite = far_apart(20.0, torch.float16)
    except RuntimeError:  # an operation that does not exist in half precision
        return
    if not finite:
        got = "a gradient of NaN" if math.isfinite(value) else value
        yield "half precision", (
            f"Expected a finite loss and gradient for logits of ±20 in half precision, got {got}. "
            "Probabilities below 6e-8 round to 0 there, and 0 · log 0 is NaN. Use log_softmax of "
            "both sides, in float32: student.float(), teacher.float().")


def _batching(ask, student, teacher, T):
    whole = ask(student, teacher)
    for size, words in ((1, "one sample"), (3, "three samples")):
        try:
            total = sum(len(s) * ask(s, t) for s, t in
                        zip(student.split(size), teacher.split(size), strict=True))
        except SHAPE_ERRORS as error:
            got = f"{type(error).__name__}: {error}"
        else:
            if _close(total / len(student), whole, T):
                continue
            got = f"{total / len(student):.4f}"
        yield "batching", (
            f"Expected the same mean in any batching, {whole:.4f}, got this for {words} at a time: "
            f"{got}. Is the batch size written down in it, or is there a squeeze() that also takes "
            "away a batch of one?")
        return


def _masking(fn, student, teacher, T):
    rest = _by_loops(student[:, 1:], teacher[:, 1:], T)
    student, teacher = student.clone(), teacher.clone()
    student[:, 0] = teacher[:, 0] = -math.inf
    value, gradient, _ = gradients(fn, student, teacher, T)
    finite = gradient.isfinite().all()
    if not (_close(value, rest, T) and finite):
        got = f"{value:.4f}" if finite else f"{value:.4f} and a gradient of NaN"
        yield "masked", (
            f"Expected {rest:.4f} with one class at -inf on both sides, got {got}: 0 · log 0 must "
            "count as 0. Put (log_p - log_q).masked_fill(p == 0, 0) in place of the logarithm.")


def _recognised(ask, draws, values, T) -> tuple[str, str] | None:
    """Find the mistake that gives exactly these values: its law, and the sentence."""
    # With fewer samples and classes, too: a weight of 1/2 looks like 8 samples over T² = 16, and
    # one of 1/10 like 10 classes, but only here.
    fewer = [x[1:, 1:] for x in draws[1]]
    with contextlib.suppress(*SHAPE_ERRORS):  # it may want that many classes
        draws, values = [*draws, fewer], [*values, ask(*fewer)]
    bases = [_lookalikes(*pair, T) for pair in draws]
    scales = [_scales(*pair[0].shape, T) for pair in draws]
    for row, (law, reason, _) in enumerate(bases[0]):
        for column, (factor, scale_law, scale_reason) in enumerate(scales[0]):
            if not (scale_law and math.isclose(factor, 1, rel_tol=1e-3)) and all(
                    _close(value, scale[column][0] * base[row][2], T)
                    for value, scale, base in zip(values, scales, bases, strict=True)):
                reasons = ". Also, ".join(filter(None, (reason, scale_reason)))
                return (law or scale_law, reasons) if law or scale_law else None
    return None


def _scales(B: int, K: int, T: float) -> list[tuple[float, str, str]]:
    """List wrong factors between the sum and the mean: the factor, its law, the sentence."""
    return [
        (1, "", ""),
        (1 / K, "classes", "it is divided by the number of classes: nn.KLDivLoss() and F.kl_div "
         'average over every entry by default. Use reduction="batchmean"'),
        (1 / T**2, "temperature", "T² is missing: the soft part's gradient shrinks as 1/T², so it "
         "loses to the labels. Multiply by T**2"),
        (1 / T**2 / K, "temperature", "T² is missing and it is divided by the number of classes. "
         'Multiply by T**2 and use reduction="batchmean"'),
        (B, "batch", "it is summed over the batch: the step would grow with the batch. Average "
         "over samples"),
        (B / T**2, "batch", "it is summed over the batch, and T² is missing. Average over samples, "
         "and multiply by T**2"),
        (1 / B, "batch", "it is divided by the batch size twice: the step would shrink with the "
         "batch. Divide once"),
        (1 / T, "temperature", "it is multiplied by T, not by T². Multiply by T**2"),
        (T**2, "temperature", "T² is there twice. Multiply by T**2 once"),
    ]


def _lookalikes(student, teacher, T) -> list[tuple[str, str, float]]:
    """List what is easily computed in place of T² KL(p || q): the law, the sentence, the value."""

    def soft(logits, at=T):
        return (logits / at).softmax(1)

    def kl(p, q):
        return mean(p * (p.log() - q.log()))

    def mean(values_BK):
        return T**2 * float(values_BK.sum(1).mean())

    p, q = soft(teacher), soft(student)
    swapped = "student and teacher are swapped"
    twice = "{} probabilities, where logits belong: a second softmax makes them almost uniform. " \
            "Pass logits, and take the softmax once"
    rows = [
        ("", "", kl(p, q)),
        ("swapped", f"{swapped}: this is the reverse divergence, KL(student || teacher)", kl(q, p)),
        ("softened", "the logits are multiplied by T, not divided",
         kl(soft(teacher, 1 / T), soft(student, 1 / T))),
        ("softened", "the temperature softens the teacher only. Divide both logits by T",
         kl(p, soft(student, 1))),
        ("softened", "the temperature softens the student only. Divide both logits by T",
         kl(soft(teacher, 1), q)),
        ("", "this is the cross-entropy with soft targets", mean(-p * q.log())),
        ("swapped", f"{swapped}: the teacher is measured against the student's answers",
         mean(-q * p.log())),
        ("sign", "its sign is wrong. It is p log(p / q), not p log(q / p)", -kl(p, q)),
        ("logarithm", f"the student's probabilities go in without a logarithm. {_WANTS}",
         mean(p * (p.log() - q))),
        ("swapped", f"{swapped}, and a logarithm is missing. {_WANTS}", mean(q * (q.log() - p))),
        ("logarithm", "with log_target=True F.kl_div wants logarithms of the teacher's "
         "probabilities too (log_softmax)", mean(p.exp() * (p - q.log()))),
        *[("logarithm", f"the student's logits go in without log_softmax. {_WANTS}",
           mean(p * (p.log() - z))) for z in (student, student / T)],
    ]
    for first in (1, T):
        for second in (1, T):
            pp, qq = soft(soft(teacher, first), second), soft(soft(student, first), second)
            rows += [("probabilities", twice.format("both sides are"), kl(pp, qq)),
                     ("probabilities", twice.format("the student's answers are"), kl(p, qq)),
                     ("probabilities", twice.format("the teacher's answers are"), kl(pp, q))]
    return rows


def _wants_probabilities(ask, draws, rights, T) -> tuple[str, str] | None:
    """Check whether the function is right on probabilities or log-probabilities."""
    log, plain = (lambda x: (x / T).log_softmax(1)), (lambda x: (x / T).softmax(1))
    for what, of_student, of_teacher in (
            ("probabilities", plain, plain), ("log-probabilities", log, log),
            ("log-probabilities of the student and probabilities of the teacher", log, plain)):
        with contextlib.suppress(*SHAPE_ERRORS):
            values = [ask(of_student(s), of_teacher(t)) for s, t in draws]
            for factor, more in ((1, ""), (1 / T**2, ", and multiply by T**2")):
                if all(_close(value, factor * right, T)
                       for value, right in zip(values, rights, strict=True)):
                    return "probabilities", (
                        f"your function wants {what}, and networks answer with logits. Take the "
                        f"softmax inside, at temperature T{more}")
    return None


def _by_loops(student, teacher, T) -> float:
    """Compute T² KL(p || q) in float64, by a loop over samples and classes."""
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        log_p, log_q = _log_softmax(t, T), _log_softmax(s, T)
        total += sum(T**2 * math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))
    return total / len(student)


def _log_softmax(logits, T) -> list[float]:
    shift = max(logits)
    total = sum(math.exp((x - shift) / T) for x in logits)
    return [(x - shift) / T - math.log(total) for x in logits]


def _entropy(logits, T) -> float:
    """Compute the entropy of the softened outputs, in nats, mean over samples."""
    return float(-((logits / T).softmax(1) * (logits / T).log_softmax(1)).sum(1).mean())


def _close(value: float, other: float, T: float) -> bool:
    """Compare up to the rounding of a right loss in float32: T² multiplies that of logarithms."""
    return abs(value - other) <= min(1e-5 + 2e-7 * T**2, 2e-3) * abs(other)
