"""Semantic calibration: which layer learns from which. B batch, C channels, H W places.

S and T count the layers of student and teacher.
"""

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.hint import hint
from kdcourse.losses.feature.projections import on_one_grid, projected
from kdcourse.losses.numerics import unit


class SemCKD(FeatureLoss):
    r"""Match every layer of the student with every layer of the teacher, weighted by attention:
    mean squared errors, `hint` with variant "mean".

    .. math:: L = \frac{1}{S} \sum_{i=1}^S \sum_{j=1}^T \alpha_{ij} \,
            \mathrm{MSE}\big( P_{ij}(F^S_i), F^T_j \big), \qquad
        \alpha_{i \cdot} = \mathrm{softmax}_j \big( Q_i(g^S_i)^\top K_j(g^T_j) \big)

    Chen et al. 2021 (AAAI, arXiv:2012.03236), section 3: g is a sample's row of the batch's
    similarities :math:`F F^\top`, Q and K are two linear layers with ReLU between, of which the
    results have length 1. Trains Q, K and a projector P of three convolutions (1x1, 3x3, 1x1, with
    batch normalisation and ReLU between) for each pair of layers.

    Q and K have an input for each place in the batch: so the attention depends on the order of a
    batch, and the batch size is part of the networks. A smaller batch is filled up with
    similarities of 0 (the authors leave it out); a larger one is refused.

    Published weight: 400, with 1 for the labels and 1 for `KD(T=4)`, for all three stages of
    ResNet-32x4 to ResNet-8x4 on CIFAR-100 at batch 64 (DefangChen/SemCKD,
    scripts/run_cifar_distill.sh).

    student, teacher: any numbers of paths, as in `SemCKD(["layer1", "layer2"], ["layer1", "layer2",
        "layer3"], batch=64)`, of maps or tokens. Of two sizes, the larger is averaged down.
    batch: the batch size in training (of each process, and of each part of an accumulated
        gradient), at least 8.

    >>> term = SemCKD(["a", "b"], ["a", "b", "c"], batch=8)
    >>> student, teacher = (torch.rand(4, 3, 7, 7),) * 2, (torch.rand(4, 5, 7, 7),) * 3
    >>> term.build(student, teacher, seed=0)
    >>> term.attention(student, teacher).sum(2)
    tensor([[1., 1.],
            [1., 1.],
            [1., 1.],
            [1., 1.]], grad_fn=<SumBackward1>)
    """

    def __init__(self, student=None, teacher=None, *, batch: int | None = None):
        inputs.check(isinstance(batch, int) and batch >= 8, "the batch size, at least 8", batch,
                     'Write SemCKD(["layer1", "layer2"], ["layer1", "layer2"], batch=64).')
        super().__init__(student, teacher, batch=batch)
        self.queries: nn.ModuleList | None = None
        self.keys: nn.ModuleList | None = None
        self.projectors: nn.ModuleList | None = None

    def build(self, student, teacher, seed):
        students, teachers = self._maps(*self.pick(student, teacher))
        if self.projectors is not None:
            return
        make = lambda: nn.ModuleList([  # noqa: E731
            nn.ModuleList(_embedding(self.batch) for _ in students),
            nn.ModuleList(_embedding(self.batch) for _ in teachers),
            nn.ModuleList(_projector(s.shape[1], t.shape[1]) for s in students for t in teachers)])
        self.queries, self.keys, self.projectors = self.seeded(seed, students[0], make)

    def values(self, student, teacher=None, labels=None):
        students, teachers = self._maps(student, teacher)
        pairs = [(s, t) for s in students for t in teachers]
        errors = []
        for (s, t), projector in zip(pairs, self.projectors or [None] * len(pairs)):
            s, t = on_one_grid(s, t)
            errors.append(hint(projected(s, projector), t, "mean", "none"))
        weights_BST = self._attention(students, teachers)
        return (weights_BST.flatten(1) * torch.stack(errors, 1)).sum(1) / len(students)

    def attention(self, student, teacher) -> torch.Tensor:
        r"""Compute :math:`\alpha` of each sample, [B, S, T]. Takes tuples of tensors."""
        return self._attention(*self._maps(student, teacher))

    def _attention(self, students, teachers):
        queries, keys = (torch.stack([
            unit(projected(_similarity(x, self.batch), layer))
            for x, layer in zip(side, layers or [None] * len(side))], 1)
            for side, layers in ((students, self.queries), (teachers, self.keys)))
        return (queries[:, :, None] * keys[:, None]).sum(3).softmax(2)

    def _maps(self, students, teachers) -> list[list[torch.Tensor]]:
        sides = []
        for layers, who in ((students, "student"), (teachers, "teacher")):
            layers = [layers] if isinstance(layers, torch.Tensor) else layers
            inputs.check(isinstance(layers, tuple | list) and len(layers) > 0,
                         f"{who} features of one layer or more", inputs.described(layers))
            sides.append([inputs.as_map(x, who) for x in layers])
        for layer in (x for side in sides for x in side):
            if len(layer) != len(sides[0][0]):
                raise inputs.shape_error("features of one batch", sides[0][0], layer)
        if len(sides[0][0]) > self.batch:
            raise ValueError(f"Expected a batch of at most {self.batch} samples, got "
                             f"{len(sides[0][0])}. Make the term with SemCKD(..., batch="
                             f"{len(sides[0][0])}).")
        return [sides[0], [x.detach() for x in sides[1]]]


@inputs.full_precision
def _similarity(x_BCHW, batch: int) -> torch.Tensor:
    """Compute the similarities of all pairs of samples, [B, batch], filled up with 0."""
    x_BD = x_BCHW.flatten(1)
    return F.pad(x_BD @ x_BD.T, (0, batch - len(x_BD)))


def _embedding(batch: int) -> nn.Module:
    """Make two linear layers, to a quarter of the batch size."""
    return nn.Sequential(nn.Linear(batch, batch // 4 * 2), nn.ReLU(),
                         nn.Linear(batch // 4 * 2, batch // 4))


def _projector(channels: int, outputs: int) -> nn.Module:
    """Make three convolutions, with twice as many channels inside as outputs."""
    inner = 2 * outputs
    return nn.Sequential(
        nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
        nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
        nn.Conv2d(inner, outputs, 1, bias=False))
