"""SimKD: the teacher's classifier reused. B batch, C channels, H W height and width."""

import copy

import torch  # noqa: F401 - for the example
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.hint import hint
from kdcourse.losses.feature.projections import on_one_grid, projected
from kdcourse.taps import Early, clean_copy


class SimKD(FeatureLoss):
    r"""Match the last map behind a projector, and classify with the teacher's last layer: the mean
    squared error, `hint` with variant "mean".

    .. math:: L = \frac{1}{C_T H W} \sum_{c, i} \big( P(F^S)_{ci} - F^T_{ci} \big)^2

    Chen et al. 2022 (arXiv:2203.14001), section 3. The student's own classifier is neither trained
    nor used: the trained network is the student up to the map, the projector P and the teacher's
    classifier, as `network` puts them together. So the accuracy that `fit` and `report` show for
    the student itself says nothing here.

    Published weight: 1, without labels, for ResNet-32x4 to ResNet-8x4 on CIFAR-100 at batch 64 and
    ResNet-50 to ResNet-18 on ImageNet at batch 256 (DefangChen/SimKD, scripts/run_distill.sh, `-c 0
    -d 0 -b 1`).

    student, teacher: paths of the last maps [B, C, H, W] before the average pooling. A larger map
        of the student is averaged down to the teacher's size in front of the projector; a larger
        one of the teacher is averaged down as the target.
    factor: the projector has the teacher's channels divided by `factor` inside. It is a 1x1, a 3x3
        and a 1x1 convolution without biases, each with batch normalisation and ReLU, so the
        teacher's map is one behind a ReLU.

    >>> from kdcourse import models
    >>> student, teacher = models.resnet(depth=8, width=4), models.resnet(depth=8, width=8)
    >>> term = SimKD("layer3", "layer3")
    >>> term.build(torch.rand(2, 16, 7, 7), torch.rand(2, 32, 7, 7), seed=0)
    >>> term.network(student, teacher.fc)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 36])
    """

    def __init__(self, student=None, teacher=None, *, factor: int = 2):
        inputs.check_count("factor", factor)
        super().__init__(student, teacher, factor=factor)
        self.projector: nn.Module | None = None

    def build(self, student, teacher, seed):
        student, teacher = inputs.one_batch(*self.pick(student, teacher), 4)
        channels, outputs = student.shape[1], teacher.shape[1]
        inputs.check(self.factor <= outputs, f"a factor of at most {outputs}, the channels of the "
                     "teacher's map", self.factor)
        if self.projector is None:
            size = tuple(map(min, student.shape[2:], teacher.shape[2:]))
            pool = nn.Identity() if student.shape[2:] == size else nn.AdaptiveAvgPool2d(size)
            inner = outputs // self.factor
            self.projector = self.seeded(seed, student, lambda: nn.Sequential(
                pool, *_layer(channels, inner, 1), *_layer(inner, inner, 3),
                *_layer(inner, outputs, 1)))

    def values(self, student, teacher=None, labels=None):
        student, teacher = inputs.one_batch(student, teacher, 4)
        student, teacher = on_one_grid(projected(student, self.projector), teacher)
        return hint(student, teacher, "mean", "none")

    def network(self, student: nn.Module, classifier: nn.Module) -> nn.Module:
        """Put together what is used after training: a copy of the student up to its map, the
        projector, the mean over the places and a copy of the teacher's classifier; in eval mode.

        student: the trained network, such as `kd.export(scheme)`.
        classifier: the teacher's layer behind the average pooling, such as `teacher.fc`.

        Raises `ValueError` before `build`, without a path of the student and for no network.
        """
        for part, what in ((student, "the student"), (classifier, "the teacher's classifier")):
            inputs.check(isinstance(part, nn.Module), f"{what} as a network (nn.Module)",
                         type(part).__name__)
        inputs.check(len(self.student_paths) == 1, "the path of the student's map",
                     list(self.student_paths), 'Write SimKD("layer3", "layer3").')
        inputs.check(self.projector is not None, "a trained term", "one before build()")
        head = nn.Sequential(copy.deepcopy(self.projector), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             copy.deepcopy(classifier))
        return Early(clean_copy(student), self.student_paths[0], head).eval()


def _layer(channels: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs), nn.ReLU()]
