"""Stored answers by sample id, on disk: the same as live ones; whole parts after a kill; the k
largest logits give the target that is stated."""

import dataclasses
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import network, restless, state
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

import kdcourse as kd
from kdcourse import losses
from kdcourse.data.loaders import from_loaders
from kdcourse.teachers import stored

RECIPE = kd.Recipe(epochs=2, batch=36, lr=0.01)


def loader(*tensors, **settings):
    return DataLoader(TensorDataset(*tensors), 36, **settings)


def stream(data, x=None, y=None, ids=None, train=None, **settings):
    """The data as a shuffled stream of (x, y, index)."""
    split = data.train
    ids = torch.arange(len(split)) if ids is None else ids
    if train is None:
        train = loader(split.x if x is None else x, split.y if y is None else y, ids, shuffle=True)
    return from_loaders(train, loader(data.val.x, data.val.y),
                        **{"classes": data.classes, "name": "mine"} | settings)


def as_in_memory(data):
    pairs = TensorDataset(data.train.x, data.train.y, torch.arange(len(data.train)))
    sampler = RandomSampler(pairs, generator=torch.Generator())
    return stream(data, train=DataLoader(pairs, 36, sampler=sampler))


class Counter:
    """A network, the number of samples that it was run on, and when it is to be stopped."""

    def __init__(self):
        self.net, self.samples, self.stop = network(1), 0, None
        self.net.register_forward_pre_hook(self.count)

    def count(self, module, args):
        self.samples += len(args[0])
        if self.stop is not None and self.samples > self.stop:
            raise KeyboardInterrupt

    def restart(self, stop=None):
        self.samples, self.stop = 0, stop


LOOK = 2  # samples show whether a teacher takes the inputs


# --- the same as live and in memory -------------------------------------------------------------


def test_answers_in_memory_and_by_id_train_the_same_student(data, tmp_path):
    """To the bit; tests/teachers/test_cached.py compares those in memory with live ones."""
    teacher, students = restless(), [restless(3), restless(3)]
    given = as_in_memory(data)
    sources = [(kd.Cached(teacher, data), data),
               (kd.Cached(teacher, given, tmp_path / "answers"), given)]
    for student, (source, one) in zip(students, sources, strict=True):
        kd.fit(kd.Distiller(student, source), one, RECIPE, seed=1)
    assert state(students[0]) == state(students[1])


