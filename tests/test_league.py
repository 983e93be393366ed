"""The league: the published protocol, every method on every pair, rows that add up."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kdcourse as kd
from kdcourse import losses
from kdcourse.data import Batch
from kdcourse.league import METHODS, PAIRS, League, Pair, Run, images, protocol
from kdcourse.league import __main__ as command
from kdcourse.league import runs as module
from kdcourse.league.methods import Case, Raised

ROOT = Path(__file__).parents[1]
TINY = Pair(teacher="resnet14", student="resnet8", dkd=2, review=1, cat=(1, {"grid": 2}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of a kind: 4 classes, 40 + 8 images of 16 x 16 each, with a colour per class."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 8)):
        for label in range(4):
            place = root / part / f"class{label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 128, (16, 16, 3)) + 32 * label
                Image.fromarray(pixels.astype("uint8")).save(place / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def photographs(folder):
    return images(folder)


@pytest.fixture
def league(photographs, home, monkeypatch):
    """A league with a pair of small networks, in a folder of its own."""
    monkeypatch.setitem(PAIRS, "tiny", TINY)
    return League(photographs)


# --- the protocol -------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "weight_decay"), [(4, 5e-4), (7, 1e-3)])
def test_the_protocol_is_that_of_the_published_loop(photographs, epochs, weight_decay):
    """SGD, momentum 0.9, weight decay on every parameter, the rate by epoch: written out."""
    own = kd.augmented(photographs, seed=3, crop=4, flip=0.5)
    ours, theirs = (kd.models.cifar("resnet8", 4, seed=1) for _ in range(2))
    recipe = dataclasses.replace(protocol(epochs, weight_decay=weight_decay), channels_last=False)
    kd.fit(kd.Supervised(ours), own, recipe, seed=3)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9,
                                weight_decay=weight_decay)
    falls = [round(last * epochs / 240) for last in (150, 180, 210)]
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.1 ** len({last for last in falls if last <= epoch})
        for batch in own.train.batches(64, 3, epoch):
            if len(batch) == 64:
                loss = torch.nn.functional.cross_entropy(theirs(batch.x), batch.y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_published_numbers_of_epochs():
    assert protocol().schedule == (150, 180, 210)
    assert (protocol().epochs, protocol().batch, protocol().lr) == (240, 64, 0.05)
    assert (protocol(first=True).epochs, protocol(first=True).schedule) == (30, ())
    assert protocol(1).schedule == protocol(1, first=True).schedule == ()
    assert [PAIRS[pair].lr for pair in PAIRS] == [0.05] * 4 + [0.01]


# --- the images ---------------------------------------------------------------------------------


def test_images_are_in_one_order_wherever_they_come_from(folder, photographs, monkeypatch,
                                                         tmp_path):
    train, test = photographs.train, photographs.test
    assert (len(train), len(photographs.val), len(test)) == (160, 32, 32)
    assert torch.equal(photographs.val.x, test.x)

    def shuffled(root, val):  # torchvision's order, and validation images taken out
        order = torch.randperm(160, generator=torch.Generator().manual_seed(val))
        x, y = train.x[order], train.y[order]
        return kd.data.from_arrays(
            x[val:], y[val:], photographs.classes, val=(x[:val], y[:val]),
            test=(test.x.flip(0), test.y.flip(0)))

    monkeypatch.setattr(kd.data, "cifar100", shuffled)
    other = images(tmp_path)
    assert repr(other) == repr(photographs)
    assert torch.equal(other.train.x, train.x) and torch.equal(other.train.y, train.y)
    raw = sorted(np.asarray(Image.open(file)).tobytes() for file in folder.glob("train/*/*.png"))
    ours = (255 * train.x).round().byte().permute(0, 2, 3, 1).numpy()
    assert sorted(image.tobytes() for image in ours) == raw


def test_a_folder_without_test_images(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"folders train and test in .*, got train alone"):
        images(tmp_path)


# --- methods ------------------------------------------------------------------------------------

X = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
DATA = kd.data.from_arrays(X.repeat(8, 1, 1, 1), torch.arange(64) % 4)


@pytest.fixture(scope="module", params=[  # of each kind of student one, once a week all
    pytest.param(name, marks=pytest.mark.long) if name in (
        "resnet32x4-resnet8x4", "wrn_40_2-wrn_16_2") else name for name in PAIRS])
def pair(request):
    """A pair, and a teacher that is not trained but has batch statistics."""
    teacher = kd.models.cifar(PAIRS[request.param].teacher, 4)
    for layer in teacher.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the mean over all batches
    with torch.no_grad():
        teacher.train()(DATA.train.x)
    return request.param, teacher.eval().requires_grad_(False)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_every_student(pair, name):
    """Layers fit, and a gradient reaches the first convolution, in each stage of the training."""
    (pair, teacher), method = pair, METHODS[name]
    case = Case(PAIRS[pair], 4, seed=0, teacher=teacher)
    if method.objective(case) is None:
        assert (name, pair) in {("FSP", "resnet32x4-shufflenetv2"), *(
            ("Tf-KD", other) for other in PAIRS if other != "resnet32x4-shufflenetv2")}
        return
    schemes = []
    if method.first:
        schemes += [(kd.Distiller(case.student, teacher, method.first(case)), case.student)]
    if method.paraphrases:
        schemes += [(module._paraphrasing(case), case.paraphraser)]
    schemes += [(module._scheme(case, method, 240), None)]
    batch = Batch(X, torch.arange(8) % 4, torch.arange(8))
    for scheme, trained in schemes:
        for objective in scheme.objectives():
            objective.check(DATA)
        scheme.build(batch, seed=0)
        loss = scheme.train()(batch).loss
        loss.backward()
        assert loss.isfinite()
        first = next(p for p in (trained or scheme.student).parameters() if p.ndim == 4)
        assert first.grad.isfinite().all() and first.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())


def notation() -> dict[str, str]:
    page = (ROOT / "book" / "notation.md").read_text("utf-8")
    rows = re.findall(r"^\| (?!method|---)(.*?)(?:, \{cite.*?)? \| .* \| `(.*?)`[^|]*\|$",
                      page.split("tab-published")[1].split("\n:::")[0], re.M)
    return dict(rows)


# The rows of notation.md by the name here, and those that have another objective on CIFAR-100.
SAME = {"FitNets": "FitNet", "OFD": "OFD", "FT": "FT", "SimKD": "SimKD", "MGD": "MGD",
        "ICKD": "ICKD", "SemCKD": "SemCKD", "SP": "SP", "CC": "CC", "RKD": "RKD", "PKT": "PKT",
        "IRG": "IRG", "CRD": "CRD + KD", "AT": "AT", "NST": "NST", "VID": "VID", "CTKD": "CTKD",
        "CAT-KD": "CAT-KD", "NKD, CIFAR-100": "NKD", "OFA": "OFA", "ReviewKD": "ReviewKD"}


SETTINGS = ("projection", "variant", "kernel", "T", "gamma", "grid", "normalize", "batch", "share")


def weighed(objective) -> list:
    """Weight and settings of each term, without its layers."""
    objective = losses.as_objective(objective)
    return sorted((type(term).__name__, objective.weights[name],
                   *(str(getattr(term, setting, None)) for setting in SETTINGS))
                  for name, term in objective.terms.items())


@pytest.mark.parametrize("row", SAME)
def test_weights_are_those_of_the_table_in_notation(row):
    case = Case(PAIRS["resnet32x4-resnet8x4"], 100, seed=0)
    names = vars(losses) | {"paraphraser": case.paraphraser, "teacher": case.teacher}
    theirs = weighed(eval(notation()[row], names))
    assert weighed(METHODS[SAME[row]].objective(case)) == theirs


@pytest.mark.parametrize(("method", "row"), [("AB", "AB"), ("FSP", "FSP")])
def test_weights_of_a_first_stage(method, row):
    case = Case(PAIRS["resnet32x4-resnet8x4"], 100, seed=0)
    ours = METHODS[method].first(case)
    theirs = losses.as_objective(eval(notation()[row], vars(losses)))
    assert set(ours.weights.values()) == set(theirs.weights.values())
    assert repr(METHODS[method].objective(case)) == "CE()"


@pytest.mark.parametrize(("rising", "epochs"), [(3, 5), (1, 2)])
def test_a_term_rises_by_a_step_at_each_epoch(photographs, rising, epochs, tmp_path):
    """Also where the training was stopped after the first epoch."""
    teacher, seen = kd.models.cifar("resnet14", 4), []

    def stop(row):
        raise KeyboardInterrupt

    for on_epoch in (stop, None):
        scheme = Raised(kd.models.cifar("resnet8", 4, seed=0), teacher,
                        losses.CE() + losses.DKD(), rising)
        kd.fit(scheme, photographs, protocol(epochs), checkpoint=tmp_path / "run.safetensors",
               on_epoch=on_epoch, on_step=lambda step: seen.append(
                   [edge.weight for edge in step.scheme.edges(step.batch)]))
    expected = [[1, min(1, epoch / rising)] for epoch in range(1, epochs + 1) for _ in range(2)]
    assert torch.tensor(seen).allclose(torch.tensor(expected).float())


def test_what_is_measured_of_simkd_ends_in_the_classifier_of_the_teacher():
    case = Case(TINY, 4, seed=0)
    scheme = module._scheme(case, METHODS["SimKD"], 240)
    scheme.build(Batch(X, torch.arange(8) % 4, torch.arange(8)), seed=0)
    network = METHODS["SimKD"].network(scheme, case)
    maps = kd.taps(case.student.eval(), ["last"])(X).taps["last"]
    projector = scheme.objective.terms["SimKD"].projector.eval()
    torch.testing.assert_close(network(X), case.teacher.fc(projector(maps).mean((2, 3))))


# --- rows ---------------------------------------------------------------------------------------


def test_a_row_is_computed_once_and_says_where(league, capsys):
    runs = league.runs(["tiny"], ["labels", "KD"], range(2), epochs=2)
    assert league.missing(runs) == runs
    first = league.compute(runs[1])
    assert league.missing(runs) == [runs[0], *runs[2:]]
    assert league.compute(runs[1]) == first == league.rows(runs)[runs[1]]
    assert first["hardware"] and first["torch"] and first["seconds"] > 0
    assert (first["pair"], first["arm"], first["epochs"], first["seed"]) == ("tiny", "KD", 2, 0)
    assert 0 <= first["accuracy"] <= 1 and 0 <= first["agreement"] <= 1
    assert not list(league.folder.glob("*run.safetensors"))
    others = league.runs(["tiny"], ["KD"], range(1), epochs=3)
    assert league.missing(others) == others  # another protocol is another row


def test_other_images_and_other_weights_are_other_rows(league, monkeypatch):
    run = Run("tiny", "KD", 0, 2)
    keys = {League(league.data)._identity(run)[0].exact}
    keys.add(League(dataclasses.replace(league.data, train=league.data.train[:100],
                                        params={"name": "fewer"}))._identity(run)[0].exact)
    monkeypatch.setitem(METHODS, "KD", dataclasses.replace(
        METHODS["KD"], objective=lambda case: 0.2 * losses.CE() + 0.8 * losses.KD(T=4)))
    keys.add(League(league.data)._identity(run)[0].exact)
    assert len(keys) == 3


@pytest.mark.parametrize(("method", "stage"), [
    ("labels", 0), ("AB", 1), ("AB", 2), ("FT", 1), ("FT", 2), ("DKD", 1), ("CRD", 1)])
def test_a_run_that_was_stopped_ends_with_the_same_row(league, photographs, monkeypatch, tmp_path,
                                                       method, stage):
    """Stopped in the training of the teacher (0), or in a stage of the student's (1, 2)."""
    run = Run("tiny", method, 1, 16 if method in ("AB", "FT") else 3)  # two epochs of a first stage
    fits, fit = [], kd.fit

    def stopped(scheme, *args, **settings):
        fits.append(scheme)

        def stop(row):
            raise KeyboardInterrupt

        return fit(scheme, *args, on_epoch=stop if len(fits) == stage + 1 else None, **settings)

    whole = league.compute(run)
    monkeypatch.setenv("KDCOURSE_HOME", str(tmp_path / "other"))
    other = League(photographs)
    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", stopped)
        patch.setattr(kd.zoo, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            other.compute(run)
    assert other.missing([run]) == [run]
    again = other.compute(run)
    same = ("accuracy", "nll", "ece", "agreement", "teacher_kl", "teacher_accuracy", "key")
    assert {name: whole[name] for name in same} == {name: again[name] for name in same}


def test_processes_share_the_work(league, folder, home):
    script = (f"import sys; from kdcourse.league import *; from kdcourse.league import __main__;"
              f"PAIRS['tiny'] = {TINY!r}; __main__.main(sys.argv[1:])")
    line = [sys.executable, "-c", script, str(folder), "--pair", "tiny", "--epochs", "2",
            "--methods", "labels,KD,SP", "--seeds", "2"]
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             cwd=ROOT, encoding="utf-8") for _ in range(2)]
    printed = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    computed = re.findall(r"^(tiny, .*): [\d.]+% in", "".join(out for out, _ in printed), re.M)
    runs = league.runs(["tiny"], ["labels", "KD", "SP"], range(2), epochs=2)
    assert set(computed) == set(map(str, runs))
    assert not league.missing(runs)
    assert len(module.Store("league").rows) == 6
    # A row that another process has written in between is taken, and not computed again.
    assert len(list((home / "league").glob("resnet14-*.safetensors"))) == 1


