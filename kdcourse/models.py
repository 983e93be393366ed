"""Small reference networks, and what one sees of any network.

Shapes: B batch, K classes, C channels, H W height and width, N samples. Every network takes inputs
in [0, 1] and normalises them itself, so that a teacher and a student may differ in that.
"""

import contextlib
import copy
import dataclasses
import difflib
import functools
import inspect
import itertools
import re

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse import _files


@dataclasses.dataclass
class View:
    """What a model says about a batch: `logits` [B, K], tapped tensors by module path, and the
    sample ids `index` [B] where a scheme knows them."""

    logits: torch.Tensor
    taps: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    index: torch.Tensor | None = None

    def detached(self) -> "View":
        """The same numbers, through which no gradient flows."""
        taps = {name: tensor.detach() for name, tensor in self.taps.items()}
        return View(self.logits.detach(), taps, self.index)


def logits_of(output) -> torch.Tensor:
    """The logits in a model's output: a tensor, a tuple's first entry, or a `.logits` field."""
    if hasattr(output, "logits"):
        output = output.logits
    if isinstance(output, (tuple, list)):
        output = output[0]
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        got = f"shape {list(output.shape)}" if isinstance(output, torch.Tensor) else type(output)
        raise TypeError(
            f"Expected logits of shape [B, K] from the model, got {got}. "
            "Wrap the model so that forward returns logits [B, K], or has them in .logits."
        )
    return output


def taps(model: nn.Module, names) -> "Taps":
    """Look inside a model: `taps(model, names)(x)` is a `View`, with the tensor of every name.

    names: module paths as in `model.named_modules()`, for example `["layer2", "fc:input"]`:

    * `"layer2"`: what that module returns (of a tuple, the first tensor);
    * `"fc:input"`: what goes into it (its first tensor), here the features before the last layer;
    * `"layer1.0.relu#2"`: the second call, where a model calls one module several times;
    * `"attention[1]"`: the second entry of a returned tuple.

    Works on any model as it stands, torchvision's, timm's and transformers' among them, also inside
    `torch.compile` and `DistributedDataParallel` (paths are those of the model within; tap before
    the first call of a compiled model). The tensors are the model's own: gradients flow through
    them. Nothing is kept after the call, and other calls of the model cost nothing.

    Fused attention never has its map in memory, so there is nothing to tap: in timm switch it off
    (`block.attn.fused_attn = False`) and tap `"blocks.0.attn.attn_drop:input"`; in transformers
    load with `attn_implementation="eager"`.

    Raises `ValueError` for a path that the model does not have, with the nearest names; when
    called, `RuntimeError` for a module that was not called, or was called more than once, and for a
    tensor that a later module overwrote in place (`ReLU(inplace=True)`).

    >>> model = resnet(depth=8, width=8)
    >>> view = taps(model, ["layer2", "fc:input"])(torch.rand(2, 1, 28, 28))
    >>> view.taps["layer2"].shape, view.taps["fc:input"].shape
    (torch.Size([2, 16, 14, 14]), torch.Size([2, 32]))
    """
    return Taps(model, names)


class Taps:
    """A model with some of its modules tapped; see `taps`. `remove()` takes the hooks away that no
    other `Taps` needs."""

    def __init__(self, model: nn.Module, names):
        self.model = model
        names = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
        modules = _paths(model)
        self._hooks = [_attach(name, modules, model) for name in names]
        self._proven = False

    def __call__(self, *args, **kwargs) -> View:
        """The model's view of these inputs: logits [B, K] and the tapped tensors."""
        # Compiled code does not count how often a tensor is written to, so the first call of a
        # compiled model is made without the compiler: there an overwritten tap shows.
        eager = not self._proven and hasattr(self.model, "_orig_mod")
        for hook in self._hooks:
            hook.start()
        try:
            with torch.compiler.set_stance("force_eager") if eager else contextlib.nullcontext():
                logits = logits_of(self.model(*args, **kwargs))
            self._proven = True
            return View(logits, {hook.name: hook.take() for hook in self._hooks})
        finally:
            for hook in self._hooks:
                hook.stop()

    def remove(self) -> None:
        """Take these hooks off the model; this object taps nothing afterwards."""
        for hook in self._hooks:
            hook.users -= 1
        _unhook(self.model, lambda hook: hook in self._hooks and hook.users < 1)
        self._hooks = []


