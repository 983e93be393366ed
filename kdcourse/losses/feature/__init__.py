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

__all__ = [  # noqa: RUF022 - in the order of the book: a function, then its module
    "hint",
    "Hint",
    "attention_transfer",
    "AT",
    "fsp",
    "FSP",
    "nst",
    "NST",
    "vid",
    "VID",
    "overhaul",
    "OFD",
    "margins",
    "review",
    "ReviewKD",
    "hidden_mse",
    "HiddenMSE",
    "hidden_cosine",
    "HiddenCosine",
    "attention_mse",
    "AttentionMSE",
    "attention_kl",
    "AttentionKL",
    "value_relation",
    "ValueRelation",
]
