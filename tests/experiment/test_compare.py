"""Comparisons: fair, recorded, and nothing lost when they stop."""

import ast
import dataclasses
import errno
import functools
import importlib
import json
import math
import os
import re
import time

import numpy as np
import pytest
import torch
from conftest import network

import kdcourse as kd
from kdcourse import losses, models
from kdcourse.experiment import Comparison

compare = importlib.import_module("kdcourse.experiment.compare")  # the function has its name, too
records = importlib.import_module("kdcourse.experiment.records")

RECIPE = kd.Recipe(epochs=1, batch=36)


@pytest.fixture
def fits(monkeypatch):
    """Every training that `compare` runs, as (scheme, seed)."""
    runs, fit = [], compare.fit

    def counted(scheme, data, recipe, seed, **settings):
        runs.append((repr(scheme), recipe, seed))
        return fit(scheme, data, recipe, seed, **settings)

    monkeypatch.setattr(compare, "fit", counted)
    return runs


@pytest.fixture
def arms(data):
    teacher = network(9, width=8)
    return {"CE": lambda seed: kd.Supervised(network(seed)),
            "KD": lambda seed: kd.Distiller(network(seed), teacher)}


@pytest.fixture(autouse=True)
def shipped(home, tmp_path, monkeypatch):
    """Folders of this test's own for rows that ship and rows that are kept."""
    monkeypatch.setattr(records, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped"


def fake(arm, values, **more):
    return [{"arm": arm, "seed": seed, "accuracy": value, "nll": 1 - value, "ece": 0.1,
             "agreement": None, "teacher_kl": None, "seconds": 60.0, "split": "val",
             "hardware": "an abacus", "torch": "2.6.0", "date": "2026-01-01"} | more
            for seed, value in enumerate(values)]


# --- rows ---------------------------------------------------------------------------------------


def test_a_row_per_arm_and_seed_with_everything_one_needs(data, arms, fits):
    result = kd.compare(arms, data, RECIPE, seeds=range(3))
    assert [(row["arm"], row["seed"]) for row in result.rows] == [
        (arm, seed) for seed in range(3) for arm in ("CE", "KD")]
    assert len(fits) == 6
    for row in result.rows:
        assert {"scheme", "recipe", "data", "seed", "split", "results", "hardware", "torch",
                "python", "kdcourse", "date", "seconds", "accuracy", "nll", "ece", "agreement",
                "teacher_kl", "train_accuracy", "per_class", "reliability", "curve"} <= set(row)
        assert row["seconds"] > 0
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()


def test_a_row_says_what_was_measured(data, arms):
    (row,) = kd.compare({"KD": arms["KD"]}, data, RECIPE, seeds=[3], split="test").rows
    scheme = arms["KD"](3)
    history = kd.fit(scheme, data, RECIPE, seed=3)
    logits = models.predict(scheme.student, data.test.x)
    against = scheme.teacher.predict(data.test.x)
    expected = kd.measure.evaluate(logits, data.test.y, against)
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert row["curve"] == [[1, pytest.approx(history["loss"][0], abs=1e-5),
                             pytest.approx(history["val_accuracy"][0], abs=1e-5)]]
    assert sum(count for count, *_ in row["reliability"]) == len(data.test)
    assert len(row["per_class"]) == 36


def test_all_arms_of_a_seed_see_the_same_order(data):
    seen = {}

    class Noted(kd.Supervised):
        def forward(self, batch):
            seen.setdefault((self.name, self.seed), []).append(batch.index.tolist())
            return super().forward(batch)

    def arm(name, width, seed):
        scheme = Noted(network(seed, width=width))
        scheme.name, scheme.seed = name, seed
        return scheme

    arms = {name: functools.partial(arm, name, width) for name, width in (("a", 4), ("b", 8))}
    kd.compare(arms, data, RECIPE, seeds=range(2))
    assert seen["a", 0] == seen["b", 0] != seen["a", 1]
    assert seen["a", 1] == seen["b", 1]


def test_a_teacher_may_be_asked_for_all_arms(data, arms):
    teacher = network(7)
    result = kd.compare({"CE": arms["CE"]}, data, RECIPE, seeds=[0], teacher=teacher)
    scheme = arms["CE"](0)
    kd.fit(scheme, data, RECIPE, seed=0)
    expected = kd.measure.agreement(models.predict(scheme.student, data.val.x),
                                    models.predict(teacher, data.val.x))
    assert result.values("CE", "agreement") == [pytest.approx(expected, abs=1e-5)]


def test_a_recipe_for_each_arm(data, arms, fits):
    recipes = {"CE": kd.Recipe(epochs=1, batch=48), "KD": kd.Recipe(epochs=2, batch=36)}
    kd.compare(arms, data, recipes, seeds=[0])
    assert [recipe for _, recipe, _ in fits] == [recipes["CE"], recipes["KD"]]


# --- recorded -----------------------------------------------------------------------------------


def test_what_was_computed_is_not_computed_again(data, arms, fits, home):
    first = kd.compare(arms, data, RECIPE, seeds=range(2), results="t")
    assert len(fits) == 4
    second = kd.compare(arms, data, RECIPE, seeds=range(2), results="t")
    assert len(fits) == 4
    assert second.rows == first.rows
    assert (home / "results" / "t.json").exists()
    kd.compare(arms, data, RECIPE, seeds=range(2), results="u")  # another chapter
    kd.compare(arms, data, RECIPE, seeds=range(2))  # not recorded
    assert len(fits) == 12


def test_numpy_seeds_are_seeds(data, arms, fits):
    kd.compare(arms, data, RECIPE, seeds=np.arange(2), results="t")
    kd.compare(arms, data, RECIPE, seeds=range(2), results="t")
    assert len(fits) == 4


@pytest.mark.parametrize("change", [
    {"recipe": kd.Recipe(epochs=1, batch=36, lr=0.001)},
    {"data": kd.data.glyphs(train=144, val=72, test=72, size=12, seed=1)},
    {"seeds": [1]},
    {"split": "test"},
    {"teacher": network(5)},
    {"arms": {"CE": lambda seed: kd.Supervised(network(seed, width=5))}},
    {"arms": {"CE": lambda seed: kd.Supervised(network(seed), losses.LabelSmoothing())}},
])
def test_any_change_is_computed_anew(data, arms, fits, change):
    plain = {"arms": {"CE": arms["CE"]}, "data": data, "recipe": RECIPE, "seeds": [0]}
    kd.compare(**plain, results="t")
    kd.compare(**(plain | change), results="t")
    assert len(fits) == 2
    kd.compare(**plain, results="t")
    kd.compare(**(plain | change), results="t")
    assert len(fits) == 2  # and neither forgets the other


def test_other_numerics_are_computed_anew(data, arms, fits, monkeypatch):
    kd.compare(arms, data, RECIPE, seeds=[0], results="t")
    monkeypatch.setattr(compare, "RESULTS", kd.RESULTS + 1)
    kd.compare(arms, data, RECIPE, seeds=[0], results="t")
    assert len(fits) == 4


def test_another_teacher_is_computed_anew(data, fits):
    for seed in (1, 2):
        teacher = network(seed)
        arm = lambda s, teacher=teacher: kd.Distiller(network(s), kd.Cached(teacher, data))  # noqa: E731
        kd.compare({"KD": arm}, data, RECIPE, seeds=[0], results="t")
    assert len(fits) == 2


def test_the_name_of_an_arm_is_only_a_name(data, arms, fits):
    kd.compare({"CE": arms["CE"]}, data, RECIPE, seeds=[0], results="t")
    result = kd.compare({"labels only": arms["CE"]}, data, RECIPE, seeds=[0], results="t")
    assert len(fits) == 1
    assert result.arms == ["labels only"]


def test_a_pretrained_student_is_not_taken_for_a_fresh_one(data, fits):
    """They have the same structure, and read alike."""
    arms = {"fresh": lambda seed: kd.Supervised(network(seed)),
            "pretrained": lambda seed: kd.Supervised(network(seed + 100))}
    first, second = kd.compare(arms, data, RECIPE, seeds=[0], results="t").rows
    assert len(fits) == 2 and first["scheme"] == second["scheme"]
    assert first["nll"] != second["nll"]
    assert kd.compare(arms, data, RECIPE, seeds=[0], results="t").rows == [first, second]
    assert len(fits) == 2


def test_a_half_done_table_is_completed(data, arms, fits):
    kd.compare({"KD": arms["KD"]}, data, RECIPE, seeds=[1], results="t")
    result = kd.compare(arms, data, RECIPE, seeds=range(3), results="t")
    assert len(fits) == 1 + 5
    assert len(result.rows) == 6
    assert [seed for _, _, seed in fits] == [1, 0, 0, 1, 2, 2]


def test_rows_that_ship_are_found_and_own_rows_lie_elsewhere(data, arms, fits, home, shipped,
                                                             monkeypatch):
    monkeypatch.setenv("KDCOURSE_RECORD", "1")
    kd.compare({"CE": arms["CE"]}, data, RECIPE, seeds=[0], results="t")
    monkeypatch.delenv("KDCOURSE_RECORD")
    before = (shipped / "t.json").read_bytes()
    assert not (home / "results" / "t.json").exists()
    kd.compare(arms, data, RECIPE, seeds=[0], results="t")
    assert len(fits) == 2
    assert (shipped / "t.json").read_bytes() == before
    assert len(json.loads((home / "results" / "t.json").read_text())["rows"]) == 1


def test_a_rerun_says_first_what_it_costs(data, arms, fits, capsys, monkeypatch):
    first = kd.compare(arms, data, RECIPE, seeds=range(2), results="t")
    capsys.readouterr()
    said = []
    monkeypatch.setattr(compare, "fit", lambda *args, fit=compare.fit, **settings: (
        said.append(capsys.readouterr().out), fit(*args, **settings))[1])
    again = kd.compare(arms, data, RECIPE, seeds=range(2), results="t", rerun=True)
    assert re.match(r"Computing 4 runs; 4 of them took \d+ s on ", said[0])
    assert first.rows[0]["hardware"] in said[0]
    assert len(fits) == 8
    plain = [{k: v for k, v in row.items() if k != "seconds"} for row in first.rows]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in again.rows] == plain


