"""Queries, keys and values in one tensor [B, N, 3 D]: of which features each consists.

* "concatenated": all queries, all keys, all values, a third of the features each: most of timm's
  transformers (ViT, DeiT, Swin, EVA), GPT-2 ("c_attn"), MPT ("Wqkv");
* "per head": query, key and value of the first attention head, then those of the second, and so on:
  GPT-NeoX, BLOOM, Persimmon ("query_key_value"), timm's TinyViT. How many attention heads there are
  is `heads` of the term; where that is a number of relation heads, the number is stated instead.

The shape is the same, so the order is stated. Other tensors have neither order: of grouped queries
(Falcon, Phi-3: fewer keys and values than queries), and of keys narrower than values (LeViT). Cut
those in the model, and tap the parts.

B batch, N tokens, D features, d of a head.
"""

import re

import torch

from kdcourse.losses import inputs

ORDERS = ("concatenated", "per head")


def stated(fused) -> tuple:
    """Give what `fused` states for student and teacher, as a pair. Raises `ValueError`."""
    pair = tuple(fused) if isinstance(fused, tuple | list) else (fused, fused)
    known = all(how is None or how is False or how in ORDERS or _is_count(how) for how in pair)
    inputs.check(len(pair) == 2 and known, 'fused "concatenated", "per head", the number of '
                 "attention heads, None, False, or a pair of them", repr(fused),
                 "True does not say where queries, keys and values lie."
                 if any(how is True for how in pair) else "")
    return pair


def looks_fused(path: str) -> bool:
    """Tell whether a module has a name in use for queries, keys and values in one tensor.

    >>> [looks_fused(path) for path in ("blocks.1.attn.qkv", "h.0.attn.c_attn#2", "self.value")]
    [True, True, False]
    """
    name = re.split(r"[#\[@]", path)[0].rsplit(".", 1)[-1]
    return re.fullmatch(r"\w*qkv\w*|query_key_value|c_attn|in_proj", name, re.I) is not None


def separated(x, fused, heads: int | None, who: str) -> list[torch.Tensor]:
    """Separate queries, keys and values, each [B, N, D], out of one tensor [B, N, 3 D].

    fused: "concatenated", "per head", or the number of attention heads. Raises `ValueError` for
    None, other shapes, and widths that cannot be cut so.

    >>> x = torch.tensor([[[1.0, 2, 3, 4, 5, 6]]])  # two heads, with d = 1
    >>> [part.tolist() for part in separated(x, "concatenated", 2, "the")]
    [[[[1.0, 2.0]]], [[[3.0, 4.0]]], [[[5.0, 6.0]]]]
    >>> [part.tolist() for part in separated(x, "per head", 2, "the")]
    [[[[1.0, 4.0]]], [[[2.0, 5.0]]], [[[3.0, 6.0]]]]
    """
    x, kind = inputs.features(x, who, 3), f"{who} queries, keys and values"
    if not fused:
        raise ValueError(f"Expected three tensors of {kind}, or how they lie in one, got "
                         f'{list(x.shape)}. Write fused="concatenated" (timm\'s ViT, GPT-2) or '
                         '"per head" (GPT-NeoX, BLOOM).')
    count = 1 if fused == "concatenated" else heads if fused == "per head" else fused
    if count is None:
        raise ValueError(f"Expected the number of attention heads of {kind} that lie per head, got "
                         "none. State heads=4, or fused=4 where `heads` are relation heads.")
    if x.shape[2] % (3 * count):
        order = "a third of the features each" if count == 1 else f"of {count} attention heads"
        raise ValueError(f"Expected {kind} in one tensor [B, N, 3 D], {order}, got "
                         f"{list(x.shape)}. Or tap the three, one after the other.")
    parts = x.unflatten(2, (count, 3, -1)).unbind(3)
    return [part.flatten(2) for part in parts]


def _is_count(how) -> bool:
    return isinstance(how, int) and not isinstance(how, bool) and how >= 1
