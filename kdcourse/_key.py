"""Keys made from content: by them rows, stored answers, checkpoints and teachers are found.

What goes into a key:

* of a class or function that was defined outside installed packages: its source, and the value of
  every global variable that it reads, in the same way;
* of a class of this package: its name and the constructor arguments that differ from the default,
  so that a file or an attribute may be renamed, and an argument with a default added;
* of a module of one's own, its file; of any other object, its class and its attributes;
* of a network: how it was made, as long as its weights are still those that were made then (see
  `stamp`); otherwise its weights.

An object may say by `identity()` what identifies it; it returns anything that has a key itself.
"""

import contextlib
import dataclasses
import dis
import enum
import functools
import inspect
import os
import re
import sys
import sysconfig
import textwrap
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kdcourse import _files
from kdcourse._tensors import TOLERANCE, distance, fingerprint, sketch, tensor_bytes

_SKIPPED = {"provenance", "card", "spec"}  # notes on a network that change no output
_TORCH = set(vars(nn.Module()))  # what torch keeps in a module: hooks, its parts, its mode


@dataclasses.dataclass(frozen=True)
class Key:
    """The key of something.

    exact: SHA-256 of all that is the same on every machine.
    bits: SHA-256 of its floating-point tensors, which differ in rounding between machines where
        they come from a training; "" where there are none.
    sketch: 32 numbers for each of those tensors, by which two machines can tell whether they hold
        the same thing. The relative distance of two sketches is, to about 25 %, that of the
        tensors (a count sketch: Charikar, Chen & Farach-Colton 2002).
    """

    exact: str
    bits: str
    sketch: dict[str, list[float]]

    def close(self, sketch: dict[str, list[float]]) -> bool:
        """Whether the tensors of this key lie within `TOLERANCE` of those with that sketch."""
        if sketch.keys() != self.sketch.keys():
            return False
        return all(distance(self.sketch[name], numbers) < TOLERANCE
                   for name, numbers in sketch.items())


def key_of(thing, without=(), sketched: bool = False, strict: bool = True) -> Key:
    """The key of a thing that consists of plain values, tensors, networks, functions and objects.

    without: tensors that are no part of the key, such as all that a checkpoint brings itself.
    sketched: whether the key has sketches, which take about as long as the digest.

    strict: False takes the class of an object whose content cannot be read (an iterator, a file);
        True raises `ValueError`.

    >>> key_of({"T": 4}) == key_of({"T": 4}), key_of({"T": 4}) == key_of({"T": 2})
    (True, False)
    """
    reader = _Reader(without, sketched, strict)
    exact = _files.digest(reader.read(thing, ""))
    bits = _files.digest(*reader.bits)[:16] if reader.bits else ""
    return Key(exact[:20], bits, reader.sketches)


def named(thing, without=()) -> str:
    """A text for people, and a part of the key, which decides."""
    key = key_of(thing, without, strict=False)
    text = re.sub(r"( at 0x|#)[0-9a-f]+", "", repr(thing))
    return f"{text} (content {_files.digest([key.exact, key.bits])[:10]})"


def stamp(model: nn.Module, how) -> None:
    """Note on a network how it was made: from here on that is its key, in place of its weights.

    The note holds as long as the network is as it is now: its weights to the bit, its modules and
    their attributes. how: None takes it away.
    """
    model.provenance = None if how is None else {"how": how, "state": _state(model)}


def is_as_made(model: nn.Module) -> bool:
    """Whether the note of `stamp` on a network holds."""
    made = getattr(model, "provenance", None)
    return bool(made) and made["state"] == _state(model)


def _state(model: nn.Module) -> str:
    """A digest of everything in a network."""
    tensors = [*model.parameters(), *model.buffers()]
    return _files.digest([fingerprint(model), key_of(model, tensors, strict=False).exact])


def arguments(thing) -> dict:
    """The constructor arguments of an object that keeps each one under its own name.

    Those that equal their default are left out.
    """
    kept = {}
    for name, parameter in inspect.signature(type(thing).__init__).parameters.items():
        several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name == "self" or several:
            continue
        if not hasattr(thing, name):
            raise ValueError(f"Expected {type(thing).__name__} to keep its argument {name!r} as an "
                             "attribute of that name, for the key under which results are kept.")
        kept[name] = getattr(thing, name)
    return unlike_defaults(type(thing), kept)


