"""`nox -s gpu`: one table for a machine with a GPU; here its parts run on a CPU."""

import sys

import pytest
import torch

import gpu


def call(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *args])
    monkeypatch.setattr(gpu.os, "environ", dict(gpu.os.environ))
    status = gpu.main()
    return status, capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    status, out = call(monkeypatch, capsys)
    assert status == 1
    assert out.startswith("Expected a CUDA GPU, got none that torch can use.")


def test_a_machine_without_the_packages_hears_which(monkeypatch, capsys):
    assert gpu.missing("torch", "no_such_package", "nor_this") == (
        "no_such_package, nor_this is not installed")
    monkeypatch.setattr(gpu, "missing", lambda *names: "torch is not installed")
    status, out = call(monkeypatch, capsys, "--device", "cpu")
    assert status == 1 and "torch is not installed" in out


@pytest.mark.parametrize(("code", "result"), [
    ("print(1)", "ok"), ("raise SystemExit(3)", "failed"), ("import no_such_module", "failed")])
def test_a_part_runs_in_this_python(code, result):
    found, said, seconds = gpu.start(gpu.Clock(60), "-c", code)
    assert found == result and seconds > 0
    assert result == "ok" or "1" not in gpu.last(said) or said


def test_what_does_not_end_in_time_is_not_run():
    assert gpu.start(gpu.Clock(5.5), "-c", "import time; time.sleep(60)")[0] == "not run"
    assert gpu.start(gpu.Clock(1), "-c", "print(1)") == (
        "not run", "out of time: --seconds allows more", 0.0)


@pytest.mark.parametrize(("results", "status"), [
    (["ok", "ok"], 0), (["ok", "failed"], 1), (["not run"], 1)])
def test_there_is_one_table(monkeypatch, capsys, results, status):
    rows = [(f"part {i}", result, "why", 1.0) for i, result in enumerate(results)]
    monkeypatch.setattr(gpu, "tests", lambda *_: rows)
    found, out = call(monkeypatch, capsys, "--device", "cpu", "--parts", "tests")
    assert found == status
    for name, result, why, _ in rows:
        assert f"{name}  {result:8}     1 s  {why}" in out


def test_failed_tests_are_named(monkeypatch):
    said = "FAILED tests/test_devices.py::test_a - x\nFAILED tests/b.py::test_c[1]\n2 failed in 3s"
    monkeypatch.setattr(gpu, "start", lambda *_, **__: ("failed", said, 3.0))
    assert [row[:3] for row in gpu.tests(None, "cpu")] == [
        ("device tests", "failed", "2 failed in 3s"),
        ("  test_devices.py::test_a", "failed", ""), ("  b.py::test_c[1]", "failed", "")]


def test_the_benchmark_runs(monkeypatch):
    monkeypatch.setenv("KDCOURSE_SMOKE", "")
    rows = gpu.benchmark(gpu.Clock(120), "cpu", batch=4)
    assert [row[0].strip() for row in rows] == [
        "benchmark", "floor, answers given", "floor, live teacher", "fit, cached teacher",
        "fit, live teacher"]
    assert {row[1] for row in rows} == {"ok"}
