"""Losses that compare the logits themselves, or what is left of them without shift and scale.

Shapes: B batch, K classes. v are the teacher's logits, z the student's, p and q their softmax at
temperature T. All of it is computed in float32 at least, also under autocast.
"""

import math

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import Loss
from kdcourse.losses.response.divergences import kd


def logit_mse(student_BK, teacher_BK, variant: str = "half", reduction: str = "mean"):
    r"""Squared distance of the logits: regression on what the teacher says before the softmax.

    .. math:: L = \frac{1}{2} \sum_k (z_k - v_k)^2

    Ba & Caruana 2014, "Do Deep Nets Really Need to be Deep?", equation 1 (arXiv:1312.6184). Unlike
    `kd` it minds a constant added to all logits. Apart from that it is where `kd` goes when T
    grows: T² KL tends to this loss of the *centred* logits, divided by K.

    student_BK, teacher_BK: finite logits [B, K], in whatever unit they are. No gradient reaches the
        teacher.
    variant: "half" as above; "sum" without the 1/2, as in Kim et al. 2021, "Comparing
        Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge Distillation"
        (arXiv:2105.08919); "mean" also divided by K, as in the code of Kim et al.
    reduction: "mean", or "none" for one value per sample, [B].

    Classes that are ruled out (-inf) have no distance: leave them out on both sides first.

    Raises `ValueError` for another variant, for logits that are not [B, K] and for two different
    shapes.

    >>> s, t = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]])
    >>> logit_mse(s, t), logit_mse(s, t, "sum"), logit_mse(s, t, "mean")  # of 3² = 9
    (tensor(4.5000), tensor(9.), tensor(4.5000))
    """
    inputs.check_choice("variant", variant, _MSE)
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    squares_BK = (student_BK - teacher_BK).square()
    values_B = squares_BK.mean(1) if variant == "mean" else squares_BK.sum(1)
    return inputs.reduce(values_B / 2 if variant == "half" else values_B, reduction)


def logit_standardization(student_BK, teacher_BK, T: float = 2.0, variant: str = "paper",
                          reduction: str = "mean"):
    r"""`kd` after each sample's logits were given mean 0 and standard deviation 1.

    .. math::

        L = T^2\,\mathrm{KL}\!\left( \mathrm{softmax}(\tilde v / T) \,\|\,
        \mathrm{softmax}(\tilde z / T) \right), \qquad
        \tilde z = \frac{z - \bar z}{\sigma(z)}

    Sun et al. 2024, "Logit Standardization in Knowledge Distillation", algorithms 1 and 2
    (arXiv:2403.01427). The student has to rank and space the classes as the teacher does, at
    whatever scale suits it: z and c z + d, c > 0, are the same. Give it a larger weight than `kd`,
    because the gradient is divided by the spread σ of the student's logits; the paper's ablation is
    best at 9, next to 0.1 for the labels.

    student_BK, teacher_BK: finite logits [B, K]. No gradient reaches the teacher.
    T: the base temperature, above 0. T² is included, as in the paper; at large T the gradient tends
        to a constant as it does for `kd`.
    variant: "paper" divides the variance by K, "code" (the authors') by K - 1. The second is the
        first with T sqrt(K / (K - 1)) for T inside the softmax. The 1e-7 that the code adds to σ is
        not needed here.
    reduction: "mean", or "none" for one value per sample, [B].

    Logits that are all the same, up to rounding, have no spread: they stand for the uniform
    distribution and get no gradient. Two classes are always at +1 and -1, so nothing is learned
    but which is larger, and that without a gradient. With classes that are ruled out (-inf) there
    is no mean and no spread: leave them out on both sides first.

    Raises `ValueError` for T <= 0, another variant, logits that are not [B, K] and two different
    shapes.

    >>> s, t = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[10.0, 30.0, 50.0]])
    >>> logit_standardization(s, t)  # evenly spaced, both
    tensor(0.)
    """
    inputs.check_temperature(T)
    inputs.check_choice("variant", variant, ("paper", "code"))
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    K = student_BK.shape[1]
    norm = math.sqrt(K if variant == "paper" else K - 1)
    student_BK, teacher_BK = (norm * _direction(x, 1)[0] for x in (student_BK, teacher_BK))
    return kd(student_BK, teacher_BK, T, reduction)


