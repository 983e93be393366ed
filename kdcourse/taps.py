"""What one sees of any network: its logits, tensors inside it, itself without hooks and wrappers.

Shapes: B batch, K classes, C channels, H W height and width, N samples.
"""

import contextlib
import difflib
import re
from collections.abc import Iterable

import torch
from torch import nn

from kdcourse import _files
from kdcourse._modules import copied, switch, tree
from kdcourse._trees import call, each, first, pieces
from kdcourse.layouts import (
    Grid,
    Layout,
    arranged,
    channels_last,
    oblong,
    parsed,
    patches,
    widths,
)
from kdcourse.outputs import Logits, Output, logits_of, running


def taps(model: nn.Module, names) -> "Taps":
    """Look inside a model: `taps(model, names)(x)` is an `Output` with the tensor of every name.

    names: module paths as in `model.named_modules()`, for example `["layer2", "fc:input"]`:

    * `"layer2"`: what that module returns (of a tuple, the first tensor);
    * `"fc:input"`: what goes into it (its first tensor), here the features before the last layer;
    * `"layer1.0.relu#2"`: the second call, where a model calls one module several times;
    * `"attention[1]"`: the second entry of a returned tuple;
    * `"blocks.3@1+9x16"`: tokens [B, N, D] as a map [B, D, 9, 16], without the first token. Without
      the number, as in `"blocks.3@9x16"`, up to 5 first tokens may be too many;
    * `"features.3@BHWC"`: a map [B, H, W, C] as [B, C, H, W]; "@BCHW" states that it is one.

    Works on any model, also inside `torch.compile` and `DistributedDataParallel` (paths are those
    of the model within; tap before the first call of a compiled model). Gradients flow through the
    tensors. Nothing is kept after the call.

    Fused attention never has its map in memory, so there is nothing to tap: in timm switch it off
    (`block.attn.fused_attn = False`) and tap `"blocks.0.attn.attn_drop:input"`; in transformers
    load with `attn_implementation="eager"`.

    Raises `TypeError` for what is no network and what are no paths; `ValueError` for a path that
    the model does not have, with the nearest names; when called, `RuntimeError` for a module that
    was not called, or was called more than once, and for a tensor that a later module overwrote in
    place (`ReLU(inplace=True)`). The model may return anything (a detector, a backbone):
    `TypeError` comes only when `logits` is read.

    >>> from kdcourse.models import resnet
    >>> model = resnet(depth=8, width=8)
    >>> output = taps(model, ["layer2", "fc:input"])(torch.rand(2, 1, 28, 28))
    >>> output.taps["layer2"].shape, output.taps["fc:input"].shape
    (torch.Size([2, 16, 14, 14]), torch.Size([2, 32]))
    """
    return Taps(model, names)


class Taps:
    """A model with some of its modules tapped; see `taps`."""

    def __init__(self, model: nn.Module, names):
        if not isinstance(model, nn.Module):
            raise TypeError(f"Expected a network (nn.Module) to look into, got "
                            f"{type(model).__name__}. Pass the model itself.")
        several = isinstance(names, Iterable) and not isinstance(names, (str, nn.Module))
        names = list(names) if several else [names]
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f'Expected module paths such as ["layer2", "fc:input"], got '
                                f"{type(name).__name__}. Paths are those of "
                                "model.named_modules().")
        self.model, names = model, dict.fromkeys(names)
        self._hooks = [_attach(name, model) for name in names]
        # Compiled code does not count how often a tensor is written to, so the first call of a
        # compiled model is made without the compiler: there an overwritten tap shows.
        self._first = hasattr(model, "_orig_mod")

    def __call__(self, *args, **kwargs) -> Output:
        """Run the model; return the logits [B, K] and the tapped tensors."""
        tensors, layouts, size = {}, {}, oblong(args, kwargs)
        for hook in self._hooks:
            hook.start()
        try:
            with (torch.compiler.set_stance("force_eager") if self._first else
                  contextlib.nullcontext()):
                output = self.model(*args, **kwargs)
            for hook in self._hooks:
                tensors[hook.name] = hook.take()
                stated = hook.stated(tensors[hook.name], size)
                if stated is not None:
                    layouts[hook.name] = stated
        finally:
            for hook in self._hooks:
                hook.stop()
        self._first = False
        try:
            return Output(logits_of(output), tensors, layouts=layouts)
        except TypeError as missing:
            return Output(None, tensors, layouts=layouts).without_logits(str(missing))

    def remove(self) -> None:
        """Remove the hooks that no other `Taps` of the model uses; tap nothing afterwards."""
        for tap in self._hooks:
            for hook in filter(None, (tap, tap.grid)):
                hook.users -= 1
                if hook.users < 1:
                    hook.handle.remove()
        self._hooks = []


