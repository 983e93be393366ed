"""The doctor on peers, mixed precision, schedules and stored answers of views."""

import itertools

import pytest
import torch
from conftest import network, restless, state
from torch import nn

import kdcourse as kd
from kdcourse import losses
from kdcourse.schemes import Outcome, Scheme
from kdcourse.teachers import as_teacher


def found(scheme, data, pattern, *more, **settings):
    """The findings that match."""
    import re

    return [one for one in kd.doctor(scheme, data, *more, **settings)
            if re.search(pattern, str(one))]


class Together(Scheme):
    """Somebody's own mutual learning; `fix` is what they do with a peer's answer."""

    def __init__(self, students, fix):
        super().__init__(students[0], losses.CE())
        self.peers, self.fix = nn.ModuleList(students[1:]), fix

    @property
    def students(self):
        return [self.student, *self.peers]

    def forward(self, batch):
        z = [student(batch.x) for student in self.students]
        total = sum(losses.cross_entropy(answer, batch.y) for answer in z)
        for i, j in itertools.permutations(range(len(z)), 2):
            p = (self.fix(z[j]) / 2).softmax(1)
            total = total - (p * (z[i] / 2).log_softmax(1)).sum(1).mean()
        return Outcome(total, {"all": total}, z[0])

    def build(self, batch, seed):
        pass

    def check(self, data):
        pass


@pytest.mark.parametrize("count", [2, 3])
def test_peers_that_are_not_detached(data, count):
    students = [network(seed) for seed in range(count)]
    (one,) = found(Together(students, lambda z: z), data, "peers are not detached")
    assert "peer.detach()" in one.remedy
    assert not found(Together(students, torch.Tensor.detach), data, "detached")


def test_our_own_peers_and_exits_are_healthy(data):
    for scheme in (kd.Mutual([restless(0), restless(1)]),
                   kd.Mutual([network(0), network(1)], losses.CE() + losses.KD(T=2)
                             + 0.1 * losses.Hint("2", "2")),
                   kd.MultiExit(kd.models.resnet(depth=8, width=8), ["layer1", "layer2"])):
        before = state(scheme)
        diagnosis = kd.doctor(scheme, data)
        assert diagnosis.ok, diagnosis
        assert state(scheme) == before


class Steep(losses.Loss):
    """Computes in the precision that it is handed: half precision overflows."""

    def values(self, student, teacher=None, labels=None):
        return ((student - teacher) * 300).square().mean(1) * 1e-3


def test_a_loss_that_overflows_in_half_precision(data):
    scheme = kd.Distiller(network(0), network(1), Steep())
    student = scheme.student[-1]
    with torch.no_grad():
        student.bias[0] = 30.0  # 9000 squared is too much for float16
    (one,) = found(scheme, data, "not finite in mixed precision")
    assert "float16; part: Steep" in one.problem
    assert not found(kd.Distiller(network(0), network(1)), data, "mixed precision")


def warmed(scheme, warmup):
    optimizer = torch.optim.SGD(scheme.parameters(), lr=0.1)
    rise = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / warmup) * (1 if step < warmup else 0.9))
    return optimizer, rise


@pytest.mark.parametrize(("warmup", "sick"), [(1500, True), (480, True), (100, False), (1, False)])
def test_a_warmup_that_is_longer_than_the_training(data, warmup, sick):
    scheme = kd.Supervised(network())
    optimizer, rise = warmed(scheme, warmup)
    before = (rise.state_dict()["last_epoch"], optimizer.param_groups[0]["lr"], state(scheme))
    one = found(scheme, data, "warm-up is longer", optimizer, schedule=rise, steps=480)
    assert bool(one) is sick
    assert (rise.state_dict()["last_epoch"], optimizer.param_groups[0]["lr"],
            state(scheme)) == before


def test_our_own_schedules_leave_their_warmup(data):
    from kdcourse.training import _optimizer, _schedule

    scheme = kd.Supervised(network())
    for name in ("one-cycle", "cosine"):
        recipe = kd.Recipe(schedule=name)
        optimizer = _optimizer(list(scheme.parameters()), recipe, torch.device("cpu"))
        rise = _schedule(optimizer, recipe, 100)
        assert not found(scheme, data, "warm-up", optimizer, schedule=rise, steps=100)


def test_a_schedule_needs_its_steps(data):
    with pytest.raises(ValueError, match="schedule and steps together"):
        kd.doctor(kd.Supervised(network()), data, steps=10)


@pytest.mark.parametrize("mix", ["samples", "views", None])
def test_stored_answers_of_other_samples_or_views(data, mix):
    seen = kd.augmented(data, views=2, shift=0.3, rotate=0.5, erase=0.4)
    cached = kd.Cached(restless(), seen)
    if mix == "samples":
        cached._stored = cached._stored.roll(1, dims=1)
    if mix == "views":
        cached._stored = cached._stored.flip(0)
    assert bool(found(kd.Distiller(network(), cached), seen, "answers belong to other")) is (
        mix is not None)
    assert as_teacher(cached) is cached


def test_an_optimiser_without_the_projections(data):
    scheme = kd.Distiller(network(0), network(1, width=8), losses.CE() + losses.Hint("2", "2"))
    optimizer = torch.optim.SGD(scheme.student.parameters(), lr=0.1)
    scheme.build(next(data.train.batches(8)), 0)
    (one,) = found(scheme, data, "optimi[sz]er", optimizer)
    assert "regressor" in one.problem