@pytest.mark.parametrize("content", [
    "", "{", '{"rows": [{"scheme": "CE", ', '{"rows": [{"scheme": "CE"}]}', '{"row": []}', "[]",
    '{"rows": {"scheme": 1}}', '{"rows": 3}', b"\xff\xfe{}",
])
@pytest.mark.parametrize("where", ["home", "shipped"])
def test_a_results_file_that_was_cut_short_or_altered_is_named(data, arms, fits, home, shipped,
                                                              where, content):
    path = (shipped if where == "shipped" else home / "results") / "t.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"recorded results in .*t\.json, got a file that cannot"):
        kd.compare(arms, data, RECIPE, seeds=[0], results="t")
    assert fits == []


def test_smoke_mode_writes_no_records(data, arms, fits, home, smoke, capsys):
    result = kd.compare(arms, data, kd.Recipe(epochs=500, batch=36), seeds=range(9), results="t")
    assert len(fits) == 4  # two seeds
    assert repr(result)
    assert "KDCOURSE_SMOKE=1: compare makes two steps" in capsys.readouterr().out
    assert not (home / "results").exists()


def test_smoke_mode_runs_every_arm_once_and_shows_recorded_rows(data, arms, fits, monkeypatch):
    """So that a chapter's later cells see its real numbers, also where they choose by them."""
    whole = kd.compare(arms, data, RECIPE, seeds=range(4), results="t")
    fits.clear()
    monkeypatch.setenv("KDCOURSE_SMOKE", "1")
    assert kd.compare(arms, data, RECIPE, seeds=range(4), results="t").rows == whole.rows
    assert len(fits) == 2
    other = dataclasses.replace(RECIPE, epochs=3)
    monkeypatch.delenv("KDCOURSE_SMOKE")
    kd.compare(arms, data, other, seeds=range(2), results="t")
    fits.clear()
    monkeypatch.setenv("KDCOURSE_SMOKE", "1")
    kd.compare(arms, data, other, seeds=range(2), results="t")
    assert fits == [], "a search over recipes tries each scheme once"


