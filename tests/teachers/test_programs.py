"""Teachers in other precisions, and programs of torch.jit and torch.export."""

import io

import pytest
import torch
from conftest import network
from torch import nn

import kdcourse as kd
from kdcourse._key import key_of
from kdcourse.losses import CE, Hint

RECIPE = kd.Recipe(epochs=1, batch=36, lr=0.01)
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")


def loaded(traced):
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    return torch.jit.load(io.BytesIO(buffer.getvalue()))


def traced(model):
    return torch.jit.trace(model, torch.rand(2, 1, 12, 12))


PROGRAMS = {
    "trace": traced, "freeze": lambda model: torch.jit.freeze(traced(model)),
    "load": lambda model: loaded(traced(model)),
    "export": lambda model: torch.export.export(
        model, (torch.rand(4, 1, 12, 12),),
        dynamic_shapes=({0: torch.export.Dim("samples")},)).module(),
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_teaches_like_the_network_that_it_was_made_of(data, tmp_path, smoke, name,
                                                                wrapped):
    teacher, students = network(1).eval(), []
    program = PROGRAMS[name](teacher)
    program = nn.Sequential(nn.Identity(), program) if wrapped else program
    for one in (teacher, program):
        scheme = kd.Distiller(network(), one)
        # A program computes where it was made.
        kd.fit(scheme, data, RECIPE, device="cpu", checkpoint=tmp_path / str(len(students)))
        students.append(scheme.student)
    for ours, theirs in zip(*(student.parameters() for student in students), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(kd.Cached(program, data).logits, kd.Cached(teacher, data).logits)
    assert kd.doctor(scheme, data).looked
    assert not any("train mode" in one.problem for one in kd.doctor(scheme, data))
    assert "teacher" in kd.report(scheme, data).rows


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_with_other_weights_have_other_keys(name):
    keys = [key_of(kd.Live(PROGRAMS[name](network(seed).eval()))) for seed in (0, 1, 0)]
    assert keys[0].bits != keys[1].bits
    assert keys[0].bits == keys[2].bits


def test_a_program_of_torch_jit_cannot_be_tapped(data):
    with pytest.raises(ValueError, match="one of TorchScript, which has no hooks"):
        kd.Distiller(network(), PROGRAMS["load"](network(1).eval()), CE() + Hint("2", "2"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_teacher_in_another_precision(data, smoke, dtype):
    teacher = network(1).to(dtype)
    expected = teacher.eval()(data.val.x[:4].to(dtype)).float()
    assert kd.Live(teacher).predict(data.val.x[:4]).equal(expected)
    scheme = kd.Distiller(network(), teacher, CE() + kd.losses.KD() + 1e-3 * Hint("2", "2"))
    assert len(kd.fit(scheme, data, RECIPE)) == 1
    assert kd.Cached(teacher, data).logits.dtype == torch.float32
    assert kd.doctor(scheme, data).looked
    assert "accuracy" in kd.report(scheme, data).rows["teacher"]


def test_whole_numbers_are_not_converted():
    net = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 5)).half()
    assert kd.Live(net).predict(torch.arange(6).view(2, 3) % 7).shape == (2, 5)
