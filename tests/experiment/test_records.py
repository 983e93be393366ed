"""Recorded rows: none is lost when code moves, and one that is missing is noticed."""

import importlib
import json

import pytest
from conftest import network

import kdcourse as kd
import rows
from kdcourse.losses import CE

records = importlib.import_module("kdcourse.experiment.records")
RECIPE = kd.Recipe(epochs=1, batch=36)


@pytest.fixture
def shipped(home, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped" / "01.json"


def measure(data, scale, seeds=(0, 1)):
    class Scaled(CE):
        def values(self, student, teacher=None, labels=None):
            return scale * super().values(student, teacher, labels)

    arms = {"CE": lambda seed: kd.Supervised(network(seed), Scaled())}
    return kd.compare(arms, data, RECIPE, seeds, results="01")


def stored(path):
    return json.loads(path.read_text("utf-8"))["rows"]


def test_rows_of_version_0_1_get_a_key_and_keep_their_numbers(data, shipped, monkeypatch, capsys):
    monkeypatch.setenv("KDCOURSE_RECORD", "1")
    first = measure(data, 1)
    old = [{name: value for name, value in row.items() if name not in (*records.KEYS, "also")}
           for row in stored(shipped)]
    shipped.write_text(json.dumps({"rows": old, "opened": {"seconds": 7}}), "utf-8")
    monkeypatch.setenv("KDCOURSE_RECORD", "moved")
    assert measure(data, 1).rows == first.rows
    assert "2 runs: 2 loaded, 0 computed." in capsys.readouterr().out
    assert stored(shipped) == [{k: v for k, v in row.items() if k != "arm"} for row in first.rows]
    assert json.loads(shipped.read_text("utf-8"))["opened"] == {"seconds": 7}


def test_a_moved_row_is_not_left_under_its_old_key(data, shipped, monkeypatch):
    monkeypatch.setenv("KDCOURSE_RECORD", "1")
    first = measure(data, 1)
    monkeypatch.setenv("KDCOURSE_RECORD", "moved")  # the source changed, and no number did
    again = measure(data, 1.0)
    assert [row["nll"] for row in again.rows] == [row["nll"] for row in first.rows]
    keys = [row["key"] for row in stored(shipped)]
    assert len(keys) == 2 and not set(keys) & {row["key"] for row in first.rows}


def test_a_missing_row_is_noticed(data, shipped, monkeypatch, home):
    monkeypatch.setenv("KDCOURSE_RECORD", "1")
    measure(data, 1, seeds=range(3))
    monkeypatch.setenv("KDCOURSE_RECORD", "check")
    measure(data, 1)
    (line,) = rows.lost(home, shipped.parent)
    assert line.startswith("01: Supervised(") and "seed 2" in line
    measure(data, 1, seeds=[2])
    assert rows.lost(home, shipped.parent) == []
    with pytest.raises(ValueError, match="Expected a recorded row for each run, got none for"):
        measure(data, 2)


def test_rows_of_another_machine_are_found_by_their_sketch(data, shipped, monkeypatch, capsys):
    def compare(noise):
        answers = kd.models.predict(network(3), data.train.x)
        told = kd.Cached.of(answers * (1 + noise), data, "answers")
        return kd.compare({"KD": lambda seed: kd.Distiller(network(seed), told)}, data, RECIPE,
                          [0], results="01")

    monkeypatch.setenv("KDCOURSE_RECORD", "1")
    compare(0)
    monkeypatch.delenv("KDCOURSE_RECORD")
    for noise, loaded in ((1e-3, 1), (2.0, 0), (2.0, 1), (2.001, 0)):
        compare(noise)  # a row of this computer must have the same bits
        assert f"1 runs: {loaded} loaded" in capsys.readouterr().out
