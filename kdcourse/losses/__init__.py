"""WHAT is transferred. One function per formula, one thin module per function."""

from kdcourse.losses.base import Loss, Objective, as_objective
from kdcourse.losses.response import (
    CE,
    KD,
    LabelSmoothing,
    cross_entropy,
    hinton,
    kd,
    label_smoothing,
    soft_cross_entropy,
)

__all__ = [
    "CE",
    "KD",
    "LabelSmoothing",
    "Loss",
    "Objective",
    "as_objective",
    "cross_entropy",
    "hinton",
    "kd",
    "label_smoothing",
    "soft_cross_entropy",
]
