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
from kdcourse.schemes import Edge, Outcome, Scheme

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
    for teacher in (student, kd.Live(student), head, Wrapped(student),
                    kd.Ensemble([network(1), student])):
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
    assert all(module.training is mode for module in scheme.modules()
               if module not in set(scheme.teacher.modules()))
    assert not any(module.training for module in scheme.teacher.modules())
    assert all(p.grad is None for p in scheme.parameters())
    assert torch.equal(torch.get_rng_state(), torch_state)


class Projected(losses.Loss):
    """A term with a part that is made when the shapes are known, and trained."""

    def __init__(self):
        super().__init__()
        self.projection = None

    def build(self, student, teacher, seed):
        if self.projection is None:
            K = self.pick(student, teacher)[0].shape[1]
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
    assert not torch.equal(made.weight.cpu(), before)
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
    assert objective.terms["Projected"] is first.objective.terms["Projected"]


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


class TwoTeachers(Scheme):
    """A student of two teachers, with an objective for each: the one method that a scheme needs."""

    def __init__(self, student, first, second):
        super().__init__(student, CE() + 0.5 * KD(T=2) + 0.1 * losses.Hint("2", "2"))
        self.first, self.second = kd.Live(first), second
        self.from_second = 0.3 * KD(T=4)

    def edges(self, batch):
        student = self.output(batch)
        yield Edge(student, self.first(batch, ("2",)), self.objective)
        yield Edge(student, self.second(batch), self.from_second, "second")


def two_teachers(data, seed=0):
    return TwoTeachers(restless_with_taps(seed), network(1, width=8), kd.Cached(network(2), data))


def restless_with_taps(seed):
    return nn.Sequential(*network(seed)[:4], nn.Dropout(0.2), *network(seed)[4:])


def test_two_teachers_with_an_objective_each(data):
    scheme, batch = two_teachers(data), batch_of(data)
    scheme.build(batch, 0)
    outcome = scheme.eval()(batch)
    z = scheme.student(batch.x)
    expected = {"CE": losses.cross_entropy(z, batch.y),
                "KD": losses.kd(z, scheme.first.model(batch.x), 2),
                "second.KD": losses.kd(z, network(2).eval()(batch.x), 4)}
    hint = outcome.parts.pop("Hint")
    for name, value in expected.items():
        torch.testing.assert_close(outcome.parts.pop(name), value)
    assert not outcome.parts
    torch.testing.assert_close(
        outcome.loss, expected["CE"] + 0.5 * expected["KD"] + 0.1 * hint
        + 0.3 * expected["second.KD"])


def test_two_teachers_are_trained_reported_exported_and_examined(data, smoke):
    scheme = two_teachers(data)
    history = kd.fit(scheme, data, RECIPE)
    assert {"CE", "KD", "Hint", "second.KD"} <= history.rows[0].keys()
    report = kd.report(scheme, data)
    assert list(report.rows) == ["first", "second", "student"]
    logits = [kd.models.predict(net, data.test.x)
              for net in (kd.export(scheme), network(1, width=8), network(2))]
    for key in ("agreement", "teacher_kl"):
        measured = [getattr(kd.measure, key)(logits[0], teacher) for teacher in logits[1:]]
        assert report.rows["student"][key] == pytest.approx(sum(measured) / 2)
    assert report.rows["first"]["parameters"] == kd.measure.parameters(network(1, width=8))
    assert "agrees with its teachers" in repr(report)
    assert repr(scheme).startswith("TwoTeachers(Sequential(")
    assert "from_second=0.3 * KD(T=4), first=convnet(" in repr(scheme)
    assert "second=Cached(convnet(" in repr(scheme)
    problems = [one.problem for one in kd.doctor(two_teachers(data), data)]
    assert len(problems) == 2
    for name, problem in zip(("first", "second"), problems, strict=True):
        assert problem.startswith(f"{name}: The teacher is hardly better than guessing")


