"""The front page: its drawing, the card that it takes from chapter 1, and its numbers."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from helpers.modules import load
from test_claims import (
    ARMS_1,
    differences,
    forest_of_chapter_1,
    only,
    printed,
    runs_of,
    settings_of_chapter_1,
)

pytest.importorskip("sphinx")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "intro.md").read_text("utf-8")
LOOP = ROOT / "book" / "_static" / "loop.svg"


@pytest.fixture(scope="module")
def front():
    return load(ROOT / "book" / "_ext" / "kdfront.py")


def number(text: str) -> float:
    return float(re.search(r"[-−]?\d+\.\d+", text)[0].replace("−", "-"))


def test_numbers_are_those_that_the_chapter_prints(front):
    shown, text = front.numbers(), printed("01")
    for name, arm in (("same", "Teacher of the same 4,000"), ("teacher", "The teacher's gain")):
        found = re.fullmatch(r"([\d.]+) points \(([\d.]+) to ([\d.]+)\)", shown[f"gain, {name}"])
        assert tuple(map(float, found.groups())) == differences(text)[arm]
    for name, arm in (("same", "+ teacher of the same 4,000"), ("teacher", "+ teacher")):
        found = re.fullmatch(r"(\S+) points \((\S+) to (\S+)\)", shown[f"gain in 120, {name}"])
        numbers = tuple(float(value.replace("−", "-")) for value in found.groups())
        # Chapter 1 prints two digits where an end would round to 0.
        assert np.allclose(numbers, forest_of_chapter_1()[arm, "120 epochs"], atol=0.051)
    _, low, high = (float(value.replace("−", "-"))
                    for value in re.findall(r"[−\d.]+\d", shown["gain in 120, same"]))
    assert low < 0 < high, "the interval of the first contains 0"
    _, low, high = forest_of_chapter_1()["+ teacher of the same 4,000", "finer rates"]
    assert low < 0 < high, "and so it does in finer steps"
    assert number(shown["gain in 120, teacher"].partition("(")[2]) > 0
    errors = only(r"student, labels only \| ([\d.]+) \([^|]*\| ([\d.]+)", text)[1]
    assert number(shown["labels"]) == pytest.approx(100 - errors, abs=0.051)
    errors = only(r"student, soft labels \| [^|]*\| [^|]*\| ([\d.]+) \(([\d.]+)", text)[0]
    assert number(shown["teacher"]) == pytest.approx(100 - errors, abs=0.051)


def test_the_teacher_itself_is_that_of_the_40_000_images(front):
    """Not of the other teacher: nearer to what the chapter prints for its validation images."""
    shown, text = front.numbers(), printed("01")
    itself = number(shown["teacher itself"])
    large, same = only(r"the teacher on our validation images: ([\d.]+)%.* the teacher of the same "
                       r"4,000, on our validation images: ([\d.]+)%", text)
    assert abs(itself - large) < abs(itself - same), "not the teacher of the same 4,000"
    others = only(r"\| teacher \| [^|]+ \| ([\d.]+) \| ([\d.]+) \|", text)
    assert itself == pytest.approx(100 - min(others), abs=0.051)
    assert itself > number(shown["teacher"]), "a larger network, and better"
    assert "teacher of the 40,000 images itself" in " ".join(PAGE.split())


@pytest.mark.parametrize("page", ["README.md", "book/intro.md"])
def test_the_text_of_the_figure_says_which_arms_are_higher(page):
    (alt,) = re.findall(r"(?:!\[|:alt: )(Test accuracy of one small network[^\]\n]+)",
                        (ROOT / page).read_text("utf-8"))
    assert len(ARMS_1) == 11 and " with eleven sources, a dot for each of five seeds." in alt
    means = {name: np.mean(runs_of(name)) for name in ARMS_1}
    lower = {name for name in means if means[name] < means["labels only"]}
    assert max(means, key=means.get) == "teacher" and "Labels and teacher are highest." in alt
    assert set(means) - lower == {"labels only", "teacher", "teacher of the same 4,000",
                                  "wrong classes of its class"}
    ((above, below),) = re.findall(
        r"highest\. (.+) are above labels only\. (.+) have lower means than labels only\.", alt)
    assert "a teacher of the same images" in above and "wrong classes of its class" in above
    named = below.lower().replace("shuffled wrong classes", "wrong classes shuffled")
    assert set(re.split(", | and ", named.replace("an untrained", "untrained"))) == lower


def test_no_measured_number_is_typed(front):
    assert not re.search(r"\d+\.\d+ ?(%|points)", PAGE)
    used = set(re.findall(r"\{measured\}`([^`]+)`", PAGE))
    assert {"labels", "gain, same", "gain, teacher", "gain in 120, same", "gain in 120, teacher",
            "teacher itself", "seeds"} <= used
    assert used <= set(front.numbers())


def test_arms_need_their_rows(front):
    rows = json.loads(front.ROWS.read_text("utf-8"))["rows"]
    fewer = [row for row in rows if row["seed"] or row["split"] != "test"]
    with pytest.raises(front.ExtensionError, match="five test rows"):
        front.accuracies(fewer)


@pytest.mark.parametrize("arms", ["ARMS", "LONGER"])
def test_rows_of_other_settings_are_not_counted(front, arms):
    """Finer rates, a stronger augmentation and more epochs of the same arm."""
    arms = getattr(front, arms)
    rows = json.loads(front.ROWS.read_text("utf-8"))["rows"]
    others = [row | {"accuracy": 0.0, part: row[part].replace(old, new)} for row in rows
              for part, old, new in (
                  ("recipe", "lr=0.32,", "lr=0.16,"), ("recipe", "decay=0.002", "decay=0.0004"),
                  ("recipe", "decay=0.01", "decay=0.05"), ("recipe", "epochs=120,", "epochs=240,"),
                  ("recipe", "epochs=60,", "epochs=240,"),
                  ("data", "'degrees': 11}", "'degrees': 16.5}"),
                  ("scheme", "Cached(teacher('glyphs'))", "Cached(wrong classes of its class)"))
              if old in row[part]]
    assert front.accuracies(rows + others, arms) == front.accuracies(rows, arms)
    twice = [row | {"accuracy": 0.0} for row in rows]
    with pytest.raises(front.ExtensionError, match="one test row of 'labels'"):
        front.accuracies(rows + twice, arms)


def test_arms_have_the_settings_that_the_chapter_found(front):
    for name, arm in (("labels", "labels only"), ("teacher", "teacher"),
                      ("same", "teacher of the same 4,000")):
        lr, wd, _ = settings_of_chapter_1()[arm]
        found = front.accuracies(json.loads(front.ROWS.read_text("utf-8"))["rows"])[name]
        assert f"lr={lr:g}, weight_decay={wd:g}," in front.ARMS[name]
        assert found == [100 * value for value in runs_of(arm)], name


def test_what_the_page_says_about_its_image(front):
    card = front.stored("01", "B")
    z, classes = np.array(card["logits"][0]), card["classes"]
    assert f"of {len(classes)} classes" in PAGE
    order = [classes[k] for k in np.argsort(-z)]
    assert order[:2] == ["B", "8"] and classes[card["labels"][0]] == "B"
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    assert p.max() > 0.95, "nearly the label at T = 1"
    with pytest.raises(front.ExtensionError, match="its labels are I, O, S"):
        front.stored("01", "X")


def test_the_card_is_that_of_the_chapter(front):
    from kdcourse import explore

    card = front.stored("01", "B")
    made = explore.temperature(**card)._repr_mimebundle_()["text/html"]
    (chapter,) = [page for page in front.outputs("01", "text/html")
                  if 'data-kdx="temperature-' in page]
    (picture,) = re.findall(r'src="(data:image/png[^"]+)"', made)
    assert picture in chapter
    logits = json.loads(re.search(r'"logits":\[(\[.*?\])', made)[1])
    assert json.dumps(logits, separators=(",", ":")) in chapter


def test_the_drawing():
    root = ET.fromstring(LOOP.read_text("utf-8"))
    assert root.get("role") == "img"
    for word in ("student", "teacher", "frozen", "temperature T", "labels", "student only"):
        assert word in root.get("aria-label"), word
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert len(set(ids)) == len(ids)
    text = LOOP.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http" not in text
    assert set(re.findall(r"url\(#([\w-]+)\)", text)) == set(ids), "every arrow has its head"
    # Colours are the page's, so that the drawing has both themes.
    bare = re.sub(r"var\(--[\w-]+, #\w+\)", "", text)
    assert not re.search(r'"#\w{3,6}"|: #\w', bare)


def test_drawing_and_card_are_light(front):
    from kdcourse import explore

    card = explore.temperature(**front.stored("01", "B"))._repr_mimebundle_()["text/html"]
    assert LOOP.stat().st_size + len(card.encode()) < 40_000