def unlike_defaults(kind: type, values: dict) -> dict:
    """Those of the constructor arguments `values` of a class that do not equal their default."""
    parameters = inspect.signature(kind.__init__).parameters
    found = {}
    for name, value in values.items():
        try:
            default = name in parameters and bool(value == parameters[name].default)
        except (RuntimeError, ValueError):  # a tensor: neither equal nor not
            default = False
        if not default:
            found[name] = value
    return found


class _Reader:
    """Turns things into what JSON can hold; floating-point tensors are noted beside it."""

    def __init__(self, without, sketched: bool, strict: bool):
        self.sketched, self.strict = sketched, strict
        self.without = {id(tensor): tensor for tensor in without}
        self.bits, self.sketches, self.known = [], {}, {}
        self.weights = None  # of the network that is being read: they share one sketch

    def read(self, thing, place: str):
        """The content of `thing`; `place` says where it was found."""
        if thing is None or isinstance(thing, (bool, int)):
            return thing
        if isinstance(thing, str):
            return str(thing)
        if isinstance(thing, float):
            return float.__repr__(thing)  # JSON has no inf
        if isinstance(thing, (torch.Tensor, np.ndarray, np.generic)):
            return self.tensor(thing, place)
        if isinstance(thing, (complex, bytes, torch.dtype, torch.device, torch.Size, enum.Enum,
                              torch.memory_format, torch.layout, type(...), range, slice, Path)):
            return [type(thing).__name__, repr(thing)]
        if isinstance(thing, (list, tuple)):
            return [self.read(item, f"{place}.{i}".strip(".")) for i, item in enumerate(thing)]
        if isinstance(thing, dict):
            return [type(thing).__name__, [[self.read(name, place), self.read(
                value, f"{place}.{name}".strip("."))] for name, value in thing.items()]]
        if isinstance(thing, (set, frozenset)):
            return ["set", sorted(map(repr, thing))]
        if id(thing) not in self.known:
            # The object is kept as well, so that its id is not given to another one meanwhile.
            self.known[id(thing)] = ["refers to itself"], thing
            self.known[id(thing)] = self.compound(thing, place), thing
        return self.known[id(thing)][0]

    def compound(self, thing, place: str):
        if isinstance(thing, types.ModuleType):
            file = getattr(thing, "__file__", None)
            own = file and not _installed(thing) and Path(file).is_file()
            return ["module", thing.__name__, _files.digest(Path(file).read_bytes()) if own else ""]
        if isinstance(thing, functools.partial):
            return ["partial", *(self.read(part, place) for part in (
                thing.func, thing.args, thing.keywords))]
        if isinstance(thing, types.MethodType):
            return ["method", self.read(thing.__func__, place), self.read(thing.__self__, place)]
        if isinstance(thing, torch.Generator):
            return ["generator", _files.digest(thing.get_state().numpy().tobytes())]
        if isinstance(thing, type):
            return self.class_(thing, place)
        if isinstance(thing, nn.Module):
            return self.module(thing, place)
        if callable(thing) and hasattr(thing, "__qualname__"):
            return self.function(thing, place)
        return self.object(thing, place)

    def tensor(self, values, place: str):
        if isinstance(values, np.ndarray) and values.dtype.kind not in "biufc":
            return ["array", str(values.dtype), self.read(values.tolist(), place)]
        if id(values) in self.without:
            return ["left out"]
        tensor = torch.as_tensor(values)
        shape = [str(tensor.dtype), list(tensor.shape)]
        if not tensor.is_floating_point():
            return ["tensor", *shape, _files.digest(tensor_bytes(tensor))]
        self.bits.append(tensor_bytes(tensor))
        if self.sketched and self.weights is None:
            self.note(tensor, place)
        elif self.sketched:
            self.weights.append(tensor.detach().flatten().float().cpu())
        return ["floats", *shape]

    def note(self, tensor: torch.Tensor, place: str) -> None:
        """Keep the sketch of a tensor under the place where it was found."""
        name = place or "tensor"
        while name in self.sketches:
            name += "'"
        self.sketches[name] = sketch(tensor)

    def module(self, module: nn.Module, place: str):
        tensors = [*module.parameters(), *module.buffers()]
        apart = not any(id(tensor) in self.without for tensor in tensors)
        if apart and is_as_made(module):
            return ["made", self.read(module.provenance["how"], place)]
        exported = isinstance(module, torch.fx.GraphModule) and "train" in vars(module)
        if exported or isinstance(module, torch.jit.ScriptModule):
            return self.program(module, [*tensors], place)
        if hasattr(module, "identity"):
            return self.object(module, place)
        outermost, kind = self.weights is None, self.read(type(module), place)
        if outermost:
            self.weights = []
        found = self.inside(module, place)
        if outermost:
            if self.weights:
                self.note(torch.cat(self.weights), place)
            self.weights = None
        return ["network", kind, found]

    def program(self, module: nn.Module, tensors: list, place: str):
        """The code of a network of `torch.jit` or `torch.export`, its tensors and constants."""
        graph = getattr(module, "inlined_graph", None)  # held, as its nodes die with it
        tensors += [node.t("value") for node in graph.findAllNodes("prim::Constant")
                    if str(node.output().type()) == "Tensor"] if graph else []
        return ["program", getattr(module, "code", ""), self.read(tensors, place)]

    def inside(self, module: nn.Module, place: str):
        """A network's own tensors and attributes, and its children."""
        named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False),
                 *module.named_children()]
        return [[[name, self.read(part, f"{place}.{name}".strip("."))] for name, part in named],
                self.attributes(module, place)]

    def object(self, thing, place: str):
        kind = type(thing)
        name = self.read(kind, place)
        if hasattr(thing, "identity"):
            said = self.read(thing.identity(), place)
        elif dataclasses.is_dataclass(thing):
            said = [[field.name, self.read(getattr(thing, field.name),
                                           f"{place}.{field.name}".strip("."))]
                    for field in dataclasses.fields(thing)
                    if not _is_default(getattr(thing, field.name), field)]
        elif _ours(kind):
            said = self.read(arguments(thing), place)
        elif hasattr(thing, "__dict__"):
            return ["object", name, self.attributes(thing, place)]
        else:
            text = repr(thing)
            if " at 0x" in text and not self.strict:
                return name
            if " at 0x" in text:
                raise ValueError(
                    f"Expected something whose content can be read, for the key under which "
                    f"results are kept, got {text}{f' in {place}' if place else ''}. Give its "
                    "class a method identity() that returns what tells it apart.")
            return ["text", name, text]
        if _ours(kind):
            patched = [value for value in vars(thing).values() if isinstance(
                value, types.FunctionType) and not _ours(value)] if self.strict else []
            return [name, said, *(self.read(value, place) for value in patched)]
        if any("identity" in vars(base) for base in kind.__mro__ if not _ours(base)):
            return [name, said]
        own = self.inside if isinstance(thing, nn.Module) else self.attributes
        return [name, said, own(thing, place)]

    def attributes(self, thing, place: str):
        named = {name: value for name, value in vars(thing).items()
                 if name not in _SKIPPED and name not in _TORCH}
        ours = [base for base in type(thing).__mro__ if _ours(base)]
        named = {name: value for name, value in named.items()
                 if not name.startswith("_") or name not in _stored(*ours)}
        with self.lenient() if _installed(type(thing)) else contextlib.nullcontext():
            return [[name, self.read(value, f"{place}.{name}".strip("."))]
                    for name, value in sorted(named.items())]

    @contextlib.contextmanager
    def lenient(self):
        """What a library's object holds may be unreadable: its class will do."""
        before, self.strict = self.strict, False
        try:
            yield
        finally:
            self.strict = before

    def class_(self, kind: type, place: str):
        if _ours(kind):  # unless somebody replaced a method of it
            return ["kdcourse", kind.__qualname__, *(
                self.function(value, place) for _, value in sorted(vars(kind).items())
                if isinstance(value, types.FunctionType) and not _installed(value))]
        if _installed(kind):
            return [kind.__module__, kind.__qualname__]
        bases = [self.read(base, place) for base in kind.__bases__]
        body = []
        for name, value in sorted(vars(kind).items()):
            value = getattr(value, "__func__", getattr(value, "fget", value))
            if isinstance(value, types.FunctionType) or not name.startswith(("__", "_abc_")):
                body.append([name, self.read(value, place)])
        return ["class", kind.__qualname__, bases, body]

    def function(self, function, place: str):
        name = function.__qualname__
        if not hasattr(function, "__code__") and hasattr(function, "__wrapped__"):
            return ["wrapped", self.read(function.__wrapped__, place)]  # by functools.cache
        cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()
                 if _filled(cell)]
        if _installed(function) or not hasattr(function, "__code__"):
            module = "kdcourse" if _ours(function) else getattr(function, "__module__", None)
            with self.lenient():
                return [module, name, self.read(cells, place)]
        reads = {name: function.__globals__[name] for name in _globals(function.__code__)
                 if name in function.__globals__}
        return ["function", name.rpartition("<locals>.")[2], _source(function),
                self.read(function.__defaults__, place),
                self.read(function.__kwdefaults__, place), self.read(cells, place),
                [[name, self.read(value, name)] for name, value in sorted(reads.items())]]


