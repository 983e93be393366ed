"""What a transformer's attention adds up to over its layers.

Shapes: B batch, A attention heads, N tokens.
"""

import torch

from kdcourse.losses import inputs


def attention_rollout(maps) -> torch.Tensor:
    r"""From which inputs each token of the last layer has taken what it holds: [B, N, N].

    .. math:: R_0 = I, \qquad R_l = \tfrac{1}{2}\,(\bar A_l + I)\, R_{l-1}

    Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3
    (arXiv:2005.00928). :math:`\bar A_l` is the attention of layer l, averaged over its heads; the
    identity stands for the connection around it, by which a token keeps what it had.

    maps: attention after the softmax, one tensor for each layer in their order, from the first to
        the last: each [B, A, N, N], or [B, N, N] where the heads are averaged already.

    Rows sum to 1, as those of attention do. Row 0 is the class token's: without its first entry,
    which is the class token itself, it is a map over the patches. In float32 at least; gradients
    flow through. On the device of the first layer.

    The values and the MLPs are left out, so it says where information *can* come from, not what
    the answer depends on.

    Raises `ValueError` for no maps, for tensors of another shape, and for layers with different
    numbers of samples or tokens.

    >>> half = torch.full((1, 1, 2, 2), 0.5)
    >>> attention_rollout([half])  # half of it by attention, half of it by staying
    tensor([[[0.7500, 0.2500],
             [0.2500, 0.7500]]])
    """
    rollout = None
    for number, given in enumerate(maps, start=1):
        layer_BNN = _averaged(given, number)
        identity = torch.eye(layer_BNN.shape[2], dtype=layer_BNN.dtype, device=layer_BNN.device)
        layer_BNN = (layer_BNN + identity) / 2
        if rollout is not None:
            layer_BNN = layer_BNN.to(rollout.device)
        if rollout is not None and rollout.shape != layer_BNN.shape:
            raise ValueError(f"Expected as many samples and tokens in every layer, got "
                             f"{list(rollout.shape)} up to layer {number - 1} and "
                             f"{list(layer_BNN.shape)} in layer {number}.")
        rollout = layer_BNN if rollout is None else _product(layer_BNN, rollout)
    if rollout is None:
        raise ValueError("Expected the attention of at least one layer, got none.")
    return rollout


@inputs.full_precision
def _product(left, right):
    return left @ right


def _averaged(given, number: int) -> torch.Tensor:
    """The attention of a layer, averaged over its heads, [B, N, N]."""
    square = isinstance(given, torch.Tensor) and given.ndim in (3, 4) and (
        given.shape[-1] == given.shape[-2]) and given.is_floating_point()
    if not square or 0 in given.shape:
        seen = list(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
        raise ValueError(f"Expected attention of shape [B, heads, N, N] in layer {number}, got "
                         f"{seen}. Fused attention has no map to tap: recompute it from queries "
                         "and keys, softmax(q kᵀ / √d).")
    given = inputs.floats(given)
    return given.mean(1) if given.ndim == 4 else given
