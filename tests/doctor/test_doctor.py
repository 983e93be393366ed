"""The doctor: a planted mistake is found and named, what is sound passes, nothing is changed."""

import copy
import dataclasses
import inspect
import random
import re
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import network, restless, state
from torch import nn
from torchvision.transforms import v2

import kdcourse as kd
from kdcourse import losses
from kdcourse.data import Split, generator
from kdcourse.doctor import Diagnosis, Finding, doctor
from kdcourse.losses import CE, KD
from kdcourse.schemes import Edge, Outcome, Scheme
from kdcourse.taps import Output, logits_of


class Oracle(nn.Module):
    """Knows every image of the data set by heart; says something of its own about others.

    change: what the images go through before it has learned them (a normalisation).
    order: the class that each of its outputs stands for. right: the share it has learned rightly.
    A body of layers with batch statistics and dropout stands beside it, to be tapped or woken.
    """

    def __init__(self, data, change=lambda x: x, order=None, right=1.0, seed=0):
        super().__init__()
        x = torch.cat([data.train.x, data.val.x])
        y = torch.cat([data.train.y, data.val.y])
        rng = torch.Generator().manual_seed(seed)
        K = len(data.classes)
        wrong = torch.rand(len(y), generator=rng) >= right
        y = torch.where(wrong, torch.randint(K, y.shape, generator=rng), y)
        order = torch.arange(K) if order is None else order
        self.register_buffer("x", change(x).flatten(1))
        self.register_buffer("logits", 8.0 * F.one_hot(order.argsort()[y], K))
        self.body = network(9, width=8)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        distance, nearest = torch.cdist(x.flatten(1), self.x).min(1)
        known = (distance < 0.05 * self.x.std()).float()[:, None]
        return self.dropout(known * self.logits[nearest] + 0.1 * self.body(x))


@pytest.fixture(scope="module")
def oracle(data):
    return Oracle(data)


def found(diagnosis, pattern):
    """The one finding that matches; nothing else may be found."""
    assert isinstance(diagnosis, Diagnosis)
    assert len(diagnosis) == 1, diagnosis
    assert re.search(pattern, str(diagnosis[0])), diagnosis
    return diagnosis[0]


def distiller(data, teacher, objective=None, student=None):
    return kd.Distiller(student or network(), teacher, objective)


# --- nothing is wrong ---------------------------------------------------------------------------


def test_a_supervised_student(data):
    diagnosis = doctor(kd.Supervised(restless()), data)
    assert diagnosis.ok, diagnosis
    assert not any("teacher's" in what for what in diagnosis.looked)


@pytest.mark.parametrize("objective", [
    None, KD(T=4), 0.5 * CE() + 0.5 * KD(T=1), losses.LabelSmoothing(0.1), 0.0 * KD() + CE()])
@pytest.mark.parametrize("student", [network, restless, lambda: kd.models.mlp(size=12),
                                     lambda: kd.models.resnet(depth=8, width=4)])
def test_an_untrained_student_and_a_good_teacher(data, oracle, objective, student):
    diagnosis = doctor(distiller(data, copy.deepcopy(oracle), objective, student()), data)
    assert diagnosis.ok, diagnosis
    assert "what the teacher knows: 100.0% of 72 validation samples" in diagnosis.looked


@pytest.mark.parametrize("right", [0.4, 0.7, 0.9])
def test_a_teacher_need_not_be_perfect(data, right):
    assert doctor(distiller(data, Oracle(data, right=right)), data).ok


@pytest.mark.parametrize("make", [
    lambda teacher, data: kd.Cached(teacher, data),
    lambda teacher, data: kd.Cached(kd.Live(teacher), data),
    lambda teacher, data: kd.Ensemble([teacher, Oracle(data, seed=1)]),
    lambda teacher, data: kd.Ensemble([teacher, Oracle(data)], weights="confidence"),
    lambda teacher, data: kd.Cached.of(teacher(data.train.x).detach(), data, "the oracle's"),
])
def test_other_sources_of_answers(data, oracle, make):
    diagnosis = doctor(distiller(data, make(copy.deepcopy(oracle).eval(), data)), data)
    assert diagnosis.ok, diagnosis
    assert any("what the teacher knows: 100.0%" in what for what in diagnosis.looked)


def test_augmented_data(data, oracle):
    views = kd.augmented(data, views=2, shift=0.1)
    for teacher in (oracle, kd.Cached(oracle, views)):
        before = list(views.train._drawn)
        diagnosis = doctor(distiller(views, teacher), views)
        assert diagnosis.ok, diagnosis
        assert list(views.train._drawn) == before


