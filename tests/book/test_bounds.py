"""What bounds a step: counts that are known, and bounds that are quotients."""

import pytest
import torch
from torch import nn

import benchmark
import bounds
import kdcourse as kd

CPU = torch.device("cpu")


@pytest.mark.parametrize(("step", "operations", "numbers"), [
    (lambda x: x + 1, 1, 24), (lambda x: x.add_(1), 1, 24), (lambda x: x.view(4, 3).t(), 0, 0),
    (lambda x: (x + x).sum(), 2, 36 + 13), (lambda x: x @ x.t()[:, :2], 1, 12 + 8 + 6)])
def test_operations_and_bytes_are_counted(step, operations, numbers):
    x = torch.ones(3, 4)
    assert bounds.counted(lambda: step(x)) == (operations, 4 * numbers)


def test_the_backward_pass_is_counted():
    x = torch.ones(5, requires_grad=True)
    forward, _ = bounds.counted(lambda: (x * 2).sum())
    assert bounds.counted(lambda: (x * 2).sum().backward())[0] > forward


@pytest.mark.parametrize("batch", [1, 8])
def test_arithmetic_is_that_of_the_multiply_accumulates(batch):
    student, teacher = nn.Linear(10, 5), nn.Linear(10, 7)
    assert bounds.flops(student, None, (10,), batch) == batch * 6 * 50
    assert bounds.flops(student, teacher, (10,), batch) == batch * (6 * 50 + 2 * 70)
    assert kd.measure.macs(student, (10,)) == 50


def test_bounds_are_quotients():
    of = {"launch_seconds": 1e-6, "bytes_per_second": 1e9, "flops_per_second": 1e12}
    found = bounds.bounds(100, 10**6, 10**9, of)
    assert found == {"launches": pytest.approx(1e-4), "memory": 1e-3, "arithmetic": 1e-3}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_machine_is_measured(precision):
    assert all(value > 0 for value in bounds.machine(CPU, precision, large=False).values())


def test_a_row_has_what_the_page_draws():
    found = benchmark.bounded(benchmark.Setting(CPU, batch=4), rounds=1, large=False)
    given, live = found["rows"]
    assert given["name"] == "answers given" and live["name"] == "live teacher"
    for key in ("operations", "bytes", "flops", "eager"):
        assert live[key] > 0 and given[key] > 0
    assert live["operations"] > given["operations"] and live["flops"] > given["flops"]
    assert set(given["seconds"]) == {"launches", "memory", "arithmetic"}
    assert "captured" not in given  # on CUDA only
