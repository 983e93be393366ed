"""Stored answers: the same as live ones, for the samples that they belong to and no others."""

import dataclasses

import pytest
import torch
from conftest import network, restless, state
from torch import nn

import kdcourse as kd
from kdcourse._key import stamp
from kdcourse.data import Batch, Split

RECIPE = kd.Recipe(epochs=2, batch=36)


def batch_of(data, size=8):
    return next(data.train.batches(size))


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


def own(data):
    """The same data, whose training samples may be written to."""
    train = Split(data.train.x.clone(), data.train.y.clone())
    return dataclasses.replace(data, train=train)


@pytest.mark.parametrize("make", [
    lambda data: kd.Cached(restless(), data),
    lambda data: kd.Cached.of(torch.zeros(144, 36), data, "zeros"),
    lambda data: kd.Cached(restless(), kd.augmented(data, views=2, shift=0.1)),
])
def test_a_cache_notices_that_its_data_were_changed_in_place(data, make):
    data = own(data)
    cached, before = make(data), data.train.x.clone()
    seen = kd.augmented(data, views=2, shift=0.1) if "views" in cached.params else data
    cached.check(seen)
    data.train.x[:] = before.flip(0)
    with pytest.raises(ValueError, match="samples that were cached, in the same order"):
        kd.fit(kd.Distiller(network(), cached), seen, RECIPE)
    data.train.x[:] = before  # as it was
    cached.check(seen)


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
    assert sum(calls) - len(data.train) <= 2  # two samples show whether it takes the inputs
    calls.clear()
    kd.fit(scheme, data, kd.Recipe(epochs=3, batch=36))
    assert not calls


def test_stored_answers_move_with_the_scheme_and_are_not_saved(data):
    scheme = kd.Distiller(network(), kd.Cached(restless(), data))
    assert set(scheme.state_dict()) == {f"student.{name}" for name in scheme.student.state_dict()}
    assert {b.device.type for b in scheme.to("meta").teacher.buffers()} == {"meta"}
    # Nobody asks the network in training, so it stays where it is.
    assert {p.device.type for p in scheme.teacher.source.parameters()} == {"cpu"}


def test_answers_with_a_gradient_are_stored_without(data):
    teacher = restless().eval()
    stored = kd.Cached.of(teacher(data.train.x), data, "attached")
    assert not stored.logits.requires_grad
    kd.fit(kd.Distiller(network(), stored), data, RECIPE)
    assert all(p.grad is None for p in teacher.parameters())


# --- augmentation -------------------------------------------------------------------------------


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


def test_answers_from_elsewhere_for_every_view(data):
    seen = kd.augmented(data, views=3, shift=0.2)
    answers = torch.arange(3 * 144.0 * 36).view(3, 144, 36)
    cached = kd.Cached.of(answers, seen, "counting")
    for epoch in range(4):
        batch = next(seen.train.batches(16, seed=4, epoch=epoch))
        assert torch.equal(cached(batch).logits, answers[epoch % 3][batch.index])


# --- on disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [None, 3])
def test_answers_are_kept_in_a_file_and_found_again(data, tmp_path, views):
    path, teacher, calls = tmp_path / "answers.safetensors", restless(), []
    seen = data if views is None else kd.augmented(data, views=views, shift=0.2)
    first = kd.Cached(teacher, seen, path)
    teacher.register_forward_hook(lambda *call: calls.append(len(call[1][0])))
    again = kd.Cached(teacher, seen, path)
    assert sum(calls) <= 18  # a few are compared, and nothing else is computed again
    assert torch.equal(again.logits, first.logits)
    assert repr(again) == repr(first)


class Shown(nn.Module):
    """Normalises by a plain attribute, which is in no state_dict and no repr."""

    def __init__(self, mean=0.0, order=None):
        super().__init__()
        self.net, self.mean, self.order = network(1), mean, order

    def forward(self, x):
        logits = self.net(x - self.mean)
        return logits if self.order is None else logits[:, self.order]


class Edited(Shown):
    def forward(self, x):
        return super().forward(x.flip(3))


Edited.__name__ = "Shown"  # the class as somebody has edited it


@pytest.mark.parametrize("changed", [
    lambda: Shown(mean=0.3), lambda: Shown(order=torch.arange(36).roll(1)), Edited,
    lambda: Shown(order=torch.arange(35))],
    ids=["another mean", "columns in another order", "an edited forward", "fewer columns"])
def test_a_file_of_a_teacher_with_another_content_is_refused(data, tmp_path, changed):
    for number, seen in enumerate((data, kd.augmented(data, views=2, shift=0.1))):
        path = tmp_path / f"{number}.safetensors"
        before = kd.Cached(Shown(), seen, path)
        assert torch.equal(kd.Cached(Shown(), seen, path).logits, before.logits)
        assert repr(kd.Live(changed())) == repr(kd.Live(Shown()))
        with pytest.raises(ValueError, match=r"stored answers in .* to be of teacher .*not used"):
            kd.Cached(changed(), seen, path)


