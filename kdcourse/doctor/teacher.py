"""How the teacher answers, and what it knows.

Shapes: B batch, N samples, K classes.
"""

import contextlib
import math

import torch
from scipy.optimize import linear_sum_assignment

from kdcourse import measure
from kdcourse._random import generator
from kdcourse.doctor.setup import probabilities
from kdcourse.taps import predict
from kdcourse.tasks import ONE_LABEL, each, first
from kdcourse.teachers import Cached, Live

SAMPLES = 500  # on which the teacher's accuracy is measured
VIEWS = 8  # for which stored answers are compared, spread over all
FEWER = 200  # on which other normalisations are tried
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std that many models expect


@torch.no_grad()
def answers(source) -> None:
    """How the teacher answers, right or wrong."""
    x = source.setup.batch.x
    predicted_BK = source.on_inputs(x)
    logits_BK = source.on_batch(source.setup.batch)
    logits_BK = predicted_BK if logits_BK is None else logits_BK
    if logits_BK is None:
        return
    source.look("the teacher answers with logits")
    if not torch.isfinite(logits_BK).all() and not (logits_BK == -torch.inf).any():
        source.report("The teacher answers with NaN or inf.", "So does the loss.",
                      "Look at its weights and at its inputs.")
        return
    probabilities(source, "teacher", logits_BK, source.setup.data.task)
    if predicted_BK is None or _steady(source, x, predicted_BK):
        _aligned(source)


def _steady(source, x, logits_BK) -> bool:
    """Does an answer depend on the image alone?"""
    close = 1e-3 * _spread(logits_BK)
    source.look("the teacher gives the same answer to the same image")
    if _apart(logits_BK, source.on_inputs(x)).max() > close:
        source.report(
            "The teacher changes its mind: the same batch twice, two answers, in eval mode.",
            "The student learns noise.",
            "Look for chance in its forward, such as F.dropout(x) without training=self.training.")
        return False
    source.look("the teacher's answer does not depend on the rest of the batch")
    if len(first(x)) > 2:
        half = (len(first(x)) - 1) // 2  # the first image, once with these others, once with those
        pair = [source.on_inputs(each(lambda t, i=i: torch.cat(
            [t[:1], t[1:].flip(0)[i::2][:half]]), x)) for i in (0, 1)]
        if any(one is None for one in pair) or _apart(*pair)[0].max() > 10 * close:
            source.report(
                "The teacher's answer to an image depends on the other images of the batch.",
                "The same image teaches something else in every epoch.",
                "Look for batch normalisation with track_running_stats=False.")
            return False
    return True


def _aligned(source) -> None:
    """Does the scheme get for each sample what the teacher answers to that sample?"""
    looked, stale = False, ""
    for one in [*source.members(), source]:
        for batch in _batches(source.setup):
            logits_BK, predicted_BK = one.on_batch(batch), one.on_inputs(batch.x, batch.y)
            if logits_BK is None or predicted_BK is None:
                break
            looked = True
            off_B, wrong = _astray(logits_BK, predicted_BK)
            if 2 * wrong > len(off_B):
                view = f" (view {batch.view})" if batch.view else ""
                source.report(
                    f"{one.name}'s answers belong to other samples or views{view}: {wrong} of "
                    f"{len(off_B)} are what it says of another image.",
                    "What is left of the teacher is label smoothing.",
                    "Look answers up by batch.index, or make kd.Cached(teacher, data) again.")
                return
            if not stale and off_B.any() and isinstance(one.teacher, Cached):
                stale = (f"{int(off_B.sum())} of {len(off_B)} stored answers are not what the "
                         "teacher says of these samples now.")
    if looked:
        source.look("the teacher's answers belong to their samples")
    if stale:
        source.report(stale, "Either the teacher or the stored answers were changed since.",
                      "Make kd.Cached(teacher, data) again.")


def _batches(setup):
    """A batch, and of augmented data one of each of a few views."""
    views = getattr(setup.train, "views", None) or 1
    for view in torch.linspace(1, views, min(VIEWS, views)).round().long().tolist():
        yield next(setup.train.batches(len(setup.batch), seed=0, epoch=view - 1))


def _astray(logits_BK, predicted_BK) -> tuple[torch.Tensor, int]:
    """Which answers are not those to their samples, and how many are those to another one."""
    # On the CPU: the network behind stored answers may be elsewhere.
    logits_BK, predicted_BK = (_finite(logits.cpu()).flatten(1)
                               for logits in (logits_BK, predicted_BK))
    off_B = _apart(logits_BK, predicted_BK).amax(1) > 0.1 * _spread(predicted_BK)
    nearest_B = torch.cdist(logits_BK, predicted_BK).argmin(1)
    return off_B, int((off_B & (nearest_B != torch.arange(len(off_B)))).sum())


# --- what the teacher knows ---------------------------------------------------------------------


