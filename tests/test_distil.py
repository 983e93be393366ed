"""The recipe as a command, for folders of images."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kdcourse import distil
from kdcourse.taps import predict

TINY = ["--teacher", "test_vit", "--student", "test_resnet", "--size", "32", "--batch", "8",
        "--epochs", "3", "--workers", "0", "--precision", "fp32"]


def make_images(root: Path, parts: dict, names=("class0", "class1", "class2")) -> None:
    """Folders of images of 40 x 36, the brighter the later the class."""
    rng = np.random.default_rng(0)
    for part, counts in parts.items():
        for label, (name, count) in enumerate(zip(names, counts, strict=True)):
            place = root / part / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 96, (36, 40, 3)) + 70 * label
                Image.fromarray(pixels.astype("uint8")).save(place / f"{number}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes, 36 and 13 images, and a teacher's weights: its last layer is that of the
    nearest mean of the brightness."""
    root = tmp_path_factory.mktemp("images") / "images"
    make_images(root, {"train": (12, 12, 12), "val": (4, 5, 4)})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = distil.network("test_vit", None, 3, pretrained=False)[1].eval()
    x = torch.stack([torch.full((3, 160, 160), grey / 127.5 - 1) for grey in (48, 118, 188)])
    with torch.no_grad():
        means = teacher.forward_head(teacher.forward_features(x), pre_logits=True)
        teacher.get_classifier().weight.copy_(means)
        teacher.get_classifier().bias.copy_(-means.square().sum(1) / 2)
    save_file(teacher.state_dict(), root.parent / "teacher.safetensors")
    return root


def arguments(folder, *more) -> list[str]:
    return [str(folder), *TINY, "--teacher-weights", str(folder.parent / "teacher.safetensors"),
            *map(str, more)]


def options(folder, *more):
    return distil._options(arguments(folder, *more))


def contents(out: Path) -> dict[str, bytes]:
    """All weights that a run leaves, but for its checkpoint, which holds seconds."""
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*")
            if file.is_file() and file.name != "run.safetensors"}