@pytest.mark.parametrize("change", [
    lambda logits: logits.roll(1, 1), lambda logits: logits.flip(0), lambda logits: 2 * logits,
    lambda logits: logits[:, :35]], ids=["other columns", "other samples", "scaled", "fewer"])
def test_a_file_is_tried_on_a_few_samples(data, tmp_path, change):
    """Where the key is the same: a network that goes by how it was made, on another machine."""
    class Changed(nn.Module):
        def __init__(self, net, change):
            super().__init__()
            self.net, self.change = net, change

        def forward(self, x):
            return self.change(self.net(x))

    for number, seen in enumerate((data, kd.augmented(data, views=2, shift=0.1))):
        path = tmp_path / f"{number}.safetensors"
        first, other = (Changed(network(1), one) for one in (lambda logits: logits, change))
        for teacher in (first, other):
            stamp(teacher, "made elsewhere")
        before = kd.Cached(first, seen, path)
        assert torch.equal(kd.Cached(first, seen, path).logits, before.logits)
        with pytest.raises(ValueError, match=r"answers in .* to be those of the teacher, got other"
                                             r".*not used.*forward, its normalisation or the ord"):
            kd.Cached(other, seen, path)


def test_another_precision_is_the_same_teacher(data, tmp_path):
    """The answers of a GPU or of half precision are found again on a CPU, though not to the bit."""

    class Half(nn.Module):
        def __init__(self, dtype):
            super().__init__()
            self.net, self.dtype = restless(), dtype

        def forward(self, x):
            with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
                return self.net(x).float()

    path = tmp_path / "answers.safetensors"
    half, whole = Half(torch.bfloat16), Half(torch.float32)
    for teacher in (half, whole):
        stamp(teacher, "made elsewhere")
    first, again = (kd.Cached(teacher, data, path) for teacher in (half, whole))
    assert torch.equal(first.logits, again.logits)
    assert not torch.equal(first.logits, kd.Cached(Half(torch.float32), data).logits)


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


# --- a teacher that uses the labels -------------------------------------------------------------


def soft(data):
    y = 0.7 * nn.functional.one_hot(data.train.y, 36) + 0.3 / 36
    return dataclasses.replace(data, train=dataclasses.replace(data.train, y=y))


@pytest.mark.parametrize("change", [
    lambda data: data, soft, lambda data: kd.augmented(data, views=3, shift=0.1),
    lambda data: soft(kd.augmented(data, views=3, shift=0.1))])
@pytest.mark.parametrize("nested", [False, True])
def test_live_and_cached_train_the_same_student_from_who_knows_the_sample(data, change, nested):
    teachers = [restless(seed) for seed in range(3)]
    for teacher in teachers:
        teacher[-1].weight.data.mul_(5)  # so sure of themselves that weights matter
    ensemble = kd.Ensemble(teachers, "confidence")
    if nested:
        ensemble = kd.Ensemble([ensemble, kd.Cached(ensemble, change(data)), restless(3)])
    data, recipe = change(data), kd.Recipe(epochs=4, batch=36)
    cached = kd.Cached(ensemble, data)
    batch = next(data.train.batches(20, seed=3))
    torch.testing.assert_close(cached(batch).logits, ensemble(batch).logits)
    assert not torch.allclose(cached(batch).logits, ensemble.predict(batch.x), atol=0.1)
    torch.testing.assert_close(cached.predict(data.val.x), ensemble.predict(data.val.x))
    students = [network(), network()]
    for student, source in zip(students, (ensemble, cached), strict=True):
        kd.fit(kd.Distiller(student, source), data, recipe)
    for live, stored in zip(*(student.parameters() for student in students), strict=True):
        torch.testing.assert_close(live, stored, rtol=1e-3, atol=1e-4)


def test_a_cache_of_who_knows_the_sample_is_for_these_labels(data, tmp_path):
    path, teachers = tmp_path / "answers.safetensors", [restless(0), restless(1)]
    relabeled = dataclasses.replace(data, train=Split(data.train.x, data.train.y.flip(0)))
    cached = kd.Cached(kd.Ensemble(teachers, "confidence"), data, path)
    cached.check(data)
    with pytest.raises(ValueError, match="labels that were cached, got others"):
        cached.check(relabeled)
    with pytest.raises(ValueError, match=r"to be of labels .*not used"):
        kd.Cached(kd.Ensemble(teachers, "confidence"), relabeled, path)
    kd.Cached(kd.Ensemble(teachers), data).check(relabeled)  # which does not ask for them