def dist(student_BK, teacher_BK, beta: float = 1.0, gamma: float = 1.0, T: float = 1.0,
         variant: str = "paper"):
    r"""Correlation instead of agreement: within each sample's answer, and within each class.

    .. math::

        L = \frac{\beta}{B} \sum_i d(q_{i:}, p_{i:}) + \frac{\gamma}{K} \sum_k d(q_{:k}, p_{:k}),
        \qquad d = 1 - \text{Pearson's correlation}

    Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher" (arXiv:2205.10536). The
    first sum is the paper's inter-class relation: one sample's probabilities over the classes. The
    second is the intra-class relation: one class's probabilities over the samples of the batch. A
    teacher much surer than the student can be followed, because shift and scale do not count.

    student_BK, teacher_BK: logits [B, K]. No gradient reaches the teacher.
    beta, gamma: weights of the two sums, 0 or more, not both 0.
    T: temperature of the softmaxes (the paper's τ), above 0.
    variant: "paper" as above, also the code printed in its appendix; "code" times T², as in the
        authors' repository. A correlation does not shrink as probabilities become even, so as T
        grows the gradient of "paper" tends to a constant, and that of "code" grows as T².

    Mean over rows and columns; d lies in [0, 2]. It relates samples, so each process of several
    sees its own part of the batch, and the batch size matters: with 2 samples every intra-class
    correlation is +1 or -1, without a gradient, and with 2 classes so is every inter-class one.
    A row or column without any spread, up to rounding, has no correlation: d is 1 without a
    gradient, and 0 if both sides are flat. The authors' code adds 1e-8 to the product of the norms
    instead, which fades out classes that are improbable in the whole batch. A class that is ruled
    out (-inf) has the probability 0 and still counts as one of the K: finite, but another value
    than without it.

    Raises `ValueError` for weights below 0, T <= 0, another variant, logits that are not [B, K],
    two different shapes, and a single sample (unless gamma is 0).

    >>> s, t = torch.tensor([[0.0, 1.0], [0.0, 0.5]]), torch.tensor([[0.0, 9.0], [0.0, 8.0]])
    >>> dist(s, t)  # both sides: class 1 before class 0, and sample 0 surer than sample 1
    tensor(0.)
    """
    inputs.check_weights(beta=beta, gamma=gamma)
    inputs.check_temperature(T)
    inputs.check_choice("variant", variant, ("paper", "code"))
    student_BK, teacher_BK = inputs.logits_pair(student_BK, teacher_BK)
    if gamma and len(student_BK) < 2:
        raise ValueError(f"Expected at least 2 samples to compare within a class, got "
                         f"{len(student_BK)}. Use a larger batch, or gamma=0.")
    log_q, log_p = F.log_softmax(student_BK / T, dim=1), F.log_softmax(teacher_BK / T, dim=1)
    inter, intra = (_correlation_distance(log_q, log_p, dim).mean() for dim in (1, 0))
    return (T**2 if variant == "code" else 1) * (beta * inter + gamma * intra)


_MSE = ("half", "sum", "mean")


def _correlation_distance(log_a, log_b, dim):
    """1 - Pearson's correlation of a and b along a dimension; 0 if both are flat, 1 if one is."""
    # A column of probabilities may be as small as 1e-40. Its scale does not count: take it out
    # while it is still a logarithm.
    tops = (x.amax(dim, keepdim=True).detach().clamp(min=torch.finfo(x.dtype).min)
            for x in (log_a, log_b))
    (a, a_flat), (b, b_flat) = (_direction((x - top).exp(), dim)
                                for x, top in zip((log_a, log_b), tops, strict=True))
    # 1 - a·b of unit vectors, written so that it is exactly 0 where they agree
    return (a - b).square().sum(dim) / 2 + (a_flat ^ b_flat).squeeze(dim) / 2


def _direction(x, dim):
    """Centred and scaled to length 1 along a dimension; 0 where flat. And where that is.

    Flat is what differs from its mean by rounding only: its direction would be noise, and the
    gradient of it huge.
    """
    size = x.square().sum(dim, keepdim=True)
    x = x - x.mean(dim, keepdim=True)
    spread = x.square().sum(dim, keepdim=True)
    flat = spread <= (64 * torch.finfo(x.dtype).eps) ** 2 * size
    return (x / spread.masked_fill(flat, 1).sqrt()).masked_fill(flat, 0), flat


class LogitMSE(Loss):
    """`logit_mse`: regression on the teacher's logits."""

    def __init__(self, variant: str = "half", student=None, teacher=None):
        super().__init__(student, teacher)
        inputs.check_choice("variant", variant, _MSE)
        self.variant = variant

    def values(self, student, teacher=None, labels=None):
        return logit_mse(student, teacher, self.variant, "none")

    def extra_repr(self):
        return f"variant={self.variant!r}"


class LogitStd(Loss):
    """`logit_standardization`: `KD` of logits without shift and scale. T² is included."""

    def __init__(self, T: float = 2.0, variant: str = "paper", student=None, teacher=None):
        super().__init__(student, teacher)
        inputs.check_temperature(T)
        inputs.check_choice("variant", variant, ("paper", "code"))
        self.T, self.variant = T, variant

    def values(self, student, teacher=None, labels=None):
        return logit_standardization(student, teacher, self.T, self.variant, "none")

    def extra_repr(self):
        return f"T={self.T:.10g}, variant={self.variant!r}"


class DIST(Loss):
    """`dist`: correlate with the teacher, within samples and within classes."""

    per_sample = False

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, T: float = 1.0,
                 variant: str = "paper", student=None, teacher=None):
        super().__init__(student, teacher)
        inputs.check_weights(beta=beta, gamma=gamma)
        inputs.check_temperature(T)
        inputs.check_choice("variant", variant, ("paper", "code"))
        self.beta, self.gamma, self.T, self.variant = beta, gamma, T, variant

    def values(self, student, teacher=None, labels=None):
        return dist(student, teacher, self.beta, self.gamma, self.T, self.variant)

    def extra_repr(self):
        return (f"beta={self.beta:.10g}, gamma={self.gamma:.10g}, T={self.T:.10g}, "
                f"variant={self.variant!r}")
