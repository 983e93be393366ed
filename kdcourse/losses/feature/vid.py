"""Variational information distillation. B batch, C channels, H W height and width, N tokens."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import comparable_pair, on_one_grid, projected, projection

VARIANTS = ("paper", "mean")
LEAST = 1e-5  # the variance that is always there: log and division stay finite


def vid(student, teacher, variance_C, variant: str = "paper", reduction: str = "mean"):
    r"""Compute the negative log-likelihood of the teacher's features under a predicted Gaussian.

    .. math:: L = -\log q(t \mid s) = \sum_{c,h,w} \left[ \log \sigma_c
            + \frac{(t_{chw} - \mu_{chw}(s))^2}{2 \sigma_c^2} \right] + \text{const}

    Ahn et al. 2019 (arXiv:1904.05835), equation 6: -L, on average, is a lower bound of the mutual
    information between the layers, up to the teacher's entropy. In nats, without the constant.

    student: the prediction :math:`\mu(s)`, with the teacher's shape (`VID` makes it).
    teacher: features [B, D], [B, N, D] or [B, C, H, W].
    variance_C: :math:`\sigma_c^2`, one number above 0 for each channel (or feature).
    variant: "paper" sums over the elements of a sample; "mean" averages them, as RepDistiller does.

    Not 0 where both agree, and not bounded below. Raises `ValueError` for shapes that do not fit
    and for another variant.

    >>> student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])
    >>> vid(student, teacher, torch.tensor([1.0, 4.0]))  # (0 + 0) + (log 2 + 2²/(2 * 4))
    tensor(1.1931)
    """
    inputs.check_choice("variant", variant, VARIANTS)
    student, teacher = inputs.features_pair(student, teacher, 2, 3, 4)
    C = student.shape[-1 if student.ndim == 3 else 1]
    if not isinstance(variance_C, torch.Tensor) or list(variance_C.shape) != [C]:
        got = list(getattr(variance_C, "shape", [])) or type(variance_C).__name__
        raise ValueError(f"Expected one variance for each of the {C} channels, [{C}], got {got}.")
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
    variant: as in `vid`.

    Takes vectors [B, D], tokens [B, N, D] and maps [B, C, H, W]; of two grids, the larger is
    averaged down. Tokens beside another shape are laid out on their grid.
    """

    omitted = ("hidden",)

    def __init__(self, student=None, teacher=None, *, hidden: int | None = None,
                 variance: float = 5.0, variant: str = "paper"):
        inputs.check_choice("variant", variant, VARIANTS)
        if not LEAST < variance < math.inf:
            raise ValueError(f"Expected a variance above {LEAST:g} to start from, got {variance}.")
        if hidden is not None and (not isinstance(hidden, int) or hidden < 1):
            raise ValueError(f"Expected hidden to be a whole number of at least 1, or None for the "
                             f"teacher's channels, got {hidden!r}.")
        super().__init__(student, teacher, hidden=hidden, variance=variance, variant=variant)
        self.mean: nn.Module | None = None
        self.alpha: nn.Parameter | None = None

    def build(self, student, teacher, seed):
        student, teacher = _aligned(*self.pick(student, teacher))
        if self.mean is not None:
            return
        dim = -1 if student.ndim == 3 else 1
        s, t = student.shape[dim], teacher.shape[dim]
        hidden = self.hidden or t
        layer = functools.partial(projection, ndim=student.ndim, bias=False)
        self.mean = self.seeded(seed, student, lambda: nn.Sequential(
            layer(s, hidden), nn.ReLU(), layer(hidden, hidden), nn.ReLU(), layer(hidden, t)))
        like = next(self.mean.parameters())
        start = self.variance
        alpha = math.log(math.expm1(start - LEAST)) if start < 30 else start  # softplus(alpha)
        self.alpha = nn.Parameter(torch.full((t,), alpha, dtype=like.dtype, device=like.device))

    def values(self, student, teacher=None, labels=None):
        student, teacher = _aligned(student, teacher)
        return vid(projected(student, self.mean), teacher, self.variance_C, self.variant, "none")

    @property
    def variance_C(self) -> torch.Tensor:
        """The variances as they are now."""
        return F.softplus(self.alpha) + LEAST


def _aligned(student, teacher):
    """Give both sides in one kind of shape, maps on one grid."""
    student, teacher = comparable_pair(student, teacher)
    return on_one_grid(student, teacher) if student.ndim == 4 else (student, teacher)