def test_a_teacher_with_a_normalisation_of_its_own(data):
    teacher = kd.Live(Oracle(data, lambda x: (x - 0.5) / 0.25), v2.Normalize([0.5], [0.25]))
    assert doctor(distiller(data, teacher), data).ok


TERMS = [kind for name in losses.__all__ if inspect.isclass(kind := getattr(losses, name))
         and issubclass(kind, losses.Loss) and kind not in (losses.Loss, losses.FeatureLoss)]


@pytest.mark.parametrize("kind", TERMS, ids=lambda kind: kind.__name__)
def test_no_false_alarm_on_a_loss_of_the_package(data, oracle, kind):
    paths = [(), ("4", "body.4"), ("7:input", "body.7:input"), ("2", "body.2"),
             (["2", "4"], ["body.2", "body.4"]), (["2", "4", "6"], ["body.2", "body.4", "body.6"])]
    for some in paths:
        try:
            scheme = distiller(data, copy.deepcopy(oracle), CE() + kind(*some), network(width=8))
            scheme.check(data)
            scheme.build(next(data.train.batches(32)), 0)
        except (TypeError, ValueError):
            continue
        diagnosis = doctor(scheme, data, torch.optim.SGD(scheme.parameters(), lr=0.1))
        assert diagnosis.ok, diagnosis
        assert f"{kind.__name__} depends on the student" in diagnosis.looked or kind is CE
        return
    pytest.skip("needs other layers than a convnet's")


@pytest.mark.parametrize("make", [
    lambda: kd.Mutual([network(0), restless(1), network(2)]),
    lambda: kd.Mutual([network(0), network(1)], CE() + losses.Hint("2", "2")),
    lambda: kd.MultiExit(kd.models.resnet(depth=8, width=4), ["layer1", "layer2"]),
])
def test_schemes_without_a_teacher(data, make):
    scheme = make()
    diagnosis = doctor(scheme, data)
    assert diagnosis.ok, diagnosis
    assert {what for what in diagnosis.looked if "CE depends on the student" in what}
    scheme.build(next(data.train.batches(2)), 0)
    assert doctor(scheme, data, torch.optim.SGD(scheme.parameters(), lr=0.1)).ok


def least_squares(data):
    """A teacher that has learned, without any steps: linear least squares."""
    x = torch.cat([data.train.x.flatten(1), torch.ones(len(data.train), 1)], 1).double()
    y = data.train.y if data.train.y.ndim == 2 else F.one_hot(data.train.y)
    ridge = 0.01 * len(x) * torch.eye(x.shape[1]).double()
    weight = 10 * torch.linalg.solve(x.T @ x + ridge, x.T @ y.double()).float()
    linear = nn.Linear(*weight[1:].shape)
    linear.weight.data, linear.bias.data = weight[:-1].T.contiguous(), weight[-1].contiguous()
    return nn.Sequential(nn.Flatten(), linear)


def test_real_data_and_a_teacher_that_generalises():
    data = kd.data.digits()
    diagnosis = doctor(distiller(data, least_squares(data), None,
                                 kd.models.mlp(size=8, classes=10)), data)
    assert diagnosis.ok, diagnosis
    assert any(re.search("knows: 9[0-9].*of 180 validation", what) for what in diagnosis.looked)
    dark = kd.Live(nn.Sequential(kd.models.Normalize(1, -1), least_squares(data)))
    found(doctor(distiller(data, dark, None, kd.models.mlp(size=8, classes=10)), data), "light and")


@pytest.mark.parametrize("soft", [False, True])
def test_vectors_two_classes_and_soft_labels(soft):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5)).astype("float32")
    y = (x[:, 0] + 0.5 * rng.normal(size=600) > 0).astype(int)
    data = kd.data.from_arrays(x, 0.1 + 0.8 * np.eye(2)[y] if soft else y)
    torch.manual_seed(0)
    for scheme in (kd.Distiller(nn.Linear(5, 2), least_squares(data)),
                   Own(nn.Linear(5, 2), least_squares(data))):
        diagnosis = doctor(scheme, data)
        assert diagnosis.ok, diagnosis
        assert any("of 60 validation samples" in what for what in diagnosis.looked)


def test_inputs_by_name_and_one_label_per_sample():
    """No other inputs are tried where they are a dict."""
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 3)

        def forward(self, a, b):
            return self.linear(a + b)

    x = {name: torch.randn(200, 5, generator=generator(0, name)) for name in ("a", "b")}
    data = kd.data.from_arrays(x, (x["a"] + x["b"])[:, :3].argmax(1))
    torch.manual_seed(0)
    student, teacher = Sum(), Sum()
    teacher.linear.weight.data = -10 * torch.eye(3, 5)  # the smallest entry, not the largest
    found(doctor(kd.Distiller(student, teacher), data), "hardly better than guessing")


