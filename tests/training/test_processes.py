"""Several processes train what one would: the same student, the same history, one checkpoint."""

import os

import pytest
import torch
from helpers.processes import run

PROGRAM = """
import json, os, sys, torch, torch.distributed as dist
torch.set_num_threads(1)
import kdcourse as kd
world, folder, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
data = kd.data.glyphs(train=150, val=71, test=72, size=12)
net = lambda seed: kd.models.mlp(hidden=(16,), size=12, seed=seed)  # no batch statistics
terms = kd.losses.CE() + kd.losses.KD(T=2) + 0.1 * kd.losses.Hint("3", "3")
class Heads(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = torch.nn.Linear(144, 36), torch.nn.Linear(144, 36)
    def forward(self, x):
        x = x.flatten(1)
        self.one(x)
        return self.two(x)
def mean_teacher():
    student = net(0)
    return kd.Distiller(student, kd.EMA(student, 0.9), terms)
def cached():  # hardly other answers in each process, which keeps its own
    answers = torch.randn(150, 36, generator=torch.Generator().manual_seed(0))
    answers += 1e-6 * int(os.environ.get("RANK", 0))
    return kd.Distiller(net(0), kd.Cached.of(answers, data, "answers"), kd.losses.hinton())
scheme = {
    "mean teacher": mean_teacher, "cached": cached,
    "distiller": lambda: kd.Distiller(net(0), kd.models.mlp(hidden=(24,), size=12, seed=1), terms),
    # the logits, and what is before them, reach no loss:
    "early layer": lambda: kd.Distiller(
        net(0), kd.models.mlp(hidden=(24,), size=12, seed=1), kd.losses.Hint("3", "3")),
    "one of two heads": lambda: kd.Distiller(
        Heads(), kd.models.mlp(hidden=(24,), size=12, seed=1), kd.losses.KD(T=2, student="one")),
    "mutual": lambda: kd.Mutual([net(0), kd.models.mlp(hidden=(24,), size=12, seed=1)], terms),
    "broken": lambda: kd.Supervised(net(0), kd.losses.CE()),
}[kind]()
before = scheme.teacher.logits.clone() if kind == "cached" else None
recipe = kd.Recipe(epochs=3, batch=37, lr=0.01, clip=1.0, accumulate=2)
if kind == "broken":
    step = iter(range(99))
    forward = scheme.forward
    def breaks(batch):
        outcome = forward(batch)
        if next(step) == 5 and (world == 1 or dist.get_rank() == 1):
            outcome.loss = outcome.loss * float("nan")
        return outcome
    scheme.forward = breaks
try:
    history = kd.fit(scheme, data, recipe, device="cpu", checkpoint=f"{folder}/run.safetensors")
except FloatingPointError as error:
    open(f"{folder}/error{dist.get_rank()}", "w").write(str(error))
    sys.exit(0)
rank = dist.get_rank() if dist.is_initialized() else 0
assert before is None or torch.equal(scheme.teacher.logits, before)
assert world == (dist.get_world_size() if dist.is_initialized() else 1)
json.dump(history.to_dict(), open(f"{folder}/{rank}.json", "w"))
torch.save(scheme.state_dict(), f"{folder}/{rank}.pt")
"""


RESUMED = """
import json, sys, torch, torch.distributed as dist
from torch import nn
torch.set_num_threads(1)
import kdcourse as kd
folder = sys.argv[2]
data = kd.data.glyphs(train=150, val=71, test=72, size=12)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.drop = kd.models.convnet(width=4, size=12), nn.Dropout(0.5)
        self.pooler = nn.Linear(3, 3)  # that nobody calls

    def forward(self, x):
        return self.net(self.drop(x))


def trained(stop=None, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scheme = kd.Supervised(Net())
    steps = []
    def after():
        steps.append(1)
        if len(steps) == stop:
            raise KeyboardInterrupt
    scheme.after_step = after
    recipe = kd.Recipe(epochs=3, batch=23, lr=0.03)  # 12 samples for one process, 11 for the other
    return scheme, kd.fit(scheme, data, recipe, device="cpu", **settings)


whole, _ = trained()
file = f"{folder}/run.safetensors"
assert len(trained(stop=10, checkpoint=file)[1]) == 1
scheme, history = trained(checkpoint=file)
torch.testing.assert_close(scheme.state_dict(), whole.state_dict(), rtol=0, atol=0)
logits = kd.models.predict(scheme.student, data.val.x)
rank = dist.get_rank()
found = {"history": history["val_accuracy"][-1],
         "student": kd.measure.accuracy(logits, data.val.y)}
json.dump(found, open(f"{folder}/{rank}.json", "w"))
torch.save(scheme.state_dict(), f"{folder}/{rank}.pt")
"""


@pytest.mark.skipif(os.name == "nt", reason="gloo on Windows is another story")
@pytest.mark.parametrize("kind", ["distiller", "mutual", "mean teacher", "cached",
                                  "early layer", "one of two heads"])
def test_two_processes_train_what_one_would(tmp_path, kind):
    ((alone, weights),) = run(tmp_path / "one", 1, kind, PROGRAM)
    pair = run(tmp_path / "two", 2, kind, PROGRAM)
    assert len(pair) == 2
    for history, theirs in pair:
        for name, tensor in weights.items():  # projections, peers and averages included
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
        for ours, row in zip(alone["rows"], history["rows"], strict=True):
            assert row["val_accuracy"] == pytest.approx(ours["val_accuracy"], abs=1.01 / 71)
            for part in ours.keys() - {"epoch", "seconds", "val_accuracy"}:
                assert row[part] == pytest.approx(ours[part], rel=1e-4), part
    assert pair[0][0]["rows"][-1]["loss"] == pair[1][0]["rows"][-1]["loss"]  # exact over all
    for name, tensor in pair[0][1].items():
        assert torch.equal(tensor, pair[1][1][name]), name


@pytest.mark.skipif(os.name == "nt", reason="gloo on Windows is another story")
def test_a_loss_that_breaks_in_one_process_stops_all(tmp_path):
    run(tmp_path / "two", 2, "broken", PROGRAM)
    errors = [(tmp_path / "two" / f"error{rank}").read_text() for rank in (0, 1)]
    assert all("NaN or inf at step" in error for error in errors)
    assert errors[0].split("(")[0] == errors[1].split("(")[0]


@pytest.mark.skipif(os.name == "nt", reason="gloo on Windows is another story")
def test_batch_statistics_chance_and_idle_parameters_in_two_processes(tmp_path):
    """One student in both, accurate as the history says, and resumed to the last bit."""
    pair = run(tmp_path / "two", 2, "resumed", RESUMED)
    assert len(pair) == 2
    for found, _ in pair:
        assert found["history"] == pytest.approx(found["student"])
    for name, tensor in pair[0][1].items():
        assert torch.equal(tensor, pair[1][1][name]), name
