"""Losses for transformers: what is special about each of them."""

import math

import numpy as np
import pytest
import timm
import torch
from helpers import oracles_attention as oracles
from helpers.trained import maps
from torch import nn

import kdcourse as kd
from kdcourse.losses import (
    AttentionKL,
    AttentionMSE,
    HiddenCosine,
    HiddenMSE,
    ReviewKD,
    ValueRelation,
    attention_kl,
    attention_mse,
    hidden_cosine,
    hidden_mse,
    value_relation,
)

RECIPE = kd.Recipe(epochs=1, batch=36)


# --- hidden states ------------------------------------------------------------------------------


def test_cosine_ignores_length_and_MSE_does_not():
    s, t = maps(3, 4, 5), maps(3, 4, 5, seed=1)
    torch.testing.assert_close(hidden_cosine(7 * s, 0.2 * t), hidden_cosine(s, t))
    assert float(hidden_cosine(3 * t, t)) == pytest.approx(0, abs=1e-6)
    assert float(hidden_cosine(-t, t)) == pytest.approx(2, abs=1e-6)
    assert float(hidden_mse(3 * t, t)) == pytest.approx(4 * float(t.square().mean()))
    turn = torch.linalg.qr(maps(5, 5, seed=2))[0]
    for loss in (hidden_cosine, hidden_mse):
        torch.testing.assert_close(loss(s @ turn, t @ turn), loss(s, t))


@pytest.mark.parametrize("size", [0, 1e-44, 1e-30, 1e-6, 1e15, 1e30])
def test_cosine_of_extreme_lengths(size):
    s = (maps(3, 4, 5) * size).requires_grad_()
    t = maps(3, 4, 5, seed=1)
    loss = hidden_cosine(s, t)
    loss.backward()
    assert torch.isfinite(s.grad).all()
    if size < 1e-40:  # numbers that have lost their digits count as 0
        assert float(loss.detach()) == pytest.approx(1)
        assert s.grad.abs().max() <= 1  # not 1 / eps
    else:
        torch.testing.assert_close(loss, hidden_cosine(maps(3, 4, 5), t))


def test_places_of_a_map_are_tokens_and_a_vector_is_one():
    a, b = maps(2, 3, 4, 4), maps(2, 16, 3, seed=1)
    for loss in (hidden_mse, hidden_cosine):
        torch.testing.assert_close(loss(a, b), loss(a.flatten(2).transpose(1, 2), b))
        torch.testing.assert_close(loss(a[:, :, 0, 0], b[:, 0]),
                                   loss(a[:, None, :, 0, 0], b[:, :1]))


def test_hidden_states_that_do_not_fit():
    s = maps(2, 17, 8)
    for loss in (hidden_mse, hidden_cosine):
        with pytest.raises(ValueError, match=r"\[2, 17, 8\] and \[2, 16, 8\].*class token"):
            loss(s, s[:, 1:])
        with pytest.raises(ValueError, match=r"\[2, 17, 8\] and \[2, 17, 4\].*build"):
            loss(s, s[:, :, :4])
    for term in (HiddenMSE, HiddenCosine):
        with pytest.raises(ValueError, match=r"with as many tokens, got \[2, 17, 8\] and \[2, 16"):
            term("a", "b").build(s, s[:, 1:], 0)
        with pytest.raises(ValueError, match="of one width"):
            term("a", "b", project=False).build(s, s[:, :, :4], 0)
        with pytest.raises(ValueError, match="project True, False or None, got 'yes'"):
            term("a", "b", project="yes")


def test_when_there_is_a_matrix():
    s, wide = maps(2, 5, 4), maps(2, 5, 6, seed=1)
    made = lambda term, t: (term.build(s, t, 0), term.projection)[1]  # noqa: E731
    assert made(HiddenMSE("a", "b"), s).weight.shape == (4, 4)
    assert made(HiddenMSE("a", "b"), wide).bias is None
    assert made(HiddenMSE("a", "b", project=None), s) is None
    assert made(HiddenMSE("a", "b", project=False), s) is None
    assert made(HiddenCosine("a", "b"), s) is None
    assert made(HiddenCosine("a", "b"), wide).weight.shape == (6, 4)
    assert made(HiddenCosine("a", "b", project=True), s).weight.shape == (4, 4)
    assert repr(HiddenMSE("a", "b")) == "HiddenMSE('a', 'b', project=True)"


@pytest.mark.parametrize(("term", "function"), [(HiddenMSE, oracles.hidden_mse),
                                                (HiddenCosine, oracles.hidden_cosine)])
def test_hidden_terms_are_their_functions_behind_the_matrix(term, function):
    term, s, t = term("a", "b"), maps(3, 5, 4), maps(3, 5, 6, seed=1)
    term.build(s, t, 0)
    W = term.projection.weight.detach().double().numpy()
    expected = function(s.double().numpy() @ W.T, t.double().numpy())
    np.testing.assert_allclose(term.values(s, t).detach(), expected, rtol=1e-5)