@pytest.mark.parametrize("right", [True, False])
def test_a_rare_class(right):
    """Guessing is right on 95 %, and still a teacher may know something, or nothing."""
    rng = np.random.default_rng(0)
    y = (rng.random(2000) < 0.025).astype(int)
    x = (rng.normal(size=(2000, 3)) + 6 * y[:, None]).astype("float32")
    data, teacher = kd.data.from_arrays(x, y), nn.Linear(3, 2)
    with torch.no_grad():
        teacher.weight.copy_(torch.tensor([[-1.0] * 3, [1.0] * 3]) * right)
        teacher.bias.copy_(torch.tensor([9.0, -9.0]))  # half-way between the two
    torch.manual_seed(0)
    diagnosis = doctor(kd.Distiller(nn.Linear(3, 2), teacher), data)
    assert diagnosis.ok is right, diagnosis
    if not right:
        found(diagnosis, "hardly better than guessing")


class Own(Scheme):
    """A scheme of one's own, with the teacher as a submodule; by default it takes care of it."""

    wakes = trains = attached = False

    def __init__(self, student, teacher, objective=None, change=lambda x: x):
        super().__init__(student, losses.hinton() if objective is None else objective)
        self.teacher, self.change = teacher.requires_grad_(self.trains), change

    def train(self, mode=True):
        super().train(mode)
        self.teacher.train(mode and self.wakes)
        return self

    def edges(self, batch):
        with torch.set_grad_enabled(self.attached):
            logits = logits_of(self.teacher(self.change(batch.x)))
        return [Edge(self.output(batch), Output(logits), self.objective)]


class Leaky(losses.Loss):
    """A matching loss that forgets to detach the teacher."""

    def values(self, student, teacher=None, labels=None):
        return (student - teacher).square().mean(1)


def test_a_scheme_of_ones_own(data, oracle):
    assert doctor(Own(network(), copy.deepcopy(oracle)), data).ok


def test_a_scheme_that_normalises_for_its_teacher(data):
    teacher = Oracle(data, lambda x: x * 255)
    assert doctor(Own(network(), teacher, change=lambda x: x * 255), data).ok


def test_a_student_that_equals_its_teacher(data):
    """Born again from the very weights: the loss is 0, and that is no mistake."""
    teacher = Oracle(data)
    assert doctor(distiller(data, teacher, KD(), copy.deepcopy(teacher)), data).ok


# --- the teacher --------------------------------------------------------------------------------


def test_a_teacher_in_train_mode(data):
    class Careless(Own):
        wakes = True

    teacher = Oracle(data)
    one = found(doctor(Careless(network(), teacher), data), "teacher is in train mode")
    assert "batch statistics move with every batch (body.1.1.running_mean" in one.why
    assert "kd.Live" in one.remedy


def test_a_part_of_a_teacher_in_train_mode(data):
    class Partly(Own):
        def train(self, mode=True):
            super().train(mode)
            self.teacher.dropout.train(mode)
            return self

    one = found(doctor(Partly(network(), Oracle(data)), data), r"part of the teacher \(dropout\)")
    assert "noisier" in one.why


def test_a_teacher_that_counts(data):
    class Counting(Oracle):
        def __init__(self, data):
            super().__init__(data)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += len(x)
            return super().forward(x)

    teacher = Counting(data)
    found(doctor(distiller(data, teacher), data), r"writes to its own state .*\(seen\)")
    assert teacher.seen == 0


def test_a_teacher_that_is_trained_along(data):
    class Trained(Own):
        trains = attached = True

    scheme = Trained(network(), Oracle(data), CE() + Leaky())
    found(doctor(scheme, data), "trained along: a gradient reaches it, and .*scheme.parameters")

    class Held(Own):
        trains = True

    found(doctor(Held(network(), Oracle(data)), data), "among scheme.parameters.*require a gradie")


class Answering(kd.teachers.Teacher):
    """Somebody else's teacher, as small as it can be."""

    def __init__(self, call, predict=lambda x: None):
        super().__init__()
        self.call, self.on_inputs = call, predict

    def forward(self, batch, paths=()):
        return Output(self.call(batch))

    def predict(self, x, y=None):
        return self.on_inputs(x)


def test_no_gradient_reaches_a_teacher_that_is_a_function(data):
    model = Oracle(data).eval()
    teacher = Answering(lambda batch: model(batch.x), lambda x: kd.models.predict(model, x))
    assert doctor(distiller(data, teacher, CE() + Leaky()), data).ok
    assert all(p.grad is None for p in model.parameters())


