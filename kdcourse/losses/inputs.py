"""Checks of what losses get: shapes, dtypes and settings, in a sentence, before any arithmetic.

B batch, K classes, C channels, H W height and width, N tokens, D features.
"""

import functools
import math

import torch

from kdcourse.layouts import Layout, arranged
from kdcourse.taps import Output


def full_precision(function):
    """Run a loss with autocast switched off: its products and sums stay in float32 at least."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor))
        device = next((x.device.type for x in tensors), "meta")
        if not torch.amp.is_autocast_available(device):  # "meta" has no autocast
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapped


def floats(x: torch.Tensor) -> torch.Tensor:
    """Convert to float32 at least; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()


ONE_LOGIT = ("The softmax of one logit is always 1. For a sigmoid output z pass the two logits (0, "
             "z), torch.cat([torch.zeros_like(z), z], 1), or give the data task=kd.tasks.Labels().")


def logits(x, who: str, least: int = 2) -> torch.Tensor:
    """Check logits [B, K] of `least` classes or more, and give them in float32 at least."""
    if isinstance(x, Output):
        x = x.logits
    if not isinstance(x, torch.Tensor) or x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"Expected {who} logits of shape [B, K], got {described(x)}.")
    if 0 in x.shape:  # the mean over no samples is NaN
        raise ValueError(f"Expected {who} logits with something in them, got {list(x.shape)}.")
    if x.shape[1] < least:
        raise ValueError(f"Expected {who} logits of 2 classes or more, got {list(x.shape)}. "
                         f"{ONE_LOGIT}")
    return x if x.dtype == torch.float64 else x.float()


