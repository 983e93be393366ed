"""Networks: their shapes, their seeds, and what one sees of any of them."""

import collections
import types

import pytest
import torch
from torch import nn

import kdcourse as kd
from kdcourse import models
from kdcourse._key import key_of

BUILDERS = {
    "mlp": models.mlp, "convnet": models.convnet, "resnet": models.resnet, "vit": models.vit,
}
every_builder = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
SMALL = {"resnet": {"depth": 8, "width": 4}, "vit": {"dim": 8, "depth": 1, "patch": 4}}


def weights(model):
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


# --- our own networks ---------------------------------------------------------------------------


@every_builder
@pytest.mark.parametrize(("channels", "classes", "size"), [(1, 36, 28), (3, 10, 32), (2, 2, 16)])
def test_logits_for_any_input(build, channels, classes, size):
    settings = SMALL.get(build.__name__, {})
    model = build(channels=channels, classes=classes, size=size, **settings)
    assert model(torch.rand(2, channels, size, size)).shape == (2, classes)
    assert model.eval()(torch.rand(1, channels, size, size)).shape == (1, classes)


@every_builder
def test_weights_come_from_the_seed_alone(build):
    torch.manual_seed(1)
    first = weights(build(seed=3))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(weights(build(seed=3)), first)
    assert not torch.equal(weights(build(seed=4)), first)
    assert torch.equal(torch.get_rng_state(), before)


@every_builder
def test_a_network_says_how_it_was_made(build):
    model = build(classes=10, seed=5)
    assert model.spec == models.describe(model)
    assert model.spec.startswith(f"{build.__name__}(")
    assert "classes=10" in model.spec
    assert "seed" not in model.spec  # the seed is a column of its own


@every_builder
def test_a_network_that_was_trained_has_a_key_of_its_own(build):
    first, second = (build(classes=10, **SMALL.get(build.__name__, {})) for _ in range(2))
    assert key_of(first) == key_of(second)
    with torch.no_grad():
        next(second.parameters()).add_(1)  # no longer as it was made
    assert key_of(first).exact != key_of(second).exact


def linear(inputs, outputs):
    return inputs * outputs + outputs


def conv_bn(inputs, outputs, kernel=3):
    return inputs * outputs * kernel**2 + 2 * outputs


def block(inputs, outputs):
    same = inputs == outputs
    return conv_bn(inputs, outputs) + conv_bn(outputs, outputs) + (
        0 if same else conv_bn(inputs, outputs, 1))


@pytest.mark.parametrize(("model", "expected"), [
    (models.mlp(hidden=(800, 800), classes=10),
     linear(784, 800) + linear(800, 800) + linear(800, 10)),
    (models.mlp(hidden=()), linear(784, 36)),
    (models.mlp(hidden=[32]), linear(784, 32) + linear(32, 36)),
    (models.convnet(width=16),
     conv_bn(1, 16) + conv_bn(16, 32) + conv_bn(32, 64) + linear(64, 36)),
    (models.resnet(depth=8, width=16, stem_stride=2),
     conv_bn(1, 16) + block(16, 16) + block(16, 32) + block(32, 64) + linear(64, 36)),
    (models.resnet(depth=20, channels=3, classes=10),
     conv_bn(3, 16) + 3 * block(16, 16) + block(16, 32) + 2 * block(32, 32) + block(32, 64)
     + 2 * block(64, 64) + linear(64, 10)),
    (models.vit(),  # class token, positions, patches; per layer 2 norms, attention, MLP; norm, head
     64 + 17 * 64 + linear(49, 64) + 4 * (2 * 128 + linear(64, 192) + linear(64, 64)
                                          + linear(64, 128) + linear(128, 64))
     + 128 + linear(64, 36)),
    (models.vit(stem="conv", patch=8),  # 4 x 4 tokens as well: 28 -> 14 -> 7 -> 4
     conv_bn(1, 16) + conv_bn(16, 32) + conv_bn(32, 64) + linear(64, 64)
     + 64 + 17 * 64 + 4 * (2 * 128 + linear(64, 192) + linear(64, 64) + linear(64, 128)
                           + linear(128, 64)) + 128 + linear(64, 36)),
])
def test_number_of_parameters(model, expected):
    assert kd.measure.parameters(model) == expected


