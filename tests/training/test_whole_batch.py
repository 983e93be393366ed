"""A mean that is divided by the weights of the labels is one over the whole batch: over the parts
of `accumulate`, and over processes. Against `torch.nn.functional.cross_entropy` of the batch."""

import copy
import dataclasses
import os

import pytest
import torch
import torch.nn.functional as F
from helpers.processes import run
from torch import nn

import kdcourse as kd
from kdcourse import losses, tasks

K, WEIGHT = 4, [0.1, 1.0, 5.0, 30.0]


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def net(inputs=7, convolution=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Conv2d(1, K, 1) if convolution else nn.Linear(inputs, K)


def labels(*shape, missing=None):
    y = torch.randint(K, shape, generator=draw(1))
    return y if missing is None else y.masked_fill(torch.rand(shape, generator=draw(2)) < 0.6,
                                                   missing)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, words):
        return self.net(words)


CASES = {
    "classes": (lambda: torch.randn(24, 7, generator=draw()), labels(24), None, net),
    "partly": (lambda: torch.randn(24, 7, generator=draw()), labels(24, missing=-1),
               tasks.Classes(ignore=-1), net),
    "tokens": (lambda: {"words": torch.randn(24, 5, 7, generator=draw())},
               labels(24, 5, missing=-100), tasks.Tokens(), Tagger),
    "pixels": (lambda: torch.randn(24, 1, 3, 3, generator=draw()), labels(24, 3, 3, missing=255),
               tasks.Pixels(ignore=255), lambda: net(convolution=True)),
}
TERMS = [(lambda: losses.CE(weight=WEIGHT), {"weight": torch.tensor(WEIGHT).double()}, None),
         (lambda: losses.CE(ignore_index=2), {}, 2),
         (lambda: losses.CE(weight=WEIGHT, ignore_index=0),
          {"weight": torch.tensor(WEIGHT).double()}, 0),
         (lambda: losses.LabelSmoothing(0.2, ignore_index=3), {"label_smoothing": 0.2}, 3)]


@pytest.mark.parametrize("accumulate", [1, 3, 5])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("term", "torchs", "left_out"), TERMS)
def test_a_step_is_that_of_the_batch(case, term, torchs, left_out, accumulate):
    make_x, y, task, make = CASES[case]
    x, student, none = make_x(), make(), getattr(task, "ignore", None)
    data = kd.data.from_arrays(x, y, val=(x, y), test=(x, y), task=task, classes=K)
    expected = copy.deepcopy(student).double()
    axis = task.axis if task else 1
    z = expected(**{k: v.double() for k, v in x.items()}) if isinstance(x, dict) else (
        expected(x.double()))
    y = y.masked_fill(y == none, -100) if none is not None else y
    y = y.masked_fill(y == left_out, -100) if left_out is not None else y
    loss = F.cross_entropy(z.movedim(axis, -1).flatten(0, -2), y.flatten(), **torchs)
    (0.7 * loss).backward()
    recipe = kd.Recipe(epochs=1, batch=24, lr=1e-3, optimizer="sgd", warmup=0, clip=None,
                       accumulate=accumulate)
    found = []
    history = kd.fit(kd.Supervised(student, 0.7 * term()), data, recipe, device="cpu",
                     on_step=lambda step: found.extend(p.grad.clone() for p in
                                                       student.parameters()))
    assert history["loss"][0] == pytest.approx(0.7 * float(loss.detach()), rel=1e-5)
    for one, other in zip(found, expected.parameters(), strict=True):
        torch.testing.assert_close(one.double(), other.grad, rtol=1e-4, atol=1e-6)


class Relabels(kd.Supervised):
    """Makes labels of its own, of a constant class."""

    def forward(self, batch):
        return super().forward(dataclasses.replace(batch, y=0 * batch.y))