class Early(nn.Module):
    """A model that stops at a module and returns `head` of the tensor that `taps` finds at this
    path. Nothing behind it is computed. Raises `RuntimeError` when the model does not call it."""

    def __init__(self, model: nn.Module, path: str, head: nn.Module):
        super().__init__()
        self.model, self.path, self.head = model, path, head
        self._tap = _Tap(path)
        self._module = (_found(self._tap, model),)  # in a tuple, or its weights were twice here

    def forward(self, *args, **kwargs):
        hook = self._tap.register(self._module[0], self._leave)
        self._tap.start()
        try:
            self.model(*args, **kwargs)
        except _Left as left:
            return self.head(left.args[0])
        finally:
            hook.remove()
            self._tap.stop()
        raise RuntimeError(f"Expected the model to call {self.path!r}, but it did not.")

    def _leave(self, module, args, *more):
        self._tap(module, args, *more)
        if self._tap.calls >= max(self._tap.call, 1):
            raise _Left(self._tap.take())


class _Left(Exception):
    """Takes a tensor out of a model's forward."""


def clean_copy(model: nn.Module) -> nn.Module:
    """Make a copy of the model in eval mode: not compiled, without wrappers and taps."""
    model = unwrapped(copied(model))
    for hook in [hook for module in model.modules() for hook in _hooks_of(module)]:
        if isinstance(hook, (_Tap, Grid)):
            hook.handle.remove()
    return model.eval()


def _hooks_of(module: nn.Module) -> list:
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]


def unwrapped(model: nn.Module) -> nn.Module:
    """Find the model inside `torch.compile` and `DistributedDataParallel`."""
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return unwrapped(model.module)
    return unwrapped(model._orig_mod) if hasattr(model, "_orig_mod") else model


