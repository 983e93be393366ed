"""The rows of losses on transformers."""

import torch

from helpers import oracles_attention as oracles
from helpers.laws import Law, each, randn
from kdcourse import losses


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


def triple(ours, theirs):
    """An example maker: queries, keys and values of both sides."""
    return lambda B=5, seed=0: (*[tuple(randn(B, *shape, seed=seed + 10 * side + i)
                                        for i in range(3))
                                  for side, shape in ((1, ours), (2, theirs))], None)


def probabilities(scores):
    """What a model's softmax hands out: never below float32 here, so that rows sum to 1."""
    if not isinstance(scores, torch.Tensor):
        return scores
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)


ROWS = [
    Law("hidden_mse", "",
        call=lambda s, t, y: losses.hidden_mse(s, t),
        values=lambda s, t, y: losses.hidden_mse(s, t, "none"),
        oracle=lambda s, t, y: oracles.hidden_mse(s, t),
        example=pair(4, 3), term=lambda: losses.HiddenMSE("a", "b", project=False), kind="features",
        equal=same),
    Law("hidden_mse", "maps",
        call=lambda s, t, y: losses.hidden_mse(s, t),
        values=lambda s, t, y: losses.hidden_mse(s, t, "none"),
        oracle=lambda s, t, y: oracles.hidden_mse(*(x.transpose(0, 2, 3, 1).reshape(len(x), 6, 2)
                                                    for x in (s, t))),
        example=pair(2, 2, 3), kind="features", equal=same),
    Law("hidden_cosine", "",
        call=lambda s, t, y: losses.hidden_cosine(s, t),
        values=lambda s, t, y: losses.hidden_cosine(s, t, "none"),
        oracle=lambda s, t, y: oracles.hidden_cosine(s, t),
        example=pair(4, 3), term=lambda: losses.HiddenCosine("a", "b"), kind="features",
        equal=same),
    Law("attention_mse", "",
        call=lambda s, t, y: losses.attention_mse(s, t),
        values=lambda s, t, y: losses.attention_mse(s, t, reduction="none"),
        oracle=lambda s, t, y: oracles.attention_mse(s, t),
        example=pair(2, 3, 3), term=lambda: losses.AttentionMSE("a", "b"), kind="features",
        equal=same),
    Law("attention_mse", "mean of the heads",
        call=lambda s, t, y: losses.attention_mse(s, t, "mean"),
        values=lambda s, t, y: losses.attention_mse(s, t, "mean", "none"),
        oracle=lambda s, t, y: oracles.attention_mse(s.mean(1)[:, None], t.mean(1)[:, None]),
        example=two((2, 3, 3), (3, 3, 3)), term=lambda: losses.AttentionMSE("a", "b", heads="mean"),
        kind="features", equal=same),
    Law("attention_kl", "probabilities",
        call=lambda s, t, y: losses.attention_kl(probabilities(s), probabilities(t)),
        values=lambda s, t, y: losses.attention_kl(probabilities(s), probabilities(t), False,
        "none"),
        oracle=lambda s, t, y: oracles.attention_kl(s, t),
        example=pair(2, 3, 3), kind="features", equal=same),
    Law("attention_kl", "scores",
        call=lambda s, t, y: losses.attention_kl(s, t, True),
        values=lambda s, t, y: losses.attention_kl(s, t, True, "none"),
        oracle=lambda s, t, y: oracles.attention_kl(s, t),
        example=pair(2, 3, 3), term=lambda: losses.AttentionKL("a", "b", scores=True),
        kind="features",
        equal=same),
    Law("value_relation", "",
        call=lambda s, t, y: losses.value_relation(s, t),
        values=lambda s, t, y: losses.value_relation(s, t, "none"),
        oracle=lambda s, t, y: oracles.value_relation(s, t),
        example=two((2, 3, 2), (2, 3, 4)), term=lambda: losses.ValueRelation("a", "b"),
        kind="features"),
    Law("value_relation", "one width",
        call=lambda s, t, y: losses.value_relation(s, t),
        values=lambda s, t, y: losses.value_relation(s, t, "none"),
        oracle=lambda s, t, y: oracles.value_relation(s, t),
        example=pair(2, 3, 3), kind="features", equal=same),
    *[Law("self_relation", name,
          call=lambda s, t, y: losses.self_relation(s, t),
          values=lambda s, t, y: losses.self_relation(s, t, "none"),
          oracle=lambda s, t, y: oracles.self_relation(s, t), example=triple(*shapes),
          term=lambda: losses.SelfRelation("a", "b"), kind="features", equal=equal)
      for name, shapes, equal in (("", [(2, 3, 2), (2, 3, 2)], same),
                                  ("other widths", [(2, 3, 2), (2, 3, 4)], None))],
]
