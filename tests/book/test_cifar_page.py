"""The page about CIFAR-100: its command runs, its tables say what was measured."""

import json
import re
import shlex
from pathlib import Path

import pytest
from helpers.modules import load

import kdcourse as kd
from kdcourse.league import METHODS, PAIRS
from kdcourse.league import __main__ as command
from kdcourse.league.runs import CIFAR100

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "cifar.md").read_text("utf-8")
PUBLISHED = json.loads((ROOT / "book" / "cifar_published.json").read_text("utf-8"))["pairs"]


@pytest.fixture(scope="module")
def extension():
    return load(ROOT / "book" / "_ext" / "kdleague.py")


def test_the_command_of_the_page_is_one(home):
    (line,) = re.findall(r"^python -m kdcourse.league (.*)$", PAGE, re.M)
    options = command._options(shlex.split(line))
    assert options.epochs == 60 and options.seeds == 5
    assert options.pair == ["resnet56-resnet20"] and options.methods == ["labels", "KD", "AT"]


def test_every_pair_has_a_table_and_published_numbers():
    assert re.findall(r"^```{league} (.*)$", PAGE, re.M) == list(PAIRS)
    assert PUBLISHED.keys() >= PAIRS.keys()
    for numbers in PUBLISHED.values():
        assert all(50 < number < 80 for number in numbers.values())
        assert numbers.keys() - {"teacher"} <= METHODS.keys()


def row(arm, seed, accuracy, epochs=240, pair="vgg13-vgg8"):
    return {"pair": pair, "arm": arm, "seed": seed, "epochs": epochs, "accuracy": accuracy,
            "teacher_accuracy": 0.7464}


@pytest.mark.parametrize("epochs", [240, 60])
def test_what_was_measured_stands_in_the_table(extension, epochs):
    rows = [row("labels", seed, 0.70 + 0.01 * seed, epochs) for seed in range(3)]
    rows += [row("KD", seed, 0.72 + 0.01 * seed + 0.001 * (seed == 1), epochs) for seed in range(3)]
    rows += [row("AT", 0, 0.5, epochs, pair="resnet56-resnet20")]
    lines = {line.split(" | ")[0].strip("| "): [cell.strip() for cell in line.strip("|").split("|")]
             for line in extension.table("vgg13-vgg8", rows, PUBLISHED["vgg13-vgg8"])}
    place = 2 if epochs == 240 else 4
    mean, low, high = kd.measure.interval([70.0, 71.0, 72.0])
    gain, below, above = kd.measure.paired_difference([72.0, 73.1, 74.0], [70.0, 71.0, 72.0])
    assert lines["labels"][place] == f"{mean:.2f} ({low:.2f} to {high:.2f}; 3 seeds)"
    assert lines["KD"][place + 1] == f"{gain:+.2f} ({below:+.2f} to {above:+.2f}; 3 seeds)"
    assert lines["KD"][1] == "72.98" and lines["teacher"][place] == "74.64"
    assert lines["AT"][place] == lines["KD"][6 - place] == extension.MISSING
    assert "Tf-KD" not in lines and "FSP" in lines


def test_pairs_in_words(extension):
    assert extension.shown("wrn_40_2-shufflenetv1") == "WRN-40-2 to ShuffleNetV1"
    assert extension.shown("resnet32x4-resnet8x4") == "ResNet-32x4 to ResNet-8x4"


def test_rows_that_ship_are_of_cifar_100():
    path = ROOT / "kdcourse" / "results" / "league.json"
    for found in json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []:
        assert f"sha256='{CIFAR100}'" in found["data"]
        assert found["hardware"] and found["seconds"] > 0


def test_the_built_page_shows_what_is_missing_in_grey(book):
    bs4 = pytest.importorskip("bs4")
    page = bs4.BeautifulSoup((book / "book" / "cifar.html").read_text("utf-8"), "html.parser")
    tables = page.select("article table")
    assert len(tables) == len(PAIRS) + 1
    grey = [cell for table in tables for cell in table.select("td")
            if cell.get_text(strip=True) == "not measured"]
    assert all(cell.select(".missing") for cell in grey)
    for name, table in zip(PAIRS, tables):
        text = table.get_text(" ")
        assert all(f"{number:.2f}" in text for number in PUBLISHED[name].values())


def test_rows_from_elsewhere_are_kept_under_a_name(home, data):
    """A name that is not a chapter's number."""
    kd.compare({"a": lambda seed: kd.Supervised(kd.models.convnet(width=4, size=12, seed=seed))},
               data, kd.Recipe(epochs=1, batch=36), seeds=[0], results="cifar100")
    (row,) = json.loads((home / "results" / "cifar100.json").read_text("utf-8"))["rows"]
    assert row["hardware"] and row["seconds"] > 0
