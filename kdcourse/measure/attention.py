"""What a transformer's attention adds up to over its layers.

Shapes: B batch, N tokens.
"""

import torch

from kdcourse.losses import inputs


def attention_rollout(maps) -> torch.Tensor:
    r"""Multiply the attention of all layers: how much of each input token is in each output token.

    .. math:: R_0 = I, \qquad R_l = \tfrac{1}{2}\,(\bar A_l + I)\, R_{l-1}

    Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3
    (arXiv:2005.00928). :math:`\bar A_l` is the attention of layer l, averaged over its heads; the
    identity stands for the residual connection. Values and MLPs are left out: it says where
    information *can* come from, not what the answer depends on.

    maps: attention after the softmax, one tensor for each layer, from the first to the last: each
        [B, heads, N, N], or [B, N, N] where the heads are averaged already.

    Returns [B, N, N] on the device of the first layer, in float32 at least; rows sum to 1, and
    gradients flow through. Row 0 without its first entry is the class token's map over the patches.
    Raises `ValueError` for no maps, other shapes, and layers of different shapes.

    >>> half = torch.full((1, 1, 2, 2), 0.5)
    >>> attention_rollout([half])  # half of it by attention, half of it by the connection around it
    tensor([[[0.7500, 0.2500],
             [0.2500, 0.7500]]])
    """
    rollout = None
    for number, given in enumerate(maps, start=1):
        layer = _averaged(given, number)
        layer = (layer + torch.eye(layer.shape[2], dtype=layer.dtype, device=layer.device)) / 2
        if rollout is None:
            rollout = layer
            continue
        if rollout.shape != layer.shape:
            raise ValueError(f"Expected as many samples and tokens in every layer, got "
                             f"{list(rollout.shape)} up to layer {number - 1} and "
                             f"{list(layer.shape)} in layer {number}.")
        rollout = _product(layer.to(rollout.device), rollout)
    if rollout is None:
        raise ValueError("Expected the attention of at least one layer, got none.")
    return rollout


@inputs.full_precision
def _product(left, right):
    return left @ right


def _averaged(given, number: int) -> torch.Tensor:
    """Average the attention of a layer over its heads: [B, N, N]."""
    shape = list(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
    if isinstance(shape, str) or not given.is_floating_point() or 0 in shape or (
            len(shape) not in (3, 4) or shape[-1] != shape[-2]):
        raise ValueError(f"Expected attention of shape [B, heads, N, N] in layer {number}, got "
                         f"{shape}. Fused attention has no map to tap: recompute it from queries "
                         "and keys, softmax(q kᵀ / √d).")
    given = inputs.floats(given)
    return given.mean(1) if given.ndim == 4 else given
