"""Laws of a loss on sequences, and of a training step that adds up its parts.

Shapes: B sequences, N positions, V outputs (the vocabulary).
"""

import dataclasses
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from kdcourse._random import generator
from kdcourse.checks.any_loss import gradients, report_stub

IGNORE, MASKED = -100, -1e4
V = 24


def sequence_loss(loss, *, shift: bool = False, total: str | None = None, T: str | None = None,
                  beta: str | None = None, top: str | None = None) -> None:
    """Check a loss `loss(student, teacher, labels)` on logits [B, N, V] and labels [B, N], -100
    where a position does not count, that compares probabilities and is a mean over the positions
    that count.

    Laws (their names in `broken_sequence_laws`): the slope of the value is its gradient ("slope");
    at every length the loss is the mean of its positions ("length"); positions that do not count
    move nothing ("padding"); labels that are moved by one place move something, and the gradient is
    where the labels say ("shift"); outputs that both sides mask change nothing, nor does a constant
    added to the logits of a side with fewer outputs ("vocabulary": other lengths may be refused);
    half precision costs no more than its rounding ("precision"); probability that moves to where
    the teacher has almost none is noticed ("mass").

    Further ones need the name of an argument of the loss, which it must take by keyword:

    shift: True where labels are the tokens, so that position n should predict label n + 1, as for
        transformers; False where position n should predict label n.
    total: the number of labels in the whole batch, by which sums are divided, such as
        "num_items_in_batch": stating it changes nothing ("total"), nor do accumulation and
        processes, whose losses are added ("accumulation", "processes"), and a part without labels
        adds 0 ("empty"). For a step of your own see `sequence_step`.
    T: the temperature: another one moves something ("temperature").
    beta: the place between two divergences, from 0 to 1: its ends are continuous ("ends").
    top: how many of the teacher's largest outputs are used: all here, a quarter for "mass".

    Raises `AssertionError` with the sentence of the first broken law. A stub that raises
    `NotImplementedError` is reported as not done yet.

    >>> from kdcourse.losses import KD, chunked
    >>> def mine(student, teacher, labels, total=None):
    ...     return chunked(KD(T=2), student, torch.eye(student.shape[-1]), teacher, None, labels,
    ...                    total=total, chunk=3)
    >>> sequence_loss(mine, total="total")
    ✓ It passes.
    >>> sequence_loss(lambda student, teacher, labels: mine(student, teacher, labels) / 2)
    Not tried: accumulation and processes (name the argument: total=…).
    ✓ It passes.
    >>> sequence_loss(lambda student, teacher, labels: mine(student, teacher, 0 * labels))
    Traceback (most recent call last):
        ...
    AssertionError: Expected positions that are labelled -100 to move nothing, ...
    """
    if total is None:
        print("Not tried: accumulation and processes (name the argument: total=…).")
    with report_stub():
        for _, sentence in _broken(_Case(loss, shift, total, T, beta, top)):
            raise AssertionError(sentence)


def broken_sequence_laws(loss, **settings) -> dict[str, str]:
    """Find the laws of `sequence_loss`, with its settings, that a loss breaks, each with its
    sentence. Beside their names "one number", "in place" and "student gradient" are possible.

    >>> def forgets_the_mask(student, teacher, labels):
    ...     return (student.softmax(-1) - teacher.softmax(-1)).square().mean()
    >>> list(broken_sequence_laws(forgets_the_mask))
    ['padding', 'shift', 'vocabulary', 'precision']
    """
    names = ("shift", "total", "T", "beta", "top")
    defaults = dict.fromkeys(names) | {"shift": False} | settings
    return dict(_broken(_Case(loss, **defaults)))


def sequence_step(step, *, shift: bool = False) -> None:
    """Check how a trainer adds up micro-batches and processes: `step(processes)` returns the loss
    whose gradient the optimiser gets.

    step: a function that you write around your trainer's loss. `processes` is a list with one entry
        for each process, a list of its micro-batches (student [B, N, V], teacher, labels [B, N]).
        DDP takes the *mean* of gradients over the processes, and accumulation their sum, or what
        your trainer makes of them.
    shift: as for `sequence_loss`.

    Laws: the loss is the mean over all positions that count, and value and gradient are the same
    however the samples are distributed. Raises `AssertionError` as `sequence_loss` does.

    >>> def mean_of_means(processes):
    ...     means = [(s[y >= 0] - t[y >= 0]).square().sum(-1).mean()
    ...              for parts in processes for s, t, y in parts]
    ...     return sum(means) / len(means)
    >>> sequence_step(mean_of_means)
    Traceback (most recent call last):
        ...
    AssertionError: Expected ... in one batch, got ... in 3 micro-batches: ...
    """
    with report_stub():
        for _, sentence in _distributed(step, _Case(None, shift)):
            raise AssertionError(sentence)


