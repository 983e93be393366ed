"""Similarity-preserving distillation. B batch, D features."""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.numerics import scaled, unit
from kdcourse.losses.relation.pairs import Relation, vectors_pair


@inputs.full_precision
def similarity_preserving(student, teacher):
    r"""Compare each sample's similarities to the batch, as a row of length 1.

    .. math:: L = \frac{1}{B^2} \lVert G_T - G_S \rVert_F^2, \qquad
        G_{[i,:]} = \frac{\tilde G_{[i,:]}}{\lVert \tilde G_{[i,:]} \rVert_2}, \quad
        \tilde G = A A^\top

    Tung & Mori 2019 (arXiv:1907.09682), equations 1 to 4: A has one flattened sample in each row.
    Between 0 and 4/B. A sample that is 0 gets no gradient. Raises `ValueError` for fewer than 2
    samples and for two batch sizes.

    student, teacher: features [B, D], [B, N, D] or [B, C, H, W], of any two widths.

    >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # nothing in common: rows (1, 0), (0, 1)
    >>> teacher = torch.tensor([[1.0], [1.0]])  # the same twice: rows (√½, √½)
    >>> similarity_preserving(student, teacher)  # 2 ((1 - √½)² + ½) / 2² = 1 - √½
    tensor(0.2929)
    """
    student, teacher = vectors_pair(student, teacher)
    return (_similarity_rows(teacher) - _similarity_rows(student)).square().mean()


def _similarity_rows(x_BD) -> torch.Tensor:
    x_BD = scaled(x_BD, (0, 1))
    return unit(x_BD @ x_BD.T)


class SP(Relation, function=similarity_preserving):
    """Match the similarities between samples: `similarity_preserving`. Trains nothing. The paper
    takes the last convolutional layers, such as "layer3" in `kdcourse`'s resnet.

    Published weight: 3000, with 1 for the labels, for all pairs on CIFAR-100 at batch 64
    (RepDistiller, scripts/run_cifar_distill.sh; mdistiller, mdistiller/engine/cfg.py). The loss
    falls as 1/B: at another batch size B, 3000 B / 64 weighs as much.
    """
