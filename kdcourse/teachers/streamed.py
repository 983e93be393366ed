"""A pass of a teacher over a loader, and what must stay the same of it.

Shapes: M samples, V views, B batch, K classes. Answers are found by number: without augmentation
the sample's id, else id * V + view - 1.
"""

import contextlib
import dataclasses
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from kdcourse import _files
from kdcourse._machine import progress
from kdcourse._trees import each
from kdcourse.data import Batch
from kdcourse.data.augment import AugmentedStream
from kdcourse.outputs import running
from kdcourse.taps import device_of
from kdcourse.teachers.kept import EVERYTHING, Storage
from kdcourse.teachers.stored import Table, prints_of

AUGMENTED = ("Two samples have one id, or the loader augments anew each time: then its answers "
             "would belong to other images. Use a loader without random transforms, or "
             "Live(teacher).")


class GivenRows:
    """Logits [V, M, K] from elsewhere, a row for each sample id."""

    storage = EVERYTHING

    def __init__(self, logits: torch.Tensor):
        self.logits = logits

    def read(self, numbers_B: torch.Tensor) -> torch.Tensor:
        """Return the logits of these numbers in float32, on the CPU."""
        V, M = self.logits.shape[:2]
        ids_B = numbers_B.div(V, rounding_mode="floor").to(self.logits.device)
        if (ids_B >= M).any():
            raise ValueError(f"Expected sample ids below {M}, the rows of the stored answers, got "
                             f"{int(ids_B.max())}.")
        return self.logits[numbers_B.to(ids_B.device) % V, ids_B].float().cpu()


def numbers_of(batch: Batch, views: int) -> torch.Tensor:
    """Give the numbers by which the answers to a batch, in its view, are found, [B].

    Raises `ValueError` for a batch without sample ids.
    """
    ids = batch.index if batch.ids is None else batch.ids
    if ids is None:
        raise ValueError("Expected a batch with sample ids from the loader, by which answers are "
                         "found, got batches (x, y). Let it yield (x, y, index).")
    return ids.cpu() * views + max(batch.view, 1) - 1


def views_of(train) -> int:
    """Count the views of each sample of a stream that are stored."""
    return train.views if isinstance(train, AugmentedStream) else 1


def in_view(train, batch: Batch, view: int) -> Batch:
    """Move a plain batch to the device of a stream, and draw it in that view if it has some."""
    x, y = (each(lambda t: t.to(train.device), values) for values in (batch.x, batch.y))
    batch = dataclasses.replace(batch, x=x, y=y)
    return train.seen(batch, view) if isinstance(train, AugmentedStream) else batch


@contextlib.contextmanager
def kept_when_stopped(table: Table | None):
    """Write what was computed when Ctrl-C stops it."""
    try:
        yield
    except KeyboardInterrupt:
        if table is not None:
            table.flush()
        raise


@torch.no_grad()
def fill(table: Table, teacher, train) -> None:
    """Run the teacher on every sample of a stream whose answer is not there yet.

    Raises `ValueError` for batches without ids, for an id with other inputs the second time, and
    for a loader that leaves samples out.
    """
    if table.complete:
        return
    device, V = device_of(teacher), views_of(train)
    seen = dict(zip((table.ids // V).tolist(), table.prints.tolist()))
    passed, there = set(), train.to(device)
    with progress(V * len(train), "teacher", "sample") as bar, kept_when_stopped(table):
        for batch in train.batches():
            numbers_of(batch, V)  # raises for a batch without ids
            prints = prints_of(batch.x, batch.y if teacher.uses_labels else None)
            new = []
            for place, (one, number) in enumerate(zip(batch.ids.tolist(), prints.tolist())):
                if seen.setdefault(one, number) != number:
                    raise ValueError(f"Expected the same inputs for sample id {one} each time, got "
                                     f"others. {AUGMENTED}")
                if one not in passed:
                    new.append(place)
                    passed.add(one)
            for view in range(1, V + 1):
                numbers = numbers_of(dataclasses.replace(batch, view=view), V)
                missing = torch.tensor(new, dtype=torch.int64)
                missing = missing[table.places(numbers[missing]) < 0]
                if len(missing):
                    part = in_view(there, batch[missing], view)
                    with running("teacher", part.x):
                        output = teacher(part)
                    table.add(numbers[missing], prints[missing], output.logits.float().cpu())
                bar.update(len(batch))
            if len(passed) >= len(train):
                break  # a loader without an end
    table.flush(complete=len(passed) >= len(train))
    if not table.complete:
        raise ValueError(
            f"Expected an id for each of the {len(train):,} samples, got {len(passed):,} from one "
            "pass through the loader; their answers are kept. Take drop_last=False (incomplete "
            "batches are left out of the training by themselves), and a sampler that draws each "
            "sample once.")


def check_inputs(table, train, source) -> None:
    """Raise `ValueError` unless the first batch of a stream, in another order than that of `fill`,
    has ids that are stored, and their inputs."""
    batch = train.one("check")
    numbers = numbers_of(batch, views_of(train))
    table.read(numbers)  # raises for an id that is not there
    if not isinstance(table, Table):
        return
    uses_labels = source is not None and source.uses_labels
    stored = table.prints[table.places(numbers)]
    differs = stored != prints_of(batch.x, batch.y if uses_labels else None)
    if differs.any():
        raise ValueError(f"Expected the inputs that were cached, got others for sample id "
                         f"{int(batch.ids[differs][0])}. {AUGMENTED}")


@contextlib.contextmanager
def finished_parts(path: Path | None, settings: dict, storage: Storage):
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
        yield Table(folder, settings, storage)
    finally:
        lock.release()
