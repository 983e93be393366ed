"""Losses on inner tensors: what a layer says."""

from kdcourse.losses.feature.attention_transfer import AT, attention_transfer
from kdcourse.losses.feature.fsp import FSP, fsp
from kdcourse.losses.feature.hint import Hint, hint
from kdcourse.losses.feature.nst import NST, nst
from kdcourse.losses.feature.overhaul import OFD, margins, overhaul
from kdcourse.losses.feature.review import ReviewKD, review
from kdcourse.losses.feature.transformer import (
    AttentionKL,
    AttentionMSE,
    HiddenCosine,
    HiddenMSE,
    ValueRelation,
    attention_kl,
    attention_mse,
    hidden_cosine,
    hidden_mse,
    value_relation,
)
from kdcourse.losses.feature.vid import VID, vid

__all__ = [
    "AT",
    "FSP",
    "NST",
    "OFD",
    "VID",
    "AttentionKL",
    "AttentionMSE",
    "HiddenCosine",
    "HiddenMSE",
    "Hint",
    "ReviewKD",
    "ValueRelation",
    "attention_kl",
    "attention_mse",
    "attention_transfer",
    "fsp",
    "hidden_cosine",
    "hidden_mse",
    "hint",
    "margins",
    "nst",
    "overhaul",
    "review",
    "value_relation",
    "vid",
]
