"""Overhaul distillation, before the ReLU. B batch, C channels, H W height and width."""

import torch
from torch import nn

from kdcourse import _files
from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import on_one_grid, projected


def overhaul(student_BCHW, teacher_BCHW, margin_C, reduction: str = "mean"):
    r"""Compute the squared distance before the ReLU, except where the student is low enough.

    .. math:: L = \sum_{c, i} \begin{cases}
            0 & \text{if } s_{ci} \le \hat t_{ci} \le 0 \\
            (\hat t_{ci} - s_{ci})^2 & \text{otherwise}
        \end{cases}, \qquad \hat t_{ci} = \max(t_{ci}, m_c)

    Heo et al. 2019 (arXiv:1904.01866), section 3: "margin ReLU" and "partial L2 distance".
    Published weights: `OFD`. Raises `ValueError` for shapes that do not fit.

    student_BCHW, teacher_BCHW: maps before the ReLU, of one shape.
    margin_C: one margin per channel [C], not above 0, such as `margins` gives.

    >>> teacher = torch.tensor([2.0, -5.0, -5.0, -5.0]).view(1, 1, 2, 2)
    >>> student = torch.tensor([1.0, -9.0, -1.0, 0.5]).view(1, 1, 2, 2)
    >>> overhaul(student, teacher, torch.tensor([-1.0]))  # 1² + 0 + 0 + 1.5²
    tensor(3.2500)
    """
    student_BCHW, teacher_BCHW = inputs.features_pair(student_BCHW, teacher_BCHW, 4)
    margin_C = _margin(margin_C, student_BCHW.shape[1]).to(student_BCHW)
    target = torch.maximum(teacher_BCHW, margin_C[:, None, None])
    free = (student_BCHW <= target) & (target <= 0)
    distance = (student_BCHW - target).masked_fill(free, 0)
    return inputs.reduce(distance.square().sum((1, 2, 3)), reduction)


def margins(mean_C, std_C=None):
    r"""Compute the margin of `overhaul`: the mean of a channel's negative responses.

    .. math:: m_c = E[x \mid x < 0] = \mu_c - \sigma_c\,
            \frac{\varphi(\mu_c / \sigma_c)}{\Phi(-\mu_c / \sigma_c)},
        \qquad x \sim N(\mu_c, \sigma_c^2)

    Heo et al. 2019, section 3, with the density :math:`\varphi` and the distribution function
    :math:`\Phi` of the standard normal. As in the official code, a channel that is negative no more
    than once in a thousand gets :math:`-3 \sigma_c`. A constant channel gets its mean, 0 at most.
    Raises `ValueError` for a layer without `weight` and `bias` and for shapes that do not fit.

    mean_C: means [C]; or, alone, the batch normalisation right before the ReLU. A shortcut that is
        added in between is left out, as in the official code; `OFD(margin=None)` measures instead.
    std_C: standard deviations [C]. Their sign does not matter.

    >>> margins(torch.tensor([0.0, -9.0, 4.0]), torch.ones(3))  # -√(2/π); nearly the mean; -3σ
    tensor([-0.7979, -9.0000, -3.0000])
    """
    if isinstance(mean_C, nn.Module):
        norm = mean_C
        mean_C, std_C = getattr(norm, "bias", None), getattr(norm, "weight", None)
        inputs.check(mean_C is not None and std_C is not None,
                     "a batch normalisation with weight and bias", repr(norm),
                     "Give means and standard deviations, or measure: OFD(margin=None).")
    inputs.check(isinstance(mean_C, torch.Tensor) and isinstance(std_C, torch.Tensor)
                 and mean_C.ndim == 1 and mean_C.shape == std_C.shape,
                 "means and standard deviations of one shape [C]",
                 f"{inputs.described(mean_C)} and {inputs.described(std_C)}",
                 "Give both, or a batch normalisation.")
    mean, std = inputs.floats(mean_C.detach()), inputs.floats(std_C.detach()).abs()
    constant = std == 0
    z = mean / std.masked_fill(constant, 1)
    # φ(z) / Φ(-z) by logarithms: far from 0 both of them underflow
    ratio = torch.exp(-z.square() / 2 - torch.special.log_ndtr(-z)) / (2 * torch.pi) ** 0.5
    margin = torch.where(torch.special.ndtr(-z) > 0.001, mean - std * ratio, -3 * std)
    return torch.where(constant, mean.clamp(max=0), margin)


