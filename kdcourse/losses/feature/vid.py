"""Variational information distillation. B batch, C channels, H W height and width, N tokens."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature import projections

VARIANTS = ("paper", "mean")
LEAST_VARIANCE = 1e-5  # always added: logarithm and division stay finite


def vid(student, teacher, variance_C, variant: str = "mean", reduction: str = "mean"):
    r"""Compute the negative log-likelihood of the teacher's features under a predicted Gaussian.

    .. math:: L = -\log q(t \mid s) = \sum_{c,h,w} \left[ \log \sigma_c
            + \frac{(t_{chw} - \mu_{chw}(s))^2}{2 \sigma_c^2} \right] + \text{const}

    Ahn et al. 2019 (arXiv:1904.05835), equation 6: -L, on average, is a lower bound of the mutual
    information between the layers, up to the teacher's entropy. In nats, without the constant: not
    0 where both agree, and not bounded below. Raises `ValueError` for shapes that do not fit and
    for another variant.

    student: the prediction :math:`\mu(s)`, with the teacher's shape (`VID` makes it).
    teacher: features [B, D], [B, N, D] or [B, C, H, W].
    variance_C: :math:`\sigma_c^2`, one number above 0 for each channel (or feature).
    variant: "mean" averages over the elements of a sample, as RepDistiller (from the authors' code)
        does. Published weights belong to it: `VID`. "paper" is the sum above.

    >>> student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])
    >>> vid(student, teacher, torch.tensor([1.0, 4.0]), "paper")  # (0 + 0) + (log 2 + 2²/(2 * 4))
    tensor(1.1931)
    """
    inputs.check_choice("variant", variant, VARIANTS)
    student, teacher = inputs.features_pair(student, teacher, 2, 3, 4)
    C = projections.width(student)
    if not isinstance(variance_C, torch.Tensor) or variance_C.shape != (C,):
        raise ValueError(f"Expected one variance for each of the {C} channels, [{C}], got "
                         f"{inputs.described(variance_C)}.")
    variance = variance_C.to(student)
    variance = variance[:, None, None] if student.ndim == 4 else variance
    terms = (variance.log() + (teacher - student).square() / variance).flatten(1) / 2
    return inputs.reduce(terms.sum(1) if variant == "paper" else terms.mean(1), reduction)


class VID(FeatureLoss):
    """Predict the teacher's features: `vid`. Trains a network for the mean, a variance per channel.

    hidden: channels inside the mean's network: three 1x1 convolutions (linear layers for tokens and
        vectors) without biases, with ReLU between, as in RepDistiller. None: the teacher's number.
    variance: what every variance starts from, above 1e-5. Each is softplus(alpha) + 1e-5, with the
        trained `alpha` of its channel.

    Takes vectors [B, D], tokens [B, N, D] and maps [B, C, H, W]; tokens beside another shape are
    laid out on their grid, and of two grids, the larger is averaged down.

    Published weight: 1 for each of the three stages, with 1 for the labels, for all pairs on
    CIFAR-100 at batch 64 (RepDistiller, scripts/run_cifar_distill.sh; mdistiller,
    mdistiller/engine/cfg.py). With variant "paper" divide by the C H W of the teacher's map.
    """

    takes = "places"
    omitted = ("hidden",)
    edition = 2

    def __init__(self, student=None, teacher=None, *, hidden: int | None = None,
                 variance: float = 5.0, variant: str = "mean"):
        inputs.check_choice("variant", variant, VARIANTS)
        inputs.check(LEAST_VARIANCE < variance < math.inf,
                     f"a variance above {LEAST_VARIANCE:g} to start from", variance)
        if hidden is not None:
            inputs.check_count("hidden", hidden)
        super().__init__(student, teacher, hidden=hidden, variance=variance, variant=variant)
        self.mean: nn.Module | None = None
        self.alpha: nn.Parameter | None = None

    def build(self, student, teacher, seed):
        student, teacher = _aligned(*self.pick(student, teacher))
        if self.mean is not None:
            return
        channels, outputs = projections.width(student), projections.width(teacher)
        hidden = self.hidden or outputs
        layer = functools.partial(projections.layer, student.ndim, bias=False)
        self.mean = self.seeded(seed, student, lambda: nn.Sequential(
            layer(channels, hidden), nn.ReLU(), layer(hidden, hidden), nn.ReLU(),
            layer(hidden, outputs)))
        alpha = self.variance  # softplus(alpha) is alpha where alpha is large
        if alpha < 30:
            alpha = math.log(math.expm1(alpha - LEAST_VARIANCE))
        self.alpha = nn.Parameter(next(self.mean.parameters()).new_full((outputs,), alpha))

    def values(self, student, teacher=None, labels=None):
        student, teacher = _aligned(student, teacher)
        prediction = projections.projected(student, self.mean)
        return vid(prediction, teacher, self.variance_C, self.variant, "none")

    @property
    def variance_C(self) -> torch.Tensor:
        """The variances as they are now."""
        return F.softplus(self.alpha) + LEAST_VARIANCE


def _aligned(student, teacher):
    student, teacher = projections.comparable_pair(student, teacher)
    return projections.on_one_grid(student, teacher) if student.ndim == 4 else (student, teacher)
