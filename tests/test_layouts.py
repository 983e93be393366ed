"""Layouts: what models state, what a path states, what one side's map tells about the other's."""

import itertools

import pytest
import torch
from helpers.laws import randn
from torch import nn

import kdcourse as kd
from kdcourse import losses
from kdcourse.layouts import PREFIXES, readings
from kdcourse.losses import AT, FSP, NST, VID, HiddenMSE, Hint, ReviewKD, as_map

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")


def tokens_of(x_BCHW, extra=0):
    """The map as a sequence, row by row, behind `extra` tokens of noise."""
    patches = x_BCHW.flatten(2).transpose(1, 2)
    return torch.cat([randn(len(patches), extra, patches.shape[2], seed=9).to(patches), patches], 1)


TERMS = {"AT": AT, "NST": NST, "Hint": lambda *paths: Hint(*paths, projection=None)}
anything = pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)

# --- from the other side's map ------------------------------------------------------------------


@anything
@pytest.mark.parametrize(("size", "extra"), [((9, 16), 0), ((9, 16), 1), ((3, 5), 1), ((6, 4), 5),
                                             ((5, 3), 2), ((1, 4), 4), ((12, 12), 0)])
def test_tokens_beside_a_map_get_its_grid(make, size, extra):
    x = randn(2, 6, *size)
    for pair in ((x, tokens_of(x, extra)), (tokens_of(x, extra), x)):
        assert float(make("a", "b")(*pair)) == pytest.approx(0, abs=1e-12)


def test_a_finer_grid_in_the_ratio_of_the_map():
    x = randn(2, 6, 6, 10)
    torch.testing.assert_close(AT("a", "b")(tokens_of(x, 1), randn(2, 4, 3, 5, seed=1)),
                               AT("a", "b")(x, randn(2, 4, 3, 5, seed=1)))


@pytest.mark.parametrize("like", [(2, 2), (6, 10), (16, 9), (1, 1), None])
def test_every_plausible_grid_is_counted(like):
    for N in range(1, 151):
        grids = [(p, h, (N - p) // h) for p in PREFIXES for h in range(1, N - p + 1)
                 if (N - p) % h == 0 and (p == 0 or N - p > 1)]
        if like in (None, (1, 1)):  # tells nothing: square ones, and others in the place of one
            squares = {p for p, h, w in grids if h == w}
            grids = [(p, h, w) for p, h, w in grids if p in squares and 0.5 <= h / w <= 2]
        else:
            grids = [(p, h, w) for p, h, w in grids if h / w == like[0] / like[1]]
        assert sorted(readings(N, like=like)) == sorted(grids)


# --- refused where two readings are possible ----------------------------------------------------


@pytest.mark.parametrize(("N", "could"), [(144, "12 x 12 behind 0"), (577, "18 x 32 behind 1"),
                                          (9, "2 x 2 behind 5"), (402, "16 x 25 behind 2")])
def test_two_readings_are_refused(N, could):
    with pytest.raises(ValueError, match=rf"\[2, {N}, 4\], which could be .*{could}.*State"):
        as_map(randn(2, N, 4))


@pytest.mark.parametrize("N", [1, 4, 16, 17, 49, 50, 65, 196, 197, 198, 201, 257, 1025])
def test_a_square_grid_stays_the_default(N):
    found = as_map(randn(2, N, 4))
    extra = N - found.shape[2] ** 2
    assert found.shape[2] == found.shape[3]
    assert extra in PREFIXES
    torch.testing.assert_close(found, randn(2, N, 4)[:, extra:].mT.unflatten(2, found.shape[2:]))


def test_a_grid_that_does_not_fit_the_map_is_refused():
    for tokens in (randn(2, 16, 6), randn(2, 197, 6)):  # square, beside 9 x 16
        with pytest.raises(ValueError, match="a grid in the ratio of 9 x 16"):
            AT("a", "b")(randn(2, 6, 9, 16), tokens)
    with pytest.raises(ValueError, match="2 x 2 behind 5"):  # or 3 x 3
        AT("a", "b")(randn(2, 6, 2, 2), randn(2, 9, 6))


def test_the_grid_may_be_given():
    x = randn(2, 6, 9, 16)
    for extra, prefix in itertools.product((0, 1, 5), (True, False)):
        given = {"prefix": extra} if prefix else {}
        assert torch.equal(as_map(tokens_of(x, extra), grid=(9, 16), **given), x)
    assert torch.equal(as_map(tokens_of(x, 8), grid=(9, 16), prefix=8), x)
    for wrong in ({"grid": (9, 15)}, {"grid": (9, 16), "prefix": 2}):
        with pytest.raises(ValueError, match=r"for a grid of 9 x 1.*got \[2, 144, 6\]"):
            as_map(tokens_of(x), **wrong)
    with pytest.raises(ValueError, match=r"tokens \[B, N, D\] to lay out on a grid"):
        as_map(x, grid=(9, 16))


def test_hidden_states_of_other_grids_are_refused():
    for term in (HiddenMSE("a", "b", project=False), losses.HiddenCosine("a", "b")):
        with pytest.raises(ValueError, match="one height and width"):
            term(randn(2, 6, 2, 8), randn(2, 6, 4, 4))


# --- from the model -----------------------------------------------------------------------------


class Home(nn.Module):
    """A transformer of one's own: patches, a class token and a block."""

    def __init__(self, prefix=1):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 12, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, prefix, 12))
        self.block, self.fc = nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x):
        patches = self.patch_embed(x).flatten(2).mT
        return self.fc(self.block(torch.cat([self.cls_token.expand(len(x), -1, -1), patches],
                                            1)).mean(1))


