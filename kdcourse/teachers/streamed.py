"""A pass of a teacher over a loader, and what must stay the same of it. M samples, K classes."""

import contextlib
import dataclasses

import torch

from kdcourse._machine import progress
from kdcourse.outputs import running
from kdcourse.taps import device_of
from kdcourse.tasks import each
from kdcourse.teachers.stored import Table, prints_of

AUGMENTED = ("Two samples have one id, or the loader augments anew each time: then its answers "
             "would belong to other images. Use a loader without random transforms, or "
             "Live(teacher).")


class GivenRows:
    """Logits [M, K] from elsewhere, a row for each sample id."""

    top, T, dtype = None, 1.0, None

    def __init__(self, logits: torch.Tensor):
        self.logits = logits

    def read(self, ids_B: torch.Tensor) -> torch.Tensor:
        """Return the logits of these ids in float32, on the CPU."""
        if (ids_B >= len(self.logits)).any():
            raise ValueError(f"Expected sample ids below {len(self.logits)}, the rows of the "
                             f"stored answers, got {int(ids_B.max())}.")
        return self.logits[ids_B.to(self.logits.device)].float().cpu()


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
    device, seen = device_of(teacher), dict(zip(table.ids.tolist(), table.prints.tolist()))
    passed = set()
    with progress(len(train), "teacher", "sample") as bar, kept_when_stopped(table):
        for batch in train.batches():
            if batch.ids is None:
                raise ValueError("Expected sample ids from the loader, by which answers are found, "
                                 "got batches (x, y). Yield (x, y, index).")
            prints = prints_of(batch.x, batch.y if teacher.uses_labels else None)
            new = []
            for place, (one, number) in enumerate(zip(batch.ids.tolist(), prints.tolist())):
                if one not in seen:
                    seen[one] = number
                    new.append(place)
                elif seen[one] != number:
                    raise ValueError(f"Expected the same inputs for sample id {one} each time, got "
                                     f"others. {AUGMENTED}")
                passed.add(one)
            if new:
                part = batch[torch.tensor(new)]
                x, y = (each(lambda t: t.to(device), values) for values in (part.x, part.y))
                with running("teacher", x):
                    output = teacher(dataclasses.replace(part, x=x, y=y))
                table.add(part.ids, prints[new], output.logits.float().cpu())
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
    if batch.ids is None:
        raise ValueError("Expected sample ids from the loader, by which answers are found, got "
                         "batches (x, y). Yield (x, y, index).")
    table.read(batch.ids)  # raises for an id that is not there
    if not isinstance(table, Table):
        return
    uses_labels = source is not None and source.uses_labels
    stored = table.prints[table.places(batch.ids)]
    differs = stored != prints_of(batch.x, batch.y if uses_labels else None)
    if differs.any():
        raise ValueError(f"Expected the inputs that were cached, got others for sample id "
                         f"{int(batch.ids[differs][0])}. {AUGMENTED}")
