"""Networks that begin with weights of a larger one: with some of its layers and coordinates."""

import functools
import re
from fractions import Fraction

import torch
from torch import nn

from kdcourse._modules import copied
from kdcourse._random import generator
from kdcourse.taps import unwrapped

# Attention whose layout is known, with as many features for queries, keys and values: the number of
# heads, the layers that make these (one after the other where there is one layer), the layer that
# reads what the heads found. Features of a head are neighbours.
ATTENTION = {
    "kdcourse.models.language.Attention": ("heads", ("query", "key", "value"), "proj"),
    "timm.layers.attention.Attention": ("num_heads", ("qkv",), "proj"),
    "timm.models.vision_transformer.Attention": ("num_heads", ("qkv",), "proj"),  # before 1.0.17
    "torch.nn.modules.activation.MultiheadAttention": ("num_heads", ("in_proj",), "out_proj"),
    "transformers.models.gpt2.modeling_gpt2.GPT2Attention": ("num_heads", ("c_attn",), "c_proj"),
    "transformers.models.bert.modeling_bert.BertAttention": (
        "self.num_attention_heads", ("self.query", "self.key", "self.value"), "output.dense"),
    "transformers.models.distilbert.modeling_distilbert.DistilBertSelfAttention": (
        "n_heads", ("q_lin", "k_lin", "v_lin"), "out_lin"),
}
LAYERS = ("first", "even")


@torch.no_grad()
def select(small: nn.Module, big: nn.Module, layers: str = "first", heads: bool = True, without=(),
           scrambled: bool = False, seed: int = 0) -> nn.Module:
    r"""Begin a small network with weights of a larger one of its kind: a copy of `small` in which
    every tensor is cut out of that of `big`.

    "Weight selection" (Xu et al. 2023, arXiv:2311.18823, section 3): of the layers the first; of
    each axis evenly spaced elements, with s of b elements those at

    .. math:: 0, \tfrac{b}{s}, \tfrac{2b}{s}, … \ \text{where s divides b, else} \
        \mathrm{round}\left(i\, \tfrac{b - 1}{s - 1}\right),\ i = 0, …, s - 1.

    So axes of one pair of sizes, such as all that hold the features of a token, get the same
    elements. Buffers, such as the means of batch normalisation, are cut as weights are.

    layers: "first"; or "even", round(i (b - 1) / (s - 1)), of 12 those of DistilBERT.
    heads: True chooses heads, and in each of them the same coordinates for queries and keys, as
        their products are summed there; known are `gpt`, `bert`, `vit` and other transformers of
        timm with its `Attention`, those of torchvision, and GPT-2, BERT and DistilBERT of
        transformers; in others each axis is cut as it is. False does that everywhere, as the
        authors' code (OscarXZQ/weight-selection, commit e9b6d0c), where a head of the small network
        gets parts of several heads and, where s does not divide b, queries and keys in one tensor
        get different coordinates.
    without: paths of modules that stay as they are in `small`, such as ["head"]: a last layer for
        other classes, of which the authors take nothing either.
    scrambled: a control: other elements for every tensor and axis, in random order by `seed`. Each
        element is still that of the same tensor, but no axis fits another. Words and places
        (embeddings, kernels) stay in order.

    Published: ViT-T reaches 81.4 % on CIFAR-100 when it begins with ViT-S, 72.4 % from a random
    start (README of their code).

    Raises `TypeError` for what is no network; `ValueError` where `big` has no such tensor, another
    kind of layer, a shorter axis, another vocabulary, number of places or size of kernels, fewer
    or narrower heads, or queries, keys and values in one tensor of a layout that is not known.

    >>> from kdcourse.models import gpt
    >>> small, big = gpt(50, dim=16, depth=1, heads=2), gpt(50, dim=32, depth=3, heads=4)
    >>> start = select(small, big)
    >>> torch.equal(start.tokens.weight, big.tokens.weight[:, ::2])
    True
    """
    for model in (small, big):
        if not isinstance(model, nn.Module):
            raise TypeError(f"Expected two networks (nn.Module), got {type(model).__name__}.")
    if layers not in LAYERS:
        raise ValueError(f'Expected layers "first" or "even", got {layers!r}.')
    small, big = copied(unwrapped(small)), unwrapped(big)
    paths, source, taken = _paths(small, big, layers), big.state_dict(keep_vars=True), {}
    split, split_big = (_head_axes(model) if heads else {} for model in (small, big))
    for name, target in small.state_dict(keep_vars=True).items():
        path, _, last = name.rpartition(".")
        if any(f"{path}.".startswith(f"{left}.") for left in without) or (
                not isinstance(target, torch.Tensor)):
            continue
        name_big = f"{paths[path]}.{last}".lstrip(".")
        value = source.get(name_big)
        if value is None or value.ndim != target.ndim:
            raise ValueError(f"Expected a larger network with a tensor such as {name!r}, got "
                             f"{'none' if value is None else list(value.shape)} at {name_big!r}. "
                             "Take two of one kind, or leave this module out: without=[…].")
        if id(target) in taken:  # under another name
            if taken[id(target)] is not value:
                raise ValueError(f"Expected {name!r} to be shared in the larger network as in the "
                                 "small one. Make both tied, or neither.")
            continue
        taken[id(target)] = value
        module, module_big = small.get_submodule(path), big.get_submodule(paths[path])
        if type(module) is not type(module_big):
            raise ValueError(f"Expected layers of one kind, got {type(module).__name__} at {path!r}"
                             f" and {type(module_big).__name__} in the larger network.")
        if value.shape != target.shape:
            _check_groups(module, module_big, path)
        for axis, (size, size_big) in enumerate(zip(target.shape, value.shape, strict=True)):
            where = f"{name!r}, axis {axis}"
            if _counts_places(module, target, axis):
                if size != size_big:
                    raise ValueError(
                        f"Expected as many words, places or sides of a kernel, got {size} and, in "
                        f"the larger network, {size_big} ({where}). Make both networks alike here.")
                continue
            if size > size_big:
                raise ValueError(f"Expected at most the {size_big} elements of the larger network, "
                                 f"got {size} ({where}).")
            if scrambled:
                chosen = torch.randperm(size_big, generator=generator(seed, name, axis))[:size]
            elif name in split and split[name][0] == axis:
                chosen = _of_heads(split[name], split_big.get(name_big), where)
            else:
                if heads and size < size_big and name not in split and _looks_fused(path, last):
                    raise ValueError(
                        f"Expected attention of a known layout, got {where}: it looks like queries,"
                        " keys and values in one tensor. heads=False cuts it as one axis.")
                chosen = evenly(size_big, size)
            value = value.index_select(axis, torch.as_tensor(chosen).to(value.device))
        target.copy_(value)
    return small


