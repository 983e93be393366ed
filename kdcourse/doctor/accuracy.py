"""A teacher's accuracy, and what would make a low one higher.

Shapes: N samples, M rows, K classes.
"""

import contextlib
import math

import torch
from scipy.optimize import linear_sum_assignment

from kdcourse import measure, taps
from kdcourse._random import generator
from kdcourse.data import Split
from kdcourse.doctor.setup import labelled
from kdcourse.tasks import Classes
from kdcourse.teachers import Cached, Live

SAMPLES = 500  # on which the accuracy is measured
FEWER = 200  # on which other inputs are tried
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std that many models expect
NORMALIZE = ("Say so: kd.Live(model, transform=v2.Normalize({}, {})), with v2 of "
             "torchvision.transforms, or put it in front of the model.")
UNTRAINED = "Was it trained, and were its weights loaded, those of the last layer too? Are its"


@torch.no_grad()
def examine(teacher) -> None:
    """Report an accuracy near chance, below the student's, or higher with other inputs or order."""
    data = teacher.setup.data
    task = data.task
    if getattr(data.val, "first", data.val).y is None or not task.has_classes:
        return
    if isinstance(data.val, Split):
        split = labelled(data.val.to("cpu"))
        split = split[torch.randperm(len(split), generator=generator(0, "doctor"))[:SAMPLES]]
    else:
        split = labelled(data.val.some(SAMPLES))
    if not len(split):
        return
    try:
        logits_MK, y_M = taps.predict_split(teacher.predict, split)
    except (TypeError, ValueError):  # its outputs are features
        return
    if not isinstance(task, Classes):
        if logits_MK is not None:
            _against_most_frequent(teacher, logits_MK, _hard(y_M))
    elif logits_MK is None:
        _on_training_samples(teacher, split.head(2))
    elif not _explained(teacher, logits_MK, _hard(y_M), split.x) and teacher.setup.scheme.scored:
        teacher.look("the teacher is better than the student")
        right = measure.accuracy(logits_MK, y_M)
        students = measure.accuracy(taps.predict(teacher.setup.scheme.student, split.x), y_M)
        if _clearly_better(students, right, len(y_M), 0.02):
            teacher.report(
                f"The student is better than its teacher already: {students:.1%} against "
                f"{right:.1%} of {len(y_M)} validation samples.",
                "It would be pulled down to it.", "Are the two in each other's place?")


def _against_most_frequent(teacher, logits_MK, y_M) -> None:
    right, guessing = measure.accuracy(logits_MK, y_M), float(y_M.bincount().max()) / len(y_M)
    teacher.look(f"what the teacher knows: {right:.1%} of {len(y_M)} validation labels")
    if right < guessing:
        teacher.report(
            f"{teacher.name} is worse than guessing: right on {right:.1%} of {len(y_M)} validation "
            f"labels, where the most frequent one is {guessing:.1%}.",
            "Then it has little to teach.",
            f"{UNTRAINED} inputs and the order of its outputs those of its training?")


def _on_training_samples(teacher, x) -> None:
    """Examine stored answers; in an ensemble first those of members that predict nothing for x."""
    batches, read = [], 0
    for batch in map(labelled, teacher.setup.batches(100)):
        if len(batch):
            batches.append(batch)
        read += len(batch)
        if read >= SAMPLES:
            break
    if not batches:
        return
    y_N = torch.cat([_hard(batch.y) for batch in batches]).cpu()
    for one in teacher.with_members():
        logits = [one.answer(batch) for batch in batches]
        if (all(answer is not None for answer in logits)
                and (one is teacher or one.predict(x) is None)
                and _explained(one, torch.cat(logits), y_N)):
            return


def _explained(teacher, logits_NK, y_N, x=None) -> bool:
    """Report a low accuracy; True where one was found, or none can be measured. x: the inputs."""
    if y_N.max() >= logits_NK.shape[1] or torch.isnan(logits_NK).any():
        return True
    right, samples = measure.accuracy(logits_NK, y_N), "training" if x is None else "validation"
    if _classes_in(y_N) == 1:
        teacher.report(
            f"All {len(y_N)} {samples} labels that were looked at are of one class, "
            f"{teacher.setup.data.classes[int(y_N[0])]!r}.",
            "No accuracy on them says how good a network is.",
            "Where there are no labels, pass y=None in place of invented ones (with a loader: "
            "batches (x, None)). Where a loader goes through its samples class by class, shuffle "
            "them.")
        return True
    teacher.look(f"what {teacher.name[0].lower()}{teacher.name[1:]} knows: {right:.1%} of "
                 f"{len(y_N)} {samples} samples")
    found = None
    if right < 0.95:
        found = (_other_inputs(teacher, logits_NK, y_N, x)
                 or _other_order(teacher, logits_NK, y_N, samples))
    # The expected accuracy of the same answers to randomly drawn images.
    counts = measure.confusion(logits_NK, y_N).float()
    guessing = float(counts.sum(0) @ counts.sum(1)) / len(y_N) ** 2
    error = math.sqrt(guessing * (1 - guessing) / len(y_N))
    if not found and right - guessing < max(0.1 * (1 - guessing), 2 * error):
        found = (f"{teacher.name} is hardly better than guessing: right on {right:.1%} of "
                 f"{len(y_N)} {samples} samples, where guessing gives {guessing:.1%}.",
                 "Then it has nothing to teach.",
                 "Are its answers in the order of the training samples?" if x is None else
                 f"{UNTRAINED} inputs what it was trained on?")
    if found:
        teacher.report(*found)
    return found is not None


