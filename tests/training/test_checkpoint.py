"""Checkpoints: killed at any moment and started again, the same student to the last bit."""

import dataclasses
import json
import os
import random
import signal
import time

import numpy as np
import pytest
import safetensors.torch
import timm.optim
import torch
from conftest import ROOT, network, restless, state
from helpers.interrupted import stop_after
from torch import nn

import kdcourse as kd
from kdcourse import losses
from kdcourse.data import Split
from kdcourse.schemes import Supervised


def scheme(seed=0):
    """Batch statistics, dropout, a projection, and a teacher."""
    return kd.Distiller(restless(seed), network(1, width=8),
                        losses.CE() + 0.1 * losses.Hint("2", "2") + losses.KD(T=2))


def lamb(groups, lr):
    return timm.optim.Lamb(groups, lr=lr)


def rate_in_a_tensor(groups, lr):
    return torch.optim.AdamW(groups, lr=torch.tensor(lr))


RECIPES = {
    "adamw, one-cycle": kd.Recipe(epochs=4, batch=36, lr=0.01),
    "sgd, cosine": kd.Recipe(epochs=4, batch=36, lr=0.01, optimizer="sgd", schedule="cosine"),
    "bf16": kd.Recipe(epochs=4, batch=36, precision="bf16"),
    "channels first, clip": kd.Recipe(epochs=4, batch=36, channels_last=False, clip=1.0),
    "accumulated": kd.Recipe(epochs=4, batch=36, accumulate=3),
    "patient": kd.Recipe(epochs=4, batch=36, lr=0.1, patience=2),
    "steps counted in a tensor": kd.Recipe(epochs=4, batch=36, lr=0.01, optimizer=lamb),
    "rate in a tensor": kd.Recipe(epochs=4, batch=36, lr=0.01, optimizer=rate_in_a_tensor),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("step", [5, 8, 15])
def test_a_resumed_training_ends_with_the_same_bits(data, tmp_path, name, step):
    whole, file = scheme(), tmp_path / "run.safetensors"
    expected = kd.fit(whole, data, RECIPES[name], seed=3)
    broken = scheme()
    broken.after_step = stop_after(step)
    history = kd.fit(broken, data, RECIPES[name], seed=3, checkpoint=file)
    assert len(history) == (step - 1) // 4
    other = scheme(seed=7)  # another start: everything comes from the file
    torch.manual_seed(99)
    history = kd.fit(other, data, RECIPES[name], seed=3, checkpoint=file)
    assert state(other) == state(whole)
    for column in ("epoch", "loss", "CE", "Hint", "KD", "val_accuracy"):
        assert history[column] == expected[column]
    assert history.best == expected.best


def test_a_finished_training_returns_at_once(data, tmp_path):
    file = tmp_path / "run.safetensors"
    recipe = kd.Recipe(epochs=2, batch=36)
    first, again = Supervised(network()), Supervised(network())
    history = kd.fit(first, data, recipe, checkpoint=file)
    again.after_step = stop_after(1)
    other = kd.fit(again, data, recipe, checkpoint=file)
    assert other.to_dict() == history.to_dict()
    assert state(again) == state(first)


def test_no_checkpoint_is_left_where_none_was_asked_for(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kd.fit(Supervised(network()), data, kd.Recipe(epochs=1, batch=36))
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import sys, torch, kdcourse as kd
sys.path[:0] = {folders!r}
torch.set_num_threads(1)
from test_checkpoint import scheme
data = kd.data.glyphs(train=144, val=36, test=36, size=12)
one = scheme()
print("begins", flush=True)
history = kd.fit(one, data, kd.Recipe(epochs=60, batch=12), checkpoint={file!r})
torch.save(one.state_dict(), {file!r} + ".done")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.any_device
def test_killed_at_random_moments(tmp_path, start):
    done = {}
    for name in ("whole", "killed"):
        file = str(tmp_path / f"{name}.safetensors")
        folders = [os.path.dirname(__file__), str(ROOT / "tests")]
        program = PROGRAM.format(folders=folders, file=file)
        kills, moments = 0, random.Random(0)
        while True:
            process = start(program)
            assert process.stdout.readline() == "begins\n", process.stderr.read()
            if name == "killed" and kills < 4:
                time.sleep(moments.uniform(0.05, 0.6))
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
                # What lies there is nothing, or a whole checkpoint.
                if os.path.exists(file):
                    assert safetensors.torch.load_file(file)
                continue
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            break
        done[name] = torch.load(file + ".done", weights_only=True)
    assert done["whole"].keys() == done["killed"].keys()
    for key, tensor in done["whole"].items():
        assert torch.equal(tensor, done["killed"][key]), key


def checkpoint(data, file, **settings):
    kd.fit(Supervised(network()), data, kd.Recipe(epochs=1, batch=36), checkpoint=file, **settings)


def test_checkpoints_of_something_else_are_refused(data, tmp_path, monkeypatch):
    file = tmp_path / "run.safetensors"
    checkpoint(data, file)
    before = file.read_bytes()
    smaller = kd.data.glyphs(train=108, val=72, test=72, size=12)
    cases = [
        (lambda: kd.fit(Supervised(network(width=8)), data, kd.Recipe(epochs=1, batch=36),
                        checkpoint=file), "to be of scheme .*width=8.*, got"),
        (lambda: kd.fit(Supervised(network()), data, kd.Recipe(epochs=2, batch=36),
                        checkpoint=file), "to be of recipe .*epochs=2.*got .*epochs=1"),
        (lambda: kd.fit(Supervised(network()), data, kd.Recipe(epochs=1, batch=36,
                        precision="bf16"), checkpoint=file), "to be of recipe .*bf16.*fp32"),
        (lambda: checkpoint(data, file, seed=1), "to be of seed 1, got 0; it was not used"),
        (lambda: checkpoint(smaller, file), "to be of data glyphs.*train=108.*train=144"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(ValueError, match=rf"threads {threads + 1}, got {threads}.*"
                                             rf"set_num_threads\({threads}\) first"):
            checkpoint(data, file)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(torch, "__version__", "99.0.0")
    with pytest.raises(ValueError, match=r"to be of torch 99.0.0, got .* delete the"):
        checkpoint(data, file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"half", "cut", "other"])
def test_a_file_that_is_no_checkpoint_is_left_alone(data, tmp_path, content):
    file = tmp_path / "run.safetensors"
    if content == "cut":
        checkpoint(data, file)
        content = file.read_bytes()[:-10]
    elif content == "other":
        content = safetensors.torch.save({"weights": torch.zeros(3)})
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected a checkpoint of kd.fit in .* cut short"):
        checkpoint(data, file)
    assert file.read_bytes() == content


def test_a_checkpoint_is_read_without_pickle(data, tmp_path):
    file = tmp_path / "run.safetensors"
    checkpoint(data, file)
    with safetensors.safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["kdcourse"])
    assert header["settings"]["seed"] == 0
    assert header["history"]["rows"][0]["epoch"] == 1


def test_the_last_good_checkpoint_stays_when_the_loss_breaks(data, tmp_path):
    from test_training import Breaks

    file = tmp_path / "run.safetensors"
    broken = Supervised(network(), losses.CE() + Breaks(6))
    with pytest.raises(FloatingPointError, match="at step 6") as caught:
        kd.fit(broken, data, kd.Recipe(epochs=3, batch=36), checkpoint=file)
    assert f"{file} holds the state after epoch 1." in caught.value.__notes__
    with safetensors.safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["kdcourse"])
    assert len(header["history"]["rows"]) == 1


class Counting(nn.Module):
    """A student that keeps something besides tensors."""

    def __init__(self):
        super().__init__()
        self.net, self.calls = network(), 0

    def forward(self, x):
        self.calls += self.training
        return self.net(x)

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, extra):
        self.calls = extra["calls"]