def test_two_teachers_go_on_from_a_checkpoint(data, tmp_path):
    file, recipe = tmp_path / "run.safetensors", kd.Recipe(epochs=3, batch=36)
    whole, broken, again = (two_teachers(data) for _ in range(3))
    kd.fit(whole, data, recipe)
    steps = iter(range(1, 99))

    def stop(step):
        if next(steps) == 6:
            raise KeyboardInterrupt

    kd.fit(broken, data, recipe, checkpoint=file, on_step=stop)
    kd.fit(again, data, recipe, checkpoint=file)
    assert state(again) == state(whole)


def test_each_of_two_teachers_must_fit_the_data(data):
    other = kd.data.glyphs(train=144, val=72, test=72, size=12, seed=5)
    with pytest.raises(ValueError, match="Expected the data that was cached"):
        kd.fit(two_teachers(other), data, RECIPE)
    scheme = TwoTeachers(network(), network(1, width=8), kd.Live(network(2, classes=10)))
    with pytest.raises(ValueError, match="the same classes, got 36 and 10"):
        kd.fit(scheme, data, RECIPE)


def test_an_edge_has_an_objective_of_the_scheme(data):
    class Bare(Scheme):
        def edges(self, batch):
            return [Edge(self.output(batch), None, CE())]

    with pytest.raises(TypeError, match=r"objective on an edge, got CE. Keep one .*as_objective"):
        kd.fit(Bare(network()), data, RECIPE)

    class Empty(Scheme):
        def edges(self, batch):
            return []

    with pytest.raises(ValueError, match="at least one Edge"):
        kd.fit(Empty(network()), data, RECIPE)


def test_the_weight_of_an_edge_counts_in_loss_and_terms(data):
    class Twice(Scheme):
        def edges(self, batch):
            student = self.output(batch)
            return [Edge(student, None, self.objective, weight=weight) for weight in (0.25, 0.5)]

    batch = batch_of(data)
    outcome = Twice(network(), 2 * CE()).eval()(batch)
    ce = losses.cross_entropy(network().eval()(batch.x), batch.y)
    torch.testing.assert_close(outcome.parts["CE"], 0.75 * ce)
    torch.testing.assert_close(outcome.loss, 1.5 * ce)


def test_a_scheme_may_make_its_own_inputs(data, smoke):
    """They are made once per step, and reach students and teachers alike."""
    class Inverted(kd.Distiller):
        calls = 0

        def inputs(self, batch):
            self.calls += 1
            return 1 - batch.x

    scheme, batch = Inverted(network(0), network(1)), batch_of(data)
    plain = kd.Distiller(network(0), network(1)).eval()
    inverted = kd.data.Batch(1 - batch.x, batch.y, batch.index)
    torch.testing.assert_close(scheme.eval()(batch).loss, plain(inverted).loss)
    assert scheme.calls == 1
    kd.fit(scheme, data, RECIPE)
    assert scheme.calls == 1 + 1 + 2  # in the call above, in build, and in two steps


class Noted(kd.Supervised):
    """Logs the entropy of the student's answers, which is not minimised."""

    def forward(self, batch):
        outcome = super().forward(batch)
        outcome.notes["entropy"] = kd.measure.entropy(outcome.logits).mean()
        return outcome


def test_notes_are_logged_and_not_minimised(data):
    students = network(0), network(0)
    plain, noted = (kd.fit(kind(student), data, kd.Recipe(epochs=2, batch=36, accumulate=2))
                    for kind, student in zip((kd.Supervised, Noted), students, strict=True))
    assert state(students[0]) == state(students[1])
    assert noted["loss"] == plain["loss"] == plain["CE"]
    assert 0 < noted["entropy"][1] < 3.6  # ln 36


def test_a_note_that_is_not_finite_does_not_end_the_training(data):
    class Broken(kd.Supervised):
        def forward(self, batch):
            outcome = super().forward(batch)
            return Outcome(outcome.loss, outcome.parts, outcome.logits,
                           {"note": outcome.loss.detach() * torch.nan})

    assert str(kd.fit(Broken(network()), data, RECIPE)["note"]) == "[nan]"


def test_a_note_needs_a_name_of_its_own(data):
    class Twice(kd.Supervised):
        def forward(self, batch):
            outcome = super().forward(batch)
            return Outcome(outcome.loss, outcome.parts, outcome.logits, outcome.parts)

    with pytest.raises(ValueError, match=r"notes with names of their own, got \['CE'\]"):
        kd.fit(Twice(network()), data, RECIPE)


