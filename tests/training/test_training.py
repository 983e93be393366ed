"""The one loop: reproducible, honest about what went wrong, and nothing lost on the way."""

import copy
import dataclasses
import functools
import json
import math
import os
import random
import signal

import numpy as np
import pytest
import torch
from conftest import network, restless, state
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import kdcourse as kd
from kdcourse._key import key_of
from kdcourse.losses import CE, Loss
from kdcourse.schemes import Supervised

RECIPE = kd.Recipe(epochs=2, batch=36)


class Watched(Supervised):
    """Calls `watch(self, step)` after each step, and notes which samples it saw."""

    def __init__(self, student, watch=lambda scheme, step: None, objective=None):
        super().__init__(student, objective)
        self.watch, self.steps, self.seen = watch, 0, []

    def forward(self, batch):
        self.seen.append(batch.index.tolist())
        return super().forward(batch)

    def after_step(self):
        self.steps += 1
        self.watch(self, self.steps)


@pytest.fixture
def optimizers(monkeypatch):
    """The optimisers that `fit` makes; `.rates` and `.norms` of the gradients, step by step."""
    made, AdamW = [], torch.optim.AdamW

    class Remembered(AdamW):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            self.rates, self.norms = [], []
            self.register_step_pre_hook(self.note)
            made.append(self)

        def note(self, *_):
            self.rates.append({group["lr"] for group in self.param_groups})
            gradients = [p.grad for group in self.param_groups for p in group["params"]]
            self.norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))

    monkeypatch.setattr(torch.optim, "AdamW", Remembered)
    return made


def trained(data, seed=0, recipe=RECIPE, build=restless):
    student = build(0)
    history = kd.fit(Supervised(student), data, recipe, seed)
    return state(student), [row["loss"] for row in history.rows]


# --- reproducible -------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_bits(data, precision):
    recipe = kd.Recipe(epochs=2, batch=36, precision=precision, clip=1.0)
    torch.manual_seed(1)
    first = trained(data, 3, recipe)
    torch.manual_seed(2)  # dropout does not draw from here
    assert trained(data, 3, recipe) == first
    assert trained(data, 4, recipe) != first


def test_the_global_generators_are_left_alone(data):
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    trained(data)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_all_schemes_of_one_seed_see_the_same_order(data):
    seen = {}
    for name, seed, width in (("a", 0, 4), ("b", 0, 8), ("c", 1, 4)):
        scheme = Watched(network(width=width))
        kd.fit(scheme, data, RECIPE, seed)
        seen[name] = scheme.seen
    assert seen["a"] == seen["b"] != seen["c"]
    for epoch in (seen["a"][:4], seen["a"][4:]):
        assert sorted(index for batch in epoch for index in batch) == list(range(144))
    assert seen["a"][:4] != seen["a"][4:]


def test_what_lay_in_the_gradients_before_does_not_matter(data):
    clean, dirty = network(), network()
    for p in dirty.parameters():
        p.grad = torch.full_like(p, 100.0)
    for student in (clean, dirty):
        kd.fit(Supervised(student), data, kd.Recipe(epochs=1, batch=36))
    assert state(clean) == state(dirty)


def test_the_layout_of_images_changes_only_rounding(data):
    students = [network(), network()]
    for student, last in zip(students, (True, False), strict=True):
        recipe = kd.Recipe(epochs=1, batch=36, channels_last=last)
        kd.fit(Supervised(student), data, recipe)
    for one, other in zip(*(student.parameters() for student in students), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("width", "innermost"), [(4, False), (8, True)])
def test_channels_stay_outermost_where_torch_overruns_its_memory(data, width, innermost):
    """In a strided convolution of 1x1 of fewer than 8 channels: see CONTRIBUTING."""
    student = kd.models.resnet(depth=8, width=width, stem_stride=2, size=12)
    kd.fit(Supervised(student), data, kd.Recipe(epochs=1, batch=72))
    kernels = [p for p in student.parameters() if p.ndim == 4 and p.shape[2] == 3 < p.shape[1]]
    assert len(kernels) > 4
    assert {p.is_contiguous(memory_format=torch.channels_last) for p in kernels} == {innermost}


