"""Loaders as users write them: right, or refused in a sentence."""

import random

import numpy as np
import pytest
import torch
from conftest import network, state
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info
from torch.utils.data import default_collate as collate
from torchvision.transforms import v2

import kdcourse as kd
from kdcourse.data.loaders import from_loaders

RECIPE = kd.Recipe(epochs=2, batch=36, lr=0.01)


class Own(Dataset):
    """A data set of your own: `item(i)` gives a sample."""

    def __init__(self, item, count=144):
        self.item, self.count = item, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return self.item(i)


class Streamed(IterableDataset):
    """Samples one after the other; `shares` divides them among workers."""

    def __init__(self, item, shares=False, count=144):
        self.item, self.shares, self.count = item, shares, count

    def __iter__(self):
        worker = get_worker_info()
        step = (worker.id, self.count, worker.num_workers) if self.shares and worker else (
            0, self.count)
        return map(self.item, range(*step))


def stream(data, train, val=None, **settings):
    val = DataLoader(TensorDataset(data.val.x, data.val.y), 36) if val is None else val
    return from_loaders(train, val, **{"classes": 36} | settings)


def mapped(item, **settings):
    return DataLoader(Own(item), 36, **{"shuffle": True} | settings)


# --- workers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", [
    lambda data: lambda i: (data.train.x[i], data.train.y[i]),
    lambda data: lambda i: (data.train.x[i], data.train.y[i], i),
    lambda data: lambda i: ({"x": data.train.x[i]}, int(data.train.y[i]))],
    ids=["pairs", "ids", "dicts"])
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_that_each_read_everything_are_refused(data, item, workers):
    """Half of each epoch would be repetitions, without a word."""
    item = item(data)
    for where in ("train", "val"):
        good = DataLoader(Own(item), 36)
        double = DataLoader(Streamed(item), 36, num_workers=workers)
        train, val = (double, good) if where == "train" else (good, double)
        with pytest.raises(ValueError, match=rf"part of {where} each, .*get_worker_info"):
            stream(data, train, val, counts={"train": 144})


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_workers_that_share_read_each_sample_once(data, workers):
    shared = DataLoader(Streamed(lambda i: (data.train.x[i], data.train.y[i], i), True), 12,
                        num_workers=workers)
    made = stream(data, shared, counts={"train": 144})
    seen = torch.cat([batch.ids for batch in made.train.batches(12, 0)])
    assert torch.equal(seen.sort().values, torch.arange(144))


# --- the validation -----------------------------------------------------------------------------


class Endless(IterableDataset):
    def __init__(self, split):
        self.split = split

    def __iter__(self):
        while True:
            yield from zip(self.split.x, self.split.y, strict=True)


@pytest.mark.parametrize("val", [
    lambda split: DataLoader(Endless(split), 36), lambda split: DataLoader(Endless(split), 50),
    lambda split: DataLoader(Streamed(lambda i: (split.x[i % 72], split.y[i % 72])), 36)],
    ids=["endless", "uneven", "twice"])
def test_a_validation_with_more_than_its_samples_is_refused(data, val):
    made = stream(data, DataLoader(TensorDataset(data.train.x, data.train.y), 36), val(data.val),
                  counts={"val": 72})
    with pytest.raises(ValueError, match=r"Expected 72 samples from the loader of val, got more"):
        kd.fit(kd.Supervised(network()), made, RECIPE)


@pytest.mark.parametrize(("size", "left"), [(50, 22), (36, 0), (71, 1), (7, 2)])
def test_a_validation_that_leaves_samples_out_is_named(data, size, left, recwarn):
    train, val = (DataLoader(TensorDataset(split.x, split.y), size, drop_last=True)
                  for split in (data.train, data.val))
    stream(data, train, val)
    said = [str(one.message) for one in recwarn]
    assert said == ([f"The loader of val leaves out {left} of 72 samples, which are not measured. "
                     "Take drop_last=False."] if left else [])


class Drawn:
    """Batches in an order that another generator than torch's draws."""

    def __init__(self, split, shuffle):
        self.split, self.shuffle = split, shuffle

    def __iter__(self):
        order = list(range(len(self.split)))
        self.shuffle(order)
        for places in torch.tensor(order).split(36):
            yield self.split.x[places], self.split.y[places], places


SHUFFLES = {"Python": random.shuffle, "NumPy": np.random.shuffle,
            "torch": lambda order: order.sort(key=dict(zip(order, torch.randperm(
                len(order)).tolist(), strict=True)).get)}


@pytest.mark.parametrize("shuffle", SHUFFLES.values(), ids=SHUFFLES)
def test_global_generators_of_all_libraries_follow_the_seed_and_disturb_nobody(data, shuffle):
    made = stream(data, Drawn(data.train, shuffle), Drawn(data.val, shuffle),
                  counts={"train": 144, "val": 72})

    def order(*key):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        found = torch.cat([batch.ids for batch in made.train.batches(36, *key)])
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        assert before[:2] == after[:2]
        assert torch.equal(before[2], after[2])
        return found

    first = order(0, 0)
    assert torch.equal(first, order(0, 0))
    assert not torch.equal(first, order(0, 1))
    assert not torch.equal(first, order(1, 0))
    # Student and teacher are measured in a pass each, whose samples are compared in pairs.
    rows = [kd.report(kd.Distiller(network(), network(1)), one, "val").rows["student"]
            for one in (made, stream(data, Drawn(data.train, shuffle), counts={"train": 144}))]
    for name in ("agreement", "teacher_kl", "accuracy"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-4)
    students = [network(), network()]
    for student in students:
        kd.fit(kd.Supervised(student), made, RECIPE)
    assert state(students[0]) == state(students[1])


