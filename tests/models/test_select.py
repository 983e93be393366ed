"""Networks that begin with weights of a larger one: against loops, laws, and blocks run by hand."""

import functools

import pytest
import timm
import torch
from conftest import state
from helpers import language
from helpers.language import LENGTH, V, ids, mask
from torch import nn

import kdcourse as kd
from kdcourse import models
from kdcourse._key import key_of
from kdcourse.models import bert, every_other, gpt, select, vit
from kdcourse.models.language import Attention
from kdcourse.models.select import evenly


def text(make, dim=16, depth=2, heads=2, seed=0, vocabulary=V, **settings):
    return make(vocabulary, dim, depth, heads, LENGTH, seed=seed, **settings)


def vision(dim=16, depth=2, heads=2, seed=0, **settings):
    return vit(dim, depth, heads, seed=seed, classes=5, **settings)


def tensors(model):
    return {name: value.detach() for name, value in model.state_dict().items()}


# --- oracles: the paper as loops ----------------------------------------------------------------


def spaced(big, small):
    """Section 3: evenly spaced elements; where they cannot be, rounded."""
    if big % small == 0:
        return list(range(0, big, big // small))
    steps = [i * (big - 1) / (small - 1) for i in range(small)]
    return [int(x + 0.5) if x % 1 != 0.5 else 2 * round(x / 2) for x in steps]


def of_heads(big, small, heads_big, heads_small):
    """Evenly spaced heads, in each evenly spaced coordinates."""
    wide, narrow = big // heads_big, small // heads_small
    return [head * wide + place for head in spaced(heads_big, heads_small)
            for place in spaced(wide, narrow)]


def cut(big, small, rows):
    """Element by element; rows: what to take of the first axis, else evenly spaced elements."""
    chosen = [spaced(b, s) for b, s in zip(big.shape, small.shape, strict=True)]
    chosen = [given or places for given, places in zip(rows, chosen, strict=True)]
    found = torch.empty_like(small)
    for at in torch.cartesian_prod(*map(torch.arange, small.shape)).reshape(-1, small.ndim):
        at = at.tolist()
        found[tuple(at)] = big[tuple(places[i] for places, i in zip(chosen, at, strict=True))]
    return found


@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize(("sizes", "sizes_big"), [((8, 2), (16, 4)), ((8, 2), (24, 2)),
                                                  ((6, 2), (20, 4)), ((6, 3), (6, 3))])
@pytest.mark.parametrize("kind", ["gpt", "bert", "vit"])
def test_every_element_is_the_one_of_the_paper(kind, sizes, sizes_big, heads):
    make = vision if kind == "vit" else functools.partial(text, {"gpt": gpt, "bert": bert}[kind])
    (dim, some), (dim_big, all_heads) = sizes, sizes_big
    start, big = make(dim, 1, some), make(dim_big, 3, all_heads, seed=1)
    before = state(start)
    found, source = tensors(select(start, big, heads=heads)), tensors(big)
    assert state(start) == before  # a copy
    by_head = of_heads(dim_big, dim, all_heads, some)
    for name, value in found.items():
        rows = [None] * value.ndim
        if heads and ".attn." in name:
            if "proj" in name:
                rows = [None, by_head][: value.ndim]
            else:
                parts = 3 if "qkv" in name else 1
                rows[0] = [part * dim_big + i for part in range(parts) for i in by_head]
        assert torch.equal(value, cut(source[name], value, rows)), name


def test_evenly_spaced_elements():
    for big in range(1, 60):
        for small in range(1, big + 1):
            found = evenly(big, small)
            assert found == spaced(big, small)
            assert found == sorted(set(found)) and found[0] == 0 and found[-1] < big


def test_layers_of_distilbert():
    big, small = text(gpt, depth=12), text(gpt, depth=6, seed=1)
    for layers, numbers in (("first", range(6)), ("even", [0, 2, 4, 7, 9, 11])):
        found = select(small, big, layers=layers)
        for block, number in zip(found.blocks, numbers, strict=True):
            assert state(block) == state(big.blocks[number])


# --- laws ---------------------------------------------------------------------------------------


PAIRS = {"gpt": lambda seed: text(gpt, seed=seed), "bert": lambda seed: text(bert, seed=seed),
         "vit": lambda seed: vision(seed=seed),
         "vit on convolutions": lambda seed: vision(seed=seed, stem="conv", patch=8),
         "convnet": lambda seed: models.convnet(8, seed=seed),
         "WRN": lambda seed: models.cifar("wrn_16_1", seed=seed),
         "GPT-2": lambda seed: language.random(language.gpt2, seed).float(),
         "BERT": lambda seed: language.random(language.bert, seed).float()}


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_of_one_size_it_is_the_same_function(name):
    small, big = (PAIRS[name](seed).eval() for seed in (0, 1))
    found = select(small, big)
    assert state(found) == state(big) != state(small)
    images = torch.rand(2, 3 if name == "WRN" else 1, 28, 28)
    x = images if "vit" in name or name in ("convnet", "WRN") else ids()
    assert torch.equal(models.predict(found, x), models.predict(big, x))


def test_what_is_not_used_may_be_left_out():
    """Layers without normalisation, whose other coordinates are 0: the same function."""
    small, big = models.mlp((6, 4), classes=3), models.mlp((15, 8), classes=3, seed=1)
    parts = select(small, big).state_dict()
    with torch.no_grad():
        for name, value in big.named_parameters():
            value.zero_()
            chosen = [torch.tensor(spaced(b, s)) for b, s in zip(value.shape, parts[name].shape)]
            value[torch.meshgrid(*chosen, indexing="ij")] = parts[name]
    x = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(select(small, big)(x), big(x))


@torch.no_grad()
def test_heads_that_do_nothing_may_be_left_out():
    """Every third head and every third feature; a mixed head computes something else."""
    small, big = Attention(8, 2, 0.0).double(), Attention(24, 6, 0.0).double()  # 4 of a head
    heads = [12 * i + k for i in range(2) for k in range(4)]
    features = list(range(0, 24, 3))
    for name, value in big.named_parameters():
        kept = torch.zeros_like(value)
        rows = features if "proj" in name else heads
        if value.ndim == 1:
            kept[rows] = 1
        else:
            kept[torch.tensor(rows)[:, None], heads if "proj" in name else features] = 1
        value.mul_(8 * kept)
    x, seen = torch.randn(2, 5, 8, dtype=torch.float64), torch.ones(1, 5, 5, dtype=torch.bool)
    wide = torch.zeros(2, 5, 24, dtype=torch.float64)
    wide[..., features] = x
    expected = big(wide, seen)[..., features]
    torch.testing.assert_close(select(small, big)(x, seen), expected)
    mixed = select(small, big, heads=False)(x, seen)
    assert (mixed - expected).abs().max() > 0.1 * expected.abs().max()


@torch.no_grad()
def test_scores_are_those_of_the_chosen_coordinates():
    """Of one width of tokens: scores of a small head are a part of the sum of the larger one's."""

    class Narrow(Attention):  # heads of fewer features than the tokens have
        def __init__(self, dim, heads, inner):
            super().__init__(dim, heads, 0.0)
            self.query, self.key, self.value = (nn.Linear(dim, inner) for _ in range(3))
            self.proj = nn.Linear(inner, dim)

    Narrow.__module__, Narrow.__qualname__ = Attention.__module__, Attention.__qualname__
    small, big = Narrow(12, 2, 6), Narrow(12, 4, 32)
    x, seen = torch.randn(2, 5, 12), torch.ones(1, 5, 5, dtype=torch.bool)

    def tap(model, name):
        hook, found = model.get_submodule(name), []
        handle = hook.register_forward_hook(lambda module, args, output: found.append(
            (args[0], output)))
        model(x, seen)
        handle.remove()
        return found[0]

    scores = tap(select(small, big), "softmax")[0] * 3**0.5
    q, k = (tap(big, name)[1].unflatten(2, (4, 8)) for name in ("query", "key"))
    for head, of_big in enumerate([0, 2]):
        expected = sum(q[:, :, None, of_big, i] * k[:, None, :, of_big, i] for i in spaced(8, 3))
        torch.testing.assert_close(scores[:, head], expected)


def test_tokens_have_the_same_coordinates_everywhere():
    """The loop of a vision transformer of 10 in one of 25: no tensor has others for tokens."""
    small, big = vision(10, heads=2), vision(25, heads=5)
    axes = {"cls_token": 2, "pos_embed": 2, "patch_embed.proj.weight": 0,
            "blocks.0.attn.qkv.weight": 1, "blocks.0.attn.proj.weight": 0,
            "blocks.1.norm1.weight": 0, "blocks.1.mlp.fc1.weight": 1, "blocks.1.mlp.fc2.weight": 0,
            "norm.bias": 0, "head.weight": 1}
    with torch.no_grad():
        for name, axis in axes.items():
            value = big[1].get_parameter(name)
            shape = [-1 if i == axis else 1 for i in range(value.ndim)]
            value.copy_(torch.arange(25.0).view(shape).expand_as(value))
    found = select(small, big)[1]
    for name, axis in axes.items():
        value = found.get_parameter(name).movedim(axis, 0).reshape(10, -1)
        assert value[:, 0].tolist() == spaced(25, 10), name


ATTENTION = {
    "timm": (lambda dim, heads: timm.models.vision_transformer.Attention(dim, heads, qkv_bias=True),
             ["qkv"], "proj"),
    "torch": (nn.MultiheadAttention, ["in_proj"], "out_proj"),
    "ours": (lambda dim, heads: Attention(dim, heads, 0), ["query", "key", "value"], "proj"),
}


def of_transformers(name):
    transformers = pytest.importorskip("transformers")
    if name == "DistilBERT":
        return (lambda dim, heads: transformers.DistilBertModel(transformers.DistilBertConfig(
            vocab_size=5, dim=dim, n_heads=heads, n_layers=1, hidden_dim=4)).transformer.layer[0]
            .attention, ["q_lin", "k_lin", "v_lin"], "out_lin")
    if name == "BERT":
        return (lambda dim, heads: language.bert(dim=dim, heads=heads).bert.encoder.layer[0]
                .attention, ["self.query", "self.key", "self.value"], "output.dense")
    return (lambda dim, heads: language.gpt2(dim, heads=heads).transformer.h[0].attn,
            ["c_attn"], "c_proj")


@pytest.mark.parametrize("name", [*ATTENTION, "DistilBERT", "BERT", "GPT-2"])
@pytest.mark.parametrize(("sizes", "sizes_big"), [((8, 2), (24, 4)), ((9, 3), (20, 5))])
def test_layouts_of_attention(name, sizes, sizes_big):
    """Every weight of the larger one is its place, so that what was chosen can be read."""
    make, makers, reader = ATTENTION.get(name) or of_transformers(name)
    small, big = make(*sizes), make(*sizes_big)
    by_head = of_heads(sizes_big[0], sizes[0], sizes_big[1], sizes[1])
    plain, turned = spaced(sizes_big[0], sizes[0]), name == "GPT-2"  # its weights are [in, out]
    with torch.no_grad():
        for value in big.parameters():
            value.copy_(torch.arange(value.numel()).view_as(value))
    found = {name.replace("in_proj_", "in_proj."): value for name, value in
             tensors(select(small, big)).items()}
    wide = sizes_big[0]
    for maker in makers:
        rows = [part * wide + i for part in range(3 if len(makers) == 1 else 1) for i in by_head]
        columns = torch.tensor(rows)[:, None], torch.tensor(plain)
        length = wide * (3 if len(makers) == 1 else 1)
        places = columns[1][:, None] * length + columns[0].T if turned else (
            columns[0] * wide + columns[1])
        assert torch.equal(found[f"{maker}.weight"].long(), places)
        assert found[f"{maker}.bias"].tolist() == rows
    rows, columns = torch.tensor(plain)[:, None], torch.tensor(by_head)
    places = columns[:, None] * wide + rows.T if turned else rows * wide + columns
    assert torch.equal(found[f"{reader}.weight"].long(), places)
    assert found[f"{reader}.bias"].tolist() == plain


@pytest.mark.parametrize("make", [language.gpt2, language.bert], ids=["GPT-2", "BERT"])
def test_it_is_one_thing_for_ours_and_for_transformers(make):
    small, big = language.random(make), language.random(lambda: make(dim=36, depth=3, heads=3), 1)
    theirs = tensors(language.ours(select(small, big)))
    ours = tensors(select(language.ours(small), language.ours(big)))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=0)


@pytest.mark.parametrize(("small", "big"), [
    (lambda: models.convnet(5, seed=0), lambda: models.convnet(12, seed=1)),
    (lambda: models.cifar("wrn_16_1"), lambda: models.cifar("wrn_22_2", seed=1)),
    (lambda: models.resnet(8, 6, seed=0), lambda: models.resnet(20, 9, seed=1)),
    (lambda: timm.create_model("efficientnet_lite0", num_classes=7),
     lambda: timm.create_model("efficientnet_lite2", num_classes=7)),
], ids=["convnet", "WRN", "ResNet", "EfficientNet-Lite"])
def test_convolutions(small, big):
    """Also buffers; the first blocks of each stage; depthwise ones."""
    small, big = small(), big()
    for value in big.buffers():
        value.copy_(torch.arange(value.numel()).view_as(value))
    found, source = tensors(select(small, big)), tensors(big)
    for name, value in found.items():
        expected = source[name]
        for axis in range(value.ndim):
            chosen = spaced(expected.shape[axis], value.shape[axis])
            expected = expected.index_select(axis, torch.tensor(chosen))
        assert torch.equal(value, expected), name


def test_a_tied_matrix_begins_one_that_is_not():
    found, big = select(text(gpt, tied=False), text(gpt, 32, seed=1)), text(gpt, 32, seed=1)
    assert found.head.weight is not found.tokens.weight
    for value in (found.head.weight, found.tokens.weight):
        assert torch.equal(value, big.tokens.weight[:, ::2])


def test_a_key_of_its_own():
    small, big = text(gpt), text(gpt, 32, seed=1)
    keys = [key_of(model).bits for model in (select(small, big), select(small, big), small)]
    assert keys[0] == keys[1] != keys[2]


def test_another_device_and_precision():
    device = kd.default_device()
    small, big = text(gpt), text(gpt, 32, seed=1)
    expected = select(small, big)
    assert state(select(small, big.to(device))) == state(expected)
    found = select(small.to(device), big.double())
    assert next(found.parameters()).device.type == device.type
    assert state(found) == state(expected)


def test_it_is_trained_like_any_other(data):
    student = select(vision(8, depth=1, patch=4, size=12), vision(16, patch=4, size=12, seed=1),
                     without=["1.head"])
    history = kd.fit(kd.Supervised(student), kd.data.from_arrays(
        data.train.x, data.train.y % 5, val=(data.val.x, data.val.y % 5),
        test=(data.test.x, data.test.y % 5)), kd.Recipe(epochs=1, batch=36, lr=0.01))
    assert history["loss"][-1] < 3


# --- the control, and what stays ----------------------------------------------------------------


def test_scrambled():
    """Elements of the same tensors; other ones for each of them, and for each seed."""
    small, big = text(gpt, 8, heads=2), text(gpt, 24, 4, heads=4, seed=1)
    with torch.no_grad():
        for value in big.parameters():
            value.copy_(torch.arange(value.numel()).view_as(value))
    found = tensors(select(small, big, scrambled=True))
    assert state(select(small, big, scrambled=True)) == state(select(small, big, scrambled=True))
    other, even = select(small, big, scrambled=True, seed=1), tensors(select(small, big))
    drawn = {}
    for name, value in found.items():
        source, width = tensors(big)[name], tensors(big)[name].shape[-1]
        assert len(value.unique()) == value.numel() and value.max() < source.numel(), name
        if value.ndim == 2:  # whole rows and columns
            rows, columns = (value // width).long(), (value % width).long()
            assert (rows == rows[:, :1]).all() and (columns == columns[:1]).all(), name
            drawn[name] = columns[0].tolist()
            if "tokens" in name or "positions" in name or "head" in name:
                assert rows[:, 0].tolist() == list(range(len(rows))), name  # words stay
        if value.numel() > 8:
            assert not torch.equal(value, even[name]), name
            assert not torch.equal(value, tensors(other)[name]), name
    assert len({tuple(columns) for name, columns in drawn.items() if name != "head.weight"}) == (
        len(drawn) - 1)
    assert drawn["head.weight"] == drawn["tokens.weight"]  # one tensor
    same = select(big, big, scrambled=True)  # of one size: the same numbers in another order
    for name, value in tensors(same).items():
        assert torch.equal(value.flatten().sort().values, tensors(big)[name].flatten())


def test_what_is_left_out_stays():
    small, big = vision(), vision(32, seed=1)
    big[1].reset_classifier(12)
    found, even = select(small, big, without=["1.head", "1.blocks.1"]), tensors(small)
    for name, value in tensors(found).items():
        left = name.startswith(("1.head", "1.blocks.1."))
        if "bias" not in name and "norm" not in name:
            assert torch.equal(value, even[name]) == left, name


class Fused(nn.Module):
    """Attention whose layout nobody knows."""

    def __init__(self, dim):
        super().__init__()
        self.to_qkv = nn.Linear(dim, 3 * dim)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: select(text(gpt, 32), text(gpt)), r"at most the 16 elements .* got 32 \('tokens.wei"),
    (lambda: select(text(gpt, depth=3), text(gpt)), "at most the 2 layers .* got 3 at 'blocks'"),
    (lambda: select(text(gpt), text(gpt, 32, vocabulary=21)), "as many words, .* got 20 and.* 21"),
    (lambda: select(text(gpt), gpt(V, 16, 2, 2, 24)), "words, places .* got 16 and.* 24"),
    (lambda: select(vision(), vision(patch=4)), "places or sides of a kernel, got 17 and.*50"),
    (lambda: select(models.convnet(), nn.Sequential(*models.convnet()[:4])), "layers of the larg"),
    (lambda: select(text(gpt), text(bert)), "such as 'last.weight', got none at 'last.weight'"),
    (lambda: select(text(gpt), text(gpt, tied=False)), "'head.weight' to be shared in the larger"),
    (lambda: select(text(gpt, 16, heads=4), text(gpt, 32)), "at most 2 heads .* got 4 with 4"),
    (lambda: select(text(gpt, 24), text(gpt, 32, heads=4)), "with at most 8 features.* 2 with 12"),
    (lambda: select(Fused(4), Fused(8)), "attention of a known layout, got 'to_qkv.weight', axis"),
    (lambda: select(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=2))), "of one group, or with .* got 2 and 2 groups at '0'"),
    (lambda: select(nn.Sequential(nn.Conv2d(4, 4, 1, groups=4)), nn.Sequential(
        nn.Conv2d(8, 8, 1))), "with a group for each channel, got 4 and 1 groups"),
    (lambda: select(nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Conv1d(8, 8, 1))),
     r"such as '0.weight', got \[8, 8, 1\]"),
    (lambda: select(nn.Sequential(nn.BatchNorm1d(4)), nn.Sequential(nn.BatchNorm2d(8))),
     "layers of one kind, got BatchNorm1d at '0' and BatchNorm2d"),
    (lambda: select(models.mlp((8,)), models.mlp((9, 9))), "all of one class, got 5 at ''"),
    (lambda: select(text(gpt), text(gpt), layers="last"), 'layers "first" or "even", got \'last\''),
    (lambda: select(text(gpt), "gpt2"), r"two networks \(nn.Module\), got str"),
])
def test_what_cannot_be_selected(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_a_layout_that_is_not_known_is_cut_as_it_is_where_that_is_said():
    small, big = Fused(4), Fused(8)
    found = select(small, big, heads=False).to_qkv.weight
    assert torch.equal(found, big.to_qkv.weight[::2, ::2])


# --- some of the blocks -------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [None, [0, 2, 3], (1,)])
@pytest.mark.parametrize("make", [gpt, bert], ids=["gpt", "bert"])
@torch.no_grad()
def test_some_blocks(make, layers):
    model = language.random(lambda: text(make, depth=4)).train()
    before, found = state(model), every_other(model, layers)
    x, real = model.embed(model.tokens(ids()) + model.positions.weight[:9]), mask() == 1
    seen = real[:, None] & (torch.ones(9, 9).tril() > 0 if make is gpt else torch.ones(9, 9) > 0)
    for number in [0, 2] if layers is None else layers:
        x = model.blocks[number](x, seen)
    expected = model.head(model.last(x))
    torch.testing.assert_close(found(ids(), real)[real], expected[real])
    assert state(model) == before and len(model.blocks) == 4 and found.training
    assert found.head.weight is found.tokens.weight
    assert found.spec == f"{model.spec} with blocks {str([*(layers or (0, 2))])[1:-1]}"
    assert key_of(found).exact != key_of(model).exact


@torch.no_grad()
def test_some_blocks_of_a_vision_transformer():
    model, x = vision(depth=5), torch.rand(2, 1, 28, 28)
    found = every_other(model)
    for number in (3, 1):
        model[1].blocks[number] = nn.Identity()
    torch.testing.assert_close(found(x), model(x))


@pytest.mark.parametrize(("make", "layers"), [
    (language.gpt2, [0, 2, 3]), (language.bert, [0, 2, 4]), (language.bert, None)])
@torch.no_grad()
def test_some_blocks_of_a_model_of_transformers(make, layers):
    """A model made from the config that it has is the same one with its weights."""
    model = language.random(lambda: make(depth=5))
    found = every_other(model, layers)
    numbers = [0, 2, 4] if layers is None else layers
    assert model.config.num_hidden_layers == 5 and found.config.num_hidden_layers == 3
    again = type(model)(found.config).double().eval()
    again.load_state_dict(found.state_dict())
    stack = "transformer.h." if make is language.gpt2 else "bert.encoder.layer."
    for new, old in enumerate(numbers):
        for part, other in zip(again.get_submodule(f"{stack}{new}").parameters(),
                               model.get_submodule(f"{stack}{old}").parameters(), strict=True):
            assert torch.equal(part, other)
    assert torch.equal(found(ids()).logits, again(ids()).logits)
    hidden = found(ids(), output_hidden_states=True).hidden_states
    assert len(hidden) == 4
    for number in reversed(range(5)):  # blocks that hand on what they get
        if number not in numbers:
            model.get_submodule(f"{stack}{number}").forward = lambda x, *more, **named: x
    torch.testing.assert_close(model(ids(), use_cache=False).logits if make is language.gpt2
                               else model(ids()).logits, found(ids()).logits)


def test_keys_and_values_are_found_by_the_new_numbers():
    found = every_other(language.random(lambda: language.gpt2(depth=5)), [1, 2, 4])
    found.generation_config.eos_token_id = None
    texts = [found.generate(ids(length=3), max_new_tokens=9, do_sample=False, pad_token_id=0,
                            use_cache=kept) for kept in (True, False)]
    assert torch.equal(*texts)
    assert torch.equal(models.generate(found, ids(length=3), 9, 0), texts[0])


def test_a_config_that_lists_its_layers():
    transformers = pytest.importorskip("transformers")
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
        vocab_size=V, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=8, use_sliding_window=True, sliding_window=4,
        max_window_layers=2)).eval()
    kinds = model.config.layer_types
    assert len(set(kinds)) == 2
    found = every_other(model, [0, 3])
    assert found.config.layer_types == [kinds[0], kinds[3]] and model.config.layer_types == kinds
    again = type(model)(found.config).eval()
    again.load_state_dict(found.state_dict())
    torch.testing.assert_close(found(ids()).logits, again(ids()).logits)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: every_other(text(gpt), [0, 2]), r"numbers of blocks from 0 to 1, got \[0, 2\]"),
    (lambda: every_other(text(gpt), [1, 0]), r"increasing numbers .* got \[1, 0\]"),
    (lambda: every_other(text(gpt), [0, 0]), r"increasing numbers .* got \[0, 0\]"),
    (lambda: every_other(text(gpt), []), r"got \[\]"),
    (lambda: every_other(models.mlp()), "one list of blocks of one class, got none"),
    (lambda: every_other(models.resnet(20)), r"got \['layer1', 'layer2', 'layer3'\]. Say which"),
    (lambda: every_other(text(gpt), blocks="layers"), r"got \['blocks'\]. Say which"),
])
def test_blocks_that_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_of_several_lists():
    assert len(every_other(models.resnet(20), blocks="layer2").layer2) == 2
    assert len(every_other(nn.Sequential(*(nn.Linear(3, 3) for _ in range(5))))) == 3
