"""How the teacher answers, and what it knows.

Shapes: N samples, K classes.
"""

import contextlib
import math

import torch

from kdcourse import measure
from kdcourse._random import generator
from kdcourse.doctor.setup import are_probabilities, on_batch, on_inputs
from kdcourse.taps import predict
from kdcourse.tasks import ONE_LABEL, each
from kdcourse.teachers import Cached, Ensemble, Live

SAMPLES = 500  # on which the teacher's accuracy is measured
VIEWS = 8  # for which stored answers are compared, spread over all
FEWER = 200  # on which other normalisations are tried
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std that many models expect


def _members(teacher) -> list:
    """The teachers of an ensemble, and of ensembles within it."""
    if not isinstance(teacher, Ensemble):
        return []
    return [one for member in teacher.teachers for one in _members(member) or [member]]


@torch.no_grad()
def answers(source) -> None:
    """How the teacher answers, right or wrong."""
    setup = source.setup
    x, told = setup.batch.x, source.on_batch(setup.batch) if setup.fits else None
    asked = source.on_inputs(x)
    logits = told if told is not None else asked
    if logits is None:
        return
    source.look("the teacher answers with logits")
    if not torch.isfinite(logits).all() and not (logits == -torch.inf).any():
        source.report("The teacher answers with NaN or inf.", "So does the loss.",
                     "Look at its weights and at its inputs.")
        return
    if are_probabilities(logits, setup.data.task):
        source.report(
            "The teacher answers with probabilities, where logits belong.",
            "The softmax of a softmax is almost uniform: it hardly teaches anything.",
            "Take the softmax off its end.")
    if asked is None:
        _aligned(source)
        return
    close = 1e-3 * (asked.masked_fill(~asked.isfinite(), 0).std(correction=0) + 1e-6)
    again = source.on_inputs(x)
    source.look("the teacher gives the same answer to the same image")
    if _apart(asked, again).max() > close:
        source.report(
            "The teacher changes its mind: the same batch twice, two answers, in eval mode.",
            "The student learns noise.",
            "Look for F.dropout(x) without training=self.training, and other chance in its "
            "forward.")
        return
    source.look("the teacher's answer does not depend on the rest of the batch")
    if len(setup.batch) > 2:
        half = (len(setup.batch) - 1) // 2
        one, other = (source.on_inputs(each(lambda t, i=i: torch.cat(
            [t[:1], t[1:].flip(0)[i::2][:half]]), x)) for i in (0, 1))
        if one is None or other is None or _apart(one[:1], other[:1]).max() > 10 * close:
            source.report(
                "The teacher's answer to an image depends on the other images of the batch.",
                "The same image teaches something else in every epoch, and single images "
                "something else again.",
                "Look for batch normalisation with track_running_stats=False: it has no "
                "statistics of its own to use in eval mode.")
            return
    _aligned(source)


def _aligned(source) -> None:
    """Does the scheme get for each sample what the teacher answers to that sample?"""
    if not source.setup.fits or source.plain:
        return
    looked, stale = False, None
    for who, teacher in [*_named(source.teacher), ("The teacher", source.teacher)]:
        for batch in _batches(source.setup):
            told = on_batch(teacher, batch)
            asked = on_inputs(teacher, batch.x, batch.y) if told is not None else None
            if asked is None:
                break
            looked = True
            off, wrong = _astray(told, asked)
            if 2 * wrong > len(off):
                view = f" (view {batch.view})" if batch.view else ""
                source.report(
                    f"{who}'s answers belong to other samples or views{view}: {wrong} of "
                    f"{len(off)} are what it says of another image.",
                    "The student is taught the wrong thing about each image; what is left is label "
                    "smoothing.",
                    "Look answers up by batch.index, or make kd.Cached(teacher, data) again.")
                return
            if stale is None and off.any() and isinstance(teacher, Cached):
                stale = (f"{int(off.sum())} of {len(off)} stored answers are not what the teacher "
                         "says of these samples now.")
    if looked:
        source.look("the teacher's answers belong to their samples")
    if stale is not None:
        source.report(stale, "Either the teacher or the stored answers were changed since.",
                     "Make kd.Cached(teacher, data) again.")


