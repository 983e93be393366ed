"""Every piece of code on the page "Write your own scheme" runs, and each example is short."""

import csv
import re
from pathlib import Path

import torch

import kdcourse as kd

PAGE = Path(__file__).parents[2] / "book" / "own_scheme.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
EXAMPLES = {"two teachers": "class TwoTeachers", "assistant": "assistant =",
            "generator": "class DataFree", "logger": "def gradient_norms"}


def test_the_four_examples_are_short():
    for name, start in EXAMPLES.items():
        (block,) = [block for block in BLOCKS if block.startswith(start)]
        lines = [line for line in block.splitlines() if line.strip()]
        assert len(lines) <= 12, name


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "page"}
    for block in BLOCKS:
        exec(compile(block, PAGE.name, "exec"), scope)
        if "TwoTeachers(student" in block:
            assert {"CE", "KD", "second.DKD"} <= scope["history"].rows[-1].keys()
        if "sgd =" in block:
            moved = kd.data.glyphs(train=720, val=360, test=360)
            again = scope["DataFree"](kd.models.convnet(width=8, seed=5), scope["first"],
                                      torch.nn.Sequential(*[type(part)(16, 784) if i == 0 else
                                                                part for i, part in
                                                                enumerate(scope["generator"])]))
            kd.fit(again, moved, scope["sgd"], checkpoint="data-free.safetensors")
            for one, other in zip(again.parameters(), scope["scheme"].parameters(), strict=True):
                assert one.equal(other), "the generator is kept in the checkpoint"
    assert min(scope["history"]["gradient of objective"]) > 0
    assert "second.DKD" in capsys.readouterr().out
    with open("run.csv", newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["1", "2"]