@torch.no_grad()
def accuracy(source) -> None:
    """How often the teacher is right, and would be with other inputs or another class order."""
    setup, split, task = source.setup, source.setup.data.val.to("cpu"), source.setup.data.task
    if split.y is None or not task.has_classes:
        return
    split = split[torch.randperm(len(split), generator=generator(0, "doctor"))[:SAMPLES]]
    x, y, logits_NK = split.x, split.y, source.on_inputs(split.x)
    if task != ONE_LABEL:
        if logits_NK is not None:
            _rows_explained(source, split, logits_NK.cpu())
        return
    y = _hard(y)
    if logits_NK is None:  # it answers for training samples only
        for one in [*source.members(), source]:
            logits_NK, y = _of_training(one)
            if (logits_NK is not None and (one is source or one.on_inputs(x[:2]) is None)
                    and _explained(one, logits_NK, y)):
                return
    elif not _explained(source, logits_NK.cpu(), y, x):
        source.look("the teacher is better than the student")
        right = measure.accuracy(logits_NK.cpu(), y)
        students = measure.accuracy(predict(setup.scheme.student, x), y)
        if _better(students, right, len(y), 0.02):
            source.report(
                f"The student is better than its teacher already: {students:.1%} against "
                f"{right:.1%} of {len(y)} validation samples.",
                "It would be pulled down to it.", "Are the two in each other's place?")


def _rows_explained(source, split, logits) -> None:
    """Of tokens, pixels and several labels: is the teacher better than the most frequent label?"""
    try:
        rows = split.task.rows(logits, split.x, split.y).counted()
    except ValueError:  # its outputs are features
        return
    y_M = _hard(rows.labels)
    right, guessing = measure.accuracy(rows.logits, y_M), float(y_M.bincount().max()) / len(y_M)
    source.look(f"what the teacher knows: {right:.1%} of {len(y_M)} validation labels")
    if right < guessing:
        source.report(
            f"{source.name} is worse than guessing: right on {right:.1%} of {len(y_M)} validation "
            f"labels, where the most frequent one is {guessing:.1%}.",
            "Then it has little to teach.",
            "Was it trained, and were its weights loaded, those of the last layer too? Are its "
            "inputs and the order of its outputs those of its training?")


