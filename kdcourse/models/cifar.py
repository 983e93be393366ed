"""The networks of the published tables on CIFAR-100, as in RepDistiller (commit b84f547).

Shapes: B batch, C channels, H W height and width.
"""

import itertools
import re

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse.models.reference import BasicBlock, MeanOverImage, Normalize, by_seed, conv_bn

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # of the training images
VGG = {8: 5 * [1], 11: [1, 1, 2, 2, 2], 13: 5 * [2], 16: [2, 2, 3, 3, 3],
       19: [2, 2, 4, 4, 4]}  # convolutions in each of the five blocks


class CIFARNet(nn.Sequential):
    """Compute logits of small colour images by `stem`, the stages `layer1`, `layer2` …, `last`,
    the mean over the image and `fc`. Make one by `cifar`.

    stages: the paths of the stages. before_relu: for each of them, the path of its output before
        the ReLU that it ends in, or (WRN) that follows; both as for `kdcourse.taps`.
    """

    def __init__(self, stem: list, stages: list, last: list, width: int, classes: int,
                 before_relu: list[str]):
        super().__init__()
        self.stages = [f"layer{number}" for number in range(1, len(stages) + 1)]
        self.before_relu = before_relu
        parts = {"normalize": [Normalize(MEAN, STD)], "stem": stem,
                 **dict(zip(self.stages, stages, strict=True)), "last": last}
        for name, layers in parts.items():
            self.add_module(name, layers[0] if name == "normalize" else nn.Sequential(*layers))
        self.pool, self.flatten = MeanOverImage(), nn.Flatten()
        self.fc = nn.Linear(width, classes)


@by_seed
def cifar(name="resnet20", classes=100, seed=0) -> nn.Module:
    """Make a network of the published tables on CIFAR-100, for colour images of 32 x 32.

    name: "resnet8", 14, 20, 32, 44, 56 or 110 (He et al. 2016, arXiv:1512.03385, section 4.2, with
        1x1 convolutions in the shortcuts); "resnet8x4" or "resnet32x4", with 2 times as many
        channels in the stem and 4 times in the stages; "wrn_40_2", "wrn_16_1" and the like: depth
        6n+4 and width factor (Zagoruyko & Komodakis 2016, arXiv:1605.07146); "vgg8", 11, 13, 16 or
        19, with batch normalisation and one linear layer (Simonyan & Zisserman 2015,
        arXiv:1409.1556); "shufflenetv2" (Ma et al. 2018, arXiv:1807.11164, factor 1).

    Architecture and initial distribution are those of RepDistiller (models/, commit b84f547), the
    code of Tian et al. 2020 (arXiv:1910.10699). The stages are at `stages`, such as ["layer1",
    "layer2", "layer3"], what goes into their last ReLU at `before_relu`, the last map at "last",
    the features before the last layer at "fc:input".

    Raises `ValueError` for another name.

    >>> network = cifar("wrn_16_2")
    >>> network(torch.rand(2, 3, 32, 32)).shape, sum(p.numel() for p in network.parameters())
    (torch.Size([2, 100]), 703284)
    """
    found = re.fullmatch(r"(resnet|vgg)(\d+)(x4)?|wrn_(\d+)_(\d+)|shufflenetv2", str(name))
    kind, depth, wide, wrn_depth, factor = found.groups() if found else ("", 0, None, 0, 0)
    if kind == "resnet" and int(depth) >= 8 and (int(depth) - 2) % 6 == 0:
        model = _resnet(int(depth), [32, 64, 128, 256] if wide else [16, 16, 32, 64], classes)
    elif kind == "vgg" and int(depth) in VGG and not wide:
        model = _vgg(VGG[int(depth)], classes)
    elif wrn_depth and int(wrn_depth) >= 10 and (int(wrn_depth) - 4) % 6 == 0 and int(factor):
        model = _wrn(int(wrn_depth), int(factor), classes)
    elif name == "shufflenetv2":
        return _shufflenet([24, 116, 232, 464], 1024, classes)  # initialised as torch does it
    else:
        raise ValueError('Expected a name such as "resnet20" (6n+2), "resnet8x4", "vgg13", '
                         f'"wrn_40_2" (6n+4) or "shufflenetv2", got {name!r}.')
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if kind == "vgg":
        nn.init.normal_(model.fc.weight, std=0.01)
    if kind != "resnet":
        nn.init.zeros_(model.fc.bias)
    return model


