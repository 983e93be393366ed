"""Regression on targets that are numbers. B batch, D numbers."""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss


def squared_error(student_BD, targets_BD, reduction: str = "mean"):
    r"""Compute the mean squared difference between outputs and targets.

    .. math:: L = \frac{1}{D} \sum_d (z_d - y_d)^2

    student_BD: finite outputs [B, D]. targets_BD: numbers [B, D], as of `kd.tasks.Numbers`. Raises
    `ValueError` for outputs that are not [B, D] and targets of another shape.

    >>> squared_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]]))
    tensor(4.5000)
    """
    student_BD = inputs.logits(student_BD, "student", least=1)
    if not isinstance(targets_BD, torch.Tensor) or targets_BD.shape != student_BD.shape:
        raise ValueError(f"Expected targets of shape {list(student_BD.shape)}, got "
                         f"{inputs.described(targets_BD)}.")
    difference_BD = student_BD - targets_BD.to(student_BD.dtype)
    return inputs.reduce(difference_BD.square().mean(1), reduction)


class SquaredError(Loss, function=squared_error):
    """Learn from targets that are numbers: `squared_error`."""
    needs_teacher = False
    needs_classes = False
