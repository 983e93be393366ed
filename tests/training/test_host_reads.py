"""No step makes Python wait for a GPU: nothing reads a value, and nothing comes from the CPU's
memory but by `fed`. Found on a CPU: every operation of forward and backward pass is looked at, and
the forward pass runs on a CUDA device that exists in name only (torch's fake tensors)."""

import contextlib

import pytest
import torch
from conftest import network, restless
from helpers import laws_attention, laws_feature, laws_relation, laws_response
from helpers.graph import CPUGraphs
from helpers.laws import each, tensors
from helpers.trained import TRAINED
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import kdcourse as kd
from kdcourse import losses
from kdcourse.training.fixed import HostReads

ROWS = {str(row): row for laws in (laws_response, laws_feature, laws_attention, laws_relation)
        for row in laws.ROWS}
# In their rows a tensor of the CPU is written down; the terms are looked at as parts of a scheme.
CONSTANTS = ("ctkd", "vid", "overhaul", "softmax_regression")


@pytest.fixture
def modes(monkeypatch):
    """What a test looks with, the last one now. What goes through `fed` is made by Python, and sent
    without waiting: that is not looked at."""
    modes = []

    def fed(make, device, reads=None):
        with modes[-1].excepted() if modes else contextlib.nullcontext():
            value = make()
            return torch.empty_like(value, device=device) if device.type == "cuda" else value

    for module in ("losses.relation.crd", "losses.feature.masked", "losses.response.ctkd",
                   "teachers.cached"):
        monkeypatch.setattr(f"kdcourse.{module}.fed", fed)
    return modes


class Strict(HostReads):
    """Also finds what is new from Python in each step: on a GPU that is a copy."""

    def _why(self, function, args, kwargs):
        name = function._schema.name.removeprefix("aten::")
        if name == "lift_fresh" or kwargs.get("generator") is not None:
            return f"a tensor is made of a number in Python ({name})"
        return super()._why(function, args, kwargs)


def floats(x):
    return each(lambda t: t.float() if t.is_floating_point() else t, x)


def loss_of(name):
    """A function of student, teacher, labels, and an example of them, in float32."""
    if name in TRAINED:
        make, (s, t) = TRAINED[name]
        term = make()
        term.build(s, t, 0)
        return lambda s, t, y: term(s, t), (s, t, None)
    row = ROWS[name]
    s, t, y = row.example(max(5, row.least), 0)
    return row.call, (floats(s), floats(t), y)


@pytest.mark.parametrize("name", [*ROWS, *TRAINED])
def test_no_loss_reads_a_value_and_each_is_the_same_in_a_graph(name, modes):
    """Twice on other numbers: the gradients of a replay are those of the loss itself."""
    call, (s, t, y) = loss_of(name)
    s, t = (each(lambda x: x.detach().clone(), part) for part in (s, t))
    static = [tensor.requires_grad_() for tensor in tensors(s)]

    def passes():
        loss = call(s, t, y)
        loss.backward()
        return loss.detach()

    modes.append(Strict(torch.device("cpu")))
    with modes[-1]:
        passes()
    if ROWS.get(name) is None or ROWS[name].function not in CONSTANTS:
        assert modes[-1].found is None
    if name in TRAINED:  # what it trains, draws or counts has a test in test_step.py
        return
    for tensor in static:
        tensor.grad = None
    kept = []
    replay = CPUGraphs(None).capture(lambda: kept.append(passes()), [])
    gradients = [tensor.grad for tensor in static]
    with torch.no_grad():
        for part in (*tensors(s), *(tensors(t) if t is not None else [])):
            if part.is_floating_point():
                part.mul_(0.9)
    replay()
    found = [kept[0].clone(), *[g if g is None else g.clone() for g in gradients]]
    for tensor in static:
        tensor.grad = None
    expected = [passes(), *[tensor.grad for tensor in static]]
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def moved(module, function, recurse=True):
    """`nn.Module.to` for tensors that exist in name only."""
    for part in module.modules():
        for group in (part._parameters, part._buffers):
            for name, tensor in group.items():
                if tensor is not None:
                    new = function(tensor.detach())
                    group[name] = nn.Parameter(new) if group is part._parameters else new
    return module


@pytest.mark.parametrize("name", [*(name for name, row in ROWS.items()
                                    if row.function not in CONSTANTS), *TRAINED])
def test_every_loss_runs_on_cuda_without_waiting(name, modes, monkeypatch):
    _, (s, t, y) = loss_of(name)
    monkeypatch.setattr(nn.Module, "_apply", moved)
    term = TRAINED[name][0]() if name in TRAINED else None
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        there = lambda x: each(lambda v: torch.empty_like(v, device="cuda"), x)  # noqa: E731
        s, t, y = (part if part is None else there(part) for part in (s, t, y))
        if name in TRAINED:
            term.to("cuda").build(s, t, 0)
            call = lambda s, t, y: term(s, t)  # noqa: E731
        else:
            call = ROWS[name].call
        modes.append(HostReads(torch.device("cuda")))
        with modes[-1]:
            loss = call(s, t, y)
        assert loss.device.type == "cuda"
    assert modes[-1].found is None


