"""MiniLM: attention, relations of values. B batch, A heads, N tokens, D features, d of a head."""

import math

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.attention.fused import looks_fused, separated, stated
from kdcourse.losses.attention.pairs import attention_pair, check_softmax, mean_of_real, token_mask
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.numerics import kl


def attention_kl(student_BANN, teacher_BANN, scores: bool = False, reduction: str = "mean",
                 mask_BN=None):
    r"""Compute the Kullback-Leibler divergence between attention distributions.

    .. math:: L = \frac{1}{A N} \sum_{a, n} D_{KL}(A^T_{a n} \,\|\, A^S_{a n})

    Wang et al. 2020 (MiniLM, arXiv:2002.10957), section 3.1, which compares the last layers only.
    Sum over keys, mean over heads and queries, in nats. Raises `ValueError` for shapes that do not
    fit.

    student_BANN, teacher_BANN: attention [B, A, N, N], of one shape: both need as many heads.
    scores: False takes probabilities, rows that sum to 1, and adds q - p to each summand, so that
        none is below 0 after rounding. True takes scores before the softmax. A key that only the
        student rules out makes the loss large but finite with probabilities, +inf with scores.
    mask_BN: 0 for tokens that are padding: they do not count as queries, and scores of them as keys
        are taken for -inf. (Probabilities of such keys are 0 already in a model that masks them.)

    >>> uniform, sure = torch.full((1, 1, 1, 2), 0.5), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    >>> attention_kl(uniform, sure)  # 1 log(1 / 0.5) = log 2
    tensor(0.6931)
    """
    student, teacher = attention_pair(student_BANN, teacher_BANN)
    if scores:
        return _kl_of_scores(student, teacher, reduction, mask_BN)
    smallest = torch.finfo(student_BANN.dtype).tiny
    log_ratio = teacher.clamp(min=smallest).log() - student.clamp(min=smallest).log()
    divergence = (teacher * log_ratio - teacher + student).sum(3)
    return _mean_over_queries(divergence, reduction, mask_BN)


def _kl_of_scores(student, teacher, reduction, mask_BN=None):
    if mask_BN is not None:
        keys = token_mask(mask_BN, student)[:, None, None]
        keys = keys | ~keys.any(-1, keepdim=True)  # a softmax of -inf alone is NaN
        student, teacher = (x.masked_fill(~keys, -math.inf) for x in (student, teacher))
    divergence = kl(F.log_softmax(teacher, -1), F.log_softmax(student, -1))
    return _mean_over_queries(divergence, reduction, mask_BN)


def _mean_over_queries(divergence_BAN, reduction, mask_BN):
    if mask_BN is None:
        return inputs.reduce(divergence_BAN.mean((1, 2)), reduction)
    queries_B1N = token_mask(mask_BN, divergence_BAN[..., None])[:, None]
    return inputs.reduce(mean_of_real(divergence_BAN, queries_B1N), reduction)


class AttentionKL(FeatureLoss, function=attention_kl):
    """Match attention [B, A, N, N] as distributions over keys: `attention_kl`. Trains nothing.

    Published weight: 1, with 1 for `ValueRelation`, of the last layers and without labels, for
    BERT-base to 6 layers, at batch 1024 for width 768 and 256 for 384 (Wang et al. 2020, section
    3.2, equation 10, where both are added, and section 4.1).
    """

    masks = True

    def __init__(self, student=None, teacher=None, *, scores: bool = False):
        super().__init__(student, teacher, scores=bool(scores))

    def build(self, student, teacher, seed):
        check_softmax(*self.pick(student, teacher), self.scores)


@inputs.full_precision
def value_relation(student_BANd, teacher_BANd, reduction: str = "mean", mask_BN=None):
    r"""Compute the Kullback-Leibler divergence between relations of values to each other.

    .. math:: L = \frac{1}{A N} \sum_{a, n} D_{KL}(R^T_{a n} \,\|\, R^S_{a n}), \qquad
        R_a = \mathrm{softmax}\left(\frac{V_a V_a^\top}{\sqrt d}\right)

    Wang et al. 2020 (MiniLM, arXiv:2002.10957), section 3.2. Sum over keys, mean over heads and
    queries, in nats. Raises `ValueError` for shapes that do not fit.

    student_BANd, teacher_BANd: the values of each head, [B, A, N, d]: as many heads and tokens on
        both sides, any widths d. `ValueRelation` cuts [B, N, D] into heads.

    >>> student, teacher = torch.zeros(1, 1, 2, 3), torch.tensor([[[[2.0], [0.0]]]])
    >>> value_relation(student, teacher)  # rows softmax(4, 0) and (1/2, 1/2): (0.6031 + 0) / 2
    tensor(0.3015)
    """
    pair = attention_pair(student_BANd, teacher_BANd, "values", "d", agree=(0, 1, 2))
    student, teacher = (x @ x.transpose(2, 3) / x.shape[3] ** 0.5 for x in pair)
    return _kl_of_scores(student, teacher, reduction, mask_BN)


class ValueRelation(FeatureLoss):
    """Match relations between values, as models hold them: `value_relation`. Trains nothing.

    Published weight: 1, beside `AttentionKL`, which says where.

    Takes values [B, N, D], queries, keys and values in one tensor [B, N, 3 D], or [B, A, N, d].

    heads: into how many heads to cut D on both sides: the models' own number for MiniLM; any that
        divides both widths for the "relation heads" of Wang et al. 2021, "MiniLMv2"
        (arXiv:2012.15828).
    fused: how queries, keys and values lie in one tensor [B, N, 3 D], which is stated, as its shape
        does not tell: "concatenated", "per head", or the number of attention heads where it is not
        `heads` (see `kdcourse.losses.attention.fused`). None, False: these are values alone. A pair
        states it for student and teacher. Needed for paths such as "blocks.3.attn.qkv".

    Raises `ValueError` for features that cannot be cut so.
    """

    omitted, masks = ("fused",), True

    def __init__(self, student=None, teacher=None, *, heads: int | None = None, fused=None):
        if heads is not None:
            inputs.check_count("heads", heads)
        super().__init__(student, teacher, heads=heads, fused=fused)
        self._fused = stated(fused)
        for who, paths, how in zip(("student", "teacher"),
                                   (self.student_paths, self.teacher_paths), self._fused):
            if how is None and any(map(looks_fused, paths)):
                raise ValueError(
                    f"Expected how queries, keys and values lie in {paths[0]!r} of the {who}, got "
                    'fused=None. Write fused="concatenated" (timm\'s ViT, GPT-2) or "per head" '
                    "(GPT-NeoX, BLOOM), or fused=False for values alone.")

    def values(self, student, teacher=None, labels=None, mask_BN=None):
        return value_relation(self._cut(student, "student", self._fused[0]),
                              self._cut(teacher, "teacher", self._fused[1]), "none", mask_BN)

    def _cut(self, x, who, fused):
        """Cut out the values of each head, [B, A, N, d]."""
        if fused:
            x = separated(x, fused, self.heads, who)[2]
        if isinstance(x, torch.Tensor) and x.ndim == 4:
            return x
        x = inputs.features(x, who, 3)
        if self.heads is None or x.shape[2] % self.heads:
            heads = f"{self.heads} heads" if self.heads else "each head [B, A, N, d]"
            raise ValueError(f"Expected {who} values of {heads}, got {list(x.shape)}. Say how many "
                             "heads they have, ValueRelation(..., heads=4), and, where queries and "
                             'keys come along, how: fused="concatenated".')
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
