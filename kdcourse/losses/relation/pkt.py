"""Probabilistic knowledge transfer: neighbours as distributions. B batch, D features."""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.numerics import unit
from kdcourse.losses.relation.pairs import VARIANTS, Relation, vectors_pair

SMALL = 1e-7  # the smallest kernel value (or what is added to a probability): the log stays finite


@inputs.full_precision
def pkt(student, teacher, variant: str = "code"):
    r"""Compute the divergence between the distributions over each sample's neighbours.

    .. math:: L = \sum_i \sum_{j \neq i} p_{j|i} \log \frac{p_{j|i}}{q_{j|i}}, \qquad
        p_{j|i} = \frac{k(t_i, t_j)}{\sum_{l \neq i} k(t_i, t_l)}, \quad
        k(x, y) = \frac12 \left(\frac{x^\top y}{\lVert x \rVert \lVert y \rVert} + 1\right)

    and q alike, from the student's features. Passalis & Tefas 2018 (arXiv:1803.10837), section 3,
    with the cosine kernel. In nats. A sample that is 0 gets no gradient. Raises `ValueError` for
    fewer than 2 samples, two batch sizes and another variant.

    student, teacher: features [B, D], [B, N, D] or [B, C, H, W], of any two widths.
    variant: "code", as in the authors' code (passalis/probabilistic_kt) and RepDistiller: each
        sample is a neighbour of itself, and the mean over all B² entries is taken, with 1e-7 added
        to both probabilities inside the logarithm. It falls as 1/B. Published weights belong to it:
        `PKT`. "paper" is the sum above, with kernel values of 1e-7 at least: it grows with B, and
        is always 0 in a batch of 2.

    >>> student = torch.eye(3)  # all at a right angle: every neighbour has 1/2
    >>> teacher = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])  # the first two have 2/3, 1/3
    >>> pkt(student, teacher, "paper")  # 2 (2/3 log(4/3) + 1/3 log(2/3)) + 0
    tensor(0.1133)
    """
    inputs.check_choice("variant", variant, VARIANTS)
    student, teacher = vectors_pair(student, teacher)
    q, p = _neighbours(student, variant), _neighbours(teacher, variant)
    if variant == "code":
        return (p * ((p + SMALL).log() - (q + SMALL).log())).mean()
    diagonal = torch.eye(len(q), dtype=q.dtype, device=q.device)  # there 0 log(1 / 1)
    return (p * ((p + diagonal).log() - (q + diagonal).log())).sum()


class PKT(Relation, function=pkt):
    """Match every sample's neighbours: `pkt`. Trains nothing. The authors' code takes the features
    before the last layer: "fc:input" in `kdcourse`'s resnet.

    Published weight: 30000, with 1 for the labels, for all pairs on CIFAR-100 at batch 64
    (RepDistiller, scripts/run_cifar_distill.sh; mdistiller, mdistiller/engine/cfg.py). With
    variant "paper" divide by B², about: 7.3 in place of 30000 at batch 64 (without the pairs of a
    sample with itself it is not a multiple of "code").
    """

    edition = 2

    def __init__(self, student=None, teacher=None, *, variant: str = "code"):
        inputs.check_choice("variant", variant, VARIANTS)
        super().__init__(student, teacher, variant=variant)


def _neighbours(x_BD, variant) -> torch.Tensor:
    """Compute the probability of each neighbour, [B, B]; rows sum to 1."""
    x_BD = unit(x_BD)
    kernel = (x_BD @ x_BD.T + 1) / 2
    if variant == "code":
        kernel = kernel.clamp(min=0)  # below 0 by rounding
    else:
        diagonal = torch.eye(len(x_BD), dtype=torch.bool, device=x_BD.device)
        kernel = kernel.clamp(min=SMALL).masked_fill(diagonal, 0)
    return kernel / kernel.sum(1, keepdim=True)
