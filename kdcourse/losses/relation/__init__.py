"""Losses on relations between samples: distances, angles, neighbourhoods, contrast."""

from kdcourse.losses.relation.crd import CRD, crd
from kdcourse.losses.relation.rkd import RKDAngle, RKDDistance, rkd_angle, rkd_distance
from kdcourse.losses.relation.similarity import (
    CC,
    PKT,
    SP,
    correlation_congruence,
    pkt,
    similarity_preserving,
)

__all__ = [  # noqa: RUF022 - in the order of the book: a function, then its module
    "rkd_distance",
    "RKDDistance",
    "rkd_angle",
    "RKDAngle",
    "similarity_preserving",
    "SP",
    "correlation_congruence",
    "CC",
    "pkt",
    "PKT",
    "crd",
    "CRD",
]
