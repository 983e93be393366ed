"""The same on a GPU as on the CPU. Where no CUDA GPU is at hand, only the CPU is tried."""

import pytest
import torch
from conftest import network

import kdcourse as kd

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
RECIPE = kd.Recipe(epochs=3, batch=36, optimizer="sgd", lr=0.05)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_GPU)])
def device(request):
    return request.param


def distilled(data, device, recipe=RECIPE, live=True, **settings):
    """The scheme after training, and its history."""
    teacher = network(1) if live else kd.Cached(network(1).to(device), data)
    scheme = kd.Distiller(network(), teacher)
    return scheme, kd.fit(scheme, data, recipe, device=device, **settings)


def close(first, second):
    first, second = (scheme.cpu().state_dict() for scheme in (first, second))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_it_trains_the_student_of_the_cpu(data, device):
    close(distilled(data, device)[0], distilled(data, "cpu")[0])


def test_live_and_cached_train_the_same_student(data, device):
    close(distilled(data, device)[0], distilled(data, device, live=False)[0])


def test_it_goes_on_from_a_checkpoint(data, device, tmp_path):
    whole, _ = distilled(data, device)
    path = tmp_path / "run.safetensors"

    steps = []

    def stop():
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt

    scheme = kd.Distiller(network(), network(1))
    scheme.after_step = stop
    assert kd.fit(scheme, data, RECIPE, device=device, checkpoint=path).interrupted
    again, history = distilled(data, device, checkpoint=path)
    assert len(history) == 3 and history.device.startswith(device)
    close(again, whole)


@pytest.mark.parametrize("settings", [
    {"precision": "bf16"}, {"channels_last": False}, {"accumulate": 2},
    {"optimizer": "adamw", "clip": 1.0}], ids=str)
def test_every_setting_trains_there(data, device, settings):
    scheme, history = distilled(data, device, kd.Recipe(epochs=3, batch=36, **settings))
    assert {p.device.type for p in scheme.parameters()} == {device}
    assert history["loss"][-1] < history["loss"][0]


def test_a_report_is_made_there(data, device):
    scheme, _ = distilled(data, device)
    report = kd.report(scheme, data)
    assert report.device.startswith(device)
    for row in report.rows.values():
        assert row["latency_ms"] > 0


@NO_GPU
def test_no_step_waits_for_the_gpu(data):
    steps = []
    scheme = kd.Distiller(network(), network(1))

    def watch():
        steps.append(1)
        # The first step of an epoch may still wait for its data, the end of an epoch for its loss.
        inside = len(steps) % 4 in (1, 2)
        torch.cuda.set_sync_debug_mode("error" if inside else "default")

    scheme.after_step = watch
    try:
        kd.fit(scheme, data, kd.Recipe(epochs=2, batch=36, clip=1.0), device="cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 8
