"""The benchmark: everybody trains the same thing, and what cannot run says so."""

import json

import pytest
import torch

from kdcourse import benchmark


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


def test_all_minimise_the_same_loss(setting):
    from kdcourse.losses import hinton

    s, t = (torch.randn(6, 36, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    y = torch.arange(6)
    ours = hinton(benchmark.T, benchmark.ALPHA)(s, t, y)
    torch.testing.assert_close(benchmark.loss(s, t, y), ours)


def test_what_cannot_run_says_so_and_the_others_go_on(setting):
    def broken(setting):
        raise ImportError("no such library")

    calls = []
    rows = benchmark.compare({"good": lambda s: lambda: calls.append(1) or float(len(calls)),
                              "broken": broken}, setting, rounds=5)
    assert [row["name"] for row in rows] == ["good", "broken"]
    assert rows[0]["images_per_second"] == 4  # the median of 2 to 6: the first was the warm-up
    assert rows[1]["not_run"] == "ImportError: no such library"


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
