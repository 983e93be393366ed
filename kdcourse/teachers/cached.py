"""A teacher's logits for the training samples, computed once and stored.

Shapes: V views, N samples, B batch, K classes.
"""

import dataclasses
import shutil
from pathlib import Path

import torch
from filelock import FileLock
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
from kdcourse.teachers.kept import EVERYTHING, Storage
from kdcourse.teachers.live import as_teacher
from kdcourse.teachers.stored import Table
from kdcourse.teachers.streamed import (
    GivenRows,
    check_inputs,
    fill,
    finished_parts,
    in_view,
    kept_when_stopped,
    numbers_of,
    views_of,
)

KIND = "stored answers"
COMPARED = 8  # samples for which loaded logits are compared with the teacher's


class Cached(Teacher):
    r"""A teacher's logits for the training samples, computed once and stored by sample and view.

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
    samples.

    top: keep the k most probable classes of each sample (with `kd.tasks.Tokens()` of each token),
        and what is left as *one more class*: the log-probabilities at T, and the class numbers. A
        loss then compares k + 1 classes, of which the last has the probabilities of all others
        added up, on both sides. With q, p of student and teacher, and r the classes left out,

        .. math:: \mathrm{KL}(p \,\|\, q) = \mathrm{KL}_{k+1}(p \,\|\, q)
            + p_r\,\mathrm{KL}(p_{|r} \,\|\, q_{|r}),

        so what is lost is known, and at least 0. (The k largest alone, renormalised to 1, would
        pull the student's whole probability into them.) For losses on softmax(z / T) at this T:
        `KD`, `ReverseKL`, `JS`, `TV`, `SkewKL`; others are refused.
    draws: keep n classes drawn from softmax(z / T) instead, n up to 255 (Anshumann et al. 2025,
        arXiv:2503.16870, with 12 and T = 1): their shares are an unbiased estimate of p, so the
        gradient of `KD` is one of the whole teacher's, and the only loss that is taken. They are
        the same in every epoch. seed: of the draws.
    T: the temperature of the loss, such as 4 for `KD(T=4)`. It cannot be changed afterwards, as
        what is left was added up at this one.
    dtype: float32, or float16: half of the disk, and 11 bits of each number. None: float16 with
        `top` or `draws`, which then take 4 or 5 bytes a class (6 or 7 of more than 65,536 classes);
        else float32. In memory all logits are in float32. The repr tells the bytes of a row.

    >>> from kdcourse import models
    >>> from kdcourse.data import glyphs
    >>> data = glyphs(train=64, val=36, test=36)
    >>> Cached(models.convnet(width=8), data).logits.shape
    torch.Size([64, 36])
    """

    def __init__(self, teacher, data: Dataset, path=None, *, top: int | None = None, T: float = 1.0,
                 dtype: torch.dtype | None = None, draws: int | None = None, seed: int = 0):
        super().__init__()
        teacher = as_teacher(teacher)
        check_dataset(data)
        path = Path(path) if path is not None else None
        if dtype is None:
            dtype = torch.float16 if top or draws else torch.float32
        storage = Storage(top, draws, T, dtype, seed)
        self._check_arguments(data, path, storage)
        self._describe(data, repr(teacher), teacher, storage)
        teacher.check(data)
        settings = {"teacher": named(teacher), "data": repr(data), "inputs": self._inputs,
                    "smoke": _files.smoke()}
        if self._labels is not None:
            settings["labels"] = self._labels
        if not isinstance(data.train, Split):
            settings |= {"data": repr(_lasting(data.params)), "inputs": "by sample id"}
            with FileLock(_files.make_folder(path) / "lock"):  # one process computes, others wait
                self._table = Table(path, settings, storage, views_of(data.train))
                fill(self._table, teacher, data.train)
            check_inputs(self._table, data.train, teacher)
            self._compare_table(path, data)
        elif path is not None and path.exists():
            header, stored = _store.load(path, KIND, settings | storage.in_memory())
            self._keep(stored, header.get("classes"))
            self._compare(path, data)
        else:
            with finished_parts(path, settings, storage) as table:
                self._keep(*_computed(teacher, data, table, storage))
                if path is None:
                    return
                with _files.warn_if_not_kept("The teacher's answers were computed but not kept."):
                    _store.save(path, KIND, self._stored(), settings | storage.in_memory(),
                                classes=self._classes)
                    if table is not None:
                        shutil.rmtree(table.folder, ignore_errors=True)

    @staticmethod
    def _check_arguments(data: Dataset, path, storage: Storage) -> None:
        stream = not isinstance(data.train, Split)
        _check_views(data)
        if not stream and storage.k is None and storage.dtype != torch.float32:
            raise ValueError("Expected data from loaders for dtype, got data in memory, for which "
                             "all logits are kept in float32: they are smaller than the samples, "
                             "mostly. Leave it out, keep top=… or draws=…, or use "
                             "kd.data.from_loaders with batches (x, y, index).")
        if stream and path is None:
            raise ValueError("Expected path=…, a folder on disk, for the answers to data from a "
                             "loader, got none.")
        if stream and path.is_file():
            raise ValueError(f"Expected a folder for answers by sample id at {path}, got a file. "
                             "Name another path.")
        storage.check(data.task)

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
        self._keep({"logits": logits.view(-1, *expected).detach()})
        return self

    def _describe(self, data: Dataset, name: str, source: Teacher | None,
                  storage: Storage = EVERYTHING) -> None:
        self.params, self._name, self._data = data.params, name, data.identity()
        self._storage, self._classes, self._names = storage, None, ()
        self.register_buffer("_common", getattr(source, "common", None), persistent=False)
        self._table = self._inputs = self._labels = None
        if isinstance(data.train, Split):
            self._inputs = fingerprint(data.train.x)
            uses_labels = source is not None and source.uses_labels
            self._labels = fingerprint(data.train.y) if uses_labels else None
        # In a tuple, so that it is no submodule: training does not run it, so its weights need not
        # lie in the memory of a GPU.
        self._source = (source,)

    def _keep(self, stored: dict[str, torch.Tensor], classes: int | None = None) -> None:
        """Keep tensors [V, N, …] by name; classes: K."""
        self._names, self._classes = tuple(stored), classes
        for name, tensor in stored.items():
            self.register_buffer(f"_{name}_VN", tensor.contiguous(), persistent=False)

    def _stored(self, view: int | None = None, places: torch.Tensor | None = None) -> dict:
        """Give the stored tensors, or the rows of these places in a view."""
        found = {name: getattr(self, f"_{name}_VN") for name in self._names}
        if places is None:
            return found
        return {name: tensor[view].index_select(0, places) for name, tensor in found.items()}

    @property
    def source(self) -> Teacher | None:
        """The teacher of the logits; None where they came from elsewhere."""
        return self._source[0]

    @property
    def logits(self) -> torch.Tensor:
        """The stored logits, on the CPU: [N, K], or with augmentation [V, N, K]."""
        if self._table is not None or self._storage.k:
            kept = "answers by sample id on disk" if self._table else str(self._storage)
            raise ValueError(f"Expected all logits in memory, got {kept}. Call the teacher with a "
                             "batch: cached(batch).logits.")
        stored_VNK = self._logits_VN.cpu()  # a training moves them
        return stored_VNK if "views" in self.params else stored_VNK[0]

    @property
    def top(self) -> int | None:
        """How many classes of a sample are stored; None: all."""
        return self._storage.k

    def _compare(self, path: Path, data: Dataset) -> None:
        """Raise `ValueError` unless the teacher has the stored logits for a few samples."""
        V, N = next(iter(self._stored().values())).shape[:2]
        places = torch.linspace(0, N - 1, min(COMPARED, N)).long()
        for view in {0, V - 1}:
            stored, now = self._stored(view, places), _logits(self.source, data.train, places, view)
            if not self._same(stored, now, view * N + places):
                raise _changed(path)

    def _same(self, stored: dict, now: torch.Tensor, numbers: torch.Tensor) -> bool:
        """Tell whether logits are those of a stored answer, for the classes that are stored."""
        found = self._storage.of(now, numbers, stored)
        return all(found[name].shape == values.shape and _close(found[name], values)
                   for name, values in stored.items() if name not in ("places", "counts"))

    def _compare_table(self, path: Path, data: Dataset) -> None:
        """Raise `ValueError` unless the teacher has the stored logits for a few samples."""
        plain, V = data.train.one(0)[:COMPARED], views_of(data.train)
        train = data.train.to(device_of(self.source))
        for view in {1, V}:
            batch = in_view(train, plain, view)
            numbers, now = numbers_of(batch, V), self.source(batch).logits.float().cpu()
            if list(now.shape[1:]) != self._table.shape or not self._same(
                    self._table.raw(numbers), now, numbers):
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
        places = batch.index.to(next(iter(self._stored().values())).device)

        def read():
            return self._storage.packed(self._stored(max(view_of(batch), 1) - 1, places))

        return self._output(read() if V == 1 else fed(read, places.device, reads=places), batch)

    def _output(self, packed: torch.Tensor, batch: Batch) -> Output:
        logits, kept = self._storage.unpacked(packed, self._common)
        return Output(logits, index=batch.index, kept=kept)

    def _by_id(self, batch: Batch, views: int) -> Output:
        ids = batch.index if batch.ids is None else batch.ids

        def read():
            seen = dataclasses.replace(batch, view=view_of(batch))
            return self._table.read(numbers_of(seen, views))

        return self._output(fed(read, first(batch.x).device, reads=ids), batch)

    def predict(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor | None:
        """Compute logits for any inputs with the teacher; None without one."""
        return self.source.predict(x, y) if self.source is not None else None

    def identity(self):
        """Give the data and the teacher, or the name and the logits that came from elsewhere, by
        which recorded results are found."""
        kept, table = self._storage, self._table
        part = [kept.draws, kept.seed, "rest"] if kept.draws else ["rest"] if kept.top else []
        if table is None:
            part = [kept.top, kept.T, str(kept.dtype), *part] if kept.k else []
            return [self._data, self.source or [self._name, self._logits_VN], *part]
        given = None if self.source else table.logits if "views" in self.params else table.logits[0]
        return [self._data, self.source or [self._name, given], kept.top, kept.T,
                str(kept.dtype) if self.source else "None", *part]

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
        if self.top is None:
            return f"Cached({self._name})"
        classes = self._table.shape[-1] if self._table else self._classes
        size = self._storage.bytes([classes])
        return f"Cached({self._name}, {self._storage}, {size} bytes a row)"


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
    now, stored = now.float(), stored.float()
    close = 0.02 * float(stored[stored.isfinite()].std(correction=0))
    return bool(torch.isclose(now, stored, rtol=0, atol=close, equal_nan=True).all())


def _changed(path: Path) -> ValueError:
    return ValueError(
        f"Expected the answers in {path} to be those of the teacher, got others for a few samples "
        "that were compared; they were not used. Was its forward, its normalisation or the order "
        "of its outputs changed since? Delete the file, or name another.")


def _computed(teacher: Teacher, data: Dataset, table: Table | None, storage: Storage) -> tuple:
    """Compute what is stored of the plain samples, or of every view, [V, N, …] by name, and K.
    table: keeps finished parts, by view * N + place."""
    train = data.train
    N, views = len(train), train.views if isinstance(train, Augmented) else 1
    # Whole logits of about 500 rows at a time: of long texts with a large vocabulary they are huge.
    size = max(1, 500 // first(train.x).shape[1]) if isinstance(data.task, Tokens) else 500
    found, classes = [], None
    with progress(views * N, "teacher", "sample") as bar, kept_when_stopped(table):
        for view in range(views):
            for places in torch.arange(N).split(size):
                ids = view * N + places
                if table is not None and (table.places(ids) >= 0).all():
                    found.append(table.raw(ids))
                    classes = table.shape[-1]
                else:
                    logits = _logits(teacher, train, places, view)
                    found.append(storage.of(logits, ids))
                    classes = logits.shape[-1]
                    if table is not None:
                        with _files.warn_if_not_kept("A part of the answers was not kept."):
                            table.add(ids, ids, logits)
                bar.update(len(places))
    joined = {name: torch.cat([part[name] for part in found]) for name in found[0]}
    return {name: tensor.view(views, N, *tensor.shape[1:])
            for name, tensor in joined.items()}, classes


def _logits(teacher: Teacher, train: Split, places: torch.Tensor, view: int) -> torch.Tensor:
    """Compute logits [B, K] of training samples, of augmented ones in view number view + 1, on the
    CPU."""
    index, device = places.to(first(train.x).device), device_of(teacher)
    number = view + 1 if isinstance(train, Augmented) else 0
    split = (train.at(index, number) if number else train[index]).to(device)
    batch = Batch(split.x, split.y, index.to(device), number, split.task)
    with running("teacher", batch.x):
        return teacher(batch).logits.float().cpu()
