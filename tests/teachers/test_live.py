"""What all teachers have in common, and those that run a network in every step."""

import copy
import dataclasses
import types

import pytest
import torch
from conftest import network, restless, state
from torch import nn
from torchvision.transforms import v2

import kdcourse as kd
from kdcourse import zoo
from kdcourse.data import Batch
from kdcourse.taps import Output
from kdcourse.teachers import Teacher, as_teacher

RECIPE = kd.Recipe(epochs=2, batch=36)


def batch_of(data, size=8):
    return next(data.train.batches(size))


# --- frozen -------------------------------------------------------------------------------------


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


def test_the_teacher_is_a_frozen_part_of_the_scheme(data):
    student, teacher = network(), restless()
    scheme = kd.Distiller(student, teacher)
    ours = {id(p) for p in student.parameters()}
    assert {id(p) for p in scheme.parameters() if p.requires_grad} == ours
    assert teacher in set(scheme.modules())
    scheme.train()
    assert scheme.training
    assert not any(module.training for module in (scheme.teacher, *teacher.modules()))


@pytest.mark.parametrize("make", [
    kd.Live, lambda net: kd.Ensemble([net, restless(2)], [1, 2]), lambda net: Net(net)])
def test_a_frozen_teacher_is_not_saved(make):
    teacher = make(restless(1))
    scheme = kd.Distiller(network(), teacher)
    assert set(scheme.state_dict()) == {f"student.{name}" for name in scheme.student.state_dict()}
    assert teacher.state_dict() == {}
    before = [state(net) for net in teacher.networks()]
    other = kd.Distiller(network(5), make(restless(3)))
    scheme.load_state_dict(other.state_dict())  # strict
    assert state(scheme.student) == state(network(5))
    assert [state(net) for net in teacher.networks()] == before
    with pytest.raises(RuntimeError, match=r"Missing key.*student"):
        scheme.load_state_dict({})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*student.*more"):
        scheme.load_state_dict(other.state_dict() | {"student.more": torch.ones(1)})


def test_a_teacher_with_dropout_answers_the_same_each_time(data):
    teacher, batch = kd.Live(restless()), batch_of(data)
    first = teacher(batch).logits
    teacher.model.train()
    assert torch.equal(teacher(batch).logits, first)
    assert not first.requires_grad
    torch.testing.assert_close(teacher.predict(batch.x), first)
    teacher.train()
    assert not teacher.model.training


def test_the_teacher_moves_with_the_scheme():
    teacher = restless()
    scheme = kd.Distiller(network(), kd.Live(teacher, nn.BatchNorm2d(1)))
    scheme.double()
    assert {t.dtype for t in (*teacher.parameters(), *scheme.teacher.transform.parameters())
            } == {torch.float64}
    scheme.to("meta")
    assert {p.device.type for p in teacher.parameters()} == {"meta"}
    assert {b.device.type for b in scheme.teacher.transform.buffers()} == {"meta"}


def test_a_copy_of_a_scheme_shares_the_teacher():
    scheme = kd.Distiller(network(), restless())
    assert copy.deepcopy(scheme).teacher is scheme.teacher


def test_a_step_of_an_optimiser_that_holds_everything_does_not_move_the_teacher(data):
    teacher = restless(1)
    scheme, before = kd.Distiller(network(), teacher), state(teacher)
    optimizer = torch.optim.AdamW(scheme.parameters(), weight_decay=0.1)
    scheme(batch_of(data)).loss.backward()
    optimizer.step()
    assert state(teacher) == before
    assert state(scheme.student) != state(network())


