"""What a network costs: against files on disk, known waiting times, and sums done by hand."""

import gc
import itertools
import os
import time

import pytest
import safetensors.torch
import torch
from conftest import network, restless, state
from torch import nn

from kdcourse import measure
from kdcourse.measure import cost


class Waits(nn.Module):
    """A network that takes a known time, and notes how it was called."""

    def __init__(self, seconds, first=None):
        super().__init__()
        self.seconds, self.first, self.threads = seconds, first, []

    def forward(self, x):
        time.sleep(self.first if self.first and not self.threads else self.seconds)
        self.threads.append(torch.get_num_threads())
        return x.flatten(1)[:, :2]


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [network(), restless(), restless().half(), nn.Linear(3, 2)])
def test_the_size_of_a_file_is_that_on_disk(tmp_path, model):
    path = tmp_path / "student.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    assert measure.file_mb(model) == path.stat().st_size / 1e6


def test_shared_weights_are_in_the_file_once(tmp_path):
    shared = nn.Linear(100, 100)
    tied = nn.Sequential(shared, shared)
    path = tmp_path / "tied.safetensors"
    safetensors.torch.save_model(tied, path)
    assert measure.file_mb(tied) == pytest.approx(path.stat().st_size / 1e6, abs=2e-4)
    apart = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    assert measure.file_mb(apart) == pytest.approx(2 * measure.file_mb(tied), rel=0.02)


def test_files_of_unusual_networks(tmp_path):
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    whole = torch.rand(128, 64)  # two weights that are views of one tensor
    model[0].weight.data, model[1].weight.data = whole[:64], whole[64:]
    path = tmp_path / "apart.safetensors"
    safetensors.torch.save_file({k: v.clone() for k, v in model.state_dict().items()}, path)
    assert measure.file_mb(model) == path.stat().st_size / 1e6

    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"not": "a tensor"}

        def set_extra_state(self, state):
            pass

    assert measure.file_mb(Extra(64, 64)) == measure.file_mb(nn.Linear(64, 64))
    channels_last = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    assert measure.file_mb(channels_last) == measure.file_mb(nn.Conv2d(8, 8, 3))


# --- time ---------------------------------------------------------------------------------------


def test_latency_and_throughput_of_a_known_time(smoke):
    median, spread = measure.latency(Waits(0.01), (4,))
    assert 10 <= median < 30
    assert 0 <= spread < 20
    images, _ = measure.throughput(Waits(0.01), (4,), batch=50)
    assert 50 / 0.03 < images <= 50 / 0.01


def test_the_warm_up_is_not_counted(smoke):
    slow_start = Waits(0.001, first=0.2)
    times = cost._times(slow_start, (4,), 1, 0.02, least=7)
    assert len(slow_start.threads) > len(times) >= 6
    assert max(times) < 200


def test_the_measuring_takes_the_time_it_is_given():
    start = time.perf_counter()
    measure.latency(Waits(0.001), (4,), seconds=0.2)
    assert 0.2 < time.perf_counter() - start < 2


def test_threads_one_for_latency_and_all_for_throughput(smoke):
    before, model = torch.get_num_threads(), Waits(0)
    torch.set_num_threads(2)
    try:
        measure.latency(model, (4,))
        assert set(model.threads) == {1}
        model.threads.clear()
        measure.throughput(model, (4,))
        assert set(model.threads) == {2}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_medians_and_quartiles():
    assert cost._median_iqr([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0]) == (4.0, 4.0)


@pytest.mark.parametrize("function", [measure.throughput, measure.peak_memory])
def test_measuring_leaves_no_trace(smoke, function):
    model = restless()
    before, threads, random = state(model), torch.get_num_threads(), torch.get_rng_state()
    function(model, (1, 12, 12), 4)
    assert state(model) == before
    assert model.training
    assert torch.get_num_threads() == threads
    if function is measure.peak_memory:
        assert torch.equal(torch.get_rng_state(), random)


# --- memory -------------------------------------------------------------------------------------


def widths_at_peak(widths):
    """The input, which its caller holds, and the two layers that are there at one time."""
    inner = [0, *widths[1:]]
    return widths[0] + max(a + b for a, b in itertools.pairwise(inner))


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("widths", [(100, 10), (50, 4000, 3000, 10), (4000, 3, 3, 10)])
def test_peak_memory_of_a_chain_by_hand(widths, batch):
    model = nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(widths)])
    weights = sum(a * b + b for a, b in itertools.pairwise(widths))
    expected = 4 * (weights + batch * widths_at_peak(widths)) / 1e6
    assert measure.peak_memory(model, widths[:1], batch) == pytest.approx(expected, rel=1e-3)


def test_what_is_kept_for_a_shortcut_counts():
    class Shortcut(nn.Module):
        def forward(self, x):
            first = x + 1
            for _ in range(3):
                x = x * 2
            return x + first

    # The input, the first sum, the last product and the result.
    assert measure.peak_memory(Shortcut(), (1000,), batch=10) == pytest.approx(
        4 * 4e4 / 1e6, rel=1e-3)


def test_memory_counts_buffers_and_shared_weights_once():
    shared = nn.Linear(500, 500, bias=False)
    model = nn.Sequential(shared, shared)
    model.register_buffer("table", torch.zeros(10_000))
    assert measure.peak_memory(model, (500,)) == pytest.approx(
        4 * (250_000 + 10_000 + 1500) / 1e6, rel=1e-3)


def test_the_profiler_is_silent_and_the_environment_is_left_alone(capfd, monkeypatch):
    for level in (None, "3"):
        if level is None:
            monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
        else:
            monkeypatch.setenv("KINETO_LOG_LEVEL", level)
        measure.peak_memory(nn.Linear(3, 2), (3,))
        assert os.environ.get("KINETO_LOG_LEVEL") == level
        assert gc.isenabled()
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_peak_memory_on_a_gpu_is_that_of_the_cpu_to_rounding():
    model = nn.Sequential(nn.Linear(4096, 8192), nn.ReLU(), nn.Linear(8192, 10))
    ours = measure.peak_memory(model, (4096,), batch=256)
    other = torch.zeros(10_000_000, device="cuda")  # somebody else's memory does not count
    theirs = measure.peak_memory(model.cuda(), (4096,), batch=256)
    assert len(other) == 10_000_000
    assert theirs == pytest.approx(ours, rel=0.02)
