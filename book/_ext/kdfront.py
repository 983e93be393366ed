"""What the front page shows of a chapter: one of its explorables, and numbers of its main figure.

Nothing is measured or typed for it. Both are read from the chapter's stored outputs and its rows.
"""

import base64
import io
import json
import re
from pathlib import Path
from statistics import fmean

import numpy as np
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "kdcourse" / "results" / "01.json"


def notebook(number: str) -> Path:
    """The file of a chapter."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return path


def outputs(number: str, kind: str) -> list[str]:
    """Everything of one kind, such as "text/html", that the cells of a chapter have shown."""
    cells = json.loads(notebook(number).read_text("utf-8"))["cells"]
    found = [output.get("data", {}).get(kind) for cell in cells
             for output in cell.get("outputs", [])]
    return ["".join(text) for text in found if text]


def stored(number: str, label: str) -> dict:
    """The arguments of a chapter's temperature card, for its one image of the class `label`."""
    (page,) = [html for html in outputs(number, "text/html") if 'data-kdx="temperature-' in html]
    state = json.loads(re.search(r"const state = (\{.*\});", page)[1])
    data = state["data"]
    at = [i for i, k in enumerate(data["labels"]) if data["classes"][k] == label]
    if len(at) != 1:
        labels = ", ".join(data["classes"][k] for k in data["labels"])
        raise ExtensionError(f"The temperature card of chapter {number} has {len(at)} images of "
                             f"{label!r}, expected 1; its labels are {labels}.")
    (i,) = at
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    return {"logits": [data["logits"][i]], "classes": data["classes"],
            "labels": [data["labels"][i]], "images": pixels(pictures[i])[None], "T": state["T"]}


def pixels(picture: str) -> np.ndarray:
    """Decode a grey PNG to [1, H, W] in [0, 1]."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return np.asarray(image.convert("L"), dtype=np.float64)[None] / 255


class Temperature(SphinxDirective):
    """The temperature card of a chapter with one of its images: `:label:` is the image's class."""

    required_arguments = 1
    option_spec = dict.fromkeys(("label", "title"), directives.unchanged_required)

    def run(self):
        from kdcourse.explore import temperature  # takes seconds to import

        self.env.note_dependency(str(notebook(self.arguments[0])))
        card = temperature(**stored(self.arguments[0], self.options["label"]),
                           title=self.options["title"])
        page = card._repr_mimebundle_()["text/html"]
        return [nodes.raw("", f'<div class="front-card">{page}</div>', format="html")]


# Name in the text: how a row of chapter 1 is recognised, by its data, its scheme and its recipe.
# Other rows have a stronger augmentation, the rate and decay of a finer search, or 240 epochs.
IMAGES = ("train=4000,", "'degrees': 11}", "views=20")
ARMS = {
    "labels": (*IMAGES, "Supervised(", " CE())", "lr=0.32, weight_decay=0.002,", "epochs=60,"),
    "teacher": (*IMAGES, "+ 0.9 * KD(T=4), teacher=Cached(teacher('glyphs'))",
                "lr=0.32, weight_decay=0.002,", "epochs=60,"),
    "same": (*IMAGES, "+ 0.9 * KD(T=4), teacher=Cached(teacher('glyphs-4000'))",
             "lr=0.32, weight_decay=0.01,", "epochs=60,"),
}
LONGER = {name: (*pieces[:-1], "epochs=120,") for name, pieces in ARMS.items()}


def accuracies(rows: list[dict], arms: dict = ARMS) -> dict[str, list[float]]:
    """Arm: its test accuracies in per cent, in the order of the seeds."""
    found = {}
    for name, pieces in arms.items():
        arm = [row for row in rows if row["split"] == "test"
               and all(piece in row["data"] + row["scheme"] + row["recipe"] for piece in pieces)]
        arm.sort(key=lambda row: row["seed"])
        if len({row["seed"] for row in arm}) != len(arm):
            raise ExtensionError(f"Expected one test row of {name!r} for each seed, got those of "
                                 f"{len({row['data'] + row['recipe'] for row in arm})} settings.")
        found[name] = [100 * row["accuracy"] for row in arm]
    if len({len(values) for values in found.values()}) != 1 or len(found["labels"]) < 5:
        counts = {name: len(values) for name, values in found.items()}
        raise ExtensionError(f"Expected five test rows or more for each arm, got {counts}.")
    return found


def teacher_itself() -> str:
    """The accuracy of the teacher of 40,000 other images, from the table of errors in chapter 1."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")]
             for page in outputs("01", "text/markdown") for line in page.splitlines()]
    (head,) = [line for line in lines if line[0] == "errors in %"]
    (row,) = [line for line in lines if line[0] == "teacher" and len(line) == len(head)]
    return f"{100 - float(row[head.index('here, teacher of 40,000 others')]):.1f}\u00a0%"


def numbers() -> dict[str, str]:
    """What the role `measured` can print, ready to be read."""
    from kdcourse.measure import paired_difference

    rows = json.loads(ROWS.read_text("utf-8"))["rows"]
    found = accuracies(rows)
    texts = {name: f"{fmean(values):.1f}\u00a0%" for name, values in found.items()}
    for when, arms in (("gain", found), ("gain in 120", accuracies(rows, LONGER))):
        for name in ("teacher", "same"):
            mean, low, high = paired_difference(arms[name], arms["labels"])
            texts[f"{when}, {name}"] = f"{mean:.1f} points ({low:.1f} to {high:.1f})"
    texts["teacher itself"] = teacher_itself()
    texts["seeds"] = str(len(found["labels"]))
    return {name: text.replace("-", "−") for name, text in texts.items()}


class Measured(SphinxRole):
    """A number of chapter 1's main figure, by its name in `numbers`."""

    def run(self):
        self.env.note_dependency(str(ROWS))
        self.env.note_dependency(str(notebook("01")))
        known = numbers()
        if self.text not in known:
            raise ExtensionError(f"Expected one of {', '.join(known)}, got {self.text!r}.")
        return [nodes.Text(known[self.text])], []


def setup(app):
    app.add_directive("temperature", Temperature)
    app.add_role("measured", Measured())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