@pytest.mark.parametrize(("patch", "size", "channels", "tokens"), [
    (8, 28, 1, 16), (4, 28, 3, 49), (2, 16, 1, 64), (16, 12, 1, 1)])
def test_a_transformer_on_convolutions(patch, size, channels, tokens):
    def build():
        return models.vit(dim=8, depth=1, heads=2, patch=patch, size=size, channels=channels,
                          stem="conv", seed=3).eval()

    model = build()
    view = kd.taps(model, ["1.patch_embed", "1.blocks.0"])(torch.rand(2, channels, size, size))
    assert view.taps["1.patch_embed"].shape == (2, tokens, 8)
    assert view.taps["1.blocks.0"].shape == (2, 1 + tokens, 8)
    torch.manual_seed(1)
    assert torch.equal(weights(build()), weights(model))
    assert "stem=conv" in model.spec


def test_what_was_added_later_does_not_change_a_description():
    assert models.vit().spec == (
        "vit(dim=64, depth=4, heads=4, patch=7, channels=1, classes=36, size=28)")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_mean_over_an_image_is_that_of_pytorch(layout):
    x = torch.randn(3, 5, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.arange(15.0).reshape(3, 5, 1, 1)
    slopes = []
    for mean in (models.MeanOverImage(), nn.AdaptiveAvgPool2d(1)):
        leaf = x.clone(memory_format=layout).requires_grad_()
        out = mean(leaf)
        torch.testing.assert_close(out, x.mean((2, 3), keepdim=True))
        (out * weight).sum().backward()
        slopes.append(leaf.grad)
    torch.testing.assert_close(*slopes)
    assert torch.autograd.gradcheck(models.MeanOverImage(), x[:1].requires_grad_())


def test_the_gradient_of_the_mean_over_an_image_takes_no_memory():
    """Spread out, it would lie channels first in a channels-last network."""
    strides = []
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    inner = x * 1
    inner.register_hook(lambda slope: strides.append(slope.stride()[2:]))
    models.MeanOverImage()(inner).sum().backward()
    assert strides == [(0, 0)]


def test_networks_normalise_for_themselves():
    x = torch.rand(4, 1, 28, 28)
    for build in BUILDERS.values():
        normalize = next(m for m in build().modules() if isinstance(m, models.Normalize))
        torch.testing.assert_close(normalize(x), (x - 0.5) / 0.5)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: models.resnet(depth=10), r"depth of 6n\+2 \(8, 14, .*\), got 10"),
    (lambda: models.resnet(depth=2), r"depth of 6n\+2"),
    (lambda: models.vit(patch=5), "patch that divides the image size 28, got 5"),
    (lambda: models.vit(dim=30), "heads that divide dim 30, got 4"),
    (lambda: models.vit(stem="conv"), r'patch of 2, 4, 8 … with stem="conv", got 7'),
    (lambda: models.vit(stem="conv", patch=1), r'patch of 2, 4, 8 … with stem="conv", got 1'),
    (lambda: models.vit(init="he"), "init None or \"lecun\", got 'he'"),
    (lambda: models.vit(stem="pool"), "stem None or \"conv\", got 'pool'"),
    (lambda: models.convnet(width=0), "width of at least 1, got 0"),
    (lambda: models.convnet(classes=0), "classes of at least 1, got 0"),
    (lambda: models.mlp(hidden=(8, 0)), r"hidden of at least 1, got \(8, 0\)"),
    (lambda: models.mlp(channels=-1), "channels of at least 1, got -1"),
])
def test_sizes_that_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- any network --------------------------------------------------------------------------------


class Answers(nn.Module):
    """A network that wraps its logits in something."""

    def __init__(self, wrap):
        super().__init__()
        self.fc, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x):
        return self.wrap(self.fc(x))


Named = collections.namedtuple("Named", "logits aux")


