"""Knowledge review. B batch, C channels, H W height and width, N tokens, D features."""

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import projected


def review(students, teachers, reduction: str = "mean"):
    r"""Compute the hierarchical context loss: the mean squared error at several resolutions.

    .. math:: L = \sum_l \frac{1}{\sum_g w_g} \sum_g w_g \,
            \mathrm{MSE}\big(\mathrm{pool}_g(S_l), \mathrm{pool}_g(T_l)\big), \qquad
        w = 1, \tfrac12, \tfrac14, \tfrac18

    Chen et al. 2021 (arXiv:2104.09044), section 3. Each level :math:`l` is compared as it is
    (weight 1), then averaged to grids :math:`g` of 4x4, 2x2 and 1x1 places. A grid that is not
    smaller than the map is left out, and the next one takes its weight. The weights, and the
    division by their sum, are those of the official code. Raises `ValueError` for shapes that do
    not fit.

    students, teachers: tuples of maps [B, C, H, W], one per level, of equal shapes; or one map.

    >>> teacher = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 2, 2)
    >>> review(0 * teacher, teacher)  # (1 * 1 + 1/2 * 0) / (1 + 1/2): the averages agree
    tensor(0.6667)
    """
    losses = []
    for student, teacher in _levels(students, teachers):
        student, teacher = inputs.features_pair(student, teacher, 4)
        error = student - teacher  # averaging is linear: the error of averages is its average
        grids = [grid for grid in (4, 2, 1) if grid < min(error.shape[2:])]
        errors = [error, *(F.adaptive_avg_pool2d(error, grid) for grid in grids)]
        weights = [0.5**i for i in range(len(errors))]
        losses.append(sum(weight * at_grid.square().mean((1, 2, 3))
                          for weight, at_grid in zip(weights, errors)) / sum(weights))
    return inputs.reduce(sum(losses), reduction)


class ReviewKD(FeatureLoss):
    """Match several levels, the student's fused by attention, the deepest first: `review`.

    student, teacher: as many paths each, from shallow to deep, as in `ReviewKD(["layer1",
        "layer2"], ["layer1", "layer2"])`, of maps, tokens or vectors of any size. On CIFAR-100 the
        official code adds "fc:input" as the deepest level, and takes the others before the ReLU
        from the teacher, behind it from the student.
    width: channels inside the fusion. None: as many as the student's deepest level, 512 at most.

    Trains, for each level, a 1x1 convolution to `width` channels, two attention maps that weigh it
    against the enlarged result of the deeper level, and a 3x3 convolution to the teacher's
    channels, with batch normalisation.

    Published weights on CIFAR-100 at batch 128, with 1 for the labels, by pair: 0.6 (ResNet-56 to
    ResNet-20), 1 (ResNet-110 to ResNet-32), 8 (ResNet-32x4 to ShuffleNetV2), 5 for all others; the
    official code raises them linearly over the first 20 of 240 epochs (dvlab-research/ReviewKD,
    CIFAR-100/script/reviewKD.sh and train.py). On ImageNet at batch 256 1 (ResNet-34 to ResNet-18)
    and 8 (ResNet-50 to MobileNet; ImageNet/README.md).
    """

    takes = "maps"
    omitted = ("width",)

    def __init__(self, student=None, teacher=None, *, width: int | None = None):
        super().__init__(student, teacher, width=width)
        inputs.check(len(self.student_paths) == len(self.teacher_paths),
                     "as many paths of the teacher as of the student",
                     f"{list(self.student_paths)} and {list(self.teacher_paths)}")
        if width is not None:
            inputs.check_count("width", width)
        self.fusions = None

    def build(self, student, teacher, seed):
        levels = _map_levels(*self.pick(student, teacher))
        if self.fusions is None:
            deepest, _ = levels[-1]
            width = self.width or min(512, deepest.shape[1])
            self.fusions = self.seeded(seed, deepest, lambda: nn.ModuleList(
                _Fusion(s.shape[1], width, t.shape[1], fuses=s is not deepest) for s, t in levels))

    def values(self, student, teacher=None, labels=None):
        levels = _map_levels(student, teacher)
        fusions = self.fusions or [None] * len(levels)
        results, deeper = [], None
        for (student, teacher), fusion in reversed(list(zip(levels, fusions))):
            result, deeper = projected(student, fusion, deeper, teacher.shape[2:])
            results.insert(0, (result, teacher))
        return review(*zip(*results), reduction="none")


class _Fusion(nn.Module):
    """Fuse one level with the result of the deeper one, weighted by attention."""

    def __init__(self, channels: int, width: int, outputs: int, fuses: bool):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False),
                                   nn.BatchNorm2d(width))
        self.attend = nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid()) if fuses else None
        self.leave = nn.Sequential(nn.Conv2d(width, outputs, 3, padding=1, bias=False),
                                   nn.BatchNorm2d(outputs))
        for layer in (self.enter[0], self.leave[0]):
            nn.init.kaiming_uniform_(layer.weight, a=1)

    def forward(self, x, deeper, size):
        """Give the level in the teacher's shape, and what is passed on to the earlier level."""
        x = self.enter(x)
        if self.attend is not None:
            deeper = F.interpolate(deeper, x.shape[2:])  # nearest neighbour
            attention = self.attend(torch.cat([x, deeper], 1))
            x = x * attention[:, :1] + deeper * attention[:, 1:]
        if x.shape[2:] != size:
            x = F.interpolate(x, size)
        return self.leave(x), x


def _levels(students, teachers) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pair the levels of both sides: one tensor each, or several."""
    sides = []
    for x, who in ((students, "student"), (teachers, "teacher")):
        levels = [x] if isinstance(x, torch.Tensor) else x
        inputs.check(isinstance(levels, tuple | list) and len(levels) > 0
                     and all(isinstance(level, torch.Tensor) for level in levels),
                     f"{who} maps [B, C, H, W], one per level", type(x).__name__,
                     "Pass a tuple of tensors.")
        sides.append(levels)
    if len(sides[0]) != len(sides[1]) or len({x.shape[:1] for x in [*sides[0], *sides[1]]}) > 1:
        shapes = [[list(level.shape) for level in levels] for levels in sides]
        raise ValueError("Expected student and teacher maps of as many levels and one batch, got "
                         f"{shapes[0]} and {shapes[1]}.")
    return list(zip(*sides))


def _map_levels(students, teachers) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [inputs.maps(student, teacher) for student, teacher in _levels(students, teachers)]
