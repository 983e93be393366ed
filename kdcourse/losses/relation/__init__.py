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

__all__ = [
    "CC",
    "CRD",
    "PKT",
    "SP",
    "RKDAngle",
    "RKDDistance",
    "correlation_congruence",
    "crd",
    "pkt",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
]
