"""Teachers: frozen, unchanged, and the same whether they answer live or from a cache."""

import copy
import dataclasses

import pytest
import torch
from conftest import network, restless, state
from torch import nn

import kdcourse as kd
from kdcourse.data import Batch, Split
from kdcourse.models import View
from kdcourse.teachers import as_teacher

RECIPE = kd.Recipe(epochs=2, batch=36)


def batch_of(data, size=8):
    return next(data.train.batches(size))


# --- live ---------------------------------------------------------------------------------------


class Meddler(kd.Distiller):
    """After each step somebody else, who has the teacher too, wakes all or part of it."""

    woken = ()

    def after_step(self):
        for module in self.woken:
            module.train()


@pytest.mark.parametrize("part", ["nothing", "all of it", "its batch normalisation"])
def test_training_leaves_the_teacher_exactly_as_it_was(data, monkeypatch, part):
    teacher = restless()
    before = state(teacher)
    scheme = Meddler(network(), teacher.train())
    scheme.woken = {"nothing": (), "all of it": (teacher,)}.get(part, (teacher[1],))
    kd.fit(scheme, data, RECIPE)
    monkeypatch.setenv("KDCOURSE_SMOKE", "1")  # latency is measured for a moment only
    kd.report(scheme, data)
    assert state(teacher) == before  # buffers included
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_is_frozen_where_it_stands():
    model = restless().train()
    kd.Live(model)
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_the_teacher_is_not_a_part_of_the_scheme(data):
    student, teacher = network(), restless()
    scheme = kd.Distiller(student, teacher)
    ours = {id(p) for p in student.parameters()}
    assert {id(p) for p in scheme.parameters()} == ours
    assert set(scheme.state_dict()) == {f"student.{name}" for name in student.state_dict()}
    assert teacher not in set(scheme.modules())
    scheme.train()
    assert not teacher.training


def test_a_teacher_with_dropout_answers_the_same_each_time(data):
    teacher, batch = kd.Live(restless()), batch_of(data)
    first = teacher(batch).logits
    teacher.model.train()
    assert torch.equal(teacher(batch).logits, first)
    assert not first.requires_grad
    torch.testing.assert_close(teacher.predict(batch.x), first)


def test_the_teacher_moves_with_the_scheme():
    teacher = restless()
    kd.Distiller(network(), teacher).to("meta")
    assert {p.device.type for p in teacher.parameters()} == {"meta"}


def test_a_copy_of_a_scheme_shares_the_teacher():
    scheme = kd.Distiller(network(), restless())
    assert copy.deepcopy(scheme).teacher is scheme.teacher


def test_a_teacher_reads_as_its_weights():
    model = restless()
    name = repr(kd.Live(model))
    assert name == repr(kd.Live(copy.deepcopy(model)))
    with torch.no_grad():
        model[1].running_mean[0] += 1e-6
    assert repr(kd.Live(model)) != name
    assert repr(kd.Live(network(0))).split("#")[0] == repr(kd.Live(network(1))).split("#")[0]
    assert repr(kd.Live(network(0))) != repr(kd.Live(network(1)))
    assert repr(kd.Live(nn.Linear(2, 2).bfloat16()))  # a type that NumPy does not have


@pytest.mark.parametrize("teacher", ["glyphs", None, lambda batch: batch])
def test_what_is_no_teacher(teacher):
    with pytest.raises(TypeError, match=r"Expected a network.* got"):
        kd.Distiller(network(), teacher)
    with pytest.raises(TypeError, match="Expected a network"):
        kd.Live(teacher)


class Oracle:
    """Somebody else's teacher: it only needs to answer the same calls."""

    def __init__(self, data):
        self.data = data

    def __call__(self, batch):
        return View(10 * torch.eye(36)[batch.y])

    def predict(self, x):
        return None

    def check(self, data):
        assert data is self.data

    def to(self, device):
        return self


def test_a_teacher_of_ones_own(data, monkeypatch):
    oracle = Oracle(data)
    assert as_teacher(oracle) is oracle
    scheme = kd.Distiller(network(), oracle)
    assert len(kd.fit(scheme, data, RECIPE)) == 2
    monkeypatch.setenv("KDCOURSE_SMOKE", "1")
    assert list(kd.report(scheme, data).rows) == ["student"]


# --- cached -------------------------------------------------------------------------------------


def test_live_and_cached_train_the_same_student(data):
    teacher, students = restless(), [network(), network()]
    for student, source in zip(students, (teacher, kd.Cached(teacher, data)), strict=True):
        kd.fit(kd.Distiller(student, source), data, kd.Recipe(epochs=3, batch=36), seed=1)
    for live, cached in zip(students[0].parameters(), students[1].parameters(), strict=True):
        torch.testing.assert_close(live, cached, rtol=1e-3, atol=1e-4)


def test_a_cache_answers_by_sample(data):
    teacher = restless()
    cached = kd.Cached(teacher, data)
    live = kd.Live(teacher)
    for batch in data.train.batches(20, seed=3):  # shuffled
        torch.testing.assert_close(cached(batch).logits, live(batch).logits)
    torch.testing.assert_close(cached.predict(data.val.x), live.predict(data.val.x))
    assert repr(cached) == f"Cached({live!r})"
    assert repr(kd.Cached(live, data)) == repr(cached)


def test_a_cache_refuses_other_data(data):
    teacher = restless()
    cached = kd.Cached(teacher, data)
    cached.check(data)
    cached.check(kd.data.glyphs(train=144, val=72, test=72, size=12))  # the same, drawn again
    shuffled = dataclasses.replace(data, train=Split(data.train.x.flip(0), data.train.y.flip(0)))
    shorter = dataclasses.replace(data, train=Split(data.train.x[:99], data.train.y[:99]))
    for other, message in [
        (kd.data.glyphs(train=144, val=72, test=72, size=12, seed=1), "data that was cached.*seed"),
        (shuffled, "samples that were cached, in the same order"),
        (shorter, "samples that were cached, in the same order"),
    ]:
        with pytest.raises(ValueError, match=message):
            kd.fit(kd.Distiller(network(), cached), other, RECIPE)


def test_a_cache_refuses_augmented_samples(data):
    batch = batch_of(data)
    augmented = Batch(batch.x, batch.y, batch.index, view=3)
    with pytest.raises(ValueError, match=r"view 0\), got augmentation 3.*Live"):
        kd.Cached(restless(), data)(augmented)


def test_answers_from_elsewhere(data):
    answers = torch.arange(144.0 * 36).view(144, 36)
    cached = kd.Cached.of(answers, data, "counting")
    batch = next(data.train.batches(10, seed=0))
    assert torch.equal(cached(batch).logits, answers[batch.index])
    assert repr(cached) == "Cached(counting)"
    assert cached.predict(data.val.x) is None
    assert len(kd.fit(kd.Distiller(network(), cached), data, RECIPE)) == 2
    for wrong in (answers[:-1], answers[:, :-1]):
        with pytest.raises(ValueError, match=r"logits of shape \[144, 36\], one row per training"):
            kd.Cached.of(wrong, data, "wrong")


def test_a_cache_runs_the_teacher_once(data):
    calls = []
    teacher = restless()
    teacher.register_forward_hook(lambda *call: calls.append(len(call[1][0])))
    scheme = kd.Distiller(network(), kd.Cached(teacher, data))
    kd.fit(scheme, data, kd.Recipe(epochs=3, batch=36))
    assert sum(calls) == len(data.train)
