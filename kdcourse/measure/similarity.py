"""Similarity of the layers of two networks: centred kernel alignment.

Shapes: N samples, D and E features. All is computed in float64 on the CPU.
"""

import functools
import math

import torch
from torch import nn

from kdcourse._trees import call, each, pieces
from kdcourse.data import Batch
from kdcourse.taps import device_of, evaluating
from kdcourse.taps import taps as taps_of
from kdcourse.teachers import Teacher


def cka(a_ND: torch.Tensor, b_NE: torch.Tensor, debiased: bool = False) -> float:
    r"""Give the linear centred kernel alignment of the features of two layers.

    .. math:: \frac{\mathrm{HSIC}(K, L)}{\sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}},
        \qquad K = AA^\top,\; L = BB^\top

    Kornblith et al. 2019, section 3 (arXiv:1905.00414). 1 for features that are the same up to
    rotation and scale, 0 for features without a linear relation.

    a_ND, b_NE: features of the same N samples; further dimensions, as of maps [N, C, H, W] or
        tokens, are flattened.
    debiased: with few samples and many features even unrelated layers have a large CKA. The
        unbiased HSIC of Song et al. 2012 (JMLR 13), as in Nguyen, Raghu & Kornblith 2021
        (arXiv:2010.15327, equation 3), removes that; it can fall slightly below 0.

    `nan` when all samples have the same features, up to rounding, or some are not finite. Raises
    `ValueError` for different numbers of samples, and for fewer than 2 (debiased: 4).

    >>> a = torch.rand(100, 8, generator=torch.Generator().manual_seed(0))
    >>> round(cka(a, 3 * a.flip(1) + 1), 6)
    1.0
    """
    if len(a_ND) != len(b_NE):
        raise ValueError(f"Expected features of the same samples, got {len(a_ND)} and "
                         f"{len(b_NE)} of them. Show both networks the same inputs.")
    return _alignment(*(_centred(x, debiased) for x in (a_ND, b_NE)), debiased)


@torch.no_grad()
def cka_matrix(model_a: nn.Module, paths_a, model_b: nn.Module, paths_b, x: torch.Tensor,
               batch: int = 500, debiased: bool = False) -> torch.Tensor:
    """Give `cka` of every layer of one network with every layer of another, in eval mode: [a, b].

    model_a, model_b: networks, which may be the same; or teachers, with transforms of their own.
    paths_a, paths_b: module paths, as in `kd.taps`.
    x: the inputs of both [N, C, H, W]. A few hundred are enough with `debiased=True`.
    batch: samples in one forward pass; the features of all N samples are kept.

    Raises what `kd.taps` and `cka` raise.

    >>> from kdcourse import models
    >>> net = models.convnet(width=8)
    >>> table = cka_matrix(net, ["1", "3"], net, ["1", "3", "5"], torch.rand(20, 1, 28, 28))
    >>> table.shape, [round(float(table[i, i]), 6) for i in (0, 1)]
    (torch.Size([2, 3]), [1.0, 1.0])
    """
    rows = [_centred(x, debiased) for x in _layers(model_a, paths_a, x, batch)]
    columns = [_centred(x, debiased) for x in _layers(model_b, paths_b, x, batch)]
    return torch.tensor([[_alignment(a, b, debiased) for b in columns] for a in rows],
                        dtype=torch.float64).view(len(rows), len(columns))


def _layers(model, paths, x, batch: int) -> list[torch.Tensor]:
    """Collect the features of each layer for all of x."""
    paths = (paths,) if isinstance(paths, str) else tuple(paths)
    run = (lambda part: model(Batch(part, None, None), paths)) if isinstance(model, Teacher) else (
        functools.partial(call, taps_of(model, paths)))
    device = device_of(model)
    with evaluating(model):
        outputs = [run(each(lambda t: t.to(device), part)) for part in pieces(x, batch)]
    return [torch.cat([output.taps[path].cpu() for output in outputs]) for path in paths]


def _centred(x_ND: torch.Tensor, debiased: bool) -> torch.Tensor | None:
    """Centre the features, in at most N columns with the same Gram matrix; None where they are
    constant up to rounding, or not finite."""
    least = 4 if debiased else 2
    if len(x_ND) < least:
        raise ValueError(f"Expected at least {least} samples, got {len(x_ND)}. Take some hundred.")
    rounding = torch.finfo(x_ND.dtype).eps if x_ND.is_floating_point() else 0
    x_ND = x_ND.detach().cpu().double().reshape(len(x_ND), -1)
    largest = x_ND.abs().max()
    x_ND = x_ND - x_ND[0]  # before the mean, so that constant features become exactly 0
    x_ND = x_ND - x_ND.mean(0)
    if not x_ND.abs().max() > 4 * rounding * largest:
        return None
    if x_ND.shape[1] > len(x_ND):  # the square root of the Gram matrix has N columns
        values, vectors_NN = torch.linalg.eigh(x_ND @ x_ND.T)
        x_ND = vectors_NN * values.clamp(min=0).sqrt()
    return x_ND


def _alignment(a_ND, b_NE, debiased: bool) -> float:
    if a_ND is None or b_NE is None:
        return math.nan
    # Scaled first, so that the products of tiny or huge features stay in range.
    a_ND, b_NE = a_ND / a_ND.abs().max(), b_NE / b_NE.abs().max()
    own = _hsic(a_ND, a_ND, debiased) * _hsic(b_NE, b_NE, debiased)
    return float(_hsic(a_ND, b_NE, debiased) / own.sqrt()) if own > 0 else math.nan


def _hsic(a_ND, b_NE, debiased: bool) -> torch.Tensor:
    """Compute HSIC up to a constant factor, from centred features, without Gram matrices."""
    hsic, N = (a_ND.T @ b_NE).square().sum(), len(a_ND)
    if debiased:  # Song et al. 2012, equation 5; a row of K without its diagonal sums to minus it
        diagonal_a, diagonal_b = a_ND.square().sum(1), b_NE.square().sum(1)
        common = diagonal_a @ diagonal_b
        hsic = (hsic - common + diagonal_a.sum() * diagonal_b.sum() / ((N - 1) * (N - 2))
                - 2 / (N - 2) * common)
    return hsic
