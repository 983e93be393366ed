"""Correlation congruence: a kernel between samples. B batch, D features."""

import math

import torch

from kdcourse.losses import inputs
from kdcourse.losses.numerics import unit
from kdcourse.losses.relation.pairs import Relation, vectors_pair


@inputs.full_precision
def correlation_congruence(student, teacher, kernel: str = "taylor", gamma: float = 0.4,
                           order: int = 2):
    r"""Compare the correlations of samples, measured by a kernel.

    .. math:: L = \frac{1}{B^2} \sum_{ij} \big(k(s_i, s_j) - k(t_i, t_j)\big)^2, \qquad
        k(x, y) = \sum_{p=0}^P e^{-2\gamma} \frac{(2\gamma)^p}{p!} (x^\top y)^p

    with every x and y divided by its length. Peng et al. 2019 (arXiv:1904.01802), section 3: k is
    the Taylor expansion of the Gaussian :math:`e^{-\gamma \lVert x - y \rVert^2}`. RepDistiller's
    CC.py, from the paper's author, is another formula, which changes with the order of the batch. A
    sample that is 0 gets no gradient. Raises `ValueError` for fewer than 2 samples, two batch sizes
    and settings out of range.

    student, teacher: features [B, D], [B, N, D] or [B, C, H, W], of any two widths.
    kernel: "taylor"; "rbf", the Gaussian itself; "bilinear", :math:`x^\top y`.
    gamma: how narrow the Gaussian is, above 0. Unused by "bilinear".
    order: the last power P of the Taylor series, at least 1.

    >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # products 1 and 0
    >>> teacher = torch.tensor([[1.0], [2.0]])  # products 1 only, whatever the lengths
    >>> correlation_congruence(student, teacher, kernel="bilinear")  # 2 of 4 entries are off by 1
    tensor(0.5000)
    """
    _check_settings(kernel, gamma, order)
    student, teacher = vectors_pair(student, teacher)
    difference_BB = _kernel(student, kernel, gamma, order) - _kernel(teacher, kernel, gamma, order)
    return difference_BB.square().mean()


class CC(Relation, function=correlation_congruence):
    """Match the correlations between samples: `correlation_congruence`. Trains nothing. Meant for
    the features before the last layer, such as "fc:input" in `kdcourse`'s resnet.

    Published weight: 100, with 1 for the labels, for ResNet-110 and ResNet-20 on CIFAR-10
    (AberHu/Knowledge-Distillation-Zoo, example_train_script.sh, with this formula, gamma 0.4 and
    order 2; batch 128). RepDistiller's 0.02 belongs to another formula.
    """

    def __init__(self, student=None, teacher=None, *, kernel: str = "taylor", gamma: float = 0.4,
                 order: int = 2):
        _check_settings(kernel, gamma, order)
        used = {"bilinear": {}, "rbf": {"gamma": gamma}, "taylor": {"gamma": gamma, "order": order}}
        super().__init__(student, teacher, kernel=kernel, **used[kernel])


def _kernel(x_BD, kernel, gamma, order) -> torch.Tensor:
    x_BD = unit(x_BD)
    product = x_BD @ x_BD.T
    if kernel == "bilinear":
        return product
    if kernel == "rbf":
        return torch.exp(2 * gamma * (product - 1))
    factor = math.exp(-2 * gamma)
    series = torch.full_like(product, factor)
    for p in range(1, order + 1):
        factor *= 2 * gamma / p
        series = series + factor * product**p
    return series


def _check_settings(kernel, gamma, order) -> None:
    inputs.check_choice("kernel", kernel, ("taylor", "rbf", "bilinear"))
    inputs.check_count("order", order)
    inputs.check(0 < gamma < math.inf, "gamma above 0", gamma, "The usual value is 0.4.")
