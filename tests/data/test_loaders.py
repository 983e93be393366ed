"""Streams: data that a loader brings train the same student as the same data in memory."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import network, restless, state
from helpers.interrupted import stop_after
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

import kdcourse as kd
from kdcourse import losses, models
from kdcourse.data.loaders import Stream, from_loaders
from kdcourse.schemes import Supervised

RECIPE = kd.Recipe(epochs=3, batch=40, lr=0.01)  # 3 batches of 144 samples, and 24 left over


def in_order(split, size=50):
    return DataLoader(TensorDataset(split.x, split.y), batch_size=size)


def shuffled(split, size=40, **settings):
    return DataLoader(TensorDataset(split.x, split.y), size, shuffle=True, **settings)


def as_in_memory(split, size=40, **settings):
    """The order of the same samples in memory."""
    pairs = TensorDataset(split.x, split.y)
    return DataLoader(pairs, size, sampler=RandomSampler(pairs, generator=torch.Generator()),
                      **settings)


def streams(data, train=None, **settings):
    train = shuffled(data.train) if train is None else train
    return from_loaders(train, **{"val": in_order(data.val), "classes": data.classes} | settings)


class Noisy(Dataset):
    """Samples with noise from torch's global generator, and their ids."""

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        x = self.split.x[i]
        return x + 0.1 * torch.rand(x.shape), self.split.y[i], i


class Batches:
    """Anything that can be gone through again; what it yields may be changed."""

    def __init__(self, split, size=40, change=lambda number, item: item):
        self.split, self.size, self.change, self.epochs = split, size, change, []

    def __iter__(self):
        pairs = zip(self.split.x.split(self.size), self.split.y.split(self.size), strict=True)
        for number, item in enumerate(pairs):
            yield self.change(number, item)

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


# --- the same training --------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_trains_the_same_student_as_the_data_in_memory(data, workers):
    ours, theirs = restless(), restless()
    objective = losses.CE() + losses.KD(T=2) + 0.1 * losses.Hint("2", "2")
    expected = kd.fit(kd.Distiller(ours, network(1, width=8), objective), data, RECIPE, seed=3)
    stream = streams(data, as_in_memory(data.train, num_workers=workers))
    history = kd.fit(kd.Distiller(theirs, kd.Live(network(1, width=8)), objective), stream, RECIPE,
                     seed=3)
    assert state(theirs) == state(ours)
    for column in ("loss", "CE", "KD", "Hint", "val_accuracy"):
        assert history[column] == expected[column]


@pytest.mark.parametrize("settings", [
    {"accumulate": 3}, {"precision": "bf16", "channels_last": False}, {"patience": 1, "lr": 0.1}])
def test_every_setting_of_the_recipe_works(data, settings):
    recipe = dataclasses.replace(RECIPE, **settings)
    ours, theirs = network(), network()
    kd.fit(Supervised(ours), data, recipe)
    kd.fit(Supervised(theirs), streams(data, as_in_memory(data.train)), recipe)
    assert state(theirs) == state(ours)


def noisy(split, **settings):
    return DataLoader(Noisy(split), 40, shuffle=True, **settings)


LOADERS = {
    "shuffled": shuffled,
    "with a generator": lambda split: shuffled(split, generator=torch.Generator().manual_seed(1)),
    "random transforms": noisy,
    "random transforms in workers": functools.partial(noisy, num_workers=2),
    "in order": lambda split: in_order(split, 40),
    "a list": lambda split: list(in_order(split, 40)),
    "an iterable": Batches,
}


def made(name, data):
    counts = {"train": 144} if name == "an iterable" else None
    return streams(data, LOADERS[name](data.train), counts=counts)


@pytest.mark.parametrize("name", LOADERS)
def test_a_resumed_training_ends_with_the_same_bits(data, tmp_path, name):
    whole, broken, other = (Supervised(restless(seed)) for seed in (0, 0, 7))
    torch.manual_seed(5)
    expected = kd.fit(whole, made(name, data), RECIPE, seed=3)
    torch.manual_seed(6)
    broken.after_step = stop_after(5)
    file = tmp_path / "run.safetensors"
    assert len(kd.fit(broken, made(name, data), RECIPE, seed=3, checkpoint=file)) == 1
    history = kd.fit(other, made(name, data), RECIPE, seed=3, checkpoint=file)
    assert state(other) == state(whole)
    assert history["loss"] == expected["loss"]


