"""Losses for transformers: hidden states, attention, and relations between values.

Shapes: B batch, A attention heads, N tokens, D features, d features of one head.

What to tap (`kdcourse.taps` has the grammar):

* timm: "blocks.3" is a hidden state [B, N, D]; "blocks.3.attn.qkv" has queries, keys and values
  [B, N, 3 D]; with `block.attn.fused_attn = False`, "blocks.3.attn.attn_drop:input" is attention
  [B, A, N, N] after the softmax.
* transformers (BERT): "bert.encoder.layer.3" is a hidden state; in it "attention.self.value" are
  values [B, N, D], and, with `attn_implementation="eager"`, "attention.self[1]" is attention after
  the softmax and after dropout (so give the student `attention_probs_dropout_prob=0`).

Every token counts, padding too: where sequences are padded, pick the real tokens first.
"""

import re

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import projected

# --- hidden states ------------------------------------------------------------------------------


def hidden_mse(student_BND, teacher_BND, reduction: str = "mean"):
    r"""Mean squared error between hidden states.

    .. math:: L = \frac{1}{N D} \sum_{n, d} (h^S_{nd} - h^T_{nd})^2

    Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding", equation 8
    (arXiv:1909.10351); with embeddings instead, equation 9. There the student's states first pass a
    trained matrix, :math:`H^S W_h`: `HiddenMSE` holds it. Mean over tokens, features and samples.

    student_BND, teacher_BND: hidden states [B, N, D], of one shape. A map [B, C, H, W] counts as H
        W tokens, a vector [B, D] as one. No gradient reaches the teacher.
    reduction: "mean", or "none" for one value per sample, [B].

    Exactly 0 where both agree. It grows with the square of the scale: a few large features decide.

    Raises `ValueError` for other shapes, and for different numbers of tokens or widths.

    >>> hidden_mse(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0, 5.0]]]))  # (0 + 3²) / 2
    tensor(4.5000)
    """
    student_BND, teacher_BND = _tokens_pair(student_BND, teacher_BND)
    return inputs.reduce((student_BND - teacher_BND).square().mean((1, 2)), reduction)


@inputs.full_precision
def hidden_cosine(student_BND, teacher_BND, reduction: str = "mean"):
    r"""One minus the cosine between hidden states: directions only.

    .. math:: L = \frac{1}{N} \sum_n \left(1 -
        \frac{h^S_n \cdot h^T_n}{\lVert h^S_n \rVert \, \lVert h^T_n \rVert}\right)

    Sanh et al. 2019, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and
    lighter" (arXiv:1910.01108): its cosine embedding loss, one of three. Mean over tokens, then
    over samples. Between 0 (one direction) and 2 (opposite directions); lengths do not matter.

    student_BND, teacher_BND: hidden states [B, N, D], of one shape. A map [B, C, H, W] counts as H
        W tokens, a vector [B, D] as one. No gradient reaches the teacher.
    reduction: "mean", or "none" for one value per sample, [B].

    A token of zeros has no direction: its cosine counts as 0, so the loss there is 1.

    Raises `ValueError` for other shapes, and for different numbers of tokens or widths.

    >>> states = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    >>> hidden_cosine(states, torch.tensor([[[5.0, 0.0], [5.0, 0.0]]]))  # (0 + 1) / 2
    tensor(0.5000)
    """
    student_BND, teacher_BND = _tokens_pair(student_BND, teacher_BND)
    cosine_BN = (_unit(student_BND) * _unit(teacher_BND)).sum(2)
    return inputs.reduce((1 - cosine_BN).mean(1), reduction)


class _Hidden(FeatureLoss):
    """Hidden states after a matrix on the student, where one is wanted."""

    function = None

    def __init__(self, student=None, teacher=None, *, project=None):
        super().__init__(student, teacher)
        if project not in (True, False, None):
            raise ValueError(f"Expected project True, False or None, got {project!r}.")
        self.project = project
        self.projection = None

    def build(self, student, teacher, seed):
        student, teacher = _tokens_pair(*self.pick(student, teacher), width=self.project is False)
        ours, theirs = student.shape[2], teacher.shape[2]
        if self._wanted(ours, theirs) and self.projection is None:
            self.projection = self.made(seed, student, lambda: nn.Linear(ours, theirs, bias=False))

    def values(self, student, teacher=None, labels=None):
        student, teacher = _tokens_pair(student, teacher, width=self.project is False)
        if self._wanted(student.shape[2], teacher.shape[2]):
            student = projected(student, self.projection)
        return self.function(student, teacher, "none")

    def _wanted(self, ours: int, theirs: int) -> bool:
        """Whether there is a matrix between features of these widths."""
        return ours != theirs if self.project is None else self.project

    def extra_repr(self):
        return f"project={self.project}"


