"""Stored answers by sample id and view, of an augmented stream."""

import dataclasses

import pytest
import torch
from conftest import network, restless, state
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import kdcourse as kd
from kdcourse import losses
from kdcourse._key import key_of
from kdcourse.data.loaders import from_loaders
from kdcourse.outputs import with_rest
from kdcourse.teachers import stored

RECIPE = kd.Recipe(epochs=3, batch=36, lr=0.01)
LIMITS = {"shift": 0.1, "rotate": 0.2, "scale": 0.1, "erase": 0.2}


def stream(data, ids=None, x=None, sampler=None):
    ids = torch.arange(144) if ids is None else ids
    pairs = TensorDataset(data.train.x if x is None else x, data.train.y, ids)
    order = {"shuffle": True} if sampler is None else {"sampler": sampler(pairs)}
    val = DataLoader(TensorDataset(data.val.x, data.val.y), 36)
    return from_loaders(DataLoader(pairs, 36, **order), val, classes=data.classes)


def views(data, number=3, seed=0, **more):
    return kd.augmented(data, number, seed, **(LIMITS | more))


class Counter:
    """A network, the number of samples that it was run on, and when it is to be stopped."""

    def __init__(self):
        self.net, self.samples, self.stop = network(1), 0, None
        self.net.register_forward_pre_hook(self.count)

    def count(self, module, args):
        self.samples += len(args[0])
        if self.stop is not None and self.samples > self.stop:
            raise KeyboardInterrupt


# --- the same as live and in memory -------------------------------------------------------------


def test_live_stored_and_in_memory_train_the_same_student(data, tmp_path):
    teacher = restless()
    by_id = views(stream(data, sampler=lambda pairs: RandomSampler(
        pairs, generator=torch.Generator())))
    memory = views(data)
    students = [network(3) for _ in range(3)]
    sources = [(kd.Cached(teacher, memory), memory),
               (kd.Cached(teacher, by_id, tmp_path / "answers"), by_id), (teacher, by_id)]
    for student, (source, one) in zip(students, sources, strict=True):
        kd.fit(kd.Distiller(student, source), one, RECIPE, seed=1)
    assert state(students[0]) == state(students[1])
    for ours, live in zip(students[1].parameters(), students[2].parameters(), strict=True):
        torch.testing.assert_close(ours, live, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ids", [
    lambda: torch.arange(144), lambda: 7 * torch.arange(144) + 5,
    lambda: torch.randperm(144) * 2**40], ids=["rows", "gaps", "hashes"])
@pytest.mark.parametrize("settings", [
    {}, {"dtype": torch.float16}, {"top": 5, "T": 4.0}], ids=["all", "half", "top"])
@pytest.mark.parametrize("number", [1, 4])
def test_answers_are_found_by_id_and_view(data, tmp_path, ids, settings, number):
    teacher, ids = restless(), ids()
    one = views(stream(data, ids), number)
    cached = kd.Cached(teacher, one, tmp_path / "answers", **settings)
    again = kd.Cached(teacher, one, tmp_path / "answers", **settings)
    live, T = kd.Live(teacher), settings.get("T", 1)
    for epoch in range(number + 1):
        for batch in one.train.batches(36, 3, epoch):
            assert batch.view == 1 + epoch % number
            expected = live(batch).logits
            found = cached(batch)
            assert torch.equal(found.logits, again(batch).logits)
            assert torch.equal(cached(batch[5:7]).logits, found.logits[5:7])
            if settings.get("top"):
                assert torch.equal(found.kept.places, expected.topk(5).indices)
                expected = with_rest(expected, found.kept.places, T)
                torch.testing.assert_close(*((z / T).softmax(1) for z in (found.logits, expected)),
                                           rtol=3e-3, atol=1e-4)
            else:
                torch.testing.assert_close(found.logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("number", [1, 3])
def test_given_rows_are_found_by_id_and_view(data, number):
    logits = torch.arange(number * 150.0 * 36).view(number, 150, 36)
    one = views(stream(data), number)
    cached = kd.Cached.of(logits, one, "counting")
    for epoch in range(number + 1):
        batch = next(one.train.batches(36, 2, epoch))
        assert torch.equal(cached(batch).logits, logits[epoch % number, batch.index])
    assert len(kd.fit(kd.Distiller(network(), cached), one, RECIPE)) == 3
    for wrong in (logits[0], logits[:, :100], logits[..., :5], logits.repeat(2, 1, 1),
                  logits[0, 0]):
        with pytest.raises(ValueError, match=rf"shape \[{number}, 144, 36\], a row for each"):
            kd.Cached.of(wrong, one, "wrong")


def test_the_doctor_and_rows_of_comparisons(data, tmp_path):
    teacher, keys = restless(), set()
    for number, one in enumerate((views(stream(data)), views(stream(data), 2),
                                  views(stream(data), seed=1), views(stream(data), shift=0.2))):
        cached = kd.Cached(teacher, one, tmp_path / str(number))
        keys.add(key_of(cached).exact)
        live = kd.doctor(kd.Distiller(network(), teacher), one)
        assert repr(kd.doctor(kd.Distiller(network(), cached), one)) == repr(live)
    assert len(keys) == 4


def test_answers_of_other_samples_and_views_are_found(data):
    teacher, one = network(2), kd.augmented(stream(data), 3, shift=0.4, rotate=1.5)
    logits = torch.zeros(3, 144, 36)
    for view in range(3):
        for batch in one.train.batches(36, 0, view):
            logits[view, batch.index] = teacher.eval()(batch.x).detach()
    right = kd.Cached.of(logits, one, "right")
    kd.checks.aligned(right, one, teacher)
    wrong = kd.Cached.of(logits.roll(1, 1), one, "rows that are shifted")
    with pytest.raises(AssertionError, match=r"stored answer to belong to its sample.* in view 1"):
        kd.checks.aligned(wrong, one, teacher)
    wrong = kd.Cached.of(logits[[0, 2, 1]], one, "views that are swapped")
    with pytest.raises(AssertionError, match=r"stored answer to belong to its sample.* in view 2"):
        kd.checks.aligned(wrong, one, teacher)


def test_answers_by_id_of_a_plain_stream_are_compared_too(data, tmp_path):
    teacher = network(2)
    for number, (settings, message) in enumerate(((
            {}, None), ({"dtype": torch.float16}, None), ({"top": 5}, "got 5 of its classes"))):
        cached = kd.Cached(teacher, stream(data), tmp_path / str(number), **settings)
        if message is None:
            kd.checks.aligned(cached, stream(data))
            with pytest.raises(AssertionError, match="another teacher"):
                kd.checks.aligned(cached, stream(data), network(5))
        else:
            with pytest.raises(AssertionError, match=message):
                kd.checks.aligned(cached, stream(data))
    logits = teacher.eval()(data.train.x).detach().roll(1, 0)
    with pytest.raises(AssertionError, match=r"Expected each stored answer .* lies in row \d+\."):
        kd.checks.aligned(kd.Cached.of(logits, stream(data), "shifted"), stream(data), teacher)


# --- parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, 60])
@pytest.mark.parametrize("stop", [0, 40, 200, 431])
def test_what_was_computed_before_a_stop_is_not_computed_again(data, tmp_path, stop, seconds,
                                                               monkeypatch):
    monkeypatch.setattr(stored, "PART_SECONDS", seconds)
    counter, one = Counter(), views(stream(data))
    teacher, look = counter.net, 2  # samples show whether a teacher takes the inputs
    expected = kd.Cached(teacher, one, tmp_path / "whole")
    counter.samples, counter.stop = 0, stop + look
    with pytest.raises(KeyboardInterrupt):
        kd.Cached(teacher, one, tmp_path / "answers")
    counter.samples, counter.stop = 0, None
    cached = kd.Cached(teacher, one, tmp_path / "answers")
    assert counter.samples == look + 3 * 144 - stop // 36 * 36 + 2 * 8  # first and last view
    for epoch in range(3):
        batch = next(one.train.batches(36, 4, epoch))
        assert torch.equal(cached(batch).logits, expected(batch).logits)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda data: stream(data), lambda data: views(stream(data), 2),
    lambda data: views(stream(data), seed=1), lambda data: views(stream(data), shift=0.2)],
    ids=["plain", "other views", "another seed", "other limits"])