def test_a_run_that_another_process_is_at_is_left_to_it(league):
    run = Run("tiny", "labels", 0, 2)
    with module.Store("league").claim(league._identity(run)[0]):
        assert League(league.data).compute(run) is None
    assert league.missing([run]) == [run]


# --- the command --------------------------------------------------------------------------------


def test_the_command(league, folder, capsys):
    line = [str(folder), "--pair", "tiny", "--epochs", "2", "--seeds", "2", "--methods"]
    command.main([*line, "labels,KD", "--list"])
    said = capsys.readouterr().out
    assert "4 runs, 0 of them with a row" in said and "not the images of CIFAR-100" in said
    assert re.search(r"^tiny +KD +seeds 0, 1 +about [\d.]+ hours", said, re.M)
    assert "4 runs are missing: about" in said
    command.main([*line, "labels,KD"])
    assert "minus labels" in capsys.readouterr().out
    command.main([*line, "KD,labels, weight decay 1e-3,labels", "--list"])
    said = capsys.readouterr().out
    assert "6 runs, 4 of them with a row" in said
    assert "2 runs are missing" in said


def test_a_training_that_diverges_does_not_stop_the_others(league, folder, monkeypatch, capsys):
    monkeypatch.setitem(METHODS, "SP", dataclasses.replace(
        METHODS["SP"], objective=lambda case: 1e30 * losses.CE() + 1e30 * losses.SP(
            case.s[-1], case.t[-1])))
    with pytest.raises(ValueError, match=r"diverged: tiny, SP, seed 0, 2 epochs$"):
        command.main([str(folder), "--pair", "tiny", "--epochs", "2", "--seeds", "1",
                      "--methods", "SP,labels"])
    assert "tiny, labels, seed 0, 2 epochs: " in capsys.readouterr().out


@pytest.mark.parametrize(("given", "message"), [
    (["--methods", "KD,ATT"], r"each method among .*, got \['ATT'\]"),
    (["--pair", "resnet56"], r"each pair among .*, got \['resnet56'\]")])
def test_names_that_do_not_exist(folder, home, given, message):
    with pytest.raises(ValueError, match=message):
        command.main([str(folder), *given])


@pytest.mark.parametrize("given", [["--seeds", "0"], ["--epochs", "-1"]])
def test_numbers_that_cannot_be(folder, home, given, capsys):
    with pytest.raises(SystemExit):
        command.main([str(folder), *given])
    assert f"Expected {given[0]} of at least 1, got {given[1]}." in capsys.readouterr().err


def test_the_short_protocol(monkeypatch):
    assert command._options(["x", "--short"]).epochs == 60
    assert command._options(["x"]).epochs == 240
