"""Networks whose weights are not whole in one process: losses in a loop of one's own, `fit` not."""

import os

import pytest
import torch
from helpers.processes import run
from torch import nn

import kdcourse as kd

SHARDED = """
import json, sys, torch, torch.distributed as dist
torch.set_num_threads(1)
from torch.distributed.fsdp import fully_shard
import kdcourse as kd
folder = sys.argv[2]
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
net = lambda width, seed: kd.models.mlp(hidden=(width, width), size=12, seed=seed)
student, teacher, whole = net(16, 0), net(24, 1).eval().requires_grad_(False), net(16, 0)
expected = net(24, 1).eval()
for model in (student, teacher):
    for layer in (model[2], model[4]):
        fully_shard(layer)
    fully_shard(model)
step = torch.optim.SGD(student.parameters(), lr=0.1), torch.optim.SGD(whole.parameters(), lr=0.1)
def loss(model, frozen, x):
    with torch.no_grad():
        answers = frozen(x)
    return kd.losses.kd(model(x), answers, T=2) + kd.losses.logit_mse(model(x), answers)
for number in range(4):
    x = torch.rand(32, 1, 12, 12, generator=torch.Generator().manual_seed(number))
    for one, part, other, optimizer in ((student, x[rank::size], teacher, step[0]),
                                        (whole, x, expected, step[1])):
        optimizer.zero_grad()
        loss(one, other, part).backward()
        optimizer.step()
for name, p in student.named_parameters():
    torch.testing.assert_close(p.full_tensor(), whole.get_parameter(name), rtol=1e-4, atol=1e-6)
found = []
for make in (lambda: kd.Live(teacher),
             lambda: kd.fit(kd.Supervised(student), kd.data.glyphs(144, 72, 72, size=12))):
    try:
        make()
    except ValueError as error:
        found.append(str(error))
json.dump(found, open(f"{folder}/{rank}.json", "w"))
torch.save({}, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.skipif(os.name == "nt", reason="gloo on Windows is another story")
def test_losses_train_a_sharded_student_with_a_sharded_teacher(tmp_path):
    """Four steps of two processes with FSDP are those of one process with the whole batch."""
    for (teacher, student), _ in run(tmp_path / "two", 2, "sharded", SHARDED):
        assert "Expected a teacher whose weights are all in this process, got" in teacher
        assert "Expected a student whose weights are all in this process, got" in student


@pytest.mark.parametrize("who", ["teacher", "student", "cached"])
def test_weights_that_were_not_loaded_are_refused(who, data):
    with torch.device("meta"):
        empty = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 36))
    whole = kd.models.mlp(hidden=(8,))
    make = {"teacher": lambda: kd.Distiller(whole, empty), "cached": lambda: kd.Cached(empty, data),
            "student": lambda: kd.fit(kd.Distiller(empty, whole), data, kd.Recipe(epochs=1))}[who]
    with pytest.raises(ValueError, match=r"weights are all in this process, got 1\.weight as on"):
        make()


@pytest.mark.parametrize("make", [
    lambda p: setattr(p, "ds_id", 3),  # DeepSpeed ZeRO-3 marks its parameters by it
    lambda p: setattr(p, "device_mesh", None)])
def test_weights_that_are_shards_are_refused(make):
    teacher = kd.models.mlp(hidden=(8,))
    make(next(teacher.parameters()))
    with pytest.raises(ValueError, match=r"as a shard\. Load it whole"):
        kd.Live(teacher)