ADD = """
import kdcourse as kd
net = lambda seed: kd.models.mlp(hidden=(4,), size=8, classes=10, seed=seed)
data, recipe = kd.data.digits(), kd.Recipe(epochs=1, batch=1437)
seeds = range({first}, {first} + 15)
kd.compare({{"CE": lambda seed: kd.Supervised(net(seed))}}, data, recipe, seeds=seeds, results="t")
"""


@pytest.mark.any_device
def test_two_processes_that_add_rows_at_once_lose_none(home, start):
    for process in [start(ADD.format(first=first)) for first in (0, 100)]:
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0, error
    rows = json.loads((home / "results" / "t.json").read_text(encoding="utf-8"))["rows"]
    assert sorted(row["seed"] for row in rows) == [*range(15), *range(100, 115)]


def test_a_full_disk_does_not_cost_the_comparison(data, arms, fits, home, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(UserWarning, match=r"not recorded. The disk is full: .*t\.json needs"):
            result = kd.compare(arms, data, RECIPE, seeds=[0], results="t")
    assert len(result.rows) == 2
    kd.compare(arms, data, RECIPE, seeds=[0], results="t")
    assert len(fits) == 4


# --- stopped by hand ----------------------------------------------------------------------------


class Stopped(kd.Distiller):
    def after_step(self):
        raise KeyboardInterrupt


def stops_at(seed):
    teacher = network(9)
    return lambda s: (Stopped if s >= seed else kd.Distiller)(network(s), teacher)


def test_ctrl_c_returns_whole_seeds_and_keeps_the_rest(data, arms, fits, home):
    interrupted = arms | {"KD": stops_at(2)}
    result = kd.compare(interrupted, data, RECIPE, seeds=range(5), results="t")
    assert [(row["seed"], row["arm"]) for row in result.rows] == [
        (0, "CE"), (0, "KD"), (1, "CE"), (1, "KD")]
    assert len(fits) == 6  # it stopped in seed 2, whose first arm is kept:
    rows = json.loads((home / "results" / "t.json").read_text())["rows"]
    assert len(rows) == 5
    fits.clear()
    kd.compare({"CE": arms["CE"]}, data, RECIPE, seeds=range(3), results="t")
    assert fits == []


def test_ctrl_c_while_a_student_is_measured(data, arms, monkeypatch):
    calls, measured = [], kd.measure.evaluate

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measured(*args)

    monkeypatch.setattr(kd.measure, "evaluate", interrupted)
    result = kd.compare(arms, data, RECIPE, seeds=range(5))
    assert [row["seed"] for row in result.rows] == [0, 0]


def test_ctrl_c_before_there_is_anything_to_return(data, arms):
    with pytest.raises(KeyboardInterrupt, match="before the first seed was complete"):
        kd.compare(arms | {"KD": stops_at(0)}, data, RECIPE)


# --- bad input ----------------------------------------------------------------------------------


def same_student():
    student = network()
    return lambda seed: kd.Supervised(student)


@pytest.mark.parametrize(("change", "message"), [
    ({"arms": {}}, "at least one arm, got none"),
    ({"seeds": []}, r"at least one seed, each once, got \[\]"),
    ({"seeds": [0, 1, 0]}, r"each once, got \[0, 1, 0\]"),
    ({"split": "train"}, "split \"val\" or \"test\", got 'train'"),
    ({"baseline": "DKD"}, r"baseline among \['CE', 'KD'\], got 'DKD'"),
    ({"recipe": {"CE": RECIPE}}, r"a recipe for each of the arms .*, got recipes for \['CE'\]"),
    ({"recipe": {"CE": RECIPE, "KD": RECIPE, "X": RECIPE}}, "a recipe for each of the arms"),
    ({"arms": {"CE": kd.Supervised(network())}}, "arm 'CE' to be a function of the seed"),
    ({"arms": {"CE": network}}, "of the seed .*got one that returns Sequential"),
    ({"arms": {"CE": lambda seed: None}}, "of the seed .*, got one that returns NoneType"),
    ({"arms": {"CE": same_student()}}, "a fresh student from every call of arm 'CE'"),
])
def test_comparisons_that_cannot_be(data, arms, fits, change, message):
    with pytest.raises(ValueError, match=message):
        kd.compare(**({"arms": arms, "data": data, "recipe": RECIPE} | change))
    assert fits == []


# --- the table ----------------------------------------------------------------------------------


def test_the_table_compares_by_pairs():
    ours, theirs = [0.70, 0.72, 0.71], [0.60, 0.63, 0.60]
    result = Comparison(fake("CE", theirs) + fake("KD", ours, agreement=0.5), "CE")
    assert result.mean("KD") == pytest.approx(0.71)
    assert result.interval("KD") == kd.measure.interval(ours)
    assert result.difference("KD") == kd.measure.paired_difference(ours, theirs)
    assert result.difference("CE", "KD")[0] == pytest.approx(-0.1)
    assert result.best() == "KD"
    assert result.best("nll") == "KD"  # lower is better
    assert result.seconds == 360
    assert result.cost() == "6 runs, 6 minutes on an abacus, torch 2.6.0, 2026-01-01"
    header, lines = result.cells()
    assert header[1] == "minus CE\n95 % interval", "what decides stands first"
    assert [line[0] for line in lines] == ["CE", "KD"]
    assert lines[0][1] == "–"
    assert lines[1][1].splitlines()[0] == "+10.0"
    assert "(+7.5 to +12.5)" in repr(result)
    assert "+10.0<br>(+7.5 to +12.5)" in result._repr_html_()
    assert (lines[0][-1], lines[1][-1]) == ("–", "50.0%")
    text = repr(result).splitlines()
    assert len({len(line) for line in text}) == 1
    with pytest.raises(KeyError, match=r"one of the arms .*, got 'X'"):
        result.mean("X")


def test_one_seed_has_no_interval():
    result = Comparison(fake("CE", [0.6]) + fake("KD", [0.7]), "CE")
    assert "needs 2 seeds" in repr(result)
    assert math.isnan(result.interval("CE")[1])


def test_names_of_arms_are_escaped_and_need_not_be_text():
    html = Comparison(fake("<script>", [0.6, 0.7]), "<script>")._repr_html_()
    assert "<script>" not in html
    pairs = Comparison(fake((4, 0.9), [0.6, 0.7]) + fake((8, 0.9), [0.7, 0.7]), (4, 0.9))
    assert pairs.best() == (8, 0.9)
    assert "(8, 0.9)" in repr(pairs)
    assert "(8, 0.9)" in pairs._repr_html_()


def test_the_rows_of_a_chapter_can_be_read(shipped, monkeypatch):
    with pytest.raises(ValueError, match=r"one of the chapters \[\], got 't'"):
        kd.experiment.recorded("t")
    monkeypatch.setenv("KDCOURSE_RECORD", "1")
    rows = [{"scheme": "CE"} | row for row in fake("CE", [0.6, 0.7], recipe="r", data="d",
                                                   teacher="t", results=1, python="3")]
    for row in rows:
        records.Store("t").add(row)
    assert kd.experiment.recorded("t") == rows


def test_new_rows_keep_what_else_is_noted_in_the_file(shipped, monkeypatch):
    monkeypatch.setenv("KDCOURSE_RECORD", "1")
    shipped.mkdir()
    (shipped / "t.json").write_text('{"rows": [\n\n], "opened": {"seconds": 3}}\n')
    (row,) = fake("CE", [0.6], recipe="r", data="d", teacher="t", results=1)
    records.Store("t").add({"scheme": "CE"} | row)
    content = json.loads((shipped / "t.json").read_text())
    assert content["opened"] == {"seconds": 3} and len(content["rows"]) == 1


# --- what ships ---------------------------------------------------------------------------------


def recorded_rows(chapter):
    path = records.Path(kd.__file__).parent / "results" / f"{chapter}.json"
    if not path.exists():
        pytest.skip(f"chapter {chapter} has no recorded rows yet")
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def settings(row):
    return tuple(row[name] for name in ("scheme", "recipe", "data", "teacher", "split"))


@pytest.mark.long
@pytest.mark.any_device
def test_a_recorded_row_can_be_computed_again(glyph_teacher):
    """One run of the chapter, from the sentences that its row is found by.

    Other hardware rounds in another way, and then training ends elsewhere: as far away as another
    seed does. So the spread between the recorded seeds says how near it must be.
    """
    from scipy import stats

    runs = {}
    for row in recorded_rows("01"):
        if row["results"] == kd.RESULTS:
            runs.setdefault(settings(row), []).append(row)
    repeated = [group for group in runs.values() if len(group) >= 3]
    distilled = [group for group in repeated if "Cached(teacher('glyphs'))" in group[0]["scheme"]
                 and "KD(T=4)" in group[0]["scheme"]]
    if not distilled:
        pytest.skip("chapter 01 has no distillation that was recorded for three seeds yet")
    degrees = sum(len(group) - 1 for group in repeated)
    deviation = math.sqrt(sum((len(group) - 1) * np.var([row["accuracy"] for row in group], ddof=1)
                              for group in repeated) / degrees)
    row = max(distilled, key=len)[0]

    def glyphs(augment=None, views=None, view_seed=0, **settings):
        plain = kd.data.glyphs(**settings)
        return kd.augmented(plain, views=views, seed=view_seed, **augment) if augment else plain

    data = eval(row["data"], {"glyphs": glyphs})
    recipe = eval(row["recipe"], {"Recipe": kd.Recipe})
    scheme = eval(row["scheme"], vars(losses) | {
        "convnet": functools.partial(models.convnet, seed=row["seed"]),
        "Distiller": lambda student, objective, teacher: kd.Distiller(student, teacher, objective),
        "Cached": lambda teacher: kd.Cached(teacher, data),
        "teacher": lambda name: glyph_teacher,
    })
    assert settings(row) == (repr(scheme), repr(recipe), repr(data), repr(kd.Live(glyph_teacher)),
                             row["split"])
    kd.fit(scheme, data, recipe, seed=row["seed"])
    part = getattr(data, row["split"])
    accuracy = kd.measure.accuracy(models.predict(scheme.student, part.x), part.y)
    # Two runs of one arm are further apart than this once in a thousand times.
    tolerance = float(stats.t.ppf(0.9995, degrees)) * math.sqrt(2) * deviation
    assert accuracy == pytest.approx(row["accuracy"], abs=tolerance)


# --- more quantities, and what is not a scheme ----------------------------------------------------


def test_more_quantities_stand_in_the_rows(data, arms, fits):
    def size(scheme, split):
        return float(len(split)) + kd.measure.parameters(scheme.student)

    also = {"size": size, "two": lambda scheme, split: [1.0, 2.0]}
    made = kd.compare(arms, data, RECIPE, range(2), also=also, results="t")
    assert made.values("KD", "size") == [72 + kd.measure.parameters(network())] * 2
    assert made.values("CE", "two") == [[1.0, 2.0]] * 2
    again = kd.compare(arms, data, RECIPE, range(2), also=also, results="t")
    assert again.values("KD", "size") == made.values("KD", "size") and len(fits) == 4


def test_a_row_that_lacks_a_quantity_is_computed_again_and_loses_nothing(data, arms, fits):
    kd.compare(arms, data, RECIPE, [0], also={"one": lambda *_: 1.0}, results="t")
    both = kd.compare(arms, data, RECIPE, [0], also={"two": lambda *_: 2.0}, results="t")
    assert len(fits) == 4 and both.values("CE", "two") == [2.0]
    again = kd.compare(arms, data, RECIPE, [0], results="t",
                       also={"one": lambda *_: 1.0, "two": lambda *_: 2.0})
    assert len(fits) == 4 and again.values("CE", "one") == [1.0], "the first one was forgotten"
    kd.compare(arms, data, RECIPE, [0], also={"one": lambda *_: 0.5}, results="t")
    assert len(fits) == 6, "another function of the same name"


def test_a_quantity_cannot_replace_one_that_every_row_has(data, arms):
    with pytest.raises(ValueError, match=r"does not have yet, got \['accuracy'\]"):
        kd.compare(arms, data, RECIPE, [0], also={"accuracy": lambda *_: 1.0})


class Calls:
    """Notes what is called, and is no part of a key by that."""

    def __init__(self):
        self.seeds = []

    def identity(self):
        return "calls"


def test_record_keeps_each_seed_and_pairs_the_arms():
    noted = Calls()
    calls = noted.seeds

    def function(seed):
        noted.seeds.append(seed)
        return {"first": {"accuracy": 0.5 + seed / 10}, "second": {"accuracy": 0.6 + seed / 10}}

    made = kd.experiment.record(function, range(3), name="n", of=[RECIPE], results="t")
    assert made.values("second") == pytest.approx([0.6, 0.7, 0.8])
    assert made.difference("second")[0] == pytest.approx(0.1) and made.baseline == "first"
    assert "second" in repr(made) and "ECE" not in repr(made)
    again = kd.experiment.record(function, range(4), name="n", of=[RECIPE], results="t")
    assert calls == [0, 1, 2, 3] and again.values("first")[:3] == made.values("first")
    for change in ({"name": "m", "of": [RECIPE]}, {"name": "n", "of": [kd.Recipe()]}):
        kd.experiment.record(function, [0], results="t", **change)
    assert calls == [0, 1, 2, 3, 0, 0], "another name or another recipe is another row"
    kd.experiment.record(function, [0], name="n", of=[RECIPE], results="t", rerun=True)
    assert calls[-1] == 0 and len(calls) == 7


def test_record_costs_what_its_calls_took(shipped, monkeypatch):
    monkeypatch.setenv("KDCOURSE_RECORD", "1")
    made = kd.experiment.record(lambda seed: {"a": {"accuracy": 0.1}, "b": {"accuracy": 0.2}},
                                range(2), name="n", results="t")
    stored = json.loads((shipped / "t.json").read_text(encoding="utf-8"))["rows"]
    assert len(stored) == 2
    assert made.seconds == pytest.approx(sum(row["seconds"] for row in stored))


def test_record_does_nothing_lasting_in_smoke_mode(smoke, home, capsys):
    made = kd.experiment.record(lambda seed: {"a": {"accuracy": 0.1}}, range(5), name="n",
                                results="t")
    assert len(made.rows) == 2 and "one or two seeds" in capsys.readouterr().out
    assert not (home / "results" / "t.json").exists()


@pytest.mark.parametrize(("call", "message"), [
    ({"function": lambda seed: 0.5}, "dict of quantities for each arm"),
    ({"function": lambda seed: {}}, "dict of quantities for each arm"),
    ({"function": lambda seed: {"a": 0.5}}, "dict of quantities for each arm"),
    ({"function": lambda seed: {str(seed): {"accuracy": 1}}}, "for every seed"),
    ({"seeds": []}, "at least one seed"),
    ({"seeds": [1, 1]}, "each once"),
    ({"split": "train"}, 'split "val" or "test"'),
    ({"baseline": "z"}, "baseline among"),
])
def test_record_says_what_is_wrong(call, message):
    settings = {"function": lambda seed: {"a": {"accuracy": 0.5}}, "name": "n"} | call
    with pytest.raises(ValueError, match=message):
        kd.experiment.record(**settings)


PROGRAM = """
import kdcourse as kd
data = kd.data.glyphs(train=144, val=72, test=72, size=12)
net = lambda seed: kd.models.convnet(width=4, size=12, seed=seed)
made = kd.compare({{"CE": lambda seed: kd.Supervised(net(seed)),
                   "smooth": lambda seed: kd.Supervised(net(seed), kd.losses.LabelSmoothing(0.1))}},
                  data, kd.Recipe(epochs={epochs}, batch=36), seeds=range({seeds}), results="t")
print([[row["arm"], row["seed"], row["accuracy"]] for row in made.rows], flush=True)
"""


@pytest.mark.any_device
def test_a_table_that_was_killed_goes_on_where_it_was(start, home):
    """SIGKILL between two rows: what was computed is there, and only the rest is computed."""
    code = PROGRAM.format(epochs=2, seeds=3)
    kept = home / "results" / "t.json"

    def rows():
        return json.loads(kept.read_text(encoding="utf-8"))["rows"] if kept.exists() else []

    killed = start(code)
    for _ in range(6000):
        if len(rows()) >= 2 or killed.poll() is not None:
            break
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    before = rows()
    assert 2 <= len(before) < 6, "it was killed too late or never began"
    done, errors = start(code).communicate(timeout=120)
    assert rows()[: len(before)] == before, f"computed anew:\n{errors}"
    assert len(rows()) == 6
    assert [accuracy for _, _, accuracy in ast.literal_eval(done.splitlines()[-1])] == [
        row["accuracy"] for row in rows()]


@pytest.mark.any_device
def test_processes_that_make_one_comparison_share_its_runs(start, home):
    """Each run is computed once; all end with the same table, also one that was stopped before."""
    code = PROGRAM.format(epochs=30, seeds=4)
    running = [start(code) for _ in range(3)]
    while not (home / "results" / "claims").exists() and running[0].poll() is None:
        time.sleep(0.01)
    running[0].kill()  # perhaps in the middle of a run: another one takes it over
    said = [process.communicate(timeout=300) for process in running[1:]]
    assert [process.returncode for process in running[1:]] == [0, 0], said
    counts, tables = zip(*(out.splitlines()[-2:] for out, _ in said))
    assert tables[0] == tables[1], "one order, whoever computed what"
    computed = [int(re.search(r"(\d+) computed", line)[1]) for line in counts]
    assert 4 <= sum(computed) <= 8
    rows = json.loads((home / "results" / "t.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == len({(row["scheme"], row["seed"]) for row in rows}) == 8
    assert all(line.startswith("8 runs: ") for line in counts)


@pytest.mark.parametrize("number", [np.float32(0.5), torch.tensor(0.5), np.array([0.5, 1.0])])
def test_more_that_is_measured_may_come_from_numpy_or_pytorch(data, number):
    made, again = (kd.compare({"CE": lambda seed: kd.Supervised(network(seed))}, data, RECIPE, [0],
                              also={"more": lambda *_: number}, results="t") for _ in range(2))
    assert made.values("CE", "more") == again.values("CE", "more") == [number.tolist()]


def test_a_quantity_that_was_not_measured(data):
    made = kd.compare({"CE": lambda seed: kd.Supervised(network(seed))}, data, RECIPE, [0])
    with pytest.raises(KeyError, match=r"Expected one of the quantities .*'accuracy'.*'acc'"):
        made.mean("CE", "acc")


def test_a_results_file_that_somebody_breaks_meanwhile_costs_no_row(data, home):
    def breaks(scheme, split):
        path = home / "results" / "t.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text("{")
        return 1.0

    arms = {"CE": lambda seed: kd.Supervised(network(seed))}
    with pytest.warns(UserWarning, match="computed but not recorded. Expected recorded results in"):
        made = kd.compare(arms, data, RECIPE, [0], also={"one": breaks}, results="t")
    assert made.values("CE", "one") == [1.0]


# --- students without an output for the classes --------------------------------------------------


class Embedding(torch.nn.Module):
    """What an image encoder returns: vectors, in one of several ways."""

    def __init__(self, seed, output):
        super().__init__()
        self.body = network(seed)
        self.output = output

    def forward(self, x):
        return self.output(self.body(x))


OUTPUTS = {"vectors": lambda z: torch.cat([z, z], 1), "a dict": lambda z: {"a": z, "b": z},
           "maps": lambda z: z[:, :, None, None]}


def embedding_arms(output):
    teacher = Embedding(9, output)
    return {name: lambda seed, weight=weight: kd.Distiller(
        Embedding(seed, output), teacher, weight * losses.HiddenCosine("body", "body"))
        for name, weight in (("one", 1.0), ("two", 2.0))}


def recall(scheme, split):
    return kd.measure.recall_at_1(kd.models.predict(scheme.student.body, split.x), split.y)


@pytest.mark.parametrize("output", OUTPUTS)
def test_students_without_logits_are_compared_by_another_quantity(output, data, home):
    arms = embedding_arms(OUTPUTS[output])
    with pytest.warns(UserWarning, match="not validated"):
        found = kd.compare(arms, data, RECIPE, seeds=[0, 1], also={"recall": recall})
    assert found.main == "recall" and "recall (val)" in repr(found)
    scheme = arms["one"](0)
    with pytest.warns(UserWarning, match="not validated"):
        kd.fit(scheme, data, RECIPE, seed=0)
    assert found.values("one")[0] == pytest.approx(recall(scheme, data.val), abs=1e-4)
    assert Comparison(**json.loads(json.dumps(found.to_dict()))).main == "recall"


@pytest.mark.parametrize("output", OUTPUTS)
def test_without_one_they_are_refused_before_any_training(output, data, fits):
    arms = {"CE": lambda seed: kd.Supervised(network(seed))} | embedding_arms(OUTPUTS[output])
    with pytest.raises(ValueError, match=r"compare arm 'one' by, .*for Classes\(\)\. Give"):
        kd.compare(arms, data, RECIPE, seeds=[0])
    assert not fits


def test_arms_with_and_without_logits_have_the_quantity_of_all(data, home):
    arms = {"CE": lambda seed: kd.Supervised(Embedding(seed, lambda z: z))}
    arms |= embedding_arms(OUTPUTS["a dict"])
    with pytest.warns(UserWarning, match="not validated"):
        found = kd.compare(arms, data, RECIPE, seeds=[0], also={"recall": recall})
    assert found.main == "recall" and len(found.values("two")) == 1


def test_students_of_numbers_are_compared_by_the_share_of_the_variance(home):
    x = torch.rand(72, 5)
    data = kd.data.from_arrays(x, x[:, :2], task=kd.tasks.Numbers())

    def arm(seed):
        torch.manual_seed(seed)
        return kd.Supervised(torch.nn.Linear(5, 2), losses.SquaredError())

    assert kd.compare({"a": arm}, data, RECIPE, seeds=[0]).main == "r2"