def _named(teacher) -> list:
    """(what to call it, teacher) for each in an ensemble."""
    return [(f"Teacher {number} of the ensemble", member)
            for number, member in enumerate(_members(teacher), 1)]


def _batches(setup):
    """The batch, and of augmented data one batch of each of a few views."""
    yield setup.batch
    views = getattr(setup.train, "views", None) or 1
    later = range(2, views + 1)
    count = min(VIEWS, views) - 1
    for place in range(count):
        view = later[round(place * (len(later) - 1) / max(count - 1, 1))]
        yield next(setup.train.batches(min(32, len(setup.train)), seed=0, epoch=view - 1))


def _astray(told, asked) -> tuple[torch.Tensor, int]:
    """Which answers are not those to their samples, and how many are those to another one."""
    told, asked = told.cpu(), asked.cpu()  # the network behind stored answers may be elsewhere
    spread = asked.masked_fill(~asked.isfinite(), 0).std(correction=0) + 1e-6
    off = _apart(told, asked).flatten(1).amax(1) > 0.1 * spread
    nearest = torch.cdist(*(_finite(z).flatten(1) for z in (told, asked))).argmin(1)
    return off, int((off & (nearest != torch.arange(len(off)))).sum())


# --- what the teacher knows ---------------------------------------------------------------------


@torch.no_grad()
def accuracy(source) -> None:
    """How often the teacher is right, and would be with other inputs or another class order."""
    setup, task = source.setup, source.setup.data.task
    split, what = setup.data.val.to("cpu"), "validation"
    if split.y is None or not task.has_classes:
        return
    order = torch.randperm(len(split), generator=generator(0, "doctor"))[:SAMPLES]
    split = split[order]
    x, logits = split.x, source.on_inputs(split.x)
    if task != ONE_LABEL:
        _of_rows(source, split, logits)
        return
    y = _hard(split.y)
    if logits is None:  # it answers for training samples only
        if any(_at_chance(source, *member) for member in _named(source.teacher)):
            return
        what, x = "training", None
        logits, y = _of_training(setup, source.teacher)
        if logits is None:
            return
    logits = logits.cpu()
    if y.max() >= logits.shape[1] or torch.isnan(logits).any():
        return
    right, guessing = measure.accuracy(logits, y), _guessing(logits, y)
    source.look(f"what the teacher knows: {right:.1%} of {len(y)} {what} samples")
    if right < 0.95 and (_other_inputs(source, x, y) or _other_order(source, logits, y, what)):
        return  # that explains the rest
    if _guesses(right, guessing, len(y)):
        source.report(
            f"The teacher is hardly better than guessing: right on {right:.1%} of {len(y)} "
            f"{what} samples, where guessing gives {guessing:.1%}.",
            "Then it has nothing to teach.",
            "Was it trained, and were its weights loaded, those of the last layer too? Are its "
            "inputs what it was trained on?")
    elif x is not None and setup.fits:
        source.look("the teacher is better than the student")
        theirs = measure.accuracy(predict(setup.scheme.student, x).cpu(), y)
        if _better(theirs, right, len(y), 0.02):
            source.report(
                f"The student is better than its teacher already: {theirs:.1%} against "
                f"{right:.1%} of {len(y)} validation samples.",
                "It would be pulled down to it.",
                "Are the two in each other's place?")


def _of_rows(source, split, logits) -> None:
    """`accuracy` of a task with other rows than samples: only whether it is at chance."""
    try:
        rows = source.setup.data.task.rows(logits.cpu(), split.x, split.y).counted()
        right = measure.accuracy(rows.logits, rows.labels)
    except (AttributeError, ValueError):  # no answer, or outputs that are no rows of this task
        return
    y, classes = _hard(rows.labels), rows.logits.shape[1]
    guessing = float(torch.bincount(y, minlength=classes).max() / len(y))
    source.look(f"what the teacher knows: {right:.1%} of {len(y)} rows of the validation split")
    if right < guessing:
        source.report(
            f"The teacher is worse than the most frequent class: right on {right:.1%} of {len(y)} "
            f"rows of the validation split, where that class alone gives {guessing:.1%}.",
            "Then it has little to teach.",
            "Was it trained, and were its weights loaded? Are its inputs, and the order of its "
            "outputs, what it was trained on?")


