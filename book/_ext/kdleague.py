"""The tables of the page on CIFAR-100: published numbers, and the rows that were measured."""

import json
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "book" / "cifar_published.json"
ROWS = ROOT / "kdcourse" / "results" / "league.json"
MISSING = "not measured"
NAMES = {"resnet": "ResNet-", "wrn_": "WRN-", "vgg": "VGG-", "shufflenetv": "ShuffleNetV",
         "mobilenetv": "MobileNetV"}


def shown(pair: str) -> str:
    """Write a pair in words: "ResNet-56 to ResNet-20"."""
    words = []
    for network in pair.split("-"):
        start = next(start for start in NAMES if network.startswith(start))
        words.append(NAMES[start] + network.removeprefix(start).replace("_", "-"))
    return " to ".join(words)


def table(pair: str, rows: list[dict], published: dict) -> list[str]:
    """Write the lines of a pair's table: each method published, and ours with 240 and 60 epochs."""
    from kdcourse.league import METHODS, PAIRS  # takes seconds to import

    rows = [row for row in rows if row["pair"] == pair]
    lines = ["| method | published | ours, 240 epochs | minus labels | ours, 60 epochs | "
             "minus labels |", "|---|---|---|---|---|---|"]
    for method in ("teacher", *METHODS):
        number = published.get(method)
        cells = [method, "–" if number is None else f"{number:.2f}"]
        if method in METHODS and not _fits(METHODS[method], PAIRS[pair]):
            continue
        for epochs in (240, 60):
            cells += _ours(method, [row for row in rows if row["epochs"] == epochs])
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _fits(method, pair) -> bool:
    from kdcourse.league.methods import Case

    return method.objective(Case(pair, 100, seed=0)) is not None


def _ours(method: str, rows: list[dict]) -> list[str]:
    """Write mean and interval over the seeds, and the difference to the labels, paired by seed."""
    from kdcourse import measure

    if method == "teacher":
        found = sorted({100 * row["teacher_accuracy"] for row in rows})
        return [" and ".join(f"{value:.2f}" for value in found) or MISSING, ""]
    values = {row["seed"]: 100 * row["accuracy"] for row in rows if row["arm"] == method}
    labels = {row["seed"]: 100 * row["accuracy"] for row in rows if row["arm"] == "labels"}
    if not values:
        return [MISSING, ""]
    shared = sorted(values.keys() & labels.keys())
    gain = "" if method == "labels" else MISSING
    if gain and shared:
        gain = _interval(measure.paired_difference(
            [values[seed] for seed in shared], [labels[seed] for seed in shared]), len(shared), "+")
    return [_interval(measure.interval(list(values.values())), len(values)), gain]


def _interval(found, seeds: int, sign: str = "") -> str:
    mean, low, high = found
    if seeds == 1:
        return f"{mean:{sign}.2f} (1 seed)"
    return f"{mean:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f}; {seeds} seeds)"


class League(SphinxDirective):
    """All methods for a pair: published, ours, the paired difference; grey where it is missing."""

    required_arguments = 1

    def run(self):
        pair = self.arguments[0]
        self.env.note_dependency(str(PUBLISHED))
        self.env.note_dependency(str(ROWS))
        published = json.loads(PUBLISHED.read_text("utf-8"))["pairs"][pair]
        rows = json.loads(ROWS.read_text("utf-8"))["rows"] if ROWS.is_file() else []
        made = self.parse_text_to_nodes(StringList(table(pair, rows, published), source=str(ROWS)))
        for one in made:
            for text in list(one.findall(nodes.Text)):
                if text == MISSING:
                    text.parent.replace(text, nodes.inline(MISSING, MISSING, classes=["missing"]))
        return made


class Published(SphinxDirective):
    """The published numbers of pairs, a column for each."""

    has_content = True

    def run(self):
        self.env.note_dependency(str(PUBLISHED))
        known = json.loads(PUBLISHED.read_text("utf-8"))["pairs"]
        pairs = [known[name] for name in self.content]
        lines = ["| method | " + " | ".join(map(shown, self.content)) + " |",
                 "|---" * (1 + len(pairs)) + "|"]
        for method in dict.fromkeys(method for pair in pairs for method in pair):
            cells = [f"{pair[method]:.2f}" if method in pair else "–" for pair in pairs]
            lines.append(f"| {method} | {' | '.join(cells)} |")
        return self.parse_text_to_nodes(StringList(lines, source=str(PUBLISHED)))


class Notes(SphinxDirective):
    """What a reader must know of single methods."""

    def run(self):
        from kdcourse.league import METHODS

        lines = [f"* {name}: {method.note}." for name, method in METHODS.items() if method.note]
        return self.parse_text_to_nodes(StringList(lines, source="kdcourse/league/methods.py"))


def setup(app):
    app.add_directive("league", League)
    app.add_directive("published", Published)
    app.add_directive("league-notes", Notes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
