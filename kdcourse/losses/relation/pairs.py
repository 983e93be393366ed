"""What losses on relations share: one vector per sample. B batch, D features."""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss

VARIANTS = ("paper", "code")  # the formula of the paper, and that of the authors' code


def vectors_pair(student, teacher, least: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Give one vector per sample of both sides, [B, D], of any widths; the teacher's without a
    gradient. Raises `ValueError` for fewer than `least` samples."""
    student, teacher = inputs.one_batch(student, teacher, 2, 3, 4)
    if len(student) < least:
        raise ValueError(f"Expected at least {least} samples to compare with one another, got "
                         f"{len(student)}. Raise the batch size (of each process, and of each part "
                         "where gradients are accumulated).")
    return student.flatten(1), teacher.flatten(1)


class Relation(FeatureLoss):
    """Compare relations between the samples of a batch: one number for all of them.

    Without paths it compares the logits. Each process, and each part of an accumulated gradient,
    compares its own samples.
    """

    needs_paths = False
    per_sample = False