# --- what is trained, and how -------------------------------------------------------------------


def test_the_optimiser_holds_exactly_what_can_be_trained(data, optimizers):
    student = restless()
    student[0].requires_grad_(False)  # frozen by its owner
    frozen, free = state(student[0]), state(student[5])
    kd.fit(kd.Distiller(student, network(1)), data, RECIPE)
    (optimizer,) = optimizers
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held})
    assert {id(p) for p in held} == {id(p) for p in student.parameters() if p.requires_grad}
    assert state(student[0]) == frozen
    assert state(student[5]) != free


def test_every_weight_moves(data):
    student = restless()
    before = [p.detach().clone() for p in student.parameters()]
    kd.fit(Supervised(student), data, RECIPE)
    for (name, p), old in zip(student.named_parameters(), before, strict=True):
        assert not torch.equal(p.cpu(), old), name


def test_biases_and_norms_do_not_decay(data, optimizers):
    student = restless()
    kd.fit(Supervised(student), data, kd.Recipe(epochs=1, batch=36, weight_decay=0.3))
    decay = {id(p): group["weight_decay"]
             for group in optimizers[0].param_groups for p in group["params"]}
    kept = {name: decay[id(p)] for name, p in student.named_parameters()}
    assert kept == {"0.weight": 0.3, "0.bias": 0, "1.weight": 0, "1.bias": 0,
                    "5.weight": 0.3, "5.bias": 0}


@pytest.mark.parametrize("make", [
    lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 36, bias=False)),
    lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 36).requires_grad_(False),
                          nn.BatchNorm1d(36)),
])
def test_networks_of_matrices_only_or_of_norms_only(data, make):
    student = make()
    before = state(student)
    kd.fit(Supervised(student), data, RECIPE)
    assert state(student) != before


def test_the_learning_rate_rises_to_its_peak_and_falls_to_almost_nothing(data, optimizers):
    kd.fit(Supervised(network()), data, kd.Recipe(epochs=15, batch=36, lr=0.01))
    rates = [rate for (rate,) in optimizers[0].rates]  # one for both groups
    peak = int(np.argmax(rates))
    assert len(rates) == 60
    assert rates[peak] == pytest.approx(0.01, rel=0.02)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-3 * 0.01


class Scaled(Loss):
    """A term with something to train, and a huge gradient."""

    needs_teacher = False

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def values(self, student, teacher=None, labels=None):
        return 1000 * self.scale * student.square().sum(1)


def test_clipping_covers_everything_that_is_trained(data, optimizers):
    for clip in (0.5, None):
        scheme = Supervised(network(), CE() + Scaled())
        kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36, clip=clip))
        held = [p for group in optimizers[-1].param_groups for p in group["params"]]
        assert {id(p) for p in held} == {id(p) for p in scheme.parameters()}
    assert optimizers[0].norms == pytest.approx([0.5] * 4, rel=1e-4)
    assert min(optimizers[1].norms) > 100


def test_the_student_trains_in_train_mode_also_after_it_was_looked_at(data):
    modes = []
    student = restless()
    student.register_forward_pre_hook(
        lambda *_: modes.append((torch.is_grad_enabled(), student[1].training)))
    kd.fit(Supervised(student.eval()), data, kd.Recipe(epochs=3, batch=36))
    assert {training for learning, training in modes if learning} == {True}
    assert {training for learning, training in modes if not learning} == {False}
    assert sum(learning for learning, _ in modes) == 1 + 12  # in build, and in each step


def test_a_scheme_that_looks_at_its_student_does_not_put_it_to_sleep(data):
    modes = []

    def look(scheme, step):
        modes.append(scheme.student[1].training)
        if step % 4 == 0:  # the last of each epoch
            scheme.student.eval()

    kd.fit(Watched(restless(), look), data, kd.Recipe(epochs=3, batch=36))
    assert modes == [True] * 12


