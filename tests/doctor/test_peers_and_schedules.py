"""The doctor on peers, mixed precision, schedules and stored answers of views."""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import network, restless, state
from torch import nn

import kdcourse as kd
from kdcourse import losses
from kdcourse.data import Split, generator
from kdcourse.schemes import Edge, Scheme
from kdcourse.taps import Output
from kdcourse.teachers import as_teacher


def found(scheme, data, pattern, *more, **settings):
    """The findings that match."""
    import re

    return [one for one in kd.doctor(scheme, data, *more, **settings)
            if re.search(pattern, str(one))]


class Together(Scheme):
    """Somebody's own mutual learning; `fix` is what they do with a peer's output, `paths` what
    they tap of every student."""

    def __init__(self, students, fix, objective, *paths):
        super().__init__(students[0], losses.CE())
        self.peers, self.fix = nn.ModuleList(students[1:]), fix
        self.between = losses.as_objective(objective)
        self.tap(*paths)

    @property
    def students(self):
        return [self.student, *self.peers]

    def edges(self, batch):
        outputs = [self.output(batch, i) for i in range(len(self.students))]
        for i, output in enumerate(outputs):
            yield Edge(output, None, self.objective, f"{i}")
        for (i, output), (_, peer) in itertools.permutations(enumerate(outputs), 2):
            yield Edge(output, self.fix(peer), self.between, f"{i}")


class Towards(losses.Loss):
    """A term in which somebody forgot to detach the teacher's side."""

    def __init__(self, pull, path=None):
        super().__init__(path, path)
        self.pull = pull

    def values(self, student, teacher=None, labels=None):
        return self.pull(student, teacher)


def attached(output):
    return output


def divergence(student, teacher):
    return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="none").sum(1)


@pytest.mark.parametrize("count", [2, 3])
def test_peers_that_are_not_detached(data, count):
    students = [network(seed) for seed in range(count)]
    (one,) = found(Together(students, attached, Towards(divergence)), data,
                   "peers are not detached")
    assert "peer.detach()" in one.remedy
    assert ("2 and 3" in one.problem) is (count == 3)
    assert not found(Together(students, Output.detached, Towards(divergence)), data,
                     "detached")


class Wrapped(nn.Module):
    """Answers with a tuple, or with an object that has logits, as transformers' models do."""

    def __init__(self, seed, answer):
        super().__init__()
        self.net, self.answer = network(seed), answer

    def forward(self, x):
        return self.answer(self.net(x))


ANSWERS = {"a tensor": lambda z: z, "a tuple": lambda z: (z, None), "an object": Output}
PULLS = {
    "answers": losses.KD(T=1),
    "divergence": Towards(divergence),
    "distance": Towards(lambda a, b: (a.softmax(1) - b.softmax(1)).abs().mean(1)),
    "features": Towards(lambda a, b: (a - b).square().mean((1, 2, 3)), "net.3"),
    "distance of features": 0.1 * Towards(lambda a, b: (a - b).abs().mean((1, 2, 3)), "net.3"),
}


@pytest.mark.parametrize(("answer", "pull"), [
    *(("a tensor", pull) for pull in PULLS),
    *itertools.product(["a tuple", "an object"], ["divergence", "features"])])
def test_peers_are_found_whatever_they_pull_by(data, answer, pull):
    for fix, sick in ((attached, pull != "answers"), (Output.detached, False)):
        students = [Wrapped(seed, ANSWERS[answer]) for seed in (0, 1)]
        diagnosis = kd.doctor(Together(students, fix, PULLS[pull]), data)
        assert len(diagnosis) == sick, diagnosis
        assert not sick or "peers are not detached (students 1 and 2" in diagnosis[0].problem
        assert any(what.startswith("peers are fixed") for what in diagnosis.looked)


class Tame(Together):
    """What students may do with each other without a gradient between them; `how` says what."""

    def __init__(self, how, students=None):
        students = [restless(0), restless(1), network(2)] if students is None else students
        super().__init__(students, Output.detached, losses.KD(T=1))
        self.how = how
        self.register_buffer("centre", torch.zeros(36))
        self.queue, self.calls = [], 0

    def edges(self, batch):
        self.calls += 1
        outputs = [self.output(batch, i) for i in range(len(self.students))]
        for output in outputs:
            yield Edge(output, None, self.objective)
        told = getattr(self, self.how)([output.logits for output in outputs], batch)
        yield Edge(outputs[0], Output(told), self.between)

    def without_gradient(self, z, batch):
        with torch.no_grad():
            return self.students[1](batch.x)

    def data_of(self, z, batch):
        return z[1].data

    def written_in_place(self, z, batch):
        target = torch.zeros_like(z[0])
        target += z[1].detach()
        target[:, 0] = z[2].detach()[:, 0]
        return target

    def centred(self, z, batch):
        with torch.no_grad():
            self.centre.mul_(0.9).add_(0.1 * z[1].mean(0))
            self.centre.lerp_(z[2].mean(0), 0.1)
        return z[1].detach() - self.centre

    def queued(self, z, batch):
        if not self.queue or len(self.queue[-1]) != len(z[1]):
            self.queue = []
        self.queue = [*self.queue, z[1].detach()][-3:]
        return sum(self.queue)

    def weighted(self, z, batch):
        return z[1].detach() * float(F.cross_entropy(z[1], batch.y).detach())

    def drawn(self, z, batch):
        return z[1].detach() + torch.randn_like(z[0])


@pytest.mark.parametrize("how", [
    "without_gradient", "data_of", "written_in_place", "centred", "queued", "weighted", "drawn"])