def _other_inputs(teacher, logits_NK, y_N, x) -> tuple[str, str, str] | None:
    """Find inputs with which the teacher would be clearly better."""
    if not isinstance(x, torch.Tensor):
        return None
    teacher.look("the teacher's inputs are normalised as it expects")
    x, y_N, right = x[:FEWER], y_N[:FEWER], measure.accuracy(logits_NK[:FEWER], y_N[:FEWER])
    tried = [(measure.accuracy(logits, y_N), words, remedy) for words, inputs, remedy in _changed(x)
             if (logits := teacher.predict(inputs)) is not None]
    live = teacher.module.source if isinstance(teacher.module, Cached) else teacher.module
    if isinstance(live, Live) and live.transform is not None:
        with contextlib.suppress(Exception):  # without it the network may not take the inputs
            tried.append((measure.accuracy(taps.predict(live.model, x), y_N),
                          "the transform of kd.Live left out",
                          "Leave it out: the model normalises for itself."))
    best, words, remedy = max(tried, key=lambda one: one[0], default=(0.0, "", ""))
    if not _clearly_better(best, right, len(y_N), 0.1, _classes_in(y_N)):
        return None
    return (f"{teacher.name} expects other inputs: with {words} it is right on {best:.1%} of "
            f"{len(y_N)} validation samples, as they are on {right:.1%}.",
            "It was trained with another normalisation.", remedy)


def _changed(x):
    """Yield the inputs as other data sets have them: what was done, the inputs, the remedy."""
    yield "inputs from 0 to 255", x * 255, NORMALIZE.format([0], "[1 / 255]")
    yield "inputs from -1 to 1", 2 * x - 1, NORMALIZE.format([0.5], [0.5])
    yield "inputs divided by 255", x / 255, "Divide by 255: data in this package lies in [0, 1]."
    yield ("inputs brought back from [-1, 1] to [0, 1]", (x + 1) / 2,
           "Leave inputs in [0, 1]: every model normalises for itself.")
    yield "light and dark reversed", x.min() + x.max() - x, "Reverse them: 1 - x."
    dims = tuple(range(x.ndim))
    if x.ndim == 4:
        dims, (mean, std) = (0, 2, 3), torch.tensor(IMAGENET).view(2, 3, 1, 1)
        if x.shape[1] == 3:
            yield "the channels in reverse (BGR)", x.flip(1), "Reverse them: x.flip(1)."
        else:
            mean, std = mean.mean(), std.mean()
        yield "ImageNet's mean and standard deviation", (x - mean) / std, _normalize(mean, std)
        yield ("ImageNet's normalisation undone", x * std + mean,
               "Normalise once: the model does it already.")
    mean, std = x.mean(dims, keepdim=True), x.std(dims, keepdim=True).clamp_min(1e-6)
    yield "the data's own mean and standard deviation", (x - mean) / std, _normalize(mean, std)


def _normalize(*mean_and_std: torch.Tensor) -> str:
    return NORMALIZE.format(*([round(value, 3) for value in tensor.flatten().tolist()]
                              for tensor in mean_and_std))


def _other_order(teacher, logits_NK, y_N, samples: str) -> tuple[str, str, str] | None:
    """Find an order of the outputs with which the teacher would be clearly better."""
    classes = teacher.setup.data.classes
    K = len(classes)
    if len(y_N) < 2 * K:
        return None
    teacher.look("the teacher's outputs are in the order of the classes")
    ranked = y_N.argsort(stable=True)
    fitted, judged = ranked[::2], ranked[1::2]  # on its own half any fitted order looks better
    counts = measure.confusion(logits_NK[fitted], y_N[fitted])[:K]
    _, order = linear_sum_assignment(counts.numpy(), maximize=True)
    logits_NK, y_N = logits_NK[judged], y_N[judged]
    right, best = (measure.accuracy(logits, y_N) for logits in (logits_NK, logits_NK[:, order]))
    if not _clearly_better(best, right, len(y_N), 0.1, _classes_in(y_N)):
        return None
    moved = [k for k, output in enumerate(order) if output != k and counts[k, output] > 0]
    shown = ", ".join(f"{classes[k]!r} is its output {order[k]}, not {k}" for k in moved[:3])
    return (f"{teacher.name}'s classes are in another order: with its outputs reordered it is "
            f"right on {best:.1%} of {len(y_N)} {samples} samples, as they are on {right:.1%}.",
            f"It teaches the wrong class: {shown}{', and so on' if len(moved) > 3 else ''}.",
            "Bring its outputs into the order of data.classes: logits[:, order].")


def _clearly_better(better: float, worse: float, count: int, margin: float, classes: int = 0):
    """Compare two accuracies; the best of several tries must also be far above chance, where so
    many classes occur."""
    error = math.sqrt((better * (1 - better) + worse * (1 - worse)) / count)
    high = not classes or better > 0.3 + 0.7 / classes
    return high and better - worse > max(margin, 3 * error)


def _classes_in(y_N: torch.Tensor) -> int:
    return len(y_N.unique())


def _hard(y: torch.Tensor) -> torch.Tensor:
    return y if y.ndim == 1 else y.argmax(1)
