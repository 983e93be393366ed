"""ViTKD: mimicking and generation. B batch, N tokens, D features, H W the grid of the patches."""

import math

import torch
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.feature.hint import hint
from kdcourse.losses.feature.masked import Masked
from kdcourse.losses.feature.mgd import generator_of
from kdcourse.losses.feature.projections import maps_pair, on_one_grid, projected


class ViTKD(Masked):
    r"""Match the first blocks of a vision transformer, and generate the last features from a part
    of the patches: squared distances, summed over the elements.

    .. math:: L = \alpha \sum_{l} \lVert F^T_l - f_l(F^S_l) \rVert^2
            + \frac{\beta}{\lambda} \sum_{n \in M} \big\lVert F^T_n - G(\hat F^S)_n \big\rVert^2

    Yang et al. 2022 (ViTKD, arXiv:2209.02432), section 3, as in the authors' code: l are the first
    two blocks, M the masked patches of the last block, a random share :math:`\lambda` of each
    sample. In :math:`\hat F^S` they are replaced by a trained mask token, the others are f of the
    student's; each f is a linear layer, where the widths differ; G is two 3x3 convolutions on the
    grid of patches. Trains f, G and the mask token. Class tokens take no part.

    Published weight: 1 for the defaults (alpha, beta and share hold the weights), with 1 for
    labels that are smoothed by 0.1 and mixed (MixUp, CutMix) and 1 for `NKD(gamma=1)`, for DeiT
    III-Small to DeiT-Tiny on ImageNet at batch 1024 (yzd-v/cls_KD,
    configs/distillers/imagenet/deit-s3_distill_deit-t_img.py, configs/deit/).

    student, teacher: as many paths each, the last features behind the others (those after the final
        normalisation), as in `ViTKD(["blocks.0", "blocks.1", "norm"], ["blocks.0", "blocks.1",
        "norm"])` for timm, of tokens [B, N, D] or maps. Of two grids, the larger is averaged down.
    alpha, beta: weights of both parts, 0 or more.
    share: :math:`\lambda`, above 0 and below 1; the number of masked patches is rounded up.

    >>> paths = ["blocks.0", "blocks.1", "norm"]
    >>> term = ViTKD(paths, paths)
    >>> student, teacher = (torch.rand(2, 17, 8),) * 3, (torch.rand(2, 17, 12),) * 3
    >>> term.build(student, teacher, seed=0)
    >>> term.values(student, teacher).shape
    torch.Size([2])
    """

    def __init__(self, student=None, teacher=None, *, alpha: float = 3e-5, beta: float = 3e-6,
                 share: float = 0.5):
        inputs.check_weights(alpha=alpha, beta=beta)
        inputs.check(0 < share < 1, "a share above 0 and below 1", share)
        super().__init__(student, teacher, alpha=alpha, beta=beta, share=share)
        inputs.check(len(self.student_paths) == len(self.teacher_paths),
                     "as many paths of the teacher as of the student",
                     f"{list(self.student_paths)} and {list(self.teacher_paths)}")
        self.align: nn.ModuleList | None = None
        self.generate: nn.Module | None = None
        self.mask_token: nn.Parameter | None = None

    def build(self, student, teacher, seed):
        pairs = _pairs(*self.pick(student, teacher))
        if self.align is not None:
            return
        widths = [(s.shape[1], t.shape[1]) for s, t in pairs]
        last = widths[-1][1]
        self.align, self.generate = self.seeded(seed, pairs[-1][0], lambda: nn.ModuleList([
            nn.ModuleList(nn.Identity() if s == t else nn.Conv2d(s, t, 1) for s, t in widths),
            generator_of(last)]))
        self.mask_token = nn.Parameter(torch.zeros_like(self.generate[0].bias))
        self.seed = seed

    def values(self, student, teacher=None, labels=None):
        pairs = _pairs(student, teacher)
        aligns = self.align or [None] * len(pairs)
        pairs = [(projected(s, align), t) for (s, t), align in zip(pairs, aligns)]
        low = [2 * hint(s, t, "paper", "none") for s, t in pairs[:-1]]
        student, teacher = pairs[-1]
        masked = self._masked(student)
        student = torch.where(masked, self.mask_token[:, None, None], student)
        error = (projected(student, self.generate) - teacher).masked_fill(~masked, 0)
        high = error.square().sum((1, 2, 3))
        return self.alpha * sum(low) + self.beta / self.share * high

    def _masked(self, x_BDHW) -> torch.Tensor:
        """Draw which patches are masked, [B, 1, H, W]: as many of each sample."""
        B, _, H, W = x_BDHW.shape
        kept = math.floor(H * W * (1 - self.share))
        places = self.noise((B, H * W), x_BDHW).argsort(1).argsort(1)
        return (places >= kept).view(B, 1, H, W)


def _pairs(students, teachers) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pair the layers of both sides as maps of one grid."""
    for layers, who in ((students, "student"), (teachers, "teacher")):
        inputs.check(isinstance(layers, tuple | list) and len(layers) > 1,
                     f"{who} features of two layers or more, the last one behind the others",
                     inputs.described(layers), 'Write ViTKD(["blocks.0", "blocks.1", "norm"], '
                     '["blocks.0", "blocks.1", "norm"]).')
    if len(students) != len(teachers):
        raise ValueError(f"Expected as many layers of student and teacher, got {len(students)} and "
                         f"{len(teachers)}.")
    return [on_one_grid(*maps_pair(s, t)) for s, t in zip(students, teachers)]