def test_peers_without_a_gradient_between_them_are_healthy(data, how):
    scheme = Tame(how)
    before = state(scheme)
    diagnosis = kd.doctor(scheme, data)
    assert diagnosis.ok, diagnosis
    assert any(what.startswith("peers are fixed") for what in diagnosis.looked)
    assert (state(scheme), scheme.calls, scheme.queue) == (before, 0, [])


class Stem(nn.Module):
    """A network on a stem that it shares with others."""

    def __init__(self, stem, seed):
        super().__init__()
        self.stem, self.rest = stem, restless(seed)

    def forward(self, x):
        return self.rest(self.stem(x))


def test_students_that_share_layers_or_feed_each_other_are_no_peers(data):
    class Labelled(Together):
        def edges(self, batch):
            return [Edge(self.output(batch, i), None, self.objective) for i in range(2)]

    stem = nn.Conv2d(1, 1, 3, padding=1)
    assert kd.doctor(Labelled([Stem(stem, 0), Stem(stem, 1)], None, losses.CE()), data).ok

    class Cascade(Together):
        def check(self, data):
            pass

        def edges(self, batch):
            first = self.student(batch.x)
            return [Edge(Output(z), None, self.objective)
                    for z in (first, self.peers[0](first))]

    cascade = Cascade([network(0), nn.Linear(36, 36)], None, losses.CE())
    assert kd.doctor(cascade, data).ok


def test_soft_labels_and_three_students_are_healthy(data):
    soft = dataclasses.replace(data, train=Split(
        data.train.x, 0.1 / 36 + 0.9 * F.one_hot(data.train.y, 36).float()))
    for scheme in (kd.Mutual([restless(0), restless(1), network(2)]),
                   kd.Mutual([network(0), network(1), network(2)],
                             losses.CE() + losses.KD(T=2) + 0.1 * losses.Hint("2", "2"))):
        diagnosis = kd.doctor(scheme, soft)
        assert diagnosis.ok, diagnosis
        assert any(what.startswith("peers are fixed") for what in diagnosis.looked)


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
    from kdcourse.training.optim import Optimisers

    scheme = kd.Supervised(network())
    for name in ("one-cycle", "cosine"):
        made = Optimisers(scheme, kd.Recipe(schedule=name), torch.device("cpu"), 100)
        assert not found(scheme, data, "warm-up", made.optimizers[0], schedule=made.schedules[0],
                         steps=100)


def test_a_schedule_needs_its_steps(data):
    with pytest.raises(ValueError, match="schedule and steps together"):
        kd.doctor(kd.Supervised(network()), data, steps=10)


@pytest.mark.parametrize("mix", ["samples", "views", None])
def test_stored_answers_of_other_samples_or_views(data, mix):
    seen = kd.augmented(data, views=2, shift=0.3, rotate=0.5, erase=0.4)
    cached = kd.Cached(restless(), seen)
    if mix == "samples":
        cached.logits[:] = cached.logits.roll(1, dims=1)
    if mix == "views":
        cached.logits[:] = cached.logits.flip(0)
    assert bool(found(kd.Distiller(network(), cached), seen, "answers belong to other")) is (
        mix is not None)
    assert as_teacher(cached) is cached


@pytest.mark.parametrize(("views", "mixed"), [(3, (2, 3)), (3, (3,)), (20, (20,)), (3, ())])
@pytest.mark.parametrize("member", [False, True])
def test_stored_answers_of_some_views_of_other_samples(data, views, mixed, member):
    seen = kd.augmented(data, views=views, shift=0.3, rotate=0.5, erase=0.4)
    cached = kd.Cached(restless(), seen)
    for view in mixed:
        cached.logits[view - 1] = cached.logits[view - 1].roll(1, dims=0)
    teacher = kd.Ensemble([restless(3), kd.Ensemble([cached])]) if member else cached
    some = found(kd.Distiller(network(), teacher), seen, "answers belong to other")
    assert len(some) == bool(mixed)
    who = "Teacher 2 of the ensemble" if member else "The teacher"
    for one in some:
        assert one.problem.startswith(f"{who}'s answers") and f"(view {mixed[0]})" in one.problem


@pytest.mark.parametrize("both", [False, True])
def test_stored_answers_of_other_samples_in_an_ensemble(data, both):
    right = 8.0 * F.one_hot(data.train.y, 36)
    wrong = kd.Cached.of(right[torch.randperm(144, generator=generator(0))], data, "wrong")
    sound = kd.Cached.of(right, data, "right")
    for other in (sound, kd.Live(network())):
        scheme = kd.Distiller(network(), kd.Ensemble([other, wrong, wrong] if both else
                                                     [other, wrong]))
        (one,) = kd.doctor(scheme, data)
        assert "Teacher 2 of the ensemble is hardly better than guessing" in one.problem
        assert "of 100 training samples" in one.problem
    diagnosis = kd.doctor(kd.Distiller(network(), kd.Ensemble([sound, sound])), data)
    assert diagnosis.ok, diagnosis
    assert any("what teacher 2 of the ensemble knows: 100.0%" in what for what in diagnosis.looked)


def test_an_optimiser_without_the_projections(data):
    scheme = kd.Distiller(network(0), network(1, width=8), losses.CE() + losses.Hint("2", "2"))
    optimizer = torch.optim.SGD(scheme.student.parameters(), lr=0.1)
    scheme.build(next(data.train.batches(8)), 0)
    (one,) = found(scheme, data, "optimi[sz]er", optimizer)
    assert "regressor" in one.problem