class _Tap:
    """A forward hook: an object, so that it is copied together with its model.

    It records only between `start` and `stop`, and keeps nothing afterwards.
    """

    grammar = re.compile(r"(?P<path>[^#:\[@]*)(#(?P<call>\d+))?(?P<input>:input)?"
                         r"(\[(?P<entry>\d+)\])?(@(?P<layout>.*))?")

    def __init__(self, name: str):
        found = self.grammar.fullmatch(name)
        if not found:
            raise ValueError(f"Expected a tap such as \"layer2\", \"fc:input\", \"relu#2\" or "
                             f"\"attention[1]\", got {name!r}.")
        self.name, self.path, self.input = name, found["path"], bool(found["input"])
        self.call = int(found["call"] or 0)
        self.entry = int(found["entry"]) if found["entry"] else None
        self.layout = None if found["layout"] is None else parsed(found["layout"])
        self.users, self.grid, self.prefix, self.widths = 1, None, 0, (set(), set())
        self.order = ()  # of the tokens, in a tuple: a module in it is no part of this object
        self.taken = False
        self.stop()

    def register(self, module: nn.Module, hook):
        """Register a hook on the input or the output of the module; return its handle."""
        if self.input:
            return module.register_forward_pre_hook(hook, with_kwargs=True)
        return module.register_forward_hook(hook)

    def start(self) -> None:
        self.on = True

    def stop(self) -> None:
        self.on, self.calls, self.tensor, self.version = False, 0, None, None

    def __call__(self, module, args, *more):
        if not self.on:
            return
        self.calls += 1
        if self.call in (0, self.calls):
            value = (*args, *more[0].values()) if self.input else more[0]
            if hasattr(value, "to_tuple"):  # an output object of transformers
                value = value.to_tuple()
            if isinstance(value, (tuple, list)):
                entries = (value[self.entry : self.entry + 1] if self.entry is not None else
                           [entry for entry in value if isinstance(entry, torch.Tensor)])
                value = entries[0] if entries else None
            elif self.entry is not None:
                value = None  # one tensor has no entries
            self.tensor, self.version = value, _version(value)

    def take(self) -> torch.Tensor:
        """Return the tensor of this forward pass, or raise `RuntimeError`."""
        if self.calls == 0 or self.call > self.calls:
            often = f"{self.calls} times" if self.calls else "never"
            raise RuntimeError(
                f"Expected {self.path!r} to be called, for the tap {self.name!r}; it was called "
                f"{often} in this forward pass. {self._why_not()}")
        self.taken = True
        if not self.call and self.calls > 1:
            raise RuntimeError(
                f"Expected {self.path!r} to be called once, got {self.calls} calls in one forward "
                f"pass. Say which: {self.path}#1 to {self.path}#{self.calls}.")
        if not isinstance(self.tensor, torch.Tensor):
            raise RuntimeError(f"Expected a tensor at {self.name!r}, got "
                               f"{type(self.tensor).__name__}.")
        if self.version is not None and self.tensor._version != self.version:
            raise RuntimeError(
                f"Expected {self.name!r} to stay as it was tapped, but a later module overwrote it "
                "in place, so its numbers are another layer's. Tap the block around it, or set "
                "inplace=False on the activation that follows.")
        if self.layout is None:
            return self.tensor
        return arranged(self.tensor, self.layout, repr(self.name))

    def stated(self, tensor, size=None) -> Layout | None:
        """Give the layout that the model states, or the size of its images where it states none;
        None for none, and where the path states it."""
        if self.layout is not None:
            return None
        if tensor.ndim == 4:
            last = channels_last(tensor.shape, *self.widths)
            blocks = "blocks" in self.order or (
                last and self.grid is not None and not self.grid.has_ratio(*tensor.shape[1:3]))
            return Layout(channels_last=last, order="blocks" if blocks else None)
        if tensor.ndim != 3:
            return None
        for order in filter(None, self.order):
            if isinstance(order, str) or order.training:
                return Layout(order=order if isinstance(order, str) else "random")
        found = None if self.grid is None else self.grid.layout(tensor.shape[1], self.prefix)
        return found if size is None else found or Layout(like=size)

    def _why_not(self) -> str:
        compiled = ("Of a compiled model, tap it before its first call; where one of its class was "
                    "compiled before, call torch.compiler.reset() first.")
        if self.taken:
            return ("In an earlier pass it was. Does the model leave it out in some steps "
                    "(LayerDrop), or in train or in eval mode? Tap a module that is called in "
                    f"every step, or set the probability of leaving it out to 0. {compiled}")
        return ("Tap a module that the model calls: some, such as auxiliary heads, are called only "
                "in train mode or only in eval mode; a student is run in train mode, a teacher in "
                f"eval mode. {compiled}")


