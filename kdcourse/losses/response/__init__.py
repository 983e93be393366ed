"""Losses on the answer of a network: its logits."""

from kdcourse.losses.base import Objective
from kdcourse.losses.response.divergences import KD, kd, soft_cross_entropy
from kdcourse.losses.response.labels import CE, LabelSmoothing, cross_entropy, label_smoothing

__all__ = [
    "CE",
    "KD",
    "LabelSmoothing",
    "cross_entropy",
    "hinton",
    "kd",
    "label_smoothing",
    "soft_cross_entropy",
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
