"""Taps: the tensor of a layer, of any model, and a sentence where there is none."""

import copy
import datetime
import gc
import sys
import weakref

import pytest
import timm
import torch
import torchvision
from conftest import network, state
from torch import nn

import kdcourse as kd
from kdcourse.taps import Output, clean_copy, unwrapped

X = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def by_hand(module, x, model):
    """What a module returns, and its first input, by a hook of torch's own."""
    seen = {}
    handle = module.register_forward_hook(
        lambda module, args, output: seen.update(input=args[0], output=output))
    model(x)
    handle.remove()
    return seen


# --- the models of other people -----------------------------------------------------------------

torchvision_resnet = lambda: torchvision.models.resnet18(num_classes=5)  # noqa: E731
MODELS = {
    "torchvision resnet": (torchvision_resnet, ["layer1", "layer3.1", "avgpool", "fc:input"]),
    "torchvision mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=5),
                              ["features.2", "features.4.block.1.0", "classifier.3:input"]),
    "torchvision vit": (lambda: torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64,
                                                                     num_classes=5),
                        ["encoder.layers.encoder_layer_0", "encoder.ln", "heads:input"]),
    "timm resnet": (lambda: timm.create_model("resnet10t", num_classes=5),
                    ["layer2", "layer3.0", "fc:input"]),
    "timm vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2,
                                           num_classes=5),
                 ["blocks.0", "blocks.1.attn.qkv", "head:input"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_as_they_stand(name):
    build, names = MODELS[name]
    model = seeded(build)
    before = state(model)
    seen = kd.taps(model, names)
    view = seen(X)
    assert isinstance(view, Output)
    torch.testing.assert_close(view.logits, model(X))
    assert list(view.taps) == names
    for name in names:
        path, kind = (name.removesuffix(":input"), "input" if ":" in name else "output")
        expected = by_hand(model.get_submodule(path), X, model)[kind]
        torch.testing.assert_close(view.taps[name], expected)
    assert state(model) == before
    view.logits.sum().backward()  # a part of the model's own graph
    view = seen(X)
    for tensor in view.taps.values():
        assert tensor.requires_grad


def vit_of_transformers(**settings):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                    intermediate_size=64, image_size=64, patch_size=16,
                                    num_labels=5)
    return transformers.ViTForImageClassification._from_config(config, **settings)


def test_a_model_of_transformers():
    model = seeded(lambda: vit_of_transformers(attn_implementation="eager"))
    blocks = [path for path, module in model.named_modules() if type(module).__name__ == "ViTLayer"]
    # The innermost: in transformers 5.0 a ViTAttention, which returns no weights, has it inside.
    *_, attention = (path for path, module in model.named_modules()
                     if path.startswith(blocks[0]) and "Attention" in type(module).__name__)
    view = kd.taps(model, [blocks[0], f"{attention}[1]", "classifier:input"])(X)
    theirs = model(X, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(view.logits, theirs.logits)
    torch.testing.assert_close(view.taps[blocks[0]], theirs.hidden_states[1])
    torch.testing.assert_close(view.taps[f"{attention}[1]"], theirs.attentions[0])
    assert view.taps["classifier:input"].shape == (2, 32)
    by_name = kd.taps(model, blocks)(pixel_values=X)  # keyword arguments reach the model
    torch.testing.assert_close(by_name.taps[blocks[0]], theirs.hidden_states[1])


def test_attention_of_timm_is_a_distribution_once_it_is_not_fused():
    model = seeded(MODELS["timm vit"][0])
    name = "blocks.0.attn.attn_drop:input"
    with pytest.raises(RuntimeError, match=r"Expected 'blocks.0.attn.attn_drop' to be called"):
        kd.taps(model, [name])(X)
    model.blocks[0].attn.fused_attn = False
    attention = kd.taps(model, [name])(X).taps[name]
    assert attention.shape == (2, 3, 17, 17)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3, 17))


# --- how a tap is written -----------------------------------------------------------------------


