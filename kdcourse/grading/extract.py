"""From a submission to the code of one question: the functions that are asked for and what they
use, so that a mistake elsewhere in the notebook costs nothing here.
"""

import ast
import functools
import json
import re
import symtable
import threading
import zipfile
from pathlib import Path

MOST = 20 * 2**20  # bytes of one submission; figures are a part of a notebook


class Unreadable(Exception):
    """The submission cannot be read; the sentence says why."""


def cells(path: Path) -> list[str]:
    """The code of a submission: a notebook, a script, or a zip file with one of them."""
    path = Path(path)
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                inside = [one for one in archive.infolist() if Path(one.filename).suffix in
                          (".ipynb", ".py") and not one.filename.startswith("__MACOSX")]
                notebooks = [one for one in inside if one.filename.endswith(".ipynb")] or inside
                if len(notebooks) != 1:
                    raise Unreadable(f"expected one notebook in the zip file, got {len(notebooks)}")
                if notebooks[0].file_size > MOST:
                    raise Unreadable(f"larger than {MOST >> 20} MiB")
                content, name = archive.read(notebooks[0]), notebooks[0].filename
        else:
            if path.stat().st_size > MOST:
                raise Unreadable(f"larger than {MOST >> 20} MiB")
            content, name = path.read_bytes(), path.name
        text = content.decode("utf-8-sig")
        if not name.endswith(".ipynb"):
            return [text]
        return ["".join(cell["source"]) for cell in json.loads(text)["cells"]
                if cell["cell_type"] == "code"]
    except Unreadable:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, zipfile.BadZipFile,
            NotImplementedError, RuntimeError) as error:
        raise Unreadable(f"could not be read as a notebook ({type(error).__name__})") from None


def definitions(parts: list[str], names) -> str:
    """The statements of `parts` that bind `names`, and what these use in turn, in their order.

    Raises `Unreadable` when a name is bound nowhere.

    >>> print(definitions(["import math", "print(1)", "a = 2", "def f(x): return a * x"], ["f"]))
    a = 2
    def f(x):
        return a * x
    """
    with PARSER:
        statements, broken = _statements(tuple(parts))
    bound = set().union(*(binds for _, binds, _ in statements))
    if missing := [name for name in names if name not in bound]:
        raise Unreadable(f"there is no {' and no '.join(missing)} in it{broken}")
    wanted, kept = set(names), set()
    while True:
        more = {place for place, (_, binds, _) in enumerate(statements) if binds & wanted} - kept
        if not more:
            return "\n".join(statements[place][0] for place in sorted(kept))
        kept |= more
        wanted |= set().union(*(statements[place][2] for place in more))


PARSER = threading.Lock()  # Python 3.11's parser does not stand two threads


@functools.lru_cache(16)
def _statements(parts: tuple[str, ...]) -> tuple[list, str]:
    """The statements, each with the names that it binds and uses, and what could not be read."""
    statements, broken = [], ""
    for part in parts:
        code = re.sub(r"^\s*[%!].*$", "pass", part, flags=re.M)  # Jupyter's own commands
        try:
            for node in ast.parse(code).body:
                source = ast.unparse(node)
                if not isinstance(node, ast.Expr | ast.Pass):
                    statements.append((source, *_names(source)))
        except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError) as error:
            broken = f" (a cell cannot be read: {error})"
    return statements, broken


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
