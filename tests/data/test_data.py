"""Data: what is drawn here, what others collected, and what a user brings."""

import dataclasses
import gzip
import hashlib
import importlib
import io
import pickle
import re
import struct
import tarfile
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from torchvision import datasets

import kdcourse as kd
from kdcourse.data import Dataset, Split, from_arrays, generator

GLYPHS = importlib.import_module("kdcourse.data.glyphs")  # the function has its name, too


def images(split):
    """Every image of a split as a hashable value."""
    return [row.numpy().tobytes() for row in split.x]


def splits(data):
    return {"train": data.train, "val": data.val, "test": data.test}


# --- glyphs -------------------------------------------------------------------------------------


def test_the_same_call_gives_the_same_glyphs(data):
    again = kd.data.glyphs(train=144, val=72, test=72, size=12)
    for ours, other in zip(splits(data).values(), splits(again).values(), strict=True):
        assert torch.equal(ours.x, other.x)
        assert torch.equal(ours.y, other.y)
    assert repr(data) == repr(again) == "glyphs(train=144, val=72, test=72, seed=0, size=12)"


def test_another_seed_gives_other_glyphs():
    first, second = (kd.data.glyphs(train=72, val=36, test=36, seed=seed) for seed in (0, 1))
    for ours, other in zip(splits(first).values(), splits(second).values(), strict=True):
        assert not set(images(ours)) & set(images(other))
    assert repr(first) != repr(second)


def test_no_image_is_in_two_splits():
    data = kd.data.glyphs(train=500, val=500, test=500)
    every = [image for split in splits(data).values() for image in images(split)]
    assert len(set(every)) == 1500


def test_a_longer_split_does_not_change_the_others():
    short, long = (kd.data.glyphs(train=count, val=36, test=36) for count in (36, 72))
    assert torch.equal(short.val.x, long.val.x)
    assert torch.equal(short.test.x, long.test.x)


@pytest.mark.parametrize("count", [36, 100, 1000])
def test_glyph_classes_are_balanced(count):
    data = kd.data.glyphs(train=count, val=1, test=1)
    counts = torch.bincount(data.train.y, minlength=36)
    assert counts.max() - counts.min() <= 1
    assert data.classes == tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def test_glyphs_are_pictures_of_8_bits(data):
    for split in splits(data).values():
        assert split.x.dtype == torch.float32
        assert split.y.dtype == torch.int64
        assert 0 <= split.x.min() < 0.2
        assert 0.8 < split.x.max() <= 1
        levels = split.x * 255
        assert (levels - levels.round()).abs().max() < 1e-4
        assert split.x.flatten(1).std(1).min() > 0.02  # none is blank
    assert data.shape == (1, 12, 12)


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    kd.data.glyphs(train=36, val=36, test=36)
    kd.data.digits()
    assert torch.equal(torch.get_rng_state(), before)


def test_every_face_ships_with_matplotlib_and_looks_different():
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    assert len(set(kd.data.FACES)) == len(kd.data.FACES) == 20
    assert [face for face in kd.data.FACES if not (fonts / f"{face}.ttf").is_file()] == []
    atlas, _ = GLYPHS._atlas()
    pictures = {picture.numpy().tobytes() for face in atlas for picture in face}
    assert len(pictures) == 20 * 36  # no missing glyph drawn as the same box
    assert atlas[..., 0, :].max() == atlas[..., -1, :].max() == 0  # heads and feet are whole


def test_the_fingerprint_is_that_of_the_drawn_glyphs():
    GLYPHS._atlas.cache_clear()
    first = kd.data.glyphs_fingerprint()
    GLYPHS._atlas.cache_clear()
    assert kd.data.glyphs_fingerprint() == first
    assert len(first) == 64


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_split_of_glyphs_is_refused(split):
    with pytest.raises(ValueError, match=f"at least one sample in {split}, got 0"):
        kd.data.glyphs(**{split: 0})


# --- digits -------------------------------------------------------------------------------------