def history(out: Path) -> list[dict]:
    with safe_open(out / "run.safetensors", "pt") as file:
        return json.loads(file.metadata()["kdcourse"])["history"]["rows"]


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Path:
    """The results of a run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "out"
    distil.main(arguments(folder, "--out", out))
    return out


def test_smoke_run(folder, tmp_path, smoke, capsys):
    """Two steps from end to end: teacher first, then the student, its average, the best epochs."""
    distil.main(arguments(folder, "--out", tmp_path / "out"))
    text = capsys.readouterr().out
    assert text.startswith("teacher: ") and "0.8 * KD(T=1" in text and ".averaged(0.9999)" in text
    for name in ("last", "mean-of-best"):
        assert f"{name}: " in text
        state = load_file(tmp_path / "out" / f"{name}.safetensors")
        assert all(t.isfinite().all() for t in state.values())
    assert len(list((tmp_path / "out" / "best").iterdir())) == 1
    assert "chosen on these validation images" in text and "optimistic" in text


def test_smoke_run_in_two_processes(folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "kdcourse.distil", *arguments(folder, "--out", tmp_path / "out")],
        capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, check=False,
        env={**os.environ, "KDCOURSE_SMOKE": "1", "OMP_NUM_THREADS": "1",
             "ACCELERATE_USE_CPU": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("teacher: ") == 1  # said once
    (row,) = history(tmp_path / "out")
    right = 13 * row["val_accuracy"]  # no whole number where one of 14 images counts twice
    assert right == pytest.approx(round(right), abs=1e-6)
    assert f"last: {row['val_accuracy']:.2%} right on 13" in done.stdout


def test_images_are_mixed_and_each_network_normalises_for_itself(folder):
    chosen = options(folder)
    data, val, _ = distil.images(chosen)
    batch = next(data.train.batches(8, seed=0))
    assert batch.x.shape == (8, 3, 32, 32) and 0 <= batch.x.min() <= batch.x.max() <= 1
    assert batch.y.shape == (8, 3)
    torch.testing.assert_close(batch.y.sum(1), torch.ones(8))
    assert len(val) == 13
    teacher = distil.make_scheme(chosen, data, val).teacher
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():  # what a loader for this teacher would have given
        resized = torch.nn.functional.interpolate(
            x, size=(160, 160), mode="bilinear", antialias=True)
        expected = teacher.model[1].eval()((resized - 0.5) / 0.5)
    torch.testing.assert_close(teacher.predict(x), expected, rtol=1e-3, atol=1e-3)


def test_parts_are_left_out(folder):
    chosen = options(folder, "--without", "mix,randaugment,ema,teacher")
    data, val, _ = distil.images(chosen)
    assert next(data.train.batches(8, seed=0)).y.ndim == 1
    scheme = distil.make_scheme(chosen, data, val)
    assert not scheme.teachers and scheme.judged is scheme.student


def test_several_processes_validate_on_each_image_once(folder):
    shares = []
    for rank in range(2):
        chosen = options(folder)
        chosen.world, chosen.rank = 2, rank
        data, _, _ = distil.images(chosen)
        shares.append((repr(data), [batch.y for batch in data.val.batches()]))
    labels = torch.cat([y for _, found in shares for y in found])
    assert labels.bincount().tolist() == [4, 5, 4]
    assert shares[0][0] == shares[1][0]  # one checkpoint serves both


def test_the_mean_is_that_of_the_best_epochs(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(distil, "KEPT", 2)
    out = tmp_path / "out"
    distil.main(arguments(folder, "--out", out, "--without", "teacher,lamb"))
    best = sorted((row["val_accuracy"], row["epoch"]) for row in history(out))[-2:]
    files = sorted((out / "best").iterdir())
    assert [int(file.stem.split("-")[1]) for file in files] == [epoch for _, epoch in best]
    one, other = (load_file(file)["fc.bias"] for file in files)
    found = load_file(out / "mean-of-best.safetensors")["fc.bias"]
    torch.testing.assert_close(found, (one + other) / 2)


def test_leftovers_of_another_run_are_not_averaged(folder, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "run.safetensors").unlink()
    (out / "best" / "0.999999-00001.safetensors").write_bytes(b"written by a process that was")
    (out / "best" / ".0.9-00002.safetensors.0123").write_bytes(b"killed")
    distil.main(arguments(folder, "--out", out, "--seed", 1))
    epochs = sorted(int(file.name.split("-")[1][:5]) for file in (out / "best").iterdir())
    assert epochs == [1, 2, 3]
    first = load_file(next((out / "best").glob("*-00001.*")))
    assert not first["fc.weight"].equal(load_file(next((whole / "best").glob("*-00001.*")))[
        "fc.weight"])


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(
        folder, whole, tmp_path, monkeypatch, epoch):
    """Killed between the checkpoint of an epoch and its copy in best/."""
    out, noted = tmp_path / "out", distil.Best.__call__

    def killed(self, row=None):
        if row and row["epoch"] == epoch:
            raise RuntimeError("killed")
        noted(self, row)

    monkeypatch.setattr(distil.Best, "__call__", killed)
    with pytest.raises(RuntimeError, match="killed"):
        distil.main(arguments(folder, "--out", out))
    monkeypatch.setattr(distil.Best, "__call__", noted)
    distil.main(arguments(folder, "--out", out))
    assert len(contents(whole)) == 5 and contents(out) == contents(whole)


def test_a_best_epoch_that_was_deleted_is_named(folder, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    file = next((out / "best").glob("*-00001.*"))
    file.unlink()
    with pytest.raises(ValueError, match=f"got none: {file.name}"):
        distil.main(arguments(folder, "--out", out))


def test_a_long_average_of_few_steps_is_not_that_of_the_first_weights(folder, whole):
    """12 steps with the decay 0.9999 would leave 99.9 % of them."""
    chosen = options(folder)
    data, val, _ = distil.images(chosen)
    first = distil.make_scheme(chosen, data, val).student[1].fc.weight
    trained = load_file(whole / "run.safetensors")["scheme.student.1.fc.weight"]
    average = load_file(whole / "last.safetensors")["fc.weight"]
    way = (average - first).norm() / (trained - first).norm()
    assert way > 0.3


@pytest.mark.parametrize(("without", "shown"), [("ema", "lr=0.005"), ("ema,lamb", "lr=0.001")])
def test_each_optimiser_has_its_own_rate_and_both_clip(
        folder, tmp_path, smoke, capsys, without, shown):
    distil.main(arguments(folder, "--out", tmp_path / "out", "--without", without))
    text = capsys.readouterr().out
    assert f"{shown}," in text and "clip=1.0" in text


def test_saved_weights_are_those_of_timm_and_of_a_teacher(folder, whole):
    import timm

    for name in ("last", "mean-of-best"):
        file = whole / f"{name}.safetensors"
        model = timm.create_model("test_resnet", num_classes=3)
        model.load_state_dict(load_file(file))
        teacher = distil.network("test_resnet", str(file), 3, pretrained=True)
        x, cfg = torch.rand(2, 3, 32, 32), model.pretrained_cfg
        mean, std = (torch.tensor(cfg[key])[:, None, None] for key in ("mean", "std"))
        torch.testing.assert_close(predict(teacher, x), predict(model, (x - mean) / std))


def test_test_images_are_used_once_at_the_end(folder, tmp_path, smoke, capsys):
    root = tmp_path / "images"
    shutil.copytree(folder, root)
    make_images(root, {"test": (2, 2, 3)})
    distil.main(["--out", str(tmp_path / "out"), *arguments(folder)[1:], str(root)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if "7 test images" in line] == [
        "last", "mean-of-best"]


def test_a_teacher_near_chance_is_refused(folder, tmp_path):
    state = load_file(folder.parent / "teacher.safetensors")
    moved = {name: t.roll(1, 0) if name.startswith("head.") else t for name, t in state.items()}
    save_file(moved, tmp_path / "moved.safetensors")
    with pytest.raises(ValueError, match=r"got 0\.0%.*order.*here class0, class1, class2"):
        distil.main(arguments(folder, "--out", tmp_path / "out",
                              "--teacher-weights", tmp_path / "moved.safetensors"))


@pytest.mark.parametrize(("more", "message"), [
    (["--without", "mixing"], "got mixing"), (["--alpha", "0"], "--without teacher"),
    (["--batch", "0"], "a multiple of")])
def test_options_that_cannot_be(folder, more, message, capsys):
    with pytest.raises(SystemExit):
        options(folder, *more)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("more", "message"), [
    (["--teacher", "test_vitt"], r"timm, got test_vitt .*Unknown model"),
    (["--student", "resnett"], r"timm, got resnett .*Unknown model"),
    (["--teacher-weights", "missing.safetensors"], r"missing\.safetensors for 3 classes"),
    (["--teacher-weights", __file__], r"test_distil\.py .*header"),
    (["--teacher", "test_resnet"], r"teacher\.safetensors .*Missing key"),
    (["--batch", "37"], "at least 37 images in train, got 36")])
def test_networks_and_weights_that_cannot_be(folder, tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        distil.main(arguments(folder, "--out", tmp_path / "out", *more))


def test_a_teacher_of_other_classes_is_refused(monkeypatch):
    import timm

    made = timm.create_model("test_vit")  # 1,000 classes, as if it had been downloaded
    monkeypatch.setattr(timm, "create_model", lambda *args, **named: made)
    with pytest.raises(ValueError, match="for the 3 classes of the folder, got test_vit with 1000"):
        distil.network("test_vit", None, 3, pretrained=True)


def test_folders_that_cannot_be(folder, tmp_path):
    with pytest.raises(ValueError, match=r"images.train, got none"):
        distil.main(arguments(tmp_path / "images"))
    make_images(tmp_path / "images", {"train": (1, 1, 1)})
    with pytest.raises(ValueError, match=r"images.val, got none"):
        distil.main(arguments(tmp_path / "images"))
    make_images(tmp_path / "images", {"val": (1, 1)}, names=("Class0", "class1"))
    with pytest.raises(ValueError, match=r"Class0 \(only in val\), class0 \(only in train\), "
                                         r"class2 \(only in train\)"):
        distil.main(arguments(tmp_path / "images"))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_errors_are_printed_without_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["distil", str(tmp_path / "images")])
    with pytest.raises(SystemExit) as raised:
        runpy.run_module("kdcourse.distil", run_name="__main__")
    assert str(raised.value).startswith("Expected a folder of images")
