"""Data that does not fit into memory: splits whose batches come from a loader.

Shapes: N samples, B batch, K classes, C channels, H W height and width.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from kdcourse._random import generator
from kdcourse.data.arrays import as_inputs, as_split
from kdcourse.data.dataset import Batch, Dataset, Split, like
from kdcourse.data.names import check_names
from kdcourse.tasks import ONE_LABEL, Task, each, first


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

    In every epoch the generators of the loader and its sampler, and torch's global one while the
    loader draws, are seeded with the seed and the epoch, and `set_epoch` is called where there is
    one. So one seed gives one order, also in a resumed training. (Not seeded: generators that are
    not torch's, transforms in persistent workers, samplers with a seed of their own.) A
    `RandomSampler` with a generator of its own gives the order of the same data in memory.

    Of several processes each reads its own part, for example by a `DistributedSampler`, in batches
    of `Recipe.batch` divided by their number; `counts` are those of one process. Validation in
    parts is exact where no sample is repeated to make them even.

    Raises `ValueError` for what is no loader, batches of another kind, labels out of range, ids
    that are none (weights, masks), names of classes that differ, inputs that are not finite (in the
    first batch), and an unknown number of training samples.

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
        ones. Without: all of them, as large as they are.

        Raises `ValueError` for batches of another size, and for fewer than there should be.
        """
        full = 0
        for batch in self._converted(seed, epoch):
            if seed is None or len(batch) == size:
                full += 1
                yield batch
            elif len(batch) > size or not full:
                raise ValueError(
                    f"Expected batches of {size} samples from the loader of {self.name}, as "
                    f"Recipe(batch=…) says (divided by the processes), got {len(batch)}. Make the "
                    "two the same, and no larger than the data.")
        if seed is not None and full < max(1, len(self) // size):
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
        for batch in dataclasses.replace(self, loader=drawn or loader, device="cpu").batches():
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
        """Yield what the loader yields; torch's global generator is seeded while it does so."""
        _set_order(self.loader, seed, epoch)
        state, end, items = generator(seed, "loader", epoch).get_state(), object(), None
        while True:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(state)
                items = iter(self.loader) if items is None else items
                item = next(items, end)
                state = torch.get_rng_state()
            if item is end:
                return
            yield item

    def _converted(self, seed: int | None, epoch: int) -> Iterator[Batch]:
        return map(self._batch, self._items(seed, epoch))

    def _batch(self, item) -> Batch:
        """Check what the loader yielded, and move it to the device."""
        x, y, index = _tensors(item, self.name)
        y = each(lambda y: self.task.take(y, self.name), y)
        if y is not None and y.device.type == "cpu":  # on a GPU the check would wait for it
            self.task.check(y, self.classes, self.name)
        ids = index.long() if index is not None and index.device.type == "cpu" else None
        x, y, index = (each(self._to_device, part) for part in (x, y, index))
        x, index = as_inputs(x, self.task), each(torch.Tensor.long, index)
        found, expected = _kind(x, y, self.task), _kind(self.first.x, self.first.y, self.task)
        if found != expected:
            raise ValueError(f"Expected batches alike in {self.name}, inputs of shape {expected}, "
                             f"got {found}.")
        parts = [*(x.values() if isinstance(x, dict) else [x]), y, index]
        shapes = [list(part.shape) for part in parts if part is not None]
        if len({shape[0] for shape in shapes}) > 1 or shapes[0][0] == 0:
            raise ValueError(f"Expected as many labels (and ids) as inputs in {self.name}, and at "
                             f"least one, got shapes {shapes}.")
        return Batch(x, y, index, task=self.task, ids=ids)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if torch.device(self.device).type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()  # else the copy waits for all work of the GPU
        return tensor.to(self.device, non_blocking=True)


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
    item = next(stream._items(None, 0), None)
    if item is None:
        raise ValueError(f"Expected at least one batch in {name}, got none.")
    x, y, index = _tensors(item, name)
    return dataclasses.replace(stream, first=as_split(x, y, name, task), index=index,
                               count=count or _count(loader, name))


def _count(loader, name: str) -> int | None:
    """The number of samples in one pass, where the loader has it."""
    if isinstance(loader, (list, tuple)):
        return sum(len(first(_tensors(item, name)[0])) for item in loader)
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


def _tensors(item, name: str) -> list:
    """x, y and index (or None) of what a loader yielded."""
    if isinstance(item, Mapping) and "labels" in item:
        item = ({key: part for key, part in item.items() if key != "labels"}, item["labels"])
    sequence = isinstance(item, (tuple, list))
    if not sequence or len(item) not in (2, 3):
        got = f"a {type(item).__name__}" + (f" of {len(item)}" if sequence else "")
        remedy = "Let the loader's collate_fn return that."
        if isinstance(item, Mapping):
            got += f" with the keys {list(item)}"
            remedy = ("In a dict, labels have the key 'labels': rename theirs in collate_fn; where "
                      "there are none, yield (inputs, None).")
        raise ValueError(f"Expected batches (x, y) or (x, y, index) in {name}, got {got}. {remedy}")
    try:
        x, y, index = (each(torch.as_tensor, dict(part) if isinstance(part, Mapping) else part)
                       for part in (*item, None)[:3])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Expected tensors in the batches of {name}, got something else "
                         f"({error}). Convert them in the dataset or in collate_fn.") from None
    if index is not None:
        _check_ids(index, name)
    return [x, y, index]


def _check_ids(index, name: str) -> None:
    """Raise `ValueError` unless a batch's third entry can be sample ids."""
    got = "a dict"
    if isinstance(index, torch.Tensor):
        whole = not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)
        if whole and index.ndim == 1 and (index.device.type != "cpu" or (index >= 0).all()):
            return  # on a GPU the comparison would wait for it
        got = f"{str(index.dtype).removeprefix('torch.')} {list(index.shape)}"
        got += f", {index.flatten()[:3].tolist()} first" if whole else ""
    raise ValueError(
        f"Expected sample ids [B], whole numbers of at least 0, as the third entry of the batches "
        f"of {name}, got {got}. A weight or a mask is no id: where the network takes it, yield a "
        'dict of inputs by name, ({"x": x, "mask": mask}, y); else leave it out in collate_fn.')


def _kind(x, y, task: Task) -> str:
    """What must be alike in all batches of a loader. Sequences may differ in their length, images
    and labels of their pixels in height and width."""
    any_length = isinstance(x, dict) or task.keeps_inputs
    free = lambda t: ["any"] * (t.ndim - 1)  # noqa: E731
    shape = free if any_length or y is None or y.ndim > 2 else lambda t: list(t.shape[1:])
    labels = "no labels" if y is None else f"labels {shape(y)} of {y.dtype}"
    inputs = dict(sorted(x.items())) if isinstance(x, dict) else x
    found = each(free if any_length else lambda t: like(tuple(t.shape[1:]), task), inputs)
    return f"{found} and {labels}"


def _joined(parts: list):
    """Concatenate tensors, or dicts of tensors; None stays."""
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return None if parts[0] is None else torch.cat(parts)