def logits_pair(student, teacher, least: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Check logits of both sides, of one shape with `least` classes or more; the teacher's come
    without a gradient."""
    if not (isinstance(student, torch.Tensor) and isinstance(teacher, torch.Tensor)
            and student.ndim == 2 and student.shape == teacher.shape and len(student) > 0
            and student.shape[1] >= least > 0
            and student.is_floating_point() and teacher.is_floating_point()):
        student, teacher = logits(student, "student", least), logits(teacher, "teacher", least)
        if student.shape != teacher.shape:
            raise shape_error("logits of one shape [B, K]", student, teacher,
                              "Both must answer for the same classes in the same order.")
    student = student if student.dtype == torch.float64 else student.float()
    teacher = teacher if teacher.dtype == torch.float64 else teacher.float()
    return student, fixed(student, teacher)


def fixed(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Give the teacher's side without a gradient. Raises `ValueError` where the student's side has
    none while the teacher's has: then no network would learn."""
    if teacher.requires_grad and not student.requires_grad and torch.is_grad_enabled():
        raise ValueError("Expected a gradient on the student's side, got one on the teacher's "
                         "alone. The order is student, teacher; outside training, as for a "
                         "measure, use torch.no_grad().")
    return teacher.detach()


def labels(student_BK, y, ignore: int | None = None) -> torch.Tensor:
    """Check labels that fit the logits: int64 [B], or soft [B, K] in the logits' dtype. Class
    numbers on the CPU must lie in 0 … K - 1, or be `ignore`; on a GPU the check would wait for it.
    """
    if not isinstance(y, torch.Tensor) or y.shape not in (student_BK.shape[:1], student_BK.shape):
        got = described(y) if y is not None else (
            "none. Bring data with labels, or take terms that compare with a teacher only")
        raise ValueError(f"Expected labels of shape [{len(student_BK)}] (or "
                         f"{list(student_BK.shape)}, soft), got {got}.")
    if y.ndim == 2:
        return y.to(student_BK.dtype)
    if y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(f"Expected whole numbers as labels, got {y.dtype}. Use labels.long().")
    y, K = y.long(), student_BK.shape[1]
    if y.device.type == "cpu" and not torch.compiler.is_compiling():
        numbers = y.numpy()  # no device to wait for
        if numbers.min() < 0 or numbers.max() >= K:
            _check_range(y, K, ignore)
    return y


def _check_range(y, K: int, ignore: int | None) -> None:
    wrong = y[(y < 0) | (y >= K)] if ignore is None else y[((y < 0) | (y >= K)) & (y != ignore)]
    if len(wrong):
        found = wrong.unique().tolist()[:5]
        left_out = ("Samples of -100 are left out by CE and LabelSmoothing only: select those with "
                    "a label before the call." if ignore is None and -100 in found else
                    f"Renumber the labels from 0, or give the student {max(found) + 1} outputs."
                    if min(found) >= 0 else "Renumber the labels from 0; those that do not count "
                    "are ignore_index, -100 unless you say another, in CE and LabelSmoothing.")
        raise ValueError(f"Expected labels from 0 to {K - 1} for logits of {K} classes, got "
                         f"{', '.join(map(str, found))}. {left_out}")


def class_numbers(student_BK, y) -> torch.Tensor:
    """Check labels as class numbers [B]; soft labels [B, K] are refused."""
    y = labels(student_BK, y)
    if y.ndim == 2:
        raise ValueError(f"Expected class numbers [B] as labels, for one target class in each "
                         f"sample, got soft labels {list(y.shape)} (from MixUp, CutMix or label "
                         "smoothing?). Use labels.argmax(1) in your own loop, or terms for soft "
                         "labels: CE, KD.")
    return y


def features(x, who: str, *ndims: int) -> torch.Tensor:
    """Check features with one of these numbers of dimensions; give them in float32 at least."""
    if not isinstance(x, torch.Tensor) or x.ndim not in ndims or not x.is_floating_point():
        shapes = {2: "[B, D]", 3: "[B, N, D]", 4: "[B, C, H, W]"}
        expected = " or ".join(shapes[ndim] for ndim in ndims)
        raise ValueError(f"Expected {who} features of shape {expected}, got {described(x)}.")
    if 0 in x.shape:
        raise ValueError(f"Expected {who} features with something in them, got {list(x.shape)}.")
    return floats(x)


def one_batch(student, teacher, *ndims: int):
    """Check features of both sides, of one batch; the teacher's come without a gradient."""
    student, teacher = features(student, "student", *ndims), features(teacher, "teacher", *ndims)
    if len(student) != len(teacher):
        raise shape_error("features of one batch", student, teacher)
    return student, fixed(student, teacher)


def features_pair(student, teacher, *ndims: int):
    """Check features of both sides, of one shape; the teacher's come without a gradient."""
    student, teacher = one_batch(student, teacher, *ndims)
    if student.shape != teacher.shape:
        raise shape_error("features of one shape", student, teacher)
    return student, teacher


def as_map(x, who: str = "the", *, grid=None, prefix: int | None = None,
           like=None) -> torch.Tensor:
    """Give features as a map [B, C, H, W]. A vector [B, D] is a map of 1x1; tokens [B, N, D] are
    laid out on their grid, row by row.

    grid: (height, width) of the grid of tokens. None: found out, where only one is plausible.
    prefix: the number of leading tokens that stand for no place (class, distillation, registers);
        they are left out. None: 0, 1, 2, 4 or 5, whichever leaves a grid.
    like: the (height, width) of a map of the same images, such as that of the other side: the grid
        has its ratio of height and width.

    Without `grid` and `like` the grid is square, as of nearly all published transformers. Refused
    are numbers of tokens that leave two square grids, and those where another grid of as many
    places is plausible, not longer than twice its shorter side: 144 tokens are 12 x 12 or 9 x 16. A
    map stays as it is: permute [B, H, W, C] first. Raises `ValueError` where no grid, or more than
    one, is possible.

    Terms with module paths take the layout from what the model states: the patches that its
    convolution cuts, and its leading tokens (timm, torchvision, transformers, and models with those
    names); where it states none and its images are not square, their ratio; or from the path, as in
    "blocks.3@1+9x16" (see `kdcourse.taps`). Models whose tokens do not lie row by row are refused:
    Hiera, ViTMAE, and timm's while they drop patches.

    >>> as_map(torch.zeros(2, 17, 8)).shape  # a class token and 4 x 4 patches
    torch.Size([2, 8, 4, 4])
    >>> as_map(torch.zeros(2, 145, 8), grid=(9, 16), prefix=1).shape
    torch.Size([2, 8, 9, 16])
    """
    x = features(x, who, 2, 3, 4)
    if x.ndim == 4 and grid is None:
        return x
    grid, like = (size if size is None else tuple(size) for size in (grid, like))
    return arranged(x, Layout(grid, prefix, like), who)


def maps(student, teacher) -> tuple[torch.Tensor, torch.Tensor]:
    """Give both sides as maps (`as_map`), the tokens of one with the ratio of the other's map.
    Raises `ValueError` for a map that looks like [B, H, W, C]."""
    sizes = [x.shape[2:] if x.ndim == 4 else None for x in (teacher, student)]
    for x, like, who in ((student, sizes[0], "student"), (teacher, sizes[1], "teacher")):
        if x.ndim == 4 and _looks_channels_last(x.shape[1:], like):
            raise ValueError(f"Expected {who} maps [B, C, H, W], got {list(x.shape)}, which looks "
                             "like [B, H, W, C]. Call x.permute(0, 3, 1, 2), or state it in the "
                             'path: "features.3@BHWC".')
    return (as_map(student, "student", like=sizes[0]), as_map(teacher, "teacher", like=sizes[1]))


def _looks_channels_last(shape, like) -> bool:
    """Tell whether a map is more plausible as [H, W, C] than as [C, H, W]: with more channels than
    rows or columns, and either a square (as [C, H, W] longer than twice its height), or the ratio
    of height and width that the other side's map has, and [C, H, W] has not."""
    height, width, channels = shape
    if channels <= max(height, width) or 1 in shape:
        return False
    if height == width and channels > 2 * height:
        return like is None or width * like[1] != channels * like[0]
    return like is not None and height * like[1] == width * like[0] and (
        width * like[1] != channels * like[0])


def as_tokens(x, who: str = "the") -> torch.Tensor:
    """Give features as a sequence [B, N, D]: each place of a map [B, C, H, W] is a token, row by
    row; a vector [B, D] is one token.

    >>> as_tokens(torch.zeros(2, 8, 4, 4)).shape
    torch.Size([2, 16, 8])
    """
    x = features(x, who, 2, 3, 4)
    return x[:, None] if x.ndim == 2 else x if x.ndim == 3 else x.flatten(2).transpose(1, 2)


def as_vectors(x, who: str = "the") -> torch.Tensor:
    """Give features as one vector per sample [B, D]: maps and sequences are flattened.

    >>> as_vectors(torch.zeros(2, 8, 4, 4)).shape
    torch.Size([2, 128])
    """
    return features(x, who, 2, 3, 4).flatten(1)


def check(fits: bool, expected: str, got, advice: str = "") -> None:
    """Raise `ValueError`, "Expected …, got …. …", unless what was given fits. For settings, not for
    shapes: the sentence is formed in every call."""
    if not fits:
        raise ValueError(f"Expected {expected}, got {got}. {advice}".rstrip())


def check_temperature(T) -> None:
    """Raise unless T is a finite number above 0."""
    if not 0 < T < math.inf:
        raise ValueError(f"Expected a temperature T above 0, got {T}. Typical values are 1 to 20.")


def check_choice(name: str, value, choices) -> None:
    """Raise unless the value is one of the choices."""
    if value not in choices:
        expected = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"Expected {name} {expected}, got {value!r}.")


