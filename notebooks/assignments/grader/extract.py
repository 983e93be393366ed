"""From a submission to the code of one question: the functions that are asked for and what they
use, so that a mistake elsewhere in the notebook costs nothing here.

Run as a script, this file reads one submission: `functions` starts it in a process of its own.
"""

import ast
import contextlib
import functools
import json
import re
import subprocess
import symtable
import sys
import zipfile
from pathlib import Path

MOST = 20 * 2**20  # bytes of one submission; figures are a part of a notebook
MEMORY = 4 * 2**30  # bytes of address space of the process that reads it


class Unreadable(Exception):
    """The submission cannot be read; the sentence says why."""


def functions(path, wanted: list[tuple[str, ...]], seconds: float = 30) -> list[tuple[str, str]]:
    """For each tuple of names: the code that defines them and "", or "" and why there is none.

    A process of its own reads the file, with limits of time and memory: a zip file, a notebook or
    Python's parser can be made to take all of both, or to overflow the stack. It runs nothing of
    the submission. Raises `Unreadable` when nothing of the file can be used.
    """
    command = [sys.executable, "-I", "-S", "-X", "utf8", __file__, str(Path(path).absolute())]
    try:
        done = subprocess.run(command, input=json.dumps(wanted).encode(), timeout=seconds,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Unreadable(f"could not be read within {seconds:.0f} seconds") from None
    if done.returncode:
        raise Unreadable("could not be read: its code is too deeply nested or too large")
    found = json.loads(done.stdout)
    if isinstance(found, str):
        raise Unreadable(found)
    return [tuple(pair) for pair in found]


def main() -> None:
    """Read the submission that is named on the command line; the names come from stdin."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        parts = cells(Path(sys.argv[1]))
        found = [_found(parts, names) for names in json.load(sys.stdin)]
    except Unreadable as error:
        found = str(error)
    json.dump(found, sys.stdout)  # in ASCII: also a text that is no valid Unicode arrives


def _found(parts: list[str], names: list[str]) -> tuple[str, str]:
    try:
        return definitions(parts, names), ""
    except Unreadable as error:
        return "", str(error)


def cells(path: Path) -> list[str]:
    """The code of a submission: a notebook, a script, or a zip file with one of them."""
    path = Path(path)
    try:
        if not path.is_file():
            raise Unreadable("could not be read: it is no file")
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                inside = [one for one in archive.infolist() if Path(one.filename).suffix.lower() in
                          (".ipynb", ".py") and not one.filename.startswith("__MACOSX")]
                notebooks = [one for one in inside
                             if one.filename.lower().endswith(".ipynb")] or inside
                if len(notebooks) != 1:
                    raise Unreadable("could not be read: expected one notebook in the zip "
                                     f"file, got {len(notebooks)}")
                if notebooks[0].file_size > MOST:
                    raise Unreadable(f"is larger than {MOST >> 20} MiB")
                content, name = archive.read(notebooks[0]), notebooks[0].filename
        else:
            if path.stat().st_size > MOST:
                raise Unreadable(f"is larger than {MOST >> 20} MiB")
            content, name = path.read_bytes(), path.name
        text = content.decode("utf-8-sig")
        if not name.lower().endswith(".ipynb"):
            return [text]
        return ["".join(cell["source"]) for cell in json.loads(text)["cells"]
                if cell["cell_type"] == "code"]
    except Unreadable:
        raise
    except Exception as error:  # each compression of zip files has errors of its own
        raise Unreadable(f"could not be read as a notebook ({type(error).__name__})") from None


def definitions(parts: list[str], names) -> str:
    """The statements of `parts` that bind `names`, and what these use in turn, in their order.

    Raises `Unreadable` when a name is bound nowhere.

    >>> print(definitions(["import math", "print(1)", "a = 2", "def f(x): return a * x"], ["f"]))
    a = 2
    def f(x):
        return a * x
    """
    statements, broken = _statements(tuple(parts))
    binding: dict[str, list[int]] = {}
    for place, (_, binds, _) in enumerate(statements):
        for name in binds:
            binding.setdefault(name, []).append(place)
    if missing := [name for name in names if name not in binding]:
        raise Unreadable(f"there is no {' and no '.join(missing)} in it{broken}")
    kept: set[int] = set()
    waiting, seen = list(names), set(names)
    while waiting:
        for place in binding.get(waiting.pop(), ()):
            if place not in kept:
                kept.add(place)
                waiting += statements[place][2] - seen
                seen |= statements[place][2]
    return "\n".join(statements[place][0] for place in sorted(kept))


@functools.lru_cache(16)
def _statements(parts: tuple[str, ...]) -> tuple[list, str]:
    """The statements, each with the names that it binds and uses, and what could not be read."""
    statements, broken = [], ""
    for part in parts:
        try:
            for node in _parsed(part).body:
                source = ast.unparse(node)
                if not isinstance(node, ast.Expr | ast.Pass):
                    statements.append((source, *_names(source)))
        except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError) as error:
            broken = f" (a cell cannot be read: {error})"
    return statements, broken


def _parsed(part: str) -> ast.Module:
    """The tree of a cell, in which Jupyter's own commands (`%...`, `!...`) do nothing."""
    try:
        return ast.parse(part)
    except SyntaxError:
        # `\s` in place of `[ \t]` would match empty lines too, in time quadratic in their number.
        return ast.parse(re.sub(r"^([ \t]*)[%!].*$", r"\1pass", part, flags=re.M))


def _names(source: str) -> tuple[set[str], set[str]]:
    """The global names that a statement binds, and those that it uses, also inside functions."""
    top = symtable.symtable(source, "submission", "exec")
    binds = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    uses = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    scopes = top.get_children()
    while scopes:
        scope = scopes.pop()
        uses |= {s.get_name() for s in scope.get_symbols() if s.is_global()}
        scopes += scope.get_children()
    return binds, uses


if __name__ == "__main__":
    main()
