"""Sentences of chapters that a person wrote about measured numbers: do the stored numbers agree?

Where a chapter is computed anew and one of these fails, its sentence is to be rewritten.
"""

import re
from pathlib import Path

import pytest

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
    assert found["Another image"][1] < 0 < found["Another image"][2], "these seeds cannot tell"
    _, _, high = only(rf"It is {number} points \({number} to {number}\) from the teacher's", text)
    assert high < 0, "the output for another image is behind the teacher's own arm"

    before, after = only(r"labels only from (\d+\.\d) to (\d+\.\d) %", text)
    plain, fair = only(r"brings (\d+\.\d) points on plain images, and (\d+\.\d) points on", text)
    assert after - before > plain, "a small network needs augmentation first"
    assert fair < plain / 2, "most of the gain was what the baseline lacked"
    for T in (2, 8):
        _, low, high = only(rf"T = {T} {number} \({number} to {number}\)", text)
        assert low < 0 < high, "three seeds cannot say which temperature is best"

    _, with_teacher = only(r"from (\d+\.\d)% to (\d+\.\d)%; in brackets", text)
    many, = re.findall(r"the same student reaches (\d+\.\d)%: about as much", text)
    assert abs(float(many) - with_teacher) < 0.5
