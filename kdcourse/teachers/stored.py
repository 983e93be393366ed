"""Answers on disk, found by sample id: for data that do not fit into memory.

Shapes: M stored samples, B batch, N tokens, K classes.
"""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import torch

from kdcourse import _files, _store
from kdcourse.teachers.kept import EVERYTHING, Storage

KIND = "stored answers by sample id"
PART_BYTES, PART_SECONDS = 64e6, 60  # what is written at once, at most


class Table:
    """Logits in a folder: "rows.bin" has the rows one after the other, as raw numbers that are read
    by memory mapping; "index.safetensors" has a header, the ids and digests.

    Rows are written in parts: first a part is added to "rows.bin", then the index is replaced as a
    whole. So after a kill at any moment whole parts are there, and the rest is computed again.

    storage: what is kept of logits. views: V, where an id stands for one of V views of a sample, as
    sample * V + view - 1.

    Raises `ValueError` for a folder of other settings, one with other files, and an altered one.
    """

    def __init__(self, folder: Path, settings: dict, storage: Storage = EVERYTHING, views: int = 1):
        self.folder, self.settings = folder, settings | storage.settings()
        self.storage, self.views = storage, views
        self.rows_file, self.index_file = folder / "rows.bin", folder / "index.safetensors"
        self.shape, self.parts, self.complete = None, [], False
        self.ids = self.prints = torch.zeros(0, dtype=torch.int64)
        self._waiting, self._since, self._order, self._map = [], time.monotonic(), None, None
        others = {one.name for one in folder.iterdir() if not one.name.startswith(".")} if (
            folder.exists()) else set()  # files that were not finished start with a point
        if self.index_file.exists():
            self._load()
        elif others - {"rows.bin", "lock"}:
            raise ValueError(f"Expected a folder of stored answers, an empty or a new one, got "
                             f"other files in {folder}. Name another path.")

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: torch.Tensor, prints: torch.Tensor, logits: torch.Tensor) -> None:
        """Add rows [B, …]; they are written when a part is full or a minute has passed."""
        if self.shape is None:
            self.shape = list(logits.shape[1:])
        if list(logits.shape[1:]) != self.shape:
            raise ValueError(f"Expected outputs of one shape {self.shape} to store, got "
                             f"{list(logits.shape[1:])}. Use Live(teacher).")
        self._waiting.append((ids, prints, self._encoded(ids, logits)))
        size = sum(rows.nbytes for *_, rows in self._waiting)
        if size >= PART_BYTES or time.monotonic() - self._since >= PART_SECONDS:
            self.flush()

    def flush(self, complete: bool = False) -> None:
        """Write what was added as a part. complete: nothing will be added any more."""
        self.complete = complete
        if not self._waiting and not complete:
            return
        ids, prints, rows = zip(*self._waiting, strict=True) if self._waiting else ((), (), ())
        self._waiting, self._order, self._map = [], None, None
        if rows:
            content = np.concatenate(rows).tobytes()
            _files.make_folder(self.folder)
            with (_files.enough_space(self.rows_file, len(content)),
                  self.rows_file.open("r+b" if self.rows_file.exists() else "xb") as file):
                file.truncate(len(self) * self._row().itemsize)  # a part that was not finished
                file.seek(0, os.SEEK_END)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self.ids, self.prints = torch.cat([self.ids, *ids]), torch.cat([self.prints, *prints])
            self.parts.append([len(content), hashlib.sha256(content).hexdigest()])
        _store.save(self.index_file, KIND, {"ids": self.ids, "prints": self.prints}, self.settings,
                    shape=self.shape, parts=self.parts, complete=complete)
        self._since = time.monotonic()

    def places(self, ids_B: torch.Tensor) -> torch.Tensor:
        """Return the rows of these ids, [B]; -1 where there is none."""
        if self._order is None:
            self._order = self.ids.argsort()
            self._sorted = self.ids[self._order]
        if not len(self):
            return torch.full_like(ids_B, -1)
        near = torch.searchsorted(self._sorted, ids_B).clamp(max=len(self) - 1)
        return self._order[near].masked_fill(self._sorted[near] != ids_B, -1)

    def read(self, ids_B: torch.Tensor) -> torch.Tensor:
        """Return the answers of these ids as `Storage.packed` gives them, on the CPU.

        Raises `ValueError` for an id that was not stored.
        """
        return self.storage.packed(self.raw(ids_B))

    def raw(self, ids_B: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what is stored for these ids, by `Storage.of`."""
        places = self.places(ids_B)
        if (places < 0).any():
            missing = (ids_B[places < 0] // self.views)[:3].tolist()
            raise ValueError(f"Expected ids for which there are stored answers, got {missing} "
                             "among others. Make Cached(teacher, data, path) with a loader that "
                             "goes through all samples.")
        if self._map is None:
            self._map = np.memmap(self.rows_file, self._row(), "r", shape=(len(self),))
        rows = self._map[places.numpy()]
        return {name: torch.from_numpy(np.ascontiguousarray(rows[name]))
                for name in rows.dtype.names}

    def _encoded(self, ids: torch.Tensor, logits: torch.Tensor) -> np.ndarray:
        rows = np.empty(len(logits), self._row())
        for name, values in self.storage.of(logits, ids).items():
            rows[name] = values.numpy()
        return rows

    def _row(self) -> np.dtype:
        return np.dtype(self.storage.fields(self.shape))

    def _load(self) -> None:
        header, tensors = _store.load(self.index_file, KIND, self.settings,
                                      renew="To start anew, delete the folder or name another.")
        self.shape, self.parts, self.complete = (header[name] for name in (
            "shape", "parts", "complete"))
        self.ids, self.prints = tensors["ids"], tensors["prints"]
        whole = self.rows_file.exists()
        if whole:
            with self.rows_file.open("rb") as file:
                whole = all(hashlib.sha256(file.read(size)).hexdigest() == digest
                            for size, digest in self.parts)
        if not whole:
            raise ValueError(f"Expected {KIND} in {self.rows_file}, got a file that is cut short "
                             "or altered; it was not used. To start anew, delete the folder or "
                             "name another.")


def prints_of(x, y=None) -> torch.Tensor:
    """Give a number of 63 bits for each sample, [B], that tells its inputs (and labels) from
    others: a digest of about 1000 of its numbers, spread over all."""
    values = [*(x.values() if isinstance(x, dict) else [x]), *([] if y is None else [y])]
    flat = [tensor.detach().cpu().reshape(len(tensor), -1) for tensor in values]
    flat = [rows[:, :: max(1, rows.shape[1] // 1000)].contiguous() for rows in flat]
    flat = [rows.view(torch.uint8).numpy() for rows in flat]  # NumPy has no bfloat16
    digests = (hashlib.sha256(b"".join(rows[i].tobytes() for rows in flat)).digest()
               for i in range(len(flat[0])))
    return torch.tensor([int.from_bytes(digest[:8], "big") >> 1 for digest in digests],
                        dtype=torch.int64)
