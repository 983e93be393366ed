"""The mean teacher: an average that follows the student, is saved, and moves with its scheme."""

import copy

import pytest
import torch
from conftest import network, restless, state
from torch import nn

import kdcourse as kd

RECIPE = kd.Recipe(epochs=2, batch=36)


def mean_teacher(decay=0.9, student=None):
    student = student or restless()
    return kd.Distiller(student, kd.EMA(student, decay))


def followed(model, steps, decay):
    """The average as a loop over the tensors of the network after each step, in float64."""
    average = {name: value.double() for name, value in model.state_dict().items()}
    for step in steps:
        for name, value in step.items():
            average[name] = (decay * average[name] + (1 - decay) * value.double()
                             if value.is_floating_point() else value)
    return average


def test_it_is_the_moving_average_of_weights_and_statistics(data):
    scheme, start, steps = mean_teacher(), restless(), []
    move = scheme.after_step
    scheme.after_step = lambda: (steps.append({name: value.cpu().clone() for name, value in
                                               scheme.student.state_dict().items()}), move())
    kd.fit(scheme, data, RECIPE)
    assert len(steps) == 8
    for name, expected in followed(start, steps, 0.9).items():
        torch.testing.assert_close(scheme.teacher.model.state_dict()[name].cpu(), expected,
                                   check_dtype=False, rtol=1e-5, atol=1e-6)
    assert scheme.teacher.model[1].num_batches_tracked == 8


def test_it_is_the_average_of_chapter_8(data):
    """A subclass that changes its teacher in after_step, as before there was an EMA."""

    class ByHand(kd.Distiller):
        @torch.no_grad()
        def after_step(self):
            for mean, new in zip(self.teacher.model.state_dict().values(),
                                 self.student.state_dict().values(), strict=True):
                mean.lerp_(new, 1 - 0.9) if mean.is_floating_point() else mean.copy_(new)

    by_hand, scheme = ByHand(restless(), restless()), mean_teacher()
    for one in (by_hand, scheme):
        kd.fit(one, data, RECIPE)
    assert state(scheme.student) == state(by_hand.student)
    assert state(scheme.teacher.model) == state(by_hand.teacher.model)


def test_whole_numbers_are_copied():
    """torch's own average would round 5 * 0.999 + 5 * 0.001 down."""

    class Table(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("index", torch.arange(1000))

    model = Table()
    teacher = kd.EMA(model, 0.999)
    for _ in range(3):
        teacher.after_step()
    assert torch.equal(teacher.model.index, torch.arange(1000))


def test_the_student_is_no_part_of_the_teacher():
    scheme = mean_teacher()
    names = [name for name, _ in scheme.named_parameters()]
    assert len(names) == 2 * len(list(scheme.student.parameters()))
    assert len({id(p) for p in scheme.parameters()}) == len(names)
    assert {id(p) for p in scheme.parameters() if p.requires_grad} == {
        id(p) for p in scheme.student.parameters()}
    assert not any("_followed" in name for name in scheme.state_dict())
    assert kd.export(scheme)(torch.rand(2, 1, 12, 12)).shape == (2, 36)


def test_it_is_frozen_and_in_eval_mode(data):
    scheme = mean_teacher().train()
    assert scheme.student.training
    assert not any(module.training for module in scheme.teacher.modules())
    assert scheme.student[0].weight.requires_grad
    batch = next(data.train.batches(8))
    assert not scheme.teacher(batch).logits.requires_grad
    assert torch.equal(scheme.teacher(batch).logits, scheme.teacher(batch).logits)


def test_it_is_saved(data):
    scheme, other = mean_teacher(), mean_teacher()
    kd.fit(scheme, data, RECIPE)
    assert {name for name in scheme.state_dict() if name.startswith("teacher.")} == {
        f"teacher.model.{name}" for name in scheme.teacher.model.state_dict()}
    other.load_state_dict(scheme.state_dict())
    assert state(other.teacher.model) == state(scheme.teacher.model) != state(restless())
    with pytest.raises(RuntimeError, match=r"Missing key.*teacher\.model"):
        other.load_state_dict({name: value for name, value in scheme.state_dict().items()
                               if not name.startswith("teacher.")})


def test_a_copy_follows_the_student_of_the_copy(data):
    scheme = mean_teacher()
    twin = copy.deepcopy(scheme)
    before = state(scheme)
    kd.fit(twin, data, RECIPE)
    assert state(scheme) == before
    assert state(twin.teacher.model) != before
    kd.fit(scheme, data, RECIPE)
    assert state(scheme) == state(twin)


@pytest.mark.parametrize("ensemble", [False, True])
def test_it_moves_with_the_scheme(ensemble):
    scheme = mean_teacher()
    if ensemble:
        scheme = kd.Distiller(scheme.student, kd.Ensemble([scheme.teacher, restless(1)]))
    scheme.double()
    assert {t.dtype for t in scheme.teacher.parameters()} == {torch.float64}
    with torch.no_grad():
        scheme.student[0].bias.add_(1)
    before = next(net for net in scheme.teacher.networks())[0].bias.clone()
    scheme.after_step()
    torch.testing.assert_close(scheme.teacher.networks()[0][0].bias, before + 0.1)
    assert {p.device.type for p in scheme.to("meta").teacher.parameters()} == {"meta"}


@pytest.mark.long
@pytest.mark.usefixtures("inductor")
def test_it_follows_a_compiled_student(data):
    scheme = mean_teacher(student=torch.compile(network()))
    assert "_orig_mod" not in repr(scheme.teacher)
    kd.fit(scheme, data, kd.Recipe(epochs=1, batch=36))
    assert state(scheme.teacher.model) != state(network())


def test_its_name_is_that_of_the_network():
    assert repr(kd.EMA(network(), 0.99)) == (
        "EMA(convnet(width=4, channels=1, classes=36, size=12), decay=0.99)")


def test_a_report_and_the_doctor_take_it(data, smoke):
    scheme = mean_teacher()
    before = state(scheme)
    kd.doctor(scheme, data)
    assert state(scheme) == before
    assert list(kd.report(scheme, data).rows) == ["teacher", "student"]


@pytest.mark.parametrize("decay", [1.0, -0.1, 1.5, float("nan")])
def test_a_decay_that_cannot_be(decay):
    with pytest.raises(ValueError, match="Expected a decay from 0 to below 1, got"):
        kd.EMA(network(), decay)


def test_what_is_no_network():
    with pytest.raises(TypeError, match="Expected a network"):
        kd.EMA("student")
