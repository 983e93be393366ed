"""What losses on transformers share. B batch, A heads, N tokens, D features, d of one head."""

import torch
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import projected


class HiddenLoss(FeatureLoss):
    """Compare hidden states, the student's behind a matrix if `project` asks for one."""

    takes, masks = "places", True

    def __init__(self, student=None, teacher=None, *, project: bool | None = None):
        inputs.check(project in (True, False, None), "project True, False or None", repr(project))
        super().__init__(student, teacher, project=project)
        self.projection = None

    def build(self, student, teacher, seed):
        student, teacher = tokens_pair(*self.pick(student, teacher), width=self.project is False)
        if self.projection is None and self._projects(student, teacher):
            self.projection = self.seeded(seed, student, lambda: nn.Linear(
                student.shape[2], teacher.shape[2], bias=False))

    def values(self, student, teacher=None, labels=None, mask_BN=None):
        given = student  # a vector for each sample, or a map, has no padding
        student, teacher = tokens_pair(student, teacher, width=self.project is False)
        if self._projects(student, teacher):
            student = projected(student, self.projection)
        return self.function(student, teacher, "none", mask_BN if given.ndim == 3 else None)

    def _projects(self, student, teacher) -> bool:
        return student.shape[2] != teacher.shape[2] if self.project is None else self.project


def tokens_pair(student, teacher, width: bool = True):
    """Give hidden states of both sides as [B, N, D], with as many tokens; of one width if `width`
    is True. The teacher's come without a gradient."""
    given = student, teacher
    if all(isinstance(x, torch.Tensor) and x.ndim == 4 for x in given) and (
            student.shape[2:] != teacher.shape[2:]):
        raise inputs.shape_error("maps of one height and width", *given, "A token is compared with "
                                 "that of the same place. Tap layers of one grid.")
    student, teacher = inputs.as_tokens(student, "student"), inputs.as_tokens(teacher, "teacher")
    ndim = 3 if width else 2
    if student.shape[:ndim] != teacher.shape[:ndim]:
        raise inputs.shape_error(
            f"hidden states {'of one width and as' if width else 'with as'} many tokens", *given,
            "For other widths HiddenMSE and HiddenCosine train a matrix in build(); a class token "
            "that only one side has must go.")
    return student, inputs.fixed(student, teacher)


def attention_pair(student, teacher, what: str = "attention", last: str = "N",
                   agree: tuple[int, ...] = (0, 1, 2, 3)):
    """Check attention [B, heads, N, N], or what has [B, heads, N, `last`], of both sides: float32
    at least, the teacher's without a gradient. agree: the dimensions that must be of one size."""
    for x, who in ((student, "student"), (teacher, "teacher")):
        if not isinstance(x, torch.Tensor) or x.ndim != 4 or 0 in x.shape or (
                not x.is_floating_point()):
            raise ValueError(f"Expected {who} {what} of shape [B, heads, N, {last}], got "
                             f"{inputs.described(x)}.")
    if any(student.shape[dim] != teacher.shape[dim] for dim in agree):
        advice = "" if student.shape[1] == teacher.shape[1] else (
            'With different numbers of heads, use attention_mse(..., heads="mean") or '
            "ValueRelation(..., heads=...).")
        raise inputs.shape_error(f"{what} with as many samples, heads and tokens", student, teacher,
                                 advice)
    return inputs.floats(student), inputs.floats(inputs.fixed(student, teacher))


def token_mask(mask_BN, like: torch.Tensor) -> torch.Tensor:
    """Check a mask [B, N] of the tokens of hidden states [B, N, D] or attention [B, A, N, N]; give
    it as booleans. Raises `ValueError` for another shape."""
    expected = [len(like), like.shape[-2]]
    if not isinstance(mask_BN, torch.Tensor) or list(mask_BN.shape) != expected:
        raise ValueError(f"Expected a mask of shape {expected}, 0 for tokens that are padding, got "
                         f"{inputs.described(mask_BN)}. Where the tokens are not those of the mask "
                         "(images beside a text), give that entry of the inputs another name.")
    return mask_BN != 0


def mean_of_real(values, mask) -> torch.Tensor:
    """Compute the mean of values [B, …] over the places where a mask of their shape, or one that
    expands to it, is True: [B]. 0 where there is none, and no gradient from the other places."""
    counts = mask.expand_as(values)
    return values.masked_fill(~counts, 0).flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=1)


def check_softmax(student_BANN, teacher_BANN, scores: bool | None = None) -> None:
    """Raise `ValueError` where attention is plainly not what is stated, which no shape tells: a
    value below 0 is a score, rows that all sum to 1 are probabilities. Anything else, such as
    probabilities behind dropout, may be either.

    scores: what both sides are to be; None: the same. Reads values, so it is for `build`.
    """
    found = {}
    for who, x in (("student", student_BANN), ("teacher", teacher_BANN)):
        if (x < 0).any():
            found[who] = "scores"
        elif ((x.float().sum(-1) - 1).abs() < 1e-2).all():
            found[who] = "probabilities"
    expected = {True: "scores", False: "probabilities"}.get(scores)
    wrong = set(found.values()) - {expected} if expected else set(found.values())
    if len(wrong) > (expected is None):
        got = " and ".join(f"{kind} of the {who}" for who, kind in found.items())
        remedy = f", or state scores={not scores}." if expected else "."
        raise ValueError(f"Expected {expected or 'attention of one kind'}, got {got}. Tap both "
                         f"before the softmax, or both behind it{remedy}")
