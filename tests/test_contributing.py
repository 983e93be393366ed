"""The ten lines that CONTRIBUTING.md shows: they run, and the laws accept them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import oracles
from helpers.laws import Law
from losses import test_laws

from kdcourse import losses

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")


@pytest.fixture
def example(monkeypatch):
    """The function, the class, the oracle and the row of the example, as they are printed."""
    code, oracle = re.findall(r"```python\n(.*?)```", TEXT, re.S)
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