def test_a_checkpoint_of_another_version_of_the_data_is_refused(data, tmp_path):
    file = tmp_path / "run.safetensors"
    kd.fit(Supervised(network()), streams(data, version="1"), RECIPE, checkpoint=file)
    with pytest.raises(ValueError, match=r"to be of data loaders.*version='2'.*version='1'"):
        kd.fit(Supervised(network()), streams(data, version="2"), RECIPE, checkpoint=file)


@pytest.mark.parametrize("name", ["shuffled", "with a generator", "random transforms",
                                  "random transforms in workers"])
def test_seed_and_epoch_decide_the_order_and_disturb_nobody(data, name):
    stream = made(name, data).train

    def seen(*key):
        torch.rand(3)  # somebody else draws, before and in between
        before = torch.get_rng_state()
        found = [(torch.rand(1), batch.x)[1] for batch in stream.batches(40, *key)]
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        for _ in found:
            torch.rand(1)
        assert torch.equal(after, torch.get_rng_state())  # only the draws between the batches
        return torch.cat(found)

    first = seen(0, 0)
    assert len(first) == 120  # the incomplete batch is left out
    assert torch.equal(seen(0, 0), first)
    assert not torch.equal(seen(0, 1), first)
    assert not torch.equal(seen(1, 0), first)


def test_whatever_has_set_epoch_is_told(data):
    loader = Batches(data.train)
    stream = streams(data, loader, counts={"train": 144})
    loader.epochs.clear()
    kd.fit(Supervised(network()), stream, RECIPE)
    assert loader.epochs == [0, 0, 1, 2]  # the first for a look at one batch

    class Sampler(RandomSampler):
        epochs = []  # noqa: RUF012

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    pairs = TensorDataset(data.train.x, data.train.y)
    stream = streams(data, DataLoader(pairs, 40, sampler=Sampler(pairs)))
    next(stream.train.batches(40, 0, 7))
    assert Sampler.epochs[-1] == 7


class Endless(IterableDataset):
    def __init__(self, split):
        self.split = split

    def __iter__(self):
        while True:
            yield from zip(self.split.x, self.split.y, strict=True)


def test_an_epoch_of_an_endless_stream_is_as_long_as_its_count(data):
    seen = []

    class Counting(Supervised):
        def forward(self, batch):
            seen.append(len(batch.x))
            return super().forward(batch)

    stream = streams(data, DataLoader(Endless(data.train), 40), counts={"train": 200})
    kd.fit(Counting(network()), stream, kd.Recipe(epochs=2, batch=40))
    assert seen == [40] * 10


# --- what a batch is ----------------------------------------------------------------------------


def test_uint8_becomes_floats_and_grey_images_get_a_channel(data):
    whole = (data.train.x * 255).round().to(torch.uint8)[:, 0].numpy()
    loader = [(whole[i:i + 40], data.train.y[i:i + 40].numpy()) for i in range(0, 144, 40)]
    stream = streams(data, loader).train
    assert len(stream) == 144
    assert torch.equal(torch.cat([batch.x for batch in stream.batches()]), data.train.x)
    assert stream.shape == (1, 12, 12)


def test_sample_ids_are_those_of_the_loader_or_none(data):
    batches = list(made("random transforms", data).train.batches(40, 0))
    assert len(torch.cat([batch.index for batch in batches]).unique()) == 120
    for batch in batches:
        assert torch.equal(batch.y, data.train.y[batch.index])
    batch = next(streams(data).train.batches(40, 0))
    assert batch.index is None
    assert [part.index for part in batch.split(3)] == [None] * 3


