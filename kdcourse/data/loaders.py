"""Data that does not fit into memory: splits whose batches come from a loader.

Shapes: N samples, B batch, K classes, C channels, H W height and width.
"""

import contextlib
import dataclasses
import random
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from kdcourse._random import generator
from kdcourse._trees import each, first
from kdcourse.data.arrays import as_inputs, as_split
from kdcourse.data.dataset import Batch, Dataset, Split
from kdcourse.data.items import kind_of, same, tensors_of
from kdcourse.data.names import check_names
from kdcourse.tasks import ONE_LABEL, Task


def from_loaders(train, val, test=None, *, classes, name: str = "loaders", version: str = "",
                 counts: dict[str, int] | None = None, task: Task | None = None) -> Dataset:
    """Make a `Dataset` whose samples come from loaders, a batch at a time.

    train, val, test: each a `DataLoader`, another iterable of batches `(x, y)` or `(x, y, index)`
        that can be gone through again, or a `Split`, in memory. Validation and test loaders should
        neither shuffle nor leave anything out.
    classes: K names, or their number. Where the loaders' data sets have names themselves
        (`dataset.classes`, as in torchvision's folders), those must agree.
    version: of the data. Checkpoints and recorded results are found by name, version and the
        numbers of samples and classes; files that changed are not noticed.
    counts: samples by split, such as `{"train": 1281167}`, for loaders without a length.
    task: what the labels are, such as `kd.tasks.Tokens()`; by default one label per sample, or with
        `kd.tasks.Classes(ignore=-100)` none where the label is -100.

    A batch has inputs x [B, C, H, W] in [0, 1] (or uint8, divided by 255 on the device) or a dict
    of tensors, labels y [B], [B, K] or None, and sample ids [B] where they are used: whole numbers
    from 0 on, one for each sample, whatever the order (`kd.Cached`, `kd.losses.CRD`). Or it is one
    dict with the labels under "labels". Images may differ in height and width from batch to batch,
    and from training to validation, where the networks take them. A batch has as many samples as
    `Recipe(batch=…)` says; incomplete batches are left out of the training. The course's own
    networks normalise for themselves: where your loader does so, take networks that do not
    (`Live(teacher)` without a transform).

    In every epoch the generators of the loader and its sampler, and while the loader draws the
    global ones of torch, Python and NumPy, are seeded with the seed and the epoch, and `set_epoch`
    is called where there is one. So one seed gives one order, also in a resumed training. (Not
    seeded: other generators, transforms in persistent workers, samplers with a seed of their own.)
    A `RandomSampler` with a generator of its own gives the order of the same data in memory.

    Of several processes each reads its own part, for example by a `DistributedSampler`, in batches
    of `Recipe.batch` divided by their number; `counts` are those of one process. Validation in
    parts is exact where no sample is repeated to make them even.

    Raises `ValueError` for what is no loader, batches of another kind, labels out of range, ids
    that are none (weights, masks), names of classes that differ, inputs that are not finite (in the
    first batch), workers that each read everything, and an unknown number of training samples.
    Warns of a validation loader that leaves samples out.

    >>> from torch.utils.data import DataLoader, TensorDataset, random_split
    >>> import kdcourse as kd
    >>> whole = TensorDataset(torch.rand(96, 1, 12, 12), torch.arange(96) % 4)
    >>> train, val = random_split(whole, [64, 32])
    >>> data = from_loaders(DataLoader(train, batch_size=32, shuffle=True),
    ...                     DataLoader(val, batch_size=50), classes=4, name="noise")
    >>> data
    noise(train=64, val=32, test=None, classes=4, version='')
    >>> student = kd.models.convnet(width=4, size=12, classes=4)
    >>> len(kd.fit(kd.Supervised(student), data, kd.Recipe(epochs=2, batch=32)))
    2
    """
    classes = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
    given = {"train": train, "val": val, "test": test}
    check_names(given, classes)
    counts, task = counts or {}, task or ONE_LABEL
    unknown = sorted(counts.keys() - given.keys())
    if unknown:
        raise ValueError(f"Expected counts for train, val or test, got {unknown}.")
    splits = {part: _from_loader(part, loader, len(classes), counts.get(part), task)
              for part, loader in given.items()}
    known = {part: len(split) if isinstance(split, Split) else split.count
             for part, split in splits.items()}
    len(splits["train"])  # raises where the length of an epoch is unknown
    params = {"name": name, **known, "classes": len(classes), "version": version}
    if task != ONE_LABEL:
        params["task"] = repr(task)
    return Dataset(**splits, classes=classes, params=params, task=task)


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A split whose samples come from a loader: a `Split` without `x` and `y`, for `fit`.

    first: the loader's first batch, in memory, and index: its sample ids; None where the loader
    gives none. count: of samples; None where it is unknown.
    """

    loader: Iterable
    name: str
    classes: int
    first: Split
    count: int | None = None
    device: torch.device | str = "cpu"
    task: Task = ONE_LABEL
    index: torch.Tensor | None = None

    def __len__(self) -> int:
        if self.count is None:
            raise ValueError(f"Expected to know how many samples are in {self.name}, but its loader"
                             f' does not say. Give counts={{"{self.name}": …}} to from_loaders.')
        return self.count

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, [C, H, W]."""
        return self.first.shape

    def head(self, count: int) -> torch.Tensor:
        """Return the inputs of the first samples, at most a batch of them."""
        return self.first.head(count)

    def digest(self) -> str:
        """The empty string: samples that are not in memory are known by name and version."""
        return ""

    def identity(self):
        """None: the params of the data set are the key of recorded results."""

    def check(self, classes: int, shape: tuple[int, ...], name: str) -> None:
        """Raise `ValueError` unless the first batch passes `Split.check`."""
        self.first.check(classes, shape, name)

    def check_parts(self) -> None:
        """Raise `ValueError` where each of several processes would read the same samples."""
        sampler = getattr(self.loader, "sampler", None)
        if (getattr(self.loader, "batch_size", None) is not None
                and isinstance(sampler, (RandomSampler, SequentialSampler))):
            raise ValueError(
                "Expected a loader that reads another part in each process, got one that reads "
                f"everything in all of them ({type(sampler).__name__}). Use DataLoader(…, "
                "sampler=DistributedSampler(dataset)).")

    def to(self, device) -> "Stream":
        """Return the same stream with its batches on another device."""
        return dataclasses.replace(self, device=torch.device(device))

    def batches(self, size: int | None = None, seed: int | None = None, epoch: int = 0
                ) -> Iterator[Batch]:
        """Yield the loader's batches, on the device.

        With a `seed`: those of `size` samples, in the order of (seed, epoch), without incomplete
        ones. Without, or without a size: all of them, as large as they are.

        Raises `ValueError` for batches of another size, and for fewer than there should be.
        """
        full = read = 0
        for batch in self._converted(seed, epoch):
            read += len(batch)
            if read > (self.count or read) and self.name != "train":
                raise ValueError(
                    f"Expected {self.count:,} samples from the loader of {self.name}, got more. Is "
                    "it endless, or does each of its workers read everything? Else give "
                    f'counts={{"{self.name}": …}} to from_loaders.')
            if seed is None or size is None or len(batch) == size:
                full += 1
                yield batch
            elif len(batch) > size or not full:
                raise ValueError(
                    f"Expected batches of {size} samples from the loader of {self.name}, as "
                    f"Recipe(batch=…) says (divided by the processes), got {len(batch)}. Make the "
                    "two the same, and no larger than the data.")
        if seed is not None and size is not None and full < max(1, len(self) // size):
            raise ValueError(
                f"Expected {len(self):,} samples from the loader of {self.name}, in at least "
                f"{max(1, len(self) // size)} batches of {size}, got {full} such batches. Give "
                f'counts={{"{self.name}": …}} to from_loaders, or lower Recipe(batch=…).')

    def one(self, seed: int | None = None) -> Batch:
        """Return the first batch in the order of a seed, as large as it is."""
        return next(self._converted(seed, 0))

    def some(self, count: int) -> Split:
        """Return `count` samples, drawn where the loader's data set can be indexed, else the first
        ones of the loader that have one shape; on the CPU."""
        loader, drawn = self.loader, None
        if (isinstance(loader, DataLoader) and loader.batch_size is not None
                and not isinstance(loader.dataset, IterableDataset)):
            with contextlib.suppress(TypeError):  # a data set without a length
                order = torch.randperm(len(loader.dataset), generator=generator(0, "some"))
                drawn = DataLoader(loader.dataset, loader.batch_size, collate_fn=loader.collate_fn,
                                   sampler=order[:count].tolist())
        found, read = [], 0
        # of the whole data set, also where the loader reads one part of several
        source = dataclasses.replace(self, loader=drawn or loader, device="cpu",
                                     count=None if drawn else self.count)
        for batch in source.batches():
            part = Split(batch.x, batch.y, task=self.task)
            if not found or part.shape == found[0].shape:
                found.append(part)
                read += len(part)
            if read >= count:
                break
        x, y = (_joined(parts) for parts in zip(*((part.x, part.y) for part in found), strict=True))
        return Split(x, y, task=self.task)[:count]

    def in_memory(self, count: int | None = None) -> Split:
        """Return all samples, or the first `count` of them, as a `Split`."""
        batches, read = [], 0
        for batch in self.batches():
            batches.append(batch)
            read += len(batch)
            if count is not None and read >= count:
                break
        x, y = _joined([batch.x for batch in batches]), _joined([batch.y for batch in batches])
        return Split(x, y, task=self.task)[:count]

    @property
    def x(self):
        raise ValueError(
            f"Expected all samples of {self.name} in memory here, got a stream of batches. "
            f"Pass {self.name}=data.{self.name}.in_memory() to from_loaders where they fit (or "
            "in_memory(1000), for the first ones).")

    y = x

    def _items(self, seed: int | None, epoch: int) -> Iterator:
        """Yield what the loader yields; global generators are seeded while it does so."""
        _set_order(self.loader, seed, epoch)
        states, end, items = _States(generator(seed, "loader", epoch)), object(), None
        while True:
            with states:
                items = iter(self.loader) if items is None else items
                item = next(items, end)
            if item is end:
                return
            yield item

    def _converted(self, seed: int | None, epoch: int) -> Iterator[Batch]:
        return map(self._batch, self._items(seed, epoch))

    def _batch(self, item) -> Batch:
        """Check what the loader yielded, and move it to the device."""
        x, y, index = tensors_of(item, self.name)
        y = each(lambda y: self.task.take(y, self.name), y)
        if y is not None and y.device.type == "cpu":  # on a GPU the check would wait for it
            self.task.check(y, self.classes, self.name)
        ids = index.long() if index is not None and index.device.type == "cpu" else None
        x, y, index = (each(self._to_device, part) for part in (x, y, index))
        x, index = as_inputs(x, self.task), each(torch.Tensor.long, index)
        found, expected = kind_of(x, y, self.task), kind_of(self.first.x, self.first.y, self.task)
        if found != expected:
            raise ValueError(f"Expected batches alike in {self.name}, inputs of shape {expected}, "
                             f"got {found}.")
        parts = [*(x.values() if isinstance(x, dict) else [x]), y, index]
        shapes = [list(part.shape) for part in parts if part is not None]
        if len({shape[0] for shape in shapes}) > 1 or shapes[0][0] == 0:
            raise ValueError(f"Expected as many labels (and ids) as inputs in {self.name}, and at "
                             f"least one, got shapes {shapes}.")
        if (index is None) != (self.index is None):
            raise ValueError(f"Expected sample ids in all batches of {self.name} or in none, got "
                             "batches with and without. Yield (x, y, index) each time.")
        return Batch(x, y, index, task=self.task, ids=ids)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if torch.device(self.device).type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()  # else the copy waits for all work of the GPU
        return tensor.to(self.device, non_blocking=True)


class _States:
    """States of the global generators of torch, Python and NumPy, which are in place inside the
    block and go on where they were; outside of it the generators are left as they were."""

    def __init__(self, source: torch.Generator):
        number = source.initial_seed()
        self.kept = (source.get_state(), random.Random(number).getstate(),
                     np.random.RandomState(number % 2**32).get_state())

    def __enter__(self):
        self._exchange()

    def __exit__(self, *_):
        self._exchange()

    def _exchange(self) -> None:
        states, self.kept = self.kept, (torch.get_rng_state(), random.getstate(),
                                        np.random.get_state())  # noqa: NPY002
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])  # noqa: NPY002