def check_count(name: str, value, least: int = 1) -> None:
    """Raise unless the value is a whole number that is not below `least`."""
    check(isinstance(value, int) and value >= least,
          f"{name} to be a whole number of at least {least}", repr(value))


def check_share(name: str, value) -> None:
    """Raise unless the value lies between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"Expected {name} between 0 and 1, got {value}.")


def check_weights(**weights) -> None:
    """Raise unless every weight is a finite number, 0 or more, and one is above 0."""
    for name, weight in weights.items():
        check(0 <= weight < math.inf, f"a weight {name} of 0 or more", weight)
    check(any(weights.values()), f"a weight above 0 for {' or '.join(weights)}", "0 for all")


def reduce(values_B: torch.Tensor, reduction: str) -> torch.Tensor:
    """Take the mean over samples, or leave one value per sample."""
    if reduction == "mean":
        return values_B.mean()
    if reduction != "none":
        check_choice("reduction", reduction, ("mean", "none"))
    return values_B


def described(x) -> str:
    """Give what an error names: the shape of a tensor, or the type of anything else."""
    if not isinstance(x, torch.Tensor):
        return type(x).__name__
    return f"{list(x.shape)}" if x.is_floating_point() else f"{list(x.shape)} of {x.dtype}"


def shape_error(expected: str, student, teacher, advice: str = "") -> ValueError:
    """Make the error for two sides that do not fit together."""
    return ValueError(f"Expected student and teacher {expected}, got {list(student.shape)} and "
                      f"{list(teacher.shape)}. {advice}".rstrip())
