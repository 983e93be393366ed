"""Small reference networks. Each takes inputs in [0, 1] and normalises them itself.

Shapes: B batch, K classes, C channels, H W height and width.
"""

import functools
import inspect
import itertools

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse._key import stamp
from kdcourse._random import seeded


def by_seed(build):
    """Draw initial weights from `seed` alone; note the arguments in `model.spec` and in its key."""
    signature = inspect.signature(build)

    @functools.wraps(build)
    def wrapped(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        seed = bound.arguments["seed"]
        settings = {k: v for k, v in bound.arguments.items() if k != "seed" and v is not None}
        for name, value in settings.items():
            numbers = value if isinstance(value, (tuple, list)) else [value]
            if not isinstance(value, (str, bool, float)) and min(numbers, default=1) < 1:
                raise ValueError(f"Expected {name} of at least 1, got {value}.")
        with seeded(seed):
            model = build(**bound.arguments)
        model.spec = f"{build.__name__}({', '.join(f'{k}={v}' for k, v in settings.items())})"
        stamp(model, [build.__name__, settings, seed])
        return model

    return wrapped


class Normalize(nn.Module):
    """Compute (x - mean) / std: the first layer of the course's networks.

    mean, std: a number, or a tuple with one for each channel.
    """

    def __init__(self, mean=0.5, std=0.5):
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            if isinstance(value, tuple):
                self.register_buffer(name, torch.tensor(value)[:, None, None], persistent=False)
            else:
                setattr(self, name, value)

    def forward(self, x):
        return (x - self.mean) / self.std

    def extra_repr(self):
        return ", ".join(f"{name}={value.flatten().tolist()}"
                         if isinstance(value, torch.Tensor) else f"{name}={value}"
                         for name, value in (("mean", self.mean), ("std", self.std)))


def conv_bn(inputs, outputs, kernel=3, stride=1, groups=1, bias=False):
    """Make a convolution with batch normalisation; an odd kernel keeps the size at stride 1."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _strided(widths) -> list[nn.Module]:
    """Make convolutions that halve the image, from widths[0] to widths[-1] channels."""
    return [layer for inputs, outputs in itertools.pairwise(widths)
            for layer in (conv_bn(inputs, outputs, stride=2), nn.ReLU())]


@by_seed
def mlp(hidden: tuple = (128, 128), channels=1, classes=36, size=28, seed=0) -> nn.Module:
    """Make a multilayer perceptron with ReLU and `hidden` layers of these widths (Hinton et al.
    2015, arXiv:1503.02531, section 3).

    >>> mlp(hidden=(800, 800), classes=10)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    widths = [channels * size * size, *hidden]
    layers = [layer for inputs, outputs in itertools.pairwise(widths)
              for layer in (nn.Linear(inputs, outputs), nn.ReLU())]
    return nn.Sequential(Normalize(), nn.Flatten(), *layers, nn.Linear(widths[-1], classes))


@by_seed
def convnet(width=16, channels=1, classes=36, size=28, seed=0) -> nn.Module:
    """Make a small student of three strided convolutions with `width`, 2 and 4 times `width`
    channels, batch normalisation and ReLU, the mean over the image (of any `size` from 8), and a
    linear layer.

    >>> sum(p.numel() for p in convnet(width=16).parameters())
    25748
    """
    layers = _strided((channels, width, 2 * width, 4 * width))
    return nn.Sequential(Normalize(), *layers, MeanOverImage(), nn.Flatten(),
                         nn.Linear(4 * width, classes))


class MeanOverImage(nn.Module):
    """Take the mean over height and width: [B, C, H, W] to [B, C, 1, 1]."""

    def forward(self, x):
        # Not nn.AdaptiveAvgPool2d(1), whose gradient allocates memory, in channels-first order.
        return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])


