"""What loaders bring: sizes, ids and names of classes, and all that is done with a stream."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from conftest import network, restless, state
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Subset,
    TensorDataset,
)

import kdcourse as kd
from kdcourse import losses
from kdcourse.data.loaders import from_loaders

RECIPE = kd.Recipe(epochs=2, batch=36, lr=0.01)


def loader(split, *more, size=36, **settings):
    return DataLoader(TensorDataset(split.x, split.y, *more), size, **settings)


def with_ids(data, shuffle=True, ids=None, **settings):
    """A stream of (x, y, index)."""
    ids = torch.arange(len(data.train)) if ids is None else ids
    return from_loaders(loader(data.train, ids, shuffle=shuffle), loader(data.val),
                        **{"classes": data.classes} | settings)


class FirstOnly(IterableDataset):
    """The samples of a split, one by one; it cannot be indexed."""

    def __init__(self, split):
        self.split = split

    def __iter__(self):
        return iter(zip(self.split.x, self.split.y, strict=True))


# --- sizes --------------------------------------------------------------------------------------


def resized(split, size):
    return dataclasses.replace(split, x=F.interpolate(split.x, size))


class Sizes:
    """Batches of several sizes: progressive or multi-scale training."""

    def __init__(self, split, sizes, batch=36):
        self.split, self.sizes, self.batch = split, sizes, batch

    def __iter__(self):
        pairs = zip(self.split.x.split(self.batch), self.split.y.split(self.batch), strict=True)
        for number, (x, y) in enumerate(pairs):
            yield F.interpolate(x, self.sizes[number % len(self.sizes)]), y


@pytest.mark.parametrize(("train", "val"), [
    (lambda data: loader(data.train), lambda data: loader(resized(data.val, 16))),
    (lambda data: loader(resized(data.train, 8)), lambda data: data.val),  # one in memory
    (lambda data: data.train, lambda data: loader(resized(data.val, (12, 20)))),
    (lambda data: Sizes(data.train, [12, 16, (8, 12), 12]), lambda data: loader(data.val)),
    (lambda data: Sizes(data.train, [8, 16]), lambda data: Sizes(data.val, [12, 8])),
], ids=["val larger", "train smaller", "val wider", "multi-scale", "both"])
def test_images_of_several_sizes_train(data, train, val):
    stream = from_loaders(train(data), val(data), classes=data.classes, counts={"train": 144}
                          if isinstance(train(data), Sizes) else None)
    student, teacher = network(), network(1)
    scheme = kd.Distiller(student, teacher)
    history = kd.fit(scheme, stream, RECIPE)
    right = sum(int((kd.models.predict(student, batch.x).argmax(1) == batch.y).sum())
                for batch in stream.val.batches(36))
    assert history["val_accuracy"][-1] == pytest.approx(right / 72)
    assert isinstance(kd.doctor(scheme, stream), list)
    assert kd.report(scheme, stream, "val").rows["student"]["accuracy"] == pytest.approx(right / 72)


def test_every_batch_has_the_size_that_its_loader_gives(data):
    stream = from_loaders(Sizes(data.train, [12, 16, 8, 12]), data.val, classes=data.classes,
                          counts={"train": 144})
    scheme, seen = kd.Supervised(network()), []
    scheme.student.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[-1]) if module.training else None)
    kd.fit(scheme, stream, RECIPE)
    assert seen == [12] + [12, 16, 8, 12] * 2  # build looks at some samples in train mode


@pytest.mark.parametrize("size", [16, (12, 20), 8])
def test_a_student_that_takes_one_size_is_refused_before_the_training(data, size):
    stream = from_loaders(loader(data.train), loader(resized(data.val, size)), classes=data.classes)
    student = kd.models.mlp(hidden=(8,), size=12)
    with pytest.raises(ValueError, match=r"student that takes inputs of shape \[1, .*those of the "
                                         r"validation.*as well as \[1, 12, 12\]"):
        kd.fit(kd.Supervised(student), stream, RECIPE)


# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("third", "got"), [
    (torch.full((144,), 0.3), r"float32 \[36\]"), (torch.rand(144).double(), "float64"),
    (torch.rand(144) > 0.5, r"bool \[36\]"), (torch.arange(144.0), "float32"),
    (torch.zeros(144, 12, 12, dtype=torch.uint8), r"uint8 \[36, 12, 12\]"),
    (torch.arange(-1, 143), r"int64 \[36\], \[-1, 0, 1\] first"),
], ids=["weights", "weights64", "mask", "whole floats", "mask of pixels", "negative"])
@pytest.mark.parametrize("where", ["train", "val"])
def test_what_is_no_id_is_refused(data, third, got, where):
    loaders = {"train": loader(data.train), "val": loader(data.val)}
    split = getattr(data, where)
    loaders[where] = loader(split, third[: len(split)])
    with pytest.raises(ValueError, match=rf"Expected sample ids .* of {where}, got {got}.*dict of"):
        from_loaders(*loaders.values(), classes=data.classes)


def test_a_dict_is_no_id(data):
    batches = [(data.train.x, data.train.y, {"weight": torch.ones(144)})]
    with pytest.raises(ValueError, match=r"Expected sample ids .* got a dict"):
        from_loaders(batches, data.val, classes=data.classes)


@pytest.mark.parametrize("as_list", [True, False])
def test_an_id_of_a_later_batch_is_looked_at_too(data, as_list):
    batches = loader(data.train, torch.arange(144) - 150 * (torch.arange(144) > 100))
    with pytest.raises(ValueError, match=r"Expected sample ids .* of train, got int64"):
        kd.fit(kd.Supervised(network()), from_loaders(list(batches) if as_list else batches,
                                                      data.val, classes=data.classes), RECIPE)


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8, torch.int16])
def test_ids_of_any_whole_type(data, kind):
    stream = with_ids(data, ids=torch.arange(144).to(kind))
    for batch in stream.train.batches(36, 0):
        assert batch.index.dtype == batch.ids.dtype == torch.int64
        assert torch.equal(batch.y, data.train.y[batch.index])
        part = batch[torch.tensor([3, 5])]
        assert torch.equal(part.ids, part.index)
        assert torch.equal(batch[2:4].ids, batch.ids[2:4])


# --- names of classes ---------------------------------------------------------------------------


class Named(TensorDataset):
    """As torchvision's folders."""

    def __init__(self, split, names, **more):
        super().__init__(split.x, split.y)
        self.classes = names
        vars(self).update(more)