def _globals(code) -> set[str]:
    """The global names that a function reads, also in functions inside it."""
    names = {step.argval for step in dis.get_instructions(code)
             if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _globals(constant)
    return names


def _source(function):
    """The lines of a function without comments and blank lines, of a lambda its expression; the
    bytecode where there is no source."""
    code = function.__code__
    try:
        lines = inspect.findsource(function)[0]
        if function.__name__ == "<lambda>":  # one of several, perhaps, in its line
            return [*code.co_varnames[: code.co_argcount], _between(code, lines)]
        lines = textwrap.dedent("".join(inspect.getblock(lines[code.co_firstlineno - 1 :])))
        lines = lines.splitlines()
    except (OSError, TypeError, IndexError, ValueError):
        constants = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
        inner = [c.co_code.hex() for c in code.co_consts if isinstance(c, types.CodeType)]
        return [code.co_code.hex(), inner, repr(constants), list(code.co_names)]
    return [line.rstrip() for line in lines if line.strip() and not line.strip().startswith("#")]


def _between(code, lines: list[str]) -> str:
    """The source from the first to the last position that bytecode names."""
    places = [place for place in code.co_positions() if None not in place and place[2] < place[3]]
    (top, left), (bottom, right) = (min((line, column) for line, _, column, _ in places),
                                    max((line, column) for _, line, _, column in places))
    part = [line.encode() for line in lines[top - 1 : bottom]]
    part[-1] = part[-1][:right]
    part[0] = part[0][left:]
    return " ".join(b" ".join(part).decode().split())


@functools.cache
def _stored(*kinds: type) -> set[str]:
    """The attributes that methods of these classes set: their own business."""
    functions = [value for kind in kinds for value in vars(kind).values()
                 if isinstance(value, types.FunctionType)]
    return {step.argval for function in functions
            for step in dis.get_instructions(function) if step.opname == "STORE_ATTR"}


def _filled(cell) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a function that refers to itself and is not complete yet
        return False


def _is_default(value, field) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return value == field.default_factory()
    return field.default is not dataclasses.MISSING and (
        type(value) is type(field.default) and value == field.default)


def _ours(thing) -> bool:
    """Whether a class or function belongs to this package."""
    return (getattr(thing, "__module__", None) or "").partition(".")[0] == "kdcourse"


@functools.cache
def _places() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(os.path.realpath(sysconfig.get_paths()[name]) + os.sep for name in names)


def _installed(thing) -> bool:
    """Whether a module, class or function comes with Python or an installed package, this one
    included."""
    name = getattr(thing, "__module__", None) or getattr(thing, "__name__", "")
    if name == "builtins":  # also what exec() defines without a name for its module
        return not hasattr(thing, "__code__") and not getattr(thing, "__flags__", 0) & 1 << 9
    if _ours(thing) or name.partition(".")[0] in (*sys.builtin_module_names, "torch"):
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and os.path.realpath(file).startswith(_places())
