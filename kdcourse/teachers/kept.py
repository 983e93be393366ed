"""What is stored of a teacher's logits: all of them, the largest, or draws.

Shapes: B samples, N tokens, K classes, k those that are kept of each row.
"""

import dataclasses
import math

import numpy as np
import torch

from kdcourse._random import generator
from kdcourse.outputs import Kept
from kdcourse.tasks import Classes, Tokens

WRAPPED = 2**16  # classes whose numbers lie in 16 bits, as int16: torch has little for uint16


@dataclasses.dataclass(frozen=True)
class Storage:
    """How logits [B, K] or [B, N, K] are stored. top, draws, T, dtype, seed: see `kd.Cached`."""

    top: int | None = None
    draws: int | None = None
    T: float = 1.0
    dtype: torch.dtype = torch.float32
    seed: int = 0

    def check(self, task) -> None:
        """Raise `ValueError` for settings that cannot be, or not for this task."""
        for name, count in (("top", self.top), ("draws", self.draws)):
            if count is None:
                continue
            if not isinstance(task, (Classes, Tokens)):
                raise ValueError(f"Expected one label per sample or token for {name}=…, got "
                                 f"{task!r}. Leave {name} out, which keeps all logits.")
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"Expected {name} as a number of classes of at least 1, got "
                                 f"{count!r}.")
        if self.draws is not None and (self.top is not None or self.draws > 255):
            raise ValueError(f"Expected up to 255 draws, or top=…, got draws={self.draws} and "
                             f"top={self.top}. So many draws cost more than the largest classes.")
        if not 0 < self.T < math.inf or (self.T != 1 and self.k is None):
            raise ValueError(f"Expected a temperature T above 0, together with top=… or draws=…, "
                             f"got T={self.T} and top={self.top}.")
        if self.dtype not in (torch.float32, torch.float16):
            raise ValueError(f"Expected dtype torch.float32 or torch.float16, got {self.dtype}.")

    @property
    def k(self) -> int | None:
        """How many classes of a row are kept; None: all."""
        return self.top or self.draws

    def settings(self) -> dict:
        """Give what a file of stored answers belongs to."""
        part = {"T": self.T, "rest": "one class"} if self.k else {"T": None, "rest": None}
        drawn = [self.draws, self.seed] if self.draws else None
        return {"top": self.top, "draws": drawn, "dtype": str(self.dtype)} | part

    def in_memory(self) -> dict:
        """Give what a file of answers to data in memory belongs to."""
        return self.settings() if self.k else {"top": None, "draws": None}

    def fields(self, shape: list[int]) -> list[tuple]:
        """Describe a row on disk: little-endian numbers of logits of this shape, without B."""
        kind = "<f2" if self.dtype == torch.float16 else "<f4"
        if self.k is None:
            return [("logits", kind, tuple(shape))]
        rows, K = tuple(shape[:-1]), shape[-1]
        found = [("places", "<i2" if K <= WRAPPED else "<i4", (*rows, self.k)),
                 ("values", kind, (*rows, self.k))]
        return [*found, ("counts", "u1", (*rows, self.k)) if self.draws else ("rest", kind, rows)]

    def bytes(self, shape: list[int]) -> int:
        """Count the bytes that a row [K] takes."""
        return np.dtype(self.fields([shape[-1]])).itemsize

    def of(self, logits: torch.Tensor, numbers_B: torch.Tensor, like: dict | None = None) -> dict:
        """Return what is stored of logits: all; or the log of the probabilities at T of k classes,
        with the log of what is left, or with the counts of draws.

        numbers_B: of the samples, by which draws differ. like: another answer, whose classes are
        taken instead of the largest.
        """
        if self.k is None:
            return {"logits": self._rounded(logits)}
        K = logits.shape[-1]
        if logits.ndim < 2 or not self.k < int(logits.isfinite().sum(-1).min()):
            raise ValueError(f"Expected logits [B, K] with more than {self._shown} classes, got "
                             f"{list(logits.shape)}. Leave it out to keep all.")
        log_p, found = (logits / self.T).log_softmax(-1), {}
        if like is not None:
            places = self._numbers(like["places"])
        elif self.top:
            places = log_p.topk(self.top, -1).indices
        else:
            counts, places = self._drawn(log_p, numbers_B).topk(self.draws, -1)
            found["counts"] = counts.to(torch.uint8)
        if self.top:
            found["rest"] = self._rounded(log_p.scatter(-1, places, -math.inf).logsumexp(-1))
        stored = places.to(torch.int16 if K <= WRAPPED else torch.int32)
        return found | {"places": stored, "values": self._rounded(log_p.gather(-1, places))}

    def _drawn(self, log_p: torch.Tensor, numbers_B: torch.Tensor) -> torch.Tensor:
        """Count n draws from each row: those of a sample are the same whenever it is asked."""
        totals = log_p.double().exp().cumsum(-1)
        rows = [torch.rand(*log_p.shape[1:-1], self.draws, dtype=torch.float64,
                           generator=generator(self.seed, "draws", number))
                for number in numbers_B.tolist()]
        drawn = torch.searchsorted(totals, torch.stack(rows) * totals[..., -1:], right=True)
        return torch.zeros_like(log_p).scatter_add_(-1, drawn, torch.ones_like(drawn).to(log_p))

    def packed(self, found: dict) -> torch.Tensor:
        """Give the logits of stored answers in float32, with the class numbers behind them: one
        tensor [B, …, 2 k + 1], as a step reads it from Python. Of all: the logits."""
        if self.k is None:
            return found["logits"].float()
        if self.draws:
            values = (found["counts"].float() / self.draws).log()
            rest = torch.full_like(values[..., :1], -math.inf)
        else:
            values, rest = found["values"].float(), found["rest"].float()[..., None]
        return torch.cat([self.T * values, self.T * rest, self._numbers(found["places"])], -1)

    def unpacked(self, packed: torch.Tensor, common: torch.Tensor | None) -> tuple:
        """Give logits, and of which classes they are, from `packed`."""
        if self.k is None:
            return packed, None if common is None else Kept(common=common)
        logits, places = packed.split([self.k + 1, self.k], -1)
        return logits, Kept(places.long(), self.T, bool(self.draws), common)

    @staticmethod
    def _numbers(places: torch.Tensor) -> torch.Tensor:
        return places.long() & (WRAPPED - 1) if places.dtype == torch.int16 else places.long()

    def _rounded(self, values: torch.Tensor) -> torch.Tensor:
        kept = values.to(self.dtype)
        if (kept.isinf() != values.isinf()).any():
            raise ValueError(f"Expected logits up to 65504 for dtype={self.dtype}, got "
                             f"{float(values[kept.isinf()].abs().max()):.3g}. Use "
                             "dtype=torch.float32.")
        return kept

    @property
    def _shown(self) -> str:
        return f"top={self.top}" if self.top else f"draws={self.draws}"

    def __str__(self) -> str:
        """Give the settings for people; nothing for all logits."""
        return f"{self._shown}, T={self.T:g}" if self.k else ""


EVERYTHING = Storage()