def hugging(config, model, size=(12, 20), **more):
    return model(config(hidden_size=12, num_hidden_layers=1, num_attention_heads=2,
                        num_labels=4, image_size=size, patch_size=4, **more))


TRANSFORMERS = {  # model, path, leading tokens; patches of 4 x 4 pixels
    "timm": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=(12, 20), patch_size=4,
                                       embed_dim=12, depth=1, num_classes=4), "blocks.0", 1),
    "timm, before the blocks": (lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=(12, 20), patch_size=4, embed_dim=12, depth=1,
        num_classes=4), "patch_embed", 0),
    "timm, any size, registers": (lambda: timm.create_model(
        "vit_medium_patch16_reg4_gap_256", patch_size=4, embed_dim=16, depth=1, num_heads=2,
        num_classes=4, dynamic_img_size=True), "blocks.0", 4),
    "timm, distilled": (lambda: timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=(12, 20), patch_size=4, embed_dim=12, depth=1,
        num_classes=4), "norm", 2),
    "inside another": (lambda: nn.Sequential(nn.Identity(), Home()), "1.block", 1),
    "one's own, 4 registers": (lambda: Home(5), "block", 5),
    "transformers ViT": (lambda: hugging(
        transformers.ViTConfig, transformers.ViTForImageClassification, intermediate_size=8),
        "vit.layernorm", 1),
    "transformers DINOv2, registers": (lambda: hugging(
        transformers.Dinov2WithRegistersConfig,
        transformers.Dinov2WithRegistersForImageClassification, 12, num_register_tokens=4),
        "dinov2_with_registers.layernorm", 5),
}


@pytest.mark.parametrize(("make", "path", "extra"), TRANSFORMERS.values(), ids=TRANSFORMERS)
@pytest.mark.filterwarnings("ignore")
def test_the_grid_that_a_transformer_states(make, path, extra):
    model, x = make().eval(), torch.rand(2, 3, 12, 20)  # 3 x 5 patches: with a class token, 16
    output = kd.taps(model, [path])(x)
    tokens = output.taps[path]
    assert output.layouts[path][:2] == ((3, 5), extra)
    expected = tokens[:, extra:].mT.unflatten(2, (3, 5))
    stated = f"{path}@{extra}+3x5"
    torch.testing.assert_close(kd.taps(model, [stated])(x).taps[stated], expected)
    other = kd.taps(Maps(8), ["conv"])(x)  # a map of the same grid
    for term in (AT(path, "conv"), NST(path, "conv"), VID(path, "conv", hidden=8),
                 Hint(path, "conv"), HiddenMSE(path, "conv")):
        term.build(output, other, 0)
        torch.testing.assert_close(term(output, other), term(expected, other.taps["conv"]))


