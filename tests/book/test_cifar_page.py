"""The experiment on the page about CIFAR-100 runs, on noise in the place of the download."""

import json
import re
from pathlib import Path

import torch

import kdcourse as kd

PAGE = (Path(__file__).parents[2] / "book" / "cifar.md").read_text("utf-8")


def test_the_experiment_runs(monkeypatch, tmp_path, smoke, capsys):
    def noise():
        x = torch.rand(700, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return kd.data.from_arrays(x, torch.arange(700) % 100, name="noise")

    monkeypatch.setattr(kd.data, "cifar100", noise)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    exec(compile(code, "cifar.md", "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out
    assert "labels only" in printed and "KD" in printed
    assert (tmp_path / "teacher.safetensors").is_file()


def test_rows_from_elsewhere_are_kept_under_that_name(home, data):
    """The page promises results/cifar100.json: a name that is not a chapter's number."""
    kd.compare({"a": lambda seed: kd.Supervised(kd.models.convnet(width=4, size=12, seed=seed))},
               data, kd.Recipe(epochs=1, batch=36), seeds=[0], results="cifar100")
    (row,) = json.loads((home / "results" / "cifar100.json").read_text("utf-8"))["rows"]
    assert row["hardware"] and row["seconds"] > 0