@dataclasses.dataclass(frozen=True)
class _Case:
    """A loss, and what its arguments are called."""

    loss: Callable
    shift: bool = False
    total: str | None = None
    T: str | None = None
    beta: str | None = None
    top: str | None = None

    def labelled(self, student, teacher, answers):
        """Give inputs for answers [B, N], what each position should predict. Where labels are
        tokens, a last position is added that predicts nothing."""
        if not self.shift:
            return student, teacher, answers
        return (F.pad(student, (0, 0, 0, 1), value=0.3), F.pad(teacher, (0, 0, 0, 1), value=-0.2),
                F.pad(answers, (1, 0), value=IGNORE))

    def __call__(self, student, teacher, answers, **given):
        values = {"total": int((answers != IGNORE).sum()), "T": 2.0, "beta": 0.5,
                  "top": teacher.shape[-1]} | given
        named = {getattr(self, name): value for name, value in values.items()
                 if getattr(self, name) is not None and value is not None}
        return self.loss(*self.labelled(student, teacher, answers), **named)

    def value(self, *inputs, **given) -> float:
        return float(self(*inputs, **given).detach())


def _draw(B: int = 2, N: int = 7, seed: int = 0):
    """Draw logits of both sides, and answers of which some do not count."""
    rng = generator(seed, "checks", "sequence")
    student, teacher = (2 * torch.randn(B, N, V, generator=rng) for _ in range(2))
    answers = torch.randint(V, (B, N), generator=rng)
    if B > 1:
        answers[0, :2] = answers[1, 4] = answers[-1, -2:] = IGNORE
    return student, teacher, answers


def _broken(case):
    """Yield (law, sentence) for each broken law."""
    student, teacher, answers = _draw()
    _, _, faults = gradients(case, student, teacher, answers)
    faults.pop("teacher gradient", None)  # of logits that a trainer has without a gradient
    yield from faults.items()
    if faults:
        return
    for name, law in LAWS.items():
        sentence = law(case)
        if sentence:
            yield name, sentence
    if case.total:
        def step(processes):
            every = [part for parts in processes for part in parts]
            counts = [int((y[:, 1:] if case.shift else y).ne(IGNORE).sum()) for *_, y in every]
            return sum(case.loss(*part, **{case.total: sum(counts)}) for part in every)
        yield from _distributed(step, case)


def _slope(case):
    student, teacher, answers = (x.double() if x.is_floating_point() else x for x in _draw())
    _, gradient, _ = gradients(case, student, teacher, answers)
    rng, size = generator(0, "checks", "slope"), gradient.norm()
    directions = [gradient, *(torch.randn(gradient.shape, generator=rng).double() for _ in "123")]
    for number, direction in enumerate(directions):
        unit = direction / direction.norm()
        step = 0.02 * unit.reshape(student.shape)
        up, down = (case.value(student + sign * step, teacher, answers) for sign in (1, -1))
        slope, stated = (up - down) / 0.04, float(gradient @ unit)
        if not abs(slope - stated) <= 0.01 * size:
            times = (f", {_times(slope, stated):.3g} times that. Is the value multiplied (by T², "
                     "by a weight) after the gradients were computed, or has a term no gradient?"
                     if number == 0 else ". Has a term of the value no gradient, or is a part of "
                     "what depends on the student detached?")
            return (f"Expected a value whose slope is its gradient, {stated:.4g}, got a slope of "
                    f"{slope:.4g}{times}")


def _length(case):
    for B, N in [(1, N) for N in range(1, 13)] + [(3, 5)]:
        student, teacher, answers = _draw(B, N, seed=N)
        answers = answers % V  # all count
        every = [x.flatten(0, 1) for x in (student, teacher, answers)]
        try:
            alone = sum(case.value(*(x[i][None, None] for x in every)) for i in range(B * N))
            whole = case.value(student, teacher, answers)
        except Exception as error:  # of anybody's code
            return (f"Expected a loss for each number of positions, got {type(error).__name__} for "
                    f"{B} x {N}: {error}")
        if not _close(whole, alone / (B * N)):
            factor = _times(whole * B * N, alone)
            hint = ("it is the sum, or divided by a number of its own: divide by the number of "
                    "labels" if _close(factor, B * N) else "is it cut into chunks, and are logits "
                    "and labels cut at the same places? Is it divided by the number of labels that "
                    "count, whatever their number?")
            return (f"Expected the mean of its positions, {alone / (B * N):.4g}, for {B} x {N} "
                    f"positions, got {whole:.4g}, {factor:.3g} times that: {hint}")