class BasicBlock(nn.Module):
    """Add two 3x3 convolutions to a shortcut (He et al. 2016, arXiv:1512.03385, figure 2)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.inputs, self.outputs, self.stride = inputs, outputs, stride
        self.conv1 = conv_bn(inputs, outputs, stride=stride)
        self.conv2 = conv_bn(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()  # a module, so that its input can be tapped

    def forward(self, x):
        return self.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """Classify small images with a residual network (He et al. 2016, section 4.2)."""

    def __init__(self, depth, width, stem_stride, channels, classes):
        super().__init__()
        self.depth, self.width, self.stem_stride = depth, width, stem_stride
        self.channels, self.classes = channels, classes
        self.normalize = Normalize()
        self.stem = conv_bn(channels, width, stride=stem_stride)
        blocks = (depth - 2) // 6
        self.layer1 = _stage(width, width, 1, blocks)
        self.layer2 = _stage(width, 2 * width, 2, blocks)
        self.layer3 = _stage(2 * width, 4 * width, 2, blocks)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x):
        x = F.relu(self.stem(self.normalize(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.sum((2, 3)) / (x.shape[2] * x.shape[3]))


def _stage(inputs, outputs, stride, blocks):
    return nn.Sequential(BasicBlock(inputs, outputs, stride),
                         *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


@by_seed
def resnet(depth=14, width=16, stem_stride=1, channels=1, classes=36, size=28, seed=0) -> nn.Module:
    """Make a ResNet for small images: depth 6n+2 (8, 14, 20, 32, 56, 110 …), three stages with
    `width`, 2 and 4 times `width` channels, 1x1 convolutions in the shortcuts.

    stem_stride: 2 halves the image in the first layer: a quarter of the arithmetic.
    size: without effect. Raises `ValueError` for a depth that is not 6n+2.

    >>> resnet(depth=20, channels=3, classes=10)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"Expected a depth of 6n+2 (8, 14, 20, 26, 32 …), got {depth}.")
    return ResNet(depth, width, stem_stride, channels, classes)


@by_seed
def vit(dim=64, depth=4, heads=4, patch=7, channels=1, classes=36, size=28, seed=0,
        stem=None, init=None) -> nn.Module:
    """Make a small vision transformer: timm's `VisionTransformer` with a class token.

    dim: the width of a token. patch: the side of a patch in pixels.
    stem: None makes a token of each patch by one matrix; "conv" by 3x3 convolutions with stride 2,
        batch normalisation and ReLU, until there is one place per patch (rounded up), then 1x1
        (Xiao et al. 2021, arXiv:2106.14881).
    init: None keeps timm's initial weights, with standard deviation 0.02 at any width; "lecun"
        draws those of linear layers with 1/√inputs, class token and positions with 0.3.

    Raises `ValueError` when `patch` does not divide `size` (or is no power of 2, with "conv"), and
    when `heads` does not divide `dim`.

    >>> vit(classes=10)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    from timm.layers import HybridEmbed, PatchEmbed
    from timm.models.vision_transformer import VisionTransformer  # a second to import

    for name, value, choice in (("stem", stem, "conv"), ("init", init, "lecun")):
        if value not in (None, choice):
            raise ValueError(f'Expected {name} None or "{choice}", got {value!r}.')
    if stem is None and size % patch:
        raise ValueError(f"Expected a patch that divides the image size {size}, got {patch}.")
    if stem and (patch < 2 or patch & (patch - 1)):
        raise ValueError(f'Expected a patch of 2, 4, 8 … with stem="conv", got {patch}.')
    if dim % heads:
        raise ValueError(f"Expected heads that divide dim {dim}, got {heads}.")
    embed = PatchEmbed
    if stem:  # log2(patch) convolutions halve the image, and the channels double up to dim
        widths = [max(1, dim >> i) for i in reversed(range(patch.bit_length() - 1))]
        embed = functools.partial(HybridEmbed, nn.Sequential(*_strided([channels, *widths])))
        patch = 1
    model = VisionTransformer(img_size=size, patch_size=patch, in_chans=channels,
                              num_classes=classes, embed_dim=dim, depth=depth, num_heads=heads,
                              mlp_ratio=2, embed_layer=embed)
    if init:
        rng = torch.Generator().manual_seed(seed)
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=rng)
        for token in (model.pos_embed, model.cls_token):
            nn.init.normal_(token, std=0.3, generator=rng)
    return nn.Sequential(Normalize(), model)