def _stages(block, widths: list[int], counts, strides=(1, 2, 2)) -> list[list[nn.Module]]:
    """Make stages of so many blocks; the first of each changes the width, and has the stride."""
    return [[block(inputs, outputs, stride), *(block(outputs, outputs, 1) for _ in range(1, count))]
            for (inputs, outputs), count, stride
            in zip(itertools.pairwise(widths), counts, strides, strict=True)]


def _resnet(depth: int, widths: list[int], classes: int) -> CIFARNet:
    blocks = (depth - 2) // 6
    return CIFARNet([conv_bn(3, widths[0]), nn.ReLU()], _stages(BasicBlock, widths, 3 * [blocks]),
                    [], widths[-1], classes,
                    [f"layer{number}.{blocks - 1}.relu:input" for number in (1, 2, 3)])


class PreActivation(nn.Module):
    """Add two 3x3 convolutions, each behind batch normalisation and ReLU, to a shortcut (He et al.
    2016, arXiv:1603.05027). Where the widths differ, the shortcut convolves the activated input."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.norm1, self.relu = nn.BatchNorm2d(inputs), nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = (None if inputs == outputs else
                         nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x):
        active = self.relu(self.norm1(x))
        out = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


def _wrn(depth: int, factor: int, classes: int) -> CIFARNet:
    blocks, widths = (depth - 4) // 6, [16, 16 * factor, 32 * factor, 64 * factor]
    return CIFARNet([nn.Conv2d(3, 16, 3, 1, 1, bias=False)],
                    _stages(PreActivation, widths, 3 * [blocks]),
                    [nn.BatchNorm2d(widths[-1]), nn.ReLU()], widths[-1], classes,
                    ["layer2.0.relu:input", "layer3.0.relu:input", "last.1:input"])


def _vgg(convolutions: list[int], classes: int) -> CIFARNet:
    widths, blocks = [3, 64, 128, 256, 512, 512], []
    for number, count in enumerate(convolutions):
        layers = [nn.MaxPool2d(2)] if number in (1, 2, 3) else []  # not before the last block
        for place in range(count):
            inputs = widths[number if place == 0 else number + 1]
            layers += [conv_bn(inputs, widths[number + 1], bias=True), nn.ReLU()]
        blocks.append(layers)
    return CIFARNet(blocks[0], blocks[1:], [], 512, classes, [
        f"layer{number}.{len(layers) - 1}:input" for number, layers in enumerate(blocks) if number])


class Shuffle(nn.Module):
    """Compute half of the channels anew, or (stride 2) two halves of the new ones, and shuffle the
    halves (Ma et al. 2018, arXiv:1807.11164, figure 3 c and d)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        half = outputs // 2
        self.split = stride == 1
        self.left = nn.Identity() if self.split else nn.Sequential(
            conv_bn(inputs, inputs, 3, 2, groups=inputs), conv_bn(inputs, half, 1))
        self.right = nn.Sequential(
            conv_bn(half if self.split else inputs, half, 1), nn.ReLU(),
            conv_bn(half, half, 3, stride, groups=half), conv_bn(half, half, 1))
        self.relu, self.shuffle = nn.ReLU(), nn.ChannelShuffle(2)

    def forward(self, x):
        left, right = x.chunk(2, 1) if self.split else (x, x)
        # The half that stays comes out of a ReLU: a second one changes neither it nor its gradient.
        return self.shuffle(self.relu(torch.cat([self.left(left), self.right(right)], 1)))


def _shufflenet(widths: list[int], last: int, classes: int) -> CIFARNet:
    counts = 4, 8, 4
    stages = _stages(Shuffle, widths, counts, (2, 2, 2))
    # Ends before the last ReLU: left half, then right half, not shuffled yet.
    return CIFARNet([conv_bn(3, widths[0], 1), nn.ReLU()], stages,
                    [conv_bn(widths[-1], last, 1), nn.ReLU()], last, classes,
                    [f"layer{number}.{count - 1}.relu:input"
                     for number, count in enumerate(counts, 1)])