# --- attention ----------------------------------------------------------------------------------


def test_heads_are_compared_one_by_one_unless_told():
    t = maps(2, 4, 3, 3)
    swapped = t[:, [1, 0, 3, 2]]
    assert float(attention_mse(swapped, t)) > 0
    assert float(attention_mse(swapped, t, "mean")) == pytest.approx(0, abs=1e-12)
    fewer = t.unflatten(1, (2, 2)).mean(2)
    with pytest.raises(ValueError, match=r'\[2, 2, 3, 3\] and \[2, 4, 3, 3\].*heads="mean"'):
        attention_mse(fewer, t)
    assert float(attention_mse(fewer, t, "mean")) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match=r'and \[2, 4, 3, 3\].*heads="mean"'):
        attention_kl(fewer, t)
    with pytest.raises(ValueError, match='heads "same" or "mean", got 3'):
        attention_mse(t, t, 3)
    with pytest.raises(ValueError, match='heads "same" or "mean", got 3'):
        AttentionMSE("a", "b", heads=3)
    with pytest.raises(ValueError, match="as many samples, heads and tokens"):
        attention_mse(t, t[:, :, :2, :2], "mean")


def test_masked_scores_count_for_nothing():
    s, t = maps(2, 2, 3, 3), maps(2, 2, 3, 3, seed=1)
    future = torch.ones(3, 3, dtype=torch.bool).triu(1)
    masked = [x.masked_fill(future, -math.inf).requires_grad_() for x in (s, t)]
    error = (s - t).masked_fill(future, 0).square().mean()
    torch.testing.assert_close(attention_mse(*masked), error)
    mean = (s.mean(1) - t.mean(1)).masked_fill(future, 0).square().mean()
    torch.testing.assert_close(attention_mse(*masked, "mean"), mean)
    for loss in (attention_mse(*masked), attention_mse(*masked, "mean"),
                 attention_kl(*masked, scores=True),
                 attention_kl(*(x.softmax(-1) for x in masked))):
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, masked[0])[0]).all()
    torch.testing.assert_close(attention_kl(*masked, scores=True),
                               attention_kl(*(x.softmax(-1) for x in masked)))
    assert attention_kl(masked[0], t, scores=True).isposinf()


def test_attention_kl_asks_the_teacher_first_and_knows_both_kinds():
    s, t = 3 * maps(2, 2, 4, 4), 3 * maps(2, 2, 4, 4, seed=1)
    p, q = t.softmax(-1), s.softmax(-1)
    torch.testing.assert_close(attention_kl(s, t, scores=True), attention_kl(q, p))
    torch.testing.assert_close(attention_kl(s + 5, t - 3, scores=True), attention_kl(q, p))
    by_torch = nn.functional.kl_div(q.log(), p, reduction="sum") / (2 * 2 * 4)
    torch.testing.assert_close(attention_kl(q, p), by_torch)
    assert float(attention_kl(p, q)) != pytest.approx(float(by_torch), rel=0.01)


@pytest.mark.parametrize(("term", "kinds", "message"), [
    (AttentionKL(), ("scores", "scores"), "probabilities, got scores of the student and scores of"),
    (AttentionKL(), ("probabilities", "scores"), "got probabilities of the student and scores of"),
    (AttentionKL(scores=True), ("probabilities", "probabilities"), "state scores=False"),
    (AttentionKL(scores=True), ("dropped", "probabilities"), "got probabilities of the teacher"),
    (AttentionMSE(), ("scores", "probabilities"), "of one kind, got scores of the student and"),
    (AttentionMSE(), ("probabilities", "scores"), "before the softmax, or both behind it"),
    (AttentionMSE(), ("scores", "scores"), None), (AttentionMSE(), ("dropped", "scores"), None),
    (AttentionMSE(), ("probabilities", "probabilities"), None),
    (AttentionKL(), ("dropped", "probabilities"), None),
    (AttentionKL(scores=True), ("scores", "scores"), None)])
