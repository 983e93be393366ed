"""DIST: correlation. B batch, K classes; q, p: the softmax of student and teacher at T."""

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss
from kdcourse.losses.numerics import centred_unit, root


def dist(student_BK, teacher_BK, beta: float = 1.0, gamma: float = 1.0, T: float = 1.0,
         variant: str = "paper"):
    r"""Compute 1 - correlation of the probabilities, within each sample and within each class.

    .. math:: L = \frac{\beta}{B} \sum_i d(q_{i:}, p_{i:})
        + \frac{\gamma}{K} \sum_k d(q_{:k}, p_{:k}), \qquad d = 1 - \text{Pearson's correlation}

    Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher" (arXiv:2205.10536). The
    first sum is the paper's inter-class relation, the second the intra-class relation. A row or
    column that is constant up to rounding has d = 1 without a gradient; in "paper" 0 if both sides
    are. Raises `ValueError` for settings out of range, logits that are not [B, K], of one shape,
    and a single sample (unless gamma is 0).

    student_BK, teacher_BK: logits [B, K].
    beta, gamma: weights of the two sums, 0 or more, not both 0.
    T: temperature of the softmaxes (the paper's τ), above 0.
    variant: "paper", also the code printed in its appendix. "code", as in the authors' repository
        (hunto, image_classification_sota, dist_kd.py), is T² times that, and adds
        1e-8 to the product of the two lengths that the correlation divides by. The term counts
        where a class has almost no probability on either side: at T = 1 and with confident networks
        most columns are such, and have d near 1 and hardly any gradient. As T grows, the gradient
        of "paper" tends to a constant. Published weights: `DIST`.

    >>> s, t = torch.tensor([[0.0, 1.0], [0.0, 0.5]]), torch.tensor([[0.0, 9.0], [0.0, 8.0]])
    >>> dist(s, t)  # both sides: class 1 before class 0, and sample 0 surer than sample 1
    tensor(0.)
    """
    _check_settings(beta, gamma, T, variant)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    inputs.check(not gamma or len(student_BK) > 1, "at least 2 samples to compare within a class",
                 len(student_BK), "Use a larger batch, or gamma=0.")
    log_q, log_p = F.log_softmax(student_BK / T, dim=1), F.log_softmax(teacher_BK / T, dim=1)
    distance, scale = (_damped_distance, T**2) if variant == "code" else (_correlation_distance, 1)
    inter, intra = (distance(log_q, log_p, dim).mean() for dim in (1, 0))
    return scale * (beta * inter + gamma * intra)


class DIST(Loss, function=dist):
    """Correlate with the teacher, within samples and within classes: `dist`.

    Published weight: 2 for T = 4 and variant "code", with 1 for the labels, for a WRN-40-2 as
    teacher on CIFAR-100 at batch 64 (hunto/image_classification_sota,
    configs/strategies/distill/dist_cifar.yaml). With "paper" that is 2 T² = 32. On ImageNet 2 for
    T = 1 (resnet_dist.yaml, batch 32 on each GPU; dist_b2.yaml, 96 on each).
    """
    per_sample = False

    edition = 2

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, T: float = 1.0,
                 variant: str = "paper", student=None, teacher=None):
        _check_settings(beta, gamma, T, variant)
        super().__init__(student, teacher, beta=beta, gamma=gamma, T=T, variant=variant)


def _check_settings(beta, gamma, T, variant) -> None:
    inputs.check_weights(beta=beta, gamma=gamma)
    inputs.check_temperature(T)
    inputs.check_choice("variant", variant, ("paper", "code"))


def _correlation_distance(log_a, log_b, dim):
    """Compute 1 - Pearson's correlation along a dimension; 0 if both are constant, 1 if one is."""

    def standardized(log_p):  # divided by the largest as a logarithm: p may be as small as 1e-40
        largest = log_p.amax(dim, keepdim=True).detach().clamp(min=torch.finfo(log_p.dtype).min)
        return centred_unit((log_p - largest).exp(), dim)

    (a, a_constant), (b, b_constant) = standardized(log_a), standardized(log_b)
    # 1 - a·b of unit vectors, written so that it is exactly 0 where they agree
    return (a - b).square().sum(dim) / 2 + (a_constant ^ b_constant).squeeze(dim) / 2


def _damped_distance(log_a, log_b, dim):
    """Compute 1 - Pearson's correlation along a dimension, with 1e-8 added to its denominator."""
    flat_a, flat_b = (centred_unit(log_p.exp(), dim)[1] for log_p in (log_a, log_b))
    a, b = (log_p.exp() - log_p.exp().mean(dim, keepdim=True) for log_p in (log_a, log_b))
    a, b = a.masked_fill(flat_a, 0), b.masked_fill(flat_b, 0)  # rounding, which 1e-8 would enlarge
    lengths = root(a.square().sum(dim)) * root(b.square().sum(dim))
    return 1 - (a * b).sum(dim) / (lengths + 1e-8)
