"""Layouts: which place of the image each token of a layer stands for, and which axis is channels.

B batch, C channels, D features, H W height and width, N tokens.
"""

import math
import re
from typing import NamedTuple

import torch
from torch import nn

PREFIXES = (0, 1, 2, 4, 5)  # leading tokens in use: none, class, distillation, registers
LEADING = ("cls_token", "class_token", "class_embedding", "dist_token", "distillation_token",
           "reg_token", "register_tokens")  # their parameters in timm, torchvision, transformers


class Layout(NamedTuple):
    """What is stated about a tensor.

    grid: height and width of the grid of tokens [B, N, D]. prefix: the number of leading tokens
    that stand for no place (class, distillation, registers). like: another layer's grid, for one of
    the same ratio of height and width. channels_last: True for maps [B, H, W, C], None where both
    orders are possible. order: of tokens, None for row by row; "units", another one, the same in
    each pass; "random"; "blocks" for tokens [B, blocks, N, D].
    """

    grid: tuple[int, int] | None = None
    prefix: int | None = None
    like: tuple[int, int] | None = None
    channels_last: bool | None = False
    order: str | None = None


def parsed(text: str) -> Layout:
    """Read a layout as it is written in a path, behind "@".

    >>> parsed("1+9x16")
    Layout(grid=(9, 16), prefix=1, like=None, channels_last=False, order=None)
    """
    found = re.fullmatch(r"(?:(\d+)\+)?(\d+)x(\d+)|BHWC|BCHW", text)
    if not found:
        raise ValueError(f"Expected a layout such as \"9x16\" (height and width of a grid of "
                         f"tokens), \"1+9x16\" (behind one class token), \"BHWC\" or \"BCHW\" "
                         f"behind the @ of a path, got {text!r}.")
    prefix, height, width = found.groups()
    if height is None:
        return Layout(channels_last=text == "BHWC")
    return Layout((int(height), int(width)), None if prefix is None else int(prefix))


def arranged(x: torch.Tensor, layout: Layout, who: str) -> torch.Tensor:
    """Give a tensor as a map [B, C, H, W]; a vector [B, D] becomes a map of 1x1.

    Raises `ValueError` for tokens that do not have the stated layout, and where none is stated and
    not exactly one is plausible (see `readings`).
    """
    if x.ndim == 4:
        if layout.order == "blocks":
            raise ValueError(
                f"Expected {who} features as a map, got {list(x.shape)}, whose sides are not in "
                "the ratio of the model's patches: tokens in blocks, [B, blocks, N, D] (NesT)? Tap "
                "the end of the stage, such as \"levels.1\", where they are a map again, or state "
                "that it is one: \"levels.1@BHWC\".")
        if layout.channels_last is None or layout.grid is not None:
            raise ValueError(
                f"Expected {who} features whose axis of channels is known, got {list(x.shape)}: "
                "channels first, [B, C, H, W], or last, [B, H, W, C]? State it in the path, as in "
                "\"features.3@BHWC\" or \"features.3@BCHW\"." if layout.grid is None else
                f"Expected {who} tokens [B, N, D] to lay out on a grid, got {list(x.shape)}.")
        return x.permute(0, 3, 1, 2) if layout.channels_last else x
    if layout.channels_last:
        raise ValueError(f"Expected a {who} map [B, H, W, C], got {list(x.shape)}.")
    if x.ndim == 2:
        return x[:, :, None, None]
    if layout.order is not None:
        raise ValueError(
            f"Expected {who} tokens that lie row by row, got {list(x.shape)} of a model that has "
            "them in another order (Hiera: mask units). Put them into rows in a wrapper of it (its "
            "`reroll`); where those of a layer are in rows again, state it in the path, "
            "\"blocks.11@7x7\"." if layout.order == "units" else random_order(who, list(x.shape)))
    found = readings(x.shape[1], layout.grid, layout.prefix, layout.like)
    if len(found) != 1:
        raise ValueError(_unclear(x, layout, who, found))
    prefix, height, width = found[0]
    return x[:, prefix:].transpose(1, 2).unflatten(2, (height, width))