def test_bf16_keeps_the_weights_in_float32(data):
    student = network()
    history = kd.fit(Supervised(student), data, kd.Recipe(epochs=2, batch=36, precision="bf16"))
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert all(map(math.isfinite, history["loss"]))


class Waits(TorchDispatchMode):
    """Counts every time that a number is fetched from the default device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.count += args[0].device.type == kd.default_device().type
        return function(*args, **(kwargs or {}))


def test_nothing_in_an_epoch_waits_for_the_device(data):
    counts = []
    scheme = kd.Distiller(network(), network(1))
    scheme.after_step = lambda: counts.append(waits.count)
    with Waits() as waits:
        kd.fit(scheme, data, kd.Recipe(epochs=2, batch=12, clip=1.0))
    assert len(counts) == 24
    for epoch in (counts[:12], counts[12:]):
        assert len(set(epoch)) == 1
    # The first bad step, whether the weights are finite, and the accuracy: once an epoch.
    assert 0 < counts[12] - counts[0] <= 4


def test_a_step_that_waits_would_be_noticed(data):
    counts = []
    scheme = Watched(network(), lambda scheme, step: counts.append(
        (float(scheme.student[-1].bias[0].detach()), waits.count)[1]))
    with Waits() as waits:
        kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36))
    assert len(set(counts)) == 4


# --- the history --------------------------------------------------------------------------------


def test_the_history_has_a_row_per_epoch(data):
    scheme = kd.Distiller(network(), network(1))
    history = kd.fit(scheme, data, kd.Recipe(epochs=5, batch=36, validate_every=2))
    assert history["epoch"] == [1, 2, 3, 4, 5]
    assert [i + 1 for i, seen in enumerate(history["val_accuracy"]) if seen is None] == [1, 3]
    for row in history.rows:
        assert row["loss"] == pytest.approx(0.1 * row["CE"] + 0.9 * row["KD"], rel=1e-5)
        assert row["seconds"] > 0
    accuracy = kd.measure.accuracy(kd.models.predict(scheme.student, data.val.x), data.val.y)
    assert history["val_accuracy"][-1] == accuracy
    assert history.seconds == pytest.approx(sum(history["seconds"]))
    assert not history.interrupted
    assert repr(history).startswith("History(5 epochs in ")
    assert f"validation {accuracy:.1%})" in repr(history)
    assert json.loads(json.dumps(history.to_dict()))["rows"] == history.rows


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps(data):
    seen = []
    scheme = Watched(network())
    forward = scheme.forward
    scheme.forward = lambda batch: seen.append(outcome := forward(batch)) or outcome
    history = kd.fit(scheme, data, RECIPE)
    losses = [outcome.loss.item() for outcome in seen]
    assert history["loss"] == pytest.approx([np.mean(losses[:4]), np.mean(losses[4:])], rel=1e-6)


def test_training_learns(data):
    history = kd.fit(Supervised(network(width=16)), data, kd.Recipe(epochs=30, batch=36, lr=0.02))
    assert history["loss"][-1] < 0.2 * history["loss"][0]


# --- when something goes wrong ------------------------------------------------------------------


class Breaks(Loss):
    """NaN or inf from a given training step on."""

    needs_teacher = False

    def __init__(self, at, value=math.nan):
        super().__init__()
        self.at, self.value, self.steps = at, value, 0

    def values(self, student, teacher=None, labels=None):
        if torch.is_grad_enabled():  # build does not count
            self.steps += 1
        bad = self.value if self.steps >= self.at else 1.0
        return bad * student.square().sum(1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_at_the_end_of_its_epoch(data, value):
    scheme = Watched(network(), objective=CE() + 0.1 * Breaks(6, value))
    with pytest.raises(FloatingPointError, match=r"at step 6 \(part: Breaks\). Lower Recipe\(lr="):
        kd.fit(scheme, data, kd.Recipe(epochs=3, batch=36))
    assert scheme.steps == 8


def test_ctrl_c_returns_what_was_finished(data, capsys):
    def stop(scheme, step):
        if step == 11:
            raise KeyboardInterrupt

    before = state(network())
    scheme = Watched(network(), stop)
    history = kd.fit(scheme, data, kd.Recipe(epochs=50, batch=36, validate_every=10))
    assert history.interrupted
    assert history["epoch"] == [1, 2]
    assert "interrupted" in repr(history)
    assert "Stopped by hand after 2 of 50 epochs" in capsys.readouterr().out
    assert state(scheme.student) != before  # it keeps what it has learned
    kd.models.predict(scheme.student, data.val.x)


def test_ctrl_c_before_the_first_epoch_is_over(data):
    def stop(scheme, step):
        raise KeyboardInterrupt

    history = kd.fit(Watched(network(), stop), data, RECIPE)
    assert history.interrupted
    assert repr(history) == "History(no epoch was finished)"
    assert history.seconds == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C in another way")
@pytest.mark.any_device
def test_a_real_ctrl_c(start):
    program = (
        "import signal, kdcourse as kd\n"
        # As in a terminal: a shell lets its background jobs ignore the signal.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "data = kd.data.glyphs(train=144, val=36, test=36, size=12)\n"
        "scheme = kd.Supervised(kd.models.convnet(width=4, size=12))\n"
        "steps = iter(range(10**9))\n"
        "scheme.after_step = lambda: next(steps) == 40 and print('running', flush=True)\n"
        "history = kd.fit(scheme, data, kd.Recipe(epochs=10**6, batch=36))\n"
        "print(len(history) >= 5, history.interrupted)\n"
    )
    process = start(program)
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert "Stopped by hand after" in out
    assert out.endswith("True True\n")
    assert err == ""
    assert process.returncode == 0


def test_a_batch_larger_than_the_data(data):
    with pytest.raises(ValueError, match=r"at most 144 samples .*, got 145. Lower Recipe\(batch"):
        kd.fit(Supervised(network()), data, kd.Recipe(epochs=1, batch=145))
    assert len(kd.fit(Supervised(network()), data, kd.Recipe(epochs=1, batch=144))) == 1


def test_a_frozen_student(data):
    for scheme in (Supervised(network().requires_grad_(False)), Supervised(nn.Flatten())):
        scheme.check = lambda data: None
        with pytest.raises(ValueError, match=r"something to train, .*frozen \(requires_grad_"):
            kd.fit(scheme, data, RECIPE)


@pytest.mark.parametrize(("settings", "message"), [
    ({"epochs": 0}, "epochs to be a whole number of at least 1, got 0"),
    ({"epochs": -3}, "epochs to be a whole number of at least 1, got -3"),
    ({"epochs": 1.5}, "epochs to be a whole number of at least 1, got 1.5"),
    ({"batch": 0}, "batch to be a whole number of at least 1, got 0"),
    ({"validate_every": 0}, "validate_every to be a whole number of at least 1"),
    ({"lr": 0}, "learning rate above 0, got 0"),
    ({"lr": -1e-3}, "learning rate above 0, got -0.001"),
    ({"lr": math.nan}, "learning rate above 0, got nan"),
    ({"lr": math.inf}, "learning rate above 0, got inf"),
    ({"weight_decay": -1}, "weight decay of at least 0, got -1"),
    ({"clip": 0}, "clip above 0, or None, got 0"),
    ({"clip": math.nan}, "clip above 0, or None, got nan"),
    ({"precision": "fp16"}, 'precision "fp32" or "bf16", got \'fp16\''),
    ({"precision": "auto"}, r"got 'auto'\. kd\.fastest\(scheme, data, recipe\) measures"),
])
def test_recipes_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        kd.Recipe(**settings)


def test_a_recipe_is_frozen_and_knows_its_fields():
    recipe = kd.Recipe(epochs=3)
    with pytest.raises(AttributeError):
        recipe.epochs = 4
    with pytest.raises(TypeError, match="epoch"):
        kd.Recipe(epoch=3)
    with pytest.raises(TypeError):
        kd.Recipe(3)
    assert kd.Recipe(epochs=3) == recipe


# --- what one sees ------------------------------------------------------------------------------


def test_silent_where_nobody_watches(data, capfd):
    kd.fit(Supervised(network()), data, RECIPE)
    assert capfd.readouterr() == ("", "")


def test_smoke_mode_makes_two_steps_and_says_so(data, smoke, capsys):
    scheme = Watched(network())
    history = kd.fit(scheme, data, kd.Recipe(epochs=500, batch=36))
    assert scheme.steps == 2
    assert len(history) == 1
    assert capsys.readouterr().out.startswith("KDCOURSE_SMOKE=1: fit makes two steps only")


@pytest.mark.skipif("ACCELERATE_TORCH_DEVICE" in os.environ, reason="another device was chosen")
def test_the_default_device_has_no_surprises(data):
    assert kd.fit(Supervised(network()), data, RECIPE, device="cpu").device == "cpu"
    expected = "cuda" if torch.cuda.is_available() else "mps" if (
        torch.backends.mps.is_available()) else "cpu"
    assert kd.default_device().type == expected


# --- recipes ------------------------------------------------------------------------------------


def test_a_recipe_reads_as_it_did_when_results_were_recorded():
    assert repr(kd.Recipe()) == (
        "Recipe(epochs=60, batch=128, lr=0.005, weight_decay=0.01, clip=None, precision='fp32', "
        "channels_last=True, validate_every=1)")
    assert repr(kd.Recipe(patience=3)).endswith("validate_every=1, patience=3)")
    assert "optimizer=by_hand" in repr(kd.Recipe(optimizer=by_hand))


def by_hand(groups, lr):
    return torch.optim.RMSprop(groups, lr)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", by_hand])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_every_optimiser_with_every_schedule(data, optimizer, schedule, warmup):
    recipe = kd.Recipe(epochs=20, batch=36, lr=0.01, optimizer=optimizer, schedule=schedule,
                       warmup=warmup)
    history = kd.fit(Supervised(network(width=16)), data, recipe)
    assert history["loss"][-1] < 0.85 * history["loss"][0]


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_cosine_rises_along_a_line_and_falls_to_nothing(data, optimizers, warmup):
    kd.fit(Supervised(network()), data,
           kd.Recipe(epochs=10, batch=36, lr=0.01, schedule="cosine", warmup=warmup))
    rates = [rate for (rate,) in optimizers[0].rates]
    peak = int(warmup * 40)
    assert rates[peak] == pytest.approx(0.01, rel=1e-6)
    assert rates[:peak] == pytest.approx([0.01 * (i + 1) / (peak + 1) for i in range(peak)])
    for i in range(peak, 40):
        share = (i - peak) / (40 - peak)
        assert rates[i] == pytest.approx(0.005 * (1 + math.cos(math.pi * share)))


def test_sgd_is_that_of_the_paper(data, monkeypatch):
    made = []
    SGD = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda *args, **settings: made.append(
        settings) or SGD(*args, **settings))
    kd.fit(Supervised(network()), data, kd.Recipe(epochs=1, batch=36, optimizer="sgd"))
    assert made[0]["nesterov"] is True
    assert made[0]["momentum"] == 0.9


def quiet(seed=0):
    """Without batch statistics or dropout: the parts of a batch do not see each other."""
    return kd.models.mlp(hidden=(16,), size=12, seed=seed)


@pytest.mark.parametrize("parts", [2, 3, 5, 36, 100])
def test_accumulated_gradients_are_those_of_the_batch(data, parts):
    students = []
    for accumulate in (1, parts):
        scheme = kd.Distiller(quiet(0), quiet(1))
        kd.fit(scheme, data, kd.Recipe(epochs=2, batch=36, lr=0.01, accumulate=accumulate))
        students.append(scheme.student)
    for one, other in zip(*(student.parameters() for student in students), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_history_of_accumulated_steps_is_that_of_the_batch(data):
    rows = [kd.fit(kd.Distiller(quiet(0), quiet(1)), data,
                   kd.Recipe(epochs=2, batch=36, accumulate=parts)).rows for parts in (1, 5)]
    for one, other in zip(*rows, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


class Rises(nn.Module):
    """A student whose validation accuracy follows a script."""

    def __init__(self, data, script):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.labels, self.script = data.val.y, script

    def forward(self, x):
        logits = torch.zeros(len(x), 36, device=x.device) + self.weight
        if not self.training and len(x) == len(self.labels):
            right = int(self.script[int(self.epoch)] * len(x))
            logits[range(right), self.labels[:right].to(x.device)] += 1
            logits[right:, 0] += 1
            self.epoch += 1
        return logits


def test_early_stopping_returns_to_the_best(data):
    student = Rises(data, [0.1, 0.5, 0.3, 0.5, 0.4, 0.9])
    history = kd.fit(Supervised(student), data, kd.Recipe(epochs=50, batch=36, patience=3))
    assert len(history) == 5
    assert history.best == 2
    assert int(student.epoch) == 2  # its state after the best look
    assert kd.fit(Supervised(network()), data, kd.Recipe(epochs=2, batch=36)).best is None


def test_early_stopping_counts_looks(data):
    student = Rises(data, [0.1, 0.5, 0.3, 0.4, 0.2, 0.9])
    history = kd.fit(Supervised(student), data,
                     kd.Recipe(epochs=50, batch=36, patience=2, validate_every=3))
    assert len(history) == 12
    assert history.best == 6


def test_the_fastest_recipe_is_measured_and_leaves_no_trace(data):
    scheme, plain = (kd.Distiller(restless(), network(1)) for _ in range(2))
    before = kd.Recipe(epochs=1, batch=36, lr=0.02)
    recipe = kd.fastest(scheme, data, before)
    assert dataclasses.replace(recipe, precision="fp32", channels_last=True) == before
    for one in (scheme, plain):
        kd.fit(one, data, recipe)
    assert state(plain) == state(scheme)


@pytest.mark.parametrize("slow", ["bf16", "fp32"])
def test_the_faster_precision_is_taken(data, slow):
    import time

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            if torch.is_autocast_enabled(x.device.type) is (slow == "bf16"):
                time.sleep(0.05)
            return self.inner(x)

    recipe = kd.fastest(Supervised(Slow()), data, kd.Recipe(epochs=1, batch=144))
    assert recipe.precision == {"bf16": "fp32", "fp32": "bf16"}[slow]


@pytest.mark.usefixtures("inductor")
def test_a_compiled_step_trains_the_same_student(data):
    students = []
    for compile in (False, True):
        scheme = kd.Distiller(network(), network(1, width=8))
        kd.fit(scheme, data, kd.Recipe(epochs=2, batch=36, compile=compile))
        students.append(scheme.student)
    for one, other in zip(*(student.parameters() for student in students), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def _no_gpu_memory():
    raise torch.OutOfMemoryError("CUDA out of memory")


def _no_memory():
    torch.empty(2**50)  # 4 petabytes: this machine's own refusal


@pytest.mark.parametrize("fill", [_no_gpu_memory, _no_memory])
def test_out_of_memory_says_what_to_lower(data, fill):
    class Full(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            if self.training:
                fill()
            return self.inner(x)

    with pytest.raises(MemoryError, match=r"36 samples to fit .*Lower Recipe\(batch=.*accumulate"):
        kd.fit(Supervised(Full()), data, RECIPE)


@pytest.mark.parametrize(("settings", "message"), [
    ({"optimizer": "adam"}, "optimizer \"adamw\", \"sgd\" or a function .*got 'adam'"),
    ({"schedule": "step"}, "schedule \"one-cycle\" or \"cosine\", got 'step'"),
    ({"warmup": 1.0}, "warmup from 0 to below 1, got 1.0"),
    ({"accumulate": 0}, "accumulate to be a whole number of at least 1, got 0"),
    ({"patience": 0}, "patience to be a whole number of at least 1, got 0"),
    ({"channels_last": "yes"}, "channels_last True or False, got 'yes'"),
])
def test_more_recipes_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        kd.Recipe(**settings)


# --- own optimisers, broken weights, little memory, odd networks ---------------------------------


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_what_a_factory_sets_stays(data, schedule):
    """No momentum stays none, betas stay, and a learning rate per group is a peak per group."""
    seen = []

    def plain(groups, lr):
        return watched(torch.optim.SGD(groups, lr=lr))

    def two(groups, lr):
        groups[1]["lr"] = lr / 100
        return watched(torch.optim.AdamW(groups, lr=lr, betas=(0.5, 0.999)))

    def watched(made):
        made.register_step_pre_hook(lambda *_: seen.append(
            [(g.get("momentum"), g.get("betas"), g["lr"]) for g in made.param_groups]))
        return made

    for make in (plain, two):
        kd.fit(Supervised(network()), data, kd.Recipe(epochs=2, batch=12, lr=0.1, optimizer=make,
                                                      schedule=schedule))
    assert {row[0][0] for row in seen[:24]} == {0}
    assert {group[1] for row in seen[24:] for group in row} == {(0.5, 0.999)}
    rates = np.array([[group[2] for group in row] for row in seen[24:]])
    np.testing.assert_allclose(rates[:, 1], rates[:, 0] / 100, rtol=1e-6)
    assert rates[:, 0].max() == pytest.approx(0.1, rel=0.05)


def test_two_factories_of_one_name_are_told_apart():
    def make(momentum):
        return lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=momentum)

    keys = [key_of(kd.Recipe(optimizer=make(m))) for m in (0.0, 0.9, 0.9)]
    assert keys[0] != keys[1] == keys[2]
    parts = [functools.partial(torch.optim.SGD, momentum=m) for m in (0.0, 0.9)]
    assert key_of(kd.Recipe(optimizer=parts[0])) != key_of(kd.Recipe(optimizer=parts[1]))
    assert repr(kd.Recipe(optimizer=torch.optim.SGD)).endswith("optimizer=SGD)")


class Rooted(Loss):
    """Finite everywhere, but its gradient is not, at one step."""

    needs_teacher = False

    def __init__(self, step):
        super().__init__()
        self.step, self.count = step, 0

    def values(self, student, teacher, labels):
        self.count += torch.is_grad_enabled()
        zero = (student * 0).sum(1)
        return zero.sqrt() if self.count == self.step else zero


def test_weights_that_break_in_the_last_step_are_noticed(data, tmp_path):
    """The loss was finite in every step of the epoch, and no checkpoint is written of it."""
    file = tmp_path / "run.safetensors"
    scheme = Supervised(network(), CE() + Rooted(8))
    with pytest.raises(FloatingPointError, match="last step of epoch 2") as caught:
        kd.fit(scheme, data, kd.Recipe(epochs=4, batch=36), checkpoint=file)
    assert f"{file} holds the state after epoch 1." in caught.value.__notes__
    again = Supervised(network(), CE() + Rooted(8))  # goes on with epoch 2, and counts anew
    with pytest.raises(FloatingPointError, match="last step of epoch 3"):
        kd.fit(again, data, kd.Recipe(epochs=4, batch=36), checkpoint=file)


def test_a_break_leaves_the_best_weights(data):
    scheme = Supervised(network(), CE() + Rooted(30))
    with pytest.raises(FloatingPointError):
        kd.fit(scheme, data, kd.Recipe(epochs=20, batch=36, patience=20))
    assert all(p.isfinite().all() for p in scheme.parameters())


@pytest.mark.parametrize("make", [
    lambda: kd.Mutual([network(0), network(1)]), lambda: kd.MultiExit(network(), ["1", "3"])])
def test_early_stopping_returns_all_of_the_scheme(data, make):
    scheme, states = make(), []
    scheme.after_step = lambda: states.append(copy.deepcopy(scheme.state_dict()))
    history = kd.fit(scheme, data, kd.Recipe(epochs=40, batch=36, lr=0.05, patience=4))
    assert history.best < len(history)
    torch.testing.assert_close(scheme.state_dict(), states[4 * history.best - 1], rtol=0, atol=0)


@pytest.mark.parametrize("settings", [
    {"epochs": 1, "batch": 14, "warmup": 0.1}, {"epochs": 5, "batch": 36, "warmup": 0.05},
    {"epochs": 2, "batch": 24, "warmup": 0}, {"epochs": 1, "batch": 72, "warmup": 0.5}], ids=str)
def test_any_warmup_that_a_recipe_takes_can_be_trained(data, settings):
    assert len(kd.fit(Supervised(network()), data, kd.Recipe(**settings))) == settings["epochs"]


class Limited(nn.Module):
    """Takes so many images at once in training and in eval mode."""

    def __init__(self, training=100, evaluation=1000):
        super().__init__()
        self.net, self.most = network(), {True: training, False: evaluation}

    def forward(self, x):
        if len(x) > self.most[self.training]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return self.net(x)


def test_the_fastest_recipe_is_tried_on_a_micro_batch(data):
    recipe = kd.Recipe(epochs=1, batch=48, accumulate=4)
    assert kd.fastest(Supervised(Limited(12)), data, recipe).accumulate == 4
    with pytest.raises(MemoryError, match=r"Expected a step of 48 samples to fit"):
        kd.fastest(Supervised(Limited(8)), data, recipe)


def test_validation_takes_no_more_than_training_has_room_for(data):
    recipe = kd.Recipe(epochs=1, batch=12)
    assert len(kd.fit(Supervised(Limited(12, 48)), data, recipe)) == 1


class OnlyFloat32(nn.Module):
    """Writes what it computes into a tensor of another precision, under autocast."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        logits = self.net(x)
        out = torch.zeros(len(x), 36, device=x.device)
        out[:, torch.arange(36)] = logits
        return out