class _Missing:
    """The place of a test split that was not given: raises where its samples are used."""

    count = None

    def check(self, classes, shape, name) -> None:
        """Pass: a data set may have no test split."""

    digest, identity = Stream.digest, Stream.identity

    def _refuse(self, *_):
        raise ValueError('Expected a test split, got none. Give test=… to from_loaders, or use '
                         'split="val".')

    x = y = shape = property(_refuse)
    __len__ = batches = head = to = _refuse


def _from_loader(name: str, loader, classes: int, count: int | None, task: Task):
    if isinstance(loader, Split):
        return loader
    if loader is None and name == "test":
        return _Missing()
    if not isinstance(loader, Iterable) or isinstance(loader, (str, dict, torch.Tensor)):
        raise ValueError(f"Expected a DataLoader as {name}, or an iterable of batches (x, y), got "
                         f"{type(loader).__name__}.")
    if isinstance(loader, Iterator):
        raise ValueError(
            f"Expected a {name} loader that can be gone through in every epoch, got a "
            f"{type(loader).__name__}, which is used up after one. Pass a DataLoader, a list, or "
            "an object whose __iter__ begins anew.")
    if count is not None and count < 1:
        raise ValueError(f"Expected a count of at least one sample in {name}, got {count}.")
    stream = Stream(loader, name, classes, None, task=task)
    items = stream._items(None, 0)
    item = next(items, None)
    if item is None:
        raise ValueError(f"Expected at least one batch in {name}, got none.")
    x, y, index = tensors_of(item, name)
    if isinstance(loader, DataLoader):
        _check_loader(loader, name, (x, y, index), items)
    return dataclasses.replace(stream, first=as_split(x, y, name, task), index=index,
                               count=count or _count(loader, name))


