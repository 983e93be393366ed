"""Students and teachers as users bring them: frozen parts, observers, several heads."""

import copy
import warnings

import pytest
import torch
from conftest import network
from torch import nn

import kdcourse as kd
from kdcourse.losses import CE, KD, HardLabel, Hint
from kdcourse.outputs import OutputError

RECIPE = kd.Recipe(epochs=2, batch=36, lr=0.01)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


# --- tensors that cannot teach ------------------------------------------------------------------


class Blocks(nn.Module):
    """Two convolutions and heads; `how` says what is wrong with the second one."""

    def __init__(self, how="healthy"):
        super().__init__()
        self.a, self.b, self.how, self.steps = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), how, 0
        self.head, self.aux = nn.Linear(4, 36), nn.Linear(4, 36)

    def forward(self, x):
        found = self.a(x)
        self.steps += self.training
        if self.how == "no_grad":
            with torch.no_grad():
                self.b(found)
        elif self.how == "detached":
            self.b(found.detach())
        elif not self.training or (self.how != "eval only" and (
                self.how != "now and then" or self.steps < 3)):
            found = self.b(found)
        if self.training and self.how == "auxiliary":
            self.aux(found.mean((2, 3)))
        return self.head(found.mean((2, 3)))


def hinted(student):
    return kd.Distiller(student, seeded(Blocks), CE() + Hint("b", "b"))


def frozen(how):
    student = seeded(Blocks)
    for part in (student.a, student.b)[: 2 if how == "frozen" else 0]:
        part.requires_grad_(False)
    return student


