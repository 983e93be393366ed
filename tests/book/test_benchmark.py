"""The benchmark: everybody trains the same thing, and what cannot run says so."""

import contextlib
import json
import types

import pytest
import torch

import benchmark
import kdcourse as kd

# On a CPU that has no such instructions this takes a minute.
BF16 = pytest.param("bf16", marks=pytest.mark.long)


@pytest.fixture(scope="module")
def setting():
    return benchmark.Setting(torch.device("cpu"), batch=4)  # 31 steps of 4 images


EAGER = [name for name in benchmark.CONTENDERS if "compiled" not in name]


@pytest.mark.parametrize("name", EAGER)
def test_every_contender_trains(setting, name):
    if name in benchmark.NEEDS:
        pytest.importorskip({"timm": "timm.task"}.get(benchmark.NEEDS[name],
                                                      benchmark.NEEDS[name]))
    assert benchmark.CONTENDERS[name](setting)() > 0


@pytest.mark.parametrize("name", [name for name in benchmark.CHANGES if "compiled" not in name])
def test_every_change_trains(setting, name):
    assert benchmark.tutorial(setting, **benchmark.CHANGES[name])() > 0


@pytest.mark.parametrize("faster", ["fp32", BF16])
def test_a_machine_is_measured_in_the_precision_that_is_fast_on_it(tmp_path, monkeypatch, faster):
    monkeypatch.setattr(kd, "fastest", lambda *_, **__: kd.Recipe(precision=faster))
    assert benchmark.fastest(torch.device("cpu")) == faster
    tried = []

    def compare(contenders, setting, rounds):
        tried.append((setting.precision, set(contenders)))
        return []

    monkeypatch.setattr(benchmark, "compare", compare)
    monkeypatch.setattr(benchmark, "growth", lambda rounds: [])
    monkeypatch.setattr(kd, "default_device", lambda: torch.device("cpu"))
    found = benchmark.run(1, tmp_path / "benchmark.json")
    precisions = ["fp32", "bf16"] if faster == "bf16" else ["fp32"]
    assert tried == [*((one, set(benchmark.CONTENDERS)) for one in precisions),
                     ("fp32", set(benchmark.CHANGES))]
    assert [entry["precision"] for entry in found if entry.get("rows") == []
            and entry["what"] == "contenders" and "not_run" not in entry] == precisions
    assert benchmark.load(tmp_path / "benchmark.json") == found


def test_all_minimise_the_same_loss(setting):
    from kdcourse.losses import hinton

    s, t = (torch.randn(6, 36, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    y = torch.arange(6)
    ours = hinton(benchmark.T, benchmark.ALPHA)(s, t, y)
    torch.testing.assert_close(benchmark.loss(s, t, y), ours)


@pytest.mark.parametrize("name", benchmark.SETTINGS)
@pytest.mark.parametrize("precision", ["fp32", BF16])
def test_every_pair_of_networks_trains(name, precision):
    setting = benchmark.Setting(torch.device("cpu"), precision, name, batch=1)
    setting.batch, setting.steps = 2, 15
    for contender in (benchmark.floor, benchmark.ours):
        assert contender(setting)() > 0
    assert setting.student().state_dict().keys() != setting.teacher.state_dict().keys()


def test_the_box_of_torchdistill_minimises_the_same_loss(setting, monkeypatch):
    pytest.importorskip("torchdistill")
    from torchdistill.core import distillation

    boxes = []
    make = distillation.get_distillation_box
    monkeypatch.setattr(distillation, "get_distillation_box",
                        lambda *args: boxes.append(make(*args)) or boxes[0])
    measure = benchmark.torchdistill_box(setting)
    before = numbers(boxes[0].teacher_model)
    x, y = setting.x[:8], setting.y[:8]
    found = boxes[0].forward_process(x, y, {})
    answers = setting.teacher(x)
    expected = benchmark.loss(setting.student().train()(x), answers, y)
    torch.testing.assert_close(found, expected)
    measure()
    assert numbers(boxes[0].teacher_model) == before
    assert numbers(boxes[0].student_model) != numbers(setting.student())


def numbers(model):
    return {name: value.tolist() for name, value in model.state_dict().items()}


def test_the_idle_share_counts_every_kernel_once(setting, monkeypatch):
    from torch.autograd import DeviceType

    def event(microseconds, kind=DeviceType.CUDA, note=False):
        return types.SimpleNamespace(self_device_time_total=microseconds, device_type=kind,
                                     is_user_annotation=note)

    class Profile(contextlib.nullcontext):
        def key_averages(self):
            return [event(300), event(100), event(400, DeviceType.CPU), event(400, note=True)]

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    monkeypatch.setattr(Profile, "__enter__", lambda self: self)
    measure = lambda: None  # noqa: E731
    # 400 µs of kernels for 31 steps of 4 images; at 77,500 images/s those take 1,600 µs.
    assert benchmark.idle(setting, measure, 124 / 1600e-6) == pytest.approx(0.75)
    measure.epochs = 2
    assert benchmark.idle(setting, measure, 124 / 1600e-6) == pytest.approx(0.875)
    assert benchmark.idle(setting, measure, 1e9) == 0


def test_the_profiler_knows_what_is_read_of_it(setting):
    """On a CPU no kernel runs on a device, so that all of the time is idle."""
    assert benchmark.idle(setting, lambda: setting.student()(setting.x[:4]), 100.0) == 1


def test_what_cannot_run_says_so_and_the_others_go_on(setting):
    def broken(setting):
        raise ImportError("no such library")

    made, calls = [], []

    def good(setting):
        made.append(1)
        return lambda: calls.append(1) or float(len(calls))

    rows = benchmark.compare({"broken": broken, "good": good}, setting, rounds=5)
    assert rows[0] == {"name": "broken", "not_run": "ImportError: no such library"}
    assert rows[1]["name"] == "good"
    assert rows[1]["images_per_second"] == 6  # of 2, 4, 6, 8, 10: each first call is a warm-up
    assert len(made) == 5  # anew in every round


def test_the_contenders_take_turns(setting):
    order = []
    make = lambda name: lambda s: lambda: order.append(name) or 1.0  # noqa: E731
    benchmark.compare({name: make(name) for name in "abc"}, setting, rounds=3)
    assert "".join(order[::2]) == "abcbcacab"


def test_results_of_other_machines_are_kept(tmp_path):
    path = tmp_path / "benchmark.json"
    row = lambda hardware, n: {"what": "contenders", "hardware": hardware, "rows": [n]}  # noqa: E731
    none = {"what": "contenders", "hardware": "a CUDA GPU", "rows": [], "not_run": "none at hand"}
    benchmark.save([row("2 CPU threads", 1), none], path)
    assert [entry["hardware"] for entry in benchmark.load(path)] == ["2 CPU threads", "a CUDA GPU"]
    benchmark.save([row("2 CPU threads", 2), none], path)
    assert [entry["rows"] for entry in benchmark.load(path)] == [[2], []]
    benchmark.save([row("NVIDIA X", 3)], path)
    assert [entry["rows"] for entry in benchmark.load(path)] == [[2], [3]]
    benchmark.save([row("2 CPU threads", 4), none], path)  # the GPU's rows stay
    assert sorted(entry["rows"] for entry in benchmark.load(path)) == [[3], [4]]
    json.loads(path.read_text("utf-8"))