class Wrapper(Dataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, i):
        return *self.dataset[i], i


NAMES = [f"class {number:02}" for number in range(36)]
WRAPPED = {"plain": lambda one: one, "subset": lambda one: Subset(one, range(36)),
           "in both": lambda one: Subset(ConcatDataset([one, one]), range(40)),
           "with ids": Wrapper, "subset with ids": lambda one: Wrapper(Subset(one, range(40)))}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize(("others", "message"), [
    (NAMES[:10] + NAMES[11:], "36 in train and 35 in val; number 10 is 'class 10' and 'class 11'"),
    (NAMES[1::-1] + NAMES[2:], "36 in train and 36 in val; number 0 is 'class 00' and 'class 01'"),
    ([*NAMES, "more"], "36 in train and 37 in val; number 36 is nothing and 'more'")],
    ids=["a folder is missing", "another order", "one more"])
def test_data_sets_that_number_their_classes_otherwise_are_refused(data, wrap, others, message):
    train, val = (DataLoader(wrap(Named(split, names)), 36)
                  for split, names in ((data.train, NAMES), (data.val, others)))
    with pytest.raises(ValueError, match=f"number their classes alike, got {message}"):
        from_loaders(train, val, classes=NAMES)


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("classes", [NAMES[:10] + NAMES[11:], NAMES[1::-1] + NAMES[2:], 37, 35,
                                     sorted(NAMES, reverse=True)])
def test_classes_other_than_those_of_the_data_sets_are_refused(data, wrap, classes):
    train, val = (DataLoader(wrap(Named(split, NAMES)), 36) for split in (data.train, data.val))
    with pytest.raises(ValueError, match=r"the classes of the data set of train, got .* in "
                                         "classes and 36 in train; number"):
        from_loaders(train, val, classes=classes)


@pytest.mark.parametrize("classes", [NAMES, 36, tuple(NAMES), [f"Wort {n}" for n in range(36)]])
def test_classes_that_agree(data, classes):
    train, val = (DataLoader(Subset(Named(split, NAMES), range(72)), 36)
                  for split in (data.train, data.val))
    assert len(from_loaders(train, val, classes=classes).classes) == 36