class Changing(kd.Supervised):
    """Has other terms in the second step of an epoch."""

    def __init__(self, student):
        super().__init__(student)
        self.other, self.calls = 1.0 * losses.LabelSmoothing(), 0

    def edges(self, batch):
        self.calls += 1
        return [Edge(self.output(batch), None, self.objective if self.calls < 3 else self.other)]


def test_terms_that_change_within_an_epoch_are_not_mixed_up(data):
    with pytest.raises(ValueError, match=r"\['loss', 'LabelSmoothing'\] after \['loss', 'CE'\]"):
        kd.fit(Changing(network()), data, RECIPE)


def test_a_term_is_not_called_like_the_loss(data):
    loss = type("loss", (losses.CE,), {})
    with pytest.raises(ValueError, match=r"names of their own, got \['loss'\]"):
        kd.fit(kd.Supervised(network(), loss()), data, RECIPE)


# --- taps and projections -----------------------------------------------------------------------


def features(student_width=4, teacher_width=8):
    """Two hints and a relation: taps on both sides, and projections that are trained."""
    objective = (CE() + 0.1 * losses.Hint("2", "2") + 0.2 * losses.Hint("4", "4")
                 + losses.RKDDistance("7:input", "7"))
    return kd.Distiller(network(0, width=student_width), network(1, width=teacher_width), objective)


def test_an_objective_of_features_reads_as_it_is_written():
    assert repr(features().objective) == (
        "CE() + 0.1 * Hint('2', '2', projection='paper', variant='mean') + 0.2 * Hint('4', '4', "
        "projection='paper', variant='mean') + RKDDistance('7:input', '7', variant='code')")


def test_projections_are_made_by_build_trained_and_kept(data):
    scheme = features()
    before = {name for name, _ in scheme.named_parameters()}
    scheme.build(batch_of(data), 0)
    made = {name: p for name, p in scheme.named_parameters() if name not in before}
    assert {name.split(".")[2] for name in made} == {"Hint", "Hint_2"}  # two stay two
    assert made.keys() <= scheme.state_dict().keys()
    start = {name: p.detach().cpu().clone() for name, p in made.items()}
    scheme.build(batch_of(data), 5)  # again: nothing is made twice, whatever the seed
    assert all(p is made[name] for name, p in scheme.named_parameters() if name in made)
    history = kd.fit(scheme, data, RECIPE)
    assert history.rows[0].keys() >= {"CE", "Hint", "Hint_2", "RKDDistance"}
    for name, p in made.items():
        assert not torch.equal(p.cpu(), start[name]), name


def test_projections_have_the_seed_of_the_training(data):
    def made(seed):
        scheme = features()
        scheme.build(batch_of(data), seed)
        return [p for name, p in scheme.named_parameters() if "Hint" in name and p.ndim > 1]

    assert all(torch.equal(a, b) for a, b in zip(made(0), made(0), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(made(0), made(1), strict=True))


def test_a_checkpoint_carries_the_projections(data):
    scheme, other = features(), features()
    kd.fit(scheme, data, RECIPE)
    other.build(batch_of(data), 9)
    other.load_state_dict(scheme.state_dict())
    batch = batch_of(data)
    torch.testing.assert_close(other.eval()(batch).loss, scheme.cpu().eval()(batch).loss)


def test_building_features_writes_nothing(data):
    scheme = features().train()
    before, torch_state = state(scheme.student), torch.get_rng_state()
    scheme.build(batch_of(data), 0)
    assert state(scheme.student) == before
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(p.grad is None for p in scheme.parameters())


def test_a_copy_of_a_tapped_scheme_is_independent(data):
    scheme = features()
    scheme.build(batch_of(data), 0)
    other, before = copy.deepcopy(scheme), state(scheme)
    kd.fit(other, data, RECIPE)
    assert state(scheme) == before
    batch = batch_of(data)
    torch.testing.assert_close(other.cpu().eval()(batch).logits, other.student(batch.x))


def test_schemes_that_share_a_live_teacher_do_not_disturb_each_other(data):
    teacher, batch = kd.Live(network(1)), batch_of(data)
    one = kd.Distiller(network(0), teacher, losses.RKDDistance("2", "2"))
    other = kd.Distiller(network(2), teacher, losses.RKDDistance("4", "4"))
    plain = kd.Distiller(network(3), teacher)
    taps = [list(next(iter(scheme.edges(batch))).teacher.taps) for scheme in (one, other, plain)]
    assert taps == [["2"], ["4"], []]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: kd.Distiller(network(), network(1), losses.Hint("lyer2", "2")),
     r"path of a module in Sequential, got 'lyer2'"),
    (lambda: kd.Distiller(network(), network(1), losses.Hint("2", "77")),
     r"path of a module in Sequential, got '77'"),
    (lambda: kd.Supervised(network(), losses.KD(student="2")), "without a teacher"),
])
def test_taps_are_checked_when_the_scheme_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_stored_logits_have_no_layers(data):
    cached = kd.Cached(network(1), data)
    with pytest.raises(ValueError, match=r"its layers for the taps \['2'\], got stored logits"):
        kd.Distiller(network(), cached, CE() + losses.Hint("2", "2"))