class HiddenMSE(_Hidden):
    """`hidden_mse` after a matrix without bias on the student's features, which it trains, also
    where the widths agree: TinyBERT's :math:`W_h`.

    project: False compares the features as they are; None makes a matrix only where widths differ.
    """

    function = staticmethod(hidden_mse)

    def __init__(self, student=None, teacher=None, *, project: bool | None = True):
        super().__init__(student, teacher, project=project)


class HiddenCosine(_Hidden):
    """`hidden_cosine`. Where the widths differ, it trains a matrix without bias on the student's
    features first; DistilBERT's widths agree.

    project: True trains a matrix in any case; False never does.
    """

    function = staticmethod(hidden_cosine)

    def __init__(self, student=None, teacher=None, *, project: bool | None = None):
        super().__init__(student, teacher, project=project)


# --- attention ----------------------------------------------------------------------------------


def attention_mse(student_BANN, teacher_BANN, heads: str = "same", reduction: str = "mean"):
    r"""Mean squared error between attention matrices.

    .. math:: L = \frac{1}{A} \sum_a \mathrm{MSE}(A^S_a, A^T_a)

    Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding", equation 7
    (arXiv:1909.10351). Mean over heads, queries, keys and samples. TinyBERT compares the scores
    :math:`Q K^\top / \sqrt d` before the softmax, which it found to learn faster; give either those
    or attention after the softmax, whose entries are small (near 1/N) and so is then the loss.

    student_BANN, teacher_BANN: attention [B, A, N, N] of both sides. No gradient reaches the
        teacher.
    heads: "same" compares head with head, so both need as many. "mean" averages over each side's
        heads first, for models with different numbers of them (not in the paper).
    reduction: "mean", or "none" for one value per sample, [B].

    A masked place, with a score of -inf on both sides, adds 0. The official code sets scores below
    -100 to 0 instead, on each side for itself.

    Raises `ValueError` for other shapes, and for sizes that differ.

    >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    >>> attention_mse(student, torch.full((1, 1, 2, 2), 0.5))  # (4 * 0.5²) / 4
    tensor(0.2500)
    """
    inputs.check_choice("heads", heads, ("same", "mean"))
    student, teacher = _attention_pair(student_BANN, teacher_BANN, heads == "same")
    if heads == "mean":
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    masked = student.isneginf() & teacher.isneginf()
    error = student.masked_fill(masked, 0) - teacher.masked_fill(masked, 0)
    return inputs.reduce(error.square().mean((1, 2, 3)), reduction)


def attention_kl(student_BANN, teacher_BANN, scores: bool = False, reduction: str = "mean"):
    r"""Kullback-Leibler divergence between attention distributions.

    .. math:: L = \frac{1}{A N} \sum_{a, n} D_{KL}(A^T_{a n} \,\|\, A^S_{a n})

    Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of
    Pre-Trained Transformers", section 3.1 (arXiv:2002.10957). Sum over keys; mean over heads,
    queries and samples. In nats. The paper compares the last layers only.

    student_BANN, teacher_BANN: attention [B, A, N, N], of one shape: both need as many heads. No
        gradient reaches the teacher.
    scores: False takes probabilities, rows that sum to 1. True takes scores before the softmax.
    reduction: "mean", or "none" for one value per sample, [B].

    A key to which the teacher gives no probability adds nothing. One to which only the student
    gives none makes the loss large but finite with probabilities, which are kept above the smallest
    normal number of their dtype, and +inf with a score of -inf. Probabilities are compared by
    :math:`p \log (p / q) - p + q`: the same for rows that sum to 1, and never below 0 where half
    precision has rounded them.

    Raises `ValueError` for features that are not [B, A, N, N] and for two different shapes.

    >>> uniform, sure = torch.full((1, 1, 1, 2), 0.5), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    >>> attention_kl(uniform, sure)  # 1 log(1 / 0.5) = log 2
    tensor(0.6931)
    """
    student, teacher = _attention_pair(student_BANN, teacher_BANN)
    if scores:
        return inputs.reduce(_divergence(student, teacher).mean((1, 2)), reduction)
    smallest = torch.finfo(student_BANN.dtype).tiny
    log_ratio = teacher.clamp(min=smallest).log() - student.clamp(min=smallest).log()
    divergence = (teacher * log_ratio - teacher + student).sum(3)
    return inputs.reduce(divergence.mean((1, 2)), reduction)


