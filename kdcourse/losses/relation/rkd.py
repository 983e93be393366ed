"""Relational distillation: distances and angles between samples. B batch, D features."""

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.numerics import unit
from kdcourse.losses.relation.pairs import VARIANTS, Relation, vectors_pair


@inputs.full_precision
def rkd_distance(student, teacher, variant: str = "code"):
    r"""Compare the distances between samples, each divided by the mean distance.

    .. math:: L = \sum_{i \neq j} \ell\left(\frac{\lVert s_i - s_j \rVert}{\mu_s},
            \frac{\lVert t_i - t_j \rVert}{\mu_t}\right), \qquad
        \ell(a, b) = \begin{cases} \tfrac12 (a - b)^2 & |a - b| \le 1 \\
            |a - b| - \tfrac12 & \text{else} \end{cases}

    with each side's mean distance :math:`\mu` in the batch, through which the gradient goes too.
    Park et al. 2019 (arXiv:1904.05068), section 3.2. It is 0 in a batch of 2. Identical samples get
    no gradient from each other. Raises `ValueError` for fewer than 2 samples, two batch sizes and
    another variant.

    student, teacher: features [B, D], [B, N, D] or [B, C, H, W], of any two widths.
    variant: "code", as in the authors' code (lenscloth/RKD, metric/loss.py): L / B², the mean over
        all entries, with the zeros of the diagonal. Published weights belong to it: `RKDDistance`.
        "paper" is the sum above, which grows with B².

    >>> student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    >>> rkd_distance(student, teacher, "paper")  # 3/4, 3/4, 3/2 and 1/2, 1, 3/2: 4 times (1/4)²/2
    tensor(0.1250)
    """
    inputs.check_choice("variant", variant, VARIANTS)
    student, teacher = vectors_pair(student, teacher)
    ours, theirs = _relative_distances(student), _relative_distances(teacher)
    return F.smooth_l1_loss(ours, theirs, reduction="sum" if variant == "paper" else "mean")


class RKDDistance(Relation, function=rkd_distance):
    """Match the distances between samples: `rkd_distance`. Trains nothing. The paper takes the last
    pooling layer: "fc:input" in `kdcourse`'s resnet.

    Published weight: 25, with 50 for `RKDAngle` and 1 for the labels, for all pairs on CIFAR-100 at
    batch 64 (RepDistiller, distiller_zoo/RKD.py; mdistiller, mdistiller/engine/cfg.py). In metric
    learning the authors take 1 and 2 without labels, at batch 128 (lenscloth/RKD, examples/). With
    variant "paper" divide by B²: 0.0061 in place of 25 at batch 64.
    """

    edition = 2

    def __init__(self, student=None, teacher=None, *, variant: str = "code"):
        inputs.check_choice("variant", variant, VARIANTS)
        super().__init__(student, teacher, variant=variant)


def _relative_distances(x_BD) -> torch.Tensor:
    """Divide every distance by the mean distance, [B, B]."""
    largest = x_BD.detach().abs().amax()
    # Division by a power of 2 changes no digit, and keeps the squares in range.
    x_BD = x_BD / torch.where(largest > 1e-30, largest.log2().floor().exp2(), 1)
    distances = torch.cdist(x_BD, x_BD, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (len(x_BD) * (len(x_BD) - 1))
    return distances / torch.where(mean > 0, mean, 1)


@inputs.full_precision
def rkd_angle(student, teacher, variant: str = "code"):
    r"""Compare the angles in the triangles of three samples.

    .. math:: L = \sum_{i \neq j \neq k \neq i} \ell\big(\cos \angle s_i s_j s_k,
            \cos \angle t_i t_j t_k\big), \qquad
        \cos \angle x_i x_j x_k = \left\langle \frac{x_i - x_j}{\lVert x_i - x_j \rVert},
            \frac{x_k - x_j}{\lVert x_k - x_j \rVert} \right\rangle

    with the :math:`\ell` of `rkd_distance`. Park et al. 2019 (arXiv:1904.05068), section 3.2. It
    takes memory for B² D and B³ numbers: average maps over their places first, or tap vectors.
    Between identical samples the cosine is 0. Raises `ValueError` for fewer than 3 samples, two
    batch sizes and another variant.

    student, teacher: features [B, D], [B, N, D] or [B, C, H, W], of any two widths.
    variant: "code", as in the authors' code (lenscloth/RKD, metric/loss.py): the mean over all B³
        entries, those with equal samples among them. Published weights belong to it: `RKDAngle`.
        "paper" is the sum above, which grows with B³.

    >>> student = torch.tensor([[0.0], [1.0], [2.0]])  # on a line: cosines 1, -1, 1
    >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])  # a right angle: √½, 0, √½
    >>> rkd_angle(student, teacher, "paper")  # 2 (1/2 * 1² + 2 * 1/2 * (1 - √½)²)
    tensor(1.1716)
    """
    inputs.check_choice("variant", variant, VARIANTS)
    student, teacher = vectors_pair(student, teacher, least=3)
    loss_BBB = F.smooth_l1_loss(_cosines(student), _cosines(teacher), reduction="none")
    if variant == "code":
        return loss_BBB.mean()
    # Where i or k is j, both cosines are 0 already. Here i is k:
    equal_BB = torch.eye(len(student), dtype=torch.bool, device=student.device)
    return loss_BBB.masked_fill(equal_BB, 0).sum()


class RKDAngle(Relation, function=rkd_angle):
    """Match the angles between three samples: `rkd_angle`. Layers as for `RKDDistance`.

    Published weight: 50, with 25 for `RKDDistance`, which says where. With variant "paper" divide
    by B³: 0.00019 in place of 50 at batch 64.
    """

    edition = 2

    def __init__(self, student=None, teacher=None, *, variant: str = "code"):
        inputs.check_choice("variant", variant, VARIANTS)
        super().__init__(student, teacher, variant=variant)


def _cosines(x_BD) -> torch.Tensor:
    """Compute all cosines [B, B, B]: entry [j, i, k] of the angle at sample j between i and k."""
    directions = unit(x_BD[None] - x_BD[:, None])
    return directions @ directions.transpose(1, 2)