def test_a_term_without_its_paths_says_so(data):
    scheme = kd.Distiller(network(), network(1), CE() + losses.Hint())
    with pytest.raises(ValueError, match=r"Expected module paths to compare, got Hint\("):
        kd.fit(scheme, data, RECIPE)


def test_shapes_that_cannot_match_name_the_paths(data):
    scheme = kd.Distiller(network(), network(1, width=8),
                          losses.AT("8", "8") + losses.RKDDistance("7", "7"))
    with pytest.raises(ValueError, match=r"AT\('8', '8'.*Expected student .* got \[4, 16\]"):
        kd.fit(scheme, data, RECIPE)


def test_logits_of_another_layer_can_be_matched(data):
    """A response loss with paths: here an answer that lies inside the network."""
    student, teacher = nn.Sequential(network(0), nn.Identity()), nn.Sequential(network(1))
    scheme = kd.Distiller(student, teacher, KD(T=2, student="0", teacher="0.9"))
    batch = batch_of(data)
    assert repr(scheme.objective) == "KD(T=2, student='0', teacher='0.9')"
    torch.testing.assert_close(scheme.eval()(batch).loss, losses.kd(
        student.eval()(batch.x), teacher.eval()(batch.x), 2))


# --- export -------------------------------------------------------------------------------------


def test_an_export_is_the_student_alone(data):
    scheme = features()
    kd.fit(scheme, data, RECIPE)
    student = kd.export(scheme.cpu())
    assert not student.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    assert student.state_dict().keys() == network().state_dict().keys()  # no projections
    batch = batch_of(data)
    torch.testing.assert_close(student(batch.x), scheme.student.eval()(batch.x))
    before = state(student)
    kd.fit(scheme, data, RECIPE)  # the scheme can go on, and the export stays as it is
    assert state(student) == before


def test_an_export_of_a_compiled_student_is_not_compiled():
    student = network()
    scheme = kd.Supervised(torch.compile(student, backend="eager"))
    assert type(kd.export(scheme)) is type(student)


def test_an_export_of_a_student_that_keeps_a_tensor_of_its_last_call(data):
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            self.feature = self.net[:3](x)
            return self.net[3:](self.feature)

    scheme = kd.Supervised(Keeps())
    scheme.student(data.train.x[:4])
    assert kd.export(scheme)(data.train.x[:4]).shape == (4, 36)


def test_what_cannot_be_exported():
    with pytest.raises(TypeError, match=r"Expected a scheme .* got Sequential"):
        kd.export(network())


def test_the_teacher_comes_along(data):
    scheme = kd.Distiller(network(0), network(1)).double().to(memory_format=torch.channels_last)
    kernel = scheme.teacher.model[1][0].weight
    assert kernel.dtype == torch.float64
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    batch = batch_of(data)
    double = kd.data.Batch(batch.x.double(), batch.y, batch.index)
    assert scheme(double).loss.dtype == torch.float64
