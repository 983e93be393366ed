"""WHAT is transferred. One function per formula, one thin module per function."""

from kdcourse.losses import feature, relation, response
from kdcourse.losses.base import FeatureLoss, Loss, Objective, as_objective
from kdcourse.losses.feature import *  # noqa: F403 - each folder names its own in __all__
from kdcourse.losses.inputs import as_map, as_tokens, as_vectors
from kdcourse.losses.relation import *  # noqa: F403
from kdcourse.losses.response import *  # noqa: F403

__all__ = [
    "FeatureLoss",
    "Loss",
    "Objective",
    "as_map",
    "as_objective",
    "as_tokens",
    "as_vectors",
    *feature.__all__,
    *relation.__all__,
    *response.__all__,
]
