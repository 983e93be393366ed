"""The benchmark of the loss head: all ways compute the same, and what does not fit says so."""

import json
import sys

import pytest
import torch

import large_head


@pytest.mark.any_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_all_ways_have_the_same_value_and_gradient(dtype):
    found = []
    for loss in large_head.contenders().values():
        given = large_head.inputs("cpu", dtype, **large_head.SMOKE)
        value = loss(*given)
        found.append((value, *torch.autograd.grad(value, given[:2])))
    for one in found[1:]:
        for a, b in zip(one, found[0], strict=True):
            torch.testing.assert_close(a, b)


def test_a_smoke_run_prints_a_row_for_each(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["large_head.py", "--smoke", "--json", "--dtype", "float32"])
    assert large_head.main() == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert "the numbers mean nothing" in first
    rows = json.loads(last)
    assert [row["name"] for row in rows] == list(large_head.contenders())
    assert all(row["seconds"] > 0 for row in rows)


@pytest.mark.any_device
def test_what_does_not_fit_says_so(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("Tried to allocate 9 GiB. More")
    monkeypatch.setattr(large_head, "contenders", lambda: {
        "whole": full, "chunks": large_head.whole})
    rows = large_head.compare(torch.device("cpu"), torch.float32, large_head.SMOKE, 2)
    assert rows[0]["not_run"] == "Tried to allocate 9 GiB" and rows[1]["seconds"] > 0
    lines = large_head.table(rows).splitlines()
    assert lines[1].endswith("Tried to allocate 9 GiB") and lines[2].split()[2:] == ["-", "-"]