def test_what_modules_keep_besides_tensors_is_restored(data, tmp_path):
    file = tmp_path / "run.safetensors"
    recipe = kd.Recipe(epochs=3, batch=36)
    broken = Supervised(Counting())
    broken.after_step = stop_after(9)
    kd.fit(broken, data, recipe, checkpoint=file)
    other = Supervised(Counting())
    kd.fit(other, data, recipe, checkpoint=file)
    assert other.student.calls == 12


class Moving(kd.Live):
    """A teacher of one's own that changes and says so."""

    saved = True


class ByHand(kd.Distiller):
    """Changes its teacher in after_step."""

    @torch.no_grad()
    def after_step(self):
        for mean, new in zip(self.teacher.model.state_dict().values(),
                             self.student.state_dict().values(), strict=True):
            mean.lerp_(new, 0.1) if mean.is_floating_point() else mean.copy_(new)


def mean_teacher():
    student = network()
    return kd.Distiller(student, kd.EMA(student, 0.9))


def averaged_in_an_ensemble():
    student = network()
    return kd.Distiller(student, kd.Ensemble([kd.EMA(student, 0.9), network(2)]))


def average(scheme):
    return state(scheme.teacher.networks()[0])


@pytest.mark.parametrize("make", [mean_teacher, averaged_in_an_ensemble,
                                  lambda: ByHand(network(), Moving(network(1)))])