class Early(nn.Module):
    """A model that stops at a module and answers from there: `head` of the tensor that `taps` finds
    at this path, "fc:input" and "relu#2" included.

    What lies behind it is not computed.
    """

    def __init__(self, model: nn.Module, path: str, head: nn.Module):
        super().__init__()
        self.model, self.path, self.head = model, path, head
        self._leave = _Leave(path, model)

    def forward(self, x):
        self._leave.tap.start()
        try:
            self.model(x)
        except _Left as left:
            return self.head(left.args[0])
        finally:
            self._leave.tap.stop()
        raise RuntimeError(f"Expected the model to call {self.path!r}, but it did not.")


class _Left(Exception):
    """Carries a tensor from inside a model out of it."""


class _Leave:
    """A hook that leaves the model as soon as its tap has seen what it waits for.

    It has a tap and is none, so that it stays when a model is freed of its taps.
    """

    def __init__(self, name: str, model: nn.Module):
        self.tap = _Tap(name)
        _register(self.tap, _found(self.tap, _paths(model), model), self)

    def __call__(self, module, args, *more):
        self.tap(module, args, *more)
        if self.tap.calls >= max(self.tap.call, 1):
            raise _Left(self.tap.take())


def alone(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode, as it was before anybody compiled, wrapped or tapped it."""
    # A tensor that a module keeps of its last call has a history, and torch does not copy that.
    memo = {id(value): value.detach().clone() for module in model.modules()
            for value in vars(module).values()
            if isinstance(value, torch.Tensor) and not value.is_leaf}
    model = unwrapped(copy.deepcopy(model, memo))
    _unhook(model, lambda hook: isinstance(hook, _Tap))
    return model.eval()


def _unhook(model: nn.Module, unwanted) -> None:
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if unwanted(hook)]:
                hooks.pop(key)
                module._forward_pre_hooks_with_kwargs.pop(key, None)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile` and `DistributedDataParallel`."""
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while True:
        if isinstance(model, wrappers):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


class _Tap:
    """A forward hook: an object, so that it is copied together with its model.

    It records only between `start` and `stop`, and keeps nothing afterwards.
    """

    grammar = re.compile(r"(?P<path>[^#:\[]*)(#(?P<call>\d+))?(?P<input>:input)?"
                         r"(\[(?P<entry>\d+)\])?")

    def __init__(self, name: str):
        found = self.grammar.fullmatch(name)
        if not found:
            raise ValueError(f"Expected a tap such as \"layer2\", \"fc:input\", \"relu#2\" or "
                             f"\"attention[1]\", got {name!r}.")
        self.name, self.path, self.input = name, found["path"], bool(found["input"])
        self.call = int(found["call"] or 0)
        self.entry = int(found["entry"]) if found["entry"] else None
        self.users = 1
        self.stop()

    def start(self) -> None:
        self.on = True

    def stop(self) -> None:
        self.on, self.calls, self.tensor, self.version = False, 0, None, None

    def __call__(self, module, args, *more):
        if not self.on:
            return
        self.calls += 1
        if self.call in (0, self.calls):
            seen = (*args, *more[0].values()) if self.input else more[0]
            if hasattr(seen, "to_tuple"):  # an output object of transformers
                seen = seen.to_tuple()
            if isinstance(seen, (tuple, list)):
                entries = [entry for entry in seen if isinstance(entry, torch.Tensor)]
                if self.entry is not None:
                    entries = list(seen[self.entry : self.entry + 1])
                seen = entries[0] if entries else None
            elif self.entry is not None:
                seen = None  # one tensor has no entries
            self.tensor, self.version = seen, _version(seen)

    def take(self) -> torch.Tensor:
        """The tensor of this forward pass, or what is wrong with it."""
        if self.calls == 0 or self.call > self.calls:
            often = f"{self.calls} times" if self.calls else "never"
            raise RuntimeError(
                f"Expected {self.path!r} to be called, for the tap {self.name!r}; it was called "
                f"{often} in this forward pass. Tap a module that the model calls. Of a compiled "
                "model, tap it before its first call; where one of its class was compiled before, "
                "call torch.compiler.reset() first."
            )
        if not self.call and self.calls > 1:
            raise RuntimeError(
                f"Expected {self.path!r} to be called once, got {self.calls} calls in one forward "
                f"pass. Say which: {self.path}#1 to {self.path}#{self.calls}."
            )
        if not isinstance(self.tensor, torch.Tensor):
            raise RuntimeError(f"Expected a tensor at {self.name!r}, got "
                               f"{type(self.tensor).__name__}.")
        if self.version is not None and self.tensor._version != self.version:
            raise RuntimeError(
                f"Expected {self.name!r} to stay as it was tapped, but a later module overwrote it "
                "in place, so its numbers are another layer's. Tap the block around it, or set "
                "inplace=False on the activation that follows."
            )
        return self.tensor


def _version(tensor) -> int | None:
    """How often a tensor was written to; None where that is not counted."""
    if torch.compiler.is_compiling() or not isinstance(tensor, torch.Tensor):
        return None
    return None if tensor.is_inference() else tensor._version


def _paths(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by path, as if nothing in the model were compiled."""
    return {re.sub(r"(^|(?<=\.))_orig_mod(\.|$)", "", path).removesuffix("."): module
            for path, module in unwrapped(model).named_modules()}


def _attach(name: str, modules: dict[str, nn.Module], model: nn.Module) -> _Tap:
    """The hook of that name: the one which is already there, or a new one."""
    tap = _Tap(name)
    module = _found(tap, modules, model)
    hooks = module._forward_pre_hooks if tap.input else module._forward_hooks
    for hook in hooks.values():
        if isinstance(hook, _Tap) and hook.name == name:
            hook.users += 1
            return hook
    _register(tap, module, tap)
    return tap


def _found(tap: _Tap, modules: dict[str, nn.Module], model: nn.Module) -> nn.Module:
    """The module that the tap is for."""
    if not tap.path or tap.path not in modules:
        near = difflib.get_close_matches(tap.path, filter(None, modules), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"Expected the path of a module in {type(unwrapped(model)).__name__}, got "
                         f"{tap.path!r}.{hint} It has:\n{_tree(modules)}")
    return modules[tap.path]


def _register(tap: _Tap, module: nn.Module, hook) -> None:
    """Hang the hook on that side of the module which the tap looks at."""
    if tap.input:
        module.register_forward_pre_hook(hook, with_kwargs=True)
    else:
        module.register_forward_hook(hook)


def _tree(modules: dict[str, nn.Module], lines: int = 40) -> str:
    """The module paths with their classes, as deep as fits into so many lines."""
    for depth in range(4, 0, -1):
        shown = [(path, type(module).__name__) for path, module in modules.items()
                 if path and path.count(".") < depth]
        if len(shown) <= lines:
            break
    rest = [f"  … and {len(shown) - lines} more"] if len(shown) > lines else []
    return "\n".join([f"  {path}  ({kind})" for path, kind in shown[:lines]] + rest)


@torch.no_grad()
def predict(model: nn.Module, x: torch.Tensor, batch: int = 500) -> torch.Tensor:
    """The model's logits [N, K] for inputs [N, C, H, W], in eval mode and without gradients.

    Every submodule is left in the mode (train or eval) in which it was found. The inputs may be on
    another device than the model; the logits come back to where the inputs are.
    """
    with evaluating(model):
        device = device_of(model)
        return torch.cat([logits_of(model(part.to(device))).float().to(x.device)
                          for part in x.split(batch)])


def answers(predict, split) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Logits [N, K] for a split, in memory or a stream, and its labels in the same order.

    predict: a function of inputs [B, C, H, W], such as a teacher's `predict`. Where it has no
        answer (None), there are no logits either.

    >>> from kdcourse.data import glyphs
    >>> model, split = mlp(hidden=(8,)), glyphs(train=36, val=36, test=36).val
    >>> logits, labels = answers(functools.partial(predict, model), split)
    >>> logits.shape, labels.equal(split.y)
    (torch.Size([36, 36]), True)
    """
    pairs = [(predict(batch.x), batch.y) for batch in split.batches(500)]
    labels = torch.cat([y for _, y in pairs])
    if any(logits is None for logits, _ in pairs):
        return None, labels
    return torch.cat([logits for logits, _ in pairs]), labels


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """Eval mode inside the block; afterwards every submodule is in the mode it was found in, and
    one that was made inside in the mode of the model."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module in {*modes, *model.modules()}:
            module.training = modes.get(module, modes[model])


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters lie (the CPU for a model without any)."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def describe(model: nn.Module) -> str:
    """One line that identifies a model: how our own were made, or class, size and structure."""
    if hasattr(model, "spec"):
        return model.spec
    parameters = sum(p.numel() for p in model.parameters())
    return f"{type(model).__name__}({parameters} parameters, {_files.digest(repr(model))[:8]})"


def _seeded(build):
    """Draw the initial weights from `seed` alone, leave torch's global generator as it was, and
    remember on the model how it was made (`model.spec`)."""
    signature = inspect.signature(build)

    @functools.wraps(build)
    def wrapped(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        # What was added later is None by default and not shown: results are found by this text.
        settings = {k: v for k, v in bound.arguments.items() if k != "seed" and v is not None}
        for name, value in settings.items():
            for number in value if isinstance(value, (tuple, list)) else (value,):
                if name not in ("dropout", "stem", "init") and number < 1:
                    raise ValueError(f"Expected {name} of at least 1, got {value}.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(bound.arguments["seed"])
            model = build(**bound.arguments)
        model.spec = f"{build.__name__}({', '.join(f'{k}={v}' for k, v in settings.items())})"
        return model

    return wrapped


class Normalize(nn.Module):
    """(x - mean) / std, per channel; the fixed first layer of our networks."""

    def __init__(self, mean=0.5, std=0.5):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return (x - self.mean) / self.std

    def extra_repr(self):
        return f"mean={self.mean}, std={self.std}"


def _conv_bn(inputs, outputs, kernel=3, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


@_seeded
def mlp(hidden: tuple = (128, 128), channels=1, classes=36, size=28, seed=0) -> nn.Module:
    """A multilayer perceptron with ReLU: the kind of network in Hinton's MNIST experiment.

    hidden: the width of each hidden layer.

    >>> mlp(hidden=(800, 800), classes=10)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    widths = [channels * size * size, *hidden]
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(Normalize(), nn.Flatten(), *layers, nn.Linear(widths[-1], classes))


@_seeded
def convnet(width=16, channels=1, classes=36, size=28, seed=0) -> nn.Module:
    """Three strided convolutions of `width`, 2 and 4 times `width` channels, each with batch
    normalisation and ReLU, then the mean over the image and a linear layer. A small student.

    `size` is accepted for symmetry: the network takes any size of at least 8.

    >>> sum(p.numel() for p in convnet(width=16).parameters())
    25748
    """
    blocks, inputs = [], channels
    for outputs in (width, 2 * width, 4 * width):
        blocks += [_conv_bn(inputs, outputs, stride=2), nn.ReLU()]
        inputs = outputs
    pool = [MeanOverImage(), nn.Flatten()]
    return nn.Sequential(Normalize(), *blocks, *pool, nn.Linear(inputs, classes))


def _mean_over_image(x_BCHW) -> torch.Tensor:
    """[B, C, 1, 1], the numbers of `nn.AdaptiveAvgPool2d(1)`.

    Here the gradient is divided before it is spread over the image, and so takes no memory of its
    own. PyTorch's mean spreads it first, in channels-first order, which the layer before it in a
    channels-last network reads slowly.
    """
    return x_BCHW.sum((2, 3), keepdim=True) / (x_BCHW.shape[2] * x_BCHW.shape[3])


class MeanOverImage(nn.Module):
    """The mean over height and width: [B, C, H, W] to [B, C, 1, 1]."""

    def forward(self, x):
        return _mean_over_image(x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, arXiv:1512.03385, figure 2)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = _conv_bn(inputs, outputs, stride=stride)
        self.conv2 = _conv_bn(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv_bn(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()  # a module, so that what goes into it can be tapped

    def forward(self, x):
        return self.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """The residual network for small images (He et al. 2016, section 4.2)."""

    def __init__(self, depth, width, stem_stride, channels, classes):
        super().__init__()
        self.normalize = Normalize()
        self.stem = _conv_bn(channels, width, stride=stem_stride)
        inputs = width
        for stage in (1, 2, 3):
            outputs, blocks = width * 2 ** (stage - 1), []
            for i in range((depth - 2) // 6):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(BasicBlock(inputs, outputs, stride))
                inputs = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.stem(self.normalize(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(_mean_over_image(x).flatten(1))


@_seeded
def resnet(depth=14, width=16, stem_stride=1, channels=1, classes=36, size=28, seed=0) -> nn.Module:
    """A ResNet for small images: depth 6n+2 (8, 14, 20, 32, 56, 110 …), three stages of `width`,
    2 and 4 times `width` channels, 1x1 convolutions in the shortcuts.

    stem_stride: 2 halves the image in the first layer: a quarter of the arithmetic.
    `size` is accepted for symmetry. Raises `ValueError` for a depth that is not 6n+2.

    >>> resnet(depth=20, channels=3, classes=10)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"Expected a depth of 6n+2 (8, 14, 20, 26, 32 …), got {depth}.")
    return ResNet(depth, width, stem_stride, channels, classes)


@_seeded
def vit(dim=64, depth=4, heads=4, patch=7, channels=1, classes=36, size=28, seed=0,
        stem=None, init=None) -> nn.Module:
    """A small vision transformer: timm's `VisionTransformer` with a class token.

    dim: the width of a token; patch: the side of a patch in pixels, a divisor of `size`.
    stem: None makes a token of each patch by one matrix. "conv" makes it with convolutions: 3x3
        with stride 2, batch normalisation and ReLU until there is one token for every `patch`
        pixels (rounded up), then 1x1; `patch` must be a power of 2. It learns much faster from few
        images (Xiao et al. 2021, arXiv:2106.14881).
    init: None keeps timm's first weights, with standard deviation 0.02 at any width. "lecun" draws
        those of each linear layer with 1/√inputs, class token and positions with 0.3: where a
        token has few numbers, 0.02 is nearly nothing, and learning starts late.

    Raises `ValueError` when `patch` does not divide `size`, is no power of 2 with `stem="conv"`, or
    `heads` does not divide `dim`.

    >>> vit(classes=10)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    from timm.layers import HybridEmbed, PatchEmbed
    from timm.models.vision_transformer import VisionTransformer  # a second to import

    if stem not in (None, "conv"):
        raise ValueError(f'Expected stem None or "conv", got {stem!r}.')
    if stem is None and size % patch:
        raise ValueError(f"Expected a patch that divides the image size {size}, got {patch}.")
    if stem and (patch < 2 or patch & (patch - 1)):
        raise ValueError(f'Expected a patch of 2, 4, 8 … with stem="conv", got {patch}.')
    if dim % heads:
        raise ValueError(f"Expected heads that divide dim {dim}, got {heads}.")
    if init not in (None, "lecun"):
        raise ValueError(f'Expected init None or "lecun", got {init!r}.')
    embed = PatchEmbed
    if stem:
        convolutions = _halvings(channels, dim, patch.bit_length() - 1)
        embed, patch = functools.partial(HybridEmbed, convolutions), 1
    model = VisionTransformer(img_size=size, patch_size=patch, in_chans=channels,
                              num_classes=classes, embed_dim=dim, depth=depth, num_heads=heads,
                              mlp_ratio=2, embed_layer=embed)
    if init:
        rng = torch.Generator().manual_seed(seed)
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=rng)
        for token in (model.pos_embed, model.cls_token):
            nn.init.normal_(token, std=0.3, generator=rng)
    return nn.Sequential(Normalize(), model)


def _halvings(channels: int, dim: int, count: int) -> nn.Module:
    """Convolutions that halve the image `count` times, the channels doubling up to `dim`."""
    layers, inputs = [], channels
    for left in reversed(range(count)):
        outputs = max(1, dim >> left)
        layers += [_conv_bn(inputs, outputs, stride=2), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers)
