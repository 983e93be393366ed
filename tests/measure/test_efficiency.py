"""What a network costs: against files on disk, known waiting times, and sums done by hand."""

import itertools
import time

import pytest
import safetensors.torch
import torch
from conftest import network, restless, state
from torch import nn

from kdcourse import measure


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
    assert measure.latency(slow_start, (4,))[0] < 100


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


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("widths", [(100, 10), (50, 4000, 3000, 10), (4000, 3, 3, 10)])
def test_peak_memory_of_a_chain_by_hand(widths, batch):
    model = nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(widths)])
    weights = sum(a * b + b for a, b in itertools.pairwise(widths))
    # The input and output of one layer, or of the whole.
    most = max(a + b for a, b in [*itertools.pairwise(widths), (widths[0], widths[-1])])
    expected = 4 * (weights + batch * most) / 1e6
    assert measure.peak_memory(model, widths[:1], batch) == pytest.approx(expected, rel=1e-3)


def test_what_is_written_in_place_is_there_once():
    model = nn.Sequential(nn.Linear(10, 2000, bias=False), nn.ReLU(inplace=True))
    assert measure.peak_memory(model, (10,), batch=100) == pytest.approx(
        4 * (20_000 + 100 * 2010) / 1e6)


def test_memory_counts_buffers_and_shared_weights_once():
    shared = nn.Linear(500, 500, bias=False)
    model = nn.Sequential(shared, shared)
    model.register_buffer("table", torch.zeros(10_000))
    assert measure.peak_memory(model, (500,)) == pytest.approx(
        4 * (250_000 + 10_000 + 1000) / 1e6, rel=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_peak_memory_on_a_gpu_is_little_more_than_that_of_the_cpu():
    model = nn.Sequential(nn.Linear(4096, 8192), nn.ReLU(), nn.Linear(8192, 10))
    ours = measure.peak_memory(model, (4096,), batch=256)
    other = torch.zeros(10_000_000, device="cuda")  # somebody else's memory does not count
    theirs = measure.peak_memory(model.cuda(), (4096,), batch=256)
    assert len(other) == 10_000_000
    assert ours <= theirs < 1.1 * ours


def test_the_memory_is_measured_without_a_mark_on_torch():
    """`torch.compile` warns about hooks on all modules for ever, when one is left."""
    module = torch.nn.modules.module
    measure.peak_memory(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), (3,))
    assert not module._global_forward_hooks and not module._global_forward_hooks_with_kwargs


# --- layers of torch.ao.quantization, whose weights are no parameters -----------------------------


def _dynamic(*layers):
    from torch.ao.quantization import quantize_dynamic

    return lambda: quantize_dynamic(nn.Sequential(*layers), {type(one) for one in layers})


def _static(*layers):
    from torch.ao import quantization

    def make():
        net = nn.Sequential(quantization.QuantStub(), *layers, quantization.DeQuantStub())
        net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
        quantization.prepare_qat(net.train(), inplace=True)(torch.rand(2, 3, 9, 9))
        return quantization.convert(net.eval())
    return make


def _embedding(layer):
    from torch.ao import quantization

    def make():
        net = nn.Sequential(layer)
        net.qconfig = quantization.float_qparams_weight_only_qconfig
        return quantization.convert(quantization.prepare(net))
    return make


CONV = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(392, 40))


@pytest.mark.filterwarnings("ignore:.*torch.ao", "ignore:.*quant_min", "ignore:.*reduce_range",
                            "ignore:.*TypedStorage", "ignore:.*torch.jit")
@pytest.mark.parametrize(("make", "layers", "traced"), [
    (_dynamic(nn.Linear(300, 40)), [nn.Linear(300, 40)], False),
    (_dynamic(nn.LSTM(50, 70, 2)), [nn.LSTM(50, 70, 2)], False),
    (_dynamic(nn.GRUCell(50, 70)), [nn.GRUCell(50, 70)], False),
    (_embedding(nn.EmbeddingBag(100, 40)), [nn.EmbeddingBag(100, 40)], False),
    (_static(*CONV), CONV, False), (_static(*CONV), CONV, True),
])
def test_packed_weights_are_counted(make, layers, traced):
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no int8 layers here")
    small = make()
    if traced:
        small = torch.jit.trace(small, torch.rand(2, 3, 9, 9))
    weights = [p for layer in layers for p in layer.parameters()]
    numbers, matrices = (sum(p.numel() for p in weights if p.ndim > least) for least in (0, 1))
    assert measure.parameters(small) == numbers
    smallest = (matrices + 4 * (numbers - matrices)) / 1e6  # int8 matrices, float32 biases
    assert smallest <= measure.file_mb(small) < smallest + 0.003  # a header
    if layers is CONV:
        assert measure.macs(small, (3, 9, 9)) is None
        assert measure.peak_memory(small, (3, 9, 9)) >= smallest


def test_attributes_of_the_same_names_are_no_packed_weights():
    net = nn.Sequential(nn.Linear(3, 2))
    net[0].param, net[0]._packed_params = net[0].weight, torch.ones(5)
    assert measure.parameters(net) == 8
    assert measure.macs(net, (3,)) == 6
