"""What is transferred: the losses, each as a function and as a thin module. One paper, one file.

The order is student, teacher, labels. No gradient reaches the teacher. Losses are computed in
float32 at least, also under autocast. `reduction` is "mean", or "none" for one value per sample,
[B]. What does not fit raises `ValueError` or `TypeError`.

The names of every loss are listed here and nowhere else, one line for each file. `from
kdcourse.losses import *` takes all of them but the function `kd`, as `kd` is what `import kdcourse
as kd` calls the package: write `kd.losses.kd`, or import it by its name.
"""
# ruff: noqa: F401, I001 - in the order of the book; __all__ is made from these lines

from kdcourse.losses.base import FeatureLoss, Loss, Objective, as_objective
from kdcourse.losses.inputs import as_map, as_tokens, as_vectors
from kdcourse.losses.chunked import chunked

# response: the output
from kdcourse.losses.response.hinton import kd, KD, hinton, soft_cross_entropy
from kdcourse.losses.response.logit_mse import logit_mse, LogitMSE
from kdcourse.losses.response.deit import hard_label, HardLabel
from kdcourse.losses.response.dkd import dkd, DKD
from kdcourse.losses.response.mlkd import mlkd, MLKD
from kdcourse.losses.response.nkd import nkd, NKD
from kdcourse.losses.response.ofa import ofa, OFA
from kdcourse.losses.response.dist import dist, DIST
from kdcourse.losses.response.logit_std import logit_standardization, LogitStd
from kdcourse.losses.response.ctkd import ctkd, CTKD
from kdcourse.losses.response.divergences import jensen_shannon, JS, reverse_kl, ReverseKL
from kdcourse.losses.response.divergences import total_variation, TV
from kdcourse.losses.response.divergences import skew_kl, SkewKL, skew_reverse_kl, SkewReverseKL
from kdcourse.losses.response.divergences import symmetric_kl, SymmetricKL
from kdcourse.losses.response.uld import uld, ULD
from kdcourse.losses.response.labels import cross_entropy, CE, label_smoothing, LabelSmoothing
from kdcourse.losses.response.tf_kd import virtual_teacher, TfKD
from kdcourse.losses.response.numbers import squared_error, SquaredError

# feature: inner tensors
from kdcourse.losses.feature.hint import hint, Hint
from kdcourse.losses.feature.attention_transfer import attention_transfer, AT
from kdcourse.losses.feature.fsp import fsp, FSP
from kdcourse.losses.feature.nst import nst, NST
from kdcourse.losses.feature.vid import vid, VID
from kdcourse.losses.feature.overhaul import overhaul, OFD, margins
from kdcourse.losses.feature.review import review, ReviewKD
from kdcourse.losses.feature.cat_kd import class_attention, CATKD, class_maps
from kdcourse.losses.feature.simkd import SimKD
from kdcourse.losses.feature.factor_transfer import factor_transfer, FT, Paraphraser
from kdcourse.losses.feature.boundaries import activation_boundaries, AB
from kdcourse.losses.feature.mgd import MGD
from kdcourse.losses.feature.vitkd import ViTKD
from kdcourse.losses.feature.ickd import channel_correlation, ICKD
from kdcourse.losses.feature.srrl import softmax_regression, SRRL
from kdcourse.losses.feature.semckd import SemCKD

# attention: transformers
from kdcourse.losses.attention.tinybert import hidden_mse, HiddenMSE, attention_mse, AttentionMSE
from kdcourse.losses.attention.distilbert import hidden_cosine, HiddenCosine
from kdcourse.losses.attention.minilm import attention_kl, AttentionKL
from kdcourse.losses.attention.minilm import value_relation, ValueRelation
from kdcourse.losses.attention.minilm2 import self_relation, SelfRelation

# relation: between samples
from kdcourse.losses.relation.rkd import rkd_distance, RKDDistance, rkd_angle, RKDAngle
from kdcourse.losses.relation.sp import similarity_preserving, SP
from kdcourse.losses.relation.cc import correlation_congruence, CC
from kdcourse.losses.relation.pkt import pkt, PKT
from kdcourse.losses.relation.crd import crd, CRD
from kdcourse.losses.relation.irg import instance_graph, IRG

__all__ = [name for name, thing in list(globals().items()) if callable(thing) and name != "kd"]
