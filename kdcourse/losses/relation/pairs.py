"""What losses on relations share: one vector per sample. B batch, D features."""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss

VARIANTS = ("paper", "code")


def vectors_pair(student, teacher, least: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Give one vector per sample of both sides, [B, D], of any widths, for `least` samples or
    more; the teacher's without a gradient."""
    student, teacher = inputs.one_batch(student, teacher, 2, 3, 4)
    inputs.check(len(student) >= least, f"at least {least} samples to compare with one another",
                 len(student), "Raise the batch size (of each process, and of each part where "
                 "gradients are accumulated).")
    return student.flatten(1), teacher.flatten(1)


class Relation(FeatureLoss):
    """Compare relations between the samples of a batch, without paths those of the logits: one
    number for all. Each process, and each part of an accumulated gradient, has its own samples."""

    needs_paths = False
    per_sample = False