def test_names_of_labels_that_are_mapped_are_not_compared(data):
    train, val = (DataLoader(Named(split, list("abc"), target_transform=abs), 36)
                  for split in (data.train, data.val))
    from_loaders(train, val, classes=36)


# --- the doctor ---------------------------------------------------------------------------------


class Nearest(torch.nn.Module):
    """Gives each class the nearness of its nearest sample: right on all of them."""

    def __init__(self, *splits):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))
        self.register_buffer("x", torch.cat([split.x.flatten(1) for split in splits]))
        self.register_buffer("y", torch.cat([split.y for split in splits]))

    def forward(self, x):
        near = -self.scale * torch.cdist(x.flatten(1), self.x)
        return near.new_full((len(x), 36), -50).scatter_reduce(
            1, self.y.expand(len(x), -1), near, "amax")


@pytest.fixture(scope="module")
def teacher(data):
    return Nearest(data.train, data.val)


def swapped(model):
    return torch.nn.Sequential(model, torch.nn.Flatten(), _Order())


class _Order(torch.nn.Module):
    def forward(self, logits):
        return logits.roll(1, 1)


STREAMS = {
    "with ids": with_ids,
    "without": lambda data: from_loaders(loader(data.train), loader(data.val),
                                         classes=data.classes),
    "cannot be indexed": lambda data: from_loaders(
        DataLoader(FirstOnly(data.train), 36), DataLoader(FirstOnly(data.val), 36),
        classes=data.classes, counts={"train": 144}),
    "large batches": lambda data: from_loaders(
        loader(data.train, size=144), loader(data.val, size=72), classes=data.classes),
}


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
def test_the_doctor_finds_in_a_stream_what_it_finds_in_memory(data, make, teacher):
    stream = make(data)
    for scheme in (kd.Supervised(network()), kd.Distiller(network(), teacher),
                   kd.Distiller(network(), swapped(teacher)), kd.Distiller(network(), network(5)),
                   kd.Distiller(network(), torch.nn.Sequential(teacher, torch.nn.Softmax(1)))):
        before = state(scheme.student)
        ours, theirs = kd.doctor(scheme, stream), kd.doctor(scheme, data)
        assert [one.remedy for one in ours] == [one.remedy for one in theirs]
        assert ours.looked == theirs.looked
        assert state(scheme.student) == before
    assert kd.doctor(kd.Distiller(network(), teacher), stream).ok


def test_the_doctor_draws_samples_where_a_loader_is_sorted_by_class(data, teacher):
    order = data.val.y.argsort()
    val = dataclasses.replace(data.val, x=data.val.x[order], y=data.val.y[order])
    some = from_loaders(loader(data.train), loader(val), classes=data.classes).val.some(20)
    assert len(some) == 20
    assert len(some.y.unique()) > 10  # the first 20 are of 10 classes
    places = [int((val.x == x).flatten(1).all(1).nonzero()[0]) for x in some.x]
    assert torch.equal(val.y[places], some.y)


def test_the_doctor_draws_samples_where_each_process_reads_a_part(data):
    """As under `torchrun`: the loader says how many samples its part has, not the data set's."""
    part = DistributedSampler(TensorDataset(data.val.x, data.val.y), num_replicas=4, rank=0)
    stream = from_loaders(loader(data.train), loader(data.val, sampler=part), classes=data.classes)
    assert len(stream.val) == len(part) < 60
    assert len(stream.val.some(60)) == 60


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("label", [0, 7])
@pytest.mark.parametrize("good", [True, False])
def test_labels_of_one_class_are_no_order_of_the_classes(data, teacher, in_memory, label, good):
    """Labels that were invented, because a student learns from the teacher alone."""
    one = [dataclasses.replace(split, y=torch.full_like(split.y, label))
           for split in (data.train, data.val)]
    made = kd.data.from_arrays(one[0].x, one[0].y, classes=36, val=(one[1].x, one[1].y)) if (
        in_memory) else from_loaders(*map(loader, one), classes=36)
    model = teacher if good else network(3)
    found = kd.doctor(kd.Distiller(network(), model, losses.KD()), made)
    assert [finding.problem for finding in found] == [
        f"All 72 validation labels that were looked at are of one class, '{label}'."]


