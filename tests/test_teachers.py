"""Teachers: frozen, unchanged, and the same whether they answer live or from a cache."""

import copy
import dataclasses

import pytest
import torch
from conftest import network, restless, state
from torch import nn

import kdcourse as kd
from kdcourse import zoo
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


class Keeps(nn.Linear):
    """Keeps more than tensors in its state."""

    def __init__(self, note):
        super().__init__(2, 2)
        self.note = note

    def get_extra_state(self):
        return {"note": self.note}

    def set_extra_state(self, state):
        self.note = state["note"]


def test_a_teacher_reads_as_its_extra_state():
    model, other = Keeps("a"), Keeps("b")
    other.load_state_dict(dict(model.state_dict(), _extra_state={"note": "b"}))
    assert repr(kd.Live(model)) == repr(kd.Live(copy.deepcopy(model)))
    assert repr(kd.Live(model)).split("#")[0] == repr(kd.Live(other)).split("#")[0]
    assert repr(kd.Live(model)) != repr(kd.Live(other))


def test_a_teacher_of_the_zoo_has_its_name_as_long_as_its_weights(home, monkeypatch):
    monkeypatch.setitem(zoo.TEACHERS, "tiny", {
        "model": network, "recipe": kd.Recipe(epochs=1, batch=36),
        "data": {"train": 72, "val": 36, "test": 36, "size": 12}})
    for _ in range(2):  # trained, then loaded
        teacher = kd.teacher("tiny")
        for same in (teacher, copy.deepcopy(teacher), teacher.to(torch.device("cpu"))):
            assert repr(kd.Live(same)) == "teacher('tiny')"
        assert repr(kd.Live(teacher, mean=0.5)) == "Live(teacher('tiny'), mean=[0.5])"
    teacher[-1].weight.mul_(2)
    changed = repr(kd.Live(teacher))
    assert changed.startswith("teacher('tiny')#")
    teacher[-1].weight.mul_(0.5)
    assert repr(kd.Live(teacher)) == "teacher('tiny')"
    teacher[-1] = nn.Linear(16, 36)
    assert repr(kd.Live(teacher)) not in (changed, "teacher('tiny')")


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


class Immovable:
    def __call__(self, batch):
        return View(batch.x.flatten(1)[:, :36])

    def predict(self, x):
        return None

    def check(self, data):
        pass


def test_a_teacher_that_lacks_a_call_is_told_at_once():
    for make in (lambda: kd.Distiller(network(), Immovable()), lambda: kd.Ensemble([Immovable()])):
        with pytest.raises(TypeError, match=r"Expected a network or a teacher .* got Immovable "
                                            r"without to\(device\)\. Add it"):
            make()


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


def test_a_cache_reads_unchanged_data_once(data, monkeypatch):
    cached = kd.Cached(restless(), data)
    monkeypatch.setattr("kdcourse.teachers._bytes", None)
    cached.check(data)


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


class Repeats(nn.Module):
    """Makes three channels of one by itself; some do it so that only one channel will do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.repeat(1, 3, 1, 1))


class ByHand(nn.Module):
    """A convolution without a module of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(36, 3, 12, 12))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight).flatten(1)


def colour(seed=0):
    return network(seed, channels=3)


@pytest.mark.parametrize("settings", [{}, {"mean": 0.4, "std": 0.2}, {"size": 16}, {"std": [2]},
                                      {"mean": [0.1, 0.2, 0.3]}])
@pytest.mark.parametrize("make", [colour, ByHand, lambda: nn.Sequential(nn.Identity(), colour())])
def test_a_grey_image_is_repeated_for_three_channels(data, make, settings):
    if make is ByHand and "size" in settings:
        settings = {"size": 12}
    model, batch = make(), batch_of(data)
    teacher = kd.Live(model, **settings)
    coloured = dataclasses.replace(batch, x=batch.x.repeat(1, 3, 1, 1))
    expected = kd.Live(model, **settings)(coloured).logits
    for answer in (teacher(batch).logits, teacher.predict(batch.x), teacher.predict(coloured.x),
                   kd.Live(model, **settings).predict(batch.x), teacher(coloured).logits):
        torch.testing.assert_close(answer, expected)
    kd.Distiller(network(), kd.Live(model, **settings)).build(batch, 0)