def _padding(case):
    student, teacher, answers = _draw()
    before, rng = case.value(student, teacher, answers), generator(0, "checks", "padding")
    for more in (1, 3):
        longer = [torch.cat([x, 20 * torch.randn(2, more, V, generator=rng)], 1)
                  for x in (student, teacher)]
        after = case.value(*longer, F.pad(answers, (0, more), value=IGNORE))
        if not _close(before, after):
            return (f"Expected positions that are labelled -100 to move nothing, got {after:.4g} "
                    f"instead of {before:.4g} with {more} more of them. Take values where labels "
                    "are not -100, and divide by their number.")


def _shift(case):
    student, teacher, answers = _draw()
    moved = answers.roll(1, 1)
    if _close(case.value(student, teacher, answers), case.value(student, teacher, moved)):
        return ("Expected labels that are moved by one place to move the loss, got the same value. "
                "Are they read at all, and is their mask?")
    _, gradient, _ = gradients(case, student, teacher, answers)
    found = gradient.reshape(student.shape).abs().amax(-1) > 0
    counts = answers != IGNORE
    if not found.equal(counts):
        by = [n for n in (1, -1) if found.equal(_moved(counts, n))]
        where = (f"at those {'after' if by[0] > 0 else 'before'} them: the labels, or their mask, "
                 "are used a place off. Position n predicts token n + 1: compare logits[:, :-1] "
                 "with labels[:, 1:], the mask included" if by else f"at others: {_shown(found)}")
        return (f"Expected a gradient at the positions that count, {_shown(counts)}, got one "
                f"{where}.")


def _moved(mask, by: int):
    """Move by a place, to the right or to the left, with False where nothing comes from."""
    return F.pad(mask, (by, -by))


def _shown(mask) -> str:
    return " and ".join("".join("x" if one else "." for one in row) for row in mask.tolist())


def _total(case):
    if case.total is None:
        return None
    inputs = _draw()
    try:
        without = case.value(*inputs, total=None)
    except TypeError:  # it cannot do without
        return None
    stated = case.value(*inputs)
    if not _close(stated, without):
        return (f"Expected the same loss with {case.total} = {int((inputs[2] != IGNORE).sum())}, "
                f"the number of labels, and without, got {stated:.4g} and {without:.4g}, "
                f"{_times(without, stated):.3g} times that. Is the mean also one over classes?")


def _vocabulary(case):
    student, teacher, answers = _draw()
    before, more = case.value(student, teacher, answers), 4
    after = case.value(*(F.pad(x, (0, more), value=MASKED) for x in (student, teacher)), answers)
    if not _close(before, after):
        return (f"Expected {more} outputs with logits of {MASKED:g} on both sides to change "
                f"nothing, got {after:.4g} instead of {before:.4g}, {_times(after, before):.4g} "
                "times that. Is it divided by the number of outputs? Sum over them.")
    for sides in ((more, 0), (0, more)):
        who, other = ("student", "teacher") if sides[0] else ("teacher", "student")
        advice = f"Pad the {other} with -inf, a masked class: 0 is a logit like any other."
        lift = [7.0 * (n == 0) for n in sides]  # of the shorter one: no softmax notices
        try:
            masked, plain = ([F.pad(x, (0, n), value=value)
                              for x, n in zip((student, teacher), sides, strict=True)]
                             for value in (MASKED, 1.0))
            after, one, two = (case.value(*inputs, answers) for inputs in (
                masked, plain, [x + n for x, n in zip(plain, lift, strict=True)]))
        except Exception:  # refused, which is right as well
            continue
        if not _close(before, after):
            return (f"Expected {more} more outputs of the {who}, with logits of {MASKED:g}, to "
                    f"change nothing, got {after:.4g} instead of {before:.4g}. {advice}")
        if not _close(one, two) and (math.isfinite(one) or math.isfinite(two)):
            return (f"Expected 7 added to all logits of the {other}, which has {more} outputs "
                    f"less, to change nothing, got {two:.4g} instead of {one:.4g}. {advice}")


def _precision(case):
    _, teacher, answers = _draw()
    noise = torch.randn(teacher.shape, generator=generator(0, "checks", "precision"))
    halves = [x.bfloat16() for x in (teacher + 0.05 * noise, teacher)]
    try:
        _, found, _ = gradients(case, *halves, answers)
    except Exception:  # refused
        return None
    _, expected, _ = gradients(case, *(x.float() for x in halves), answers)
    off = float((found.float() - expected).norm() / expected.norm())
    if not off < 0.02:
        return (f"Expected the gradient of the same numbers in float32 for logits in bfloat16, got "
                f"one that is {off:.0%} off. Convert before the softmax: student.float().")


