"""Sentences of chapters that a person wrote about measured numbers: do the stored numbers agree?

Where a chapter is computed anew and one of these fails, its sentence is to be rewritten.
"""

import re
from pathlib import Path

import pytest

import kdcourse as kd

nbformat = pytest.importorskip("nbformat")
FOLDER = Path(__file__).parents[2] / "notebooks"


def printed(number: str) -> str:
    """Everything that the cells of a chapter printed, as text on one line."""
    (path,) = FOLDER.glob(f"{number}_*.ipynb")
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            found.append("".join(data.get("text/markdown", "")) or output.get("text", ""))
    return " ".join(" ".join(found).replace("−", "-").split())


def differences(text: str) -> dict[str, tuple[float, float, float]]:
    """What stands in bold before "+1.2 points (+0.5 to +1.9)": (mean, low, high)."""
    number = r"([+-]\d+\.\d+)"
    pattern = rf"\*\*([^*]+)\*\*: {number} points \({number} to {number}\)"
    return {name: (float(a), float(b), float(c)) for name, a, b, c in re.findall(pattern, text)}


def only(pattern: str, text: str) -> tuple[float, ...]:
    """The numbers of the one place where the pattern fits."""
    (found,) = re.findall(pattern, text)
    return tuple(map(float, found))


def test_chapter_1():
    text = printed("01")
    found = differences(text)
    number = r"([+-]\d+\.\d+)"
    for name in ("The teacher's gain", "Teacher of the same 4,000"):
        assert found[name][1] > 0, f"{name}: it helps"
    _, low, _ = only(rf"ahead of it by {number} points \({number} to {number}\)", text)
    assert low > 0, "that part came with the additional images"
    for name in ("Class averages", "Even softness", "Untrained teacher"):
        assert found[name][2] < 0, f"{name}: worse than labels only"
    mean, low, high = found["Another image"]
    assert low < mean < 0 < high, "these seeds cannot tell; it does not end above labels only"
    for name in ("even softness", "untrained teacher"):
        assert re.search(rf"{name} +lr 0\.08,", text), f"{name}: best at the lowest rate tried"
    _, _, high = only(rf"It is {number} points \({number} to {number}\) from the teacher's", text)
    assert high < 0, "the output for another image is behind the teacher's own arm"

    before, after = only(r"labels only from (\d+\.\d) to (\d+\.\d) %", text)
    plain, fair = only(r"brings (\d+\.\d) points on plain images, and (\d+\.\d) points on", text)
    assert after - before > plain, "augmentation comes first"
    assert fair < plain / 2, "with it, most of the teacher's gain is gone"
    for T, behind in {1: True, 2: False, 8: False, 16: True}.items():
        _, low, high = only(rf"T = {T} {number} \({number} to {number}\)", text)
        assert high < 0 if behind else low < 0 < high, f"T = {T} against T = 4"
    _, low, high = only(rf"{number} \({number} to {number}\) points from 4,000 images with", text)
    assert low < 0 < high, "as much as ten times the labels"

    cell = rf"{number} \({number} to {number}\)"
    groups = {name: [*map(float, values)] for name, *values in
              re.findall(rf"\| ([a-z0-9, ]+) \| {cell} \| {cell} \|", text)}
    (_, low, _, _, _, high) = groups["teacher"]
    assert low > high, "most on the classes that labels only get wrong most often"
    (_, _, high, _, low, _) = groups["even softness"]
    assert high < low, "a label softened evenly costs most there"
    for name in ("class averages", "another image"):
        (_, low, high, mean, *_) = groups[name]
        assert low < mean < high, f"{name}: cannot tell the two groups apart"
    _, low, high = only(r"with labels only: ([+-]\d\.\d+) \(([+-]\d\.\d+) to ([+-]\d\.\d+)\)", text)
    assert high < 0, "calibration is better with the teacher"
    agreement, _ = only(r"right or wrong, is (\d+\.\d)% against (\d+\.\d)%", text)
    accuracy, = re.findall(r"to (\d+\.\d)%; in brackets", text)
    assert 0 <= agreement - float(accuracy) < 0.5, "hardly more than the accuracy itself"


def rates_and_decays(pieces: tuple[str, ...]) -> dict[tuple[float, float], float]:
    """(rate, weight decay): mean accuracy in the search of chapter 1."""
    found = {}
    for row in kd.experiment.recorded("01"):
        texts = f"{row['scheme']} {row['data']} "
        if row["split"] == "val" and row["seed"] < 2 and all(piece in texts for piece in pieces):
            at = re.search(r"lr=([\d.]+), weight_decay=([\d.]+),", row["recipe"]).groups()
            found.setdefault(tuple(map(float, at)), []).append(row["accuracy"])
    assert len(found) == 12 and {len(runs) for runs in found.values()} == {2}
    return {at: sum(runs) / 2 for at, runs in found.items()}


def test_the_edges_of_the_search_in_chapter_1():
    plain = ("train=4000,", "size=28) ")
    labels = rates_and_decays((*plain, "Supervised"))
    teacher = rates_and_decays((*plain, "Cached(teacher('glyphs'))"))
    assert max(labels, key=labels.get) == max(teacher, key=teacher.get) == (0.32, 0.05)
    gains = [found[0.32, 0.05] - found[0.32, 0.01] for found in (labels, teacher)]
    assert gains[0] > gains[1] > 0, "both still gain from weight decay, labels only more"
    many = rates_and_decays(("train=40000,",))
    assert max(many, key=many.get)[0] == 0.08, "40,000 labels: best at the lowest rate tried"


def test_the_weights_that_chapter_1_states():
    (path,) = FOLDER.glob("01_*.ipynb")
    text = path.read_text("utf-8")
    for model in (kd.models.convnet(width=16, classes=36),
                  kd.models.resnet(depth=8, stem_stride=2)):
        assert f"{kd.measure.parameters(model):,} weights" in text
