"""A teacher's logits for the training samples, computed once and stored.

Shapes: V views, N samples, B batch, K classes.
"""

import contextlib
import dataclasses
import shutil
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import nn

from kdcourse import _files, _store
from kdcourse._feed import fed, view_of
from kdcourse._key import named
from kdcourse._machine import progress
from kdcourse._tensors import fingerprint
from kdcourse._trees import first
from kdcourse.data import Batch, Dataset, Split, check_dataset
from kdcourse.data.augment import Augmented
from kdcourse.data.dataset import SPLITS
from kdcourse.outputs import running
from kdcourse.taps import Output, device_of
from kdcourse.tasks import Classes, Tokens
from kdcourse.teachers.base import Teacher
from kdcourse.teachers.live import as_teacher
from kdcourse.teachers.stored import Table
from kdcourse.teachers.streamed import (
    GivenRows,
    check_inputs,
    fill,
    in_view,
    kept_when_stopped,
    numbers_of,
    views_of,
)

KIND = "stored answers"
COMPARED = 8  # samples for which loaded logits are compared with the teacher's


class Cached(Teacher):
    """A teacher's logits for the training samples, computed once and stored by sample and view.

    Several times faster than `Live`: the teacher runs once instead of once per epoch, and the
    training is the same to rounding. With augmentation the data must have a stated number of views
    (`kd.augmented(data, views=8)`), whose logits are all stored. Refuses other data than it was
    made for, also where they were changed in place; and other labels where the teacher uses them,
    such as an ensemble with weights of "confidence".

    teacher: a network, or any teacher, such as `Live(network, transform)` or an `Ensemble`.
    path: a file, such as "logits.safetensors": loaded where it exists, written otherwise. It holds
        a checksum, and the teacher, data and views that it belongs to; a file of others is refused,
        and one whose logits are not those of the teacher now, compared for a few samples. What was
        computed before a kill is kept beside it (every minute), and not computed again.

    For data from loaders (`kd.data.from_loaders`), with batches (x, y, index), answers are found by
    these ids, and `path` is a folder, read by memory mapping. The loader must give the same inputs
    for an id each time, so without augmentation that is drawn anew: augment by `kd.augmented(data,
    views=8)`, or use `Live`. Under several processes make it once before, with a loader of all
    samples. Further arguments, for loaders only:

    top: keep the k largest logits of each sample (with `kd.tasks.Tokens()` of each token), and the
        probability of the others together. They are restored as logits that are equal for all
        others: the probabilities softmax(z / T) are the teacher's for the k largest, and what is
        left is shared equally ("marginal smoothing" of Shen & Xing 2022, arXiv:2112.01528, who take
        k = 5 and T = 1). That holds at this T alone, and not for losses on the logits themselves:
        others are refused. A student learns from this target; its loss is not that of the whole
        teacher.
    T: the temperature of the loss, such as 4 for `KD(T=4)`.
    dtype: float32, or float16, for half of the disk and 11 bits of each logit.

    >>> from kdcourse import models
    >>> from kdcourse.data import glyphs
    >>> data = glyphs(train=64, val=36, test=36)
    >>> Cached(models.convnet(width=8), data).logits.shape
    torch.Size([64, 36])
    """

    def __init__(self, teacher, data: Dataset, path=None, *, top: int | None = None, T: float = 1.0,
                 dtype: torch.dtype = torch.float32):
        super().__init__()
        teacher = as_teacher(teacher)
        check_dataset(data)
        path = Path(path) if path is not None else None
        self._check_arguments(data, path, top, T, dtype)
        self._describe(data, repr(teacher), teacher)
        teacher.check(data)
        settings = {"teacher": named(teacher), "data": repr(data), "inputs": self._inputs,
                    "smoke": _files.smoke()}
        if self._labels is not None:
            settings["labels"] = self._labels
        if not isinstance(data.train, Split):
            settings |= {"data": repr(_lasting(data.params)), "inputs": "by sample id"}
            with FileLock(_files.make_folder(path) / "lock"):  # one process computes, others wait
                self._table = Table(path, settings, top, T, dtype, views_of(data.train))
                fill(self._table, teacher, data.train)
            check_inputs(self._table, data.train, teacher)
            self._compare_table(path, data)
        elif path is not None and path.exists():
            self._keep(_store.load(path, KIND, settings)[1]["logits"])
            self._compare(path, data)
        else:
            with _parts(path, settings) as table:
                self._keep(_computed(teacher, data, table))
                if path is None:
                    return
                with _files.warn_if_not_kept("The teacher's answers were computed but not kept."):
                    _store.save(path, KIND, {"logits": self._logits_VNK}, settings)
                    if table is not None:
                        shutil.rmtree(table.folder, ignore_errors=True)

    @staticmethod
    def _check_arguments(data: Dataset, path, top, T, dtype) -> None:
        stream = not isinstance(data.train, Split)
        _check_views(data)
        if not stream and (top is not None or T != 1 or dtype != torch.float32):
            raise ValueError("Expected data from loaders for top, T and dtype, got data in memory, "
                             "for which all logits are kept in float32: they are smaller than the "
                             "samples, mostly. Leave them out, or use kd.data.from_loaders with "
                             "batches (x, y, index).")
        if stream and path is None:
            raise ValueError("Expected path=…, a folder on disk, for the answers to data from a "
                             "loader, got none.")
        if stream and path.is_file():
            raise ValueError(f"Expected a folder for answers by sample id at {path}, got a file. "
                             "Name another path.")
        if top is not None and not isinstance(data.task, (Classes, Tokens)):
            raise ValueError(f"Expected one label per sample or token for top=…, got "
                             f"{data.task!r}. Leave top out, which keeps all logits.")
        if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
            raise ValueError(f"Expected top as a number of classes of at least 1, got {top!r}.")
        if not 0 < T < float("inf") or (T != 1 and top is None):
            raise ValueError(f"Expected a temperature T above 0, together with top=…, got T={T} "
                             f"and top={top}.")
        if dtype not in (torch.float32, torch.float16):
            raise ValueError(f"Expected dtype torch.float32 or torch.float16, got {dtype}.")

    @classmethod
    def of(cls, logits: torch.Tensor, data: Dataset, name: str) -> "Cached":
        """Take logits from elsewhere: [N, K], one row per training sample, of a loader per sample
        id (such as `torch.from_numpy` of a memory-mapped array); for augmented data [V, N, K]. In
        another task each has the shape of an output there.

        name: what they are, for the reader of a `repr`. Raises `ValueError` when there are not as
        many rows as training samples.
        """
        check_dataset(data)
        _check_views(data)
        expected = [len(data.train), len(data.classes)]
        views = getattr(data.train, "views", None)
        if not isinstance(data.train, Split):
            given = logits[None] if views is None else logits  # [V, M, K], M of at least N
            if given.ndim < 2 or len(given) != (views or 1) or given.shape[1] < expected[0] or (
                    isinstance(data.task, Classes) and list(given.shape[2:]) != expected[1:]):
                shape = expected if views is None else [views, *expected]
                raise ValueError(f"Expected logits of shape {shape}, a row for each sample id, "
                                 f"got {list(logits.shape)}.")
            self = cls.__new__(cls)
            Teacher.__init__(self)
            self._describe(data, name, None)
            self._table = GivenRows(given.detach())
            return self
        if not isinstance(data.task, Classes):  # of any shape
            expected[1:] = logits.shape[1 if views is None else 2 :]
        if list(logits.shape) not in (expected, [views, *expected]):
            raise ValueError(f"Expected logits of shape {expected}, one row per training sample, "
                             f"got {list(logits.shape)}.")
        self = cls.__new__(cls)
        Teacher.__init__(self)
        self._describe(data, name, None)
        self._keep(logits.view(-1, *expected).detach())
        return self

    def _describe(self, data: Dataset, name: str, source: Teacher | None) -> None:
        self.params, self._name, self._data = data.params, name, data.identity()
        self._table = self._inputs = self._labels = None
        if isinstance(data.train, Split):
            self._inputs = fingerprint(data.train.x)
            uses_labels = source is not None and source.uses_labels
            self._labels = fingerprint(data.train.y) if uses_labels else None
        # In a tuple, so that it is no submodule: training does not run it, so its weights need not
        # lie in the memory of a GPU.
        self._source = (source,)

    def _keep(self, logits_VNK: torch.Tensor) -> None:
        self.register_buffer("_logits_VNK", logits_VNK.contiguous(), persistent=False)

    @property
    def source(self) -> Teacher | None:
        """The teacher of the logits; None where they came from elsewhere."""
        return self._source[0]

    @property
    def logits(self) -> torch.Tensor:
        """The stored logits, on the CPU: [N, K], or with augmentation [V, N, K]."""
        if self._table is not None:
            raise ValueError("Expected logits in memory, got answers by sample id on disk. Call "
                             "the teacher with a batch: cached(batch).logits.")
        stored_VNK = self._logits_VNK.cpu()  # a training moves them
        return stored_VNK if "views" in self.params else stored_VNK[0]

    @property
    def top(self) -> int | None:
        """How many of the largest logits of a sample are stored; None: all."""
        return getattr(self._table, "top", None)

    def _compare(self, path: Path, data: Dataset) -> None:
        """Raise `ValueError` unless the teacher has the stored logits for a few samples."""
        V, N = self._logits_VNK.shape[:2]
        places = torch.linspace(0, N - 1, min(COMPARED, N)).long()
        for view in {0, V - 1}:
            stored_BK = self._logits_VNK[view, places]
            now_BK = _logits(self.source, data.train, places, view)
            if now_BK.shape != stored_BK.shape or not _close(now_BK, stored_BK):
                raise _changed(path)

    def _compare_table(self, path: Path, data: Dataset) -> None:
        """Raise `ValueError` unless the teacher has the stored logits for a few samples."""
        plain, V = data.train.one(0)[:COMPARED], views_of(data.train)
        train = data.train.to(device_of(self.source))
        for view in {1, V}:
            batch = in_view(train, plain, view)
            stored = self._table.raw(numbers_of(batch, V))
            now = self.source(batch).logits.float().cpu()
            same = list(now.shape[1:]) == self._table.shape
            found = self._table.of(now, stored.get("places")) if same else stored
            if not same or not all(_close(found[name], values) for name, values in stored.items()
                                   if name != "places"):
                raise _changed(path)

    def tap(self, paths: tuple[str, ...]) -> None:
        """Raise `ValueError` for any path: only logits are stored."""
        if paths:
            raise ValueError(f"Expected a teacher with its layers for the taps {list(paths)}, got "
                             "stored logits. Use the network itself, or Live(network).")

    def forward(self, batch: Batch, paths: tuple[str, ...] = ()) -> Output:
        self.tap(paths)
        plain, V = "views" not in self.params, self.params.get("views", 1)
        if plain != (batch.view == 0) or batch.view > V:
            raise ValueError(
                f"Expected a batch in {'view 0' if plain else f'views 1 to {V}'}, for which there "
                f"are answers, got view {batch.view}. Make Cached(teacher, data) for the data that "
                "you train on, or use Live(teacher).")
        if self._table is not None:
            return self._by_id(batch, V)
        places = batch.index.to(self._logits_VNK.device)
        if V == 1:
            return Output(self._logits_VNK[0].index_select(0, places), index=batch.index)
        logits_BK = fed(lambda: self._logits_VNK[view_of(batch) - 1].index_select(0, places),
                        places.device, reads=places)
        return Output(logits_BK, index=batch.index)

    def _by_id(self, batch: Batch, views: int) -> Output:
        ids = batch.index if batch.ids is None else batch.ids

        def read():
            seen = dataclasses.replace(batch, view=view_of(batch))
            return self._table.read(numbers_of(seen, views))

        logits = fed(read, first(batch.x).device, reads=ids)
        return Output(logits, index=batch.index, T=None if self.top is None else self._table.T)

    def predict(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor | None:
        """Compute logits for any inputs with the teacher; None without one."""
        return self.source.predict(x, y) if self.source is not None else None

    def identity(self):
        """Give the data and the teacher, or the name and the logits that came from elsewhere, by
        which recorded results are found."""
        if self._table is None:
            return [self._data, self.source or [self._name, self._logits_VNK]]
        table = self._table
        given = None if self.source else table.logits if "views" in self.params else table.logits[0]
        return [self._data, self.source or [self._name, given],
                table.top, table.T, str(table.dtype)]

    def networks(self) -> list[nn.Module]:
        """List the networks of the teacher."""
        return self.source.networks() if self.source is not None else []

    def check(self, data: Dataset) -> None:
        """Raise `ValueError` unless `data` is what the logits were computed for."""
        if self._table is not None:
            if isinstance(data.train, Split) or _lasting(data.params) != _lasting(self.params):
                raise ValueError(
                    f"Expected the data that was cached, {self.params}, got {data.params}. Make "
                    "Cached(teacher, data, path) again for this data.")
            check_inputs(self._table, data.train, self.source)
            return
        if data.params != self.params:
            raise ValueError(
                f"Expected the data that was cached, {self.params}, got {data.params}. "
                "Make Cached(teacher, data) again for this data.")
        if fingerprint(data.train.x) != self._inputs:
            raise ValueError(
                "Expected the training samples that were cached, in the same order, got others: "
                "the answers would belong to other images. Make Cached(teacher, data) again.")
        if self._labels is not None and fingerprint(data.train.y) != self._labels:
            raise ValueError(
                "Expected the labels that were cached, got others: the teacher's answers depend on "
                "them. Make Cached(teacher, data) again.")

    def __repr__(self):
        kept = "" if self.top is None else f", top={self.top}, T={self._table.T:g}"
        return f"Cached({self._name}{kept})"


def _check_views(data: Dataset) -> None:
    """Raise `ValueError` for data that have a new view in every epoch."""
    if getattr(data.train, "views", 1) is None:
        raise ValueError("Expected data with a stated number of views to store answers for, "
                         "got ever new ones. Make the data with views=…, or use Live(teacher).")


def _lasting(params: dict) -> dict:
    """Leave out the numbers of samples, which differ between processes."""
    return {name: value for name, value in params.items() if name not in SPLITS}


def _close(now: torch.Tensor, stored: torch.Tensor) -> bool:
    # Another device or precision changes logits by less than 2 % of their spread.
    close = 0.02 * float(stored[stored.isfinite()].std(correction=0))
    return bool(torch.isclose(now, stored, rtol=0, atol=close, equal_nan=True).all())


def _changed(path: Path) -> ValueError:
    return ValueError(
        f"Expected the answers in {path} to be those of the teacher, got others for a few samples "
        "that were compared; they were not used. Was its forward, its normalisation or the order "
        "of its outputs changed since? Delete the file, or name another.")


@contextlib.contextmanager
def _parts(path: Path | None, settings: dict):
    """Open the table of finished parts beside a file; None without a file, where another process
    has it open, and in a folder that cannot be written to."""
    if path is None:
        yield None
        return
    folder = path.with_name(f"{path.name}.parts")
    try:
        lock = FileLock(_files.make_folder(folder) / "lock", timeout=0)
        lock.acquire()
    except (OSError, Timeout):
        yield None
        return
    try:
        yield Table(folder, settings)
    finally:
        lock.release()


def _computed(teacher: Teacher, data: Dataset, table: Table | None) -> torch.Tensor:
    """Compute [V, N, K]: the logits of the plain samples, or of every view. table: keeps finished
    parts, by view * N + place."""
    train = data.train
    N, views = len(train), train.views if isinstance(train, Augmented) else 1
    found = []
    with progress(views * N, "teacher", "sample") as bar, kept_when_stopped(table):
        for view in range(views):
            for places in torch.arange(N).split(500):
                ids = view * N + places
                if table is not None and (table.places(ids) >= 0).all():
                    found.append(table.read(ids))
                else:
                    found.append(_logits(teacher, train, places, view))
                    if table is not None:
                        with _files.warn_if_not_kept("A part of the answers was not kept."):
                            table.add(ids, ids, found[-1])
                bar.update(len(places))
    return torch.cat(found).view(views, N, *found[0].shape[1:])


def _logits(teacher: Teacher, train: Split, places: torch.Tensor, view: int) -> torch.Tensor:
    """Compute logits [B, K] of training samples, of augmented ones in view number view + 1, on the
    CPU."""
    index, device = places.to(first(train.x).device), device_of(teacher)
    number = view + 1 if isinstance(train, Augmented) else 0
    split = (train.at(index, number) if number else train[index]).to(device)
    batch = Batch(split.x, split.y, index.to(device), number, split.task)
    with running("teacher", batch.x):
        return teacher(batch).logits.float().cpu()