# --- what a batch is made of --------------------------------------------------------------------


def as_lists(batch):
    return tuple(zip(*batch, strict=True))


@pytest.mark.parametrize(("item", "together", "message"), [
    (lambda x, y, i: (x, y, f"image{i}"), collate, "something else as sample ids, str .*Number"),
    (lambda x, y, i: (x, "abc"[i % 3]), collate, "something else as labels, str .*Number"),
    (lambda x, y, i: (f"image{i}", x, y), collate, "something else as inputs, str "),
    (lambda x, y, i: (Image.new("L", (12, 12)), y), as_lists, "as inputs, Image .*Convert them in"),
    (lambda x, y, i: (x[:, : 12 - i % 2], y), as_lists, "as inputs, Tensor .*Stack them"),
    (lambda x, y, i: (x[:, : 12 - i % 2].numpy(), y), as_lists, "as inputs, ndarray .*Stack them"),
    (lambda x, y, i: (x, y, {"key": i}), collate, "sample ids .* got a dict"),
    (lambda x, y, i: {"pixel_values": x, "label": y}, collate, "labels have the key 'labels'"),
    (lambda x, y, i: (x, y, i, 0), collate, "got a list of 4"),
    (lambda x, y, i: x, collate, "got a Tensor"),
    (lambda x, y, i: (255 * x, y), collate, r"images in \[0, 1\], or uint8"),
    (lambda x, y, i: (x.expand(3, 12, 12).permute(1, 2, 0), y), collate, "channels last"),
    (lambda x, y, i: (x, y[None]), collate, r"got \[36, 1\]\. .*take y\[:, 0\]"),
    (lambda x, y, i: (x, float(y)), collate, "whole numbers as labels"),
    (lambda x, y, i: (x, y + 36), collate, "labels from 0 to 35 in train"),
])
def test_what_is_no_batch_is_refused_in_a_sentence(data, item, together, message):
    last = Own(lambda i: item(data.train.x[i], data.train.y[i], i))
    with pytest.raises(ValueError, match=rf"Expected .*{message}"):
        stream(data, DataLoader(last, 36, collate_fn=together))


@pytest.mark.parametrize("convert", [
    lambda x: (x * 255).byte(), lambda x: x.double(), lambda x: x.half(), lambda x: x.bfloat16(),
    lambda x: x.numpy(), lambda x: x.requires_grad_(), lambda x: v2.functional.to_image(x)],
    ids=["uint8", "f64", "f16", "bf16", "numpy", "grad", "tv_tensor"])
@pytest.mark.parametrize("label", [int, lambda y: y.byte(), lambda y: np.int32(y),
                                   lambda y: torch.eye(36)[y]], ids=["int", "u8", "i32", "soft"])
def test_images_and_labels_of_any_type(data, tmp_path, convert, label):
    whole = mapped(lambda i: (convert(data.train.x[i].clone()), label(data.train.y[i]), i))
    made = stream(data, whole)
    first = next(made.train.batches(36, 0))
    torch.testing.assert_close(first.x, data.train.x[first.ids], rtol=0, atol=1 / 250)
    cached = kd.Cached(network(1), made, tmp_path / "answers")
    assert len(kd.fit(kd.Distiller(network(), cached), made, kd.Recipe(epochs=1, batch=36))) == 1


class TakesDict(torch.nn.Module):
    """As a network of Hugging Face: a dict goes in, a dict with logits comes out."""

    def __init__(self, seed):
        super().__init__()
        self.inner = network(seed)

    def forward(self, pixel_values):
        return {"logits": self.inner(pixel_values.float())}


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
def test_dicts_of_any_type_have_stored_answers(data, tmp_path, kind):
    train, val = (DataLoader(Own(lambda i, split=split: (
        {"pixel_values": split.x[i].to(kind)}, split.y[i], i), len(split)), 36)
        for split in (data.train, data.val))
    made = stream(data, train, val)
    cached = kd.Cached(TakesDict(1), made, tmp_path / "answers")
    batch = next(made.train.batches(36, 0))
    torch.testing.assert_close(cached(batch).logits, kd.Live(TakesDict(1))(batch).logits)
    scheme = kd.Distiller(TakesDict(0), cached)
    assert len(kd.fit(scheme, made, RECIPE)) == 2
    assert isinstance(kd.doctor(scheme, made), list)


@pytest.mark.parametrize("mix", [v2.MixUp(num_classes=36), v2.CutMix(num_classes=36),
                                 v2.MixUp(alpha=0.2, num_classes=36)])
@pytest.mark.parametrize("ids", [True, False])
def test_mixed_images_get_soft_labels_and_no_stored_answers(data, tmp_path, mix, ids):
    def mixed(batch):
        x, y, places = collate(batch)
        return (*mix(x, y), places) if ids else mix(x, y)

    made = stream(data, mapped(lambda i: (data.train.x[i], int(data.train.y[i]), i),
                               collate_fn=mixed))
    for one in (made, kd.augmented(made, flip=0.5)):
        batch = next(one.train.batches(36, 0))
        torch.testing.assert_close(batch.y.sum(1), torch.ones(36))
        assert len(kd.fit(kd.Distiller(network(), network(1)), one, RECIPE)) == 2
    with pytest.raises(ValueError, match="sample ids from the loader" if not ids else "Live"):
        kd.Cached(network(1), made, tmp_path / "answers").check(made)