def test_other_views_than_those_that_are_stored_are_refused(data, tmp_path, make):
    cached = kd.Cached(restless(), views(stream(data)), tmp_path / "answers")
    with pytest.raises(ValueError, match="Expected the data that was cached"):
        kd.fit(kd.Distiller(network(), cached), make(data), RECIPE)
    with pytest.raises(ValueError, match=r"Expected stored answers .* to be of data"):
        kd.Cached(restless(), make(data), tmp_path / "answers")


def test_batches_in_another_view_are_refused(data, tmp_path):
    one = views(stream(data))
    cached = kd.Cached(restless(), one, tmp_path / "answers")
    batch = next(one.train.batches(36, 0))
    for view in (0, 4):
        with pytest.raises(ValueError, match=rf"in views 1 to 3, .* got view {view}"):
            cached(dataclasses.replace(batch, view=view))
    plain = kd.Cached(restless(), stream(data), tmp_path / "plain")
    with pytest.raises(ValueError, match=r"in view 0, .* got view 1"):
        plain(batch)
    for other in (10**6 + torch.arange(36), torch.arange(36) + 144):
        with pytest.raises(ValueError, match=rf"stored answers, got \[{int(other[0])}, "):
            cached(dataclasses.replace(batch, ids=other, index=other))


@pytest.mark.parametrize("make", [lambda data, path: kd.Cached(restless(), data, path),
                                  lambda data, path: kd.Cached.of(torch.rand(144, 36), data, "z")])
@pytest.mark.parametrize("base", [stream, lambda data: data])
def test_ever_new_views_cannot_be_stored(data, tmp_path, make, base):
    with pytest.raises(ValueError, match=r"stated number of views .* got ever new ones"):
        make(views(base(data), None), tmp_path / "answers")


def test_other_inputs_for_an_id_are_refused(data, tmp_path):
    cached = kd.Cached(restless(), views(stream(data)), tmp_path / "answers")
    cached.check(views(stream(data)))
    for x in (data.train.x.roll(1, 0), data.train.x.flip(-1)):
        with pytest.raises(ValueError, match="inputs that were cached, got others for sample id"):
            kd.fit(kd.Distiller(network(), cached), views(stream(data, x=x)), RECIPE)
    with pytest.raises(ValueError, match="Two samples have one id"):
        kd.Cached(restless(), views(stream(data, torch.arange(144) // 2)), tmp_path / "twice")


def test_losses_that_need_all_logits_are_refused(data, tmp_path):
    one = views(stream(data))
    cached = kd.Cached(restless(), one, tmp_path / "answers", top=5, T=4.0)
    with pytest.raises(ValueError, match="for the largest"):
        kd.fit(kd.Distiller(network(), cached, losses.CE() + losses.LogitMSE()), one, RECIPE)
    assert len(kd.fit(kd.Distiller(network(), cached, losses.KD(T=4)), one, RECIPE)) == 3
