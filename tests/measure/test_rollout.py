"""Attention rollout, against a loop over every entry in float64."""

import pytest
import torch

import kdcourse as kd

rollout = kd.measure.attention_rollout


def attention(layers=3, samples=2, heads=4, tokens=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(layers, samples, heads, tokens, tokens, generator=rng)
    return list(scores.softmax(-1))


def loop(maps):
    """Sums over all ways through the layers, entry by entry."""
    samples, heads, tokens, _ = maps[0].shape
    out = torch.zeros(samples, tokens, tokens, dtype=torch.float64)
    for b in range(samples):
        so_far = [[float(i == j) for j in range(tokens)] for i in range(tokens)]
        for layer in maps:
            mixed = [[0.5 * sum(float(layer[b, a, i, j]) for a in range(heads)) / heads
                      + 0.5 * (i == j) for j in range(tokens)] for i in range(tokens)]
            so_far = [[sum(mixed[i][k] * so_far[k][j] for k in range(tokens))
                       for j in range(tokens)] for i in range(tokens)]
        out[b] = torch.tensor(so_far, dtype=torch.float64)
    return out


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_the_formula(layers, dtype):
    maps = [layer.to(dtype) for layer in attention(layers)]
    found = rollout(maps)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), loop(maps),
                               atol=1e-6 if dtype == torch.float32 else 1e-14, rtol=0)


def test_order_of_the_layers_counts():
    maps = attention(2)
    assert not torch.allclose(rollout(maps), rollout(maps[::-1]))
    # What the last layer attends to comes last: a first layer that moves everything to token 1
    # leaves nothing elsewhere, whatever follows, but for what stays by the way around it.
    to_one = torch.zeros(1, 1, 3, 3)
    to_one[..., 1] = 1
    spread = torch.full((1, 1, 3, 3), 1 / 3)
    torch.testing.assert_close(rollout([to_one, spread])[0, 0],
                               torch.tensor([1 / 3, 7 / 12, 1 / 12]))


def test_rows_sum_to_one_and_nothing_is_negative():
    found = rollout(attention(6))
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 5))
    assert (found > 0).all()


def test_heads_may_be_averaged_already():
    maps = attention()
    torch.testing.assert_close(rollout([layer.mean(1) for layer in maps]), rollout(maps))
    assert rollout(iter(maps)).shape == (2, 5, 5)  # any iterable


def test_layers_that_only_look_at_themselves_move_nothing():
    alone = torch.eye(4).expand(2, 3, 4, 4)
    torch.testing.assert_close(rollout([alone] * 5), torch.eye(4).expand(2, 4, 4))


def test_gradients_flow_through():
    maps = [layer.requires_grad_() for layer in attention()]
    rollout(maps)[:, 0, 1:].square().sum().backward()
    assert all(layer.grad.abs().sum() > 0 for layer in maps)


def test_half_precision_is_raised_also_under_autocast():
    maps = attention()
    assert rollout([layer.bfloat16() for layer in maps]).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(rollout(maps), rollout(maps).float())
        assert rollout(maps).dtype == torch.float32


def test_of_a_vision_transformer():
    """Attention recomputed from queries and keys is what the unfused network multiplies with."""
    model = kd.models.vit(dim=16, depth=2, heads=2).eval()
    paths = [f"1.blocks.{i}.attn.qkv" for i in range(2)]
    x = torch.rand(3, 1, 28, 28)
    recomputed = []
    for qkv in kd.taps(model, paths)(x).taps.values():
        q, k, _ = qkv.unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        recomputed.append((q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(-1))
    for block in model[1].blocks:
        block.attn.fused_attn = False
    tapped = kd.taps(model, [f"1.blocks.{i}.attn.attn_drop:input" for i in range(2)])(x).taps
    torch.testing.assert_close(torch.stack(recomputed), torch.stack(list(tapped.values())))
    assert rollout(recomputed)[:, 0, 1:].shape == (3, 16)


@pytest.mark.parametrize(("maps", "message"), [
    ([], "at least one layer, got none"),
    ([torch.rand(2, 3, 4, 5)], r"\[B, heads, N, N\] in layer 1, got \[2, 3, 4, 5\]"),
    ([torch.rand(4, 4)], r"layer 1, got \[4, 4\]"),
    ([torch.rand(1, 1, 4, 4), "map"], "layer 2, got str"),
    ([torch.ones(1, 4, 4, dtype=torch.long)], "Expected attention"),
    ([torch.rand(0, 1, 4, 4)], "recompute it from queries"),
    ([torch.rand(1, 1, 4, 4), torch.rand(1, 1, 5, 5)],
     r"every layer, got \[1, 4, 4\] up to layer 1 and \[1, 5, 5\] in layer 2"),
    ([torch.rand(1, 1, 4, 4), torch.rand(2, 1, 4, 4)], "as many samples"),
])
def test_what_is_no_attention(maps, message):
    with pytest.raises(ValueError, match=message):
        rollout(maps)