class OFD(FeatureLoss):
    """Match features before the ReLU: `overhaul`. Trains a 1x1 convolution with batch normalisation
    on the student's. Of two maps of different size, the larger is averaged down.

    student, teacher: paths of what goes *into* a ReLU: in our resnet of depth 8
        "layer2.0.relu:input", in torchvision's, whose blocks call one ReLU several times,
        "layer2.1.relu#2:input", with `relu.inplace = False`.
    margin: one per channel of the teacher [C], such as `margins(batch_norm)`. None measures it: the
        mean of a channel's negative responses in all training steps so far of this process.

    Published weight: 1/1000 on CIFAR-100 at batch 128 (clovaai/overhaul-distillation,
    CIFAR-100/train_with_distillation.py), 1/10000 on ImageNet, with 1 for the labels, for the last
    stage; half of that for each stage before it: `1e-3 * OFD(...) + 0.5e-3 * OFD(...) + ...`. The
    code divides the sum over the batch by the batch size, as the mean here does.

    The official code runs the teacher in train mode; here it is frozen in eval mode. It starts the
    convolution from normal weights of variance 2 / C, for the teacher's C channels; here from
    torch's default.
    """

    takes = "maps"

    def __init__(self, student=None, teacher=None, *, margin=None):
        super().__init__(student, teacher)
        if margin is not None:
            margin = _margin(margin).detach().clone()
            inputs.check((margin <= 0).all(), "margins of at most 0", f"{float(margin.max()):.4g}",
                         "Use margins(batch_norm), or None to measure them.")
        self.connector = None
        self.register_buffer("margin", margin)
        self.register_buffer("negative_sum", None)
        self.register_buffer("negative_count", None)

    def build(self, student, teacher, seed):
        student, teacher = inputs.maps(*inputs.one_batch(*self.pick(student, teacher), 4))
        channels, outputs = student.shape[1], teacher.shape[1]
        if self.margin is not None:
            _margin(self.margin, outputs)
        if self.connector is None:
            self.connector = self.seeded(seed, student, lambda: nn.Sequential(
                nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs)))
            if self.margin is None:
                self.negative_sum = teacher.new_zeros(outputs)
                self.negative_count = teacher.new_zeros(outputs)

    def values(self, student, teacher=None, labels=None):
        student, teacher = inputs.maps(*inputs.one_batch(student, teacher, 4))
        student, teacher = on_one_grid(projected(student, self.connector), teacher)
        margin = self._measured(teacher) if self.margin is None else self.margin
        return overhaul(student, teacher, margin, "none")

    def _measured(self, teacher):
        """Give the mean negative response so far; of this batch for a channel without one."""
        negative = teacher < 0
        batch_sum = (teacher * negative).sum((0, 2, 3))
        batch_count = negative.sum((0, 2, 3)).to(teacher.dtype)
        if self.training and torch.is_grad_enabled():
            self.negative_sum += batch_sum
            self.negative_count += batch_count
        measured = self.negative_count > 0
        total = torch.where(measured, self.negative_sum, batch_sum)
        return total / torch.where(measured, self.negative_count, batch_count).clamp(min=1)

    def identity(self):
        return [*super().identity(), self.margin]

    def extra_repr(self):
        if self.margin is None:
            return ""
        digest = _files.digest(self.margin.cpu().numpy().tobytes())[:8]  # margins may share a mean
        mean = float(self.margin.mean())
        return f"margin={len(self.margin)} channels around {mean:.4g}#{digest}"


def _margin(margin_C, channels: int | None = None) -> torch.Tensor:
    """Check a vector of margins [C], for so many channels."""
    if not isinstance(margin_C, torch.Tensor) or margin_C.ndim != 1 or (
            not margin_C.is_floating_point() or channels not in (None, len(margin_C))):
        raise ValueError(f"Expected one margin per channel of the teacher, shape "
                         f"[{channels or 'C'}], got {inputs.described(margin_C)}. Use "
                         "margins(batch_norm), or None in OFD to measure them.")
    return inputs.floats(margin_C)