# --- whole steps --------------------------------------------------------------------------------


def parts(data):
    teacher = kd.models.resnet(depth=8, width=4, stem_stride=2, size=12)
    return {
        "labels": lambda: kd.Supervised(restless()),
        "live": lambda: kd.Distiller(restless(), teacher),
        "cached": lambda: kd.Distiller(restless(), kd.Cached(teacher, data)),
        "ensemble": lambda: kd.Distiller(network(), kd.Ensemble(
            [network(1), network(2)], weights="confidence")),
        "weighted ensemble": lambda: kd.Distiller(network(), kd.Ensemble(
            [network(1), network(2)], weights=[1, 2])),
        "average": lambda: kd.Distiller(restless(), teacher).averaged(0.9),
        "mutual": lambda: kd.Mutual([restless(), network(1)]),
        "exits": lambda: kd.MultiExit(teacher, ["layer1", "layer2"]),
        "CRD": lambda: kd.Distiller(network(), teacher, losses.CE() + losses.CRD(negatives=9)),
        "CTKD": lambda: kd.Distiller(network(), teacher, losses.CE() + losses.CTKD()),
        "MGD": lambda: kd.Distiller(network(), teacher, losses.CE() + losses.MGD("4", "layer2")),
        "VID": lambda: kd.Distiller(network(), teacher, losses.CE() + losses.VID("4", "layer2")),
        "OFD": lambda: kd.Distiller(network(), teacher, losses.CE() + 1e-3 * losses.OFD(
            "3", "layer2.0.relu:input", margin=-torch.ones(8))),
        "SRRL": lambda: kd.Distiller(network(), teacher, losses.CE() + losses.SRRL(
            "9:input", "fc:input", classifier=teacher.fc)),
    }


@pytest.mark.parametrize("name", parts(None))
@pytest.mark.parametrize("settings", [{"clip": 1.0, "schedule": "cosine"},
                                      {"accumulate": 2, "optimizer": "sgd"}], ids=str)
def test_no_step_reads_a_value(data, name, settings, modes):
    """All that `fit` does between the first and the last step of an epoch, the optimiser too."""
    scheme, found = parts(data)[name](), []
    after = scheme.after_step

    def step():
        after()
        count = len(found)
        if count % 4 == 0:  # after the first step of an epoch
            modes.append(Strict(torch.device("cpu")))
            modes[-1].__enter__()
        elif count % 4 == 2:
            modes[-1].__exit__(None, None, None)
        found.append(modes[-1].found)

    scheme.after_step = step
    kd.fit(scheme, data, kd.Recipe(epochs=2, batch=36, **settings), device="cpu")
    assert found == 8 * [None]


@pytest.mark.parametrize("read", [
    lambda x: x.sum().item(), lambda x: bool((x > 0).any()), lambda x: x[x > 0], torch.nonzero,
    lambda x: x.masked_select(x > 0), torch.unique, lambda x: x.equal(x), lambda x: int(x.sum()),
    lambda x: x.index_put((x > 0,), torch.arange(float((x > 0).sum()))),
    lambda x: torch.repeat_interleave(x.long().abs()), lambda x: x + torch.tensor(2.0),
    lambda x: torch.rand(3, generator=torch.Generator())])
def test_every_way_to_wait_is_found(read):
    with Strict(torch.device("cpu")) as reads:
        read(torch.arange(3.0))
    assert reads.found


@pytest.mark.parametrize("fine", [
    lambda x: x.masked_fill(x > 0, 0), lambda x: torch.where(x > 0, x, 0), lambda x: x[[0, 2]],
    lambda x: x.index_put((x > 0,), torch.zeros(())), nn.Dropout(), lambda x: 2 * x.sum(),
    lambda x: torch.repeat_interleave(x, 2), lambda x: x.index_select(0, x.long())])
def test_what_does_not_wait_is_not_found(fine):
    with HostReads(torch.device("cpu")) as reads:
        fine(torch.arange(3.0))
    assert reads.found is None
    with FakeTensorMode(), HostReads(torch.device("cuda")) as reads:
        fine(torch.arange(3.0, device="cuda"))
    assert reads.found is None or "cpu" in reads.found


@pytest.mark.parametrize("mixed", [
    lambda x: x + torch.tensor(2.0), lambda x: x + torch.rand(3).to("cuda"), lambda x: x.cpu(),
    lambda x: torch.rand(3).to(x), lambda x: torch.zeros(3, device="cuda").copy_(torch.rand(3))])
def test_tensors_of_the_cpu_are_found(mixed):
    with FakeTensorMode(), HostReads(torch.device("cuda")) as reads:
        mixed(torch.arange(3.0, device="cuda"))
    assert "cpu" in reads.found or "cuda" in reads.found
