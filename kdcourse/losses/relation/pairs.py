"""What losses on relations between samples share: one vector per sample, and enough samples.

Shapes: B batch, D features.
"""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss

VARIANTS = ("paper", "code")  # the formula of the paper, and that of the authors' code

def vectors_pair(student, teacher, least: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """One vector per sample of both sides, [B, D]; the widths may differ. The teacher's come
    without a gradient. Raises `ValueError` for fewer than `least` samples."""
    ours, theirs = inputs.as_vectors(student, "student"), inputs.as_vectors(teacher, "teacher")
    if len(ours) != len(theirs):
        raise ValueError(f"Expected student and teacher features of one batch, got "
                         f"{list(student.shape)} and {list(teacher.shape)}.")
    if len(ours) < least:
        raise ValueError(f"Expected at least {least} samples to compare with one another, got "
                         f"{len(ours)}. Raise the batch size (of each process, and of each part "
                         "where gradients are accumulated).")
    return ours, theirs.detach()


class Relation(FeatureLoss):
    """A term that compares relations between the samples of a batch: one number for all of them.

    Without paths it compares the logits.
    """

    needs_paths = False
    per_sample = False


class OfVariant(Relation):
    """A relation whose only setting is the variant of its formula, which is `function`."""

    function = None

    def __init__(self, student=None, teacher=None, *, variant: str = "paper"):
        super().__init__(student, teacher)
        inputs.check_choice("variant", variant, VARIANTS)
        self.variant = variant

    def values(self, student, teacher=None, labels=None):
        return self.function(student, teacher, self.variant)

    def extra_repr(self):
        return f"variant={self.variant!r}"