def every_other(model: nn.Module, layers=None, blocks: str | None = None) -> nn.Module:
    """Copy a network with some of its blocks only, as DistilBERT begins: 0, 2, 4, 7, 9 and 11 of
    the twelve of BERT (Sanh et al. 2019, arXiv:1910.01108, section 3; the numbers are in
    scripts/extract_distilbert.py of huggingface/transformers-research-projects, distillation/).

    model: any network with one list of blocks of one class (`nn.ModuleList`, `nn.Sequential`): ours
        (`gpt`, `bert`, `vit`), and most of timm and transformers, whose config gets the new number.
    layers: the numbers of the blocks that stay, in increasing order; None: 0, 2, 4 …
    blocks: the path of the list where there are several; of two stacks, such as encoder and
        decoder, the numbers in a config stay as they are.

    Raises `ValueError` where the list is not clear, and for numbers that are not increasing or not
    those of a block.

    >>> from kdcourse.models import gpt
    >>> len(every_other(gpt(50, dim=16, depth=3)).blocks)  # 0 and 2
    2
    """
    model = copied(unwrapped(model))
    stacks = {path: part for path, part in model.named_modules() if _is_stack(part)}
    stacks = {path: part for path, part in stacks.items() if not any(
        path != outer and f"{path}.".startswith(f"{outer}." if outer else "") for outer in stacks)}
    if (blocks is None and len(stacks) != 1) or (blocks is not None and blocks not in stacks):
        raise ValueError(f"Expected one list of blocks of one class, got {list(stacks) or 'none'}."
                         " Say which: blocks=\"encoder.layer\".")
    stack = next(iter(stacks.values())) if blocks is None else stacks[blocks]
    count = len(stack)
    kept = list(range(0, count, 2) if layers is None else layers)
    if not kept or sorted({*kept} & {*range(count)}) != kept:
        raise ValueError(f"Expected increasing numbers of blocks from 0 to {count - 1}, got "
                         f"{kept}.")
    for number in reversed(range(count)):
        if number not in kept:
            del stack[number]
    for number, block in enumerate(stack):  # transformers finds keys and values by this number
        for part in block.modules():
            if hasattr(part, "layer_idx"):
                part.layer_idx = number
    configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}
    for config in configs.values() if len(stacks) == 1 else ():
        if getattr(config, "num_hidden_layers", None) == count:
            config.num_hidden_layers = len(kept)
            if getattr(config, "layer_types", None):
                config.layer_types = [config.layer_types[number] for number in kept]
    if hasattr(model, "spec"):
        model.spec += f" with blocks {', '.join(map(str, kept))}"
    return model


