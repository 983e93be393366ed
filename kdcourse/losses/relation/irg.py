"""The instance relationship graph. B batch, D features."""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.numerics import scaled
from kdcourse.losses.relation.pairs import Relation, vectors_pair


def instance_graph(students, teachers, vertices: bool | None = None):
    r"""Compare graphs of the samples: their features (vertices), their distances (edges), and how
    both change between two layers.

    .. math:: L = \mathrm{MSE}(s, t) + \mathrm{MSE}(E^s, E^t) + \sum_{(l, m)} \Big[
            \big(\mathrm{MSE}(E^s_l, E^s_m) - \mathrm{MSE}(E^t_l, E^t_m)\big)^2
            + \big(\mathrm{MSE}(s_l, s_m) - \mathrm{MSE}(t_l, t_m)\big)^2 \Big]

    .. math:: E_{ij} = \frac{\lVert x_i - x_j \rVert^2}{\max_{kl} \lVert x_k - x_l \rVert^2}

    Liu et al. 2019 (IRG, CVPR), section 3, with the mean over all entries, as in the code of
    Chen et al. 2021, which cites the authors. Edges of samples that are all the same are 0 and get
    no gradient. Raises `ValueError` for fewer than 2 samples and for shapes that do not fit.

    students, teachers: features [B, D], [B, N, D] or [B, C, H, W], of any two widths; or a tuple:
        those features first, then pairs (l, m) of layers for the transformations.
    vertices: whether the first summand is there, which needs equal shapes. None: where they are
        equal. The last one is there for each pair whose two layers have one shape on both sides.

    >>> student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [0.0], [2.0]])
    >>> instance_graph(student, teacher)  # vertices 1/3; edges 1/4, 1, 1/4 against 0, 1, 1
    tensor(0.4722)
    """
    (student, teacher), *layers = _layers(students, teachers)
    student, teacher = vectors_pair(student, teacher)
    if vertices and student.shape != teacher.shape:
        raise inputs.shape_error("vertices of one shape", student, teacher,
                                 "With other widths compare edges only: vertices=False.")
    loss = (_edges(student) - _edges(teacher)).square().mean()
    if vertices or (vertices is None and student.shape == teacher.shape):
        loss = loss + (student - teacher).square().mean()
    for first, second in zip(layers[::2], layers[1::2]):
        (s1, t1), (s2, t2) = vectors_pair(*first), vectors_pair(*second)
        changes = [[_change(_edges(s1), _edges(s2)), _change(_edges(t1), _edges(t2))]]
        if first[0].shape == second[0].shape and first[1].shape == second[1].shape:
            changes.append([_change(s1, s2), _change(t1, t2)])
        for ours, theirs in changes:
            loss = loss + (ours - theirs).square()
    return loss


@inputs.full_precision
def _edges(x_BD) -> torch.Tensor:
    """Compute the squared distances of all pairs, divided by the largest."""
    x_BD = scaled(x_BD, (0, 1))
    x_BD = x_BD - x_BD.mean(0)  # distances stay, and products have fewer digits to lose
    square = x_BD.square().sum(1)
    distance = (square[:, None] + square - 2 * x_BD @ x_BD.T).clamp(min=0)
    distance = distance.masked_fill(torch.eye(len(x_BD), dtype=torch.bool, device=x_BD.device), 0)
    largest = distance.amax()
    return distance / torch.where(largest > 1e-12, largest, torch.inf)


def _change(first, second) -> torch.Tensor:
    return (first - second).square().mean()


def _layers(students, teachers) -> list[tuple[torch.Tensor, torch.Tensor]]:
    sides = [[x] if isinstance(x, torch.Tensor) else x for x in (students, teachers)]
    for layers, who in zip(sides, ("student", "teacher")):
        inputs.check(isinstance(layers, tuple | list) and len(layers) % 2 == 1,
                     f"{who} features, alone or with pairs of layers behind them",
                     f"{len(layers)} layers" if isinstance(layers, tuple | list) else
                     inputs.described(layers))
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"Expected as many layers of student and teacher, got {len(sides[0])} and "
                         f"{len(sides[1])}.")
    return list(zip(*sides))


class IRG(Relation, function=instance_graph):
    """Match graphs of the samples: `instance_graph`. Trains nothing.

    student, teacher: paths of the features before the last layer, such as "fc:input"; or these and
        pairs of layers, as in `IRG(["fc:input", "layer1", "layer2"], [...])`.
    vertices: as for `instance_graph`.

    Published weight: 0.005, with 1 for the labels and 1 for `KD(T=4)`, without pairs of layers, for
    ResNet-32x4 to ResNet-8x4 on CIFAR-100 at batch 64 (DefangChen/SemCKD,
    scripts/run_cifar_distill.sh). The authors' own 0.005 (yufanLIU/IRG, IRG.prototxt) belongs to
    Caffe's Euclidean loss of the edges, which is B/2 times as large as their mean.
    """

    omitted = ("vertices",)

    def __init__(self, student=None, teacher=None, *, vertices: bool | None = None):
        inputs.check(vertices in (True, False, None), "vertices True, False or None",
                     repr(vertices))
        super().__init__(student, teacher, vertices=vertices)
        for who, paths in (("student", self.student_paths), ("teacher", self.teacher_paths)):
            inputs.check(not paths or len(paths) % 2 == 1,
                         f"one path of the {who}, or that and pairs of layers", list(paths))