class Maps(nn.Module):
    """A convolution, tapped as "conv", and a classifier."""

    def __init__(self, width, kernel=4):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, width, kernel, kernel), nn.Linear(width, 4)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.mark.filterwarnings("ignore")
def test_two_transformers_of_one_grid_keep_their_class_token():
    one, other = (kd.taps(Home(), ["block"])(torch.rand(2, 3, 12, 20)) for _ in range(2))
    assert Hint("block", "block").pick(one, other)[0].shape == (2, 16, 12)
    registers = kd.taps(Home(5), ["block"])(torch.rand(2, 3, 12, 20))
    student, teacher = Hint("block", "block").pick(one, registers)
    assert student.shape == teacher.shape == (2, 12, 3, 5)
    assert FSP(["block"] * 2, ["block"] * 2).pick(one, other)[0][1].shape == (2, 12, 3, 5)
    assert ReviewKD("block", "block").pick(one, other)[0].shape == (2, 12, 3, 5)


def test_a_layer_with_fewer_tokens_has_the_ratio_that_the_model_states():
    class Pooled(Home):
        def forward(self, x):
            patches = self.block(nn.functional.avg_pool2d(self.patch_embed(x), 2).flatten(2).mT)
            return self.fc(patches.mean(1))

    output = kd.taps(Pooled(), ["block"])(torch.rand(2, 3, 24, 40))
    assert AT("block", "block").pick(output, output)[0].shape == (2, 12, 3, 5)


SWIN = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "num_classes": 4}
LAST = {  # models whose blocks give [B, H, W, C], and others
    "timm swin": (lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=(56, 84),
                                            window_size=7, **SWIN), "layers.0", True),
    "torchvision swin": (lambda: torchvision.models.SwinTransformer(
        [4, 4], 16, [1, 1], [2, 2], [7, 7], num_classes=4), "features.1", True),
    "torchvision swin, merged": (lambda: torchvision.models.SwinTransformer(
        [4, 4], 16, [1, 1], [2, 2], [7, 7], num_classes=4), "features.2", True),
    "no layer in it": (lambda: torchvision.models.SwinTransformer(
        [4, 4], 16, [1, 1], [2, 2], [7, 7], num_classes=4), "permute:input", True),
    "torchvision swin, permuted": (lambda: torchvision.models.SwinTransformer(
        [4, 4], 16, [1, 1], [2, 2], [7, 7], num_classes=4), "permute", False),
    "timm convnext": (lambda: timm.create_model(
        "convnext_atto", depths=(1, 1, 1, 1), dims=(8, 24, 8, 8)), "stages.1", False),
    "resnet": (lambda: torchvision.models.resnet18(num_classes=4), "layer2", False),
}


@pytest.mark.parametrize(("make", "path", "last"), LAST.values(), ids=LAST)
def test_channels_last(make, path, last):
    model, x = make().eval(), torch.rand(2, 3, 56, 84)
    output = kd.taps(model, [path])(x)
    tapped = output.taps[path]
    expected = tapped.permute(0, 3, 1, 2) if last else tapped
    assert torch.equal(Hint(path, path).pick(output, output)[0], expected)
    stated = f"{path}@{'BHWC' if last else 'BCHW'}"
    assert torch.equal(kd.taps(model, [stated])(x).taps[stated], expected)
    other = kd.taps(Maps(6, 8), ["conv"])(x)
    for term in (AT(path, "conv"), Hint(path, "conv"), VID(path, "conv")):
        term.build(output, other, 0)
        torch.testing.assert_close(term(output, other), term(expected, other.taps["conv"]))


@anything
@pytest.mark.parametrize(("wrong", "other"), [((7, 7, 96), (64, 7, 7)), ((9, 16, 96), (64, 9, 16)),
                                              ((14, 14, 192), (96, 7, 7)), ((7, 7, 48), (7, 7, 96)),
                                              ((18, 32, 48), (64, 9, 16))])
def test_tensors_with_the_channels_last_are_refused(make, wrong, other):
    for pair in ((wrong, other), (other, wrong)):
        with pytest.raises(ValueError, match=r"looks like \[B, H, W, C\].*permute"):
            make("a", "b")(*(randn(2, *shape) for shape in pair))
    student = randn(2, *wrong).permute(0, 3, 1, 2)
    assert torch.isfinite(AT("a", "b")(student, randn(2, 5, *wrong[:2])))


