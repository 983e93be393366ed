"""The doctor on peers, mixed precision, schedules and stored answers of views."""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import network, restless, state
from torch import nn

import kdcourse as kd
from kdcourse import losses, models
from kdcourse.data import Split, generator
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


class Wrapped(nn.Module):
    """Answers with a tuple, or with an object that has logits, as transformers' models do."""

    def __init__(self, seed, answer):
        super().__init__()
        self.net, self.answer = network(seed), answer

    def forward(self, x):
        return self.answer(self.net(x))


ANSWERS = {"a tensor": lambda z: z, "a tuple": lambda z: (z, None), "an object": models.View}
PULLS = {
    "answers": lambda a, b: losses.kd(a.logits, b.logits, 1.0, "mean"),
    "divergence": lambda a, b: F.kl_div(a.logits.log_softmax(1), b.logits.softmax(1),
                                        reduction="batchmean"),
    "distance": lambda a, b: F.l1_loss(a.logits.softmax(1), b.logits.softmax(1)),
    "features": lambda a, b: F.mse_loss(a.taps["net.3"], b.taps["net.3"]),
    "distance of features": lambda a, b: 0.1 * F.l1_loss(a.taps["net.3"], b.taps["net.3"]),
}


class Pulling(Together):
    """Somebody's own mutual learning by `pull`; `fix` is what they do with a peer's view."""

    def __init__(self, students, fix, pull):
        super().__init__(students, fix)
        self.pull, self.seen = pull, [models.taps(one, ["net.3"]) for one in students]

    def forward(self, batch):
        views = [seen(batch.x) for seen in self.seen]
        total = sum(losses.cross_entropy(view.logits, batch.y) for view in views)
        for a, b in itertools.permutations(views, 2):
            total = total + self.pull(a, self.fix(b))
        return Outcome(total, {"all": total}, views[0].logits)


@pytest.mark.parametrize(("answer", "pull"), [
    *(("a tensor", pull) for pull in PULLS),
    *itertools.product(["a tuple", "an object"], ["divergence", "features"])])
def test_peers_are_found_whatever_they_pull_by(data, answer, pull):
    for fix, sick in ((lambda view: view, pull != "answers"), (models.View.detached, False)):
        students = [Wrapped(seed, ANSWERS[answer]) for seed in (0, 1)]
        diagnosis = kd.doctor(Pulling(students, fix, PULLS[pull]), data)
        assert len(diagnosis) == sick, diagnosis
        assert not sick or "peers are not detached (students 1 and 2" in diagnosis[0].problem
        assert any(what.startswith("peers are fixed") for what in diagnosis.looked)


class Tame(Together):
    """What students may do with each other without a gradient between them; `how` says what."""

    def __init__(self, how, students=None):
        students = [restless(0), restless(1), network(2)] if students is None else students
        super().__init__(students, None)
        self.how = how
        self.register_buffer("centre", torch.zeros(36))
        self.queue, self.calls = [], 0

    def forward(self, batch):
        self.calls += 1
        z = [student(batch.x) for student in self.students]
        total = sum(losses.cross_entropy(answer, batch.y) for answer in z)
        return Outcome(total + getattr(self, self.how)(z, batch), {"all": total}, z[0])

    def pseudo_labels(self, z, batch):
        sure, labels = z[1].softmax(1).max(1)
        keep = (sure > sure.median()).float()
        return (F.cross_entropy(z[0], labels, reduction="none") * keep).mean()

    def without_gradient(self, z, batch):
        with torch.no_grad():
            peer = self.students[1](batch.x)
        return F.l1_loss(z[0], peer) + F.l1_loss(z[2], z[1].data)

    def written_in_place(self, z, batch):
        target = torch.zeros_like(z[0])
        target += z[1].detach()
        target[:, 0] = z[2].detach()[:, 0]
        return F.mse_loss(z[0], target)

    def centred(self, z, batch):
        with torch.no_grad():
            self.centre.mul_(0.9).add_(0.1 * z[1].mean(0))
            self.centre.lerp_(z[2].mean(0), 0.1)
        return F.mse_loss(z[0], (z[1].detach() - self.centre).softmax(1))

    def queued(self, z, batch):
        self.queue = [*self.queue, z[1].detach()][-3:]
        return sum(F.mse_loss(z[0], old) for old in self.queue)

    def weighted(self, z, batch):
        share = float(F.cross_entropy(z[1], batch.y).detach())
        return share * z[0].square().mean() + z[2].square().mean() * z[1].std().item()

    def drawn(self, z, batch):
        noise = torch.randn_like(z[0])
        return (noise * z[0]).mean() + F.l1_loss(z[0] * torch.rand(1), (z[1] + noise).detach())

    def in_one_call(self, z, batch):
        both = torch.cat([z[0], z[1]])
        return F.cross_entropy(both, torch.cat([batch.y, batch.y])) + torch.stack(z).abs().mean()


@pytest.mark.parametrize("how", [
    "pseudo_labels", "without_gradient", "written_in_place", "centred", "queued", "weighted",
    "drawn", "in_one_call"])
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
    stem = nn.Conv2d(1, 1, 3, padding=1)
    Tame.nothing = lambda self, z, batch: 0.0
    assert kd.doctor(Tame("nothing", [Stem(stem, 0), Stem(stem, 1)]), data).ok

    class Cascade(Tame):
        def forward(self, batch):
            first = self.student(batch.x)
            second = self.peers[0](first)
            total = sum(losses.cross_entropy(z, batch.y) for z in (first, second))
            return Outcome(total, {"all": total}, first)

    assert kd.doctor(Cascade("nothing", [network(0), nn.Linear(36, 36)]), data).ok


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


@pytest.mark.parametrize(("views", "mixed"), [(3, (2, 3)), (3, (3,)), (20, (20,)), (3, ())])
@pytest.mark.parametrize("member", [False, True])
def test_stored_answers_of_some_views_of_other_samples(data, views, mixed, member):
    seen = kd.augmented(data, views=views, shift=0.3, rotate=0.5, erase=0.4)
    cached = kd.Cached(restless(), seen)
    for view in mixed:
        cached._stored[view - 1] = cached._stored[view - 1].roll(1, dims=0)
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
