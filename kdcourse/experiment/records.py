"""Rows that were measured earlier, in JSON files: the package's and those of this computer."""

import json
import os
from pathlib import Path

from filelock import FileLock

from kdcourse import _files
from kdcourse._key import Key

SHIPPED = Path(__file__).parents[1] / "results"  # the rows that come with the package
KEYS = ("key", "bits", "sketch")
TEXTS = ("scheme", "recipe", "data", "teacher", "seed", "split", "results")  # for people
_CURRENT: set = set()  # the rows that were found in this process, while keys are moved


def recorded(chapter: str) -> list[dict]:
    """Return the rows of a chapter that come with the package, such as those of "01".

    Raises `ValueError` for a chapter without rows.

    >>> sorted({row["seed"] for row in recorded("01")})
    [0, 1, 2, 3, 4]
    """
    rows = _read(SHIPPED / f"{chapter}.json")["rows"]
    if not rows:
        there = sorted(path.stem for path in SHIPPED.glob("[0-9]*.json"))
        raise ValueError(f"Expected one of the chapters {there}, got {chapter!r}.")
    return rows


class Store:
    """The rows of a chapter; new ones are kept one by one, so that nothing is lost on the way.

    chapter: such as "01"; None for a store that stays empty.

    A row is found by its `key` (see `kdcourse._key`). The floating-point tensors that went into it,
    such as the answers of a teacher, must be the same to the bit in a row of this computer. In a
    row that comes with the package they were computed on another machine, and must agree by their
    sketch.

    `KDCOURSE_RECORD` is for those who make the package: "1" writes new rows into the package;
    "moved" gives rows that are found by their texts a new key, after a change of code that changes
    no number; "check" notes the rows that were found. Both raise where a row is missing.
    """

    def __init__(self, chapter: str | None):
        self.rows: dict[tuple, dict] = {}
        self.path, self.mode = None, os.environ.get("KDCOURSE_RECORD", "")
        self.foreign = set()  # rows of other machines
        if chapter is None:
            return
        shipped = SHIPPED / f"{chapter}.json"
        own = _files.home() / "results" / f"{chapter}.json"
        self.path = shipped if self.mode in ("1", "moved") else own
        for path in dict.fromkeys((shipped, own)):
            for row in _read(path)["rows"]:
                self.rows[_id(row)] = row
                if path == shipped:
                    self.foreign.add(_id(row))

    @property
    def sketched(self) -> bool:
        """Whether keys need sketches: to find rows of other machines, or to write rows for them."""
        return bool(self.path) and (bool(self.foreign) or self.mode in ("1", "moved"))

    def find(self, key: Key, texts: dict) -> dict | None:
        """The row of that key, or None. texts: what people read instead of the key."""
        if self.path is None:
            return None
        row = self.rows.get((key.exact, key.bits))
        if row is None:
            row = next((row for (exact, bits), row in self.rows.items()
                        if exact == key.exact and (exact, bits) in self.foreign
                        and (_files.smoke() or key.close(row.get("sketch", {})))), None)
        if self.mode == "moved":
            row = self._moved(key, texts) if row is None else row
            _CURRENT.update([_id(row)] if row else [])
        if row is None and self.mode in ("check", "moved"):
            raise ValueError(f"Expected a recorded row for each run, got none for {texts}.")
        if self.mode == "check":
            with (_files.home() / f"found-{self.path.stem}.txt").open("a") as file:
                file.write(f"{row['key']} {row['bits']}\n")
        return row

    def add(self, row: dict) -> None:
        """Keep a row, and write it to the file."""
        if self.path is None or _files.smoke():
            return
        self.rows[_id(row)] = row
        with _files.warn_if_not_kept("A row was computed but not recorded."):
            self._write(row)

    def _moved(self, key: Key, texts: dict) -> dict | None:
        """Give the row of these texts a new key; a row that was just found keeps its own, too."""
        same = [row for row in self.rows.values()
                if all(row[name] == texts[name] for name in TEXTS)]
        old = min(same, key=lambda row: _id(row) in _CURRENT, default=None)
        if old is None:
            return None
        row = keyed(key) | {name: value for name, value in old.items() if name not in KEYS}
        if _id(old) not in _CURRENT:
            self.rows.pop(_id(old))
            with FileLock(f"{self.path}.lock"):
                content = _read(self.path)
                content["rows"] = [kept for kept in content["rows"] if _id(kept) != _id(old)]
                _write(self.path, content)
        self.add(row)
        return row

    def _write(self, row: dict) -> None:
        _files.make_folder(self.path.parent)
        with FileLock(f"{self.path}.lock"):  # another process may add rows of its own
            content = _read(self.path)
            rows = {_id(kept): kept for kept in [*content["rows"], row]}
            _write(self.path, content | {"rows": list(rows.values())})


def keyed(key: Key) -> dict:
    """What a row keeps of its key."""
    found = {"key": key.exact}
    return found | ({"bits": key.bits, "sketch": key.sketch} if key.bits else {"bits": ""})


def rounded(value, digits: int = 5):
    """Plain Python with five digits: more than any seed agrees on, and the file stays small."""
    if hasattr(value, "tolist"):
        value = value.tolist()  # of NumPy or PyTorch: a number, or lists of them
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return value


def _id(row: dict) -> tuple:
    # Rows of version 0.1 had no key but their texts. They stay in the file.
    return row.get("key") or _files.digest([row[name] for name in TEXTS])[:20], row.get("bits", "")


def _read(path: Path) -> dict:
    try:
        content = {"opened": None} | json.loads(path.read_text(encoding="utf-8"))
        for row in content["rows"]:
            _id(row)
        return content
    except FileNotFoundError:
        return {"rows": [], "opened": None}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Expected recorded results in {path}, got a file that cannot be read ({error!r}). "
            "Delete it to compute its rows again."
        ) from None


def _write(path: Path, content: dict) -> None:
    """A line for each row, so that changes can be read."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in content["rows"])
    tail = f', "opened": {json.dumps(content["opened"])}' if content.get("opened") else ""
    _files.write(path, f'{{"rows": [\n{lines}\n]{tail}}}\n'.encode())
