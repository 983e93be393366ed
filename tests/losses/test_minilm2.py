"""MiniLMv2's relations. The laws of every loss are in `test_laws.py`."""

import math

import pytest
import torch
from helpers.laws import randn

import kdcourse as kd
from kdcourse.losses import CE, SelfRelation, ValueRelation, self_relation, value_relation


def heads(x_BND, count):
    """Cut into heads, each in its loop."""
    width = x_BND.shape[2] // count
    return torch.stack([x_BND[:, :, a * width:(a + 1) * width] for a in range(count)], 1)


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("relations", ["qkv", "qk", "v", "vk"])
def test_one_tensor_or_three_are_cut_into_relation_heads(count, relations):
    student, teacher = randn(2, 5, 18), randn(2, 5, 36, seed=1)
    term = SelfRelation("a", "b", heads=count, relations=relations, fused="concatenated")
    expected = 0
    for letter in relations:
        i = "qkv".index(letter)
        pair = [heads(x[:, :, i * x.shape[2] // 3:(i + 1) * x.shape[2] // 3], count)
                for x in (student, teacher)]
        expected = expected + value_relation(*pair, "none")
    torch.testing.assert_close(term.values(student, teacher), expected)
    threes = [tuple(x.chunk(3, 2)) for x in (student, teacher)]
    torch.testing.assert_close(term.values(*threes), expected)
    torch.testing.assert_close(term.values(student, threes[1]), expected)
    cut = [tuple(heads(x, count) for x in three) for three in threes]
    torch.testing.assert_close(term.values(*cut), expected)


def test_the_relation_of_values_is_that_of_MiniLM():
    student, teacher = randn(2, 5, 12), randn(2, 5, 24, seed=1)
    ours = SelfRelation("a.qkv", "b.qkv", heads=2, relations="v", fused="concatenated")
    theirs = ValueRelation("a.qkv", "b.qkv", heads=2, fused="concatenated")
    torch.testing.assert_close(ours(student, teacher), theirs(student, teacher))


@pytest.mark.parametrize("blocks", [("1.blocks.1.attn.qkv", "1.blocks.2.attn.qkv"),
                                    ("1.blocks.0.attn.qkv", "1.blocks.1.attn.qkv")])
def test_it_trains_in_a_scheme_with_other_numbers_of_heads(data, blocks):
    student = kd.models.vit(dim=8, depth=2, heads=2, patch=4, size=12)
    teacher = kd.models.vit(dim=24, depth=3, heads=3, patch=4, size=12, seed=1)
    term = SelfRelation(*blocks, heads=4, fused="concatenated")
    scheme = kd.Distiller(student, teacher, CE() + term)
    history = kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36))
    assert math.isfinite(history["loss"][-1])


def test_what_does_not_fit_is_refused():
    x, qkv = randn(2, 5, 8), randn(2, 5, 24)
    for count in (3, 5):
        with pytest.raises(ValueError, match=rf"features that {count} relation heads divide"):
            SelfRelation(heads=count, fused="concatenated").values(qkv, qkv)
    with pytest.raises(ValueError, match=r"that so many relation heads divide, got \[2, 5, 8\]"):
        SelfRelation(fused="concatenated").values(qkv, qkv)
    with pytest.raises(ValueError, match=r"student queries, keys and values in one.*\[2, 5, 8\]"):
        SelfRelation(heads=2, fused="concatenated").values(x, qkv)
    for few in ((x, x), (x,)):
        with pytest.raises(ValueError, match=f"one tensor or three, got {len(few)} tensors"):
            SelfRelation(heads=2).values(few, few)
    for relations in ("", "qq", "o", 3):
        with pytest.raises(ValueError, match='relations out of the letters of "qkv"'):
            SelfRelation(relations=relations)
    with pytest.raises(ValueError, match="one path of the teacher, of queries, keys and values"):
        SelfRelation("a", ["b", "c"])
    with pytest.raises(ValueError, match="as many tensors of student and teacher, got 2 and 1"):
        self_relation((x, x), (x,))
