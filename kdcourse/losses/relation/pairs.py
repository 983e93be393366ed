"""What losses on relations between samples share: one vector per sample, and enough samples.

Shapes: B batch, D features.
"""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss

VARIANTS = ("paper", "code")  # the formula of the paper, and that of the authors' code


def vectors_pair(student, teacher, least: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Give one vector per sample of both sides, [B, D], of any widths; the teacher's without a
    gradient. Raises `ValueError` for fewer than `least` samples."""
    ours, theirs = inputs.as_vectors(student, "student"), inputs.as_vectors(teacher, "teacher")
    inputs.check_one_batch(student, teacher)
    if len(ours) < least:
        raise ValueError(f"Expected at least {least} samples to compare with one another, got "
                         f"{len(ours)}. Raise the batch size (of each process, and of each part "
                         "where gradients are accumulated).")
    return ours, theirs.detach()


class Relation(FeatureLoss):
    """Compare relations between the samples of a batch: one number for all of them.

    Without paths it compares the logits.
    """

    needs_paths = False
    per_sample = False
