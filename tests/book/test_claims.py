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
    for name in ("Wrong classes shuffled", "Confidence only", "Class averages", "Even softness",
                 "Untrained teacher"):
        assert found[name][2] <= 0 > found[name][0], f"{name}: worse than labels only"
    for name in ("Another image", "Label smoothing"):
        mean, low, high = found[name]
        assert low < mean < 0 <= high, f"{name}: these seeds cannot tell; it is not above"
    assert "Label smoothing**, share 0.01:" in text, "the smallest of four shares was the best"
    for arm in ("and", "The teacher's arm is"):  # shuffled against teacher; teacher, smoothing
        _, low, high = only(rf"{arm} {number} points \({number} to {number}\) from (?:it|the "
                            r"teacher's own arm\. The)", text)
        assert (low > 0) if arm.startswith("The") else (high < 0)
    _, _, high = only(rf", and {number} points \({number} to {number}\) from the teacher's own "
                      "arm, with the same softness", text)
    assert high < 0, "the output for another image is behind the teacher's own arm"

    before, after = only(r"labels only from (\d+\.\d) to (\d+\.\d) %", text)
    plain, fair = only(r"brings (\d+\.\d) points on plain images, and (\d+\.\d) points on", text)
    assert after - before > plain, "augmentation comes first"
    assert fair < plain / 2, "with it, most of the teacher's gain is gone"
    for T, behind in {1: True, 2: False, 8: False, 16: True}.items():
        against = text[text.index("Points against T = 4"):]
        _, low, high = only(rf"T = {T} {number} \({number} to {number}\)", against)
        assert high < 0 if behind else low < 0 < high, f"T = {T} against T = 4"
    _, _, high = only(rf"{number} \({number} to {number}\) points from 4,000 images with", text)
    assert high < 0.5, "at least as much as ten times the labels bring"

    pair = rf"{number} \({number} to {number}\)"
    _, low, _ = only(rf"1 and I together gain {pair} points", text)
    assert low > 0
    _, low, high = only(rf"0 and O together: {pair}", text)
    assert low < 0 < high, "the teacher only moves answers from one to the other"
    assert "lose: D and 0 (of" in text
    *one, _, _, two = only(rf"these two pairs lose most: {pair} and {pair}", text)
    assert max(one[2], two) < -5
    _, low, high = only(rf"change labels only by {number} points \({number} to {number}\)", text)
    assert low < 0 < high, "sixty views"
    _, low, high = only(r"with labels only: ([+-]\d\.\d+) \(([+-]\d\.\d+) to ([+-]\d\.\d+)\)", text)
    assert high < 0, "calibration is better with the teacher"
    (ours, averages) = only(r"is (0\.\d+) with the teacher and .* But with class averages it is "
                            r"(0\.\d+):", text)
    assert abs(ours - averages) < 0.003, "any soft label of the class will do"
    teacher, averages, labels = only(r"(0\.\d\d) with the teacher, (0\.\d\d) with class averages "
                                     r"and (0\.\d\d) with labels only", text)
    assert teacher < averages - 0.05 and teacher < labels - 0.05, "this does separate them"


def test_chapter_1_in_twice_the_epochs():
    text = printed("01")
    number = r"([+-]\d+\.\d+)"
    pair = rf"{number} points \({number} to {number}\)"
    mean, low, _ = only(rf"Twice the steps bring labels only {pair}, about as much as", text)
    gain = differences(text)["Teacher of the same 4,000"][0]
    assert low > 0 and abs(mean - gain) < 0.3, "as much as the teacher of the same images"
    _, low, high = only(rf"that of the same 4,000 \d+\.\d%, {pair}\.", text)
    assert low < 0 < high, "five seeds no longer show a gain"
    _, low, _ = only(rf"With the teacher it is \d+\.\d%, {pair};", text)
    assert low > 0
    _, low, _ = only(rf"With 1,000 images: {pair} on validation images", text)
    assert low > differences(text)["The teacher's gain"][2], "more than with 4,000"


def test_the_cost_that_chapter_1_states():
    from kdcourse.zoo import TEACHERS

    (path,) = FOLDER.glob("01_*.ipynb")
    source, text = path.read_text("utf-8"), printed("01")
    tried = [2 * int(count) for count in re.findall(r"the best of (\d+)", text)]
    assert f"trained {min(tried)} to {max(tried)} times to tune it" in source
    teacher, student = (kd.measure.efficiency.macs(model, (1, 28, 28)) for model in (
        kd.models.resnet(depth=8, stem_stride=2), kd.models.convnet(width=16, classes=36)))
    assert f"each of {teacher / student:.1f} times the student's operations" in source
    epochs = [TEACHERS[name]["recipe"].epochs for name in ("glyphs", "glyphs-4000")]
    assert f"({epochs[0]} epochs, not augmented; {epochs[1]} epochs, augmented)" in text
    assert f"on top: {40000 * epochs[0]:,} passes" in source


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
        "glyphs-4000", "shuffled", "confidence only",
        "class averages", "another image", "even softness",
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