def test_only_a_network_that_needs_it_sees_the_grey_image_repeated(data):
    x = data.val.x[:4]
    for model in (Repeats(colour()), network(), restless()):
        expected = kd.models.predict(model, x)
        assert kd.Live(model).adapted(x) is x
        torch.testing.assert_close(kd.Live(model).predict(x), expected)
    calls, model = [], colour()
    model[-1].register_forward_hook(lambda *_: calls.append(1))
    before = state(model.train())
    assert kd.Live(model).adapted(x).shape == (4, 3, 12, 12)
    assert not calls  # found out without running the network
    assert state(model) == before
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 0


@pytest.mark.parametrize("size", [(16, 12), [16, 12], torch.Size([16, 12])])
def test_a_size_is_a_pair_however_it_is_written(data, size):
    teacher = kd.Live(network(), size=size)
    assert teacher.adapted(data.val.x).shape[2:] == (16, 12)
    assert repr(teacher).endswith("size=(16, 12))")


@pytest.mark.parametrize("size", ["16", (16,), (16, 16, 16), [], 0, (16, -1), 16.5, {16: 16}])
def test_a_size_that_cannot_be(size):
    with pytest.raises(ValueError, match=r"Expected a size of one or two whole numbers .* got"):
        kd.Live(network(), size=size)


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


def soft(data):
    y = 0.7 * nn.functional.one_hot(data.train.y, 36) + 0.3 / 36
    return dataclasses.replace(data, train=dataclasses.replace(data.train, y=y))


@pytest.mark.parametrize("change", [
    lambda data: data, soft, lambda data: kd.augmented(data, views=3, shift=0.1),
    lambda data: soft(kd.augmented(data, views=3, shift=0.1))])
@pytest.mark.parametrize("nested", [False, True])
def test_live_and_cached_train_the_same_student_from_who_knows_the_sample(data, change, nested):
    _, teachers, _ = three(data)
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


class Given(Immovable):
    """Gives these logits [B, K] to any batch."""

    def __init__(self, logits):
        self.logits = logits

    def __call__(self, batch):
        return View(self.logits)

    def to(self, device):
        return self


def test_an_ensemble_with_masked_classes():
    inf = torch.inf
    batch = Batch(torch.zeros(3, 1, 2, 2), torch.tensor([0, 0, 2]), torch.arange(3))
    first = torch.tensor([[-inf, 1.0, 2.0], [3.0, -inf, 1.0], [1.0, 2.0, -inf]])
    second = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [3.0, 2.0, -inf]])
    together = kd.Ensemble([Given(first), Given(second)], "confidence")(batch).logits
    torch.testing.assert_close(together[0], second[0])  # the first has no mass on the label
    assert together[1, 1] == -inf  # masked by one who is heard
    share = torch.stack([first[1].softmax(0)[0], second[1].softmax(0)[0]])
    share = share / share.sum()
    torch.testing.assert_close(together[1, ::2], share @ torch.stack([first[1], second[1]])[:, ::2])
    torch.testing.assert_close(together[2], (first[2] + second[2]) / 2)  # nobody knows the label
    soft = dataclasses.replace(batch, y=nn.functional.one_hot(batch.y, 3).float())
    torch.testing.assert_close(
        kd.Ensemble([Given(first), Given(second)], "confidence")(soft).logits, together)
    alone = kd.Ensemble([Given(first), Given(second)], [0, 2])(batch).logits
    torch.testing.assert_close(alone, second)


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
    (lambda: kd.Ensemble([network(), network(1)], [float("inf"), 1]), "2 weights of at least 0"),
    (lambda: kd.Ensemble([network(), network(1)], [float("nan"), 1]), "2 weights of at least 0"),
    (lambda: kd.Ensemble([network()], "best"), "weights \"mean\", \"confidence\" or one number"),
    (lambda: kd.Ensemble([network(), network(1, classes=10)]).predict(torch.rand(2, 1, 12, 12)),
     r"know the same classes, got logits of shapes \[\[2, 36\], \[2, 10\]\]"),
    (lambda: kd.Distiller(network(), kd.Ensemble([network(1)]), kd.losses.AT("2", "2")),
     r"one teacher for the taps \['2'\], got an ensemble"),
])
def test_ensembles_that_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()
