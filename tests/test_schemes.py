"""Schemes: what one step minimises, checked before anything is trained."""

import copy
import types

import pytest
import torch
from conftest import network, restless, state
from torch import nn

import kdcourse as kd
from kdcourse import losses
from kdcourse.losses import CE, KD
from kdcourse.schemes import Outcome, Scheme

RECIPE = kd.Recipe(epochs=1, batch=36)


def batch_of(data, size=8):
    return next(data.train.batches(size))


# --- what a step computes -----------------------------------------------------------------------


def test_a_distiller_compares_student_teacher_and_labels(data):
    student, teacher = network(0), network(1)
    scheme, batch = kd.Distiller(student, teacher, 0.3 * CE() + 2 * KD(T=3)), batch_of(data)
    outcome = scheme.eval()(batch)
    s, t = student(batch.x), teacher(batch.x)
    expected = {"CE": losses.cross_entropy(s, batch.y), "KD": losses.kd(s, t, 3)}
    assert isinstance(outcome, Outcome)
    assert outcome.parts.keys() == expected.keys()
    for name, part in expected.items():
        torch.testing.assert_close(outcome.parts[name], part)
    torch.testing.assert_close(outcome.loss, 0.3 * expected["CE"] + 2 * expected["KD"])
    torch.testing.assert_close(outcome.logits, s)


def test_a_supervised_student_learns_from_labels_alone(data):
    student, batch = network(), batch_of(data)
    outcome = kd.Supervised(student).eval()(batch)
    torch.testing.assert_close(outcome.loss, losses.cross_entropy(student(batch.x), batch.y))
    smooth = kd.Supervised(student, losses.LabelSmoothing(0.2)).eval()(batch)
    assert list(smooth.parts) == ["LabelSmoothing"]


def test_defaults_and_names():
    student, teacher = network(), network(1, width=8)
    assert repr(kd.Supervised(student)) == (
        "Supervised(convnet(width=4, channels=1, classes=36, size=12), CE())")
    assert repr(kd.Distiller(student, teacher)) == (
        "Distiller(convnet(width=4, channels=1, classes=36, size=12), 0.1 * CE() + 0.9 * KD(T=4), "
        f"teacher={kd.Live(teacher)!r})")
    assert kd.Supervised(student).students == [student]