@inputs.full_precision
def value_relation(student_BANd, teacher_BANd, reduction: str = "mean"):
    r"""Kullback-Leibler divergence between the relations of values to each other.

    .. math:: L = \frac{1}{A N} \sum_{a, n} D_{KL}(R^T_{a n} \,\|\, R^S_{a n}), \qquad
        R_a = \mathrm{softmax}\left(\frac{V_a V_a^\top}{\sqrt d}\right)

    Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of
    Pre-Trained Transformers", section 3.2 (arXiv:2002.10957). Sum over keys; mean over heads,
    queries and samples. In nats. A relation is N x N, so the widths of the heads may differ.

    student_BANd, teacher_BANd: the values of each head, [B, A, N, d]: as many heads and tokens on
        both sides. No gradient reaches the teacher. `ValueRelation` cuts [B, N, D] into heads.
    reduction: "mean", or "none" for one value per sample, [B].

    Turning the values of a head (a rotation of its d features) changes nothing.

    Raises `ValueError` for features that are not [B, A, N, d], and for different numbers of
    samples, heads or tokens.

    >>> student, teacher = torch.zeros(1, 1, 2, 3), torch.tensor([[[[2.0], [0.0]]]])
    >>> value_relation(student, teacher)  # rows softmax(4, 0) and (1/2, 1/2): (0.6031 + 0) / 2
    tensor(0.3015)
    """
    student, teacher = _attention_pair(student_BANd, teacher_BANd, what="values", last="d")
    student, teacher = (x @ x.transpose(2, 3) / x.shape[3] ** 0.5 for x in (student, teacher))
    return inputs.reduce(_divergence(student, teacher).mean((1, 2)), reduction)


class AttentionMSE(FeatureLoss):
    """`attention_mse`: attention [B, A, N, N], before or after the softmax. Trains nothing."""

    def __init__(self, student=None, teacher=None, *, heads: str = "same"):
        super().__init__(student, teacher)
        inputs.check_choice("heads", heads, ("same", "mean"))
        self.heads = heads

    def values(self, student, teacher=None, labels=None):
        return attention_mse(student, teacher, self.heads, "none")

    def extra_repr(self):
        return f"heads={self.heads!r}"


class AttentionKL(FeatureLoss):
    """`attention_kl`: attention [B, A, N, N] as distributions over keys. Trains nothing."""

    def __init__(self, student=None, teacher=None, *, scores: bool = False):
        super().__init__(student, teacher)
        self.scores = bool(scores)

    def values(self, student, teacher=None, labels=None):
        return attention_kl(student, teacher, self.scores, "none")

    def extra_repr(self):
        return f"scores={self.scores}"


