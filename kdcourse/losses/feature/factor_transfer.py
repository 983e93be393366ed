"""Factor transfer. B batch, C channels, H W height and width, M channels of a factor."""

import copy
import itertools

import torch  # noqa: F401 - for the example
from torch import nn

from kdcourse._random import seeded
from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import on_one_grid, projected
from kdcourse.losses.numerics import unit

VARIANTS = ("code", "paper")


def factor_transfer(student_BMHW, teacher_BMHW, variant: str = "code", reduction: str = "mean"):
    r"""Compute the L1 distance between the factors of both sides, each divided by its length.

    .. math:: L = \frac{1}{M H W} \left\lVert \frac{F_S}{\lVert F_S \rVert_2}
            - \frac{F_T}{\lVert F_T \rVert_2} \right\rVert_1

    Kim et al. 2018 (arXiv:1802.04977), section 3, with p = 1; a factor is one vector per sample
    here. A factor that is 0 everywhere gets no gradient. Raises `ValueError` for shapes that do not
    fit and for another variant.

    student_BMHW, teacher_BMHW: the factors: a translator's and a paraphraser's output (`FT`). Of
        two maps of different size, the larger is averaged down.
    variant: "code", as in the authors' code, divides by the number of elements M H W; "paper" is
        the norm itself.

    >>> student, teacher = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    >>> factor_transfer(student, teacher)  # (|0.6 - 0| + |0.8 - 1|) / 2
    tensor(0.4000)
    """
    inputs.check_choice("variant", variant, VARIANTS)
    student, teacher = on_one_grid(*inputs.one_batch(student_BMHW, teacher_BMHW, 4))
    student, teacher = inputs.features_pair(student, teacher, 4)
    difference = (unit(student.flatten(1)) - unit(teacher.flatten(1))).abs()
    return inputs.reduce(difference.mean(1) if variant == "code" else difference.sum(1), reduction)


class Paraphraser(nn.Module):
    r"""Reconstruct the teacher's map [B, C, H, W] from a factor with fewer channels.

    .. math:: L = \frac{1}{C H W} \lVert x - D(E(x)) \rVert^2, \qquad F_T = E(x)

    Kim et al. 2018 (arXiv:1802.04977), section 3: E is three 3x3 convolutions, D three transposed
    ones, each with leaky ReLU (slope 0.1), as in the authors' code. It is trained before `FT` takes
    it, without labels and student, by a loop such as that of the example, over the training set: 5
    epochs with the L1 loss in the authors' code, 30 with the squared error in RepDistiller.

    No published weight: this loss is minimised alone. `FT` states that of the second stage.

    channels: C of the teacher's map. rate: the factor has round(rate C) channels.
    seed: of the first weights; torch's global generator stays as it was.

    Raises `ValueError` for a rate that leaves no channel.

    >>> from kdcourse import models, taps
    >>> tapped = taps(models.resnet(depth=8, width=4).eval(), ["layer3"])
    >>> paraphraser = Paraphraser(channels=16)
    >>> optimizer = torch.optim.SGD(paraphraser.parameters(), lr=0.1, momentum=0.9)
    >>> for x in torch.rand(3, 8, 1, 28, 28):  # batches of the training set
    ...     with torch.no_grad():
    ...         maps = tapped(x).taps["layer3"]
    ...     loss = (paraphraser(maps) - maps).square().mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    >>> FT("layer3", "layer3", paraphraser=paraphraser)
    FT('layer3', 'layer3', paraphraser=16 to 8 channels, variant='code')
    """

    def __init__(self, channels: int, rate: float = 0.5, seed: int = 0):
        super().__init__()
        inputs.check_count("channels", channels)
        self.channels, self.factors = channels, round(rate * channels)
        inputs.check(self.factors > 0, f"a rate that leaves one of {channels} channels", rate)
        with seeded(seed):
            self.encoder = _layers(nn.Conv2d, channels, channels, self.factors, self.factors)
            self.decoder = _layers(nn.ConvTranspose2d, self.factors, self.factors, channels,
                                   channels)

    def forward(self, x_BCHW):
        return self.decoder(self.encoder(x_BCHW))


class FT(FeatureLoss):
    """Match the factor of a trained paraphraser by a translator of the student's map:
    `factor_transfer`. Trains the translator: three 3x3 convolutions with leaky ReLU.

    paraphraser: a trained `Paraphraser` of the teacher's layer; a frozen copy is taken. Train it
        first: with random weights the factors say little of the teacher.
    variant: as for `factor_transfer`.

    Published weight: 500, with 1 for the labels, for variant "code" at the last map before the
    average pooling, for ResNet-56 to ResNet-20 on CIFAR-10 at batch 128 (Jangho-Kim/
    Factor-Transfer-pytorch, train_student.py). With "paper" divide by the factor's M H W. The row
    FT of RepDistiller (weight 200) is another loss: it compares attention maps of the factors, as
    `AT` does of features.
    """

    def __init__(self, student=None, teacher=None, *, paraphraser: Paraphraser | None = None,
                 variant: str = "code"):
        inputs.check_choice("variant", variant, VARIANTS)
        inputs.check(isinstance(paraphraser, Paraphraser), "a trained Paraphraser of the teacher's "
                     "layer", type(paraphraser).__name__, "Its example shows how to train one.")
        super().__init__(student, teacher, variant=variant)
        self.paraphraser = copy.deepcopy(paraphraser).requires_grad_(False)
        self.translator: nn.Module | None = None

    def build(self, student, teacher, seed):
        student, teacher = self._maps(*self.pick(student, teacher))
        self.paraphraser.to(teacher.device, teacher.dtype)
        if self.translator is None:
            channels, factors = student.shape[1], self.paraphraser.factors
            self.translator = self.seeded(seed, student, lambda: _layers(
                nn.Conv2d, channels, channels, factors, factors))

    def values(self, student, teacher=None, labels=None):
        student, teacher = self._maps(student, teacher)
        translated = projected(student, self.translator)
        factor = projected(teacher, self.paraphraser.encoder)
        return factor_transfer(translated, factor, self.variant, "none")

    def _maps(self, student, teacher):
        student, teacher = inputs.one_batch(student, teacher, 4)
        if teacher.shape[1] != self.paraphraser.channels:
            raise ValueError(f"Expected a map of the teacher with the {self.paraphraser.channels} "
                             f"channels of the paraphraser, got {list(teacher.shape)}.")
        return student, teacher

    def identity(self):
        return [*super().identity(), self.paraphraser]

    def extra_repr(self):
        sizes = f"{self.paraphraser.channels} to {self.paraphraser.factors} channels"
        return f"paraphraser={sizes}, {super().extra_repr()}"


def _layers(kind, *widths: int) -> nn.Sequential:
    """Make 3x3 convolutions of these widths, each with leaky ReLU."""
    return nn.Sequential(*(layer for inputs, outputs in itertools.pairwise(widths) for layer in
                           (kind(inputs, outputs, 3, padding=1), nn.LeakyReLU(0.1))))
