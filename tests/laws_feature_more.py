"""More rows of losses on inner tensors: overhaul, knowledge review, transformers."""

import oracles_transformer as oracles
import torch
from laws import Law, each, randn

from kdcourse.losses.feature.overhaul import OFD, overhaul
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


def same(teacher):
    return each(torch.clone, teacher)


def pair(*shape):
    """An example maker: both sides of this shape behind the batch."""
    return lambda B=5, seed=0: (randn(B, *shape, seed=seed + 1), randn(B, *shape, seed=seed + 2),
                                None)


def two(ours, theirs):
    """An example maker: two shapes behind the batch."""
    return lambda B=5, seed=0: (randn(B, *ours, seed=seed + 1), randn(B, *theirs, seed=seed + 2),
                                None)


def levels(*shapes):
    """An example maker: a tuple of maps on both sides."""
    def example(B=5, seed=0):
        s, t = (tuple(randn(B, *shape, seed=seed + 10 * side + i) for i, shape in enumerate(shapes))
                for side in (1, 2))
        return s, t, None
    return example


MARGIN = torch.tensor([-0.8, -0.1, 0.0], dtype=torch.float64)


def probabilities(scores):
    """What a model's softmax hands out: never below float32 here, so that rows sum to 1."""
    if not isinstance(scores, torch.Tensor):
        return scores
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)


ROWS_MORE = [
    Law("overhaul", "",
        call=lambda s, t, y: overhaul(s, t, MARGIN),
        values=lambda s, t, y: overhaul(s, t, MARGIN, "none"),
        oracle=lambda s, t, y: oracles.overhaul(s, t, MARGIN.tolist()),
        example=pair(3, 2, 3), term=lambda: OFD("a", "b", margin=MARGIN), kind="features",
        projects=True, equal=lambda t: torch.maximum(t, MARGIN.to(t)[:, None, None])),
    Law("review", "",
        call=lambda s, t, y: review(s, t),
        values=lambda s, t, y: review(s, t, "none"),
        oracle=lambda s, t, y: oracles.review(s, t),
        example=levels((2, 5, 6), (1, 3, 2), (3, 1, 1)),
        term=lambda: ReviewKD(["a", "b"], ["a", "b"]), kind="features", projects=True, equal=same),
    Law("review", "one level",
        call=lambda s, t, y: review(s, t),
        values=lambda s, t, y: review(s, t, "none"),
        oracle=lambda s, t, y: oracles.review([s], [t]),
        example=pair(2, 4, 4), kind="features", equal=same),
    Law("hidden_mse", "",
        call=lambda s, t, y: hidden_mse(s, t),
        values=lambda s, t, y: hidden_mse(s, t, "none"),
        oracle=lambda s, t, y: oracles.hidden_mse(s, t),
        example=pair(4, 3), term=lambda: HiddenMSE("a", "b", project=False), kind="features",
        equal=same),
    Law("hidden_mse", "maps",
        call=lambda s, t, y: hidden_mse(s, t),
        values=lambda s, t, y: hidden_mse(s, t, "none"),
        oracle=lambda s, t, y: oracles.hidden_mse(*(x.transpose(0, 2, 3, 1).reshape(len(x), 6, 2)
                                                    for x in (s, t))),
        example=pair(2, 2, 3), kind="features", equal=same),
    Law("hidden_cosine", "",
        call=lambda s, t, y: hidden_cosine(s, t),
        values=lambda s, t, y: hidden_cosine(s, t, "none"),
        oracle=lambda s, t, y: oracles.hidden_cosine(s, t),
        example=pair(4, 3), term=lambda: HiddenCosine("a", "b"), kind="features", equal=same),
    Law("attention_mse", "",
        call=lambda s, t, y: attention_mse(s, t),
        values=lambda s, t, y: attention_mse(s, t, reduction="none"),
        oracle=lambda s, t, y: oracles.attention_mse(s, t),
        example=pair(2, 3, 3), term=lambda: AttentionMSE("a", "b"), kind="features", equal=same),
    Law("attention_mse", "mean of the heads",
        call=lambda s, t, y: attention_mse(s, t, "mean"),
        values=lambda s, t, y: attention_mse(s, t, "mean", "none"),
        oracle=lambda s, t, y: oracles.attention_mse(s.mean(1)[:, None], t.mean(1)[:, None]),
        example=two((2, 3, 3), (3, 3, 3)), term=lambda: AttentionMSE("a", "b", heads="mean"),
        kind="features", equal=same),
    Law("attention_kl", "probabilities",
        call=lambda s, t, y: attention_kl(probabilities(s), probabilities(t)),
        values=lambda s, t, y: attention_kl(probabilities(s), probabilities(t), False, "none"),
        oracle=lambda s, t, y: oracles.attention_kl(s, t),
        example=pair(2, 3, 3), kind="features", equal=same),
    Law("attention_kl", "scores",
        call=lambda s, t, y: attention_kl(s, t, True),
        values=lambda s, t, y: attention_kl(s, t, True, "none"),
        oracle=lambda s, t, y: oracles.attention_kl(s, t),
        example=pair(2, 3, 3), term=lambda: AttentionKL("a", "b", scores=True), kind="features",
        equal=same),
    Law("value_relation", "",
        call=lambda s, t, y: value_relation(s, t),
        values=lambda s, t, y: value_relation(s, t, "none"),
        oracle=lambda s, t, y: oracles.value_relation(s, t),
        example=two((2, 3, 2), (2, 3, 4)), term=lambda: ValueRelation("a", "b"), kind="features"),
    Law("value_relation", "one width",
        call=lambda s, t, y: value_relation(s, t),
        values=lambda s, t, y: value_relation(s, t, "none"),
        oracle=lambda s, t, y: oracles.value_relation(s, t),
        example=pair(2, 3, 3), kind="features", equal=same),
]
