"""Small reference networks, and what one sees of any network.

Shapes: B batch, K classes, C channels, H W height and width, N samples. Every network takes inputs
in [0, 1] and normalises them itself, so that a teacher and a student may differ in that.
"""

import contextlib
import dataclasses
import functools
import inspect
import itertools

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse import _files


@dataclasses.dataclass
class View:
    """What a model says about a batch: `logits` [B, K], and tapped tensors by module path."""

    logits: torch.Tensor
    taps: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)


def logits_of(output) -> torch.Tensor:
    """The logits in a model's output: a tensor, a tuple's first entry, or a `.logits` field."""
    if hasattr(output, "logits"):
        output = output.logits
    if isinstance(output, (tuple, list)):
        output = output[0]
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        got = f"shape {list(output.shape)}" if isinstance(output, torch.Tensor) else type(output)
        raise TypeError(
            f"Expected logits of shape [B, K] from the model, got {got}. "
            "Wrap the model so that forward returns logits [B, K], or has them in .logits."
        )
    return output


@torch.no_grad()
def predict(model: nn.Module, x: torch.Tensor, batch: int = 500) -> torch.Tensor:
    """The model's logits [N, K] for inputs [N, C, H, W], in eval mode and without gradients.

    Every submodule is left in the mode (train or eval) in which it was found. The result lies on
    the device of the model.
    """
    with evaluating(model):
        device = device_of(model)
        return torch.cat([logits_of(model(part.to(device))).float() for part in x.split(batch)])


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """Eval mode inside the block; afterwards every submodule is in the mode it was found in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters lie (the CPU for a model without any)."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def describe(model: nn.Module) -> str:
    """One line that identifies a model: how our own were made, or class, size and structure."""
    if hasattr(model, "spec"):
        return model.spec
    parameters = sum(p.numel() for p in model.parameters())
    return f"{type(model).__name__}({parameters} parameters, {_files.digest(repr(model))[:8]})"


def _seeded(build):
    """Draw the initial weights from `seed` alone, leave torch's global generator as it was, and
    remember on the model how it was made (`model.spec`)."""
    signature = inspect.signature(build)

    @functools.wraps(build)
    def wrapped(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        settings = {k: v for k, v in bound.arguments.items() if k != "seed"}
        for name, value in settings.items():
            for number in value if isinstance(value, (tuple, list)) else (value,):
                if name != "dropout" and number < 1:
                    raise ValueError(f"Expected {name} of at least 1, got {value}.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(bound.arguments["seed"])
            model = build(**bound.arguments)
        model.spec = f"{build.__name__}({', '.join(f'{k}={v}' for k, v in settings.items())})"
        return model

    return wrapped


class Normalize(nn.Module):
    """(x - mean) / std, per channel; the fixed first layer of our networks."""

    def __init__(self, mean=0.5, std=0.5):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return (x - self.mean) / self.std

    def extra_repr(self):
        return f"mean={self.mean}, std={self.std}"


def _conv_bn(inputs, outputs, kernel=3, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


@_seeded
def mlp(hidden: tuple = (128, 128), channels=1, classes=36, size=28, seed=0) -> nn.Module:
    """A multilayer perceptron with ReLU: the kind of network in Hinton's MNIST experiment.

    hidden: the width of each hidden layer.

    >>> mlp(hidden=(800, 800), classes=10)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    widths = [channels * size * size, *hidden]
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(Normalize(), nn.Flatten(), *layers, nn.Linear(widths[-1], classes))


@_seeded
def convnet(width=16, channels=1, classes=36, size=28, seed=0) -> nn.Module:
    """Three strided convolutions of `width`, 2 and 4 times `width` channels, each with batch
    normalisation and ReLU, then the mean over the image and a linear layer. A small student.

    `size` is accepted for symmetry: the network takes any size of at least 8.

    >>> sum(p.numel() for p in convnet(width=16).parameters())
    25748
    """
    blocks, inputs = [], channels
    for outputs in (width, 2 * width, 4 * width):
        blocks += [_conv_bn(inputs, outputs, stride=2), nn.ReLU()]
        inputs = outputs
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(Normalize(), *blocks, *pool, nn.Linear(inputs, classes))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, arXiv:1512.03385, figure 2)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = _conv_bn(inputs, outputs, stride=stride)
        self.conv2 = _conv_bn(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv_bn(inputs, outputs, 1, stride)

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """The residual network for small images (He et al. 2016, section 4.2)."""

    def __init__(self, depth, width, stem_stride, channels, classes):
        super().__init__()
        self.normalize = Normalize()
        self.stem = _conv_bn(channels, width, stride=stem_stride)
        inputs = width
        for stage in (1, 2, 3):
            outputs, blocks = width * 2 ** (stage - 1), []
            for i in range((depth - 2) // 6):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(BasicBlock(inputs, outputs, stride))
                inputs = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.stem(self.normalize(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


@_seeded
def resnet(depth=14, width=16, stem_stride=1, channels=1, classes=36, size=28, seed=0) -> nn.Module:
    """A ResNet for small images: depth 6n+2 (8, 14, 20, 32, 56, 110 …), three stages of `width`,
    2 and 4 times `width` channels, 1x1 convolutions in the shortcuts.

    stem_stride: 2 halves the image in the first layer: a quarter of the arithmetic.
    `size` is accepted for symmetry. Raises `ValueError` for a depth that is not 6n+2.

    >>> resnet(depth=20, channels=3, classes=10)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"Expected a depth of 6n+2 (8, 14, 20, 26, 32 …), got {depth}.")
    return ResNet(depth, width, stem_stride, channels, classes)


@_seeded
def vit(dim=64, depth=4, heads=4, patch=7, channels=1, classes=36, size=28, seed=0) -> nn.Module:
    """A small vision transformer: timm's `VisionTransformer` with a class token.

    dim: the width of a token; patch: the side of a patch in pixels, a divisor of `size`.
    Raises `ValueError` when `patch` does not divide `size` or `heads` does not divide `dim`.

    >>> vit(classes=10)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    from timm.models.vision_transformer import VisionTransformer  # a second to import

    if size % patch:
        raise ValueError(f"Expected a patch that divides the image size {size}, got {patch}.")
    if dim % heads:
        raise ValueError(f"Expected heads that divide dim {dim}, got {heads}.")
    model = VisionTransformer(img_size=size, patch_size=patch, in_chans=channels,
                              num_classes=classes, embed_dim=dim, depth=depth, num_heads=heads,
                              mlp_ratio=2)
    return nn.Sequential(Normalize(), model)