@pytest.mark.parametrize("ids", [
    lambda: torch.arange(144), lambda: torch.arange(144).flip(0), lambda: 7 * torch.arange(144) + 5,
    lambda: torch.randperm(144) * 2**40], ids=["rows", "reversed", "gaps", "hashes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_answers_are_found_by_id(data, tmp_path, ids, dtype):
    teacher, ids = restless(), ids()
    cached = kd.Cached(teacher, stream(data, ids=ids), tmp_path / "answers", dtype=dtype)
    again = kd.Cached(teacher, stream(data, ids=ids), tmp_path / "answers", dtype=dtype)
    live = kd.Live(teacher)
    for batch in stream(data, ids=ids).train.batches(36, seed=3):
        expected = live(batch).logits
        for one in (cached, again):
            torch.testing.assert_close(one(batch).logits, expected,
                                       **{"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float16
                                       else {"rtol": 1e-5, "atol": 1e-5})
        assert torch.equal(cached(batch[3:5]).logits, cached(batch).logits[3:5])
    torch.testing.assert_close(cached.predict(data.val.x), live.predict(data.val.x))
    with pytest.raises(ValueError, match=r"got answers by sample id on disk.*cached\(batch\)"):
        _ = cached.logits
    assert (tmp_path / "answers" / "rows.bin").stat().st_size == 144 * 36 * dtype.itemsize


def test_another_task_has_answers_by_id_too(tmp_path):
    x, y = torch.rand(60, 1, 8, 8), torch.randint(5, (60, 8, 8))
    net = torch.nn.Conv2d(1, 5, 1)
    one = from_loaders(loader(x, y, torch.arange(60)), loader(x, y), classes=5,
                       task=kd.tasks.Pixels())
    cached = kd.Cached(net, one, tmp_path / "answers")
    batch = one.train.one()
    torch.testing.assert_close(cached(batch).logits, net(batch.x).detach())
    kd.fit(kd.Distiller(torch.nn.Conv2d(1, 5, 1), cached), one, kd.Recipe(epochs=1, batch=36))


def test_a_teacher_with_labels_is_asked_with_labels(data, tmp_path):
    ensemble = kd.Ensemble([restless(seed) for seed in range(2)], "confidence")
    cached = kd.Cached(ensemble, stream(data), tmp_path / "answers")
    batch = stream(data).train.one()
    torch.testing.assert_close(cached(batch).logits, ensemble(batch).logits)
    with pytest.raises(ValueError, match="Expected the inputs that were cached"):
        cached.check(stream(data, y=data.train.y.flip(0)))


def test_given_rows_are_found_by_id(data):
    logits = torch.arange(144.0 * 36).view(144, 36)
    cached = kd.Cached.of(torch.from_numpy(logits.numpy()), stream(data), "counting")
    batch = stream(data).train.one(3)
    assert torch.equal(cached(batch).logits, logits[batch.index])
    assert len(kd.fit(kd.Distiller(network(), cached), stream(data), RECIPE)) == 2
    for wrong in (logits[:100], logits[:, :5]):
        with pytest.raises(ValueError, match=r"logits of shape \[144, 36\], a row for each sample"):
            kd.Cached.of(wrong, stream(data), "wrong")
    with pytest.raises(ValueError, match=r"sample ids below 144, .* got"):
        cached.check(stream(data, ids=torch.arange(144) + 100))


def test_an_endless_loader_is_gone_through_once(data, tmp_path):
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield from zip(data.train.x, data.train.y, range(144), strict=True)

    endless = stream(data, train=DataLoader(Endless(), 36), counts={"train": 144})
    cached = kd.Cached(restless(), endless, tmp_path / "answers")
    assert len(kd.fit(kd.Distiller(network(), cached), endless, RECIPE)) == 2


def test_rows_of_comparisons_tell_stored_answers_apart(data, tmp_path):
    from kdcourse._key import key_of

    teacher = restless()
    keys = {key_of(kd.Cached(teacher, stream(data), tmp_path / str(number), **more)).exact
            for number, more in enumerate(({}, {"top": 5}, {"top": 6}, {"top": 5, "T": 4.0},
                                           {"dtype": torch.float16}))}
    assert len(keys) == 5


# --- parts --------------------------------------------------------------------------------------


@pytest.fixture(params=[0, 60])
def _parts(monkeypatch, request):
    """Every batch is a part; or all that was computed when Ctrl-C stops it."""
    monkeypatch.setattr(stored, "PART_SECONDS", request.param)


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize("stop", [0, 36, 100, 143])
@pytest.mark.parametrize("top", [None, 5])
def test_what_was_computed_before_a_stop_is_not_computed_again(data, tmp_path, stop, top):
    counter = Counter()
    teacher = counter.net
    expected = kd.Cached(teacher, stream(data), tmp_path / "whole", top=top)
    counter.restart(stop + LOOK)
    with pytest.raises(KeyboardInterrupt):
        kd.Cached(teacher, stream(data), tmp_path / "answers", top=top)
    counter.restart()
    cached = kd.Cached(teacher, stream(data), tmp_path / "answers", top=top)
    assert counter.samples == LOOK + 144 - stop // 36 * 36 + 8  # eight are compared
    batch = stream(data).train.one(4)
    assert torch.equal(cached(batch).logits, expected(batch).logits)


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize("views", [None, 3])
@pytest.mark.parametrize("stop", [500, 1100])
def test_data_in_memory_keep_finished_parts_too(tmp_path, views, stop):
    data = kd.data.glyphs(train=1200, val=72, test=72, size=12)
    data = data if views is None else kd.augmented(data, views=views, shift=0.2)
    counter, path = Counter(), tmp_path / "answers.safetensors"
    teacher = counter.net
    expected = kd.Cached(teacher, data)
    counter.restart(stop + LOOK)
    with pytest.raises(KeyboardInterrupt):
        kd.Cached(teacher, data, path)
    assert not path.exists()
    counter.restart()
    cached = kd.Cached(teacher, data, path)
    assert counter.samples == LOOK + 1200 * (views or 1) - stop // 500 * 500
    assert torch.equal(cached.logits, expected.logits)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert torch.equal(kd.Cached(teacher, data, path).logits, expected.logits)


PROGRAM = """
import os, signal, sys, torch
import kdcourse as kd
from kdcourse.teachers import stored
from torch.utils.data import DataLoader, TensorDataset
stored.PART_SECONDS = 0
data = kd.data.glyphs(train=144, val=72, test=72, size=12)
class Killed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.calls = kd.models.convnet(width=4, classes=36, size=12, seed=1), [0]
    def forward(self, x):
        self.calls[0] += 1
        if sys.argv[2] == "kill" and self.calls[0] == 4:
            with (stored.Path(sys.argv[1]) / "rows.bin").open("ab") as file:
                file.write(b"half of a part")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.net(x)
ids = TensorDataset(data.train.x, data.train.y, torch.arange(144))
one = kd.data.from_loaders(DataLoader(ids, 36, shuffle=True), data.val, classes=data.classes)
teacher = Killed()
cached = kd.Cached(teacher, one, sys.argv[1])
batch = one.train.one(3)
torch.testing.assert_close(cached(batch).logits, kd.Live(teacher)(batch).logits)
print(teacher.calls[0])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.any_device
def test_a_killed_process_leaves_whole_parts(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    run = [sys.executable, str(program), str(tmp_path / "answers")]
    killed = subprocess.run([*run, "kill"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = subprocess.run([*run, "go on"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    # Two batches that were missing, and the assertion; looks at some samples leave no trace.
    assert again.stdout == "3\n"


@pytest.mark.parametrize("damage", [
    lambda rows: rows.write_bytes(rows.read_bytes()[:-8]),
    lambda rows: rows.write_bytes(rows.read_bytes()[:-1] + b"x"),
    lambda rows: rows.unlink()], ids=["cut short", "altered", "gone"])
def test_rows_that_were_damaged_are_refused(data, tmp_path, damage):
    kd.Cached(restless(), stream(data), tmp_path / "answers")
    damage(tmp_path / "answers" / "rows.bin")
    with pytest.raises(ValueError, match=r"in .*rows.bin, got a file that is cut short or altered"):
        kd.Cached(restless(), stream(data), tmp_path / "answers")


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(("teacher", "make", "settings", "message"), [
    (lambda: restless(1), stream, {}, "to be of teacher"),
    (restless, lambda data: stream(data, version="2"), {}, "to be of data .*version"),
    (restless, lambda data: stream(data, name="other"), {}, "to be of data .*other"),
    (restless, stream, {"top": 5}, "to be of top 5, got None"),
    (restless, stream, {"dtype": torch.float16}, "to be of dtype torch.float16"),
])
def test_a_folder_of_others_is_refused(data, tmp_path, teacher, make, settings, message):
    kd.Cached(restless(), stream(data), tmp_path / "answers")
    with pytest.raises(ValueError, match=f"Expected stored answers by sample id in .* {message}"):
        kd.Cached(teacher(), make(data), tmp_path / "answers", **settings)


@pytest.mark.parametrize("change", [
    lambda x: x.flip(3), lambda x: x.roll(1, 0), lambda x: x + 0.01], ids=["mirrored", "shifted",
                                                                          "lighter"])
@pytest.mark.parametrize("top", [None, 5])
def test_other_inputs_for_an_id_are_refused(data, tmp_path, change, top):
    cached = kd.Cached(restless(), stream(data), tmp_path / "answers", top=top, T=4.0 if top else 1)
    cached.check(stream(data))
    scheme = kd.Distiller(network(), cached)
    with pytest.raises(ValueError, match="inputs that were cached, got others for sample id"):
        kd.fit(scheme, stream(data, x=change(data.train.x)), RECIPE)


class Noisy(torch.utils.data.Dataset):
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        x = self.split.x[i]
        return (x.flip(-1) if torch.rand(1) < 0.5 else x), self.split.y[i], i


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loader_that_augments_is_refused(data, tmp_path, shuffle):
    noisy = stream(data, train=DataLoader(Noisy(data.train), 36, shuffle=shuffle))
    with pytest.raises(ValueError, match=r"got others for sample id .*augments anew.*Live"):
        kd.fit(kd.Distiller(network(), kd.Cached(restless(), noisy, tmp_path / "a")), noisy, RECIPE)


@pytest.mark.parametrize(("make", "message"), [
    (lambda data: stream(data, train=loader(data.train.x, data.train.y)),
     r"sample ids from the loader, .* got batches \(x, y\)"),
    (lambda data: stream(data, ids=torch.arange(144) // 2), "Two samples have one id"),
    (lambda data: stream(data, train=DataLoader(TensorDataset(
        data.train.x, data.train.y, torch.arange(144)), 40, drop_last=True)),
     "each of the 144 samples, got 120 from one pass.*drop_last=False"),
])
def test_a_loader_that_does_not_give_each_sample_once(data, tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        kd.Cached(restless(), make(data), tmp_path / "answers")


def test_an_id_that_was_not_stored_is_refused(data, tmp_path):
    cached = kd.Cached(restless(), stream(data), tmp_path / "answers")
    batch = dataclasses.replace(stream(data).train.one(), ids=torch.arange(36) + 120)
    with pytest.raises(ValueError, match="ids for which there are stored answers, got"):
        cached(batch)
    with pytest.raises(ValueError, match="a batch with sample ids"):
        cached(dataclasses.replace(batch, ids=None, index=None))
    with pytest.raises(ValueError, match="Expected the data that was cached"):
        cached.check(data)


@pytest.mark.parametrize(("settings", "message"), [
    ({"path": None}, "Expected path=…, a folder"), ({"top": 0}, "top as a number of classes"),
    ({"top": 36}, "more than top=36 classes"), ({"top": 2.5}, "top as a number"),
    ({"top": 3, "T": 0}, "temperature T above 0"), ({"T": 4.0}, "together with top"),
    ({"dtype": torch.int8}, "float32 or torch.float16"),
])
def test_settings_that_cannot_be(data, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        kd.Cached(restless(), stream(data), **{"path": tmp_path / "answers"} | settings)


def test_data_in_memory_keep_all_logits(data):
    with pytest.raises(ValueError, match="data from loaders for dtype, got data in memory"):
        kd.Cached(restless(), data, dtype=torch.float16)


@pytest.mark.parametrize("other", ["loader", "pair", "tensor"])
def test_what_is_no_data_set_is_refused_in_a_sentence(data, other):
    given = {"loader": loader(data.train.x, data.train.y), "pair": (data.train.x, data.train.y),
             "tensor": data.train.x}[other]
    with pytest.raises(TypeError, match=r"Expected a data set .*, got .*from_(loaders|arrays)\("):
        kd.Cached(restless(), given)


def test_paths_that_hold_other_things(data, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("x")
    for name, message in (("file", "got a file"), ("photos", "got other files in")):
        with pytest.raises(ValueError, match=message):
            kd.Cached(restless(), stream(data), tmp_path / name)


def test_logits_that_half_precision_cannot_hold(data, tmp_path):
    huge = torch.nn.Sequential(restless(), torch.nn.Linear(36, 36))
    huge[1].weight.data.fill_(0).fill_diagonal_(1e6)
    with pytest.raises(ValueError, match=r"up to 65504 .*Use dtype=torch.float32"):
        kd.Cached(huge, stream(data), tmp_path / "answers", dtype=torch.float16)


# --- the k largest ------------------------------------------------------------------------------


def merged(logits, k, T):
    """Probabilities at T as a loop in float64: of the k largest, and of the rest together."""
    p = softmax(logits, T)
    largest = sorted(range(len(p)), key=lambda i: -p[i])[:k]
    return largest, np.array([*p[largest], 1 - sum(p[i] for i in largest)])


def kl(p, q):
    return sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def softmax(logits, T):
    z = logits.double().numpy() / T
    e = np.exp(z - z.max())
    return e / e.sum()


@pytest.mark.parametrize("k", [1, 5, 35])
@pytest.mark.parametrize("T", [1.0, 4.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", ["stream", "memory"])
def test_the_rest_is_one_more_class(data, tmp_path, k, T, dtype, kind):
    """Value and gradient, for all the student's logits, against loops."""
    teacher, one = restless(), stream(data) if kind == "stream" else data
    teacher[-1].weight.data.mul_(3)
    cached = kd.Cached(teacher, one, tmp_path / "answers", top=k, T=T, dtype=dtype)
    again = kd.Cached(teacher, one, tmp_path / "answers", top=k, T=T, dtype=dtype)
    assert f", top={k}, T={T:g}, {(dtype.itemsize + 2) * k + dtype.itemsize} bytes a row)" in repr(
        cached)
    batch = next(one.train.batches(36, 2))
    live, student = kd.Live(teacher)(batch).logits, network()
    found, logits = cached(batch), student.eval()(batch.x)
    assert torch.equal(again(batch).logits, found.logits)
    close = 3e-3 if dtype == torch.float16 else 1e-5
    losses_, slopes = [], []
    for row, z in zip(live, logits.detach(), strict=True):
        (largest, p), q = merged(row, k, T), softmax(z, T)
        rest = [i for i in range(36) if i not in largest]
        both = np.array([*q[largest], q[rest].sum()])
        losses_.append(T**2 * kl(p, both))
        slope = np.empty(36)
        slope[largest] = q[largest] - p[:-1]
        slope[rest] = (both[-1] - p[-1]) * q[rest] / both[-1]
        slopes.append(T / 36 * slope)
    ours = losses.KD(T=T)(kd.Output(logits), found)
    assert float(ours.detach()) == pytest.approx(np.mean(losses_), rel=10 * close, abs=1e-6)
    (gradient,) = torch.autograd.grad(ours, logits)
    np.testing.assert_allclose(gradient, np.stack(slopes), atol=close * T / 36)


@pytest.mark.parametrize("term", [
    lambda: losses.KD(T=1), lambda: losses.KD(T=2), lambda: losses.ReverseKL(T=1),
    lambda: losses.LogitMSE(), lambda: losses.LogitStd(T=4), lambda: losses.DIST(),
    lambda: losses.DKD(T=4), lambda: losses.HardLabel(), lambda: losses.OFA(),
    lambda: losses.RKDDistance(), lambda: losses.CRD(samples=144, negatives=8)],
    ids=["KD at 1", "KD at 2", "ReverseKL", "LogitMSE", "LogitStd", "DIST", "DKD",
         "HardLabel", "OFA", "RKD", "CRD"])
def test_losses_for_which_the_largest_logits_are_not_enough_are_refused(data, tmp_path, term):
    cached = kd.Cached(restless(), stream(data), tmp_path / "answers", top=5, T=4.0)
    with pytest.raises(ValueError, match=r"softmax\(logits / 4\) for the largest .* KD\(T=4\)"):
        kd.fit(kd.Distiller(network(), cached, losses.CE() + term()), stream(data), RECIPE)


@pytest.mark.parametrize("term", [
    lambda: losses.KD(T=4), lambda: losses.ReverseKL(T=4), lambda: losses.JS(T=4),
    lambda: losses.TV(T=4), lambda: losses.SkewKL(T=4), lambda: losses.SkewReverseKL(T=4),
    lambda: losses.SymmetricKL(T=4)])
def test_losses_on_the_softened_output_take_the_largest_logits(data, tmp_path, term):
    cached = kd.Cached(restless(), stream(data), tmp_path / "answers", top=5, T=4.0)
    scheme = kd.Distiller(network(), cached, losses.CE() + term())
    assert len(kd.fit(scheme, stream(data), RECIPE)) == 2


def test_a_temperature_that_changes_during_the_training_is_refused(data, tmp_path):
    cached = kd.Cached(restless(), stream(data), tmp_path / "answers", top=5, T=4.0)
    term = losses.KD(T=4)
    scheme = kd.Distiller(network(), cached, term)

    def warmer():
        scheme.objective.terms["KD"].T = 5.0

    scheme.after_step = warmer
    with pytest.raises(ValueError, match="stored with T=4 and the others as one class, got KD"):
        kd.fit(scheme, stream(data), RECIPE)


def test_an_ensemble_needs_all_logits(data, tmp_path):
    cached = kd.Cached(restless(), stream(data), tmp_path / "answers", top=5, T=4.0)
    with pytest.raises(ValueError, match="all logits of each teacher in an ensemble"):
        kd.fit(kd.Distiller(network(), kd.Ensemble([cached, restless(1)])), stream(data), RECIPE)
    whole = kd.Cached(kd.Ensemble([restless(), restless(1)]), stream(data), tmp_path / "both",
                      top=5, T=4.0)
    assert len(kd.fit(kd.Distiller(network(), whole), stream(data), RECIPE)) == 2


def test_the_doctor_takes_stored_answers_of_a_stream(data, tmp_path):
    for number, more in enumerate(({}, {"top": 5, "T": 4.0})):
        teacher = restless()
        cached = kd.Cached(teacher, stream(data), tmp_path / str(number), **more)
        live = kd.doctor(kd.Distiller(network(), teacher), stream(data))
        assert repr(kd.doctor(kd.Distiller(network(), cached), stream(data))) == repr(live)


@pytest.mark.parametrize("kind", ["streamed", "cached"])
def test_a_progress_bar_is_for_the_samples_of_all_views(data, tmp_path, monkeypatch, kind):
    module, bars = sys.modules[f"kdcourse.teachers.{kind}"], []
    make = module.progress

    def shown(*args):
        bars.append(make(*args))
        return bars[-1]

    monkeypatch.setattr(module, "progress", shown)
    one = stream(data) if kind == "streamed" else kd.augmented(data, views=2, shift=0.1)
    kd.Cached(restless(), one, tmp_path / "answers")
    assert [bar.total for bar in bars] == [144 if kind == "streamed" else 288]


class Language(torch.nn.Module):
    """A language model of 11 words: logits [B, N, 11]."""

    def __init__(self, seed):
        super().__init__()
        self.table, self.head = torch.nn.Embedding(11, 6), torch.nn.Linear(6, 11)
        with torch.no_grad():
            for p in (*self.table.parameters(), *self.head.parameters()):
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))

    def forward(self, ids, attention_mask):
        return self.head(self.table(ids))


@pytest.mark.parametrize(("k", "T", "dtype"), [
    (1, 1.0, torch.float32), (3, 2.0, torch.float32), (10, 4.0, torch.float32),
    (3, 1.0, torch.float16)])
def test_the_largest_logits_of_each_token(tmp_path, k, T, dtype):
    ids = torch.randint(11, (40, 7), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(7) < torch.arange(40)[:, None] % 6 + 2).long()
    y = ids.roll(-1, 1).where(mask > 0, -100)
    batches = [({"ids": ids[i : i + 8], "attention_mask": mask[i : i + 8]}, y[i : i + 8],
                torch.arange(i, i + 8)) for i in range(0, 40, 8)]
    data = from_loaders(batches, [batch[:2] for batch in batches], classes=11,
                        task=kd.tasks.Tokens())
    teacher, student = Language(1), Language(2)
    cached = kd.Cached(teacher, data, tmp_path / "answers", top=k, T=T, dtype=dtype)
    again = kd.Cached(teacher, data, tmp_path / "answers", top=k, T=T, dtype=dtype)
    batch = data.train.one(3)
    live, output = kd.Live(teacher)(batch).logits, cached(batch)
    assert torch.equal(again(batch).logits, output.logits)
    close = 2e-3 if dtype == torch.float16 else 1e-5
    expected = [merged(row, k, T) for row in live.flatten(0, 1)]
    np.testing.assert_allclose((output.logits.double() / T).softmax(2).flatten(0, 1),
                               np.stack([p for _, p in expected]), rtol=5 * close, atol=1e-9)
    scheme = kd.Distiller(student, cached, losses.KD(T=T))
    q = [softmax(row, T) for row in student(**batch.x).detach().flatten(0, 1)]
    q = [np.array([*b[places], 1 - b[places].sum()])
         for b, (places, _) in zip(q, expected, strict=True)]
    counted = (batch.y.flatten() != -100).tolist()
    loss = np.mean([T**2 * kl(p, b) for (_, p), b, one in zip(expected, q, counted, strict=True)
                    if one])
    assert float(scheme(batch).loss.detach()) == pytest.approx(loss, rel=5 * close, abs=1e-6)
    with pytest.raises(ValueError, match="for the largest logits of a teacher"):
        kd.Distiller(Language(2), cached, losses.LogitMSE())(batch)
    assert len(kd.fit(scheme, data, kd.Recipe(epochs=2, batch=8))) == 2


@pytest.mark.parametrize(("task", "shape"), [
    (kd.tasks.Pixels(), (4, 4)), (kd.tasks.Labels(), (5,)), (kd.tasks.Numbers(), (5,))])
def test_the_largest_logits_of_other_tasks_are_refused(tmp_path, task, shape):
    x, y = torch.rand(36, 1, 4, 4), torch.zeros(36, *shape).long()
    y = y if task.has_classes else y.float()
    one = from_loaders(loader(x, y, torch.arange(36)), loader(x, y), classes=5, task=task)
    with pytest.raises(ValueError, match="one label per sample or token for top=…, got"):
        kd.Cached(torch.nn.Conv2d(1, 5, 1), one, tmp_path / "answers", top=2)