def test_attention_before_and_behind_the_softmax_is_not_mixed_up(term, kinds, message):
    scores = [maps(2, 3, 4, 4, seed=seed) for seed in (0, 1)]
    given = [{"scores": x, "probabilities": x.softmax(-1),
              "dropped": nn.Dropout(0.5)(x.softmax(-1))}[kind] for x, kind in zip(scores, kinds)]
    if message is None:
        term.build(*given, 0)
        return
    with pytest.raises(ValueError, match=message):
        term.build(*given, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_kl_of_probabilities_that_are_0(dtype):
    rows = torch.tensor([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]], dtype=dtype).view(1, 1, 3, 3)
    same = rows.clone().requires_grad_()
    loss = attention_kl(same, rows)
    loss.backward()
    assert float(loss.detach()) == 0
    assert same.grad[0, 0, 2, :2].abs().max() == 0  # also off the simplex: nothing to do
    other = rows.roll(1, 3).requires_grad_()
    loss = attention_kl(other, rows)
    loss.backward()
    assert 1 < float(loss.detach()) < 100
    assert torch.isfinite(other.grad).all()
    least = torch.nextafter(torch.tensor(0.0, dtype=dtype), torch.tensor(1.0, dtype=dtype))
    nearly = torch.tensor([[least, 1.0]], dtype=dtype).view(1, 1, 1, 2).requires_grad_()
    attention_kl(nearly, torch.tensor([1.0, 0.0], dtype=dtype).view(1, 1, 1, 2)).backward()
    assert torch.isfinite(nearly.grad).all()


def test_attention_kl_of_rounded_probabilities_is_small_and_not_below_0():
    scores = maps(4, 2, 50, 50)
    exact = scores.softmax(-1)
    rounded = exact.bfloat16()
    for a, b in ((rounded, exact), (exact, rounded)):
        values = attention_kl(a, b, reduction="none")
        assert (values >= 0).all()
        assert values.max() < 1e-5


def test_attention_that_is_none():
    x = maps(2, 3, 4, 4)
    for wrong, seen in ((x[0], r"\[3, 4, 4\]"), (x.long(), r"\[2, 3, 4, 4\]"), (None, "NoneType"),
                        (x[:0], r"\[0, 3, 4, 4\]")):
        for loss in (attention_mse, attention_kl):
            with pytest.raises(ValueError, match=rf"student attention.*\[B, heads, N, N\].*{seen}"):
                loss(wrong, x)
            with pytest.raises(ValueError, match="teacher attention"):
                loss(x, wrong)
        with pytest.raises(ValueError, match=r"values of shape \[B, heads, N, d\], got"):
            value_relation(wrong, x)


# --- values -------------------------------------------------------------------------------------


def test_values_may_be_turned_and_be_of_other_widths():
    s, t = maps(2, 3, 5, 4), maps(2, 3, 5, 8, seed=1)
    turn = torch.linalg.qr(maps(4, 4, seed=2))[0]
    torch.testing.assert_close(value_relation(s @ turn, t), value_relation(s, t))
    assert float(value_relation(2 * s, t)) != pytest.approx(float(value_relation(s, t)), rel=1e-3)
    # zeros beside the values leave the products as they are, and √d grows
    wider = torch.cat([s, 0 * s], 3) * 2**0.25
    torch.testing.assert_close(value_relation(wider, t), value_relation(s, t))
    with pytest.raises(ValueError, match=r"\[2, 2, 5, 4\] and \[2, 3, 5, 8\].*ValueRelation"):
        value_relation(s[:, :2], t)
    with pytest.raises(ValueError, match="as many samples, heads and tokens"):
        value_relation(s[:, :, :4], t)


def test_values_are_cut_out_of_what_models_hold():
    B, N, A, d = 2, 5, 3, 4
    qkv = maps(B, N, 3 * A * d)
    v = qkv.reshape(B, N, 3, A, d).permute(2, 0, 3, 1, 4)[2]  # as timm does
    other = maps(B, A, N, 7, seed=1)
    expected = value_relation(v, other)
    cut = {"heads": A, "fused": ("concatenated", False)}
    for paths in (("a.qkv", "b"), (), ("a.qkv#2", "b")):
        torch.testing.assert_close(ValueRelation(*paths, **cut)(qkv, other), expected)
    torch.testing.assert_close(
        ValueRelation("a", "b", **cut)(qkv, v.transpose(1, 2).flatten(2)), value_relation(v, v))
    plain = v.transpose(1, 2).flatten(2)
    torch.testing.assert_close(ValueRelation("a.value", "b", heads=A)(plain, other), expected)
    torch.testing.assert_close(ValueRelation("a.qkv", "b", heads=A, fused=False)(plain, other),
                               expected)


def test_ValueRelation_says_what_it_needs():
    x = maps(2, 5, 12)
    with pytest.raises(ValueError, match=r"ValueRelation.*got \[2, 5, 12\].*heads=4"):
        ValueRelation("a", "b")(x, x)
    with pytest.raises(ValueError, match=r"student values of 5 heads, got \[2, 5, 12\]"):
        ValueRelation("a", "b", heads=5)(x, x)
    with pytest.raises(ValueError, match="student values of 3 heads"):
        ValueRelation("qkv", "b", heads=3, fused="concatenated")(x, x)
    with pytest.raises(ValueError, match="heads to be a whole number of at least 1, got"):
        ValueRelation("a", "b", heads=(3, 4))
    with pytest.raises(ValueError, match=r"fused .concatenated., .per head., the number"):
        ValueRelation("a", "b", heads=3, fused=(True, True, False))
    with pytest.raises(ValueError, match=r"student features of shape \[B, N, D\], got"):
        ValueRelation("a", "b", heads=3)(None, x)
    assert repr(ValueRelation("a", "b", heads=3)) == "ValueRelation('a', 'b', heads=3)"