class Wrapped(nn.Module):
    """A network as Hugging Face's: the logits are a field of what it returns."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.model = inner, "resnet-8"  # `model` is a name here, not a network

    def forward(self, x):
        return types.SimpleNamespace(loss=None, logits=self.inner(x))


def test_networks_with_outputs_of_their_own(data, smoke):
    student, teacher = Wrapped(network(0)), Wrapped(network(1))
    before = state(student)
    scheme = kd.Distiller(student, teacher)
    kd.fit(scheme, data, RECIPE)
    assert state(student) != before
    assert kd.report(scheme, data).rows["teacher"]["accuracy"] >= 0


# --- refused before training --------------------------------------------------------------------


def test_a_student_cannot_be_its_own_teacher():
    student = network()
    head = nn.Sequential(network(1)[:-1], student[-1])  # only the last layer is shared
    for teacher in (student, kd.Live(student), head, Wrapped(student)):
        with pytest.raises(ValueError, match=r"weights of its own, .*copy.deepcopy"):
            kd.Distiller(student, teacher)
    kd.Distiller(network(), copy.deepcopy(student))


@pytest.mark.parametrize(("ours", "theirs"), [(36, 10), (40, 36)])
def test_student_and_teacher_must_know_the_same_classes(data, ours, theirs):
    scheme = kd.Distiller(network(classes=ours), network(classes=theirs))
    with pytest.raises(ValueError, match=rf"the same classes, got {ours} and {theirs}. Give the"):
        kd.fit(scheme, data, RECIPE)


def test_a_student_needs_an_output_for_every_class(data):
    for scheme in (kd.Supervised(network(classes=10)),
                   kd.Distiller(network(classes=10), network(classes=10))):
        with pytest.raises(ValueError, match="each of the 36 classes of glyphs, got 10"):
            kd.fit(scheme, data, RECIPE)


@pytest.mark.parametrize("student", ["net", None, network])
def test_what_is_no_student(student):
    with pytest.raises(TypeError, match=r"network \(nn.Module\) as student, got .*model itself"):
        kd.Supervised(student)


def test_objectives_that_do_not_fit():
    with pytest.raises(ValueError, match=r"without a teacher, got .*KD.*Use Distiller"):
        kd.Supervised(network(), 0.5 * CE() + KD())
    with pytest.raises(TypeError, match="Expected a loss such as"):
        kd.Distiller(network(), network(1), nn.CrossEntropyLoss())


# --- build --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
def test_build_writes_nothing_however_often(data, mode):
    student, teacher = restless(0), restless(1)
    scheme = kd.Distiller(student, teacher).train(mode)
    before, torch_state = (state(student), state(teacher)), torch.get_rng_state()
    for _ in range(3):
        scheme.build(batch_of(data, 2), seed=0)
    assert (state(student), state(teacher)) == before  # batch statistics too
    assert all(module.training is mode for module in scheme.modules())
    assert all(p.grad is None for p in scheme.parameters())
    assert torch.equal(torch.get_rng_state(), torch_state)


class Projected(losses.Loss):
    """A term with a part that is made when the shapes are known, and trained."""

    def __init__(self):
        super().__init__()
        self.projection = None

    def build(self, student, teacher, seed):
        if self.projection is None:
            K = student.logits.shape[1]
            self.projection = nn.Linear(K, K)

    def values(self, student, teacher=None, labels=None):
        return (self.projection(student) - teacher).square().mean(1)


def test_what_build_makes_is_made_once_and_trained(data):
    scheme = kd.Distiller(network(), network(1), CE() + Projected())
    scheme.build(batch_of(data), 0)
    made = scheme.objective.terms["Projected"].projection
    before = made.weight.detach().clone()
    kd.fit(scheme, data, RECIPE)
    assert scheme.objective.terms["Projected"].projection is made
    assert not torch.equal(made.weight, before)
    assert "objective.terms.Projected.projection.weight" in scheme.state_dict()


# --- copies -------------------------------------------------------------------------------------


def test_a_copy_is_trained_apart(data):
    scheme = kd.Distiller(restless(0), restless(1), CE() + Projected())
    scheme.build(batch_of(data), 0)
    before = state(scheme)
    other = copy.deepcopy(scheme)
    kd.fit(other, data, RECIPE)
    assert state(scheme) == before
    assert state(other) != before


def test_two_schemes_have_objectives_of_their_own(data):
    objective = CE() + Projected()
    first, second = (kd.Distiller(network(), network(1), objective) for _ in range(2))
    first.build(batch_of(data), 0)
    assert first.objective.terms["Projected"].projection is not None
    assert second.objective.terms["Projected"].projection is None
    assert objective.terms["Projected"].projection is None


# --- a scheme of one's own ----------------------------------------------------------------------


class Averaged(Scheme):
    """Keeps a moving average of the student: a scheme that only overrides what it needs."""

    def __init__(self, student):
        super().__init__(student, CE())
        self.average = copy.deepcopy(student).requires_grad_(False)
        self.steps = 0

    @torch.no_grad()
    def after_step(self):
        self.steps += 1
        for mean, new in zip(self.average.parameters(), self.student.parameters(), strict=True):
            mean.lerp_(new, 0.1)


def test_a_scheme_of_ones_own_in_the_same_loop(data):
    scheme = Averaged(network())
    before = state(scheme.average)
    kd.fit(scheme, data, kd.Recipe(epochs=2, batch=36))
    assert scheme.steps == 8
    assert state(scheme.average) != before
    assert not any(p.requires_grad for p in scheme.average.parameters())