def test_two_invented_labels_are_no_order_of_the_classes_either(data, teacher):
    y = torch.randint(2, (144,), generator=torch.Generator().manual_seed(0))
    made = kd.data.from_arrays(data.train.x, y, classes=36, val=(data.val.x, y[:72]))
    found = kd.doctor(kd.Distiller(network(), teacher, losses.KD()), made)
    assert "order" not in repr(found)


# --- compare ------------------------------------------------------------------------------------


def test_compare_measures_a_stream_as_data_in_memory(data, teacher):
    arms = {"CE": lambda seed: kd.Supervised(network(seed)),
            "KD": lambda seed: kd.Distiller(network(seed), teacher)}
    sampler = torch.utils.data.RandomSampler
    pairs = TensorDataset(data.train.x, data.train.y)
    stream = from_loaders(DataLoader(pairs, 36, sampler=sampler(
        pairs, generator=torch.Generator())), loader(data.val), classes=data.classes)
    ours, theirs = (kd.compare(arms, one, RECIPE, seeds=[0, 1]) for one in (stream, data))
    for row, expected in zip(ours.rows, theirs.rows, strict=True):
        assert row["train_accuracy"] is None
        for name in ("arm", "seed", "accuracy", "nll", "ece", "agreement", "per_class", "curve"):
            assert row[name] == expected[name], name
    assert repr(ours).count("minus CE") == 1


def test_rows_of_a_stream_are_found_again_by_name_and_version(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDCOURSE_HOME", str(tmp_path))
    arms = {"CE": lambda seed: kd.Supervised(network(seed))}
    for version, said in (("1", "0 loaded"), ("1", "2 loaded"), ("2", "0 loaded")):
        kd.compare(arms, with_ids(data, version=version), RECIPE, seeds=[0, 1], results="mine")
        assert said in capsys.readouterr().out


def test_a_comparison_on_a_test_split_that_is_not_there_says_so(data):
    with pytest.raises(ValueError, match="Expected a test split, got none"):
        kd.compare({"CE": lambda seed: kd.Supervised(network(seed))}, with_ids(data), RECIPE,
                   split="test")


# --- CRD ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [True, False])
def test_crd_on_a_stream_is_crd_in_memory(data, classes):
    pairs = TensorDataset(data.train.x, data.train.y, torch.arange(144))
    sampler = torch.utils.data.RandomSampler(pairs, generator=torch.Generator())  # as in memory
    stream = from_loaders(DataLoader(pairs, 36, sampler=sampler), data.val, classes=data.classes)
    # With `samples` alone every sample is a class of its own.
    given = {"classes": data.train.y} if classes else {"samples": 144}
    expected = {"classes": data.train.y if classes else torch.arange(144)}
    students = [restless(), restless()]
    for student, one, settings in zip(students, (stream, data), (given, expected), strict=True):
        term = losses.CRD("2", "2", negatives=16, dim=8, **settings)
        kd.fit(kd.Distiller(student, network(1), losses.CE() + 0.8 * term), one, RECIPE, seed=3)
    assert state(students[0]) == state(students[1])


@pytest.mark.parametrize(("settings", "make", "message"), [
    ({}, with_ids, r"number of samples and the class of each.*got None.*CRD\(…, samples=M"),
    ({"samples": 144}, STREAMS["without"], r"ids from the loader.*got batches \(x, y\).*0 to 143"),
    ({"samples": 100}, with_ids, "100 samples of this term's memories, got 144"),
    ({"samples": 144}, lambda data: with_ids(data, ids=torch.arange(144) + 900),
     "sample ids below 144, the rows .* got"),
    ({"samples": 150}, lambda data: with_ids(data, False, torch.arange(144) + 10 * (
        torch.arange(144) > 100)), "sample ids below 150, the rows .* got 153"),
])
def test_what_crd_cannot_take_from_a_stream(data, settings, make, message):
    scheme = kd.Distiller(network(), network(1), losses.CRD("2", "2", negatives=8, **settings))
    with pytest.raises(ValueError, match=message):  # ids are not checked on a GPU: it would wait
        kd.fit(scheme, make(data), RECIPE, device="cpu")