def random_order(who: str, shape: list[int]) -> str:
    """Say that tokens of a random order cannot be compared."""
    return (f"Expected {who} tokens of all places in one order, got {shape} of a model that drops "
            "or shuffles patches at random. Switch that off (patch_drop_rate=0), or take a model "
            "without it (a ViT in the place of a ViTMAE).")


def readings(N: int, grid=None, prefix: int | None = None, like=None) -> list[tuple]:
    """List the plausible layouts of N tokens as (leading tokens, height, width).

    A stated grid leaves one, or none. Beside a grid that is known (`like`), those of the same ratio
    of height and width, behind 0, 1, 2, 4 or 5 leading tokens. Else square grids, as nearly all
    published transformers have, and with each the other grids of as many places that are not longer
    than twice their shorter side: 144 tokens can be 12 x 12, 9 x 16 or 16 x 9, while 196 can only
    be 14 x 14. Other grids behind another number of leading tokens are not considered without
    `like`, since every s² is also 1 + (s - 1)(s + 1).

    >>> readings(197), readings(145, like=(9, 16)), len(readings(144))
    ([(1, 14, 14)], [(1, 9, 16)], 3)
    """
    prefixes = PREFIXES if prefix is None else (prefix,)
    if grid is not None:
        extra = N - grid[0] * grid[1]
        return [(extra, *grid)] if extra in prefixes else []
    found = []
    for p in prefixes:
        places = N - p
        if places < 1 or (p > 0 and places == 1):  # one patch needs no class token
            continue
        if like is not None and tuple(like) != (1, 1):
            unit = math.gcd(*like)
            height, width = like[0] // unit, like[1] // unit
            times = math.isqrt(places // (height * width))
            if times**2 * height * width == places:
                found.append((p, times * height, times * width))
        elif math.isqrt(places)**2 == places:
            found += [(p, h, places // h) for h in range(1, math.isqrt(2 * places) + 1)
                      if places % h == 0 and 2 * h * h >= places]
    return found


def _unclear(x, layout: Layout, who: str, found: list[tuple]) -> str:
    """Say why tokens cannot be laid out, and how to state their layout."""
    if layout.grid is not None:
        height, width = layout.grid
        before = "0, 1, 2, 4 or 5" if layout.prefix is None else layout.prefix
        return (f"Expected {who} tokens for a grid of {height} x {width} places behind {before} "
                f"leading tokens, got {list(x.shape)}.")
    square = layout.like is None or layout.like[0] == layout.like[1]
    kind = "a square grid" if square else "a grid in the ratio of {} x {}".format(*layout.like)
    could = " or ".join(f"{h} x {w} behind {p}" for p, h, w in found[:4])
    return (f"Expected {who} tokens that fill {kind} behind a known number of leading tokens "
            f"({', '.join(map(str, PREFIXES))} are tried), got {list(x.shape)}"
            f"{', which could be ' + could if found else ''}. State the grid: in the path, "
            "\"blocks.3@9x16\" (\"blocks.3@1+9x16\" behind one class token), or "
            "as_map(x, grid=(9, 16), prefix=1).")


# --- what a model states ------------------------------------------------------------------------


class Grid:
    """A forward hook on the convolution that cuts images into patches: the size of its output."""

    size: tuple[int, int] | None = None
    users = 1

    def __call__(self, module, args, output):
        if output.ndim == 4:
            self.size = tuple(output.shape[2:])

    def layout(self, N: int, prefix: int) -> Layout | None:
        """Give the layout of N tokens in a model with so many leading tokens; some of its layers
        have none yet, and some have a coarser grid."""
        if self.size is None:
            return None
        extra = N - self.size[0] * self.size[1]
        return Layout(self.size, extra) if extra in (0, prefix) else Layout(like=self.size)

    def has_ratio(self, height: int, width: int) -> bool:
        """Whether the sides are about in the ratio of those of the patches, as in a coarser map."""
        if self.size is None:
            return True
        one, other = height * self.size[1], width * self.size[0]
        return max(one, other) <= 2 * min(one, other)


def patches(modules: dict[str, nn.Module], path: str):
    """Find the convolution that makes the tokens of a module, the number of leading tokens, and
    their order: None, "units", "blocks", "random", or a module in whose train mode it is random.

    Looks in the module and those around it for what timm ("patch_embed"), torchvision ("conv_proj")
    and transformers ("embeddings") call it, and nearly every transformer of one's own.
    """
    names = path.split(".")
    for depth in range(len(names), -1, -1):
        owner = modules.get(".".join(names[:depth]))
        for name in ("patch_embed", "conv_proj", "embeddings"):
            part = getattr(owner, name, None)
            convs = [m for m in part.modules() if isinstance(m, nn.Conv2d)] if isinstance(
                part, nn.Module) else []
            if convs:
                stated = getattr(owner, "num_prefix_tokens", None)
                counted = sum(p.shape[1] if p.ndim == 3 else 1 for m in (owner, part)
                              for name, p in m.named_parameters(recurse=False) if name in LEADING)
                order = _order(owner, part)
                if path.startswith(".".join(filter(None, [*names[:depth], name]))) and (
                        part is modules.get(path) or "patch_embeddings" in names):
                    order = None  # the patches before all else
                if _in_blocks(modules, names):
                    order = "blocks"
                return convs[-1], stated if isinstance(stated, int) else counted, order
    return None


def _in_blocks(modules: dict[str, nn.Module], names: list[str]) -> bool:
    """Whether a module works on blocks of tokens, [B, blocks, N, D], in a level of NesT of timm."""
    return any(names[depth : depth + 1] == ["transformer_encoder"]
               and hasattr(modules.get(".".join(names[:depth])), "block_size")
               for depth in range(len(names)))


def _order(owner: nn.Module, part: nn.Module):
    """Find the order of the tokens of a model by the names in use."""
    if hasattr(part, "random_masking"):  # ViTMAE of transformers
        return "random"
    if hasattr(owner, "unroll") or hasattr(owner, "unroll_schedule"):  # Hiera
        return "units"
    drop = getattr(owner, "patch_drop", None)  # timm
    return drop if getattr(drop, "prob", 0) else None


def oblong(args, kwargs) -> tuple[int, int] | None:
    """Find the height and width of images [B, C, H, W] among a model's inputs, unless they are
    square: then tokens are laid out as without them."""
    for x in (*args, *kwargs.values()):
        if isinstance(x, torch.Tensor) and x.ndim == 4:
            return tuple(x.shape[2:]) if x.shape[2] != x.shape[3] else None
    return None


def widths(modules: dict[str, nn.Module], path: str) -> tuple[set[int], set[int]]:
    """Collect the numbers of channels of the layers in a module, or in the nearest one around it
    that has such layers: of those that have their channels on the second axis, and of those that
    have them on the last (linear layers, layer normalisation)."""
    first, last, names = set(), set(), path.split(".")
    for depth in range(len(names), -1, -1):
        for layer in getattr(modules.get(".".join(names[:depth])), "modules", list)():
            if isinstance(layer, nn.Linear):
                last |= {layer.in_features, layer.out_features}
            elif isinstance(layer, nn.LayerNorm):
                last.add(layer.normalized_shape[-1])
            else:
                first |= {getattr(layer, name, None) for name in
                          ("in_channels", "out_channels", "num_features", "num_channels")}
        first = {width for width in first if isinstance(width, int)}
        if first or last:
            break
    return first, last


def channels_last(shape, first: set[int], last: set[int]) -> bool | None:
    """Tell from the `widths` of a module whether its output [B, …] has the channels last; None
    where both orders are possible."""
    channels_first = shape[1] in first or shape[1] in last
    if shape[3] in last:
        return None if channels_first else True
    square = shape[1] == shape[2] != shape[3]  # as [B, H, W, C] of a module without such layers
    return None if square and not channels_first else False
