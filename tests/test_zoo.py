"""Trained teachers: trained once, verified at every loading, and never half there."""

import errno
import json
import os
import time
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from conftest import network, state

import kdcourse as kd
from kdcourse import _files, zoo
from kdcourse._key import key_of

ENTRY = {
    "model": network,
    "data": {"train": 144, "val": 72, "test": 36, "seed": 7, "size": 12},
    "recipe": kd.Recipe(epochs=2, batch=36),
}
# The same in a process of its own; every training says so.
PROGRAM = """
import kdcourse as kd
from kdcourse import zoo
zoo.TEACHERS["tiny"] = {{
    "model": lambda seed: kd.models.convnet(width=4, size=12, seed=seed),
    "data": {{"train": 144, "val": 72, "test": 36, "seed": 7, "size": 12}},
    "recipe": kd.Recipe(epochs={epochs}, batch=36),
}}
fit = zoo.fit
def noted(*args, **settings):
    print("training", flush=True)
    return fit(*args, **settings)
zoo.fit = noted
print("accuracy", kd.teacher("tiny").card["accuracy"])
"""


@pytest.fixture
def fits(monkeypatch, home):
    """A tiny teacher by the name "tiny"; every training of it."""
    runs, fit = [], zoo.fit
    monkeypatch.setitem(zoo.TEACHERS, "tiny", ENTRY)
    monkeypatch.setattr(zoo, "fit", lambda *args, **settings: (
        runs.append(args), fit(*args, **settings))[1])
    return runs


def files() -> list[Path]:
    """Everything in the folder of the teachers but locks."""
    return [path for path in (_files.home() / "teachers").iterdir() if path.suffix != ".lock"]


def stored() -> Path:
    """The file of the tiny teacher."""
    (found,) = (_files.home() / "teachers").glob("tiny-*.safetensors")
    return found


def header(path: Path) -> dict:
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()["kdcourse"])


# --- trained once -------------------------------------------------------------------------------


def test_trained_at_the_first_call_and_loaded_afterwards(fits):
    first = kd.teacher("tiny")
    start = time.process_time()
    second = kd.teacher("tiny")
    assert time.process_time() - start < 0.5
    assert len(fits) == 1
    assert state(second) == state(first) != state(network())
    assert second.card == first.card
    assert second is not first


