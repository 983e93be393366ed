"""A teacher's logits for the training samples, computed once and stored.

Shapes: V views, N samples, B batch, K classes.
"""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from kdcourse import _files, _store
from kdcourse._key import named
from kdcourse._tensors import fingerprint
from kdcourse.data import Batch, Dataset, Split, check_dataset
from kdcourse.data.augment import Augmented
from kdcourse.taps import Output, device_of
from kdcourse.tasks import ONE_LABEL, first
from kdcourse.teachers.base import Teacher
from kdcourse.teachers.live import as_teacher

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
        and one whose logits are not those of the teacher now, compared for a few samples.

    >>> from kdcourse import models
    >>> from kdcourse.data import glyphs
    >>> data = glyphs(train=64, val=36, test=36)
    >>> Cached(models.convnet(width=8), data).logits.shape
    torch.Size([64, 36])
    """

    def __init__(self, teacher, data: Dataset, path=None):
        super().__init__()
        teacher = as_teacher(teacher)
        check_dataset(data)
        self._describe(data, repr(teacher), teacher)
        teacher.check(data)
        settings = {"teacher": named(teacher), "data": repr(data), "inputs": self._inputs,
                    "smoke": _files.smoke()}
        if self._labels is not None:
            settings["labels"] = self._labels
        path = Path(path) if path is not None else None
        if path is not None and path.exists():
            self._keep(_store.load(path, KIND, settings)[1]["logits"])
            self._compare(path, data)
            return
        self._keep(_computed(teacher, data))
        if path is not None:
            with _files.warn_if_not_kept("The teacher's answers were computed but not kept."):
                _store.save(path, KIND, {"logits": self._logits_VNK}, settings)

    @classmethod
    def of(cls, logits: torch.Tensor, data: Dataset, name: str) -> "Cached":
        """Take logits from elsewhere: [N, K], one row per training sample; for augmented data
        [V, N, K]. In another task each has the shape of an output there.

        name: what they are, for the reader of a `repr`. Raises `ValueError` when there are not as
        many rows as training samples.
        """
        check_dataset(data)
        expected = [len(data.train), len(data.classes)]
        views = getattr(data.train, "views", None)
        if data.task != ONE_LABEL:  # of any shape
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
        stored_VNK = self._logits_VNK.cpu()  # a training moves them
        return stored_VNK if "views" in self.params else stored_VNK[0]

    def _compare(self, path: Path, data: Dataset) -> None:
        """Raise `ValueError` unless the teacher has the stored logits for a few samples."""
        V, N = self._logits_VNK.shape[:2]
        places = torch.linspace(0, N - 1, min(COMPARED, N)).long()
        for view in {0, V - 1}:
            stored_BK = self._logits_VNK[view, places]
            now_BK = _logits(self.source, data.train, places, view)
            # Another device or precision changes logits by less than 2 % of their spread.
            close = 0.02 * float(stored_BK[stored_BK.isfinite()].std(correction=0))
            if now_BK.shape != stored_BK.shape or not torch.isclose(
                    now_BK, stored_BK, rtol=0, atol=close, equal_nan=True).all():
                raise ValueError(
                    f"Expected the answers in {path} to be those of the teacher, got others for a "
                    f"few samples that were compared; they were not used. Was its forward, its "
                    "normalisation or the order of its outputs changed since? Delete the file, or "
                    "name another.")

    def tap(self, paths: tuple[str, ...]) -> None:
        """Raise `ValueError` for any path: only logits are stored."""
        if paths:
            raise ValueError(f"Expected a teacher with its layers for the taps {list(paths)}, got "
                             "stored logits. Use the network itself, or Live(network).")

    def forward(self, batch: Batch, paths: tuple[str, ...] = ()) -> Output:
        self.tap(paths)
        plain, V = "views" not in self.params, len(self._logits_VNK)
        if plain != (batch.view == 0) or batch.view > V:
            raise ValueError(
                f"Expected a batch in {'view 0' if plain else f'views 1 to {V}'}, for which there "
                f"are answers, got view {batch.view}. Make Cached(teacher, data) for the data that "
                "you train on, or use Live(teacher).")
        logits_NK = self._logits_VNK[max(batch.view - 1, 0)]
        places = batch.index.to(logits_NK.device)
        return Output(logits_NK.index_select(0, places), index=batch.index)

    def predict(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor | None:
        """Compute logits for any inputs with the teacher; None without one."""
        return self.source.predict(x, y) if self.source is not None else None

    def identity(self):
        """Give the data and the teacher, or the name and the logits that came from elsewhere, by
        which recorded results are found."""
        return [self._data, self.source or [self._name, self._logits_VNK]]

    def networks(self) -> list[nn.Module]:
        """List the networks of the teacher."""
        return self.source.networks() if self.source is not None else []

    def check(self, data: Dataset) -> None:
        """Raise `ValueError` unless `data` is what the logits were computed for."""
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
        return f"Cached({self._name})"


def _computed(teacher: Teacher, data: Dataset) -> torch.Tensor:
    """Compute [V, N, K]: the logits of the plain samples, or of every view."""
    train = data.train
    views = train.views if isinstance(train, Augmented) else 1
    if views is None:
        raise ValueError("Expected data with a stated number of views to store answers for, "
                         "got ever new ones. Use kd.augmented(data, views=…), or Live(teacher).")
    parts = torch.arange(len(train)).split(500)
    return torch.stack([torch.cat([_logits(teacher, train, places, view) for places in parts])
                        for view in range(views)])


def _logits(teacher: Teacher, train: Split, places: torch.Tensor, view: int) -> torch.Tensor:
    """Compute logits [B, K] of training samples, of augmented ones in view number view + 1, on the
    CPU."""
    index, device = places.to(first(train.x).device), device_of(teacher)
    number = view + 1 if isinstance(train, Augmented) else 0
    split = train[index]
    if number:
        split = dataclasses.replace(split, x=train.seen(index, number))
    split = split.to(device)
    batch = Batch(split.x, split.y, index.to(device), number, split.task)
    return teacher(batch).logits.float().cpu()
