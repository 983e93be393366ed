"""Data that does not fit into memory: batches from a loader, in the place of a split.

Shapes: N samples, B batch, K classes, C channels, H W height and width.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from kdcourse._random import generator
from kdcourse.data.arrays import as_inputs, as_split
from kdcourse.data.dataset import Batch, Dataset, Split
from kdcourse.tasks import ONE_LABEL, Task, each, first


def from_loaders(train, val, test=None, *, classes, name: str = "loaders", version: str = "",
                 counts: dict[str, int] | None = None, task: Task | None = None) -> Dataset:
    """A `Dataset` whose samples come from loaders, a batch at a time.

    train, val, test: each a `torch.utils.data.DataLoader`, or anything else that yields batches
        `(x, y)` or `(x, y, index)` afresh each time it is gone through; or a `Split`, in memory.
        Validation and test loaders should neither shuffle nor leave anything out. Without `test`
        the data have no test split, and who asks for it is told so.
    classes: K names, or their number.
    version: which state of the data this is. Checkpoints and recorded results are found by name,
        version and the numbers of samples and classes; nothing else here sees that files changed.
    counts: samples by split, such as `{"train": 1281167}`, for loaders that do not know. So much of
        `train` is an epoch.
    task: what the labels are, such as `kd.tasks.Tokens()`; by default one label per sample.

    A batch has inputs x [B, C, H, W] in [0, 1] (or uint8, divided by 255 on the device), labels y
    [B] or soft ones [B, K], and sample ids [B] where something looks them up. The course's own
    networks normalise for themselves: where your loader does so already, take networks that do not
    (`Live(teacher)` without a transform). x may be a dict of tensors; a batch that is one dict, as
    collators of transformers make it, has its labels under "labels". Without labels y is None.

    The loader shuffles and cuts. Its batch size must be that of `Recipe(batch=…)`; incomplete
    batches are left out of the training, as they are in memory. In every epoch its generator, that
    of its sampler, and torch's global one, as far as the loader draws from it, are set from the
    seed and the epoch, and whatever has `set_epoch` is told the epoch. So one seed gives one order,
    also in a training that was interrupted and goes on. (What escapes: generators that are not
    torch's, transforms in persistent workers, and samplers with a seed of their own.) A
    `RandomSampler` with a generator of its own gives the order of the same data in memory.

    Under several processes each reads its part with a loader of its own, for example with a
    `torch.utils.data.DistributedSampler`, in batches of `Recipe.batch` divided by the number of
    processes; `counts` are those of one process. A validation loader may give every process all of
    it; in parts, it is exact where no sample is repeated to make them even (`drop_last`, or a size
    that divides).

    Raises `ValueError` in a sentence for what is no loader, batches of another kind, labels out of
    range, inputs that are not finite (in the first batch), and an unknown number of samples.

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
    classes = range(classes) if isinstance(classes, int) else classes
    classes = tuple(map(str, classes))
    given = {"train": train, "val": val, "test": test}
    unknown = set(counts or {}) - set(given)
    if unknown:
        raise ValueError(f"Expected counts for train, val or test, got {sorted(unknown)}.")
    task = task or ONE_LABEL
    splits = {part: _loaded(part, loader, len(classes), (counts or {}).get(part), task)
              for part, loader in given.items()}
    known = {part: len(split) if isinstance(split, Split) else split.count
             for part, split in splits.items()}
    len(splits["train"])  # raises where it is unknown: how long is an epoch?
    params = {"name": name, **known, "classes": len(classes), "version": version}
    if task != ONE_LABEL:
        params["task"] = repr(task)
    return Dataset(**splits, classes=classes, params=params, task=task)


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A split whose samples a loader brings, for `fit`: what `Split` does, but without `x` and `y`.

    first: the loader's first batch, which stays in memory. count: None where nobody knows it.
    """

    loader: Iterable
    name: str
    classes: int
    first: Split
    count: int | None = None
    device: torch.device | str = "cpu"
    task: Task = ONE_LABEL

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
        """The inputs of the first samples, at most a batch of them."""
        return self.first.head(count)

    def digest(self) -> str:
        """Nothing: who wants other samples found gives another name or version."""
        return ""

    def identity(self):
        """Nothing but what the data set's params say."""

    def check(self, classes: int, shape: tuple[int, ...], name: str) -> None:
        """`Split.check` of the first batch."""
        self.first.check(classes, shape, name)

    def check_parts(self) -> None:
        """Raise `ValueError` where each of several processes would read the same samples."""
        sampler = getattr(self.loader, "sampler", None)
        if (getattr(self.loader, "batch_size", None) is not None
                and isinstance(sampler, (RandomSampler, SequentialSampler))):
            raise ValueError(
                "Expected a loader that reads another part in each process, got one that reads "
                f"everything in all of them ({type(sampler).__name__}). Use DataLoader(…, "
                "sampler=DistributedSampler(dataset))."
            )

    def to(self, device) -> "Stream":
        """The same stream, whose batches arrive on another device."""
        return dataclasses.replace(self, device=torch.device(device))

    def batches(self, size: int | None = None, seed: int | None = None, epoch: int = 0
                ) -> Iterator[Batch]:
        """Yield the loader's batches, on the device.

        With a `seed`: those of `size` samples, in the order of (seed, epoch); incomplete ones are
        left out. Without: all of them, as large as they are.

        Raises `ValueError` for batches of another size, and for fewer than there should be.
        """
        own, full = getattr(self.loader, "batch_size", None), 0
        if seed is not None and own not in (None, size):
            raise self._wrong_size(size, own)
        for item in self._drawn(seed, epoch):
            batch = self._batch(item)
            if seed is None or len(batch) == size:
                full += 1
                yield self._moved(batch)
            elif len(batch) > size or not full:
                raise self._wrong_size(size, len(batch))
        if seed is not None and full < max(1, len(self) // size):
            raise ValueError(
                f"Expected {len(self):,} samples from the loader of {self.name}, in at least "
                f"{max(1, len(self) // size)} batches of {size}, got {full} such batches. Give "
                f'counts={{"{self.name}": …}} to from_loaders, or lower Recipe(batch=…).'
            )

    def in_memory(self, count: int | None = None) -> Split:
        """All samples, or the first `count` of them, as a `Split`: where they fit after all."""
        batches, seen = [], 0
        for batch in self.batches():
            batches, seen = [*batches, batch], seen + len(batch)
            if count is not None and seen >= count:
                break
        x, y = batches[0].x, batches[0].y
        x = {name: torch.cat([batch.x[name] for batch in batches]) for name in x} if isinstance(
            x, dict) else torch.cat([batch.x for batch in batches])
        y = None if y is None else torch.cat([batch.y for batch in batches])
        return Split(x, y, task=self.task)[:count]

    @property
    def x(self):
        raise ValueError(
            f"Expected all samples of {self.name} in memory here, got a stream of batches. "
            f"Pass {self.name}=data.{self.name}.in_memory() to from_loaders where they fit (or "
            "in_memory(1000), for the first ones). In the place of Cached(teacher), use "
            "Live(teacher)."
        )

    y = x

    def _wrong_size(self, size: int, got: int) -> ValueError:
        return ValueError(
            f"Expected batches of {size} samples from the loader of {self.name}, as "
            f"Recipe(batch=…) says (divided by the processes), got {got}. Make the two the same, "
            "and no larger than the data."
        )

    def _drawn(self, seed: int | None, epoch: int) -> Iterator:
        """What the loader yields. What it draws from torch's global generator while it does so
        comes from the seed, and disturbs nobody else who draws from there."""
        _set(self.loader, seed, epoch)
        own, end = generator(seed, "loader", epoch).get_state(), object()
        items, item = None, None
        while item is not end:
            outside = torch.get_rng_state()
            torch.set_rng_state(own)
            try:
                items = iter(self.loader) if items is None else items
                item = next(items, end)
            finally:
                own = torch.get_rng_state()
                torch.set_rng_state(outside)
            if item is not end:
                yield item

    def _batch(self, item) -> Batch:
        """A batch as the loader gave it, which must be like the first one."""
        x, y, index = _parts(item, self.name)
        expected, found = (_kind(*parts, self.task) for parts in (
            (self.first.x, self.first.y), (x, y)))
        if found != expected:
            raise ValueError(f"Expected batches alike in {self.name}, inputs {expected}, got "
                             f"{found.removeprefix('of shape ')}.")
        parts = [*(x.values() if isinstance(x, dict) else [x]), y, index]
        got = [list(part.shape) for part in parts if part is not None]
        if len({shape[0] for shape in got}) > 1 or got[0][0] == 0:
            raise ValueError(f"Expected as many labels (and ids) as inputs in {self.name}, and at "
                             f"least one, got shapes {got}.")
        y = each(lambda y: self.task.take(y, self.name), y)
        if y is not None and y.device.type == "cpu":  # elsewhere it would wait for the device
            self.task.check(y, self.classes, self.name)
        return Batch(x, y, index, task=self.task)

    def _moved(self, batch: Batch) -> Batch:
        x, y, index = (each(self._sent, part) for part in (batch.x, batch.y, batch.index))
        return dataclasses.replace(batch, x=as_inputs(x, self.task), y=y,
                                   index=each(torch.Tensor.long, index))

    def _sent(self, tensor):
        if torch.device(self.device).type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()  # else the copy would wait for all that is under way
        return tensor.to(self.device, non_blocking=True)


class _Missing:
    """Stands where no test split was given; who asks for it is told so."""

    count = None

    def check(self, classes, shape, name) -> None:
        """Nothing is no mistake."""

    def _tell(self, *_):
        raise ValueError('Expected a test split, got none. Give test=… to from_loaders, or use '
                         'split="val".')

    def digest(self) -> str:
        """Nothing."""
        return ""

    def identity(self):
        """Nothing."""

    x = y = shape = property(_tell)
    __len__ = batches = head = to = _tell


def _kind(x, y, task: Task) -> str:
    """What is alike in all batches of a loader; sequences may have another length in each."""
    ragged = isinstance(x, dict) or task.keeps_inputs
    if isinstance(x, dict):
        inputs = f"{sorted(x)}"
    else:
        shape = x.shape[1:] if ragged or x.ndim != 3 else (1, *x.shape[1:])
        inputs = f"with {x.ndim} dimensions" if ragged else f"of shape {list(shape)}"
    if y is None:
        return f"{inputs} and no labels"
    if y.ndim == 1 and not task.has_classes:
        y = y[:, None]
    labels = f"with {y.ndim} dimensions" if ragged else f"{list(y.shape[1:])}"
    kind = torch.float32 if y.is_floating_point() else torch.int64
    return f"{inputs} and labels {labels} of {kind}"


def _loaded(name: str, loader, classes: int, count: int | None, task: Task):
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
            "an object whose __iter__ begins anew."
        )
    if count is not None and count < 1:
        raise ValueError(f"Expected a count of at least one sample in {name}, got {count}.")
    bare = Stream(loader, name, classes, None, task=task)
    item = next(bare._drawn(None, 0), None)
    if item is None:
        raise ValueError(f"Expected at least one batch in {name}, got none.")
    x, y, _ = _parts(item, name)
    return dataclasses.replace(bare, first=as_split(x, y, name, task),
                               count=count or _count(loader))


def _count(loader) -> int | None:
    """The samples in one pass, as far as the loader knows."""
    if isinstance(loader, (list, tuple)):
        return sum(len(first(_parts(item, "it")[0])) for item in loader)
    if isinstance(loader, DataLoader) and loader.batch_size is not None:
        for samples in (loader.sampler, loader.dataset):
            try:
                return len(samples)
            except TypeError:  # an IterableDataset may have no length
                continue
    return None


def _set(loader, seed: int | None, epoch: int) -> None:
    """Let the loader's order follow from (seed, epoch)."""
    owners = [getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset")]
    for owner in (loader, *owners):
        if isinstance(getattr(owner, "generator", None), torch.Generator):
            owner.generator.manual_seed(generator(seed, "order", epoch).initial_seed())
        if callable(getattr(owner, "set_epoch", None)):
            owner.set_epoch(epoch)


def _parts(item, name: str) -> list:
    """x, y and index (or None) as tensors."""
    if isinstance(item, Mapping) and "labels" in item:
        item = ({key: part for key, part in item.items() if key != "labels"}, item["labels"])
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        kind = type(item).__name__
        got = f"a {kind} of {len(item)}" if isinstance(item, (tuple, list)) else f"a {kind}"
        raise ValueError(f"Expected batches (x, y) or (x, y, index) in {name}, got {got}. Let the "
                         "loader's collate_fn return that.")
    try:
        x, y, index = (each(torch.as_tensor, dict(part) if isinstance(part, Mapping) else part)
                       for part in (*item, None)[:3])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Expected tensors in the batches of {name}, got something else "
                         f"({error}). Convert them in the dataset or in collate_fn.") from None
    return [x, y, index]
