"""The code and the steps of CONTRIBUTING.md are executed, and its examples pass their tests."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import network, state
from helpers import oracles
from helpers.laws import Law
from losses import test_laws
from torch import nn

import kdcourse as kd
import run
from kdcourse import losses

nbformat = pytest.importorskip("nbformat")
TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")


def blocks(title: str) -> list[str]:
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.S)


@pytest.mark.parametrize(("title", "test"), [
    ("Add a scheme", "test_one_way"), ("Add a teacher", "test_mirrored"),
    ("Add a task", "test_voxels")])
def test_the_example_passes_its_test(title, test, data):
    scope = {"__name__": "example", "kd": kd, "losses": losses, "torch": torch, "nn": nn, "F": F,
             "network": network, "state": state, "RECIPE": kd.Recipe(epochs=1, batch=12)}
    for block in blocks(title):
        exec(compile(block, title, "exec"), scope)
    scope[test](*[data] * (title != "Add a task"))


CELLS = [
    ("markdown", "# What does a chapter need?", {}),
    ("markdown", "", {"tags": ["opening-time"]}),
    ("code", "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])",
     {"mystnb": {"image": {"alt": "A line that rises."}}}),
    ("code", "", {"tags": ["exercise-stub"]}),
    ("markdown", "<details>\n\n```python\ndef twice(x):\n    'Double.'\n    return 2 * x\n```\n\n"
     "</details>", {}),
    ("markdown", "", {"tags": ["cost-table"]})]


def test_the_steps_of_a_chapter(tmp_path, monkeypatch):
    """`nox -s run -- NN` makes stub, outputs, times and stamp, and only then replaces the file."""
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    monkeypatch.setattr("os.environ", dict(run.os.environ))
    monkeypatch.setattr("sys.argv", ["run.py", "42"])
    path = tmp_path / "42_steps.ipynb"
    row = {"seed": 0, "seconds": 90.0, "hardware": "a computer", "torch": "2.6.0", "python": "3.11",
           "date": "2026-01-01"}
    (tmp_path / "42.json").write_text(json.dumps({"rows": [row]}))
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    nbformat.write(nbformat.v4.new_notebook(
        cells=[make[kind](source, metadata=notes) for kind, source, notes in CELLS]), path)
    run.main()
    made = nbformat.read(path, as_version=4)
    _, opening, figure, stub, _, costs = made.cells
    assert opening.source.startswith("Opening it with the recorded results: **")
    assert stub.source == "def twice(x):\n    \"\"\"Double.\"\"\"\n    raise NotImplementedError"
    assert any("image/png" in output.get("data", {}) for output in figure.outputs)
    assert "| 1 | 1 | 90 s | a computer | 2.6.0 | 3.11 | 2026-01-01 |" in costs.source
    assert made.metadata.kdcourse.sources == run.fingerprint(made)
    figure.source = "1 / 0"  # an edited cell makes the stored outputs stale
    assert made.metadata.kdcourse.sources != run.fingerprint(made)
    nbformat.write(made, path)
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="the file is left as it was"):
        run.main()
    assert path.read_bytes() == before


@pytest.fixture
def example(monkeypatch):
    """The function, the class, the oracle and the row of the example, as they are printed."""
    code, oracle = blocks("Add a loss")
    code, line = code.split("# kdcourse/losses/__init__.py")
    scope = {"__name__": "example"}
    exec(code, scope)
    assert line.endswith("from kdcourse.losses.response.brier import brier, Brier\n")
    oracle, row = oracle.split("# tests/helpers/laws_response.py")
    other = {"np": np, "softmax": oracles.softmax}
    exec(oracle, other)
    for name in ("brier", "Brier"):
        monkeypatch.setattr(losses, name, scope[name], raising=False)
    monkeypatch.setattr(oracles, "brier", other["brier"], raising=False)
    row = row.split("\n", 1)[1]
    return eval(row.strip(), {"Law": Law, "losses": losses, "oracles": oracles,
                              "same": lambda teacher: teacher.clone()})


def test_the_example_keeps_the_laws(example):
    test_laws.test_the_value_is_that_of_a_loop(example, 5)
    test_laws.test_the_gradient_is_that_of_a_loop(example)
    test_laws.test_zero_with_zero_gradient_where_both_agree(example, torch.float64)
    test_laws.test_rises_with_the_first_steps_away_from_the_teacher(example)
    test_laws.test_no_gradient_reaches_the_teacher(example)
    test_laws.test_the_mean_of_the_samples_in_any_batching(example)
    test_laws.test_shapes_that_cannot_match_name_both(example)
    test_laws.test_a_module_is_its_function(example)


def test_the_example_would_be_caught_if_it_were_wrong(example, monkeypatch):
    monkeypatch.setattr(oracles, "brier", lambda s, t: 2 * np.ones(len(s)))
    with pytest.raises(AssertionError):
        test_laws.test_the_value_is_that_of_a_loop(example, 5)
