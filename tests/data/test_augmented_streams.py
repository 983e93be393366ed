"""Augmented streams: the views of the same data in memory, and what is done with them."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import network, state
from helpers.interrupted import stop_after
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

import kdcourse as kd
from kdcourse import losses
from kdcourse._key import key_of
from kdcourse.data.loaders import from_loaders

RECIPE = kd.Recipe(epochs=3, batch=40, lr=0.01)  # 3 batches of 144 samples, and 24 left over
LIMITS = {"affine": {"shift": 0.1, "rotate": 0.3, "scale": 0.2, "flip": True, "erase": 0.3},
          "CIFAR": {"crop": 2, "flip": 0.5}, "flip": {"flip": 0.5}, "erase": {"erase": 0.4}}


def pairs(split, ids=True, x=None):
    x = split.x if x is None else x
    return TensorDataset(x, split.y, *([torch.arange(len(x))] if ids else []))


def stream(data, train=None, ids=True, size=40, **settings):
    """Shuffled batches (x, y, index), or (x, y)."""
    if train is None:
        train = DataLoader(pairs(data.train, ids), size, shuffle=True)
    return from_loaders(train, DataLoader(pairs(data.val, False), 50),
                        **{"classes": data.classes} | settings)


def as_in_memory(data, x=None, **settings):
    """The order of the same samples in memory."""
    samples = pairs(data.train, x=x)
    sampler = RandomSampler(samples, generator=torch.Generator())
    return stream(data, DataLoader(samples, 40, sampler=sampler, **settings))


def everything(data, seed=0, epoch=0, size=40):
    return torch.cat([batch.x for batch in data.train.batches(size, seed, epoch)])


# --- the same as in memory ----------------------------------------------------------------------


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("views", [None, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_those_of_the_same_data_in_memory(data, limits, views, workers):
    ours = kd.augmented(as_in_memory(data, num_workers=workers), views, 5, **limits)
    theirs = kd.augmented(data, views, 5, **limits)
    for seed, epoch in [(0, 0), (0, 1), (3, 4)][: 1 if workers else 3]:
        for batch, expected in zip(ours.train.batches(40, seed, epoch),
                                   theirs.train.batches(40, seed, epoch), strict=True):
            assert torch.equal(batch.index, expected.index)
            assert batch.view == expected.view
            assert torch.equal(batch.x, expected.x)
            assert torch.equal(batch.y, expected.y)
            assert torch.equal(batch.ids, batch.index)


@pytest.mark.parametrize("convert", [
    lambda x: (255 * x).round().byte(), lambda x: ((255 * x).round() / 255).double(),
    lambda x: x.round().half(), lambda x: x.round().bool()], ids=["uint8", "f64", "f16", "bool"])
def test_inputs_of_other_types_are_augmented_as_floats(data, convert):
    x = convert(data.train.x)
    few = x[:36], data.train.y[:36]
    memory = kd.data.from_arrays(x, data.train.y, classes=36, val=few, test=few)
    for limits in LIMITS.values():
        ours, theirs = (kd.augmented(one, **limits) for one in (as_in_memory(data, x), memory))
        assert everything(ours).dtype == torch.float32
        assert torch.equal(everything(ours), everything(theirs))


def test_an_augmented_stream_trains_the_student_of_augmented_data_in_memory(data):
    students = [network(), network()]
    for student, one in zip(students, (as_in_memory(data), data), strict=True):
        one = kd.augmented(one, **LIMITS["affine"])
        kd.fit(kd.Distiller(student, network(1)), one, RECIPE, seed=2)
    assert state(students[0]) == state(students[1])


def test_validation_and_samples_without_a_seed_are_plain(data):
    plain = stream(data)
    ours = kd.augmented(plain, shift=0.3)
    assert ours.val is plain.val
    assert ours.test is plain.test
    for one, expected in ((ours.train.batches(), plain.train.batches()),):
        for batch, other in zip(one, expected, strict=True):
            assert batch.view == 0
            assert torch.equal(batch.x, other.x)
    assert torch.equal(ours.train.in_memory().x, plain.train.in_memory().x)
    assert torch.equal(ours.train.some(20).x, plain.train.some(20).x)


# --- laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [True, False])
def test_limits_of_nothing_change_nothing_and_a_certain_flip_is_a_flip(data, ids):
    plain = everything(stream(data, ids=ids))
    assert torch.equal(everything(kd.augmented(stream(data, ids=ids))), plain)
    turned = everything(kd.augmented(stream(data, ids=ids), flip=1))  # interpolated
    torch.testing.assert_close(turned, plain.flip(-1), rtol=0, atol=1e-5)
    sides = F.pad(plain, [2] * 4)
    cropped = everything(kd.augmented(stream(data, ids=ids), crop=2, flip=1))
    windows = torch.stack([sides[..., i : i + 12, j : j + 12] for i in range(5) for j in range(5)])
    assert (windows.flip(-1) == cropped).flatten(2).all(2).any(0).all()


@pytest.mark.parametrize("ids", [True, False])
def test_seed_and_epoch_decide(data, ids):
    listed = list(DataLoader(pairs(data.train, ids), 40))  # one order in all epochs
    ours, other = (kd.augmented(stream(data, listed, ids), shift=0.3, seed=seed)
                   for seed in (0, 1))
    first = everything(ours)
    assert torch.equal(first, everything(ours))
    assert torch.equal(first, everything(kd.augmented(stream(data, listed, ids), shift=0.3)))
    assert not torch.equal(first, everything(ours, epoch=1))
    assert not torch.equal(first, everything(other))
    whole = torch.cat([batch.x for batch in ours.train.batches(None, 0)])
    assert torch.equal(whole[:120], first)
    assert len(whole) == 144


def test_without_ids_the_place_in_the_epoch_is_the_index(data):
    """So a loader in order has the views of data in memory, whatever the seed of the order."""
    ours = kd.augmented(stream(data, DataLoader(pairs(data.train, False), 40), False),
                        **LIMITS["affine"])
    theirs = kd.augmented(data, **LIMITS["affine"]).train
    for epoch in range(3):
        for seed in (0, 3):
            assert torch.equal(everything(ours, seed, epoch),
                               theirs.seen(torch.arange(120), 1 + epoch))


def test_ids_of_any_order_and_size_have_a_view_of_their_own(data):
    """The id alone decides, whatever the batch; also beyond the rows of a table."""
    for ids in (torch.arange(144).flip(0), 7 * torch.arange(144) + 5, torch.randperm(144) * 2**40,
                torch.arange(144) * 2**18, torch.arange(144, dtype=torch.int32)):
        shown = {}
        for size in (40, 9):
            train = DataLoader(TensorDataset(data.train.x, data.train.y, ids), size, shuffle=True)
            ours = kd.augmented(stream(data, train), views=2, shift=0.3)
            for epoch in range(3):
                for batch in ours.train.batches(size, 0, epoch):
                    for one, x in zip(batch.ids.tolist(), batch.x, strict=True):
                        key = (batch.view, one)
                        torch.testing.assert_close(shown.setdefault(key, x), x, rtol=0, atol=1e-6)
        assert len(shown) == 288
    ramp = torch.linspace(0, 1, 12).expand(144, 1, 12, 12)
    train = DataLoader(TensorDataset(ramp, data.train.y, 2**40 + torch.arange(144)), 40)
    seen = everything(kd.augmented(stream(data, train), shift=0.5))
    assert len({x.sum().item() for x in seen}) > 110  # each its own


class Sizes:
    """Batches of several sizes."""

    def __init__(self, split, sizes, ids=True):
        self.split, self.sizes, self.ids = split, sizes, ids

    def __iter__(self):
        for number, places in enumerate(torch.arange(len(self.split)).split(36)):
            x = F.interpolate(self.split.x[places], self.sizes[number % len(self.sizes)])
            yield (x, self.split.y[places], *([places] if self.ids else []))


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("sizes", [[12, 16, (8, 12), 12], [(9, 7), 3], [20, 12]])
def test_each_batch_is_augmented_in_its_size(data, sizes, ids):
    ours = stream(data, Sizes(data.train, sizes, ids), counts={"train": 144})
    for limits in LIMITS.values():
        train = kd.augmented(ours, **limits).train
        for batch, places, (x, *_) in zip(train.batches(36, 1, 2), torch.arange(144).split(36),
                                          Sizes(data.train, sizes), strict=True):
            resized = F.interpolate(data.train.x, x.shape[2:])
            alone = dataclasses.replace(data.train, x=resized)
            alone = kd.augmented(dataclasses.replace(data, train=alone), **limits).train
            assert torch.equal(batch.x, alone.seen(places, 3))
    scheme = kd.Distiller(network(), network(1))
    seen = kd.augmented(ours, **LIMITS["affine"])
    assert len(kd.fit(scheme, seen, kd.Recipe(epochs=2, batch=36))) == 2
    assert isinstance(kd.doctor(scheme, seen), list)


# --- what is done with them ---------------------------------------------------------------------


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_student_and_teacher_get_one_view(data, ids, accumulate):
    student, teacher, seen = network(), network(1), {"student": [], "teacher": []}
    for name, net in (("student", student), ("teacher", teacher)):
        net.register_forward_pre_hook(lambda module, args, name=name: seen[name].append(args[0]))
    scheme = kd.Distiller(student, teacher)
    ours = kd.augmented(stream(data, ids=ids), **LIMITS["affine"])
    expected = everything(ours, seed=4, epoch=0)
    parts = []
    kd.fit(scheme, ours, kd.Recipe(epochs=1, batch=40, accumulate=accumulate), seed=4,
           on_step=lambda step: parts.append(step.batch.view))
    assert parts == [1, 1, 1]
    steps = 3 * accumulate
    trained = [x for x in seen["student"] if len(x) in (40, 14, 13)][:steps]
    taught = [x for x in seen["teacher"] if len(x) in (40, 14, 13)][:steps]
    assert torch.equal(torch.cat(trained), expected)
    assert torch.equal(torch.cat(taught), expected)


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_training_that_was_stopped_goes_on_as_in_one_go(data, tmp_path, ids, views, epochs):
    if views and not ids:
        return
    make = lambda **more: kd.augmented(stream(data, ids=ids), views,  # noqa: E731
                                       **{**LIMITS["affine"], **more})
    straight, broken = network(), network()
    kd.fit(kd.Supervised(straight), make(), RECIPE)
    file = tmp_path / "run.safetensors"
    kd.fit(kd.Supervised(broken), make(), RECIPE, checkpoint=file, on_epoch=stop_after(epochs))
    with pytest.raises(ValueError, match="to be of"):
        kd.fit(kd.Supervised(network()), make(shift=0.05), RECIPE, checkpoint=file)
    with pytest.raises(ValueError, match="to be of"):
        kd.fit(kd.Supervised(network()), stream(data, ids=ids), RECIPE, checkpoint=file)
    other = network(5)
    kd.fit(kd.Supervised(other), make(), RECIPE, checkpoint=file)
    assert state(other) == state(straight)


def test_rows_are_kept_apart_by_how_data_are_augmented(data):
    made = [stream(data), *(kd.augmented(stream(data), views, seed, **limits)
                            for limits in LIMITS.values() for views in (None, 2)
                            for seed in (0, 1))]
    assert len({key_of(one).exact for one in made}) == len(made)
    assert key_of(made[1]) == key_of(kd.augmented(stream(data), None, 0, **LIMITS["affine"]))
    assert made[3].params == stream(data).params | {
        "augment": made[3].train.augment.settings(), "views": 2, "view_seed": 0}


def test_doctor_and_compare_read_them_as_data_in_memory(data):
    teacher = network(5)
    ours, theirs = (kd.augmented(one, **LIMITS["affine"]) for one in (as_in_memory(data), data))
    scheme = kd.Distiller(network(), teacher)
    assert repr(kd.doctor(scheme, ours)) == repr(kd.doctor(scheme, theirs))
    arms = {"CE": lambda seed: kd.Supervised(network(seed)),
            "KD": lambda seed: kd.Distiller(network(seed), teacher)}
    tables = [kd.compare(arms, one, RECIPE, seeds=[0, 1]) for one in (ours, theirs)]
    for row, expected in zip(tables[0].rows, tables[1].rows, strict=True):
        for name in ("arm", "seed", "accuracy", "nll", "agreement", "per_class", "curve"):
            assert row[name] == expected[name], name
    kd.checks.same_budget(tables[0], seeds=2)


def test_terms_with_memories_by_id_take_them(data):
    objective = losses.CE() + losses.CRD(samples=144, classes=data.train.y, negatives=8)
    scheme = kd.Distiller(network(), network(1), objective)
    assert len(kd.fit(scheme, kd.augmented(stream(data), flip=True), RECIPE)) == 3


def test_an_endless_loader_without_a_length(data):
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield from zip(data.train.x, data.train.y, strict=True)

    ours = kd.augmented(stream(data, DataLoader(Endless(), 40), counts={"train": 144}), shift=0.2)
    assert len(kd.fit(kd.Supervised(network()), ours, RECIPE)) == 3


# --- what is refused ----------------------------------------------------------------------------


class Dicts(Dataset):
    def __init__(self, split, name):
        self.split, self.name = split, name

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        return {self.name: self.split.x[i], "labels": self.split.y[i]}


@pytest.mark.parametrize("name", ["pixel_values", "image", "x"])
def test_dicts_are_refused(data, name):
    made = from_loaders(*(DataLoader(Dicts(split, name), 40) for split in (data.train, data.val)),
                        classes=36)
    with pytest.raises(ValueError, match=rf"images \[C, H, W\] to augment, got .*{name}.*in your"):
        kd.augmented(made, shift=0.1)


@pytest.mark.parametrize("shape", [(7,), (3,), (2, 8, 8, 8)])
def test_what_are_no_images_is_refused(shape):
    task = kd.tasks.ONE_LABEL if len(shape) < 3 else kd.tasks.Tokens()
    y = torch.arange(40) % 4 if len(shape) < 3 else torch.zeros(40, 2, dtype=torch.int64)
    loader = DataLoader(TensorDataset(torch.rand(40, *shape), y), 8)
    with pytest.raises(ValueError, match=r"images \[C, H, W\] to augment, got inputs of shape"):
        kd.augmented(from_loaders(loader, loader, classes=4, task=task), flip=True)


@pytest.mark.parametrize("views", [1, 2, 8])
def test_a_number_of_views_needs_ids(data, views):
    with pytest.raises(ValueError, match=rf"sample ids from the loader for views={views}"):
        kd.augmented(stream(data, ids=False), views=views, shift=0.1)


def test_labels_of_pixels_are_refused_and_none_are_taken(data):
    x, y = torch.rand(40, 1, 8, 8), torch.zeros(40, 8, 8, dtype=torch.int64)
    loader = DataLoader(TensorDataset(x, y), 8)
    made = from_loaders(loader, loader, classes=2, task=kd.tasks.Pixels())
    with pytest.raises(ValueError, match="a label for each pixel"):
        kd.augmented(made, flip=True)
    batches = [(part, None) for part in x.split(8)]
    made = from_loaders(batches, batches, classes=2, task=kd.tasks.Unlabelled())
    flipped = everything(kd.augmented(made, flip=1), size=8)
    assert torch.equal(flipped, x.flip(-1))


@pytest.mark.parametrize("make", [lambda data: data, stream,
                                  lambda data: stream(data, ids=False)])
def test_augmentation_on_augmentation_is_refused(data, make):
    once = kd.augmented(make(data), crop=2)
    with pytest.raises(ValueError, match=r"without augmentation, got .*crop.*in one call"):
        kd.augmented(once, flip=0.5)


@pytest.mark.parametrize("with_ids", [[0, 1], [1, 2], [3]])
def test_ids_in_some_batches_only_are_refused(data, with_ids):
    batches = [batch if number in with_ids else batch[:2]
               for number, batch in enumerate(DataLoader(pairs(data.train), 36))]
    made = stream(data, [tuple(batch) for batch in batches])
    for one in (made, kd.augmented(made, shift=0.1)):
        with pytest.raises(ValueError, match="ids in all batches of train or in none"):
            kd.fit(kd.Supervised(network()), one, kd.Recipe(epochs=1, batch=36))


# --- several processes --------------------------------------------------------------------------


PROGRAM = """
import sys, torch, torch.distributed as dist
torch.set_num_threads(1)
import kdcourse as kd
from kdcourse.training.processes import Team
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
world, folder = int(sys.argv[1]), sys.argv[2]
data = kd.data.glyphs(train=144, val=72, test=72, size=12)
Team(sharded=True)  # meets the others
found, weights, rank = [], [], dist.get_rank() if world > 1 else 0
for ids in (True, False):
    pairs = TensorDataset(data.train.x, data.train.y, *([torch.arange(144)] if ids else []))
    sampler = DistributedSampler(pairs, shuffle=False) if world > 1 else None
    train = DataLoader(pairs, 40 // world, sampler=sampler)
    stream = kd.augmented(kd.data.from_loaders(train, data.val, classes=36), shift=0.2, rotate=0.3)
    found += [[batch.x for batch in stream.train.batches(40 // world, 0, e)] for e in range(2)]
    net = lambda seed: kd.models.mlp(hidden=(16,), size=12, seed=seed)  # no batch statistics
    scheme = kd.Distiller(net(0), net(1))
    kd.fit(scheme, stream, kd.Recipe(epochs=2, batch=40, lr=0.01, accumulate=2), device="cpu")
    weights.append(scheme.state_dict())
torch.save([found, weights], f"{folder}/{rank}.pt")
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
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="gloo on Windows is another story")
def test_two_processes_see_together_what_one_would(tmp_path):
    """Each has views of its own, with ids and without; a `DistributedSampler` deals samples out
    in turns."""
    ((alone, weights),) = run(tmp_path / "one", 1)
    two = run(tmp_path / "two", 2)
    for number, expected in enumerate(alone):
        for step, x in enumerate(expected):
            for rank, (batches, _) in enumerate(two):
                assert torch.equal(batches[number][step], x[rank::2])
    for number, expected in enumerate(weights):
        for _, theirs in two:
            for name, tensor in expected.items():
                torch.testing.assert_close(theirs[number][name], tensor, rtol=1e-3, atol=1e-5)