class Odd(nn.Module):
    """Calls one module twice, hands over by keyword, returns tuples, and has a spare module."""

    def __init__(self, inplace=False):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.relu, self.pair, self.spare = nn.ReLU(inplace), Pair(), nn.Linear(4, 4)

    def forward(self, x):
        x = self.relu(self.first(x))
        x = self.relu(self.second(input=x))
        return self.pair(x)[2]


class Pair(nn.Module):
    def forward(self, x):
        return (x, None, 2 * x)


def test_calls_inputs_and_entries():
    model, x = seeded(Odd), torch.randn(3, 4)
    names = ["relu#1", "relu#2", "relu#2:input", "second:input", "pair", "pair[2]", "pair:input"]
    taps = kd.taps(model, names)(x).taps
    h1 = model.first(x).relu()
    h2 = model.second(h1)
    expected = [h1, h2.relu(), h2, h1, h2.relu(), 2 * h2.relu(), h2.relu()]
    for name, tensor in zip(names, expected, strict=True):
        torch.testing.assert_close(taps[name], tensor, msg=name)


BAD_CALLS = [
    ("relu", "'relu' to be called once, got 2 calls.*Say which: relu#1 to relu#2"),
    ("relu#3", "'relu#3'; it was called 2 times"),
    ("spare", "'spare'; it was called never in this forward pass"),
    ("pair[1]", r"Expected a tensor at 'pair\[1\]', got NoneType"),
    ("first[1]", r"Expected a tensor at 'first\[1\]', got NoneType"),
    ("pair[3]", r"Expected a tensor at 'pair\[3\]', got NoneType"),
]


@pytest.mark.parametrize(("name", "message"), BAD_CALLS)
def test_what_a_forward_pass_did_not_give(name, message):
    with pytest.raises(RuntimeError, match=message):
        kd.taps(seeded(Odd), [name])(torch.randn(3, 4))


@pytest.mark.parametrize(("name", "message"), [
    ("layr2", r"'layr2'. Did you mean 'layer2'.*It has:\n  conv1  \(Conv2d\)"),
    ("blocks.0", r"path of a module in ResNet, got 'blocks.0'.*layer4  \(Sequential\)"),
    ("", "path of a module in ResNet, got ''"),
    ("fc:output", "a tap such as .*fc:input.* got 'fc:output'"),
])
def test_a_wrong_path_gets_the_nearest_names_and_the_tree(name, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        kd.taps(torchvision_resnet(), [name])


def test_the_tree_of_a_large_model_is_short():
    with pytest.raises(ValueError, match="It has") as caught:
        kd.taps(torchvision.models.resnet50(), ["nothing"])
    assert len(str(caught.value).splitlines()) < 45


@pytest.mark.parametrize("name", ["first", "relu#1:input", "relu#2:input", "second"])
def test_a_tap_that_is_overwritten_in_place_is_refused(name):
    with pytest.raises(RuntimeError, match=f"'{name}' to stay as it was tapped.*inplace=False"):
        kd.taps(seeded(lambda: Odd(inplace=True)), [name])(torch.randn(3, 4))
    kd.taps(seeded(lambda: Odd(inplace=True)), ["relu#1", "relu#2"])(torch.randn(3, 4))


def test_a_scheme_refuses_an_overwritten_tap_before_training(data):
    student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(),
                            nn.Linear(400, 36))
    scheme = kd.Distiller(student, network(), kd.losses.RKDDistance("0", "3"))
    with pytest.raises(RuntimeError, match="'0' to stay as it was tapped"):
        kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36))


# --- hooks leave no trace -----------------------------------------------------------------------


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_nothing_is_kept_after_a_call():
    model = seeded(Odd)
    seen = kd.taps(model, ["second", "second:input"])
    view = seen(torch.randn(3, 4))
    tensors = [weakref.ref(tensor) for tensor in view.taps.values()]
    model(torch.randn(3, 4))  # an ordinary call records nothing
    del view
    gc.collect()
    assert [tensor() for tensor in tensors] == [None, None]


