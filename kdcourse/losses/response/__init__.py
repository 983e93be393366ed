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

__all__ = [  # noqa: RUF022 - in the order of the book: a function, then its module
    "kd",
    "KD",
    "hinton",
    "soft_cross_entropy",
    "logit_mse",
    "LogitMSE",
    "hard_label",
    "HardLabel",
    "dkd",
    "DKD",
    "dist",
    "DIST",
    "logit_standardization",
    "LogitStd",
    "jensen_shannon",
    "JS",
    "reverse_kl",
    "ReverseKL",
    "total_variation",
    "TV",
    "cross_entropy",
    "CE",
    "label_smoothing",
    "LabelSmoothing",
    "virtual_teacher",
    "TfKD",
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