@pytest.mark.usefixtures("inductor")
def test_a_compiled_scheme_trains_the_same_student(data):
    students = []
    for compiled in (False, True):
        torch.compiler.reset()
        scheme = kd.Distiller(network(), kd.Live(restless(1), lambda x: x.square()))
        kd.fit(scheme, data, dataclasses.replace(RECIPE, compile=compiled))
        students.append(scheme.student)
    for one, other in zip(*(student.parameters() for student in students), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_only_images_and_kernels_are_laid_out_anew(data):
    """A convolution in three dimensions has a weight with five axes, which stays as it is."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.deep, self.net = nn.Conv3d(1, 1, 3, padding=1), network()

        def forward(self, x):
            return self.net(self.deep(x[:, None])[:, 0])

    scheme = kd.Distiller(Deep(), Deep())
    kd.fit(scheme, data, dataclasses.replace(RECIPE, channels_last=True))
    for net in (scheme.student, scheme.teacher.model):
        assert net.deep.weight.is_contiguous()
        assert net.net[1][0].weight.is_contiguous(memory_format=torch.channels_last)


# --- names --------------------------------------------------------------------------------------


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
        assert repr(kd.Live(teacher, v2.RGB())) == "Live(teacher('tiny'), transform=RGB())"
    teacher[-1].weight.mul_(2)
    changed = repr(kd.Live(teacher))
    assert changed.startswith("teacher('tiny')#")
    teacher[-1].weight.mul_(0.5)
    assert repr(kd.Live(teacher)) == "teacher('tiny')"
    teacher[-1] = nn.Linear(16, 36)
    assert repr(kd.Live(teacher)) not in (changed, "teacher('tiny')")


def test_a_transform_reads_the_same_in_every_process():
    def name(transform):
        return repr(kd.Live(network(), transform))

    assert name(v2.Normalize([0.3], [0.2])).endswith("Normalize(mean=[0.3], std=[0.2], "
                                                     "inplace=False))")
    assert " 0x" not in name(lambda x: x) + name(nn.Identity().forward)
    assert name(kd.models.Normalize(0.5, 1)) == name(kd.models.Normalize(0.5, 1))
    assert name(kd.models.Normalize(0.5, 1)) != name(kd.models.Normalize(0.4, 1))


@pytest.mark.parametrize("teacher", ["glyphs", None, lambda batch: batch])
def test_what_is_no_teacher(teacher):
    for make in (lambda: kd.Distiller(network(), teacher), lambda: kd.Ensemble([teacher])):
        with pytest.raises(TypeError, match=r"Expected a network.* got .*subclass of kd.teachers"):
            make()
    with pytest.raises(TypeError, match="Expected a network"):
        kd.Live(teacher)
    with pytest.raises(TypeError, match=r"Expected a network .* got Live"):
        kd.Live(kd.Live(network()))


# --- the teacher's own inputs -------------------------------------------------------------------


class Wants(nn.Module):
    """A network that only takes 3 x 8 x 8 inputs, and remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 36)

    def forward(self, x):
        self.shown = x
        return self.layer(x.flatten(1))


MEAN, STD = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]
TRANSFORM = v2.Compose([v2.Resize((8, 8), antialias=True), v2.Normalize(MEAN, STD)])


def test_a_teacher_sees_its_own_normalisation_and_size(data):
    model = Wants()
    teacher, batch = kd.Live(model, TRANSFORM), batch_of(data)
    logits = teacher(batch).logits
    # The numbers that Live(model, mean=…, std=…, size=8) gave before there were transforms.
    small = nn.functional.interpolate(batch.x, (8, 8), mode="bilinear", align_corners=False,
                                      antialias=True)
    by_hand = torch.cat([(small - m) / s for m, s in zip(MEAN, STD, strict=True)], 1)
    torch.testing.assert_close(model.shown, by_hand)
    torch.testing.assert_close(teacher.predict(batch.x), logits)
    assert "mean=[0.4, 0.5, 0.6]" in repr(teacher)
    scheme = kd.Distiller(network(), teacher)
    kd.fit(scheme, data, RECIPE)
    cached = kd.Cached(teacher, data)
    torch.testing.assert_close(cached(batch).logits, logits)


def test_a_transform_is_whatever_can_be_called(data):
    """Another modality: the teacher looks at another part of the inputs than the student."""
    x = torch.cat([data.train.x[:8], data.train.x[8:16]], 1)
    teacher = kd.Live(network(1), transform=lambda x: x[:, 1:])
    batch = Batch(x, data.train.y[:8], torch.arange(8))
    torch.testing.assert_close(teacher(batch).logits, kd.models.predict(network(1), x[:, 1:]))
    torch.testing.assert_close(teacher.predict(x), teacher(batch).logits)


def test_a_grey_image_for_a_network_with_three_channels(data):
    model, batch = network(channels=3), batch_of(data)
    teacher = kd.Live(model, transform=v2.RGB())
    expected = kd.models.predict(model, batch.x.expand(-1, 3, -1, -1))
    torch.testing.assert_close(teacher(batch).logits, expected)
    kd.fit(kd.Distiller(network(), teacher), data, RECIPE)
    for use in (lambda: kd.fit(kd.Distiller(network(), model), data, RECIPE),
                lambda: kd.fit(kd.Distiller(network(), kd.Ensemble([network(1), model])), data),
                lambda: kd.Cached(model, data)):
        with pytest.raises(ValueError, match=r"takes inputs of shape \[1, 12, 12\], got Runt.*"
                                             r"3 channels.*transform=v2.RGB\(\)\) makes three"):
            use()


@pytest.mark.parametrize("model", [Wants, lambda: kd.models.mlp(size=24)])
def test_another_size_says_what_to_do(data, model):
    with pytest.raises(ValueError, match=r"shape \[1, 12, 12\], got .*v2.Resize\(224\) another"):
        kd.fit(kd.Distiller(network(), model()), data, RECIPE)


class Wraps(nn.Module):
    """What people write around a model: the network, and what is read of its output."""

    def __init__(self, read):
        super().__init__()
        self.net, self.read = network(1), read

    def forward(self, x):
        return self.read(self.net(x))