def test_a_teacher_that_moves_is_kept(data, tmp_path, make):
    file, recipe = tmp_path / "run.safetensors", kd.Recipe(epochs=3, batch=36)
    whole, broken, again = (make() for _ in range(3))
    kd.fit(whole, data, recipe)
    assert len(kd.fit(broken, data, recipe, checkpoint=file, on_step=stop_after(9))) == 2
    kd.fit(again, data, recipe, checkpoint=file)
    assert state(again) == state(whole)
    assert average(again) == average(whole) not in (state(network()), state(network(1)))


def test_a_moving_average_returns_to_that_of_the_best_epoch(data):
    scheme, averages = mean_teacher(), []
    move = scheme.after_step
    scheme.after_step = lambda: (move(), averages.append(average(scheme)))
    history = kd.fit(scheme, data, kd.Recipe(epochs=6, batch=36, patience=1))
    assert average(scheme) == averages[4 * history.best - 1]


def test_a_frozen_teacher_that_is_changed_is_refused_by_a_checkpoint(data, tmp_path):
    """It would not be kept, and the training that goes on would have another teacher."""
    kd.fit(ByHand(network(), network(1)), data, kd.Recipe(epochs=1, batch=36))
    with pytest.raises(ValueError, match=r"a teacher that stays as it is, got .*Use kd\.EMA"):
        kd.fit(ByHand(network(), network(1)), data, kd.Recipe(epochs=1, batch=36),
               checkpoint=tmp_path / "run.safetensors")


def test_a_frozen_teacher_is_not_kept(data, tmp_path):
    file = tmp_path / "run.safetensors"
    kd.fit(scheme(), data, kd.Recipe(epochs=1, batch=36), checkpoint=file)
    groups = {name.split(".")[0] for name in safetensors.torch.load_file(file)}
    assert groups == {"scheme", "optimizer", "random"}


def test_a_mean_teacher_goes_on_where_it_was_stopped_by_hand(data, tmp_path):
    """The same object: its teacher has other weights by now, and is the same teacher."""
    file, recipe = tmp_path / "run.safetensors", kd.Recipe(epochs=3, batch=36)
    whole, broken = mean_teacher(), mean_teacher()
    kd.fit(whole, data, recipe)
    kd.fit(broken, data, recipe, checkpoint=file, on_step=stop_after(9))
    assert len(kd.fit(broken, data, recipe, checkpoint=file)) == 3
    assert state(broken) == state(whole)
    assert average(broken) == average(whole)


class Hidden(nn.Module):
    """A student with a buffer that its state_dict does not show."""

    def __init__(self):
        super().__init__()
        self.net = network()
        self.register_buffer("mean", torch.zeros(1), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.mean().reshape(1), 0.1)
        return self.net(x - self.mean)


def test_buffers_out_of_sight_are_restored(data, tmp_path):
    file, recipe = tmp_path / "run.safetensors", kd.Recipe(epochs=3, batch=36)
    whole, broken, again = (Supervised(Hidden()) for _ in range(3))
    kd.fit(whole, data, recipe)
    broken.after_step = stop_after(9)
    kd.fit(broken, data, recipe, checkpoint=file)
    kd.fit(again, data, recipe, checkpoint=file)
    assert state(again) == state(whole)
    assert torch.equal(again.student.mean, whole.student.mean)


@pytest.mark.parametrize(("seed", "settings"), [
    (np.int64(3), {}), (3, {"lr": np.float32(0.01)}),
    (3, {"optimizer": lambda groups, lr: torch.optim.Adam(groups, lr=torch.tensor(lr))})],
    ids=["seed", "lr", "lr in a tensor"])
def test_numbers_of_numpy_and_in_tensors_are_kept(data, tmp_path, seed, settings):
    file, recipe = tmp_path / "run.safetensors", kd.Recipe(epochs=2, batch=36, **settings)
    history = kd.fit(Supervised(network()), data, recipe, seed=seed, checkpoint=file)
    again = kd.fit(Supervised(network()), data, recipe, seed=3, checkpoint=file)
    assert again["loss"] == history["loss"]


def test_other_labels_or_frozen_layers_are_another_training(data, tmp_path):
    file, recipe = tmp_path / "run.safetensors", kd.Recipe(epochs=1, batch=36)
    kd.fit(Supervised(network()), data, recipe, checkpoint=file)
    noisy = dataclasses.replace(data, train=Split(data.train.x, data.train.y.flip(0)))
    with pytest.raises(ValueError, match="to be of training samples"):
        kd.fit(Supervised(network()), noisy, recipe, checkpoint=file)
    frozen = Supervised(network())
    frozen.student[1].requires_grad_(False)
    with pytest.raises(ValueError, match="to be of trained parameters"):
        kd.fit(frozen, data, recipe, checkpoint=file)