def test_a_precision_in_which_a_network_fails_is_not_the_fastest(data):
    recipe = kd.Recipe(epochs=1, batch=36)
    assert kd.fastest(Supervised(OnlyFloat32()), data, recipe).precision == "fp32"
    with pytest.raises(RuntimeError, match="dtypes match"):
        kd.fit(Supervised(OnlyFloat32()), data, kd.Recipe(epochs=1, batch=36, precision="bf16"))


def test_both_layouts_are_tried_with_the_teacher_in_them(data):
    seen = set()
    # 16 channels, so that the two layouts of a kernel differ
    scheme = kd.Distiller(network(width=16), network(1, width=16))
    scheme.student[3][0].register_forward_hook(lambda module, *_: seen.add(tuple(
        net.is_contiguous(memory_format=torch.channels_last)
        for net in (module.weight, scheme.teacher.model[3][0].weight))))
    kd.fastest(scheme, data, kd.Recipe(epochs=1, batch=36))
    assert seen == {(True, True), (False, False)}


def test_a_network_for_volumes_trains(data):
    class Volumes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv3d(1, 4, 3), nn.Linear(4, 36)

        def forward(self, x):
            return self.head(self.conv(x[:, :, None].expand(-1, -1, 4, -1, -1)).mean((2, 3, 4)))

    assert len(kd.fit(Supervised(Volumes()), data, kd.Recipe(epochs=1, batch=36))) == 1


@pytest.mark.parametrize(("settings", "message"), [
    ({"lr": "1e-3"}, "Expected lr to be a number, got '1e-3'"),
    ({"optimizer": lambda groups, lr: None}, "Expected an optimiser from the function .* NoneType"),
])
def test_recipes_that_cannot_be_read(data, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kd.fit(Supervised(network()), data, kd.Recipe(epochs=1, batch=36, **settings))


def test_a_folder_that_is_not_there_is_said_before_the_training(data, tmp_path):
    scheme = Supervised(network())
    before = state(scheme)
    with pytest.raises(FileNotFoundError, match=r"Expected a folder .* for the checkpoint"):
        kd.fit(scheme, data, RECIPE, checkpoint=tmp_path / "none" / "run.safetensors")
    assert state(scheme) == before


def test_weights_in_double_precision_are_refused(data):
    with pytest.raises(ValueError, match=r"weights in float32, got .* in torch.float64. Call"):
        kd.fit(Supervised(network().double()), data, RECIPE)
