"""Masked generative distillation. B batch, C channels, H W height and width."""

import torch  # noqa: F401 - for the example
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.feature.hint import hint
from kdcourse.losses.feature.masked import Masked
from kdcourse.losses.feature.projections import maps_pair, on_one_grid, projected


class MGD(Masked):
    r"""Generate the teacher's map from a part of the student's: the squared distance, summed over
    the elements, twice `hint`.

    .. math:: L = \sum_{c, i} \Big( F^T_{ci} - G\big(f(F^S) \cdot M\big)_{ci} \Big)^2, \qquad
        G(x) = W_2\,\mathrm{ReLU}(W_1 x)

    Yang et al. 2022 (arXiv:2205.01529), section 3: M is 0 at random, else 1; f is a 1x1 convolution
    where the numbers of channels differ, G two 3x3 convolutions. Trains f and G. Takes maps
    [B, C, H, W] and tokens, laid out on their grid; of two sizes, the larger is averaged down.

    Published weight: 7e-5, with 1 for the labels, for the defaults at the last map, for ResNet-34
    to ResNet-18 and ResNet-50 to MobileNet on ImageNet at batch 256 (yzd-v/MGD,
    cls/configs/distillers/mgd/). For detection 2e-5 with `share=0.65, mask="place"`, for each level
    of the pyramid of RetinaNet on COCO (det/configs/distillers/mgd/).

    share: the share of what is masked, from 0 to below 1.
    mask: "channel" masks whole channels of a sample, "place" all channels of places.

    >>> term = MGD("layer3", "layer3", mask="place", share=0.5)
    >>> student, teacher = torch.rand(2, 8, 7, 7), torch.rand(2, 16, 7, 7)
    >>> term.build(student, teacher, seed=0)
    >>> term(student, teacher).shape, sum(p.numel() for p in term.parameters())
    (torch.Size([]), 4784)
    """

    def __init__(self, student=None, teacher=None, *, share: float = 0.15, mask: str = "channel"):
        inputs.check(0 <= share < 1, "a share of 0 to below 1", share)
        inputs.check_choice("mask", mask, ("channel", "place"))
        super().__init__(student, teacher, share=share, mask=mask)
        self.align: nn.Module | None = None
        self.generate: nn.Module | None = None

    def build(self, student, teacher, seed):
        student, teacher = on_one_grid(*maps_pair(*self.pick(student, teacher)))
        if self.generate is None:
            channels, outputs = student.shape[1], teacher.shape[1]
            self.align, self.generate = self.seeded(seed, student, lambda: nn.ModuleList([
                nn.Identity() if channels == outputs else nn.Conv2d(channels, outputs, 1),
                generator_of(outputs)]))
            self.seed = seed

    def values(self, student, teacher=None, labels=None):
        student, teacher = on_one_grid(*maps_pair(student, teacher))
        student = projected(student, self.align)
        B, C, H, W = student.shape
        shape = (B, C, 1, 1) if self.mask == "channel" else (B, 1, H, W)
        kept = self.noise(shape, student) >= self.share
        return 2 * hint(projected(student * kept, self.generate), teacher, "paper", "none")


def generator_of(channels: int) -> nn.Module:
    """Make the two 3x3 convolutions that generate the teacher's map."""
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(channels, channels, 3, padding=1))