@pytest.mark.parametrize(("make", "message"), [
    (lambda: seeded(lambda: Blocks("no_grad")), "student's 'b' to have a gradient"),
    (lambda: frozen("frozen"), "student's 'b' to have a gradient"),
    (lambda: seeded(Blocks).requires_grad_(False), "student's 'b' to have a gradient"),
    (lambda: seeded(lambda: Blocks("eval only")), "'b' to be called, .* only in train mode"),
    (lambda: seeded(lambda: Blocks("now and then")), "'b' to be called, .* In an earlier pass it"),
])
def test_a_tensor_that_cannot_teach_is_named(data, make, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        kd.fit(hinted(make()), data, RECIPE)
    assert any("'b'" in one.problem for one in kd.doctor(hinted(make()), data))


def test_the_features_behind_a_detached_layer_still_teach_it(data):
    student = seeded(lambda: Blocks("detached"))
    before = student.b.weight.clone()
    kd.fit(hinted(student), data, RECIPE)
    assert not student.b.weight.cpu().equal(before)


def test_logits_without_a_gradient_are_named(data):
    class Asleep(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return self.inner(x).detach()

    with pytest.raises(ValueError, match="Expected the logits to have a gradient"):
        kd.fit(kd.Distiller(Asleep(), network(1)), data, RECIPE)


def test_an_auxiliary_head_that_runs_only_in_training_is_trained(data):
    student = seeded(lambda: Blocks("auxiliary"))
    before = student.aux.weight.clone()
    kd.fit(kd.Supervised(student, CE() + 0.3 * CE("aux")), data, RECIPE)
    assert not student.aux.weight.cpu().equal(before)


# --- check and build leave no trace -------------------------------------------------------------


class ActNorm(nn.Module):
    """Initialised by its first inputs, as a buffer counts them."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x):
        if self.seen == 0:
            with torch.no_grad():
                self.b.copy_(-x.mean())
                self.seen.fill_(len(x))
        return x + self.b


class Flagged(ActNorm):
    """The same with a plain attribute, another tensor in `data`, and a list."""

    def __init__(self):
        super().__init__()
        self.done, self.sizes = False, []

    def forward(self, x):
        if not self.done:
            self.b.data, self.done = -x.mean()[None], True
            self.sizes.append(len(x))
        return x + self.b


def observed():
    from torch.ao import quantization

    parts = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 36)]
    model = nn.Sequential(quantization.QuantStub(), *parts, quantization.DeQuantStub()).train()
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    with warnings.catch_warnings(action="ignore"):
        return quantization.prepare_qat(model)


MODELS = {
    "ActNorm": lambda: nn.Sequential(ActNorm(), network()),
    "flags": lambda: nn.Sequential(Flagged(), network()),
    "observers": observed,
    "spectral norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 2, 3)), nn.BatchNorm2d(2),
        nn.Dropout(), nn.Flatten(), nn.Linear(200, 36)),
}


def content(model):
    plain = [(part.done, list(part.sizes)) for part in model.modules() if isinstance(part, Flagged)]
    return [*copy.deepcopy([*model.parameters(), *model.buffers()]), plain]


def same(one, other):
    return one[-1] == other[-1] and all(a.equal(b) for a, b in zip(one[:-1], other[:-1]))


@pytest.mark.filterwarnings("ignore:.*torch.ao")
@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("name", MODELS)
def test_check_build_and_doctor_leave_no_trace(data, name, role):
    model = seeded(MODELS[name])
    scheme = kd.Distiller(*((model, network(1)) if role == "student" else (network(1), model)))
    before, state = content(model), torch.get_rng_state()
    scheme.check(data)
    assert same(content(model), before)
    scheme.build(next(data.train.batches(8)), 0)
    assert same(content(model), before)
    kd.doctor(scheme, data)
    assert same(content(model), before)
    assert torch.get_rng_state().equal(state)


def test_the_first_training_batch_initialises(data):
    student = MODELS["ActNorm"]()
    kd.fit(kd.Supervised(student), data, RECIPE)
    assert int(student[0].seen) == 36
    student = MODELS["flags"]()
    kd.fit(kd.Supervised(student), data, RECIPE)
    assert student[0].sizes == [36]


class Lazy(nn.Module):
    """Makes its layer when it sees its first inputs."""

    def __init__(self):
        super().__init__()
        self.fc, self.made = None, False

    def forward(self, x):
        if not self.made:
            self.fc, self.made = nn.Linear(x[0].numel(), 36, device=x.device), True
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("make", [
    Lazy, lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(36)),
    lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(),
                          nn.LazyLinear(36))])
def test_lazy_layers_are_made_once_and_trained(data, make):
    scheme = kd.Supervised(make())
    scheme.build(next(data.train.batches(8)), 0)
    layer = list(scheme.student.modules())[-1]
    before = layer.weight.detach().clone()
    kd.fit(scheme, data, RECIPE)
    assert list(scheme.student.modules())[-1] is layer
    assert not layer.weight.cpu().equal(before)


# --- what was frozen stays frozen ---------------------------------------------------------------


def normed():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU()),
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 36))


def moved(student, before):
    return [not part.running_mean.cpu().equal(before[part]) for part in before]


@pytest.mark.parametrize(("freeze", "expected"), [
    (lambda net: net, [True, True]),
    (lambda net: net.eval(), [True, True]),  # as a whole: trained in train mode
    (lambda net: net[2].eval(), [True, False]),
    (lambda net: net[2].requires_grad_(False), [True, False]),
    (lambda net: net[0].requires_grad_(False), [False, True]),  # has no parameters of its own
    (lambda net: net[0].eval(), [False, True]),
])
@pytest.mark.parametrize("loop", ["fit", "own"])
def test_frozen_batch_normalisation_stays_frozen(data, freeze, expected, loop):
    student = seeded(normed)
    freeze(student)
    before = {part: part.running_mean.clone() for part in (student[0][1], student[2])}
    scheme = kd.Supervised(student)
    if loop == "fit":
        kd.fit(scheme, data, RECIPE)
    else:
        for batch in data.train.batches(36):
            scheme.eval()
            scheme.train()(batch).loss.backward()
    assert moved(student, before) == expected
    assert student.training and student[3].training
    # The next stage, in which all is trained, with a scheme of its own.
    student.requires_grad_(True).train()
    kd.fit(kd.Supervised(student), data, RECIPE)
    assert moved(student, before) == [True, True]


def test_layers_that_are_unfrozen_move_again_without_a_call_of_train(data):
    student = seeded(normed)
    student[2].requires_grad_(False)
    before = {student[2]: student[2].running_mean.clone()}
    kd.fit(kd.Supervised(student), data, RECIPE)
    assert moved(student, before) == [False]
    student.requires_grad_(True)
    kd.fit(kd.Supervised(student), data, RECIPE)
    assert moved(student, before) == [True]


def test_the_doctor_names_what_stays_in_eval_mode(data):
    student = seeded(normed)
    student[2].eval()
    found = [one.problem for one in kd.doctor(kd.Supervised(student), data)]
    assert any("stays in it while its weights are trained: 2 (BatchNorm2d)" in one for one in found)
    student[2].requires_grad_(False)
    diagnosis = kd.doctor(kd.Supervised(student), data)
    assert diagnosis.ok
    assert any("stays in eval mode" in one and "2 (BatchNorm2d)" in one for one in diagnosis.looked)


# --- several outputs ----------------------------------------------------------------------------


class Heads(nn.Module):
    """Returns what `make` makes of two logits [B, 36] and a map."""

    def __init__(self, make):
        super().__init__()
        self.one, self.two, self.make = network(0), network(1), make

    def forward(self, x):
        return self.make(self.one(x), self.two(x), x)


@pytest.mark.parametrize(("make", "entry"), [
    (lambda a, b, x: (a, b), 1),
    (lambda a, b, x: [x.flatten(1)[:, :64], b], 1),
    (lambda a, b, x: {"out": a, "aux": b, "map": x}, "aux"),
])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_one_of_several_outputs_is_chosen(data, make, entry, role):
    model, other = Heads(make), network(2)
    scheme = kd.Distiller(*((model, other) if role == "student" else (other, model)))
    with pytest.raises((TypeError, ValueError), match=r"several that could be logits: .*kd.Logits"):
        kd.fit(scheme, data, RECIPE)
    model = kd.Logits(Heads(make), entry)
    x = data.val.x[:4]
    assert kd.models.predict(model, x).equal(kd.models.predict(model.model.two, x))
    kd.fit(kd.Distiller(*((model, other) if role == "student" else (other, model))), data, RECIPE)


@pytest.mark.parametrize("make", [
    lambda a, b, x: a, lambda a, b, x: (a, x), lambda a, b, x: (a.mean(), a, (x, x)),
    lambda a, b, x: {"loss": b.mean(), "logits": a, "other": b}, lambda a, b, x: {"out": a}])
def test_what_is_unambiguous_needs_no_choice(data, make):
    model, x = Heads(make), data.val.x[:4]
    assert kd.models.predict(model, x).equal(kd.models.predict(model.one, x))


def test_heads_that_are_named_by_the_terms_need_no_choice(data):
    class Deit(Heads):
        def forward(self, x):
            a, b = self.one(x), self.two(x)
            return (a, b) if self.training else (a + b) / 2

    student = Deit(None)
    last = len(student.one) - 1
    before = [student.one[last].weight.clone(), student.two[last].weight.clone()]
    objective = 0.5 * CE(f"one.{last}") + 0.5 * HardLabel(student=f"two.{last}")
    kd.fit(kd.Distiller(student, network(2), objective), data, RECIPE)
    assert not student.cpu().one[last].weight.equal(before[0])
    assert not student.two[last].weight.equal(before[1])
    assert kd.taps(kd.Logits(student, 0), [f"two.{last}"])(data.val.x[:2]).taps


def test_an_entry_that_is_not_there():
    with pytest.raises(OutputError, match="the entry 'out' of the output of Heads, got tuple"):
        kd.Logits(Heads(lambda a, b, x: (a, b)), "out")(torch.rand(2, 1, 12, 12))


class Pyramid(nn.Module):
    """A backbone without logits: a list of maps."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return [self.a(x), self.b(self.a(x))]


def test_a_teacher_without_logits_teaches_its_features(data, smoke):
    teacher = Pyramid()
    scheme = kd.Distiller(network(), teacher, CE() + 1e-3 * Hint("2", "b", projection="1x1"))
    kd.fit(scheme, data, RECIPE)
    assert kd.report(scheme, data).rows["teacher"]["parameters"] > 0
    assert kd.doctor(scheme, data).looked
    with pytest.raises(TypeError, match="several that could be logits"):
        kd.fit(kd.Distiller(network(), teacher, KD()), data, RECIPE)


def test_a_student_without_logits_is_trained_and_not_validated(data):
    scheme = kd.Distiller(Pyramid(), Pyramid(), Hint("b", "b"))
    with pytest.warns(UserWarning, match="not validated"):
        assert kd.fit(scheme, data, RECIPE)["val_accuracy"] == [None, None]


# --- the average is judged ----------------------------------------------------------------------


def test_the_average_is_validated_reported_exported_and_kept(data, tmp_path, smoke):
    class Averaging(kd.Supervised):
        def after_step(self):
            super().after_step()
            for mean, p in zip(self.by_hand, self.student.parameters(), strict=True):
                mean.mul_(0.8).add_(p.detach().cpu(), alpha=0.2)

    scheme = Averaging(network())
    scheme.by_hand = [p.detach().clone() for p in scheme.student.parameters()]
    history = kd.fit(scheme.averaged(0.8), data, RECIPE)
    exported = kd.export(scheme.cpu())
    for mean, p in zip(scheme.by_hand, exported.parameters(), strict=True):
        torch.testing.assert_close(p, mean)
    accuracy = kd.measure.accuracy(kd.models.predict(exported, data.val.x), data.val.y)
    assert history["val_accuracy"][-1] == pytest.approx(accuracy)
    report = kd.report(scheme, data).rows
    right = kd.measure.accuracy(kd.models.predict(exported, data.test.x), data.test.y)
    assert list(report) == ["student"]
    assert report["student"]["accuracy"] == pytest.approx(right)
    assert not scheme.teachers


def test_the_average_goes_on_from_a_checkpoint(data, tmp_path):
    def train(path, stop=None):
        def end(row):
            if row["epoch"] == stop:
                raise KeyboardInterrupt

        scheme = kd.Distiller(network(), network(1)).averaged(0.9)
        kd.fit(scheme, data, RECIPE, checkpoint=path, on_epoch=end)
        return [*kd.export(scheme).parameters(), *scheme.student.parameters()]

    train(tmp_path / "run", stop=1)
    for one, other in zip(train(tmp_path / "run"), train(None), strict=True):
        assert one.equal(other)
    with pytest.raises(ValueError, match="to be of scheme"):
        kd.fit(kd.Distiller(network(), network(1)), data, RECIPE, checkpoint=tmp_path / "run")


# --- a frozen base that is shared ---------------------------------------------------------------


class Adapted(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.adapter = base, nn.Linear(144, 36)

    def forward(self, x):
        return self.base(x) + self.adapter(x.flatten(1))


def test_a_frozen_base_may_be_shared_with_the_teacher(data):
    base = network()
    with pytest.raises(ValueError, match="weights of its own"):
        kd.Distiller(Adapted(base), base)
    base.requires_grad_(False)
    before = copy.deepcopy(base.state_dict())
    student = Adapted(base)
    kd.fit(kd.Distiller(student, base), data, RECIPE)
    student.cpu()
    assert all(value.equal(before[name]) for name, value in base.state_dict().items())
    assert student.adapter.weight.grad is None
    with pytest.raises(ValueError, match="weights of its own"):
        kd.Distiller(base, base)
