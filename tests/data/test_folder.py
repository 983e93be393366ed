"""Folders of images, and arrays of images in another layout or range."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import kdcourse as kd
from kdcourse.data.arrays import from_arrays


def save(root, part, name, count, size=(8, 6), kind="png", seed=0, mode="RGB"):
    rng = np.random.default_rng([seed, count, len(name)])
    for number in range(count):
        file = root / part / name / f"{number}.{kind}"
        file.parent.mkdir(parents=True, exist_ok=True)
        shape = (size[1], size[0], 3) if mode == "RGB" else size[::-1]
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(file)


def as_torchvision(root, part, transform=lambda image: image):
    images = ImageFolder(root / part, transform)
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image, _ in images]
    return torch.stack(pixels), [images.classes[label] for _, label in images]


def names(data, split):
    return [data.classes[label] for label in split.y.tolist()]


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp"])
def test_images_and_names_are_those_of_torchvision(tmp_path, kind):
    for part, seed in (("train", 0), ("val", 1), ("test", 2)):
        for name in ("2", "10", "cat", "1"):
            save(tmp_path, part, name, 5, kind=kind, seed=seed)
    data = kd.data.folder(tmp_path)
    assert data.classes == ("1", "10", "2", "cat") == tuple(ImageFolder(tmp_path / "train").classes)
    for part in ("train", "val", "test"):
        x, labels = as_torchvision(tmp_path, part)
        split = getattr(data, part)
        torch.testing.assert_close(split.x, x)
        assert names(data, split) == labels
    assert data.name == tmp_path.name
    student = kd.models.convnet(width=4, channels=3, classes=4, size=8)
    assert len(kd.fit(kd.Supervised(student), data, kd.Recipe(epochs=1, batch=10))) == 1


@pytest.mark.parametrize("missing", ["a", "b", "c"])
def test_a_split_that_lacks_a_class_keeps_the_numbers_of_train(tmp_path, missing):
    for name in "abc":
        save(tmp_path, "train", name, 20)
        if name != missing:
            save(tmp_path, "val", name, 4, seed=1)
    data = kd.data.folder(tmp_path)
    assert names(data, data.val) == [name for name in "abc" if name != missing for _ in range(4)]


@pytest.mark.parametrize("there", [(), ("val",), ("test",)])
def test_what_is_not_there_is_split_off(tmp_path, there):
    for name, count in (("a", 60), ("b", 40)):
        save(tmp_path, "train", name, count)
        for part in there:
            save(tmp_path, part, name, 3, seed=1)
    data, again, other = (kd.data.folder(tmp_path, seed=seed) for seed in (0, 0, 1))
    off = [part for part in ("val", "test") if part not in there]
    assert len(data.train) == 100 - 10 * len(off)
    for part in off:
        split = getattr(data, part)
        assert split.y.bincount().tolist() == [6, 4]
        assert torch.equal(split.x, getattr(again, part).x)
        assert not torch.equal(split.x, getattr(other, part).x)
    whole = {row.numpy().tobytes() for row in torch.cat([data.train.x, *(
        getattr(data, part).x for part in off)])}
    assert whole == {row.numpy().tobytes() for row in as_torchvision(tmp_path, "train")[0]}


@pytest.mark.parametrize("size", [5, 12])
def test_images_of_several_sizes_are_brought_to_one(tmp_path, size):
    save(tmp_path, "train", "a", 20, size=(8, 6))
    save(tmp_path, "train", "b", 20, size=(7, 16))
    with pytest.raises(ValueError, match=r"one size, got \[6, 8\] .* and \[16, 7\] .*size=…"):
        kd.data.folder(tmp_path)
    data = kd.data.folder(tmp_path, size=size)
    shown = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size)])
    expected = {row.numpy().tobytes() for row in as_torchvision(tmp_path, "train", shown)[0]}
    assert {row.numpy().tobytes() for split in (data.train, data.val, data.test)
            for row in split.x} == expected


def test_grey_images(tmp_path):
    for name in "ab":
        save(tmp_path, "train", name, 20, mode="L")
    grey, colour = kd.data.folder(tmp_path, channels=1), kd.data.folder(tmp_path)
    assert grey.shape == (1, 6, 8)
    torch.testing.assert_close(grey.train.x.expand(-1, 3, -1, -1), colour.train.x)


def test_more_than_the_limit_is_for_a_loader(tmp_path, monkeypatch):
    save(tmp_path, "train", "a", 20)
    monkeypatch.setattr(sys.modules[kd.data.folder.__module__], "LIMIT", 4 * 20 * 3 * 8 * 6 - 1)
    with pytest.raises(ValueError, match=r"20 of 6 x 8, which take .* GB.*from_loaders"):
        kd.data.folder(tmp_path)
    assert len(kd.data.folder(tmp_path, size=5).train) == 16


def broken(root):
    (root / "train" / "a" / "0.png").write_bytes(b"no image")


@pytest.mark.parametrize(("change", "message"), [
    (lambda root: (root / "train").rename(root / "other"), r"a folder train in .*\['other'\]"),
    (lambda root: save(root, "valid", "a", 2), r"folders train, val and test .* got \['valid'\]"),
    (lambda root: save(root, "val", "other", 2), r"classes of train .* got \['other'\]"),
    (lambda root: (root / "val" / "a").mkdir(parents=True), "at least one image in .*10 %"),
    (lambda root: (root / "train" / "empty").mkdir(), "images for each class .* got none.*empty"),
    (broken, "an image in .*0.png, got a file that cannot be read"),
    (lambda root: save(root, "val", "a", 2, size=(9, 9)), r"of one size in .*'val': \[3, 9, 9\]"),
])
def test_folders_of_another_layout(tmp_path, change, message):
    save(tmp_path, "train", "a", 20)
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        kd.data.folder(tmp_path)


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": 2.5}, {"channels": 2}])
def test_settings_that_cannot_be(tmp_path, settings):
    with pytest.raises(ValueError, match=r"Expected (size|channels)"):
        kd.data.folder(tmp_path, **settings)
    with pytest.raises(ValueError, match=r"a folder train in .* got no such folder"):
        kd.data.folder(tmp_path / "nowhere")


# --- arrays of another layout or range ----------------------------------------------------------


Y = np.arange(60) % 3


def loaded(x):
    pairs = DataLoader(TensorDataset(torch.as_tensor(x), torch.as_tensor(Y)), 20)
    return kd.data.from_loaders(pairs, pairs, classes=3)


MAKERS = {"arrays": lambda x: from_arrays(x, Y), "a loader": loaded,
          "a split": lambda x: from_arrays(np.zeros((60, 3, 8, 8)), Y, val=(x, Y))}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("shape", [(60, 8, 8, 3), (60, 8, 12, 3), (60, 8, 8, 1), (60, 32, 20, 4)])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_images_with_the_channels_last_are_refused(make, shape, dtype):
    with pytest.raises(ValueError, match=r"images \[N, C, H, W\] in .*channels last.*permute"):
        make(np.zeros(shape, dtype))


@pytest.mark.parametrize("shape", [(60, 3, 8, 8), (60, 1, 8, 3), (60, 4, 8, 4), (60, 16, 20, 1),
                                   (60, 3, 8, 3), (60, 8, 3), (60, 3)])
def test_shapes_that_can_be_meant(shape):
    assert from_arrays(np.zeros(shape), Y).train.x.shape[-1] == shape[-1]


def pixels(shape=(60, 3, 8, 8)):
    return np.random.default_rng(0).integers(0, 256, shape)


@pytest.mark.parametrize("make", [MAKERS["arrays"], MAKERS["a loader"], MAKERS["a split"]])
@pytest.mark.parametrize("x", [
    pixels().astype("float32"), pixels().astype("float64"), pixels(), pixels().astype("int32"),
    pixels() / 1.7, pixels() // 10 * 1.0, pixels((60, 3, 20, 12)) + 0.0],
    ids=["float32", "float64", "int64", "int32", "fractions", "dark", "not square"])
def test_images_from_0_to_255_are_refused(make, x):
    with pytest.raises(ValueError, match=r"images in \[0, 1\], or uint8 .*Divide by 255"):
        make(x)


@pytest.mark.parametrize("x", [
    pixels().astype("uint8"), pixels() / 255, pixels() / 127.5 - 1, 4 * pixels() - 300.0,
    16 * np.ones((60, 8, 8)), pixels((60, 5)) * 1.0, pixels((60, 5)), 20 * pixels((60, 1, 8, 8))])
def test_ranges_that_can_be_meant(x):
    data = from_arrays(x, Y)
    assert data.train.x.dtype == torch.float32
