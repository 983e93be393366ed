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
    found = differences(re.sub(r"\*\*, share [\d.]+:", "**:", text))
    number = r"([+-]\d+\.\d+)"
    for name in ("The teacher's gain", "Teacher of the same 4,000"):
        assert found[name][1] > 0, f"{name}: it helps"
    _, low, _ = only(rf"ahead of it by {number} points \({number} to {number}\)", text)
    assert low > 0, "that part came with the additional images"
    for name in ("Wrong classes shuffled", "Class averages", "Even softness", "Untrained teacher"):
        assert found[name][2] <= 0 > found[name][0], f"{name}: worse than labels only"
    for name in ("Another image", "Label smoothing"):
        mean, low, high = found[name]
        assert low < mean < 0 <= high, f"{name}: these seeds cannot tell; it is not above"
    assert "Label smoothing**, share 0.01:" in text, "the smallest of four shares was the best"
    for arm in ("and", "The teacher's arm is"):  # shuffled against teacher; teacher, smoothing
        _, low, high = only(rf"{arm} {number} points \({number} to {number}\) from (?:it|the "
                            r"teacher's own arm\. The)", text)
        assert (low > 0) if arm.startswith("The") else (high < 0)
    _, _, high = only(rf"It is {number} points \({number} to {number}\) from the teacher's", text)
    assert high < 0, "the output for another image is behind the teacher's own arm"

    before, after = only(r"labels only from (\d+\.\d) to (\d+\.\d) %", text)
    plain, fair = only(r"brings (\d+\.\d) points on plain images, and (\d+\.\d) points on", text)
    assert after - before > plain, "augmentation comes first"
    assert fair < plain / 2, "with it, most of the teacher's gain is gone"
    for T, behind in {1: True, 2: False, 8: False, 16: True}.items():
        _, low, high = only(rf"T = {T} {number} \({number} to {number}\)", text)
        assert high < 0 if behind else low < 0 < high, f"T = {T} against T = 4"
    _, _, high = only(rf"{number} \({number} to {number}\) points from 4,000 images with", text)
    assert high < 0.5, "at least as much as ten times the labels bring"

    cell = rf"{number} \({number} to {number}\)"
    groups = {name: [*map(float, values)] for name, *values in
              re.findall(rf"\| ([a-z0-9, ]+) \| {cell} \| {cell} \|", text)}
    (_, low, _, _, _, high) = groups["teacher"]
    assert low > high, "most on the classes that labels only get wrong most often"
    (_, _, high, _, low, _) = groups["even softness"]
    assert high < low, "a label softened evenly costs more there"
    assert min(groups, key=lambda name: groups[name][0]) == "wrong classes shuffled"
    for name in ("class averages", "another image"):
        (_, low, high, _, rest_low, rest_high) = groups[name]
        assert low < rest_high and rest_low < high, f"{name}: the two intervals overlap"
    mean, low, high = only(rf"change labels only by {number} points \({number} to {number}\)", text)
    assert low < 0 < high and abs(mean) < 1, "sixty views change it only so much"
    _, low, high = only(r"with labels only: ([+-]\d\.\d+) \(([+-]\d\.\d+) to ([+-]\d\.\d+)\)", text)
    assert high < 0, "calibration is better with the teacher"
    agreement, _ = only(r"right or wrong, is (\d+\.\d)% against (\d+\.\d)%", text)
    accuracy, = re.findall(r"to (\d+\.\d)%; in brackets", text)
    assert 0 <= agreement - float(accuracy) < 0.5, "hardly more than the accuracy itself"


def rates_and_decays(*pieces: str) -> dict[tuple[float, float], float]:
    """(rate, weight decay): mean accuracy in the search of chapter 1."""
    found = {}
    for row in kd.experiment.recorded("01"):
        texts = f"{row['scheme']} {row['data']} "
        if row["split"] == "val" and row["seed"] < 2 and all(piece in texts for piece in pieces):
            at = re.search(r"lr=([\d.e-]+), weight_decay=([\d.e-]+),", row["recipe"]).groups()
            found.setdefault(tuple(map(float, at)), []).append(row["accuracy"])
    assert min(map(len, found.values())) == 2
    return {at: sum(runs) / len(runs) for at, runs in found.items()}


@pytest.mark.parametrize("pieces", [
    ("train=4000,", "size=28) ", "Supervised"), ("train=4000,", "size=28) ", "teacher('glyphs')"),
    ("train=40000,",),
    *(("train=4000,", "views=20", scheme) for scheme in (
        "CE())", "LabelSmoothing(smoothing=0.01)",
        "0.9 * KD(T=4), teacher=Cached(teacher('glyphs'))",
        "glyphs-4000", "shuffled", "class averages", "another image", "even softness",
        "Cached(resnet"))])
def test_no_best_setting_of_chapter_1_lies_at_an_edge(pieces):
    found = rates_and_decays(*pieces)
    (lr, wd) = max(found, key=found.get)
    near = [(lr / 4, wd), (4 * lr, wd), (lr, wd / 5), (lr, 5 * wd)]
    assert {(round(a, 8), round(b, 8)) for a, b in near} <= found.keys()


def test_the_weights_that_chapter_1_states():
    (path,) = FOLDER.glob("01_*.ipynb")
    text = path.read_text("utf-8")
    for model in (kd.models.convnet(width=16, classes=36),
                  kd.models.resnet(depth=8, stem_stride=2)):
        assert f"{kd.measure.parameters(model):,} weights" in text