def _version(tensor) -> int | None:
    """Count how often a tensor was written to; None where that is not known."""
    if torch.compiler.is_compiling() or not isinstance(tensor, torch.Tensor):
        return None
    return None if tensor.is_inference() else tensor._version


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Give all modules by path, as if nothing in the model were compiled."""
    model = unwrapped(model)
    while isinstance(model, Logits):
        model = unwrapped(model.model)
    return {re.sub(r"(^|(?<=\.))_orig_mod(\.|$)", "", path).removesuffix("."): module
            for path, module in model.named_modules()}


def _found(tap: _Tap, model: nn.Module) -> nn.Module:
    modules = _modules(model)
    if not tap.path or tap.path not in modules:
        near = difflib.get_close_matches(tap.path, filter(None, modules), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"Expected the path of a module in {type(model).__name__}, got "
                         f"{tap.path!r}.{hint} It has:\n{tree(modules)}")
    if isinstance(modules[tap.path], torch.jit.ScriptModule):
        raise ValueError(f"Expected a module that can be tapped at {tap.path!r}, got one of "
                         "TorchScript, which has no hooks. Take the network that it was made of.")
    return modules[tap.path]


def _attach(name: str, model: nn.Module) -> _Tap:
    """Find the hook of that name, or register a new one."""
    tap = _Tap(name)
    module = _found(tap, model)
    for hook in _hooks_of(module):
        if isinstance(hook, _Tap) and hook.name == name:
            hook.users += 1
            if hook.grid is not None:
                hook.grid.users += 1
            return hook
    modules = _modules(model)
    found = None if tap.layout else patches(modules, tap.path)
    if found is not None:
        tap.grid, tap.prefix, tap.order = _grid(found[0]), found[1], found[2:]
    tap.widths = widths(modules, tap.path)
    tap.handle = tap.register(module, tap)
    return tap


def _grid(conv: nn.Module) -> Grid:
    """Find the hook on the convolution that makes patches, or register one."""
    for hook in _hooks_of(conv):
        if isinstance(hook, Grid):
            hook.users += 1
            return hook
    grid = Grid()
    grid.handle = conv.register_forward_hook(grid)
    return grid


@torch.no_grad()
def predict(model, x, batch: int = 500, transform=None) -> torch.Tensor:
    """Compute the model's logits [N, K] for inputs [N, C, H, W], in eval mode, without gradients.

    Inputs may be a dict of tensors, which are the model's arguments by name, and may lie on another
    device than the model, and in another precision; the logits come back, in float32, to where the
    inputs are. Every submodule is left in its mode (train or eval). transform: what is done to a
    batch of inputs first.
    """
    device, found = device_of(model), []
    with evaluating(model):
        for part in pieces(x, batch):
            part = each(lambda t: t.to(device), part)
            part = part if transform is None else transform(part)
            output = call(model, in_precision_of(model, part))
            found.append(logits_of(output).float().to(first(x).device))
    return torch.cat(found)


@torch.no_grad()
def first_output(model: nn.Module, x, who: str) -> torch.Tensor:
    """Compute the logits of a few samples. Raises `ValueError` where the network's code fails, and
    `TypeError` where its output has no logits."""
    with running(who, x, Exception), evaluating(model):
        output = call(model, in_precision_of(model, each(lambda t: t.to(device_of(model)), x)))
    return logits_of(output)


def predict_split(predict, split) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Compute logits [M, K] for a split, in memory or a stream, and its labels in the same order
    (None without labels): those of the rows that count, one per sample where it has one label.

    predict: a function of inputs [B, C, H, W], such as a teacher's `predict`. Where it returns
        None, there are neither logits nor labels.

    >>> from kdcourse import data, models
    >>> model, split = models.mlp(hidden=(8,)), data.glyphs(train=36, val=36, test=36).val
    >>> logits, labels = predict_split(lambda x: predict(model, x), split)
    >>> logits.shape, labels.equal(split.y)
    (torch.Size([36, 36]), True)
    """
    found = []
    for batch in split.batches(500):
        logits = predict(batch.x)
        if logits is None:
            return None, None
        rows = batch.task.rows(logits, batch.x, batch.y).counted()
        found.append((rows.logits, rows.labels))
    logits, labels = zip(*found, strict=True)
    return torch.cat(logits), None if labels[0] is None else torch.cat(labels)


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """Eval mode inside the block; afterwards every submodule is in the mode it was found in, and
    one that was made inside in the mode of the model."""
    modes = {module: module.training for module in model.modules()}
    switch(model, False)
    try:
        yield model
    finally:
        for module in {*modes, *model.modules()}:
            module.training = modes.get(module, modes[model])


def in_precision_of(model: nn.Module, x):
    """Convert inputs (a tensor or a dict) to the precision of the model's first weights; whole
    numbers stay as they are."""
    dtype = next((p.dtype for p in model.parameters() if p.dtype in _PRECISIONS), None)
    return x if dtype is None else each(lambda t: t.to(dtype) if t.dtype in _PRECISIONS else t, x)


_PRECISIONS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def device_of(model: nn.Module) -> torch.device:
    """Find where the model's parameters lie (the CPU for a model without any)."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def describe(model: nn.Module) -> str:
    """Describe a model in one line: how our own were made, or class, size and structure."""
    if hasattr(model, "spec"):
        return model.spec
    parameters = sum(p.numel() for p in model.parameters())
    return f"{type(model).__name__}({parameters} parameters, {_files.digest(repr(model))[:8]})"
