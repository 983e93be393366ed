"""Sentences of the chapters that state a result: do they hold for the recorded rows?"""

import ast
import json
import re
from types import SimpleNamespace

import numpy as np
from conftest import ROOT, cell
from scipy import stats

import kdcourse as kd
from kdcourse.experiment import Comparison


def rows_of(chapter: str) -> list[dict]:
    """The recorded rows of a chapter that were measured on test images."""
    path = ROOT / "kdcourse" / "results" / f"{chapter}.json"
    return [row for row in json.loads(path.read_text("utf-8"))["rows"] if row["split"] == "test"]


def comparison(rows: list[dict], arms: dict[str, str], baseline: str) -> Comparison:
    """The rows of each arm, found by a pattern that its scheme has to match as a whole."""
    named = [{"arm": arm} | row for arm, pattern in arms.items()
             for row in sorted(rows, key=lambda row: row["seed"])
             if re.fullmatch(pattern, row["scheme"])]
    assert {arm: sum(row["arm"] == arm for row in named) for arm in arms} == dict.fromkeys(arms, 5)
    return Comparison(named, baseline)


def definitions(source: str) -> str:
    """The functions of a cell, without what it does with them."""
    return "\n".join(ast.unparse(node) for node in ast.parse(source).body
                     if isinstance(node, ast.FunctionDef))


def difference(ours: list[float], other: list[float]) -> str:
    """Paired difference in points with its 95 % interval by Student's t, as the book writes it."""
    gaps = 100 * np.subtract(ours, other)
    low, high = stats.t.interval(0.95, len(gaps) - 1, gaps.mean(), stats.sem(gaps))
    return f"**{gaps.mean():+.1f} points** ({low:+.1f} to {high:+.1f})"


def test_chapter_6_on_a_small_transformer_and_few_images():
    rows = rows_of("06")
    network = {"convnet": r"convnet\(.*?\)", "small ViT": r"vit\(.*?\)"}
    final, attended = {}, {}
    for name, student in network.items():
        by = rf"Distiller\({student}, 0.1 \* CE\(\) \+ 0.9 \* KD\(T=[\d.]+\)"
        said = rf"{by}, teacher=Cached\(teacher\('%s'\)\)\)"
        final[name] = comparison(rows, {
            "labels": rf"Supervised\({student}, CE\(\)\)", "ResNet": said % "glyphs",
            "ViT": said % "glyphs-vit"}, "labels")
        term = rf"{by} \+ (?:10 \* )?(?:Look|Attend)%s\(.*"
        attended[name] = comparison(rows, {"answers": said % "glyphs-vit", "answers + maps":
                                           term % "", "answers + other maps": term % "Elsewhere"},
                                    "answers")

    source = cell("06", "for a small transformer on few images")
    tuning = SimpleNamespace(mean=lambda lr: 0.5)
    names = {
        "kd": kd, "np": np, "final": final, "attended": attended, "networks": list(network),
        "sources": ("labels", "ResNet", "ViT"), "rates": dict.fromkeys(network, (0.01,)),
        "tuning": {(name, "labels"): tuning for name in network}, "weighed": {"convnet": tuning},
        "weight": {"small ViT": 10}, "Markdown": str,
        **dict.fromkeys(("real", "placebo", "heads", "heads_placebo"), (0, 0, 0))}
    exec(definitions(cell("06", "def points(triple)")), names)
    *before, last = ast.parse(source).body
    exec(ast.unparse(before), names)
    (sentence,) = re.findall(r"- \*\*Answers alone.*?(?=\n- )", eval(ast.unparse(last), names),
                             re.DOTALL)
    sentence = " ".join(sentence.split())

    convnet = final["convnet"].values("ResNet")
    told = final["small ViT"].values("ViT")
    attending = attended["small ViT"].values("answers + maps")
    assert [max(final[name].arms, key=final[name].mean) for name in network] == ["ResNet", "ViT"]
    for runs in (convnet, told, attending):
        assert f"reaches {np.mean(runs):.1%}" in sentence
    assert f"The ViT minus the convnet: {difference(told, convnet)}." in sentence
    assert f"It minus the same convnet: {difference(attending, convnet)}." in sentence
    assert f"{np.mean(attending):.1%}" == "82.1%"
    assert kd.measure.paired_difference(attending, convnet)[1] > 0  # so the ViT is not behind
    parameters = [kd.measure.parameters(net) for net in (
        kd.models.convnet(width=16), kd.models.vit(dim=32, depth=3, heads=4, patch=8, stem="conv"))]
    assert "with fewer weights" in sentence and parameters[0] < parameters[1]