def test_both_orders_of_the_axes_are_refused():
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(6), nn.Linear(6, 4)

        def forward(self, x):
            return self.fc(self.norm(x).mean((1, 2)))

    output = kd.taps(Norm(), ["norm"])(torch.rand(2, 6, 6, 6))
    with pytest.raises(ValueError, match=r"student 'norm' features whose axis.*@BHWC"):
        AT("norm", "norm")(output, output)
    for text, axes in (("BHWC", (0, 3, 1, 2)), ("BCHW", (0, 1, 2, 3))):
        path = f"norm@{text}"
        output = kd.taps(Norm(), [path, "norm"])(torch.rand(2, 6, 6, 6))
        assert torch.equal(AT(path, path).pick(output, output)[0],
                           output.taps["norm"].permute(axes))


def test_what_a_path_cannot_state():
    for wrong in ("block@", "block@9", "block@9x", "block@x@9x16", "block@NHWC"):
        with pytest.raises(ValueError, match="Expected a layout such as"):
            kd.taps(Home(), [wrong])
    with pytest.raises(ValueError, match=r"'block@9x16' tokens for a grid of 9 x 16"):
        kd.taps(Home(), ["block@9x16"])(torch.rand(2, 3, 12, 20))
    with pytest.raises(ValueError, match=r"map \[B, H, W, C\], got \[2, 16, 12\]"):
        kd.taps(Home(), ["block@BHWC"])(torch.rand(2, 3, 12, 20))


# --- from end to end ----------------------------------------------------------------------------


def test_a_training_uses_what_the_model_states():
    data = kd.data.from_arrays(torch.rand(40, 3, 12, 20), torch.arange(40) % 4)
    term = Hint("conv", "block", projection="1x1")
    scheme = kd.Distiller(Maps(8), Home(), losses.CE() + term)
    kd.fit(scheme, data, kd.Recipe(epochs=1, batch=16, lr=0.01))
    batch = next(data.train.batches(8))
    student = kd.taps(scheme.student.eval(), ["conv"])(batch.x).taps["conv"]
    teacher = kd.taps(scheme.teacher.model, ["block@1+3x5"])(batch.x).taps["block@1+3x5"]
    expected = losses.hint(term.regressor(student), teacher)
    torch.testing.assert_close(scheme.eval()(batch).parts["Hint"], expected)
    hooks = [hook for m in kd.export(scheme).modules() for hook in m._forward_hooks]
    assert not hooks


def test_the_hook_on_the_patches_goes_with_the_last_tap():
    model = Home()
    first, second = kd.taps(model, ["block"]), kd.taps(model, ["block", "fc"])
    assert len(model.patch_embed._forward_hooks) == 1
    first.remove()
    assert len(model.patch_embed._forward_hooks) == 1
    second.remove()
    assert not model.patch_embed._forward_hooks


# --- tokens in another order --------------------------------------------------------------------


HIERA = {"embed_dim": 8, "num_heads": 1, "stages": (1, 1, 1), "q_pool": 2, "num_classes": 4,
         "mask_unit_size": (4, 4)}


def built(term, *outputs):
    term.build(*outputs, 0)
    return term(*outputs)


def masked_autoencoder():
    return transformers.ViTMAEModel(transformers.ViTMAEConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        image_size=32, patch_size=4))


UNORDERED = {  # model, size of images, path of blocks, that of the patches before them, the reason
    "timm Hiera": (lambda: timm.models.hiera.Hiera(img_size=(64, 64), **HIERA), (64, 64),
                   "blocks.0", "patch_embed", "lie row by row.*Hiera"),
    "timm Hiera, oblong": (lambda: timm.models.hiera.Hiera(img_size=(64, 96), **HIERA), (64, 96),
                           "blocks.1", "patch_embed", "lie row by row.*Hiera"),
    "transformers Hiera": (lambda: transformers.HieraModel(transformers.HieraConfig(
        embed_dim=8, image_size=[64, 64], depths=[1, 1], num_heads=[1, 1], num_query_pool=1,
        masked_unit_size=[2, 2])), (64, 64), "encoder.stages.0", "embeddings.patch_embeddings",
        "lie row by row.*Hiera"),
    "transformers ViTMAE": (masked_autoencoder, (32, 32), "layers.0", "embeddings.patch_embeddings",
                            "in one order.*at random"),
    "patches dropped in training": (lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=12, depth=1,
        patch_drop_rate=0.75), (32, 32), "blocks.0", "patch_embed",
        "in one order.*patch_drop_rate=0"),
}


