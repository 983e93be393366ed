"""The front page: its drawing, the card that it takes from chapter 1, and its numbers."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from helpers.modules import load
from test_claims import differences, only, printed

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
    twice = r"{} \+?(-?[\d.]+) points \(\+?(-?[\d.]+) to \+?(-?[\d.]+)\)"
    for name, said in (("same", "that of the teacher of the same 4,000"),
                       ("teacher", "The teacher's gain is then")):
        found = re.fullmatch(r"(\S+) points \((\S+) to (\S+)\)", shown[f"gain in 120, {name}"])
        numbers = tuple(float(value.replace("−", "-")) for value in found.groups())
        assert numbers == only(twice.format(said), text)
    assert number(shown["gain in 120, same"].partition("(")[2]) < 0, "these seeds cannot tell"
    errors = only(r"student, labels only \| ([\d.]+) \([^|]*\| ([\d.]+)", text)[1]
    assert number(shown["labels"]) == pytest.approx(100 - errors, abs=0.051)
    errors = only(r"student, soft labels \| [^|]*\| [^|]*\| ([\d.]+) \(([\d.]+)", text)[0]
    assert number(shown["teacher"]) == pytest.approx(100 - errors, abs=0.051)
    assert number(shown["teacher itself"]) > number(shown["teacher"]), "a better network, as said"


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


def test_what_the_page_says_about_its_image(front):
    card = front.stored("01", "B")
    z, classes = np.array(card["logits"][0]), card["classes"]
    assert f"of {len(classes)} classes" in PAGE
    order = [classes[k] for k in np.argsort(-z)]
    assert order[:2] == ["B", "8"] and classes[card["labels"][0]] == "B"
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    assert p.max() > 0.95, "nearly the label at T = 1"
    with pytest.raises(front.ExtensionError, match="its labels are O, I, S"):
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