# --- in the transformers of other people --------------------------------------------------------


def small_vit(seed, embed=32, heads=4, fused=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.models.vision_transformer.VisionTransformer(
            img_size=28, patch_size=7, in_chans=1, num_classes=5, embed_dim=embed, depth=2,
            num_heads=heads, mlp_ratio=2)
    for block in model.blocks:
        block.attn.fused_attn = fused
    return model.eval()


def test_the_paths_of_timm():
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    student, teacher = small_vit(0), small_vit(1, embed=48)
    paths = ["blocks.1", "blocks.1.attn.attn_drop:input", "blocks.1.attn.qkv"]
    views = [kd.taps(model, paths)(x) for model in (student, teacher)]
    hidden, attention, qkv = ([view.taps[path] for view in views] for path in paths)
    assert hidden[0].shape == (3, 17, 32)
    torch.testing.assert_close(attention[0].sum(3), torch.ones(3, 4, 17))
    assert qkv[1].shape == (3, 17, 144)
    for path, term in ((paths[0], HiddenMSE), (paths[0], HiddenCosine), (paths[1], AttentionMSE),
                       (paths[1], AttentionKL)):
        term = term(path, path)
        term.build(*views, 0)
        loss = term(*views)
        assert torch.isfinite(loss)
        assert loss > 0
        assert term.values(*term.pick(*views)).shape == (3,)
        loss.backward(retain_graph=True)
    values = [part.reshape(3, 17, 3, 4, -1)[:, :, 2].transpose(1, 2) for part in qkv]
    relation = ValueRelation(paths[2], paths[2], heads=4, fused="concatenated")
    torch.testing.assert_close(relation(*views), value_relation(*values))
    # what is cut out is what the block multiplies its attention with
    seen = kd.taps(student, ["blocks.1.attn.proj:input"])(x).taps["blocks.1.attn.proj:input"]
    torch.testing.assert_close((attention[0] @ values[0]).transpose(1, 2).flatten(2), seen)


def test_relation_heads_where_the_models_have_other_numbers():
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    path = "blocks.1.attn.qkv"
    views = [kd.taps(model, [path])(x) for model in (small_vit(0, heads=2),
                                                     small_vit(1, embed=48, heads=6))]
    for heads in (1, 2, 4):
        assert torch.isfinite(ValueRelation(path, path, heads=heads, fused="concatenated")(*views))


@pytest.mark.parametrize("term", [
    lambda: HiddenMSE("1.blocks.1", "1.blocks.1"), lambda: HiddenCosine("1.blocks.0", "1.norm"),
    lambda: AttentionMSE(*2 * ["1.blocks.1.attn.attn_drop:input"], heads="mean"),
    lambda: AttentionKL(*2 * ["1.blocks.0.attn.attn_drop:input"]),
    lambda: ValueRelation(*2 * ["1.blocks.1.attn.qkv"], heads=2, fused="concatenated"),
    lambda: ReviewKD(["1.blocks.0", "1.blocks.1"], ["1.blocks.0", "1.blocks.1"]),
])
def test_a_vision_transformer_learns_from_another(data, term):
    nets = [kd.models.vit(dim=dim, depth=2, heads=2, patch=4, size=12, seed=dim)
            for dim in (8, 16)]
    for net in nets:
        for block in net[1].blocks:
            block.attn.fused_attn = False
    history = kd.fit(kd.Distiller(*nets, kd.losses.CE() + term()), data, RECIPE)
    assert all(math.isfinite(row["loss"]) for row in history.rows)


def test_the_paths_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, num_labels=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification._from_config(
            config, attn_implementation="eager").eval()
    layer = "bert.encoder.layer.1"
    paths = [layer, f"{layer}.attention.self[1]", f"{layer}.attention.self.value"]
    view = kd.taps(model, paths)(input_ids=torch.arange(12).view(2, 6))
    hidden, attention, value = (view.taps[path] for path in paths)
    assert hidden.shape == value.shape == (2, 6, 16)
    torch.testing.assert_close(attention.sum(3), torch.ones(2, 2, 6))
    assert attention_kl(attention, attention).equal(torch.tensor(0.0))
    assert float(ValueRelation(paths[2], paths[2], heads=2)(view, view).detach()) == pytest.approx(
        0, abs=1e-6)