def test_digits_are_the_scans_of_scikit_learn_each_once():
    from sklearn.datasets import load_digits

    data = kd.data.digits()
    assert [len(split) for split in splits(data).values()] == [1437, 180, 180]
    x = torch.cat([split.x for split in splits(data).values()]).mul(16).round().flatten(1)
    y = torch.cat([split.y for split in splits(data).values()])
    rows, labels = load_digits(return_X_y=True)
    ours = sorted((*pixels, label) for pixels, label in zip(x.tolist(), y.tolist(), strict=True))
    theirs = sorted((*pixels, label) for pixels, label in zip(rows.tolist(), labels, strict=True))
    assert ours == theirs
    assert data.shape == (1, 8, 8)
    assert data.train.x.max() == 1


def test_digits_by_seed():
    first, again, other = (kd.data.digits(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.test.x, again.test.x)
    assert not torch.equal(first.test.x, other.test.x)
    assert repr(first) == repr(again) != repr(other)
    for split in splits(first).values():
        share = torch.bincount(split.y, minlength=10) / len(split)
        assert (share - 0.1).abs().max() < 0.02


# --- one's own arrays ---------------------------------------------------------------------------


def arrays(N=100, shape=(3, 8, 8), classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((N, *shape), dtype=np.float32), np.arange(N) % classes


X, Y = arrays()
SOFT = np.eye(4, dtype=np.float32)[Y]
BAD_ARRAYS = [
    (lambda: from_arrays(X[:0], Y[:0]), "at least one sample in train, got none"),
    (lambda: from_arrays([], []), "Expected inputs of shape"),
    (lambda: from_arrays(X, Y[:99]), "as many labels as inputs in train, got 99 labels for 100"),
    (lambda: from_arrays(X, Y - 1), r"labels from 0 to 2 in train \(3 classes\), got -1 to 2"),
    (lambda: from_arrays(X, Y, classes="abc"), r"labels from 0 to 2 in train .*, got 0 to 3.*all"),
    (lambda: from_arrays(X, Y / 1.0), "whole numbers as labels in train, got torch.float64"),
    (lambda: from_arrays(X, Y > 1), "whole numbers as labels in train, got torch.bool"),
    (lambda: from_arrays(X, ["cat", "dog"] * 50), "numbers as labels in train.*np.unique"),
    (lambda: from_arrays(X, Y[:, None]), r"sum to 1 in each row, got \[0.0\] in row 0.* as \[N\]"),
    (lambda: from_arrays(X, SOFT, classes="ab"), r"soft labels of shape \[N, 2\] .*\[100, 4\]"),
    (lambda: from_arrays(X, SOFT * np.nan), "at least 0 and sum to 1 in each row, got .nan"),
    (lambda: from_arrays(X, 2 * SOFT - 0.25), "at least 0 and sum to 1 in each row"),
    (lambda: from_arrays(X, 3 * SOFT), r"sum to 1 in each row, got \[3.0, 0.0"),
    (lambda: from_arrays(X, SOFT[:, :, None]), "soft labels of shape"),
    (lambda: from_arrays(X[:, 0, 0, 0], Y), r"shape \[N, C, H, W\], .* got \[100\]"),
    (lambda: from_arrays(X[None], Y), r"shape \[N, C, H, W\], .* got \[1, 100, 3, 8, 8\]"),
    (lambda: from_arrays(3.0, Y), "an array as inputs in train, got the single number 3"),
    (lambda: from_arrays(X, 3), "an array as labels in train, got the single number 3"),
    (lambda: from_arrays(X, Y, val=10), r"val=\(x, y\), a pair of .*, got int. Leave it out"),
    (lambda: from_arrays(X, Y, test=(X, Y, Y)), r"test=\(x, y\), a pair .*, got 3 things"),
    (lambda: from_arrays(X, Y, val=X), r"val=\(x, y\), a pair .*, got ndarray"),
    (lambda: from_arrays(X[:2], Y[:2]), "at least 3 samples to split, got 2.*val="),
    (lambda: from_arrays(X, Y, val=(X[:9], Y[:8])), "labels as inputs in val, got 8 labels for 9"),
    (lambda: from_arrays(X, Y, val=(X[:0], Y[:0])), "at least one sample in val, got none"),
    (lambda: from_arrays(X, Y, test=(X[:9, :1], Y[:9])), r"one shape, got \[1, 8, 8\] in test"),
    (lambda: from_arrays(X, Y, classes="abcd", val=(X, Y + 1)), "in val .*, got 1 to 4"),
]


@pytest.mark.parametrize(("call", "message"), BAD_ARRAYS)
def test_bad_arrays_get_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_nan_and_inf_are_refused_at_the_door(value, part):
    x = X.copy()
    x[7, 1, 2, 3] = value
    pairs = dict.fromkeys(("train", "val", "test"), (X, Y)) | {part: (x, Y)}
    with pytest.raises(ValueError, match=rf"finite inputs in {part}, .*first in sample 7\)"):
        from_arrays(*pairs["train"], val=pairs["val"], test=pairs["test"])


def test_arrays_are_split_80_10_10_stratified_by_seed():
    x, y = arrays(N=200, shape=(1, 2, 2), classes=5)
    data = from_arrays(x, y, seed=1)
    assert [len(split) for split in splits(data).values()] == [160, 20, 20]
    for split in splits(data).values():
        counts = torch.bincount(split.y)
        assert counts.min() == counts.max()
    every = [image for split in splits(data).values() for image in images(split)]
    assert sorted(every) == sorted(row.tobytes() for row in x)  # each once
    assert torch.equal(data.test.x, from_arrays(x, y, seed=1).test.x)
    assert not torch.equal(data.test.x, from_arrays(x, y, seed=2).test.x)


def test_inputs_keep_their_labels():
    N = 60
    data = from_arrays(np.arange(N, dtype=np.float32)[:, None], np.arange(N) % 3)
    for split in splits(data).values():
        assert torch.equal(split.x[:, 0].long() % 3, split.y)


def test_splits_that_are_given_stay_as_they_are():
    val, test = arrays(N=7, seed=1), arrays(N=9, seed=2)
    data = from_arrays(X, Y, val=val, test=test)
    assert len(data.train) == 100
    assert np.array_equal(data.train.x, X)
    assert np.array_equal(data.val.x, val[0])
    assert np.array_equal(data.test.y, test[1])
    one_given = from_arrays(X, Y, test=test)
    assert [len(split) for split in splits(one_given).values()] == [90, 10, 9]


@pytest.mark.parametrize(("shape", "expected"), [
    ((3, 8, 8), (3, 8, 8)), ((8, 8), (1, 8, 8)), ((5,), (5,)),
])
def test_shapes_of_inputs(shape, expected):
    assert from_arrays(*arrays(shape=shape)).shape == expected


def test_bytes_are_scaled_and_floats_are_not():
    x = np.tile(np.array([0, 51, 255], dtype=np.uint8), (30, 1))
    assert from_arrays(x, Y[:30]).train.x[0].tolist() == pytest.approx([0, 0.2, 1])
    assert from_arrays(x.astype(float), Y[:30]).train.x[0].tolist() == [0, 51, 255]


def test_soft_labels():
    soft = np.random.default_rng(0).dirichlet(np.ones(4), 100)
    data = from_arrays(X, soft, classes=["a", "b", "c", "d"])
    assert data.train.y.shape == (80, 4)
    assert data.train.y.dtype == torch.float32
    history = kd.fit(kd.Supervised(kd.models.convnet(width=2, channels=3, classes=4, size=8)), data,
                     kd.Recipe(epochs=1, batch=16))
    assert 0 <= history["val_accuracy"][0] <= 1


@pytest.mark.parametrize("N", [3, 4, 5, 11])
def test_tiny_sets_are_split_too(N):
    data = from_arrays(X[:N], np.arange(N) % 2)
    assert [len(split) for split in splits(data).values()] == [N - 2, 1, 1]


def test_a_class_with_one_sample_is_kept():
    labels = np.r_[np.zeros(49, int), 1]
    data = from_arrays(X[:50], labels)
    assert sum(int((split.y == 1).sum()) for split in splits(data).values()) == 1


def test_other_content_reads_differently():
    assert repr(from_arrays(X, Y)) == repr(from_arrays(X.copy(), list(Y)))
    changed = X.copy()
    changed[0, 0, 0, 0] += 0.001
    assert repr(from_arrays(X, Y)) != repr(from_arrays(changed, Y))


def test_other_validation_images_read_differently():
    first, second = (from_arrays(X, Y, val=arrays(N=9, seed=seed)) for seed in (1, 2))
    assert repr(first) != repr(second)


@pytest.mark.parametrize("seed", [-1, 2**40, np.int64(5)])
def test_any_whole_number_is_a_seed(seed):
    assert len(from_arrays(X, Y, seed=seed).train) == 80
    first, second = (torch.rand(3, generator=generator(seed, "x")) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, torch.rand(3, generator=generator(int(seed), "x")))


def test_tensors_with_a_gradient_are_data_too():
    data = from_arrays(torch.from_numpy(X).requires_grad_(), Y)
    assert not data.train.x.requires_grad


# --- batches ------------------------------------------------------------------------------------


def test_without_a_seed_every_sample_comes_once_in_order():
    split = Split(torch.arange(10.0)[:, None], torch.arange(10))
    batches = list(split.batches(4))
    assert [len(batch.x) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(10))
    for batch in batches:
        assert torch.equal(batch.x[:, 0].long(), batch.index)
        assert torch.equal(batch.y, batch.index)
        assert batch.view == 0


def test_with_a_seed_every_epoch_has_an_order_of_its_own():
    split = Split(torch.arange(10.0)[:, None], torch.arange(10))
    order = lambda *key: torch.cat([b.index for b in split.batches(3, *key)]).tolist()  # noqa: E731
    assert len(order(0)) == 9  # the incomplete batch is left out
    assert len(set(order(0))) == 9
    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    for batch in split.batches(3, 5):
        assert torch.equal(batch.x[:, 0].long(), batch.index)


@pytest.mark.parametrize(("arguments", "message"), [
    ((0,), "batch size of at least 1, got 0"), ((11, 0), "at most 10 samples .*, got 11. Lower"),
])
def test_batches_that_cannot_be(arguments, message):
    split = Split(torch.zeros(10, 1), torch.zeros(10).long())
    with pytest.raises(ValueError, match=message):
        next(split.batches(*arguments))


def test_streams_are_independent():
    keys = [(0,), (1,), (0, "order"), (0, "order", 0), (0, "order", 1), (0, "training"), ("0",)]
    assert len({float(torch.rand(1, generator=generator(*key))) for key in keys}) == len(keys)


# --- drawing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "rows", "columns"), [(1, 2, 5), (3, 3, 4)])
def test_show_draws_a_labelled_grid(channels, rows, columns):
    x, y = arrays(shape=(channels, 8, 8))
    data = from_arrays(x, y, classes=["ant", "bee", "cat", "dog"])
    ax = data.show(rows=rows, columns=columns)
    assert [text.get_text() for text in ax.texts] == [
        data.classes[int(label)] for label in data.train.y[: rows * columns]]
    sheet = ax.images[0].get_array()
    last = rows * columns - 1
    first_row, left = sheet.shape[0] // rows - 8, 1  # the name stands above each picture
    np.testing.assert_allclose(sheet[first_row : first_row + 8, left : left + 8, 0],
                               data.train.x[0, 0], atol=1e-6)
    bottom, right = rows * (8 + first_row), (columns - 1) * 10 + 1
    np.testing.assert_allclose(sheet[bottom - 8 : bottom, right : right + 8, -1],
                               data.train.x[last, -1], atol=1e-6)


def test_show_takes_a_split_and_axes_and_what_there_is():
    import matplotlib.pyplot as plt

    data = from_arrays(X[:30], SOFT[:30])
    ours = plt.subplots()[1]
    ax = data.show(rows=5, columns=2, split="test", ax=ours)
    assert ax is ours
    assert len(ax.texts) == len(data.test) == 3


def test_show_says_what_it_cannot_draw():
    for shape in [(5,), (2, 8, 8)]:
        with pytest.raises(ValueError, match="with 1 or 3 channels to draw, got inputs of shape"):
            from_arrays(*arrays(shape=shape)).show()


# --- torchvision's sets, on files of this test's own making -------------------------------------

N_TRAIN, N_TEST = 40, 20


def pixels(count, shape, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def write_mnist(monkeypatch, source, root):
    """IDX files as LeCun described them, gzipped, with their checksums told to torchvision."""
    folder = root / source.__name__ / "raw"
    folder.mkdir(parents=True)
    resources, content = [], {}
    for name, count, seed in (("train", N_TRAIN, 1), ("t10k", N_TEST, 2)):
        x, y = pixels(count, (28, 28), seed), (np.arange(count) % 10).astype(np.uint8)
        content[name] = x[:, None], y
        for kind, numbers in (("images-idx3", x), ("labels-idx1", y)):
            head = struct.pack(f">HBB{numbers.ndim}I", 0, 8, numbers.ndim, *numbers.shape)
            file = gzip.compress(head + numbers.tobytes())
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(file)
            resources.append((f"{name}-{kind}-ubyte.gz", md5(file)))
    monkeypatch.setattr(source, "resources", resources)
    return folder / "train-images-idx3-ubyte", content["train"], content["t10k"]


def write_cifar(monkeypatch, source, root):
    """Pickled batches in a tar archive, as Krizhevsky published them."""
    ten = source is datasets.CIFAR10
    classes, key = (10, "labels") if ten else (20, "fine_labels")
    root.mkdir(parents=True)
    files, content = {}, {"train": ([], []), "test": ([], [])}
    lists = {"train": source.train_list, "test": source.test_list}
    for part, count in (("train", N_TRAIN), ("test", N_TEST)):
        for i, (name, _) in enumerate(lists[part]):
            share = count // len(lists[part])
            x = pixels(share, (3, 32, 32), seed=10 * i + count)
            y = [(i * share + j) % classes for j in range(share)]
            files[name] = pickle.dumps({"data": x.reshape(share, -1), key: y})
            content[part][0].append(x), content[part][1].extend(y)
    names = [f"thing {k}" for k in range(classes)]
    files[source.meta["filename"]] = pickle.dumps({source.meta["key"]: names})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, file in files.items():
            entry = tarfile.TarInfo(f"{source.base_folder}/{name}")
            entry.size = len(file)
            archive.addfile(entry, io.BytesIO(file))
    (root / source.filename).write_bytes(packed.getvalue())
    monkeypatch.setattr(source, "tgz_md5", md5(packed.getvalue()))
    for part in ("train_list", "test_list"):
        sums = [[name, md5(files[name])] for name, _ in getattr(source, part)]
        monkeypatch.setattr(source, part, sums)
    meta = source.meta | {"md5": md5(files[source.meta["filename"]])}
    monkeypatch.setattr(source, "meta", meta)
    read = root / source.base_folder / lists["train"][0][0]
    whole = {part: (np.concatenate(x), np.array(y)) for part, (x, y) in content.items()}
    return read, whole["train"], whole["test"]


SETS = {
    "mnist": (datasets.MNIST, write_mnist, [str(k) for k in range(10)]),
    "fashion_mnist": (datasets.FashionMNIST, write_mnist, datasets.FashionMNIST.classes),
    "cifar10": (datasets.CIFAR10, write_cifar, [f"thing {k}" for k in range(10)]),
    "cifar100": (datasets.CIFAR100, write_cifar, [f"thing {k}" for k in range(20)]),
}


@pytest.fixture(params=SETS)
def published(request, monkeypatch, tmp_path, home):
    """One of the sets as tiny archives in the default folder: its loader, and what is in it."""
    source, write, classes = SETS[request.param]
    unpacked, train, test = write(monkeypatch, source, home / "data")
    return getattr(kd.data, request.param), request.param, classes, unpacked, train, test


def pairs(*parts):
    """(image, label) of every sample as hashable values, in 8 bits again."""
    return sorted(
        (np.asarray(255 * x + 0.5 if x.dtype == np.float32 else x).astype(np.uint8).tobytes(),
         int(y)) for images, labels in parts
        for x, y in zip(np.asarray(images), np.asarray(labels), strict=True))


def test_a_published_set_is_read_back_exactly(published):
    load, name, classes, _, train, test = published
    data = load(val=10)
    assert [len(split) for split in splits(data).values()] == [30, 10, 20]
    assert pairs((data.train.x, data.train.y), (data.val.x, data.val.y)) == pairs(train)
    assert data.test.x.dtype == torch.float32
    assert type(data.test.x) is torch.Tensor
    assert np.array_equal((255 * data.test.x).round(), test[0])  # in its own order
    assert np.array_equal(data.test.y, test[1])
    assert data.classes == tuple(classes)
    assert repr(data) == f"{name}(train=30, val=10, test=20, seed=0)"


def test_a_published_set_by_seed_and_in_part(published):
    load, *_ = published
    whole, part, other = load(val=10), load(train=10, val=10, test=10), load(val=10, seed=1)
    assert [len(split) for split in splits(part).values()] == [10, 10, 10]
    assert torch.equal(part.val.x, whole.val.x)  # whatever the size of the training set
    assert set(images(part.train)) < set(images(whole.train))
    assert set(images(part.test)) < set(images(whole.test))
    assert not torch.equal(other.val.x, whole.val.x)
    if len(whole.classes) == 10:
        for split in splits(part).values():
            assert torch.bincount(split.y).tolist() == [1] * 10  # stratified


@pytest.mark.parametrize(("arguments", "message"), [
    ({"val": 0}, "val between 1 and 39, got 0"), ({"val": 40}, "val between 1 and 39, got 40"),
    ({"val": 10, "train": 31}, r"at most 40 \(the samples of .*\), got \[31, 10\]"),
    ({"val": 10, "test": 21}, r"at most 20 .*, got \[21\]"),
    ({"val": 10, "train": 0}, "sizes of at least 1"),
])
def test_more_than_there_is(published, arguments, message):
    with pytest.raises(ValueError, match=message):
        published[0](**arguments)


def test_an_altered_archive_is_not_used(published, home, capsys):
    load, name, *_ = published
    archive = next((home / "data").rglob("*.gz"))
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ConnectionError, match=f"files of {name} in .*data, and could not fetch"):
        load(val=10)


def test_unpacked_files_that_were_cut_short(published):
    load, name, _, unpacked, *_ = published
    load(val=10)
    whole = unpacked.read_bytes()
    for left in (len(whole) // 2, 10, 2, 0):
        unpacked.write_bytes(whole[:left])
        if "cifar" in name:  # torchvision sees it and unpacks its archive again
            assert len(load(val=10).train) == 30
        else:
            with pytest.raises(ValueError, match=f"files of {name} in .*cut short or altered"):
                load(val=10)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("download", [True, False])
def test_offline_without_files_gets_a_sentence(name, download, home, monkeypatch):
    def no_network(*args, **settings):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(ConnectionError, match=rf"(?s)files of {name} in .*data, .*glyphs\(\) and"):
        getattr(kd.data, name)(download=download)


def test_a_folder_of_ones_own(monkeypatch, tmp_path, home):
    write_mnist(monkeypatch, datasets.MNIST, tmp_path / "mine")
    assert len(kd.data.mnist(root=tmp_path / "mine", val=10).train) == 30
    assert not (home / "data").exists()


# --- the data set itself ------------------------------------------------------------------------


def test_a_dataset_by_hand_is_checked_too(data):
    bad = Split(data.train.x, data.train.y + 1)
    with pytest.raises(ValueError, match="labels from 0 to 35 in val"):
        Dataset(data.train, bad, data.test, data.classes, data.params)
    with pytest.raises(ValueError, match="at least one sample in test, got none"):
        dataclasses.replace(data, test=Split(data.test.x[:0], data.test.y[:0]))


@pytest.mark.parametrize(("labels", "sentence"), [
    ([1, 2, 3], "from 1 to 3 make 4 classes, of which 1 (class 0 is the first)"),
    ([0, 2, 3], "from 0 to 3 make 4 classes, of which 1 (class 1 is the first)"),
    ([10, 20, 30], "from 10 to 30 make 31 classes, of which 28 (class 0 is the first)")])
def test_classes_without_a_sample_get_a_warning(labels, sentence):
    y = np.tile(labels, 20)
    with pytest.warns(UserWarning, match=re.escape(sentence) + ".*return_inverse.*classes="):
        data = from_arrays(X[:60], y)
    assert len(data.classes) == max(labels) + 1
    with warnings.catch_warnings(action="error"):
        from_arrays(X[:60], y, classes=max(labels) + 1)
        from_arrays(X[:60], np.unique(y, return_inverse=True)[1])
        from_arrays(X[:60], np.eye(40)[y])
        from_arrays(X[:60], np.full(60, 0), val=(X[:2], np.array([1, 2])))