def evenly(big: int, small: int) -> list[int]:
    """Give the evenly spaced elements of weight selection: `small` of `big`.

    >>> evenly(12, 6), evenly(5, 3), evenly(5, 1)
    ([0, 2, 4, 6, 8, 10], [0, 2, 4], [0])
    """
    return _spread(big, small) if big % small else [i * (big // small) for i in range(small)]


def _spread(big: int, small: int) -> list[int]:
    """Spread numbers from the first to the last; halves are rounded to even, in whole numbers, as
    floats differ between machines."""
    return [round(Fraction(i * (big - 1), max(small - 1, 1))) for i in range(small)]


def _paths(small: nn.Module, big: nn.Module, layers: str) -> dict[str, str]:
    """Give the path in the larger network for each of the small one: some blocks of a list."""
    modules, paths, numbers = dict(big.named_modules(remove_duplicate=False)), {"": ""}, {}
    for path, part in small.named_modules(remove_duplicate=False):
        outer, _, name = path.rpartition(".")
        if path:
            name = numbers.get(outer, {}).get(name, name)
            paths[path] = f"{paths[outer]}.{name}".lstrip(".")
        other = modules.get(paths[path])
        both = isinstance(part, _LISTS) and isinstance(other, _LISTS)
        if both and len(part) != len(other):
            if len(part) > len(other) or len({type(block) for block in (*part, *other)}) > 1:
                raise ValueError(f"Expected at most the {len(other)} layers of the larger network, "
                                 f"all of one class, got {len(part)} at {path!r}.")
            if layers == "even":
                numbers[path] = {str(i): str(number) for i, number in
                                 enumerate(_spread(len(other), len(part)))}
    return paths


_LISTS = (nn.ModuleList, nn.Sequential)


def _is_stack(part: nn.Module) -> bool:
    return (isinstance(part, _LISTS) and len(part) > 1 and len({type(one) for one in part}) == 1
            and any(True for _ in part.parameters()))


def _head_axes(model: nn.Module) -> dict[str, tuple[int, int, int, int]]:
    """Give for tensors of known attention the axis of heads, and what lies on it: how many of
    queries, keys and values, heads in each, features in each head."""
    found = {}
    for path, part in model.named_modules(remove_duplicate=False):
        kind = f"{type(part).__module__}.{type(part).__qualname__}"
        if kind not in ATTENTION:
            continue
        count, makers, reader = ATTENTION[kind]
        heads = functools.reduce(getattr, count.split("."), part)
        out = int(type(part.get_submodule(reader)).__name__ == "Conv1D")  # its weight is [in, out]
        width = part.get_submodule(reader).weight.shape[1 - out]
        axes = {f"{reader}.weight": 1 - out, **{f"{maker}.weight": out for maker in makers},
                **{f"{maker}.bias": 0 for maker in makers}}
        for name, tensor in part.named_parameters():
            axis = axes.get(name.replace("in_proj_", "in_proj."))
            if axis is not None:
                found[f"{path}.{name}".lstrip(".")] = (
                    axis, tensor.shape[axis] // width, heads, width // heads)
    return found


def _looks_fused(path: str, last: str) -> bool:
    """Whether a tensor has a name in use for several of queries, keys and values together."""
    name = f"{path.rpartition('.')[2]} {last}"
    return re.search(r"qkv|query_key_value|c_attn|in_proj|kv", name, re.I) is not None


def _check_groups(module: nn.Module, other: nn.Module, path: str) -> None:
    """Raise `ValueError` for convolutions in groups of several channels, which evenly spaced
    channels would take apart."""
    groups = [getattr(one, "groups", 1) for one in (module, other)]
    alone = [getattr(one, "in_channels", None) for one in (module, other)]
    if groups not in ([1, 1], alone):
        raise ValueError(f"Expected convolutions of one group, or with a group for each channel, "
                         f"got {groups[0]} and {groups[1]} groups at {path!r}.")


def _of_heads(small: tuple, big: tuple | None, where: str) -> list[int]:
    """Choose heads evenly, and coordinates evenly in each; of queries, keys and values alike."""
    _, parts, heads, width = small
    _, parts_big, heads_big, width_big = big or (0, 0, 0, 0)
    if parts != parts_big or heads > heads_big or width > width_big:
        raise ValueError(f"Expected at most {heads_big} heads with at most {width_big} features, "
                         f"as in the larger network, got {heads} with {width} ({where}). Make the "
                         "small network with other heads; heads=False mixes them.")
    return [(part * heads_big + head) * width_big + feature for part in range(parts)
            for head in evenly(heads_big, heads) for feature in evenly(width_big, width)]


def _counts_places(module: nn.Module, tensor: torch.Tensor, axis: int) -> bool:
    """Whether an axis is of words, places or the sides of a kernel, of which none may be left."""
    if isinstance(module, nn.Embedding):
        return axis == 0
    tokens = tensor.ndim == 3 and tensor.shape[0] == 1  # positions [1, N, D]
    return (axis >= 2 and hasattr(module, "kernel_size")) or (tokens and axis == 1)
