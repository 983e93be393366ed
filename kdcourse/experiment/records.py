"""Rows that were measured earlier, in JSON files: the package's and those of this computer."""

import collections
import contextlib
import json
import os
from pathlib import Path

from filelock import FileLock

from kdcourse import _files
from kdcourse._key import Key, key_of

SHIPPED = Path(__file__).parents[1] / "results"  # the rows that come with the package
KEYS = ("key", "bits", "sketch")
TEXTS = ("scheme", "recipe", "data", "teacher", "seed", "split", "results")  # for people
_found = collections.defaultdict(set)  # by file, the rows found since the process began


def recorded(chapter: str) -> list[dict]:
    """Return the rows of a chapter that come with the package, such as those of "01".

    Raises `ValueError` for a chapter without rows.

    >>> sorted({row["seed"] for row in recorded("01")})
    [0, 1, 2, 3, 4]
    """
    rows = _read(SHIPPED / f"{chapter}.json")["rows"]
    if not rows:
        chapters = sorted(path.stem for path in SHIPPED.glob("[0-9]*.json"))
        raise ValueError(f"Expected one of the chapters {chapters}, got {chapter!r}.")
    return rows


class Store:
    """Find the rows of a chapter, and keep new ones at once, so that a stop loses none.

    chapter: such as "01"; None for a store that stays empty.
    also: further quantities that rows must have: by name, a digest of the function.

    A row is found by its key. The floating-point tensors behind it, such as a teacher's answers,
    must have the same bits in a row of this computer. In the rows of the package, which other
    machines computed, they must agree by their sketch.

    `KDCOURSE_RECORD` is for those who make the package: "1" writes new rows into the package;
    "moved" gives rows that are found by their texts a new key, after a change of code that changes
    no number; "check" notes the rows that were found. The last two raise where a row is missing.
    """

    def __init__(self, chapter: str | None, also: dict[str, str] | None = None):
        self.mode = os.environ.get("KDCOURSE_RECORD", "")
        self.path, self.also, self.rows, self.shipped = None, also, {}, set()
        if chapter is None:
            return
        shipped = SHIPPED / f"{chapter}.json"
        own = _files.home() / "results" / f"{chapter}.json"
        self.path = shipped if self.mode in ("1", "moved") else own
        self.rows = {_id(row): row for row in _read(shipped)["rows"]}
        self.shipped = set(self.rows)
        self.rows |= {_id(row): row for row in _read(own)["rows"]}

    def key_of(self, thing) -> Key | None:
        """Return a key, with sketches where rows of other machines are read, or written for them;
        None in a store that stays empty."""
        if self.path is None:
            return None
        return key_of(thing, sketched=bool(self.shipped) or self.mode in ("1", "moved"))

    def find(self, key: Key | None, texts: dict) -> dict | None:
        """Return the row of a key, if it has all quantities. texts: the run, described in words."""
        if self.path is None:
            return None
        row = self._find(key) or (self._move(key, texts) if self.mode == "moved" else None)
        if row is None and self.mode in ("check", "moved"):
            raise ValueError(f"Expected a recorded row for each run, got none for {texts}.")
        if row is None:
            return None
        _found[self.path].add(_id(row))
        if self.mode == "check":
            with (_files.home() / f"found-{self.path.stem}.txt").open("a") as file:
                file.write(f"{row['key']} {row['bits']}\n")
        if self.mode == "moved" and self.also is not None:
            row["also"] = row.get("also", {}) | {
                name: digest for name, digest in self.also.items() if name in row}
            self.add(row)
        return row if (self.also or {}).items() <= row.get("also", {}).items() else None

    def find_again(self, key: Key | None, texts: dict) -> dict | None:
        """Return the row as `find` does, also one that another process has kept since."""
        if self.path is not None:
            self.rows |= {_id(row): row for row in _read(self.path)["rows"]}
        return self.find(key, texts)

    def claim(self, key: Key | None, wait: bool = True):
        """Make a context in which no other process computes the row of this key. Raises `Timeout`
        of filelock where one is at it; with `wait` it waits for that."""
        if self.path is None or _files.smoke():
            return contextlib.nullcontext()
        try:
            folder = _files.make_folder(_files.home() / "results" / "claims")
        except OSError:  # nothing can be kept there either, which `add` says
            return contextlib.nullcontext()
        # The system releases the lock of a process that is killed.
        return FileLock(folder / f"{key.exact}-{key.bits}.lock", timeout=-1 if wait else 0)

    def keep(self, key: Key | None, found: dict) -> dict:
        """Return the row of a key with what was found, and what an earlier row has besides."""
        if self.path is None:
            return found
        row = _keyed(key) | (self._find(key) or {}) | found
        if self.also is not None:
            row["also"] = row.get("also", {}) | self.also
        self.add(row)
        return row

    def add(self, row: dict, replaced: tuple | None = None) -> None:
        """Keep a row, also in the file. replaced: the id of a row that it takes the place of."""
        if self.path is None or _files.smoke():
            return
        self.rows.pop(replaced, None)
        self.rows[_id(row)] = row
        with _files.warn_if_not_kept("A row was computed but not recorded."):
            _files.make_folder(self.path.parent)
            with FileLock(f"{self.path}.lock"):  # another process may add rows of its own
                content = _read(self.path)
                rows = {_id(kept): kept for kept in [*content["rows"], row]}
                rows.pop(replaced, None)
                _write(self.path, content | {"rows": list(rows.values())})

    def _find(self, key: Key) -> dict | None:
        close = (row for (exact, bits), row in self.rows.items()
                 if exact == key.exact and (exact, bits) in self.shipped
                 and (_files.smoke() or key.close(row.get("sketch", {}))))
        return self.rows.get((key.exact, key.bits)) or next(close, None)

    def _move(self, key: Key, texts: dict) -> dict | None:
        """Give the row of these texts a new key; one that another run has found keeps its own."""
        found = _found[self.path]
        same = [row for row in self.rows.values()
                if all(row[name] == texts[name] for name in TEXTS)]
        if not same:
            return None
        old = min(same, key=lambda row: _id(row) in found)
        row = _keyed(key) | {name: value for name, value in old.items() if name not in KEYS}
        self.add(row, replaced=None if _id(old) in found else _id(old))
        return row


def _keyed(key: Key) -> dict:
    return {"key": key.exact, "bits": key.bits} | ({"sketch": key.sketch} if key.bits else {})


def rounded(value):
    """Return plain Python with five digits, which is more than two seeds have in common."""
    if hasattr(value, "tolist"):  # of NumPy or PyTorch: a number, or lists of them
        value = value.tolist()
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return value


def _id(row: dict) -> tuple[str, str]:
    # Version 0.1 recorded rows without a key: their texts identify them.
    return row.get("key") or _files.digest([row[name] for name in TEXTS])[:20], row.get("bits", "")


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for row in content["rows"]:
            _id(row)
    except FileNotFoundError:
        return {"rows": []}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"Expected recorded results in {path}, got a file that cannot be read "
                         f"({error!r}). Delete it to compute its rows again.") from None
    return content


def _write(path: Path, content: dict) -> None:
    """Write a line for each row, so that changes can be read."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in content["rows"])
    rest = "".join(f", {json.dumps(name)}: {json.dumps(value)}"
                   for name, value in content.items() if name != "rows")
    _files.write(path, f'{{"rows": [\n{lines}\n]{rest}}}\n'.encode())
