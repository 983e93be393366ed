"""The recipe as a command, for folders of images."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from kdcourse import distil

TINY = ["--teacher", "test_vit", "--student", "test_resnet", "--size", "32", "--batch", "8",
        "--epochs", "2", "--workers", "0", "--ema", "0.9", "--lr", "0.01", "--precision", "fp32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes, 12 + 4 images of 40 x 36 each, and a teacher's weights."""
    import timm

    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        for label in range(3):
            place = root / part / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 128, (36, 40, 3)) + 40 * label
                Image.fromarray(pixels.astype("uint8")).save(place / f"{number}.png")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = timm.create_model("test_vit", num_classes=3)
    save_file(teacher.state_dict(), root.parent / "teacher.safetensors")
    return root


def options(folder, *more):
    return distil._options([str(folder), *TINY, "--teacher-weights",
                            str(folder.parent / "teacher.safetensors"), *more])


def test_smoke_run(folder, tmp_path, smoke, capsys):
    """Two steps from end to end: teacher first, then the student, its average, the best epochs."""
    distil.main([str(folder), *TINY, "--teacher-weights",
                 str(folder.parent / "teacher.safetensors"), "--out", str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert text.startswith("teacher: ") and "0.8 * KD(T=1" in text and ".averaged(0.9)" in text
    for name in ("last", "mean-of-best"):
        assert f"{name}: " in text
        state = load_file(tmp_path / "out" / f"{name}.safetensors")
        assert all(t.isfinite().all() for t in state.values())
    assert len(list((tmp_path / "out" / "best").iterdir())) == 1


def test_smoke_run_in_two_processes(folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "kdcourse.distil", str(folder), *TINY, "--teacher-weights",
         str(folder.parent / "teacher.safetensors"), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, check=False,
        env={**os.environ, "KDCOURSE_SMOKE": "1", "OMP_NUM_THREADS": "1",
             "ACCELERATE_USE_CPU": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("teacher: ") == 1  # said once
    assert (tmp_path / "out" / "mean-of-best.safetensors").exists()


def test_images_are_mixed_and_each_network_normalises_for_itself(folder):
    chosen = options(folder)
    data, val = distil.images(chosen)
    batch = next(data.train.batches(8, seed=0))
    assert batch.x.shape == (8, 3, 32, 32) and 0 <= batch.x.min() <= batch.x.max() <= 1
    assert batch.y.shape == (8, 3)
    torch.testing.assert_close(batch.y.sum(1), torch.ones(8))
    assert len(val) == 12
    teacher = distil.make_scheme(chosen, data, val).teacher
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():  # what a loader for this teacher would have given
        resized = torch.nn.functional.interpolate(
            x, size=(160, 160), mode="bilinear", antialias=True)
        expected = teacher.model[1].eval()((resized - 0.5) / 0.5)
    torch.testing.assert_close(teacher.predict(x), expected, rtol=1e-3, atol=1e-3)


def test_parts_are_left_out(folder):
    chosen = options(folder, "--without", "mix,randaugment,ema,teacher")
    data, val = distil.images(chosen)
    assert next(data.train.batches(8, seed=0)).y.ndim == 1
    scheme = distil.make_scheme(chosen, data, val)
    assert not scheme.teachers and scheme.judged is scheme.student


def test_the_mean_is_that_of_the_best_epochs(folder, tmp_path):
    chosen = options(folder, "--without", "ema")
    data, val = distil.images(chosen)
    scheme = distil.make_scheme(chosen, data, val)
    best = distil.Best(tmp_path / "best", scheme)
    bias = scheme.student[1].get_classifier().bias
    for epoch in range(1, 13):
        torch.nn.init.constant_(bias, epoch)
        best({"epoch": epoch, "val_accuracy": 0.5 + 0.01 * epoch})
    found = dict(best.mean().named_parameters())["1.fc.bias"]
    torch.testing.assert_close(found, torch.full((3,), sum(range(3, 13)) / 10))


@pytest.mark.parametrize(("more", "message"), [
    (["--without", "mixing"], "got mixing"), (["--alpha", "0"], "--without teacher"),
    (["--batch", "0"], "a multiple of")])
def test_options_that_cannot_be(folder, more, message, capsys):
    with pytest.raises(SystemExit):
        options(folder, *more)
    assert message in capsys.readouterr().err


def test_a_teacher_of_other_classes_is_refused(monkeypatch):
    import timm

    made = timm.create_model("test_vit")  # 1,000 classes, as if it had been downloaded
    monkeypatch.setattr(timm, "create_model", lambda *args, **named: made)
    with pytest.raises(ValueError, match="for the 3 classes of the folder, got test_vit with 1000"):
        distil.network("test_vit", None, 3, pretrained=True)
