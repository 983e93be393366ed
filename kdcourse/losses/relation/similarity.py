"""Losses on the similarities between samples: Gram matrices, kernels, neighbourhoods.

Shapes: B batch, D features. Every sample is one vector; what is a map or a sequence is flattened.
"""

import math

import torch

from kdcourse.losses import inputs
from kdcourse.losses.feature.projections import scaled, unit
from kdcourse.losses.relation.pairs import VARIANTS, OfVariant, Relation, vectors_pair

KERNELS = ("taylor", "rbf", "bilinear")
LEAST = 1e-7  # the smallest kernel value (or what is added to a probability): the log stays finite


@inputs.full_precision
def similarity_preserving(student, teacher):
    r"""How differently student and teacher spread a sample's similarity over the batch.

    .. math::

        L = \frac{1}{B^2} \lVert G_T - G_S \rVert_F^2, \qquad
        G_{[i,:]} = \frac{\tilde G_{[i,:]}}{\lVert \tilde G_{[i,:]} \rVert_2}, \quad
        \tilde G = A A^\top

    Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation", equations 1 to 4
    (arXiv:1907.09682): A has one flattened sample in each row. A value lies between 0 and 4/B; the
    weight must make up for that (RepDistiller takes 3000 at B = 64).

    student, teacher: features [B, D], [B, N, D] or [B, C, H, W], of any two widths. No gradient
        reaches the teacher.

    Rows have unit length in the sense of L2, as in RepDistiller, whose code the paper's author
    verified. torchdistill divides by the sum of absolute values instead: another loss.

    The batch is part of the formula: each row is normalised over it, and the value falls as 1/B.
    Under several processes each compares the samples of its own share; so does each part where
    gradients are accumulated. Turning the features of one side, or scaling all of them, changes
    nothing; scaling or moving single samples does. A sample that is 0 is similar to nothing: its
    row is 0, with a gradient of 0.

    Raises `ValueError` for fewer than 2 samples and for two batch sizes.

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


@inputs.full_precision
def correlation_congruence(student, teacher, kernel: str = "taylor", gamma: float = 0.4,
                           order: int = 2):
    r"""How differently student and teacher correlate two samples, in the sense of a kernel.

    .. math::

        L = \frac{1}{B^2} \sum_{ij} \big(k(s_i, s_j) - k(t_i, t_j)\big)^2, \qquad
        k(x, y) = \sum_{p=0}^P e^{-2\gamma} \frac{(2\gamma)^p}{p!} (x^\top y)^p

    with every x and y divided by its length. Peng et al. 2019, "Correlation Congruence for
    Knowledge Distillation", section 3 (arXiv:1904.01802). For vectors of unit length k is the
    Taylor expansion of the Gaussian :math:`e^{-\gamma \lVert x - y \rVert^2}
    = e^{-2\gamma} e^{2\gamma x^\top y}`, up to the order P.

    student, teacher: features [B, D], [B, N, D] or [B, C, H, W], of any two widths. No gradient
        reaches the teacher.
    kernel: "taylor"; "rbf", the Gaussian itself; "bilinear", :math:`x^\top y` of the unit vectors,
        their cosine. (The paper also compares means, "MMD".)
    gamma: how narrow the Gaussian is, above 0. Unused by "bilinear".
    order: the last power P of the Taylor series, at least 1.

    RepDistiller's table has another formula under this name (CC.py, which it had from the paper's
    author): the mean over neighbours in the batch of :math:`\sum_d |s_{id} - t_{id}|
    |s_{i+1,d} - t_{i+1,d}|`, behind trained linear layers on both sides. It compares no correlation
    matrices, changes with the order of the batch, and is not offered here.

    The batch is part of the formula, though its size hardly changes the value. Under several
    processes each compares the samples of its own share; so does each part where gradients are
    accumulated. Turning the features of one side, or scaling single samples, changes nothing. A
    sample that is 0 has the product 0 with all, itself included, with a gradient of 0.

    Raises `ValueError` for fewer than 2 samples, for two batch sizes, for an unknown kernel, for
    gamma of 0 or less and for an order below 1.

    >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # products 1 and 0
    >>> teacher = torch.tensor([[1.0], [2.0]])  # products 1 only, whatever the lengths
    >>> correlation_congruence(student, teacher, kernel="bilinear")  # 2 of 4 entries are off by 1
    tensor(0.5000)
    >>> correlation_congruence(student, teacher)  # ... and by (0.8 + 0.8²/2) exp(-0.8) = 0.503
    tensor(0.1266)
    """
    _check_kernel(kernel, gamma, order)
    student, teacher = vectors_pair(student, teacher)
    ours, theirs = (_kernel(x, kernel, gamma, order) for x in (student, teacher))
    return (ours - theirs).square().mean()


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


def _check_kernel(kernel, gamma, order) -> None:
    inputs.check_choice("kernel", kernel, KERNELS)
    if not 0 < gamma < math.inf:
        raise ValueError(f"Expected gamma above 0, got {gamma}. The usual value is 0.4.")
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"Expected order to be a whole number of at least 1, got {order!r}. The "
                         "usual value is 2.")


@inputs.full_precision
def pkt(student, teacher, variant: str = "paper"):
    r"""How differently student and teacher choose a sample's neighbours, as distributions.

    .. math::

        L = \sum_i \sum_{j \neq i} p_{j|i} \log \frac{p_{j|i}}{q_{j|i}}, \qquad
        p_{j|i} = \frac{k(t_i, t_j)}{\sum_{l \neq i} k(t_i, t_l)}, \quad
        k(x, y) = \frac12 \left(\frac{x^\top y}{\lVert x \rVert \lVert y \rVert} + 1\right)

    and q alike, from the student's features. Passalis & Tefas 2018, "Learning Deep Representations
    with Probabilistic Knowledge Transfer", section 3 (arXiv:1803.10837), with its cosine kernel. In
    nats, summed over the samples.

    student, teacher: features [B, D], [B, N, D] or [B, C, H, W], of any two widths. No gradient
        reaches the teacher.
    variant: "paper". "code" is what the authors' code minimises, and RepDistiller (with a weight of
        30000 at B = 64): each sample is a neighbour of itself, and the mean over all B² entries is
        taken, with 1e-7 added to both probabilities inside the logarithm. Its least value is not
        quite at the teacher's features, but about 1e-7 beside them. (The 1e-7 that the code also
        adds to the lengths is left out.)

    The batch is part of the formula: a neighbour's probability is about 1/B, the paper's value
    grows with B, the code's falls as 1/B. Under several processes each compares the samples of its
    own share; so does each part where gradients are accumulated. In a batch of 2 each sample has
    one neighbour, and the paper's loss is always 0.

    Turning the features of one side, or scaling single samples, changes nothing. A sample that is 0
    has the cosine 0 with all, with a gradient of 0. Kernel values below 1e-7 (opposite directions)
    count as 1e-7 in the paper's variant, so that the logarithm stays finite.

    Raises `ValueError` for fewer than 2 samples, for two batch sizes and for an unknown variant.

    >>> student = torch.eye(3)  # nobody is near: every neighbour has 1/2
    >>> teacher = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])  # the first two have 2/3, 1/3
    >>> pkt(student, teacher)  # 2 (2/3 log(4/3) + 1/3 log(2/3)) + 0
    tensor(0.1133)
    """
    inputs.check_choice("variant", variant, VARIANTS)
    student, teacher = vectors_pair(student, teacher)
    ours, theirs = _neighbours(student, variant), _neighbours(teacher, variant)
    if variant == "code":
        return (theirs * ((theirs + LEAST).log() - (ours + LEAST).log())).mean()
    itself = torch.eye(len(ours), dtype=ours.dtype, device=ours.device)  # 0 log(1 / 1)
    return (theirs * ((theirs + itself).log() - (ours + itself).log())).sum()


def _neighbours(x_BD, variant) -> torch.Tensor:
    """The probability of each neighbour, [B, B]; rows sum to 1."""
    x_BD = unit(x_BD)
    kernel = (x_BD @ x_BD.T + 1) / 2
    if variant == "code":
        kernel = kernel.clamp(min=0)  # rounding
    else:
        itself = torch.eye(len(x_BD), dtype=torch.bool, device=x_BD.device)
        kernel = kernel.clamp(min=LEAST).masked_fill(itself, 0)
    return kernel / kernel.sum(1, keepdim=True)


class SP(Relation):
    """`similarity_preserving`: the teacher's similarities between samples. Trains nothing.

    Without paths it compares the logits. The paper takes the activations of the last convolutional
    layers, such as "layer3" in `kdcourse`'s resnet.
    """

    def values(self, student, teacher=None, labels=None):
        return similarity_preserving(student, teacher)


class CC(Relation):
    """`correlation_congruence`: the teacher's correlations between samples. Trains nothing.

    Without paths it compares the logits. It is meant for the features before the last layer, such
    as "fc:input" in `kdcourse`'s resnet.
    """

    def __init__(self, student=None, teacher=None, *, kernel: str = "taylor", gamma: float = 0.4,
                 order: int = 2):
        super().__init__(student, teacher)
        _check_kernel(kernel, gamma, order)
        self.kernel, self.gamma, self.order = kernel, gamma, order

    def values(self, student, teacher=None, labels=None):
        return correlation_congruence(student, teacher, self.kernel, self.gamma, self.order)

    def extra_repr(self):
        settings = [f"kernel={self.kernel!r}"]
        if self.kernel != "bilinear":
            settings.append(f"gamma={self.gamma:.10g}")
        if self.kernel == "taylor":
            settings.append(f"order={self.order}")
        return ", ".join(settings)


class PKT(OfVariant):
    """`pkt`: the teacher's neighbours for every sample. Trains nothing of its own.

    Without paths it compares the logits. The authors' code takes the features before the last
    layer, such as "fc:input" in `kdcourse`'s resnet.
    """

    function = staticmethod(pkt)
