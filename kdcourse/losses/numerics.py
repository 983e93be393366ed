"""Arithmetic that stays finite: logarithms of 0, directions of vectors of 0, roots at 0."""

import math

import torch


def kl(log_p, log_q) -> torch.Tensor:
    """Compute KL(p || q) over the last dimension, with 0 log 0 = 0, also in the gradient."""
    p = log_p.exp()
    return (p * (log_p - log_q).masked_fill(p == 0, 0)).sum(-1)


def scaled(x, dim) -> torch.Tensor:
    """Divide x by its largest absolute value along `dim`, a constant for the gradient, so that no
    power of x leaves float32."""
    largest = x.detach().abs().amax(dim, keepdim=True)
    return x / torch.where(largest > 1e-35, largest, math.inf)


def unit(x, dim=-1) -> torch.Tensor:
    """Divide x by its length along `dim`. A vector of 0 (below 1e-35) stays 0 and gets no gradient.

    >>> unit(torch.tensor([[3.0, 4.0], [3e-25, 4e-25], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    x = scaled(x, dim)
    square = x.square().sum(dim, keepdim=True)
    return x * torch.where(square > 0, square, 1).rsqrt()


def centred_unit(x, dim):
    """Subtract the mean along `dim` and divide by the length; also give a mask, True where x is
    constant up to rounding. There the result is 0: the direction would be noise."""
    size = x.square().sum(dim, keepdim=True)
    x = x - x.mean(dim, keepdim=True)
    spread = x.square().sum(dim, keepdim=True)
    constant = spread <= (64 * torch.finfo(x.dtype).eps) ** 2 * size
    return (x / spread.masked_fill(constant, 1).sqrt()).masked_fill(constant, 0), constant


def root(square) -> torch.Tensor:
    """Take the square root, with the gradient 0 instead of infinity at 0; of NaN it is NaN."""
    positive = ~(square <= 0)
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)