def _of_training(setup, teacher):
    """A teacher's logits for training samples and their labels; None where it gives none."""
    batches = setup.train.batches(min(100, len(setup.train)), seed=0)
    rows = [(on_batch(teacher, batch), _hard(batch.y).cpu())
            for batch, _ in zip(batches, range(SAMPLES // 100), strict=False)]
    if any(answer is None for answer, _ in rows):
        return None, None
    return torch.cat([answer.cpu() for answer, _ in rows]), torch.cat([y for _, y in rows])


def _at_chance(source, who: str, teacher) -> bool:
    """Is a part of an ensemble, with answers and no network behind them, at chance?"""
    if on_inputs(teacher, source.setup.batch.x) is not None:
        return False
    logits, y = _of_training(source.setup, teacher)
    if logits is None or y.max() >= logits.shape[1] or torch.isnan(logits).any():
        return False
    right, guessing = measure.accuracy(logits, y), _guessing(logits, y)
    source.look(f"what {who[0].lower()}{who[1:]} knows: {right:.1%} of {len(y)} training "
               "samples")
    if not _guesses(right, guessing, len(y)):
        return False
    source.report(
        f"{who} is hardly better than guessing: right on {right:.1%} of {len(y)} training "
        f"samples, where guessing gives {guessing:.1%}.",
        "Then it has nothing to teach, and the others teach less.",
        "Are its answers in the order of the training samples, and its outputs in that of "
        "data.classes?")
    return True


def _guesses(accuracy: float, guessing: float, count: int) -> bool:
    error = math.sqrt(guessing * (1 - guessing) / count)
    return accuracy - guessing < max(0.1 * (1 - guessing), 2 * error)


def _other_inputs(source, x, y) -> bool:
    """Would the teacher be clearly better if it saw the images otherwise?"""
    if x is None:
        return False
    source.look("the teacher's inputs are normalised as it expects")
    x, y = x[:FEWER], y[:FEWER]
    right = {}
    for words, seen, remedy in [("", x, ""), *_otherwise(x)]:
        logits = source.on_inputs(seen)
        if logits is None:
            continue
        right[words] = (measure.accuracy(logits.cpu(), y), remedy)
    teacher = source.teacher.source if isinstance(source.teacher, Cached) else source.teacher
    if isinstance(teacher, Live) and teacher.transform is not None:
        with contextlib.suppress(Exception):  # without it the network may not take the inputs
            right["the transform of kd.Live left out"] = (
                measure.accuracy(predict(teacher.model, x).cpu(), y),
                "Leave it out: the model normalises for itself.")
    asis, _ = right.pop("", (1.0, ""))
    words = max(right, key=lambda words: right[words][0], default=None)
    K = len(source.setup.data.classes)
    if words is None or not _better(right[words][0], asis, len(y), 0.1, K):
        return False
    best, remedy = right[words]
    source.report(
        f"The teacher expects other inputs: with {words} it is right on {best:.1%} of {len(y)} "
        f"validation samples, as they are on {asis:.1%}.",
        "It was trained with another normalisation, and here it guesses from what it never "
        "saw.", remedy)
    return True


def _other_order(source, logits, y, what) -> bool:
    """Would the teacher be clearly better if its outputs stood for other classes?"""
    from scipy.optimize import linear_sum_assignment

    classes = source.setup.data.classes
    K = len(classes)
    if len(y) < 2 * K:
        return False
    source.look("the teacher's outputs are in the order of the classes")
    answers, ranked = logits.argmax(1), y.argsort(stable=True)
    right = 0
    for fitted, tried in ((ranked[::2], ranked[1::2]), (ranked[1::2], ranked[::2])):
        # The order is found on one half and judged on the other: chance finds one, too.
        _, order = linear_sum_assignment(_counts(answers[fitted], y[fitted], K, logits.shape[1])
                                         .numpy(), maximize=True)
        right += int((torch.from_numpy(order)[y[tried]] == answers[tried]).sum())
    asis, best = measure.accuracy(logits, y), right / len(y)
    if not _better(best, asis, len(y), 0.1, K):
        return False
    counts = _counts(answers, y, K, logits.shape[1])
    _, order = linear_sum_assignment(counts.numpy(), maximize=True)
    moved = [k for k in range(K) if order[k] != k and counts[k, order[k]] > 0]
    shown = ", ".join(f"{classes[k]!r} is its output {order[k]}, not {k}"
                      for k in moved[:3])
    source.report(
        f"The teacher's classes are in another order: with its outputs reordered it is right "
        f"on {best:.1%} of {len(y)} {what} samples, as they are on {asis:.1%}.",
        f"It teaches the wrong class: {shown}{', and so on' if len(moved) > 3 else ''}.",
        "Bring its outputs into the order of data.classes: logits[:, order].")
    return True


def _otherwise(x):
    """Other ways to show the same inputs: what was done, the inputs, what to do about it."""
    low, high = float(x.min()), float(x.max())
    channels = x.shape[1] if x.ndim == 4 else 1
    dims = (0, 2, 3) if x.ndim == 4 else tuple(range(x.ndim))
    per_channel = (-1, 1, 1) if x.ndim == 4 else (-1,)

    def live(mean, std):
        return (f"Say so: kd.Live(model, transform=v2.Normalize({mean}, {std})), with v2 of "
                "torchvision.transforms, or put it in front of the model.")

    ways = []
    if low >= 0 and high <= 1:
        ways += [("inputs from 0 to 255", x * 255, live([0], "[1 / 255]")),
                 ("inputs from -1 to 1", 2 * x - 1, live([0.5], [0.5]))]
    elif low >= 0:
        ways += [("inputs divided by 255", x / 255,
                  "Divide by 255: data in this package lies in [0, 1].")]
    else:
        ways += [("inputs brought back from [-1, 1] to [0, 1]", (x + 1) / 2,
                  "Leave inputs in [0, 1]: every model normalises for itself.")]
    mean, std = (torch.tensor(row) for row in IMAGENET)
    if channels == 1:
        mean, std = mean.mean()[None], std.mean()[None]
    if channels in (1, 3) and x.ndim == 4:
        mean, std = mean.view(per_channel), std.view(per_channel)
        ways += [("ImageNet's mean and standard deviation", (x - mean) / std,
                  live(*([round(v, 3) for v in row.flatten().tolist()] for row in (mean, std)))),
                 ("ImageNet's normalisation undone", x * std + mean,
                  "Normalise once: the model does it already.")]
    if channels == 3:
        ways += [("the channels in reverse (BGR)", x.flip(1), "Reverse them: x.flip(1).")]
    mean, std = x.mean(dims).view(per_channel), x.std(dims).clamp_min(1e-6).view(per_channel)
    ways += [("the data's own mean and standard deviation", (x - mean) / std,
              live(*([round(v, 3) for v in row.flatten().tolist()] for row in (mean, std)))),
             ("light and dark reversed", low + high - x, "Reverse them: 1 - x.")]
    return ways


def _better(one: float, other: float, count: int, margin: float, classes: int = 0) -> bool:
    """Clearly: by the margin, and by more than three standard errors of a difference; with
    `classes`, also far from guessing, where something is always better by chance."""
    error = math.sqrt((one * (1 - one) + other * (1 - other)) / count)
    known = not classes or one > 0.3 + 0.7 / classes
    return known and one - other > max(margin, 3 * error)


def _guessing(logits, y) -> float:
    """The accuracy of the same answers, given to the wrong images."""
    classes = logits.shape[1]
    share = torch.bincount(logits.argmax(1), minlength=classes) / len(y)
    return float((share * torch.bincount(y, minlength=classes) / len(y)).sum())


def _counts(answers, y, K: int, outputs: int) -> torch.Tensor:
    """[K, outputs]: how often each class got each answer."""
    return torch.bincount(y * outputs + answers, minlength=K * outputs).view(K, outputs)


def _apart(a, b) -> torch.Tensor:
    return (_finite(a) - _finite(b)).abs()


def _finite(logits) -> torch.Tensor:
    """A masked class (-inf) must not turn a difference into NaN."""
    return torch.nan_to_num(logits, neginf=0.0)


def _hard(y) -> torch.Tensor:
    return y if y.ndim == 1 else y.argmax(1)
