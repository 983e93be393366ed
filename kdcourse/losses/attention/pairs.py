"""What losses on transformers share. B batch, A heads, N tokens, D features, d of one head."""

import torch
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import projected


class HiddenLoss(FeatureLoss):
    """Compare hidden states, the student's behind a matrix if `project` asks for one."""

    def __init__(self, student=None, teacher=None, *, project=None):
        if project not in (True, False, None):
            raise ValueError(f"Expected project True, False or None, got {project!r}.")
        super().__init__(student, teacher, project=project)
        self.projection = None

    def build(self, student, teacher, seed):
        student, teacher = tokens_pair(*self.pick(student, teacher), width=self.project is False)
        ours, theirs = student.shape[2], teacher.shape[2]
        if self._wanted(ours, theirs) and self.projection is None:
            self.projection = self.seeded(
                seed, student, lambda: nn.Linear(ours, theirs, bias=False))

    def values(self, student, teacher=None, labels=None):
        student, teacher = tokens_pair(student, teacher, width=self.project is False)
        if self._wanted(student.shape[2], teacher.shape[2]):
            student = projected(student, self.projection)
        return self.function(student, teacher, "none")

    def _wanted(self, ours: int, theirs: int) -> bool:
        """Decide whether a matrix stands between features of these widths."""
        return ours != theirs if self.project is None else self.project


def tokens_pair(student, teacher, width: bool = True):
    """Give hidden states of both sides as [B, N, D]: as many tokens, of one width unless told."""
    given = student, teacher
    student, teacher = inputs.as_tokens(student, "student"), inputs.as_tokens(teacher, "teacher")
    same = 3 if width else 2
    if student.shape[:same] != teacher.shape[:same]:
        what = "of one width and as many tokens" if width else "with as many tokens"
        raise ValueError(f"Expected student and teacher hidden states {what}, got "
                         f"{list(given[0].shape)} and {list(given[1].shape)}. For other widths "
                         "HiddenMSE and HiddenCosine train a matrix in build(); a class token that "
                         "only one side has must go.")
    return student, teacher.detach()


def attention_pair(student, teacher, heads: bool = True, what: str = "attention", last: str = "N"):
    """Check attention of both sides, of one shape; in float32 at least, the teacher's detached.

    heads: False where the numbers of heads may differ. last: "d" where the last sizes may differ.
    """
    for x, who in ((student, "student"), (teacher, "teacher")):
        if not isinstance(x, torch.Tensor) or x.ndim != 4 or not x.is_floating_point() or (
                0 in x.shape):
            got = f"{list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
            raise ValueError(f"Expected {who} {what} of shape [B, heads, N, {last}], got {got}.")
    ours, theirs = list(student.shape), list(teacher.shape)
    must_agree = (True, heads, True, last == "N")
    if any(a != b for a, b, must in zip(ours, theirs, must_agree, strict=True) if must):
        advice = (" With different numbers of heads, use attention_mse(..., heads=\"mean\") or "
                "ValueRelation(..., heads=...)." if ours[1] != theirs[1] else "")
        raise ValueError(f"Expected student and teacher {what} with as many samples, heads and "
                         f"tokens, got {ours} and {theirs}.{advice}")
    return inputs.floats(student), inputs.floats(teacher).detach()