def _of_training(source):
    """A teacher's logits for training samples, and their labels; None for no logits."""
    train = source.setup.train
    batches = list(zip(train.batches(min(100, len(train)), seed=0), range(SAMPLES // 100),
                       strict=False))
    logits = [source.on_batch(batch) for batch, _ in batches]
    return (None if any(one is None for one in logits) else torch.cat(logits).cpu(),
            torch.cat([_hard(batch.y) for batch, _ in batches]).cpu())


def _explained(source, logits_NK, y, x=None) -> bool:
    """Measure the teacher's accuracy, and report what makes it low; True where something does, and
    where nothing can be measured. x: the inputs, where others can be tried."""
    if y.max() >= logits_NK.shape[1] or torch.isnan(logits_NK).any():
        return True
    right, what = measure.accuracy(logits_NK, y), "training" if x is None else "validation"
    source.look(f"what {source.name[0].lower()}{source.name[1:]} knows: {right:.1%} of {len(y)} "
                f"{what} samples")
    if right < 0.95 and (_other_inputs(source, logits_NK, y, x)
                         or _other_order(source, logits_NK, y, what)):
        return True
    # The same answers, given to the wrong images.
    K = logits_NK.shape[1]
    guessing = float(torch.bincount(logits_NK.argmax(1), minlength=K).float()
                     @ torch.bincount(y, minlength=K).float()) / len(y) ** 2
    error = math.sqrt(guessing * (1 - guessing) / len(y))
    if right - guessing >= max(0.1 * (1 - guessing), 2 * error):
        return False
    source.report(
        f"{source.name} is hardly better than guessing: right on {right:.1%} of {len(y)} "
        f"{what} samples, where guessing gives {guessing:.1%}.",
        "Then it has nothing to teach.",
        "Are its answers in the order of the training samples?" if x is None else
        "Was it trained, and were its weights loaded, those of the last layer too? Are its "
        "inputs what it was trained on?")
    return True


def _other_inputs(source, logits_NK, y, x) -> bool:
    """Would the teacher be clearly better if it saw the images otherwise?"""
    if x is None:
        return False
    source.look("the teacher's inputs are normalised as it expects")
    x, y, asis = x[:FEWER], y[:FEWER], measure.accuracy(logits_NK[:FEWER], y[:FEWER])
    found = [(measure.accuracy(logits.cpu(), y), words, remedy)
             for words, seen, remedy in _otherwise(x)
             if (logits := source.on_inputs(seen)) is not None]
    teacher = source.teacher.source if isinstance(source.teacher, Cached) else source.teacher
    if isinstance(teacher, Live) and teacher.transform is not None:
        with contextlib.suppress(Exception):  # without it the network may not take the inputs
            found.append((measure.accuracy(predict(teacher.model, x), y),
                          "the transform of kd.Live left out",
                          "Leave it out: the model normalises for itself."))
    best, words, remedy = max(found, key=lambda one: one[0], default=(0.0, "", ""))
    if not _better(best, asis, len(y), 0.1, len(source.setup.data.classes)):
        return False
    source.report(
        f"{source.name} expects other inputs: with {words} it is right on {best:.1%} of {len(y)} "
        f"validation samples, as they are on {asis:.1%}.",
        "It was trained with another normalisation.", remedy)
    return True


def _otherwise(x):
    """Other ways to show the same inputs: what was done, the inputs, what to do about it."""
    yield "inputs from 0 to 255", x * 255, _normalize([0], "[1 / 255]")
    yield "inputs from -1 to 1", 2 * x - 1, _normalize([0.5], [0.5])
    yield "inputs divided by 255", x / 255, "Divide by 255: data in this package lies in [0, 1]."
    yield ("inputs brought back from [-1, 1] to [0, 1]", (x + 1) / 2,
           "Leave inputs in [0, 1]: every model normalises for itself.")
    yield "light and dark reversed", x.min() + x.max() - x, "Reverse them: 1 - x."
    colours = x.ndim == 4 and x.shape[1] == 3
    if colours:
        yield "the channels in reverse (BGR)", x.flip(1), "Reverse them: x.flip(1)."
    if x.ndim == 4:
        mean, std = torch.tensor(IMAGENET).view(2, 3, 1, 1)
        if not colours:
            mean, std = mean.mean(), std.mean()
        yield "ImageNet's mean and standard deviation", (x - mean) / std, _normalize(mean, std)
        yield ("ImageNet's normalisation undone", x * std + mean,
               "Normalise once: the model does it already.")
    dims = (0, 2, 3) if x.ndim == 4 else tuple(range(x.ndim))
    mean, std = x.mean(dims, keepdim=True), x.std(dims, keepdim=True).clamp_min(1e-6)
    yield "the data's own mean and standard deviation", (x - mean) / std, _normalize(mean, std)


def _normalize(mean, std) -> str:
    mean, std = ([round(value, 3) for value in row.flatten().tolist()]
                 if isinstance(row, torch.Tensor) else row for row in (mean, std))
    return (f"Say so: kd.Live(model, transform=v2.Normalize({mean}, {std})), with v2 of "
            "torchvision.transforms, or put it in front of the model.")


def _other_order(source, logits_NK, y, what) -> bool:
    """Would the teacher be clearly better if its outputs stood for other classes?"""
    classes = source.setup.data.classes
    K = len(classes)
    if len(y) < 2 * K:
        return False
    source.look("the teacher's outputs are in the order of the classes")
    ranked = y.argsort(stable=True)
    fitted, judged = ranked[::2], ranked[1::2]  # found on one half: chance finds an order, too
    counts = measure.confusion(logits_NK[fitted], y[fitted])[:K]
    _, order = linear_sum_assignment(counts.numpy(), maximize=True)
    logits_NK, y = logits_NK[judged], y[judged]
    asis = measure.accuracy(logits_NK, y)
    best = measure.accuracy(logits_NK[:, order], y)
    if not _better(best, asis, len(y), 0.1, K):
        return False
    moved = [k for k in range(K) if order[k] != k and counts[k, order[k]] > 0]
    shown = ", ".join(f"{classes[k]!r} is its output {order[k]}, not {k}" for k in moved[:3])
    source.report(
        f"{source.name}'s classes are in another order: with its outputs reordered it is right "
        f"on {best:.1%} of {len(y)} {what} samples, as they are on {asis:.1%}.",
        f"It teaches the wrong class: {shown}{', and so on' if len(moved) > 3 else ''}.",
        "Bring its outputs into the order of data.classes: logits[:, order].")
    return True


def _better(one: float, other: float, count: int, margin: float, classes: int = 0) -> bool:
    """Clearly: by the margin, and by more than three standard errors of a difference; with
    `classes`, also far from guessing, where something is always better by chance."""
    error = math.sqrt((one * (1 - one) + other * (1 - other)) / count)
    known = not classes or one > 0.3 + 0.7 / classes
    return known and one - other > max(margin, 3 * error)


def _spread(logits_BK) -> torch.Tensor:
    return logits_BK.masked_fill(~logits_BK.isfinite(), 0).std(correction=0) + 1e-6


def _apart(a, b) -> torch.Tensor:
    return (_finite(a) - _finite(b)).abs()


def _finite(logits) -> torch.Tensor:
    """A masked class (-inf) must not turn a difference into NaN."""
    return torch.nan_to_num(logits, neginf=0.0)


def _hard(y) -> torch.Tensor:
    return y if y.ndim == 1 else y.argmax(1)
