"""Losses on the answer of a network: its logits."""

from kdcourse.losses.base import Objective
from kdcourse.losses.response.divergences import (
    DKD,
    JS,
    KD,
    TV,
    ReverseKL,
    dkd,
    jensen_shannon,
    kd,
    reverse_kl,
    soft_cross_entropy,
    total_variation,
)
from kdcourse.losses.response.labels import (
    CE,
    HardLabel,
    LabelSmoothing,
    TfKD,
    cross_entropy,
    hard_label,
    label_smoothing,
    virtual_teacher,
)
from kdcourse.losses.response.logits import (
    DIST,
    LogitMSE,
    LogitStd,
    dist,
    logit_mse,
    logit_standardization,
)

__all__ = [
    "CE",
    "DIST",
    "DKD",
    "JS",
    "KD",
    "TV",
    "HardLabel",
    "LabelSmoothing",
    "LogitMSE",
    "LogitStd",
    "ReverseKL",
    "TfKD",
    "cross_entropy",
    "dist",
    "dkd",
    "hard_label",
    "hinton",
    "jensen_shannon",
    "kd",
    "label_smoothing",
    "logit_mse",
    "logit_standardization",
    "reverse_kl",
    "soft_cross_entropy",
    "total_variation",
    "virtual_teacher",
]


def hinton(T: float = 4.0, alpha: float = 0.9) -> Objective:
    """`(1 - alpha) * CE() + alpha * KD(T)`: the weighted mean of labels and teacher.

    alpha: the weight of the *soft* part, in [0, 1]. T² is inside `KD`. A part of weight 0 is left
    out. Raises `ValueError` for alpha outside [0, 1] and T <= 0.

    >>> hinton(T=4, alpha=0.9)
    0.1 * CE() + 0.9 * KD(T=4)
    """
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"Expected alpha between 0 (labels only) and 1 (teacher only), got {alpha}. "
            "For two free weights write, for example, 1.0 * CE() + 5.0 * KD(T=4)."
        )
    parts = [(round(1 - alpha, 10), CE()), (alpha, KD(T))]
    return Objective([(weight, term) for weight, term in parts if weight])