def test_a_teacher_comes_frozen(fits):
    for model in (kd.teacher("tiny"), kd.teacher("tiny")):
        assert not any(module.training for module in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        assert {p.device.type for p in model.parameters()} == {"cpu"}
        assert repr(kd.Live(model)) == "teacher('tiny')"


def test_the_card_says_what_the_teacher_is(fits):
    model = kd.teacher("tiny")
    card = header(stored())["card"]
    assert card == model.card
    own = kd.data.glyphs(**ENTRY["data"])
    assert card["accuracy"] == kd.measure.accuracy(kd.models.predict(model, own.val.x), own.val.y)
    assert card["recipe"].startswith(repr(ENTRY["recipe"]))
    assert card["data"] == ENTRY["data"]
    assert card["model"] == network().spec
    assert card["fingerprint"] == kd.data.glyphs_fingerprint()
    assert card["seconds"] > 0
    assert {"hardware", "torch", "python", "kdcourse", "date", "results"} <= set(card)


def test_nothing_but_the_teacher_is_left_behind(fits):
    kd.teacher("tiny")
    assert files() == [stored()]


def test_a_distiller_takes_it_and_a_cache_knows_its_name(fits, data):
    teacher = kd.teacher("tiny")
    cached = kd.Cached(teacher, data)
    assert repr(cached) == "Cached(teacher('tiny'))"
    assert len(kd.fit(kd.Distiller(network(1), cached), data, ENTRY["recipe"])) == 2


def test_the_teachers_images_are_not_the_students_except_where_the_name_says_so(fits):
    for name, entry in zoo.TEACHERS.items():
        # 0 is the default seed of every student's data
        assert (entry["data"]["seed"] == 0) == (name == "glyphs-4000"), name
    seeds = [entry["data"]["seed"] for name, entry in zoo.TEACHERS.items() if name != "tiny"]
    assert len(set(seeds)) == len(seeds)  # nor another teacher's
    assert zoo.TEACHERS["glyphs-4000"]["data"] == {"train": 4000, "seed": 0}
    assert kd.data.glyphs(train=4000, seed=0).params == kd.data.glyphs(
        **zoo.TEACHERS["glyphs-4000"]["data"]).params


def test_a_teacher_can_be_trained_on_augmented_images(home, monkeypatch, fits):
    seen = []
    monkeypatch.setattr(zoo.data, "augmented", lambda data, **limits: seen.append(limits) or data)
    monkeypatch.setitem(zoo.TEACHERS, "tiny", ENTRY | {"augment": {"shift": 0.1}})
    one = kd.teacher("tiny")
    assert seen == [{"shift": 0.1}]
    assert one.card["augment"] == {"shift": 0.1}
    monkeypatch.setitem(zoo.TEACHERS, "tiny", ENTRY)
    kd.teacher("tiny")
    assert len(fits) == 2, "another training, so another file"


def test_another_seed_is_another_teacher_of_the_kind(fits, monkeypatch):
    one, two = kd.teacher("tiny"), kd.teacher("tiny", seed=1)
    assert len(fits) == len(files()) == 2
    assert state(one) != state(two)
    assert two.card["data"]["seed"] == one.card["data"]["seed"] + 1
    assert repr(kd.Live(one)) == "teacher('tiny')"
    assert repr(kd.Live(two)) == "teacher('tiny', seed=1)"
    assert key_of(one) != key_of(two) == key_of(kd.teacher("tiny", seed=1))
    monkeypatch.setitem(zoo.TEACHERS, "tiny", ENTRY | {"data": ENTRY["data"] | {"seed": 0}})
    assert kd.teacher("tiny", seed=1).card["data"]["seed"] == 0, "the images of its name"


@pytest.mark.parametrize("seed", [-1, 1.0, True, 1000])
def test_a_seed_that_is_none(seed):
    with pytest.raises(ValueError, match="a seed from 0 to 999, got"):
        kd.teacher("glyphs", seed=seed)


@pytest.mark.parametrize("name", zoo.TEACHERS)
def test_every_teacher_answers_for_the_glyphs(name, home, monkeypatch):
    monkeypatch.setenv("KDCOURSE_SMOKE", "1")
    monkeypatch.setitem(zoo.TEACHERS, name, zoo.TEACHERS[name] | {"data": ENTRY["data"] | {
        "size": 28}})
    teacher = kd.teacher(name)
    assert teacher(torch.rand(2, 1, 28, 28)).shape == (2, 36)
    assert teacher.card["model"] == zoo.TEACHERS[name]["model"](0).spec
    assert kd.measure.parameters(teacher) == kd.measure.parameters(zoo.TEACHERS[name]["model"](0))


def test_an_unknown_name():
    with pytest.raises(ValueError, match=r"one of the teachers .*'glyphs-4000', .*, got"):
        kd.teacher("resnet50")


# --- anew, beside the old -----------------------------------------------------------------------


def test_refresh_trains_anew(fits):
    first = kd.teacher("tiny")
    assert state(kd.teacher("tiny", refresh=True)) == state(first)
    assert len(fits) == 2
    assert files() == [stored()]


@pytest.mark.parametrize("change", ["recipe", "data", "model", "results", "fonts"])
def test_another_teacher_is_another_file(fits, monkeypatch, change):
    kd.teacher("tiny")
    changed = {"recipe": {"recipe": kd.Recipe(epochs=1, batch=36)},
               "data": {"data": ENTRY["data"] | {"seed": 8}},
               "model": {"model": lambda seed: network(width=5)}}.get(change)
    if changed:
        monkeypatch.setitem(zoo.TEACHERS, "tiny", ENTRY | changed)
    elif change == "results":
        monkeypatch.setattr(zoo, "RESULTS", kd.RESULTS + 1)
    else:
        monkeypatch.setattr(kd.data, "glyphs_fingerprint", lambda: "another font")
    kd.teacher("tiny")
    assert len(fits) == 2
    assert len(files()) == 2


def test_smoke_mode_trains_a_token_teacher_only_where_there_is_none(fits, monkeypatch):
    monkeypatch.setenv("KDCOURSE_SMOKE", "1")
    token = kd.teacher("tiny")
    monkeypatch.delenv("KDCOURSE_SMOKE")
    whole = kd.teacher("tiny")
    assert state(whole) != state(token) and len(fits) == 2
    monkeypatch.setenv("KDCOURSE_SMOKE", "1")
    assert state(kd.teacher("tiny")) == state(whole) and len(fits) == 2
    assert state(kd.teacher("tiny", refresh=True)) == state(token) and len(fits) == 3
    monkeypatch.delenv("KDCOURSE_SMOKE")
    assert state(kd.teacher("tiny")) == state(whole) and len(fits) == 3  # it was not replaced


# --- altered files ------------------------------------------------------------------------------


def flip(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # in the middle of a weight
    path.write_bytes(content)


def rewrite(weights=None, **changes):
    """Change the file's header; its checksum stays that of the weights that were trained."""

    def alter(path):
        own = safetensors.torch.load_file(path) if weights is None else weights
        changed = {key: value for key, value in (header(path) | changes).items()
                   if value is not None}
        safetensors.torch.save_file(own, path, {"kdcourse": json.dumps(changed)})

    return alter


def settings(**changes):
    return lambda path: rewrite(settings=header(path)["settings"] | changes)(path)


BROKEN = "that is cut short, altered or of another kind"
DAMAGE = {
    "altered weights": (flip, BROKEN),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-100]), BROKEN),
    "header cut short": (lambda p: p.write_bytes(p.read_bytes()[:100]), BROKEN),
    "empty": (lambda p: p.write_bytes(b""), BROKEN),
    "no safetensors": (lambda p: p.write_bytes(b"\xff\xfe\xfa" * 100), BROKEN),
    "without a header": (lambda p: safetensors.torch.save_file(
        safetensors.torch.load_file(p), p), BROKEN),
    "header that is a list": (lambda p: safetensors.torch.save_file(
        safetensors.torch.load_file(p), p, {"kdcourse": "[]"}), BROKEN),
    "weights of another": (rewrite({"fc.weight": torch.zeros(2)}), BROKEN),
    "another kind": (rewrite(kind="stored answers"), BROKEN),
    "another checksum": (rewrite(sha256="0" * 64), BROKEN),
    "no checksum": (rewrite(sha256=None), BROKEN),
    "no settings": (rewrite(settings=None), BROKEN),
    "another recipe": (settings(recipe="Recipe(epochs=9)"), r"of recipe .*got Recipe\(epochs=9\)"),
    "another teacher": (settings(name="digits"), "of name tiny, got digits"),
    "other fonts": (settings(fingerprint="0" * 64), "of fingerprint .*, got 000"),
    "smoke mode": (settings(smoke=True), "of smoke False, got True"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_does_not_match_is_named_and_left_alone(fits, damage):
    first = state(kd.teacher("tiny"))
    alter, words = DAMAGE[damage]
    alter(stored())
    found = stored().read_bytes()
    with pytest.raises(ValueError, match=rf"Expected a trained teacher in .*tiny-.*{words}.*not "
                                         r"used.*refresh=True\), to train it again"):
        kd.teacher("tiny")
    assert stored().read_bytes() == found
    assert len(fits) == 1
    assert state(kd.teacher("tiny", refresh=True)) == first
    assert state(kd.teacher("tiny")) == first
    assert len(fits) == 2


# --- when the training or the disk stops --------------------------------------------------------


def test_ctrl_c_leaves_nothing_that_would_be_loaded(fits, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(kd.Supervised, "after_step", lambda scheme: (_ for _ in ()).throw(
            KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt, match="the next call starts anew"):
            kd.teacher("tiny")
    assert kd.teacher("tiny").card["accuracy"] >= 0
    assert len(fits) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_half_way_and_started_again(home, start):
    process = start(PROGRAM.format(epochs=10**6))
    assert process.stdout.readline() == "training\n"
    time.sleep(0.3)
    process.kill()
    process.wait()
    assert files() == []
    # The same teacher again, trained by a shorter recipe than its settings name.
    zoo.TEACHERS["tiny"] = ENTRY | {"recipe": kd.Recipe(epochs=10**6, batch=36)}
    fit = zoo.fit
    try:
        zoo.fit = lambda scheme, data, recipe, *args, **settings: fit(
            scheme, data, ENTRY["recipe"], *args, **settings)
        assert kd.teacher("tiny").card["accuracy"] >= 0
    finally:
        zoo.fit = fit
        del zoo.TEACHERS["tiny"]
    assert stored().exists()


def test_of_two_processes_one_trains(home, start):
    running = [start(PROGRAM.format(epochs=40)) for _ in range(2)]
    said = [process.communicate(timeout=300)[0].split("\n") for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sum(lines.count("training") for lines in said) == 1
    assert said[0][-2] == said[1][-2]  # one accuracy


def test_a_full_disk_does_not_cost_the_teacher(fits, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(UserWarning, match="trained but not kept. The disk is full: ") as caught:
            model = kd.teacher("tiny")
    assert caught[0].filename == __file__  # it points to the call
    assert model.card["accuracy"] >= 0
    assert state(model) != state(network())
    assert files() == []
    assert state(kd.teacher("tiny")) == state(model)
    assert len(fits) == 2


def test_a_home_that_is_a_file(fits, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("KDCOURSE_HOME", str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError, match=r"Expected a folder at .*file, got a file\. Move"):
        kd.teacher("tiny")
    assert fits == []