def test_nothing_is_kept_after_a_call_that_fails():
    model = seeded(Odd)
    seen = kd.taps(model, ["first"])
    with pytest.raises(RuntimeError):
        seen(torch.randn(3, 9))
    assert all(not hook.on and hook.tensor is None for hook in seen._hooks)
    seen(torch.randn(3, 4))


def test_hooks_are_taken_away():
    model = seeded(Odd)
    first = kd.taps(model, ["first", "second:input"])
    again = kd.taps(model, ["first"])
    assert hooks(model) == 2  # the second finds the hook of the first
    x = torch.randn(3, 4)
    first.remove()
    assert hooks(model) == 1  # the one that both use
    torch.testing.assert_close(again(x).taps["first"], model.first(x))
    again.remove()
    assert hooks(model) == 0
    kd.taps(model, ["first", "pair"])
    model.spare.register_forward_hook(lambda *call: None)  # somebody else's stays
    model.train()
    copied = clean_copy(model)
    assert hooks(copied) == 1
    assert hooks(model) == 3  # only the copy is bare
    assert not copied.training


def test_a_copy_has_hooks_of_its_own():
    model = seeded(Odd)
    seen = kd.taps(model, ["first"])
    other = copy.deepcopy(seen)
    assert other.model is not model
    with torch.no_grad():
        other.model.first.weight.zero_()
        other.model.first.bias.zero_()
    x = torch.randn(3, 4)
    assert other(x).taps["first"].abs().max() == 0
    torch.testing.assert_close(seen(x).taps["first"], model.first(x))
    clone = copy.deepcopy(model)  # a model that was copied with its hooks can be tapped again
    torch.testing.assert_close(kd.taps(clone, ["first"])(x).taps["first"], model.first(x))
    both = copy.deepcopy(kd.taps(model, ["first", "second:input"]))
    both.remove()
    assert hooks(both.model) == 1  # that of `seen`, which was copied along
    assert hooks(model) == 2


# --- compiled, and in several processes ---------------------------------------------------------


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize("when", ["before", "after"])
def test_taps_inside_torch_compile(when, dynamo):
    model, names = seeded(MODELS["timm resnet"][0]), ["layer2", "fc:input"]
    expected = kd.taps(copy.deepcopy(model), names)(X)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    seen = kd.taps(compiled if when == "after" else model, names)
    seen.model = compiled
    for _ in range(3):  # the first is eager, the second compiles
        view = seen(X)
        for name in names:
            torch.testing.assert_close(view.taps[name], expected.taps[name])
        model.zero_grad()
        view.taps["layer2"].square().mean().backward()
        assert model.conv1[0].weight.grad.abs().max() > 0
    assert dynamo["stats"]["unique_graphs"] == 1
    compiled(X)
    assert dynamo["stats"]["unique_graphs"] == 2  # without recording: a graph of its own
    seen(X), compiled(X)
    assert dynamo["stats"]["unique_graphs"] == 2


def test_an_overwritten_tap_in_a_compiled_model(dynamo):
    compiled = torch.compile(seeded(lambda: Odd(inplace=True)), backend="eager")
    with pytest.raises(RuntimeError, match="'second' to stay as it was tapped"):
        kd.taps(compiled, ["second"])(torch.randn(3, 4))


def test_a_model_that_was_compiled_and_called_before_it_was_tapped(dynamo):
    compiled = torch.compile(seeded(Odd), backend="eager")
    x = torch.randn(3, 4)
    compiled(x)
    seen = kd.taps(compiled, ["second"])
    try:
        for _ in range(2):
            torch.testing.assert_close(seen(x).taps["second"], seeded(Odd).second(
                seeded(Odd).first(x).relu()))
    except RuntimeError as error:  # never a wrong tensor
        assert "tap it before its first call" in str(error)  # noqa: PT017


