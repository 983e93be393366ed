"""Class attention transfer: class activation maps. B batch, K classes, C channels, H W places."""

import torch  # noqa: F401 - for the example
import torch.nn.functional as F
from torch import nn

from kdcourse.losses import inputs
from kdcourse.losses.base import FeatureLoss
from kdcourse.losses.numerics import unit
from kdcourse.taps import Early, clean_copy


def class_attention(student_BKHW, teacher_BKHW, grid: int = 2, normalize: bool = True,
                    reduction: str = "mean"):
    r"""Compute the mean squared error between class activation maps, averaged to a coarse grid.

    .. math:: L = \frac{1}{K g^2} \sum_{k=1}^K \left\lVert
            \frac{\phi(A^S_k)}{\lVert \phi(A^S_k) \rVert_2}
            - \frac{\phi(A^T_k)}{\lVert \phi(A^T_k) \rVert_2} \right\rVert_2^2, \qquad
        A_k = \sum_c w_{kc} F_c

    Guo et al. 2023 (CAT-KD, arXiv:2304.12777), section 3, with the factor of the authors' code: the
    mean over the places as well. :math:`\phi` averages a map to g x g places, w is the weight of
    the classifier behind the average pooling. A map that is 0 everywhere gets no gradient. Raises
    `ValueError` for shapes that do not fit and for settings out of range.

    student_BKHW, teacher_BKHW: one map for each class; the sizes may differ. `class_maps` makes a
        network that computes them.
    grid: g; 2 or 4 in the authors' configurations.
    normalize: False compares the averaged maps as they are, as for pairs of one architecture.

    >>> student = torch.tensor([3.0, 0.0, 0.0, 4.0]).view(1, 1, 2, 2)
    >>> teacher = torch.tensor([0.0, 5.0, 0.0, 0.0]).view(1, 1, 2, 2)
    >>> class_attention(student, teacher)  # (0.6² + 1² + 0 + 0.8²) / 4
    tensor(0.5000)
    """
    inputs.check_count("grid", grid)
    student, teacher = inputs.one_batch(student_BKHW, teacher_BKHW, 4)
    if student.shape[1] != teacher.shape[1]:
        raise inputs.shape_error("class maps [B, K, H, W] of as many classes", student, teacher,
                                 "Make them with class_maps(network, layer, classifier).")
    student, teacher = (F.adaptive_avg_pool2d(x, grid).flatten(2) for x in (student, teacher))
    if normalize:
        student, teacher = unit(student), unit(teacher)
    return inputs.reduce((student - teacher).square().mean((1, 2)), reduction)


class CATKD(FeatureLoss, function=class_attention):
    """Match class activation maps: `class_attention`. Trains nothing of its own.

    student, teacher: paths of class activation maps [B, K, H, W]: "head.maps" in both networks once
        they went through `class_maps`.

    Published weights, with 1 for the labels, on CIFAR-100 at batch 64, by pair. For pairs of one
    architecture with `normalize=False`: 15 (ResNet-32x4 to ResNet-8x4), 12 (WRN-40-2 to WRN-16-2),
    4.5 (VGG-13 to VGG-8), 1.8 (ResNet-110 to ResNet-32), 1.5 (WRN-40-2 to WRN-40-1), 0.7 (ResNet-56
    to ResNet-20). For the others with the defaults, 40 (ResNet-50 to MobileNetV2) and 15 (VGG-13 to
    MobileNetV2), or with `grid=4`, 600 (ResNet-32x4 to ShuffleNetV1 and V2) and 80 (WRN-40-2 to
    ShuffleNetV1). On ImageNet 0.5 with `grid=4, normalize=False` (ResNet-34 to ResNet-18; the batch
    is 2 in that file) and 10 with the defaults (ResNet-50 to MobileNetV2, batch 512). All stand in
    GzyAftermath/CAT-KD, configs/.
    """

    def __init__(self, student=None, teacher=None, *, grid: int = 2, normalize: bool = True):
        inputs.check_count("grid", grid)
        super().__init__(student, teacher, grid=grid, normalize=bool(normalize))

    def build(self, student, teacher, seed):
        class_attention(*self.pick(student, teacher), self.grid)  # raises where shapes do not fit


def class_maps(model: nn.Module, layer: str, classifier: str) -> nn.Module:
    r"""Copy a network so that it computes class activation maps on the way to the same logits.

    .. math:: z_k = b_k + \frac{1}{HW} \sum_i A_{ki}, \qquad A_{ki} = \sum_c w_{kc} F_{ci}

    Zhou et al. 2016 (arXiv:1512.04150), section 2; Guo et al. 2023 convert networks so. The linear
    classifier is applied at every place of the map, as a 1x1 convolution, and the mean over the
    places is taken afterwards. The maps are at "head.maps", without the bias, which is added
    behind the mean. The copy is in eval mode and can be trained, saved and exported as any
    network; it holds the weights of the classifier once. For networks whose classifier follows the
    mean over the places of `layer` and nothing else.

    layer: path of the last map [B, C, H, W], such as "layer3", as for `kdcourse.taps`.
    classifier: path of the linear layer, such as "fc".

    Raises `ValueError` for a path that the model does not have, and where `classifier` is no linear
    layer.

    >>> from kdcourse import models, taps
    >>> network, x = models.resnet(depth=8, width=4).eval(), torch.rand(2, 1, 28, 28)
    >>> output = taps(class_maps(network, "layer3", "fc"), ["head.maps"])(x)
    >>> output.taps["head.maps"].shape, torch.allclose(output.logits, network(x), atol=1e-5)
    (torch.Size([2, 36, 7, 7]), True)
    """
    model = clean_copy(model)
    linear = dict(model.named_modules()).get(classifier)
    if not classifier or not isinstance(linear, nn.Linear):
        raise ValueError(f"Expected the path of a linear layer as classifier, got {classifier!r} "
                         f"({type(linear).__name__}).")
    parent, _, name = classifier.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.Identity())  # never called: see `Early`
    return Early(model, layer, _Head(linear)).eval()


class _Head(nn.Module):
    """Apply a linear classifier at every place, then take the mean and add the bias."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.maps = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=False)
        self.maps.weight = nn.Parameter(linear.weight.detach()[:, :, None, None].clone())
        self.bias = linear.bias

    def forward(self, x_BCHW):
        logits = self.maps(x_BCHW).mean((2, 3))
        return logits if self.bias is None else logits + self.bias