def no_logits(logits):
    """As CLIP: an object of embeddings."""
    return types.SimpleNamespace(image_embeds=logits, text_embeds=logits)


def two_maps(logits):
    """As a segmenter of torchvision with an auxiliary head."""
    return {"out": logits, "aux": logits}


@pytest.mark.parametrize(("model", "message"), [
    (lambda: Wraps(no_logits), "logits of shape .* from the model, got SimpleNamespace. Wrap the"),
    (lambda: Wraps(two_maps), "several that could be logits: 'out' .*, 'aux'.* Choose one"),
    (lambda: Wraps(lambda logits: logits[:, 0]), r"logits of shape .* got shape \[\d+\]. Wrap"),
    (lambda: kd.Logits(Wraps(no_logits), "logits"), "the entry 'logits' of the output of Wraps"),
    (lambda: kd.Logits(Wraps(two_maps), "main"), "the entry 'main' of the output of Wraps"),
    (lambda: kd.Logits(Wraps(tuple), 99), "the entry 99 of the output of Wraps, got tuple"),
    (lambda: Wraps(lambda logits: logits.logits), "no attribute 'logits'. Its forward, or the tr"),
    (lambda: Wraps(lambda logits: two_maps(logits)["logits"]), "KeyError: 'logits'. Its forward"),
])
def test_an_output_that_has_no_logits_is_no_matter_of_the_inputs(data, model, message):
    """The sentence is about the output: no advice on channels and sizes."""
    for use in (lambda: kd.fit(kd.Distiller(network(), model()), data, RECIPE),
                lambda: kd.fit(kd.Distiller(network(), kd.Ensemble([network(1), model()])), data),
                lambda: kd.Cached(model(), data)):
        with pytest.raises((TypeError, ValueError), match=message) as error:
            use()
        assert "v2." not in str(error.value)


def test_a_transform_that_cannot_be_called():
    with pytest.raises(TypeError, match=r"a transform that can be called .* got 0.5"):
        kd.Live(network(), 0.5)


# --- a teacher of one's own ---------------------------------------------------------------------


class Net(Teacher):
    """The smallest one with a network."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, batch, paths=()):
        return Output(self.net(batch.x), index=batch.index)

    def predict(self, x, y=None):
        return kd.models.predict(self.net, x)


class Oracle(Teacher):
    """Answers with the labels, and for these data only."""

    uses_labels = True

    def __init__(self, data):
        super().__init__()
        self.data = data

    def forward(self, batch, paths=()):
        return Output(10 * torch.eye(36, device=batch.y.device)[batch.y])

    def check(self, data):
        assert data is self.data


def test_a_teacher_of_ones_own(data, monkeypatch):
    oracle = Oracle(data)
    assert as_teacher(oracle) is oracle
    scheme = kd.Distiller(network(), oracle)
    assert len(kd.fit(scheme, data, RECIPE)) == 2
    cached = kd.Cached(oracle, data)
    assert torch.equal(cached.logits.argmax(1), data.train.y)
    relabeled = dataclasses.replace(data, train=dataclasses.replace(data.train,
                                                                    y=data.train.y.flip(0)))
    with pytest.raises(ValueError, match="labels that were cached"):
        cached.check(relabeled)
    monkeypatch.setenv("KDCOURSE_SMOKE", "1")
    assert list(kd.report(scheme, data).rows) == ["student"]


def test_a_teacher_of_ones_own_is_frozen_too(data):
    net = restless(1).train()
    before = state(net)
    scheme = kd.Distiller(network(), Net(net))
    assert not any(p.requires_grad for p in net.parameters())
    kd.fit(scheme, data, RECIPE)
    assert state(net) == before
    assert kd.Distiller(network(), Net(net)).to("meta").teacher.net[0].weight.device.type == "meta"


def test_an_answer_has_no_gradient_whatever_the_teacher_does(data):
    class Attached(Net):
        def forward(self, batch, paths=()):
            with torch.enable_grad():
                x = batch.x.clone().requires_grad_()
                return Output(self.net(x), {"x": x})

    answer = Attached(network(1))(batch_of(data))
    assert not answer.logits.requires_grad
    assert not answer.taps["x"].requires_grad


def test_a_teacher_that_returns_a_tensor_is_told(data):
    class Bare(Net):
        def forward(self, batch, paths=()):
            return self.net(batch.x)

    with pytest.raises(TypeError, match="an Output from the forward of Bare, got Tensor"):
        Bare(network(1))(batch_of(data))


def test_weights_that_are_replaced_in_another_precision_get_inputs_in_it(data):
    net, x = network(), data.train.x[:4]
    teacher = kd.Live(net)
    net.load_state_dict({name: t.double() if t.is_floating_point() else t
                         for name, t in net.state_dict().items()}, assign=True)
    batch = next(data.train.batches(4))
    torch.testing.assert_close(teacher(batch).logits, net(batch.x.double()))
    assert teacher.predict(x).shape == (4, 36)
