"""Keys made from content, by which rows, stored answers, checkpoints and teachers are found.

A key contains:

* of a class or function outside installed packages: its source, and every global that it reads;
* of an object of this package: the name of its class, and what `identity()` returns or else the
  fields that differ from their default; so files may be renamed, and arguments added;
* of a network: how it was made, while its weights are still those made then (see `stamp`);
  otherwise its weights;
* of anything else: what its own `identity()` returns, its class and its attributes.
"""

import contextlib
import dataclasses
import dis
import enum
import functools
import inspect
import logging
import os
import re
import sys
import sysconfig
import textwrap
import threading
import tokenize
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kdcourse import _files
from kdcourse._tensors import TOLERANCE, distance, fingerprint, sketch, tensor_bytes

# Attributes that are no part of a key: notes that change no output, and those that torch sets.
_SKIPPED = {"provenance", "card", "spec", *vars(nn.Module())}
_PLAIN = (complex, bytes, torch.dtype, torch.device, torch.Size, torch.memory_format, torch.layout,
          enum.Enum, type(...), range, slice, Path)
_INSTALLED = tuple(os.path.realpath(sysconfig.get_path(name)) + os.sep
                   for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_HEAPTYPE = 1 << 9  # CPython's flag of a class that a class statement defined
_ANNOTATIONS = ("__annotate__", "__annotate_func__")  # functions that Python adds since 3.14


@dataclasses.dataclass(frozen=True)
class Key:
    """Identify a thing by its content.

    exact: SHA-256 of all that is the same on every machine.
    bits: SHA-256 of floating-point tensors, which training rounds differently on other machines;
        "" without any.
    sketch: 32 numbers for each of those tensors. The relative distance of two sketches is, to
        about 25 %, that of the tensors (a count sketch: Charikar, Chen & Farach-Colton 2002).
    """

    exact: str
    bits: str
    sketch: dict[str, list[float]]

    def close(self, sketch: dict[str, list[float]]) -> bool:
        """Return whether the tensors of this key lie within `TOLERANCE` of those of a sketch."""
        return sketch.keys() == self.sketch.keys() and all(
            distance(self.sketch[name], numbers) < TOLERANCE for name, numbers in sketch.items())


def key_of(thing, without=(), sketched: bool = False, strict: bool = True) -> Key:
    """Make the key of a thing built of plain values, tensors, networks, functions and objects.

    without: tensors that are no part of the key, such as all that a checkpoint restores.
    sketched: whether the key has sketches, which take about as long as the digest.
    strict: whether an object that cannot be read (an iterator, a file) raises `ValueError`;
        otherwise its class is taken.

    >>> key_of({"T": 4}) == key_of({"T": 4}), key_of({"T": 4}) == key_of({"T": 2})
    (True, False)
    """
    reader = _Reader(without, sketched, strict)
    exact = _files.digest(reader.read(thing, ""))
    bits = _files.digest(*reader.bits)[:16] if reader.bits else ""
    return Key(exact[:20], bits, reader.sketches)


def named(thing, without=()) -> str:
    """Return the `repr` of a thing, without addresses, and a digest of its content."""
    key = key_of(thing, without, strict=False)
    text = re.sub(r"( at 0x|#)[0-9a-f]+", "", repr(thing))
    return f"{text} (content {_files.digest([key.exact, key.bits])[:10]})"


def stamp(model: nn.Module, how) -> None:
    """Note on a network how it was made: this is its key from now on, in place of its weights.

    The note holds while the network stays as it is: the bits of its weights, its modules and their
    attributes. how: None removes the note.
    """
    model.provenance = None if how is None else {"how": how, "state": _state(model)}


def is_as_made(model: nn.Module) -> bool:
    """Return whether a network has a note of `stamp` that holds."""
    note = getattr(model, "provenance", None)
    return bool(note) and note["state"] == _state(model)


def _state(model: nn.Module) -> str:
    tensors = [*model.parameters(), *model.buffers()]
    return _files.digest([fingerprint(model), key_of(model, tensors, strict=False).exact])


def unlike_defaults(kind: type, values: dict) -> dict:
    """Return those of the constructor arguments of a class that do not equal their default."""
    parameters = inspect.signature(kind.__init__).parameters
    return {name: value for name, value in values.items()
            if name not in parameters or not _equal(value, parameters[name].default)}


def _equal(value, default) -> bool:
    try:
        return bool(value == default)
    except (RuntimeError, ValueError):  # a tensor or an array of several numbers
        return False


def _changed_fields(thing) -> list[tuple]:
    """The fields of a dataclass object that are not of the type and value of their default."""
    changed = []
    for field in dataclasses.fields(thing):
        if not field.metadata.get("in_key", True):
            continue
        factory, value = field.default_factory, getattr(thing, field.name)
        default = field.default if factory is dataclasses.MISSING else factory()
        if type(value) is not type(default) or not _equal(value, default):
            changed.append((field.name, value))
    return changed


class _Reader:
    """Turn things into what JSON can hold, and collect their floating-point tensors."""

    def __init__(self, without, sketched: bool, strict: bool):
        self.sketched, self.strict = sketched, strict
        self.without = {id(tensor) for tensor in without}
        self.bits, self.sketches, self.known = [], {}, {}
        self.weights = None  # of the outermost network that is being read: they share one sketch

    def read(self, thing, place: str):
        """Return the content of a thing; its place, such as "teacher.0", names its sketches."""
        if thing is None or isinstance(thing, (bool, int)):
            return thing
        if isinstance(thing, str):
            return str(thing)
        if isinstance(thing, float):
            return float.__repr__(thing)  # JSON has no inf
        if isinstance(thing, (torch.Tensor, np.ndarray, np.generic)):
            return self.tensor(thing, place)
        if isinstance(thing, _PLAIN):
            return [type(thing).__name__, repr(thing)]
        if isinstance(thing, (list, tuple)):
            return [part for _, part in self.pairs(enumerate(thing), place)]
        if isinstance(thing, dict):
            return [type(thing).__name__, self.pairs(thing.items(), place)]
        if isinstance(thing, (set, frozenset)):
            return ["set", sorted(map(repr, thing))]
        if id(thing) not in self.known:
            # The object is kept as well: its id could be that of another one otherwise.
            self.known[id(thing)] = ["refers to itself"], thing
            self.known[id(thing)] = self.compound(thing, place), thing
        return self.known[id(thing)][0]

    def each(self, things, place: str) -> list:
        return [self.read(thing, place) for thing in things]

    def pairs(self, items, place: str) -> list:
        return [[self.read(name, place), self.read(part, f"{place}.{name}".strip("."))]
                for name, part in items]

    def compound(self, thing, place: str):
        if isinstance(thing, types.ModuleType):
            file = getattr(thing, "__file__", None)
            own = file and not _installed(thing) and Path(file).is_file()
            return ["module", thing.__name__, _files.digest(Path(file).read_bytes()) if own else ""]
        if isinstance(thing, functools.partial):
            return ["partial", *self.each([thing.func, thing.args, thing.keywords], place)]
        if isinstance(thing, types.MethodType):
            return ["method", *self.each([thing.__func__, thing.__self__], place)]
        if isinstance(thing, torch.Generator):
            return ["generator", _files.digest(thing.get_state().numpy().tobytes())]
        if isinstance(thing, logging.Logger):  # it holds all other loggers, and changes no number
            return ["logger", thing.name]
        if isinstance(thing, type):
            return self.class_(thing, place)
        if isinstance(thing, nn.Module):
            return self.network(thing, place)
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
            self.add_sketch(tensor, place)
        elif self.sketched:
            self.weights.append(tensor.detach().flatten().float().cpu())
        return ["floats", *shape]

    def add_sketch(self, tensor: torch.Tensor, place: str) -> None:
        name = place or "tensor"
        while name in self.sketches:
            name += "'"
        self.sketches[name] = sketch(tensor)

    def network(self, module: nn.Module, place: str):
        tensors = [*module.parameters(), *module.buffers()]
        if self.without.isdisjoint(map(id, tensors)) and is_as_made(module):
            return ["made", self.read(module.provenance["how"], place)]
        exported = isinstance(module, torch.fx.GraphModule) and "train" in vars(module)
        if exported or isinstance(module, torch.jit.ScriptModule):
            return self.program(module, [*tensors], place)
        if hasattr(module, "identity"):
            return self.object(module, place)
        kind, outer = self.read(type(module), place), self.weights
        self.weights = [] if outer is None else outer
        content = self.parts(module, place)
        if outer is None and self.weights:
            self.add_sketch(torch.cat(self.weights), place)
        self.weights = outer
        return ["network", kind, content]

    def parts(self, module: nn.Module, place: str):
        """Return the content of a module's own tensors and children, and of its attributes."""
        members = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False),
                   *module.named_children()]
        return [self.pairs(members, place), self.attributes(module, place)]

    def program(self, module: nn.Module, tensors: list, place: str):
        """Return the code of a network of `torch.jit` or `torch.export`, tensors and constants."""
        graph = getattr(module, "inlined_graph", None)  # held, as its nodes die with it
        tensors += [node.t("value") for node in graph.findAllNodes("prim::Constant")
                    if str(node.output().type()) == "Tensor"] if graph else []
        return ["program", getattr(module, "code", ""), self.read(tensors, place)]

    def object(self, thing, place: str):
        kind = type(thing)
        name = self.read(kind, place)
        if hasattr(thing, "identity"):
            content = self.read(thing.identity(), place)
        elif dataclasses.is_dataclass(thing):
            content = self.pairs(_changed_fields(thing), place)
        elif hasattr(thing, "__dict__") and not _ours(kind):
            return ["object", name, self.attributes(thing, place)]
        elif " at 0x" not in repr(thing):
            return ["text", name, repr(thing)]
        elif self.strict:
            where = f" in {place}" if place else ""
            raise ValueError("Expected something whose content can be read, for the key under "
                             f"which results are kept, got {thing!r}{where}. Give its class a "
                             "method identity() that returns what tells it apart.")
        else:
            return name
        if _ours(kind):
            replaced = [f for f in _functions(thing).values() if self.strict and not _ours(f)]
            return [name, content, *self.each(replaced, place)]
        if any("identity" in vars(base) for base in kind.__mro__ if not _ours(base)):
            return [name, content]
        own = self.parts if isinstance(thing, nn.Module) else self.attributes
        return [name, content, own(thing, place)]

    def attributes(self, thing, place: str):
        skipped = _SKIPPED.union(*map(_private, filter(_ours, type(thing).__mro__)))
        values = vars(thing)
        if isinstance(thing, functools.cached_property):
            values = values | {"lock": threading.RLock()}  # Python 3.11 has it, 3.12 has not
        with self.lenient(_installed(type(thing))):
            return self.pairs([(name, value) for name, value in sorted(values.items())
                               if name not in skipped], place)

    @contextlib.contextmanager
    def lenient(self, installed: bool = True):
        """Accept the class of what cannot be read inside an object of an installed package."""
        strict, self.strict = self.strict, self.strict and not installed
        yield
        self.strict = strict

    def class_(self, kind: type, place: str):
        if _ours(kind):
            replaced = [f for _, f in sorted(_functions(kind).items()) if not _installed(f)]
            return ["kdcourse", kind.__qualname__, *self.each(replaced, place)]
        if _installed(kind):
            return [kind.__module__, kind.__qualname__]
        bases, body = self.each(kind.__bases__, place), []
        for name, value in sorted(vars(kind).items()):
            value = getattr(value, "__func__", getattr(value, "fget", value))
            if name in _ANNOTATIONS or _by_dataclass(value):
                continue  # other versions of Python write other ones
            if isinstance(value, types.FunctionType) or not name.startswith(("__", "_abc_")):
                body.append([name, self.read(value, place)])
        if "__dataclass_params__" in vars(kind):  # what those methods are made from
            params, fields = kind.__dataclass_params__, dataclasses.fields(kind)
            made = [[params.eq, params.order, params.frozen, params.unsafe_hash], *(
                [field.name, field.init, field.compare, field.hash, field.kw_only, field.default,
                 field.default_factory] for field in fields)]
            body.append(["dataclass", self.read(made, place)])
        return ["class", kind.__qualname__, bases, body]

    def function(self, function, place: str):
        name = function.__qualname__
        if not hasattr(function, "__code__") and hasattr(function, "__wrapped__"):
            return ["wrapped", self.read(function.__wrapped__, place)]  # by functools.cache
        cells = []
        for cell in getattr(function, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # a function in itself, not complete yet
                cells.append(cell.cell_contents)
        if _installed(function) or not hasattr(function, "__code__"):
            module = "kdcourse" if _ours(function) else getattr(function, "__module__", None)
            with self.lenient():
                return [module, name, self.read(cells, place)]
        variables = function.__globals__
        used = sorted(_names(function.__code__, "LOAD_GLOBAL", "LOAD_NAME") & variables.keys())
        return ["function", name.rpartition("<locals>.")[2], _source(function),
                *self.each([function.__defaults__, function.__kwdefaults__, cells], place),
                self.pairs([(name, variables[name]) for name in used], "")]


def _names(code, *operations: str) -> set[str]:
    """The names that bytecode has in these operations, also in functions inside it."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in operations}
    return names.union(*(_names(inner, *operations) for inner in code.co_consts
                         if isinstance(inner, types.CodeType)))


def _by_dataclass(value) -> bool:
    """Return whether a method was written by `dataclasses.dataclass`."""
    if not isinstance(value, types.FunctionType):
        return False
    code = inspect.unwrap(value).__code__  # __repr__ is wrapped
    return value.__module__ == "dataclasses" or "__create_fn__" in code.co_qualname


def _functions(owner) -> dict[str, types.FunctionType]:
    return {name: value for name, value in vars(owner).items()
            if isinstance(value, types.FunctionType)}


@functools.cache
def _private(kind: type) -> set[str]:
    """The private attributes that the methods of a class set."""
    return {name for function in _functions(kind).values()
            for name in _names(function.__code__, "STORE_ATTR") if name.startswith("_")}


def _source(function) -> list:
    """The expression of a lambda, the lines of code of a function, or bytecode without a source."""
    code = function.__code__
    try:
        lines = inspect.findsource(function)[0]
        if function.__name__ == "<lambda>":  # its line may hold several
            return [*code.co_varnames[: code.co_argcount], _expression(code, lines)]
        block = inspect.getblock(lines[code.co_firstlineno - 1 :])
    except (OSError, TypeError, IndexError, ValueError):
        return _bytecode(code)
    lines = textwrap.dedent("".join(block)).splitlines()
    left_out = _comments(lines)
    return [line.rstrip() for number, line in enumerate(lines, start=1) if number not in left_out]


def _comments(lines: list[str]) -> set[int]:
    """The numbers of blank lines and of lines with a comment only; not those inside a string."""
    tokens = tokenize.generate_tokens(iter([f"{line}\n" for line in lines] + [""]).__next__)
    starts = [(token.start[0], token.type) for token in tokens]
    code = {number for number, kind in starts if kind not in (tokenize.NL, tokenize.COMMENT)}
    return {number for number, _ in starts} - code


def _bytecode(code) -> list:
    constants = [_bytecode(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names)]


def _expression(code, lines: list[str]) -> str:
    """The source from the first to the last position of the bytecode."""
    places = [place for place in code.co_positions() if None not in place and place[2] < place[3]]
    top, left = min((line, column) for line, _, column, _ in places)
    bottom, right = max((line, column) for _, line, _, column in places)
    part = [line.encode() for line in lines[top - 1 : bottom]]  # columns count bytes
    part[-1] = part[-1][:right]
    part[0] = part[0][left:]
    return " ".join(b" ".join(part).decode().split())


def _ours(thing) -> bool:
    """Return whether a module, class or function belongs to this package."""
    name = getattr(thing, "__module__", None) or getattr(thing, "__name__", "")
    return name.partition(".")[0] == "kdcourse"


def _installed(thing) -> bool:
    """Return whether a thing belongs to Python, an installed package or this one."""
    name = getattr(thing, "__module__", None) or getattr(thing, "__name__", "")
    if name == "builtins":  # exec() gives it, too, to what it defines without a module's name
        return not hasattr(thing, "__code__") and not getattr(thing, "__flags__", 0) & _HEAPTYPE
    if _ours(thing) or name.partition(".")[0] in (*sys.builtin_module_names, "torch"):
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and os.path.realpath(file).startswith(_INSTALLED)