@pytest.mark.parametrize("wrap", [
    lambda z: z, lambda z: (z, "more"), lambda z: [z], lambda z: Named(z, None),
    lambda z: types.SimpleNamespace(loss=None, logits=z),
    lambda z: types.SimpleNamespace(logits=(z, None)),
])
def test_logits_are_found_in_what_networks_return(wrap):
    model, x = Answers(wrap), torch.rand(5, 4)
    torch.testing.assert_close(models.predict(model, x), model.fc(x).detach())


@pytest.mark.parametrize(("wrap", "message"), [
    (lambda z: {"out": z, "aux": z}, r"several.*could be logits: 'out' \[2, 3\], 'aux'.*Logits"),
    (lambda z: types.SimpleNamespace(logits=(z, z)), r"several that could be logits: 0 .*, 1 "),
    (lambda z: {"boxes": [z]}, r"from the model, got a dict of 'boxes' \(list\).*Wrap"),
    (lambda z: None, "got NoneType"),
    (lambda z: z[0], r"got shape \[3\]"),
])
def test_what_are_no_logits(wrap, message):
    with pytest.raises(TypeError, match=message):
        models.predict(Answers(wrap), torch.rand(2, 4))


def restless():
    """Batch normalisation and dropout, each in a mode of its own."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    model.train()
    model[1].eval()
    return model


def test_predict_leaves_every_submodule_as_it_was():
    model = restless()
    before = weights(model).clone(), [module.training for module in model.modules()]
    first, second = models.predict(model, torch.rand(9, 4)), None
    torch.testing.assert_close(weights(model), before[0], rtol=0, atol=0)
    assert [module.training for module in model.modules()] == before[1] == [
        True, True, False, True, True]
    x = torch.rand(9, 4)
    first, second = models.predict(model, x), models.predict(model, x, batch=2)
    torch.testing.assert_close(first, second)  # no dropout, no batch statistics
    assert not first.requires_grad


def test_modes_return_also_after_an_error():
    model = restless()
    with pytest.raises(RuntimeError):
        models.predict(model, torch.rand(2, 5))
    assert [module.training for module in model] == [True, False, True, True]


def test_predict_gives_float32_also_from_a_half_precision_network():
    model = nn.Linear(4, 3).bfloat16()
    assert models.predict(model, torch.rand(2, 4).bfloat16()).dtype == torch.float32


def test_a_foreign_network_is_told_from_another():
    small, large = nn.Linear(3, 2), nn.Linear(3, 4)
    assert models.describe(small) == models.describe(nn.Linear(3, 2))
    assert models.describe(small) != models.describe(large)
    assert models.describe(small).startswith("Linear(8 parameters, ")


def test_where_a_network_without_parameters_lies():
    assert models.device_of(nn.ReLU()) == torch.device("cpu")
    assert models.device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")


def test_lecun_init_gives_every_linear_layer_an_output_of_the_size_of_its_input():
    x = torch.randn(4000, 64)
    for init, expected in (("lecun", 1.0), (None, 0.02 * 8)):
        layer = models.vit(dim=64, depth=1, init=init)[1].blocks[0].attn.qkv
        assert (layer(x).std() / x.std()).item() == pytest.approx(expected, rel=0.1)
    assert models.vit(init="lecun").spec.endswith("size=28, init=lecun)")


# --- the networks of the published tables ---------------------------------------------------------

# Parameters for 100 classes, counted in RepDistiller's models/ at commit b84f547.
PUBLISHED = {
    "resnet8": 83892, "resnet14": 181108, "resnet20": 278324, "resnet32": 472756,
    "resnet44": 667188, "resnet56": 861620, "resnet110": 1736564, "resnet8x4": 1233540,
    "resnet32x4": 7433860, "wrn_16_1": 180916, "wrn_16_2": 703284, "wrn_40_1": 569780,
    "wrn_40_2": 2255156, "vgg8": 3965028, "vgg11": 9277284, "vgg13": 9462180, "vgg16": 14774436,
    "vgg19": 20086692, "shufflenetv2": 1355528,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_their_number_of_parameters(name):
    assert kd.measure.parameters(models.cifar(name)) == PUBLISHED[name]


def preactivation(inputs, outputs):
    return (2 * inputs + 9 * inputs * outputs + 2 * outputs + 9 * outputs**2
            + (0 if inputs == outputs else inputs * outputs))


@pytest.mark.parametrize(("name", "expected"), [
    ("resnet14", conv_bn(3, 16) + 2 * block(16, 16) + block(16, 32) + block(32, 32) + block(32, 64)
     + block(64, 64) + linear(64, 10)),
    ("resnet8x4", conv_bn(3, 32) + block(32, 64) + block(64, 128) + block(128, 256)
     + linear(256, 10)),
    ("wrn_10_3", 27 * 16 + preactivation(16, 48) + preactivation(48, 96) + preactivation(96, 192)
     + 2 * 192 + linear(192, 10)),
    ("vgg8", conv_bn(3, 64) + conv_bn(64, 128) + conv_bn(128, 256) + conv_bn(256, 512)
     + conv_bn(512, 512) + 64 + 128 + 256 + 2 * 512 + linear(512, 10)),
])
def test_published_networks_have_the_layers_of_their_papers(name, expected):
    assert kd.measure.parameters(models.cifar(name, classes=10)) == expected


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "wrn_10_2", "vgg8", "shufflenetv2"])
def test_where_the_layers_of_a_published_network_are(name):
    """Behind the ReLU of what `before_relu` names lie the stages (in WRN the next block's input),
    and the classifier reads the mean over "last"."""
    model = models.cifar(name, classes=7, seed=1).eval()
    paths = [*model.stages, *model.before_relu, "last", "fc:input"]
    found = kd.taps(model, paths)(torch.rand(2, 3, 32, 32))
    for before, stage in zip(model.before_relu, model.stages, strict=True):
        before, stage = found.taps[before], found.taps[stage]
        assert before.shape == stage.shape
        assert before.min() < 0
        if name == "shufflenetv2":  # the halves are shuffled behind the ReLU
            before, stage = before.flatten(1).sort().values, stage.flatten(1).sort().values
        if not name.startswith("wrn"):
            torch.testing.assert_close(before.relu(), stage)
    torch.testing.assert_close(found.taps["last"].mean((2, 3)), found.taps["fc:input"])
    mapped = kd.losses.class_maps(model, "last", "fc")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(mapped(x), model(x))


@pytest.mark.parametrize(("name", "layer", "std"), [
    ("resnet20", "layer3.2.conv2.0", (2 / 9 / 64) ** 0.5), ("wrn_16_2", "layer1.1.conv1",
    (2 / 9 / 32) ** 0.5), ("vgg8", "layer4.0.0", (2 / 9 / 512) ** 0.5), ("vgg8", "fc", 0.01)])
def test_published_networks_start_from_the_published_distribution(name, layer, std):
    found = models.cifar(name, seed=2).get_submodule(layer).weight
    assert found.std().item() == pytest.approx(std, rel=0.03)


def test_inputs_are_normalised_by_channel():
    model, x = models.cifar("resnet8"), torch.rand(2, 3, 8, 8)
    mean, std = torch.tensor([0.5071, 0.4867, 0.4408]), torch.tensor([0.2675, 0.2565, 0.2761])
    torch.testing.assert_close(model.normalize(x), ((x.movedim(1, 3) - mean) / std).movedim(3, 1))
    assert not any("normalize" in key for key in model.state_dict())
    assert "std=[0.267" in repr(model.normalize)


@pytest.mark.parametrize("name", [
    "resnet21", "resnet2", "resnet", "vgg12", "vgg8x4", "wrn_41_2", "wrn_4_2", "wrn_16_0",
    "wrn_16_2x4", "shufflenetv1", "", 20])
def test_a_published_network_that_does_not_exist(name):
    with pytest.raises(ValueError, match=r'Expected a name such as "resnet20" .*, got'):
        models.cifar(name)
