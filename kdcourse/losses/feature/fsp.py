"""The flow of the solution procedure: which channels of two layers are active together.

B batch, P Q channels of the first and last layer, H W height and width, N tokens, D features.
"""

import torch
import torch.nn.functional as F

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.feature.projections import maps_pair, on_one_grid

VARIANTS = ("code", "mean", "paper")


def fsp(student, teacher, variant: str = "code", reduction: str = "mean"):
    r"""Compute the squared distance between the FSP matrices of both sides.

    .. math:: L = \lVert G^T - G^S \rVert_F^2, \qquad
        G_{pq} = \frac{1}{HW} \sum_{h, w} F^1_{p,h,w}\, F^2_{q,h,w}

    Yim et al. 2017, "A Gift from Knowledge Distillation" (CVPR), equations 1 and 2, for the first
    and last layer of a section; several sections have equal weight in the paper. With both layers k
    times as large, L is k⁴ times as large. Raises `ValueError` for shapes that do not fit and for
    another variant.

    student, teacher: a pair (first, last) each: maps [B, P, H, W] and [B, Q, H, W], or tokens
        [B, N, D], laid out on their grid without class tokens. P and Q agree on both sides; of two
        layers of different size, the larger is pooled to the smaller.
    variant: "code", as in RepDistiller (distiller_zoo/FSP.py; the authors' code is not public):
        average pooling, and the mean over the P Q entries. Published weights belong to it: `FSP`.
        "paper" is the sum above, behind max pooling; "mean" is "paper" divided by P Q.

    >>> first, last = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 1.0]]]])
    >>> fsp((first, last), (first, 2 * last))  # G: (3 + 2)/2 = 2.5 and twice that; 2.5²
    tensor(6.2500)
    """
    inputs.check_choice("variant", variant, VARIANTS)
    for layers, who in ((student, "student"), (teacher, "teacher")):
        if not isinstance(layers, tuple | list) or len(layers) != 2:
            several = isinstance(layers, tuple | list)
            got = f"{len(layers)} of them" if several else inputs.described(layers)
            raise ValueError(f"Expected {who} features as a pair (first, last) of maps [B, C, H, "
                             f'W], got {got}. As module paths: FSP(["layer1", "layer2"], …).')
    pairs = [maps_pair(*layers) for layers in zip(student, teacher)]
    for (s, t), name in zip(pairs, ("first", "last")):
        if s.shape[1] != t.shape[1]:
            raise inputs.shape_error(
                f"with as many channels in the {name} layer", s, t, "Nothing is projected here: "
                "tap layers of one width, or use a loss that takes any (AT, NST, Hint).")
    students, teachers = zip(*pairs)
    if len(students[0]) != len(students[1]):
        shapes = [list(x.shape) for x in students]
        raise ValueError(f"Expected student layers of one batch, got {shapes[0]} and {shapes[1]}.")
    pool = F.adaptive_avg_pool2d if variant == "code" else F.adaptive_max_pool2d
    square = (_flow(*students, pool) - _flow(*teachers, pool)).square().flatten(1)
    return inputs.reduce(square.sum(1) if variant == "paper" else square.mean(1), reduction)


@inputs.full_precision
def _flow(first_BPHW, last_BQHW, pool) -> torch.Tensor:
    """Compute the FSP matrix [B, P, Q] of two layers, the larger one behind `pool`."""
    first, last = on_one_grid(first_BPHW, last_BQHW, pool)
    return first.flatten(2) @ last.flatten(2).transpose(1, 2) / first.shape[2:].numel()


class FSP(FeatureLoss, function=fsp):
    """Match the flow between two layers, two paths on each side: `fsp`. Trains nothing, so widths
    must agree. `FSP(["layer1", "layer2"], ["layer1", "layer2"])`.

    In the paper it is a first stage of its own, without labels; the second stage starts from that
    student and trains on the labels alone::

        kd.fit(kd.Distiller(student, teacher, FSP(...) + FSP(...)), data, recipe)
        kd.fit(kd.Supervised(student), data, recipe)

    Published weight: so in RepDistiller, with the sum over neighbouring layers (the first
    convolution and three stages), each with weight 1, for 30 epochs on CIFAR-100 at batch 64 before
    the usual 240 (helper/pretrain.py). The `-b 50` of its scripts/run_cifar_distill.sh multiplies 0
    in the second stage (helper/loops.py).
    """

    takes = "maps"
    edition = 2

    def __init__(self, student=None, teacher=None, *, variant: str = "code"):
        inputs.check_choice("variant", variant, VARIANTS)
        super().__init__(student, teacher, variant=variant)
        for who, paths in (("student", self.student_paths), ("teacher", self.teacher_paths)):
            inputs.check(len(paths) in (0, 2),
                         f"two module paths of the {who}, the first and the last layer",
                         list(paths), 'Write FSP(["layer1", "layer2"], ["layer1", "layer2"]).')

    def build(self, student, teacher, seed):
        fsp(*self.pick(student, teacher))  # raises where the shapes do not fit