def test_a_teacher_that_depends_on_its_batch(data):
    class Mates(Oracle):
        def __init__(self, data):
            super().__init__(data)
            self.norm = nn.BatchNorm1d(36, affine=False, track_running_stats=False)

        def forward(self, x):
            return self.norm(super().forward(x)) + 3 * super().forward(x)

    for wrap in (lambda m: m, kd.Live, lambda m: kd.Cached(m, data)):
        found(doctor(distiller(data, wrap(Mates(data))), data), "depends on the other images")


def test_a_teacher_that_changes_its_mind(data):
    class Moody(Oracle):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.2)

    found(doctor(distiller(data, Moody(data)), data), r"changes its mind.*self\.training")


def test_an_untrained_teacher(data):
    for seed in range(5):
        found(doctor(distiller(data, network(seed)), data), "hardly better than guessing: right on")
        found(doctor(distiller(data, Oracle(data, right=0.0, seed=seed)), data), "than guessing")


def test_a_teacher_worse_than_its_student(data):
    found(doctor(distiller(data, Oracle(data, right=0.5), student=Oracle(data)), data),
          "student is better than its teacher already: 100.0% against")


CHANGES = {
    "0 to 255": (lambda x: x * 255, "inputs from 0 to 255", r"Normalize\(\[0\], \[1 / 255\]\)"),
    "-1 to 1": (lambda x: 2 * x - 1, "inputs from -1 to 1", r"Normalize\(\[0.5\], \[0.5\]\)"),
    "ImageNet": (lambda x: (x - 0.449) / 0.226, "ImageNet's mean and standard deviation",
                 r"Normalize\(\[0.449\], \[0.226\]\)"),
    "inverted": (lambda x: 1 - x, "light and dark reversed", "1 - x"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_teacher_that_expects_other_inputs(data, name):
    change, words, remedy = CHANGES[name]
    for wrap in (lambda m: m, lambda m: kd.Cached(m, data)):
        teacher = wrap(Oracle(data, change))
        one = found(doctor(distiller(data, teacher), data), f"with {words} it is right on 100.0%")
        assert re.search(remedy, one.remedy)
    found(doctor(Own(network(), Oracle(data, change)), data), f"with {words} it is right")


def test_a_teacher_that_expects_the_datas_own_statistics(data):
    mean, std = data.val.x.mean(), data.val.x.std()
    found(doctor(distiller(data, Oracle(data, lambda x: (x - mean) / std)), data),
          "with the data's own mean and standard deviation it is right")


def test_a_teacher_that_is_normalised_twice(data):
    live = kd.Live(Oracle(data), v2.Normalize([0.3], [0.2]))
    for teacher in (live, kd.Cached(live, data)):
        found(doctor(distiller(data, teacher), data), "with the transform of kd.Live left out")


def test_data_that_is_not_between_0_and_1(data):
    def moved(change):
        parts = {name: Split(change(split.x), split.y) for name, split in
                 (("train", data.train), ("val", data.val), ("test", data.test))}
        return dataclasses.replace(data, **parts)

    teacher = Oracle(data)
    for change, words in ((lambda x: 255 * x, "divided by 255"), (lambda x: 2 * x - 1, "brought b"),
                          (lambda x: (x - 0.449) / 0.226, "ImageNet's normalisation undone")):
        found(doctor(distiller(data, teacher), moved(change)), words)


def test_colours_in_reverse():
    grey = kd.data.glyphs(train=144, val=72, test=36, size=12)

    def coloured(split):
        shades = torch.rand(len(split), 3, 1, 1, generator=torch.Generator().manual_seed(1))
        return Split(split.x * shades, split.y)

    data = dataclasses.replace(grey, train=coloured(grey.train), val=coloured(grey.val),
                               test=coloured(grey.test))
    teacher = Oracle(data, lambda x: x.flip(1))
    teacher.body = network(9, channels=3)
    found(doctor(distiller(data, teacher, student=network(channels=3)), data), "reverse .BGR.")
    for sound in (lambda x: x, lambda x: x):
        teacher = Oracle(data, sound)
        teacher.body = network(9, channels=3)
        assert doctor(distiller(data, teacher, student=network(channels=3)), data).ok


def test_classes_in_another_order(data):
    order = torch.randperm(36, generator=torch.Generator().manual_seed(3))
    one = found(doctor(distiller(data, Oracle(data, order=order)), data),
                "classes are in another order: with its outputs reordered it is right on 100.0%")
    first = next(k for k in range(36) if order.argsort()[k] != k)
    assert f"'{data.classes[first]}' is its output {order.argsort()[first]}, not {first}" in one.why
    found(doctor(distiller(data, Oracle(data, order=torch.arange(36).roll(1), right=0.8)), data),
          "another order")
    stored = kd.Cached.of(Oracle(data, order=order).eval()(data.train.x).detach(), data, "stored")
    found(doctor(distiller(data, stored), data), "another order.*training samples")


def test_stored_answers_of_other_samples(data, oracle):
    order = torch.randperm(144, generator=torch.Generator().manual_seed(0))
    cached = kd.Cached(oracle, data)
    cached.logits[:] = cached.logits[order]
    found(doctor(distiller(data, cached), data), "belong to other samples.*batch.index")
    by_place = Answering(lambda batch: oracle(data.train.x[: len(batch.x)]), oracle.eval())
    found(doctor(distiller(data, by_place), data), "belong to other samples")


def test_stored_answers_of_another_day(data):
    teacher = Oracle(data)
    cached = kd.Cached(teacher, data)
    with torch.no_grad():
        teacher.logits.mul_(0.5)
    found(doctor(distiller(data, cached), data), "32 of 32 stored answers are not what the teacher")


def test_stored_answers_of_other_data(data, oracle):
    other = kd.data.glyphs(train=144, val=72, test=72, size=12, seed=5)
    found(doctor(distiller(data, kd.Cached(oracle, other)), data),
          "Expected the data that was cached.*stops there")


def test_probabilities_for_logits(data, oracle):
    found(doctor(distiller(data, nn.Sequential(oracle, nn.Softmax(1))), data),
          "teacher answers with probabilities")
    student = nn.Sequential(network(), nn.Softmax(1))
    found(doctor(distiller(data, oracle, student=student), data), "student answers with probabil")
    found(doctor(kd.Supervised(student), data), "student answers with probabilities")


def test_a_teacher_of_nan(data):
    class Broken(Oracle):
        def forward(self, x):
            return super().forward(x) * torch.nan

    assert [one.problem for one in doctor(distiller(data, Broken(data)), data)] == [
        "The loss is nan on the first batch (part: KD).", "The teacher answers with NaN or inf."]


def test_a_teacher_that_cannot_be_asked(data, oracle):
    """Its answers to training samples are all there is."""
    teacher = Answering(lambda batch: 9.0 * F.one_hot(batch.y, 36))
    diagnosis = doctor(distiller(data, teacher), data)
    assert diagnosis.ok, diagnosis
    assert "what the teacher knows: 100.0% of 100 training samples" in diagnosis.looked
    flat = Answering(lambda batch: torch.zeros(len(batch.y), 36))
    found(doctor(distiller(data, flat), data), "hardly better than guessing.*training samples")


# --- the step -----------------------------------------------------------------------------------


def test_what_does_not_fit(data, oracle):
    found(doctor(kd.Supervised(network(classes=10)), data), "each of the 36 classes .*stops there")
    scheme = distiller(data, oracle, student=network(classes=40))
    found(doctor(scheme, data), "the same classes, got 40 and 36")
    untrained = distiller(data, network(1), student=network(classes=40))
    found(doctor(untrained, data), "the same classes")  # and nothing else is looked at
    other = nn.Sequential(nn.Flatten(), nn.Linear(7, 36))  # for inputs of 7 numbers
    found(doctor(distiller(data, oracle, student=other), data), "cannot be multiplied .*stops")


def test_a_step_that_fails(data):
    class Failing(Scheme):
        def forward(self, batch):
            raise RuntimeError("out of cheese")

    found(doctor(Failing(network(), CE()), data), "first step fails: RuntimeError: out of cheese")


def test_a_frozen_student(data, oracle):
    found(doctor(distiller(data, oracle, student=network().requires_grad_(False)), data),
          "student is frozen")


class Detached(losses.Loss):
    """Compares the teacher with the labels: the student is not in it."""

    def values(self, student, teacher=None, labels=None):
        return losses.cross_entropy(teacher, labels, "none")


def test_a_term_without_the_student(data, oracle):
    one = found(doctor(distiller(data, oracle, CE() + Detached()), data),
                "The term Detached ignores the student")
    assert "teacher compared with teacher" in one.remedy
    problems = [one.problem for one in doctor(distiller(data, oracle, Detached()), data)]
    assert "The loss has no gradient." in problems


class TeacherTwice(losses.KD):
    """The teacher, compared with itself."""

    def values(self, student, teacher=None, labels=None):
        return super().values(teacher.detach(), teacher, labels)


def test_a_term_that_is_exactly_zero(data, oracle):
    one = found(doctor(distiller(data, oracle, CE() + TeacherTwice()), data),
                "The term TeacherTwice is exactly 0 on the first batch")
    assert "the teacher compared with itself" in one.remedy

    class SameObject(Scheme):
        def edges(self, batch):
            student = self.output(batch)
            return [Edge(student, student.detached(), self.objective)]

    one = found(doctor(SameObject(network(), CE() + KD()), data), "The term KD is exactly 0")
    assert "teacher = model is a second name" in one.remedy


class Projecting(losses.Loss):
    """Trains its projection, and not the student."""

    def __init__(self, detach=True, use=True):
        super().__init__()
        self.detach, self.use, self.projection = detach, use, None

    def build(self, student, teacher, seed):
        if self.projection is None:
            K = self.pick(student, teacher)[0].shape[1]
            self.projection = self.seeded(seed, student.logits, lambda: nn.Linear(K, K))

    def values(self, student, teacher=None, labels=None):
        student = student.detach() if self.detach else student
        return ((self.projection(student) if self.use else student) - teacher).square().mean(1)


def test_a_term_that_only_trains_its_projection(data, oracle):
    found(doctor(distiller(data, oracle, CE() + Projecting()), data),
          "The term Projecting ignores the student")
    problems = [one.problem for one in doctor(distiller(data, oracle, Projecting()), data)]
    assert any("The student's gradient is zero" in problem for problem in problems)


def test_a_projection_that_is_not_used(data, oracle):
    scheme = distiller(data, oracle, CE() + Projecting(detach=False, use=False))
    found(doctor(scheme, data), r"Nothing reaches 2 of the parameters .*Projecting.projection.weig")
    assert doctor(distiller(data, oracle, CE() + Projecting(detach=False)), data).ok


def test_a_layer_of_the_student_that_is_not_used(data):
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = network(), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    student = Spare()
    found(doctor(kd.Supervised(student), data),
          "2 of the parameters .* student.spare.weight, student.spare.bias")
    student.spare.requires_grad_(False)
    assert doctor(kd.Supervised(student), data).ok


class Bad(losses.Loss):
    def __init__(self, break_gradient):
        super().__init__()
        self.break_gradient = break_gradient

    def values(self, student, teacher=None, labels=None):
        if self.break_gradient:
            return (student - student).square().sum(1).sqrt() + 1
        return (student * 0).log().sum(1) - student.sum(1) * torch.inf


def test_a_loss_that_is_not_finite(data, oracle):
    found(doctor(distiller(data, oracle, CE() + Bad(False)), data), r"The loss is -?(nan|inf).*Bad")
    problems = [one.problem for one in doctor(distiller(data, oracle, CE() + Bad(True)), data)]
    assert any("gradient is NaN or inf although the loss is finite" in one for one in problems)


# --- terms of one's own -------------------------------------------------------------------------


class Mine(losses.Loss):
    def __init__(self, function, T=4.0):
        super().__init__()
        self.function, self.T = function, T

    def values(self, student, teacher=None, labels=None):
        return self.function(student, teacher, self.T)


def kl(s, t, T):
    return losses.kd(s, t, T, "none")


def unstable(s, t, T):
    p, q = (t.detach() / T).softmax(1), (s / T).softmax(1)
    return T**2 * (p * (p.log() - q.log())).sum(1)


MISTAKES = {
    "classes": (lambda s, t, T: kl(s, t, T) / s.shape[1], "divided by the number of classes"),
    "no T²": (lambda s, t, T: kl(s, t, T) / T**2, "T² is missing.*weight makes up"),
    "cross-entropy without T²": (
        lambda s, t, T: losses.soft_cross_entropy(s, t, T, "none") / T**2, "T² is missing"),
    "swapped": (lambda s, t, T: T**2 * F.kl_div(
        (t.detach() / T).log_softmax(1), (s / T).log_softmax(1), reduction="none",
        log_target=True).sum(1),
                "are swapped.*If the reverse divergence is what you want"),
    "softmax twice": (lambda s, t, T: kl(s.softmax(1), t.softmax(1), T), "are probabilities"),
    "summed": (lambda s, t, T: kl(s, t, T).sum(), "summed over the batch"),
    "teacher": (lambda s, t, T: T**2 * F.kl_div((s / T).log_softmax(1), (t / T).softmax(1),
                                                reduction="none").sum(1),
                "no gradient for the teacher, got one.*none comes through"),
    "no logarithm": (lambda s, t, T: T**2 * F.kl_div(
        (s / T).softmax(1), (t.detach() / T).softmax(1), reduction="none").sum(1),
                     "go in without a logarithm"),
    "wrong sign": (lambda s, t, T: -kl(s, t, T), "its sign is wrong"),
    "overflow": (unstable, "finite loss for logits of ±100, got nan"),
}
OTHERS = {
    "right": kl,
    "cross-entropy": lambda s, t, T: losses.soft_cross_entropy(s, t, T, "none"),
    "squares of logits": lambda s, t, T: (s - t.detach()).square().mean(1) / T,
    "squares of softmax": lambda s, t, T: T**2 * ((s / T).softmax(1) - (t.detach() / T).softmax(1)
                                                  ).square().sum(1),
    "minus the cosine": lambda s, t, T: -F.cosine_similarity(s, t.detach()),
    "Jensen-Shannon": lambda s, t, T: (kl(s, (s.detach() + t) / 2, T) + kl(s, t, T)) / 2,
    "for 36 classes only": lambda s, t, T: kl(s.view(-1, 36), t, T),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_loss_of_ones_own(data, oracle, name):
    function, message = MISTAKES[name]
    diagnosis = doctor(distiller(data, oracle, CE() + Mine(function)), data)
    one = found(diagnosis, f"(?s)Mine: .*{message}")
    assert one.problem.startswith("Mine: Expected")


def test_every_term_of_ones_own_is_tried_once(data, oracle):
    wrong, right = Mine(MISTAKES["classes"][0]), Mine(kl)
    found(doctor(distiller(data, oracle, 2 * right + wrong), data), "Mine_2: .*number of classes")
    mutual = kd.Mutual([network(0), network(1)], CE() + wrong)
    found(doctor(mutual, data), "^Mine: .*number of classes")


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("T", [1.0, 4.0])
def test_a_loss_of_another_kind_is_left_alone(data, oracle, name, T):
    diagnosis = doctor(distiller(data, oracle, CE() + Mine(OTHERS[name], T)), data)
    assert diagnosis.ok, diagnosis
    assert "Mine keeps the laws of a distillation loss" in diagnosis.looked


# --- the optimiser ------------------------------------------------------------------------------


def test_an_optimiser_that_holds_the_teacher(data):
    scheme = distiller(data, Oracle(data))
    assert doctor(scheme, data, torch.optim.SGD(scheme.parameters(), lr=0.1)).ok  # it is frozen
    scheme.teacher.model.requires_grad_(True)
    optimizer = torch.optim.SGD(scheme.parameters(), lr=0.1)
    assert "optimiser holds 11 parameters of the teacher" in repr(doctor(scheme, data, optimizer))
    scheme.teacher.requires_grad_(False)
    assert doctor(scheme, data, torch.optim.SGD(scheme.parameters(), lr=0.1)).ok


def test_an_optimiser_without_the_projection(data, oracle):
    scheme = distiller(data, oracle, CE() + Projecting(detach=False))
    optimizer = torch.optim.SGD(scheme.parameters(), lr=0.1)
    one = found(doctor(scheme, data, optimizer), "lacks 2 of the parameters .*projection.bias")
    assert "scheme.build(batch, seed)" in one.remedy
    scheme.build(next(data.train.batches(2)), 0)
    assert "scheme.parameters()" in found(doctor(scheme, data, optimizer), "lacks 2").remedy
    assert doctor(scheme, data, torch.optim.SGD(scheme.parameters(), lr=0.1)).ok


def test_an_optimiser_of_another_student(data, oracle):
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    found(doctor(distiller(data, oracle), data, optimizer), "holds no parameter of the student")


def test_frozen_layers_need_no_optimiser(data, oracle):
    student = network()
    student[1].requires_grad_(False)
    trained = [p for p in student.parameters() if p.requires_grad]
    scheme = distiller(data, oracle, student=student)
    assert doctor(scheme, data, torch.optim.SGD(trained, lr=0.1)).ok


# --- nothing is changed -------------------------------------------------------------------------


class Remembering(Own):
    """Keeps what it saw last, and how often it was called."""

    wakes = trains = attached = True
    calls = 0

    def forward(self, batch):
        self.calls += 1
        random.random(), np.random.rand()  # noqa: NPY002
        self.last = self.student(batch.x)  # no leaf of the graph: torch would refuse to copy it
        return super().forward(batch)


def everything(scheme, model, data):
    """All that could have been changed."""
    modules = [*scheme.modules(), *model.modules()]
    parameters = [*scheme.parameters(), *model.parameters()]
    return {
        "state": (state(scheme), state(model)),
        "modes": [module.training for module in modules],
        "frozen": [p.requires_grad for p in parameters],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in parameters],
        "same tensors": [id(p) for p in parameters],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules],
        "attributes": sorted(vars(scheme)),
        "data": (data.train.x.tolist(), data.val.y.tolist()),
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "python": random.getstate(),
        "grad": torch.is_grad_enabled(),
    }


def schemes(data):
    teacher = restless(1)
    yield distiller(data, teacher, CE() + KD() + Projecting(), restless(0)), teacher
    yield distiller(data, kd.Cached(teacher, data), student=restless(0)), teacher
    yield distiller(data, kd.Ensemble([teacher, restless(2)]), student=restless(0)), teacher
    wrapped = Answering(None)
    wrapped.inner = kd.Live(teacher)
    wrapped.call, wrapped.on_inputs = lambda batch: wrapped.inner(batch).logits, (
        wrapped.inner.predict)
    yield distiller(data, wrapped, student=restless(0)), teacher
    own = Remembering(restless(0), teacher, CE() + Leaky())
    own(next(data.train.batches(8))).loss.backward()
    yield own, teacher
    yield kd.Supervised(restless(0)), teacher


@pytest.mark.parametrize("i", range(6))
@pytest.mark.parametrize("grad", [True, False])
def test_nothing_is_changed(data, i, grad):
    scheme, model = list(schemes(data))[i]
    scheme.train(), model.train()
    scheme.student[3].eval(), model[1].eval()
    scheme.student[0].weight.grad = torch.ones_like(scheme.student[0].weight)
    optimizer = torch.optim.AdamW(scheme.student.parameters())
    with torch.set_grad_enabled(grad):
        before = everything(scheme, model, data)
        first = doctor(scheme, data, optimizer)
        after = everything(scheme, model, data)
    assert {key for key in before if before[key] != after[key]} == set()
    assert not optimizer.state
    assert getattr(scheme, "calls", 1) == 1
    assert repr(doctor(scheme, data, optimizer)) == repr(first)  # and chance plays no part


def test_training_goes_on_as_if_nobody_had_looked(data):
    students = []
    for look in (False, True):
        scheme = distiller(data, Oracle(data), CE() + Projecting(), restless())
        if look:
            doctor(scheme, data)
        kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36))
        students.append(state(scheme))
    assert students[0] == students[1]


