"""Attention of a transformer over all its layers.

Shapes: B batch, N tokens.
"""

import torch

from kdcourse.losses import inputs


def attention_rollout(maps) -> torch.Tensor:
    r"""Multiply the attention of all layers: how much of each input token is in each output token.

    .. math:: R_0 = I, \qquad R_l = \tfrac{1}{2}\,(\bar A_l + I)\, R_{l-1}

    Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3
    (arXiv:2005.00928). :math:`\bar A_l` is the attention of layer l, averaged over its heads; the
    identity stands for the residual connection. Values and MLPs are left out: the result shows
    where information *can* come from, not what the answer depends on.

    maps: attention after the softmax, one tensor for each layer, from the first to the last: each
        [B, heads, N, N], or [B, N, N] where the heads are averaged already.

    Returns [B, N, N] on the device of the first layer, in float32 at least; rows sum to 1, and
    gradients flow through. Row 0 without its first entry is the class token's map over the patches.
    Raises `ValueError` for no maps, other shapes, rows that do not sum to 1, and layers of
    different shapes.

    >>> attention_rollout([torch.full((1, 1, 2, 2), 0.5)])  # (attention + identity) / 2
    tensor([[[0.7500, 0.2500],
             [0.2500, 0.7500]]])
    """
    layers = _averaged(maps)
    rollout = identity = torch.eye(layers[0].shape[2]).to(layers[0])
    for layer in layers:
        rollout = _product((layer.to(identity.device) + identity) / 2, rollout)
    return rollout


_product = inputs.full_precision(torch.matmul)


def _averaged(maps) -> list[torch.Tensor]:
    """Check the attention of each layer, and average it over the heads: [B, N, N]."""
    layers = []
    for number, layer in enumerate(maps, start=1):
        got = list(layer.shape) if isinstance(layer, torch.Tensor) else type(layer).__name__
        if not isinstance(layer, torch.Tensor) or not layer.is_floating_point() or 0 in got or (
                layer.ndim not in (3, 4) or got[-1] != got[-2]):
            raise ValueError(f"Expected attention of shape [B, heads, N, N] in layer {number}, got "
                             f"{got}. Fused attention has no map to tap: recompute it from queries "
                             "and keys, softmax(q kᵀ / √d).")
        layer = inputs.floats(layer)
        layers.append(layer.mean(1) if layer.ndim == 4 else layer)
        if layers[-1].shape != layers[0].shape:
            raise ValueError(f"Expected as many samples and tokens in every layer, got "
                             f"{list(layers[0].shape)} up to layer {number - 1} and "
                             f"{list(layers[-1].shape)} in layer {number}.")
    if not layers:
        raise ValueError("Expected the attention of at least one layer, got none.")
    for number, layer in enumerate(layers, start=1):
        if not ((layer >= 0).all() & ((layer.sum(2) - 1).abs() < 1e-2).all()):  # also for NaN
            raise ValueError("Expected attention after the softmax, whose rows sum to 1, got other "
                             f"rows in layer {number}. Take the softmax of scores, and switch "
                             "dropout off (eval mode).")
    return layers
