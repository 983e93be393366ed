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
    with pytest.raises(ValueError, match=r"a batch in view 0, .* got view 3.*Live"):
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


# --- the teacher's own normalisation and size ---------------------------------------------------


class Wants(nn.Module):
    """A network that only takes 3 x 8 x 8 inputs, and remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 36)

    def forward(self, x):
        self.shown = x
        return self.layer(x.flatten(1))


def test_a_teacher_sees_its_own_normalisation_and_size(data):
    model = Wants()
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    teacher, batch = kd.Live(model, mean=mean, std=std, size=8), batch_of(data)
    logits = teacher(batch).logits
    small = nn.functional.interpolate(batch.x, (8, 8), mode="bilinear", antialias=True)
    by_hand = torch.cat([(small - m) / s for m, s in zip(mean, std, strict=True)], 1)
    torch.testing.assert_close(model.shown, by_hand)
    torch.testing.assert_close(teacher.predict(batch.x), logits)
    assert "mean=[0.4" in repr(teacher)
    assert "size=(8, 8)" in repr(teacher)
    scheme = kd.Distiller(network(), teacher)
    kd.fit(scheme, data, RECIPE)
    cached = kd.Cached(teacher, data)
    torch.testing.assert_close(cached(batch).logits, logits)


@pytest.mark.parametrize("size", [12, (12, 12), None])
def test_an_input_of_the_right_size_is_not_touched(data, size):
    teacher, batch = kd.Live(network(1), size=size), batch_of(data)
    assert teacher.adapted(batch.x) is batch.x
    torch.testing.assert_close(teacher.adapted(torch.ones(1, 3, 12, 12)), torch.ones(1, 3, 12, 12))


def test_a_spread_of_zero_is_refused():
    with pytest.raises(ValueError, match="std above 0"):
        kd.Live(network(), std=(0.1, 0.0, 0.2))


# --- stored answers, with augmentation and on disk ----------------------------------------------


def test_live_and_cached_train_the_same_student_with_augmentation(data):
    seen = kd.augmented(data, views=3, shift=0.1, rotate=0.2, scale=0.1, erase=0.2)
    teacher = restless()
    students = [network(), network()]
    recipe = kd.Recipe(epochs=5, batch=36)  # every view, and two of them twice
    for student, source in zip(students, (teacher, kd.Cached(teacher, seen)), strict=True):
        kd.fit(kd.Distiller(student, source), seen, recipe)
    for live, cached in zip(*(student.parameters() for student in students), strict=True):
        torch.testing.assert_close(live, cached, rtol=1e-3, atol=1e-4)
    plain = network()
    kd.fit(kd.Distiller(plain, teacher), data, recipe)
    assert state(plain) != state(students[0])


def test_every_view_has_answers_of_its_own(data):
    seen = kd.augmented(data, views=2, shift=0.2)
    cached = kd.Cached(restless(), seen)
    assert cached.logits.shape == (2, 144, 36)
    for epoch in range(3):
        batch = next(seen.train.batches(16, seed=4, epoch=epoch))
        torch.testing.assert_close(cached(batch).logits, cached.source(batch).logits)
        assert not torch.equal(cached(batch).logits, cached.logits[1 - epoch % 2][batch.index])


def test_a_cache_refuses_views_that_it_does_not_have(data):
    seen = kd.augmented(data, views=2, shift=0.2)
    cached = kd.Cached(restless(), seen)
    with pytest.raises(ValueError, match=r"a batch in views 1 to 2, .* got view 0"):
        cached(batch_of(data))
    with pytest.raises(ValueError, match=r"views 1 to 2, .* got view 3"):
        cached(dataclasses.replace(batch_of(data), view=3))
    for other in (data, kd.augmented(data, views=4, shift=0.2),
                  kd.augmented(data, views=2, shift=0.1), kd.augmented(data, views=2, seed=1,
                                                                       shift=0.2)):
        with pytest.raises(ValueError, match="the data that was cached"):
            kd.fit(kd.Distiller(network(), cached), other, RECIPE)
    with pytest.raises(ValueError, match=r"a stated number of views .* got ever new ones"):
        kd.Cached(restless(), kd.augmented(data, shift=0.2))


def test_answers_are_kept_in_a_file_and_found_again(data, tmp_path, monkeypatch):
    path, teacher = tmp_path / "answers.safetensors", restless()
    first = kd.Cached(teacher, data, path)
    monkeypatch.setattr(kd.Cached, "_answers", None)  # nothing is computed again
    again = kd.Cached(teacher, data, path)
    assert torch.equal(again.logits, first.logits)
    assert repr(again) == repr(first)


def test_a_file_of_other_answers_is_refused(data, tmp_path):
    path = tmp_path / "answers.safetensors"
    kd.Cached(restless(), data, path)
    before = path.read_bytes()
    other = kd.data.glyphs(train=144, val=72, test=72, size=12, seed=1)
    for teacher, split, message in (
            (restless(1), data, "to be of teacher Sequential.*, got Sequential.*not used"),
            (restless(), other, "to be of data .*seed=1.*got"),
            (restless(), kd.augmented(data, views=1, shift=0.1), "to be of data .*views=1")):
        with pytest.raises(ValueError, match=message):
            kd.Cached(teacher, split, path)
    for broken in (before[:-8], before[:-1] + bytes([before[-1] ^ 1]), b"", b"junk" * 100):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"stored answers in .*, got a file that is cut short"):
            kd.Cached(restless(), data, path)
        assert path.read_bytes() == broken


# --- ensembles ----------------------------------------------------------------------------------


def three(data):
    batch = batch_of(data)
    teachers = [restless(seed) for seed in range(3)]
    return batch, teachers, torch.stack([kd.Live(t)(batch).logits for t in teachers])


def test_an_ensemble_is_the_mean_of_its_logits(data):
    batch, teachers, answers = three(data)
    ensemble = kd.Ensemble(teachers)
    torch.testing.assert_close(ensemble(batch).logits, answers.mean(0))
    torch.testing.assert_close(ensemble.predict(batch.x), answers.mean(0))
    for T in (1, 4):  # the geometric mean of the softened answers
        geometric = torch.softmax(answers / T, -1).log().mean(0).exp()
        geometric = geometric / geometric.sum(1, keepdim=True)
        torch.testing.assert_close((ensemble(batch).logits / T).softmax(1), geometric)


def test_an_ensemble_with_weights(data):
    batch, teachers, answers = three(data)
    expected = (answers * torch.tensor([1.0, 0.0, 3.0])[:, None, None]).sum(0) / 4
    torch.testing.assert_close(kd.Ensemble(teachers, [1, 0, 3])(batch).logits, expected)


def test_an_ensemble_that_trusts_who_knows_the_sample(data):
    batch, teachers, answers = three(data)
    p = answers.softmax(-1)[:, torch.arange(len(batch.y)), batch.y]  # of the label, per teacher
    shares = p / p.sum(0)  # the softmax of a logarithm
    expected = (shares[..., None] * answers).sum(0)
    torch.testing.assert_close(kd.Ensemble(teachers, "confidence")(batch).logits, expected)
    torch.testing.assert_close(kd.Ensemble(teachers, "confidence").predict(batch.x),
                               answers.mean(0))


def test_an_ensemble_stands_wherever_a_teacher_does(data):
    _, teachers, _ = three(data)
    before = [state(teacher) for teacher in teachers]
    adapted = kd.Live(Wants(), size=8, mean=(0.5, 0.5, 0.5))
    members = [teachers[0], kd.Live(teachers[1]), kd.Cached(teachers[2], data), adapted]
    for source in (kd.Ensemble(members), kd.Cached(kd.Ensemble(members), data)):
        scheme = kd.Distiller(network(), source)
        kd.fit(scheme, data, RECIPE)
        assert repr(copy.deepcopy(scheme)) == repr(scheme)
    assert [state(teacher) for teacher in teachers] == before


@pytest.mark.parametrize(("call", "message"), [
    (lambda: kd.Ensemble([]), "at least one teacher"),
    (lambda: kd.Ensemble([network()], [1, 2]), "1 weights of at least 0.* got .1, 2."),
    (lambda: kd.Ensemble([network(), network(1)], [-1, 2]), "2 weights of at least 0"),
    (lambda: kd.Ensemble([network(), network(1)], [0, 0]), "2 weights of at least 0"),
    (lambda: kd.Ensemble([network()], "best"), "weights \"mean\", \"confidence\" or one number"),
    (lambda: kd.Ensemble([network(), network(1, classes=10)]).predict(torch.rand(2, 1, 12, 12)),
     r"know the same classes, got logits of shapes \[\[2, 36\], \[2, 10\]\]"),
    (lambda: kd.Distiller(network(), kd.Ensemble([network(1)]), kd.losses.AT("2", "2")),
     r"one teacher for the taps \['2'\], got an ensemble"),
])
def test_ensembles_that_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()