def test_a_teacher_in_a_function_is_left_alone_too(data):
    """A function is not copied, so what it holds on to is put back."""
    model = restless(1).train()
    teacher = Answering(lambda batch: model(batch.x), lambda x: kd.models.predict(model, x))
    scheme = distiller(data, teacher, CE() + Leaky())
    before = everything(scheme, model, data)
    problems = [one.problem for one in doctor(scheme, data)]
    assert everything(scheme, model, data) == before
    assert "The teacher is in train mode while the student trains." in problems


def test_a_student_that_cannot_be_copied_is_left_alone_too(data):
    student = network()
    student.forward = lambda x, layers=list(student): nn.Sequential(*layers)(x)
    scheme = kd.Supervised(student)
    before = everything(scheme, student, data)
    with pytest.raises(TypeError, match=r"copy stands by itself.*a forward method"):
        doctor(scheme, data)
    assert everything(scheme, student, data) == before


def test_it_takes_a_moment(data):
    scheme = distiller(data, Oracle(data, right=0.9))
    doctor(scheme, data)
    start = time.perf_counter()
    doctor(scheme, data)
    assert time.perf_counter() - start < 2


def test_what_cannot_be_looked_at(data):
    with pytest.raises(TypeError, match=r"Expected a scheme such as Distiller.*got Sequential"):
        doctor(network(), data)
    scheme = kd.Supervised(network())
    scheme.lock = (number for number in range(3))
    with pytest.raises(TypeError, match=r"copy.deepcopy can copy.*generator"):
        doctor(scheme, data)


# --- what is printed ----------------------------------------------------------------------------


def test_a_diagnosis_reads_well():
    nothing = Diagnosis(looked=["the loss is finite", "a < b"])
    assert nothing.ok
    assert repr(nothing) == ("Nothing found: 2 things were looked at:\n- the loss is finite\n"
                             "- a < b")
    assert "<li>a &lt; b</li>" in nothing._repr_html_()
    two = Diagnosis([Finding("A < B.", "Bad.", "Do."), Finding("C.", "Worse.", "")], ["x"])
    assert not two.ok
    assert repr(two) == "1. A < B. Bad. Do.\n2. C. Worse."
    assert "<li><strong>A &lt; B.</strong> Bad. Do.</li>" in two._repr_html_()
    assert [one.problem for one in two] == ["A < B.", "C."]


def test_an_outcome_may_log_more_than_terms(data):
    class Logging(kd.Supervised):
        def forward(self, batch):
            outcome = super().forward(batch)
            parts = outcome.parts | {"accuracy": torch.tensor(0.5)}
            return Outcome(outcome.loss, parts, outcome.logits)

    assert doctor(Logging(network()), data).ok
