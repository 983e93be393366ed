"""Queries, keys and values in one tensor, against those that the models themselves compute with."""

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.laws import randn

import kdcourse as kd
from kdcourse.losses import SelfRelation, ValueRelation, self_relation, value_relation

TOKENS = torch.arange(12).view(2, 6)
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 20}


def language_model(name):
    """A small random model of transformers, and the path of its queries, keys and values."""
    transformers = pytest.importorskip("transformers")
    config, path = {
        "GPT-NeoX": (lambda: transformers.GPTNeoXConfig(**SMALL, intermediate_size=8),
                     "layers.1.attention.query_key_value"),
        "BLOOM": (lambda: transformers.BloomConfig(vocab_size=20, hidden_size=24, n_layer=2,
                                                   n_head=4), "h.1.self_attention.query_key_value"),
        "Persimmon": (lambda: transformers.PersimmonConfig(**SMALL | {"hidden_size": 48},
                                                           intermediate_size=8,
                                                           qk_layernorm=False),
                      "layers.1.self_attn.query_key_value"),
        "GPT-2": (lambda: transformers.GPT2Config(vocab_size=20, n_embd=24, n_layer=2, n_head=4),
                  "h.1.attn.c_attn"),
        "MPT": (lambda: transformers.MptConfig(d_model=24, n_heads=4, n_layers=2, vocab_size=20),
                "blocks.1.attn.Wqkv"),
    }[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(config()).eval()
    model.get_submodule(path).weight.data *= 20  # or the relations are nearly uniform
    return model, path


@pytest.mark.parametrize(("name", "fused"), [
    ("GPT-NeoX", "per head"), ("BLOOM", "per head"), ("Persimmon", "per head"),
    ("GPT-2", "concatenated"), ("MPT", "concatenated")])
@torch.no_grad()
def test_the_values_are_those_that_the_model_keeps(name, fused):
    model, path = language_model(name)
    output = kd.taps(model, [path])(input_ids=TOKENS)
    values = model(input_ids=TOKENS, use_cache=True).past_key_values.layers[1].values
    other = randn(2, 4, 6, 5, seed=3).float()
    expected = value_relation(values, other)
    term = ValueRelation(path, "b", heads=4, fused=(fused, None))
    torch.testing.assert_close(term(output, other), expected)
    wrong = {"per head": "concatenated", "concatenated": "per head"}[fused]
    misread = ValueRelation(path, "b", heads=4, fused=(wrong, None))(output, other)
    assert abs(float(misread / expected) - 1) > 1e-2
    # in relation heads, of which there are other numbers than attention heads
    flat = values.transpose(1, 2).flatten(2)
    term = SelfRelation(path, ["q", "k", "v"], heads=3, relations="v",
                        fused=(4 if fused == "per head" else fused, None))
    other, in_heads = randn(2, 3, 6, 5, seed=4).float(), flat.unflatten(2, (3, -1)).transpose(1, 2)
    torch.testing.assert_close(term(output, (other,) * 3), value_relation(in_heads, other))


@pytest.mark.parametrize(("make", "path", "fused"), [
    (lambda: timm.models.vision_transformer.VisionTransformer(
        img_size=28, patch_size=14, embed_dim=24, depth=1, num_heads=4), "blocks.0.attn.qkv",
     "concatenated"),
    (lambda: timm.models.vision_transformer_relpos.VisionTransformerRelPos(
        img_size=28, patch_size=14, embed_dim=24, depth=1, num_heads=4), "blocks.0.attn.qkv",
     "concatenated"),
    (lambda: timm.models.tiny_vit.TinyVit(embed_dims=(8, 24), depths=(1, 1), num_heads=(1, 4),
                                          window_sizes=(7, 7)), "stages.1.blocks.0.attn.qkv",
     "per head"),
])
@torch.no_grad()
def test_queries_keys_and_values_are_those_that_attention_gets(make, path, fused, monkeypatch):
    seen, attention = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention",
                        lambda q, k, v, *a, **b: seen.append((q, k, v)) or attention(q, k, v, *a,
                                                                                    **b))
    model = make().eval()
    size = 28 if path == "blocks.0.attn.qkv" else 224
    output = kd.taps(model, [path])(randn(2, 3, size, size).float())
    tokens = seen[-1][0].shape[2]
    other = tuple(randn(*seen[-1][0].shape[:2], tokens, 5, seed=i).float() for i in range(3))
    term = SelfRelation(path, ["q", "k", "v"], heads=4, fused=(fused, None))
    torch.testing.assert_close(term(output, other), self_relation(seen[-1], other).mean(),
                               rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ["blocks.1.attn.qkv", "h.0.self_attention.query_key_value",
                                  "h.1.attn.c_attn#2", "layers.0.self_attn.qkv_proj", "Wqkv"])
def test_an_order_that_is_not_stated_is_refused(path):
    with pytest.raises(ValueError, match=f'lie in .{path}. of the student, got fused=None.*"per'):
        ValueRelation(path, "b", heads=4)
    with pytest.raises(ValueError, match="of the teacher, got fused=None"):
        ValueRelation("a", path, heads=4, fused=(False, None))
    assert ValueRelation(path, path, heads=4, fused=False).heads == 4
    qkv = randn(2, 5, 24)
    with pytest.raises(ValueError, match="Expected three tensors of student queries, keys and"):
        SelfRelation(path, path, heads=2)(qkv, qkv)


@pytest.mark.parametrize("fused", [True, (True, None), 0, -1, "interleaved", (4, 4, 4), 2.0])
@pytest.mark.parametrize("term", [ValueRelation, SelfRelation])
def test_what_does_not_state_an_order_is_refused(term, fused):
    with pytest.raises(ValueError, match="Expected fused"):
        term("a", "b", heads=2, fused=fused)


def test_what_cannot_be_cut_so_is_refused():
    x = randn(2, 5, 24)
    for term in (ValueRelation, SelfRelation):
        with pytest.raises(ValueError, match="number of attention heads of student"):
            term(fused="per head")(x, x)
        with pytest.raises(ValueError, match=r"of 5 attention heads, got \[2, 5, 24\]"):
            term(heads=2, fused=5)(x, x)
        with pytest.raises(ValueError, match=r"a third of the features each, got \[2, 5, 16\]"):
            term(heads=2, fused="concatenated")(x[:, :, :16], x)
        # a map of a 1x1 convolution, as in timm's EfficientViT, is no sequence
        with pytest.raises(ValueError, match=r"features of shape \[B, N, D\], got \[2, 24, 4, 4\]"):
            term(heads=2, fused="concatenated")(randn(2, 24, 4, 4), x)