def feature_scheme():
    objective = kd.losses.CE() + 0.1 * kd.losses.Hint("2", "2") + kd.losses.RKDDistance("6", "6")
    return kd.Distiller(network(0), network(1, width=8), objective)


def test_a_compiled_scheme_gives_the_same_gradients(data, dynamo):
    batch = next(data.train.batches(16))
    plain, compiled = feature_scheme(), feature_scheme()
    for scheme in (plain, compiled):
        scheme.build(batch, seed=0)
    compiled.compile(backend="aot_eager")
    losses = []
    for scheme in (plain, compiled):
        outcome = scheme(batch)
        outcome.loss.backward()
        losses.append(outcome.loss)
    torch.testing.assert_close(*losses)
    for (name, ours), theirs in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    assert dynamo["stats"]["unique_graphs"] >= 1


def rank(number, world, folder):
    """One of two processes: a scheme with taps and projections under DDP."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number,
                            world_size=world, timeout=datetime.timedelta(seconds=120))
    assert dist.get_world_size() == world
    data = kd.data.glyphs(train=144, val=72, test=72, size=12)
    batch = next(data.train.batches(32))
    part = slice(16 * number, 16 * number + 16)
    half = kd.data.Batch(batch.x[part], batch.y[part], batch.index[part])
    scheme = kd.Distiller(network(0), network(1, width=8),
                          kd.losses.CE() + 0.1 * kd.losses.Hint("2", "2"))
    scheme.build(batch, seed=0)
    scheme.eval()  # batch statistics would be those of each half
    wrapped = DistributedDataParallel(scheme)  # must live until the gradients were exchanged
    wrapped(half).loss.backward()
    taps = kd.taps(DistributedDataParallel(network(0)), ["2"])(half.x).taps["2"]
    torch.save({"grad": [p.grad for p in scheme.parameters()], "tap": taps.detach()},
               f"{folder}/{number}")
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo meets in a file")
@pytest.mark.any_device
def test_two_processes_give_the_gradients_of_one(data, tmp_path):
    torch.multiprocessing.spawn(rank, (2, str(tmp_path)), nprocs=2)
    halves = [torch.load(tmp_path / str(number), weights_only=True) for number in (0, 1)]
    batch = next(data.train.batches(32))
    scheme = kd.Distiller(network(0), network(1, width=8),
                          kd.losses.CE() + 0.1 * kd.losses.Hint("2", "2"))
    scheme.build(batch, seed=0)
    scheme.eval()(batch).loss.backward()
    assert any("regressor" in name for name, _ in scheme.named_parameters())
    for half in halves:
        for (name, p), theirs in zip(scheme.named_parameters(), half["grad"], strict=True):
            torch.testing.assert_close(theirs, p.grad, msg=name, rtol=1e-4, atol=1e-6)
    whole = kd.taps(network(0), ["2"])(batch.x).taps["2"]
    assert halves[0]["tap"].shape == whole[:16].shape


def test_unwrapped_is_the_model_within():
    model = Odd()
    assert unwrapped(torch.compile(model, backend="eager")) is model
    assert unwrapped(model) is model
    inner = nn.Sequential(torch.compile(seeded(Odd), backend="eager"))
    name = "0.second"
    assert kd.taps(inner, [name])(torch.randn(3, 4)).taps[name].shape == (3, 4)


@pytest.mark.parametrize("paths", [(), ["0"], ["0", "1"]])
def test_an_output_is_shown_by_its_shapes(paths):
    output = kd.taps(nn.Sequential(nn.Flatten(), nn.Linear(50, 1000)), list(paths))(
        torch.rand(100, 50))
    shown = repr(output)
    assert shown.startswith("Output(logits=[100, 1000], taps={") and "tensor" not in shown
    assert all(f"{path!r}: [100, " in shown for path in paths)
    rows = kd.tasks.ONE_LABEL.rows(output.logits, y=torch.zeros(100).long())
    assert "rows=Rows(logits=[100, 1000], labels=[100], weight=None" in repr(output.with_rows(rows))