def _check_loader(loader: DataLoader, name: str, batch, items: Iterator) -> None:
    """Raise `ValueError` where each worker reads everything: the first batches, of two workers, are
    one. Warn of samples that are left out of a validation."""
    if isinstance(loader.dataset, IterableDataset) and loader.num_workers > 1:
        second = next(items, None)
        if second is not None and same(batch, tensors_of(second, name)):
            raise ValueError(
                f"Expected workers that read a part of {name} each, got the same batch from two. "
                "Divide the samples in __iter__ of the data set by torch.utils.data."
                "get_worker_info(), or take num_workers=1.")
    if name != "train" and loader.drop_last and loader.batch_size:
        left = _count(loader, name)
        if left and left % loader.batch_size:
            warnings.warn(f"The loader of {name} leaves out {left % loader.batch_size} of {left:,} "
                          "samples, which are not measured. Take drop_last=False.", stacklevel=5)


def _count(loader, name: str) -> int | None:
    """The number of samples in one pass, where the loader has it."""
    if isinstance(loader, (list, tuple)):
        return sum(len(first(tensors_of(item, name)[0])) for item in loader)
    if isinstance(loader, DataLoader) and loader.batch_size is not None:
        for samples in (loader.sampler, loader.dataset):
            with contextlib.suppress(TypeError):  # an IterableDataset may have no length
                return len(samples)
    return None


def _set_order(loader, seed: int | None, epoch: int) -> None:
    """Seed the loader's generators with (seed, epoch), and call `set_epoch`."""
    owners = [getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset")]
    for owner in (loader, *owners):
        if isinstance(getattr(owner, "generator", None), torch.Generator):
            owner.generator.manual_seed(generator(seed, "order", epoch).initial_seed())
        if callable(getattr(owner, "set_epoch", None)):
            owner.set_epoch(epoch)


def _joined(parts: list):
    """Concatenate tensors, or dicts of tensors; None stays."""
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return None if parts[0] is None else torch.cat(parts)