class ValueRelation(FeatureLoss):
    """`value_relation`, for values as models hold them: [B, N, D], or queries, keys and values in
    one tensor [B, N, 3 D]. Trains nothing. Values that are [B, A, N, d] already pass as they are.

    heads: into how many heads to cut D on both sides: the models' own number for MiniLM. Where the
        two models have different numbers, any that divides both widths serves: these are the
        "relation heads" of Wang et al. 2021, "MiniLMv2" (arXiv:2012.15828).
    fused: whether only the last third of the features are values; a pair for student and teacher.
        None says so of a path that ends in "qkv", as in timm.
    """

    def __init__(self, student=None, teacher=None, *, heads: int | None = None, fused=None):
        super().__init__(student, teacher)
        if heads is not None and (not isinstance(heads, int) or heads < 1):
            raise ValueError(f"Expected heads to be a number of at least 1, got {heads!r}.")
        pair = tuple(fused) if isinstance(fused, (tuple, list)) else (fused, fused)
        if len(pair) != 2 or not all(one in (True, False, None) for one in pair):
            raise ValueError(f"Expected fused True, False, None or a pair of them, got {fused!r}.")
        self.heads, self.fused = heads, fused
        self._fused = tuple(
            one if one is not None else any(re.search(r"qkv(#\d+)?$", path) for path in paths)
            for one, paths in zip(pair, (self.student_paths, self.teacher_paths), strict=True))

    def values(self, student, teacher=None, labels=None):
        return value_relation(self._cut(student, "student", self._fused[0]),
                              self._cut(teacher, "teacher", self._fused[1]), "none")

    def _cut(self, x, who, fused):
        """The values of each head, [B, A, N, d]."""
        if isinstance(x, torch.Tensor) and x.ndim == 4:
            return x
        x = inputs.features(x, who, 3)
        parts = 3 if fused else 1
        if self.heads is None or x.shape[2] % (parts * self.heads):
            told = f"of {self.heads} heads" if self.heads else "of each head [B, A, N, d]"
            kind = "queries, keys and values" if fused else "values"
            raise ValueError(f"Expected {who} {kind} {told}, got {list(x.shape)}. Say how many "
                             "heads they have, ValueRelation(..., heads=4), and, where queries and "
                             "keys come along, fused=True.")
        values = x[:, :, -(x.shape[2] // parts):]
        return values.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def extra_repr(self):
        fused = "" if self.fused is None else f", fused={self.fused}"
        return f"heads={self.heads}{fused}"


# --- what they share ----------------------------------------------------------------------------


def _divergence(student_scores, teacher_scores) -> torch.Tensor:
    """KL divergence of softmaxes over the last dimension, the teacher's first."""
    log_q, log_p = F.log_softmax(student_scores, -1), F.log_softmax(teacher_scores, -1)
    p = log_p.exp()
    return (p * (log_p - log_q).masked_fill(p == 0, 0)).sum(-1)  # 0 log 0 = 0


def _unit(x) -> torch.Tensor:
    """Vectors of length 1; a vector of zeros stays as it is, and its gradient stays bounded."""
    largest = x.detach().abs().amax(-1, keepdim=True)  # the square of a tiny number would be 0
    x = x / torch.where(largest > torch.finfo(x.dtype).tiny, largest, 1)
    squared = x.square().sum(-1, keepdim=True)
    return x / torch.where(squared > 0.5, squared, 1).sqrt()


def _tokens_pair(student, teacher, width: bool = True):
    """Hidden states of both sides as [B, N, D], as many tokens each, of one width unless told."""
    given = student, teacher
    student, teacher = inputs.as_tokens(student, "student"), inputs.as_tokens(teacher, "teacher")
    same = 3 if width else 2
    if student.shape[:same] != teacher.shape[:same]:
        what = "of one width and as many tokens" if width else "with as many tokens"
        raise ValueError(f"Expected student and teacher hidden states {what}, got "
                         f"{list(given[0].shape)} and {list(given[1].shape)}. For other widths "
                         "HiddenMSE and HiddenCosine train a matrix in build(); a class token that "
                         "only one side has must go.")
    return student, teacher.detach()


def _attention_pair(student, teacher, heads: bool = True, what: str = "attention", last: str = "N"):
    """Attention of both sides, in float32 at least, of one shape; the teacher's without a gradient.

    heads: False where the numbers of heads may differ. last: "d" where the last sizes may differ.
    """
    for x, who in ((student, "student"), (teacher, "teacher")):
        if not isinstance(x, torch.Tensor) or x.ndim != 4 or not x.is_floating_point() or (
                0 in x.shape):
            seen = f"{list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
            raise ValueError(f"Expected {who} {what} of shape [B, heads, N, {last}], got {seen}.")
    ours, theirs = list(student.shape), list(teacher.shape)
    loose = {1: heads, 3: last == "N"}
    if any(a != b for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if loose.get(i, True)):
        hint = (" With different numbers of heads, use attention_mse(..., heads=\"mean\") or "
                "ValueRelation(..., heads=...)." if ours[1] != theirs[1] else "")
        raise ValueError(f"Expected student and teacher {what} with as many samples, heads and "
                         f"tokens, got {ours} and {theirs}.{hint}")
    return inputs.floats(student), inputs.floats(teacher).detach()