@pytest.mark.parametrize(("make", "size", "path", "before", "why"), UNORDERED.values(),
                         ids=UNORDERED)
@pytest.mark.filterwarnings("ignore")
def test_tokens_that_do_not_lie_row_by_row(make, size, path, before, why):
    model = make().train()
    x = torch.rand(2, 3, *size)
    output = kd.taps(model, [path, before])(x)
    other = kd.taps(Maps(8), ["conv"])(x)
    for term in (AT(path, "conv"), Hint(path, "conv"), NST(path, "conv"), HiddenMSE(path, "conv")):
        with pytest.raises(ValueError, match=f"Expected student .*tokens.*{why}"):
            built(term, output, other)
    ours, _ = AT(before, "conv").pick(output, other)
    assert ours.ndim == 4
    # the place that a patch of the image has among the patches
    moved = x.clone()
    moved[:, :, : x.shape[2] // 4, -x.shape[3] // 4:] += 1
    change = (AT(before, "conv").pick(kd.taps(model, [before])(moved), other)[0] - ours).abs()
    place = change.sum((0, 1))
    rows, columns = place.shape
    corner = place[: rows // 4, -columns // 4:].sum()  # patches that overlap spread a little of it
    assert corner > 0.5 * place.sum()


def test_tokens_in_one_other_order_are_compared_with_each_other_only():
    one, other = (timm.models.hiera.Hiera(img_size=(64, 64), **HIERA) for _ in range(2))
    x = torch.rand(2, 3, 64, 64)
    outputs = [kd.taps(model, ["blocks.0"])(x) for model in (one, other)]
    term = HiddenMSE("blocks.0", "blocks.0", project=False)
    torch.testing.assert_close(term(*outputs), losses.hidden_mse(
        outputs[0].taps["blocks.0"], outputs[1].taps["blocks.0"]))
    with pytest.raises(ValueError, match="lie row by row"):
        HiddenMSE("blocks.0", "b", project=False)(outputs[0], outputs[1].taps["blocks.0"])


def test_dropped_patches_are_refused_by_every_term_while_they_are_dropped():
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=12,
                            depth=1, patch_drop_rate=0.75)
    x = torch.rand(4, 3, 32, 32)
    for term in (losses.SP("blocks.0", "blocks.0"), HiddenMSE("blocks.0", "blocks.0")):
        output = kd.taps(net.train(), ["blocks.0"])(x)
        with pytest.raises(ValueError, match="patches at random"):
            built(term, output, output)
        output = kd.taps(net.eval(), ["blocks.0"])(x)
        assert torch.isfinite(built(term, output, output))


# --- from the images, where the model states nothing --------------------------------------------


class Rearranged(nn.Module):
    """A transformer whose patches are cut by a permutation and a linear layer."""

    def __init__(self, extra):
        super().__init__()
        self.extra = extra
        self.to_patch, self.block, self.fc = nn.Linear(48, 6), nn.Identity(), nn.Linear(6, 4)

    def forward(self, image):
        B, _, H, W = image.shape
        cut = image.view(B, 3, H // 4, 4, W // 4, 4).permute(0, 2, 4, 3, 5, 1).flatten(3)
        patches = self.to_patch(cut).flatten(1, 2)
        return self.fc(self.block(torch.cat([patches[:, :self.extra] * 0, patches], 1)).mean(1))


@pytest.mark.parametrize(("size", "extra"), [((12, 20), 1), ((36, 64), 0), ((20, 12), 1),
                                             ((8, 16), 1), ((36, 64), 1)])
def test_tokens_have_the_ratio_of_the_images(size, extra):
    net, x = Rearranged(extra), torch.rand(2, 3, *size)
    other = kd.taps(net, ["block"])(image=x)
    found = AT("block", "block").pick(kd.taps(net, ["block"])(x), other)[0]
    tokens = other.taps["block"][:, extra:]
    assert torch.equal(found, tokens.mT.unflatten(2, (size[0] // 4, size[1] // 4)))


def test_tokens_that_contradict_the_images_are_refused():
    class Strange(nn.Module):  # a square of places from an oblong image
        def __init__(self):
            super().__init__()
            self.block = nn.Identity()

        def forward(self, x):
            return self.block(nn.functional.adaptive_avg_pool2d(x, 4).flatten(2).mT).mean(1)

    output = kd.taps(Strange(), ["block"])(torch.rand(2, 3, 8, 16))
    with pytest.raises(ValueError, match="a grid in the ratio of 8 x 16"):
        AT("block", "block")(output, output)


@pytest.mark.parametrize("term", [losses.SP("block", "block"), HiddenMSE("block", "block"),
                                  losses.RKDDistance("block", "block")])
def test_samples_on_the_second_axis_are_refused(term):
    class Second(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.TransformerEncoderLayer(12, 2, 8, dropout=0)

        def forward(self, x):
            return self.block(x.flatten(2).mT.transpose(0, 1)).mean(0)

    output = kd.taps(Second(), ["block"])(torch.rand(3, 12, 4, 4))
    with pytest.raises(ValueError, match=r"of 3 samples, got \[16, 3, 12\].*batch_first=True"):
        built(term, output, output)


@pytest.mark.parametrize("path", ["levels.0.transformer_encoder", "levels.1.transformer_encoder",
                                  "levels.2.transformer_encoder.0.attn"])
def test_tokens_in_blocks_are_no_map(path):
    nest = timm.models.nest.Nest(img_size=96, embed_dims=(10, 14, 20), num_heads=(1, 2, 4),
                                 depths=(1, 1, 1), num_classes=3)
    x = torch.rand(2, 3, 96, 96)
    term = kd.losses.AT(path, "0")
    teacher = nn.Sequential(nn.Conv2d(3, 5, 3, 4), nn.Flatten(),
                                  nn.Linear(2880, 3))
    with pytest.raises(ValueError, match=r"as a map, got .*\(NesT\)\? .*end of the stage"):
        term(kd.taps(nest, [path])(x), kd.taps(teacher, ["0"])(x))
    stage = ".".join(path.split(".")[:2])
    if stage != "levels.2":  # a map of channels first
        ours = kd.taps(nest, [stage])(x)
        expected = kd.losses.attention_transfer(ours.taps[stage], teacher[0](x))
        found = kd.losses.AT(stage, "0")(ours, kd.taps(teacher, ["0"])(x))
        torch.testing.assert_close(found, expected)


def test_as_many_blocks_as_tokens_in_each_are_no_map_either():
    """[B, 16, 16, D] of 16 x 16 places has the ratio of a map."""
    nest = timm.models.nest.Nest(img_size=32, patch_size=2, num_levels=3, embed_dims=(10, 14, 20),
                                 num_heads=(1, 2, 4), depths=(1, 1, 1), num_classes=3)
    x, path = torch.rand(2, 3, 32, 32), "levels.0.transformer_encoder"
    output = kd.taps(nest, [path, "levels.1.pool"])(x)
    assert output.layouts[path].order == "blocks"
    assert output.taps[path].shape == (2, 16, 16, 10)
    assert output.layouts["levels.1.pool"].order is None, "a map of channels first"
    with pytest.raises(ValueError, match=r"as a map, got .*\(NesT\)\?"):
        kd.losses.AT(path, "0")(output, kd.taps(nn.Sequential(nn.Conv2d(3, 5, 3)), ["0"])(x))


@pytest.mark.parametrize(("size", "path"), [((32, 32), "layers.1"), ((32, 64), "layers.0"),
                                            ((64, 96), "layers.2")])
def test_maps_with_the_channels_last_stay_maps(size, path):
    swin = timm.models.SwinTransformer(img_size=size, patch_size=4, window_size=2, embed_dim=8,
                                       depths=(1, 1, 1), num_heads=(1, 1, 1), num_classes=3)
    assert kd.taps(swin, [path])(torch.rand(2, 3, *size)).layouts[path].order is None