def test_soft_labels(data):
    soft = torch.nn.functional.one_hot(data.train.y, 36).double()
    hard, loader = network(), list(zip(data.train.x.split(40), soft.split(40), strict=True))
    student = network()
    kd.fit(Supervised(hard), streams(data, list(in_order(data.train, 40))), RECIPE)
    history = kd.fit(Supervised(student), streams(data, loader, val=loader), RECIPE)
    for one, other in zip(hard.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    right = models.predict(student, data.train.x).argmax(1) == data.train.y
    assert history["val_accuracy"][-1] == pytest.approx(right.double().mean().item())


def test_validation_counts_every_sample_once(data):
    """72 samples in batches of 50 and 22: a mean of the batches' means would be another number."""
    student = network()
    seen = []
    stream = streams(data)
    history = kd.fit(Supervised(student), stream, dataclasses.replace(RECIPE, epochs=8))
    right = [int(models.predict(student, x[None]).argmax()) == int(y)
             for x, y in zip(data.val.x, data.val.y, strict=True)]
    assert history["val_accuracy"][-1] == pytest.approx(sum(right) / 72)
    student.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    kd.fit(Supervised(student), stream, dataclasses.replace(RECIPE, epochs=1))
    assert seen[-2:] == [50, 22]  # never all of them at once


def test_answers_of_a_stream_are_those_of_the_split(data):
    student = network()
    predict = functools.partial(models.predict, student)
    logits, labels = models.predict_split(predict, streams(data).val)
    torch.testing.assert_close(logits, models.predict(student, data.val.x))
    assert torch.equal(labels, data.val.y)
    whole = models.predict(student, data.val.x)
    assert torch.equal(models.predict_split(predict, data.val)[0], whole)
    assert models.predict_split(lambda x: None, data.val)[0] is None


# --- parts in memory, and parts that are wanted there -------------------------------------------


def test_splits_and_streams_can_be_mixed(data):
    ours, theirs = network(), network()
    stream = streams(data, as_in_memory(data.train), val=data.val, test=data.test)
    assert stream.val is data.val
    kd.fit(Supervised(ours), data, RECIPE)
    kd.fit(Supervised(theirs), stream, RECIPE)
    assert state(theirs) == state(ours)
    stream = streams(data, data.train)
    assert not isinstance(stream.train, Stream)
    kd.fit(Supervised(theirs), stream, RECIPE)


def test_what_fits_can_be_brought_into_memory(data):
    stream = streams(data)
    assert torch.equal(stream.val.in_memory().x, data.val.x)
    assert torch.equal(stream.val.in_memory(55).y, data.val.y[:55])
    train = stream.train.in_memory(100)
    assert len(train) == 100
    again = streams(data, train, val=stream.val.in_memory(), test=data.test)
    kd.doctor(kd.Distiller(network(), kd.Cached(network(1), again)), again)


@pytest.mark.parametrize("call", [
    lambda data: data.train.x, lambda data: data.train.y, lambda data: data.show(),
])
def test_what_needs_samples_in_memory_says_so(data, call):
    with pytest.raises(ValueError, match=r"all samples of train in memory here, got a stream.*"
                                         r"train=data.train.in_memory\(\) to from_loaders"):
        call(streams(data))


def test_a_test_split_that_is_not_there(data):
    stream = streams(data)
    assert repr(stream) == "loaders(train=144, val=72, test=None, classes=36, version='')"
    for ask in (len, lambda split: split.x, lambda split: next(split.batches(8))):
        with pytest.raises(ValueError, match=r"Expected a test split, got none.*test=…"):
            ask(stream.test)


# --- what is refused ----------------------------------------------------------------------------


def later(change):
    """Something that goes wrong in the second batch."""
    return lambda data: Batches(data.train, change=lambda number, item: (
        change(*item) if number == 1 else item))


@pytest.mark.parametrize(("make", "message"), [
    (lambda data: 3, "Expected a DataLoader as train, or an iterable of batches .* got int"),
    (lambda data: "folder", "or an iterable of batches .* got str"),
    (lambda data: data.train.x, "or an iterable of batches .* got Tensor"),
    (lambda data: iter(in_order(data.train)), "every epoch, got a .*Iter.* used up"),
    (lambda data: (batch for batch in ()), "every epoch, got a generator"),
    (lambda data: [], "at least one batch in train, got none"),
    (lambda data: [{"x": 1, "y": 2}], r"batches \(x, y\) or \(x, y, index\) in train, got a dict"),
    *[(lambda data, key=key: [{"pixels": data.train.x, key: data.train.y}],
       rf"in train, got a dict with the keys \['pixels', '{key}'\]. .* have the key 'labels'")
      for key in ("label", "target", "y")],
    (lambda data: [{"x": data.train.x}], r"the keys \['x'\].* none, yield \(inputs, None\)"),
    (lambda data: [data.train.x], r"\(x, y, index\) in train, got a Tensor"),
    (lambda data: [(1, 2, 3, 4)], r"in train, got a tuple of 4"),
    (lambda data: [("a", "b")], "Expected tensors in the batches of train, got something else"),
    (lambda data: [(data.train.x, data.train.y[:-1])], "as many labels as inputs in train"),
    (lambda data: [(data.train.x, data.train.y + 1)], "labels from 0 to 35 in train .* 1 to 36"),
    (lambda data: [(data.train.x / 0, data.train.y)], "finite inputs in train, got NaN or inf"),
    (lambda data: [(data.train.x.expand(-1, 3, -1, -1), data.train.y)], "inputs of one shape"),
    (lambda data: [(data.train.x.flatten(1), data.train.y)], "inputs of one shape"),
    (lambda data: [(data.train.x, data.train.y.float())], "whole numbers as labels in train"),
    (lambda data: [(data.train.x[0], 3)], "as labels in train, got the single number 3"),
    (lambda data: data, "an iterable of batches .* got Dataset"),
    (lambda data: DataLoader(Endless(data.train), 40), r"how many samples .* counts={"),
    (lambda data: DataLoader(in_order(data.train).dataset, batch_sampler=[[0, 1], [2, 3]]),
     "how many samples are in train"),
])
def test_what_is_no_loader_is_refused(data, make, message):
    with pytest.raises(ValueError, match=message):
        streams(data, make(data))


@pytest.mark.parametrize(("make", "message"), [
    (later(lambda x, y: (x, y + 99)), "Expected labels from 0 to 35 in train"),
    (later(lambda x, y: (x.expand(-1, 3, -1, -1), y)),
     r"inputs of shape \[1, 'any', 'any'\] .* got \[3, 'any', 'any'\]"),
    (later(lambda x, y: (x.flatten(1), y)), r"inputs of shape \[1, 'any', 'any'\] .* got \[144\]"),
    (later(lambda x, y: (x, y.float())), "whole numbers as labels in train, got torch.float32"),
    (later(lambda x, y: (x, torch.nn.functional.one_hot(y, 36).float())),
     r"labels \[\] of torch.int64, got .* labels \[36\] of torch.float32"),
    (later(lambda x, y: (x, y[1:])), r"as many labels .* got .*\[40, 1, 12, 12\], \[39\]"),
    (later(lambda x, y: (x, y, y[1:])), r"as many labels \(and ids\) as inputs in train"),
    (later(lambda x, y: (torch.cat([x, x]), torch.cat([y, y]))), "batches of 40 .* got 80"),
    (lambda data: shuffled(data.train, 64), r"batches of 40 samples .* Recipe.* got 64. Make the"),
    (lambda data: Batches(data.train, 39), "batches of 40 samples .* got 39"),
    (lambda data: shuffled(data.train, 39), "batches of 40 samples .* got 39"),
])
def test_batches_that_do_not_fit_are_refused(data, make, message):
    stream = streams(data, make(data), counts={"train": 144})
    with pytest.raises(ValueError, match=message):
        kd.fit(Supervised(network()), stream, RECIPE)


def test_a_loader_with_less_than_it_should_have(data):
    stream = streams(data, Batches(data.train), counts={"train": 200})
    with pytest.raises(ValueError, match=r"200 samples from the loader of train, in at least 5 "
                                         r"batches of 40, got 3 such"):
        kd.fit(Supervised(network()), stream, RECIPE)
    few = streams(data, shuffled(kd.data.Split(data.train.x[:30], data.train.y[:30])))
    with pytest.raises(ValueError, match=r"batches of 40 samples .* got 30.* no larger than the"):
        kd.fit(Supervised(network()), few, RECIPE)
    few = streams(data, DataLoader(TensorDataset(data.train.x, data.train.y), 200, shuffle=True))
    with pytest.raises(ValueError, match=r"batches of 200 samples .* got 144"):
        kd.fit(Supervised(network()), few, kd.Recipe(epochs=1, batch=200))


def test_counts_that_cannot_be(data):
    with pytest.raises(ValueError, match=r"counts for train, val or test, got \['trian'\]"):
        streams(data, counts={"trian": 3})
    with pytest.raises(ValueError, match="a count of at least one sample in train, got 0"):
        streams(data, counts={"train": 0})


# --- several processes --------------------------------------------------------------------------


PROGRAM = """
import json, sys, torch, torch.distributed as dist
torch.set_num_threads(1)
import kdcourse as kd
from kdcourse.training.processes import Team
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
world, folder = int(sys.argv[1]), sys.argv[2]
data = kd.data.glyphs(train=144, val=70, test=72, size=12)
pairs, held = (TensorDataset(split.x, split.y) for split in (data.train, data.val))
Team(sharded=True)  # meets the others
if world > 1:
    assert dist.get_world_size() == world
    part = lambda pairs: DistributedSampler(pairs, shuffle=False)
    train = DataLoader(pairs, 20, sampler=part(pairs))
    vals = [DataLoader(held, 16, sampler=part(held)), DataLoader(held, 16), data.val]
else:
    train, vals = DataLoader(pairs, 40), [data.val] * 3
recipe = kd.Recipe(epochs=3, batch=40, lr=0.01, accumulate=2)
results = []
for val in vals:
    stream = kd.data.from_loaders(train, val, classes=data.classes)
    net = lambda seed: kd.models.mlp(hidden=(16,), size=12, seed=seed)  # no batch statistics
    scheme = kd.Distiller(net(0), net(1))
    results.append(kd.fit(scheme, stream, recipe, device="cpu").to_dict()["rows"])
if world > 1:
    for train, recipe, words in ((DataLoader(pairs, 20), recipe, "another part in each process"),
                                 (train, kd.Recipe(batch=41), "multiple of the 2 processes")):
        stream = kd.data.from_loaders(train, data.val, classes=data.classes)
        try:
            kd.fit(scheme, stream, recipe, device="cpu")
        except ValueError as error:
            assert words in str(error), error
        else:
            raise AssertionError(words)
rank = dist.get_rank() if world > 1 else 0
json.dump(results, open(f"{folder}/{rank}.json", "w"))
torch.save(scheme.state_dict(), f"{folder}/{rank}.pt")
"""


def run(folder, world):
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM, "utf-8")
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "KDCOURSE_SMOKE")}
    done = subprocess.run([sys.executable, *(together if world > 1 else []),
                           str(folder / "program.py"), str(world), str(folder)],
                          capture_output=True, text=True, timeout=300, check=False,
                          env=environment | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return [(json.loads((folder / f"{rank}.json").read_text("utf-8")),
             torch.load(folder / f"{rank}.pt", weights_only=True)) for rank in range(world)]


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="gloo on Windows is another story")
def test_two_processes_with_a_loader_each_train_what_one_would(tmp_path):
    ((alone, weights),) = run(tmp_path / "one", 1)
    for histories, theirs in run(tmp_path / "two", 2):
        for name, tensor in weights.items():
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
        for expected, rows in zip(alone, histories, strict=True):  # however validation is read
            for ours, row in zip(expected, rows, strict=True):
                assert row["val_accuracy"] == pytest.approx(ours["val_accuracy"], abs=1.01 / 70)
                assert row["loss"] == pytest.approx(ours["loss"], rel=1e-4)