def _mass(case):
    _, teacher, answers = _draw()
    teacher[..., :4] += 10
    teacher[..., -V // 4 :] -= 10
    lifted = teacher.clone()
    lifted[..., -V // 4 :] += 20
    answers = answers.where(answers == IGNORE, answers % 4)
    equal, moved = (case.value(x, teacher, answers, top=V // 4) for x in (teacher, lifted))
    if not moved > equal + 1e-3 * abs(equal) + 1e-4:
        return ("Expected a larger loss for a student that gives probability to outputs to which "
                f"the teacher gives almost none, got {moved:.4g} instead of {equal:.4g}. Are "
                "probabilities renormalised within the largest? Compare the rest as one more "
                "class.")


def _ends(case):
    if case.beta is None:
        return None
    student, teacher, answers = (x / 2 if x.is_floating_point() else x for x in _draw())
    scale = max(abs(case.value(student, teacher, answers, beta=b)) for b in (0.25, 0.5, 0.75))
    for end, near in ((0.0, 1e-5), (1.0, 1 - 1e-5)):
        at, beside = (case.value(student, teacher, answers, beta=b) for b in (end, near))
        if not abs(at - beside) <= 0.05 * scale:
            return (f"Expected about the same loss at {case.beta} = {near:g} and {end:g}, got "
                    f"{beside:.4g} and {at:.4g}. Divide by β (1 - β), and its ends are the two KL "
                    "divergences, or let the ends be 0.")


def _temperature(case):
    if case.T is not None:
        one, other = (case.value(*_draw(), T=T) for T in (1.0, 3.0))
        if _close(one, other):
            return (f"Expected another loss at {case.T} = 3 than at 1, got {one:.4g} for both. Is "
                    "it used in the loss, or for sampling only?")


LAWS = {"slope": _slope, "length": _length, "padding": _padding, "shift": _shift,
        "total": _total, "vocabulary": _vocabulary, "precision": _precision, "mass": _mass,
        "ends": _ends, "temperature": _temperature}


def _distributed(step, case):
    """Yield (law, sentence) where a step depends on how samples are distributed."""
    student, teacher, answers = _draw(6, 7)
    student, every = student.requires_grad_(), int((answers != IGNORE).sum())

    def run(*counts):
        """Run a step on so many samples in each micro-batch, a list for each process."""
        parts = iter(zip(*(x.split([n for one in counts for n in one])
                           for x in (student, teacher, answers)), strict=True))
        value = step([[case.labelled(*next(parts)) for _ in one] for one in counts])
        return float(value.detach()), torch.autograd.grad(value, student)[0]

    whole, gradient = run([6])
    singles = [step([[case.labelled(*(x[b : b + 1, n : n + 1]
                                      for x in (student, teacher, answers)))]])
               for b, n in (answers != IGNORE).nonzero().tolist()]
    mean = float(sum(singles).detach()) / every
    if not _close(whole, mean):
        yield "length", (f"Expected the mean of the positions that count, {mean:.4g}, got "
                         f"{whole:.4g} for {every} of them, {_times(whole, mean):.3g} times that. "
                         "Is it divided by their number, or by the number of others?")
    for law, counts, words in (("accumulation", [[1, 2, 3]], "3 micro-batches"),
                               ("processes", [[2], [4]], "2 processes"),
                               ("processes", [[1, 2], [2, 1]], "2 processes of 2 micro-batches")):
        value, found = run(*counts)
        off = float((found - gradient).norm() / gradient.norm())
        if _close(value, whole) and off < 1e-3:
            continue
        size = float(found.norm() / gradient.norm())
        number = len(counts)
        hint = (f"1/{number} of it: DDP takes the mean over the processes, so a loss that is "
                "divided by the labels of all is multiplied by the number of processes"
                if number > 1 and _close(size, 1 / number) and _close(value * number, whole) else
                "it is a mean of means, or divided by a number of each part. Divide sums by the "
                "number of labels in all parts of all processes")
        yield law, (f"Expected a loss of {whole:.4g} as in one batch, got {value:.4g} in {words}: "
                    f"{hint}. The gradient is {off:.0%} off.")
        break
    if case.total:
        empty = torch.full_like(answers[:1], IGNORE)
        try:
            value = case.value(student[:1], teacher[:1], empty, total=every)
        except Exception as error:  # of anybody's code
            value = f"{type(error).__name__}: {error}"
        if value != 0:
            yield "empty", (f"Expected 0 for a part without a label, got {value}. Divide by the "
                            "number of labels in all parts, which is not 0.")


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-3 * max(abs(one), abs(other))


def _times(one: float, other: float) -> float:
    return one / other if other else float("inf")