@pytest.mark.parametrize("term", [losses.CE(weight=WEIGHT), losses.CE(ignore_index=2)])
def test_a_scheme_with_labels_of_its_own_is_refused_in_parts_only(term):
    x, y = torch.randn(24, 7, generator=draw()), labels(24)
    data = kd.data.from_arrays(x, y, val=(x, y), test=(x, y))
    scheme = Relabels(net(), term)
    kd.fit(scheme, data, kd.Recipe(epochs=1, batch=24))
    with pytest.raises(ValueError, match=r"batch beside class weights .*accumulate=1"):
        kd.fit(scheme, data, kd.Recipe(epochs=1, batch=24, accumulate=2))


def test_a_batch_without_a_label_that_counts_has_a_loss_of_0():
    y = torch.tensor([2, 0, 1, 3])
    data = kd.data.from_arrays(torch.randn(4, 7), y, val=(torch.randn(4, 7), y),
                               test=(torch.randn(4, 7), y))
    only = [0.0, 0.0, 0.0, 0.0]
    recipe = kd.Recipe(epochs=1, batch=4, accumulate=4)
    assert kd.fit(kd.Supervised(net(), losses.CE(weight=only)), data, recipe)["loss"] == [0.0]


def test_terms_beside_it_are_what_they_were():
    x, y = torch.randn(24, 7, generator=draw()), labels(24)
    data = kd.data.from_arrays(x, y, val=(x, y), test=(x, y))
    recipe = kd.Recipe(epochs=1, batch=24, accumulate=3)
    teacher = nn.Sequential(net())
    rows = []
    for term in (losses.CE(), losses.CE(weight=WEIGHT)):
        student = nn.Sequential(net())
        student[0].weight.data.mul_(2)
        objective = term + losses.KD(T=2) + losses.DKD() + losses.Hint("0", "0")
        rows.append(kd.fit(kd.Distiller(student, teacher, objective), data, recipe).rows[0])
    for name in ("KD", "DKD", "Hint"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-5)
    assert rows[0]["CE"] != rows[1]["CE"]


PROGRAM = """
import json, sys, torch, torch.distributed as dist
from torch import nn
torch.set_num_threads(1)
import kdcourse as kd
from kdcourse import losses, tasks
world, folder, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
draw = torch.Generator().manual_seed(0)
x, y = torch.randn(48, 7, generator=draw), torch.randint(4, (48,), generator=draw)
torch.manual_seed(0)
task = None
if "partly" in kind:
    y[torch.rand(48, generator=draw) < 0.5], task = -100, tasks.Classes(ignore=-100)
student = nn.Linear(7, 4)
rank = int(__import__("os").environ.get("RANK", 0))
if "memory" in kind:
    data = kd.data.from_arrays(x, y, val=(x, y), test=(x, y), classes=4, name="one", task=task)
else:
    size = 12 // world
    mine = [rows[rank * size : (rank + 1) * size] for rows in torch.arange(48).view(4, 12)]
    data = kd.data.from_loaders([(x[rows], y[rows]) for rows in mine], [(x, y)], classes=4,
                                name="stream", task=task)
scheme = kd.Supervised(student, losses.CE(weight=[0.1, 1, 5, 30]))
recipe = kd.Recipe(epochs=2, batch=12, lr=0.1, optimizer="sgd", accumulate=2)
history = kd.fit(scheme, data, recipe, device="cpu")
assert world == (dist.get_world_size() if dist.is_initialized() else 1)
json.dump(history.to_dict(), open(f"{folder}/{rank}.json", "w"))
torch.save(scheme.state_dict(), f"{folder}/{rank}.pt")
"""


@pytest.mark.skipif(os.name == "nt", reason="gloo on Windows is another story")
@pytest.mark.parametrize("kind", ["memory", "stream", "stream, partly"])
def test_two_processes_train_what_one_would(tmp_path, kind):
    ((alone, weights),) = run(tmp_path / "one", 1, kind, PROGRAM)
    for history, theirs in run(tmp_path / "two", 2, kind, PROGRAM):
        torch.testing.assert_close(theirs, weights, rtol=1e-4, atol=1e-6)
        for ours, row in zip(alone["rows"], history["rows"], strict=True):
            assert row["CE"] == pytest.approx(ours["CE"], rel=1e-4)
