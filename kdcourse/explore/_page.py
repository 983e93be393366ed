"""The HTML of a card: one output with all it needs inside.

Each card is one ES module in anywidget's form (`temperature.js` …). A page without a kernel gets
the same module in a classic script with a stand-in for the model: a classic script also runs in a
page opened from disk, in JupyterLab, Colab and VS Code. It finds its place by an attribute, so that
the same output may be shown twice.
"""

import base64
import hashlib
import html
import io
import json
import re
from importlib import resources

import numpy as np


def _read(name: str) -> str:
    """Read a file of this folder, without comments: these must not change stored outputs."""
    file = resources.files(__package__).joinpath(name)
    text = file.read_text(encoding="utf-8") if file.is_file() else ""  # some cards have no CSS
    text = re.sub(r"/\*[\s\S]*?\*/|// .*", "", text)
    return re.sub(r"[ \t]+$|^\s*\n", "", text, flags=re.MULTILINE)


def _css(*names: str) -> str:
    return " ".join("".join(map(_read, names)).split())


def module(kind: str) -> str:
    """Join the style of one card, the modules that it imports, in that order, and its own."""
    own = _read(f"{kind}.js")
    shared = "".join(map(_read, re.findall(r'(?m)^import .* from "\./(\w+\.js)";$', own)))
    code = re.sub(r"(?m)^import .*\n", "", re.sub(r"(?m)^export ", "", shared) + own)
    return f"const STYLE = {to_json(_css('card.css', f'{kind}.css'))};\n{code}"


def to_json(value) -> str:
    """Write JSON that may stand inside a script: no tag can end it, and it is ASCII."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def markup(text: str) -> str:
    """Turn plain text into safe HTML: `code`, *emphasis*, nothing else."""
    # No space inside the stars, so that 2 * 3 * 4 stays as it is.
    return re.sub(r"`([^`]*)`|(?<!\w)\*([^\s`](?:[^*`]*[^\s`])?)\*(?!\w)",
                  lambda m: f"<em>{m[2]}</em>" if m[2] else f"<code>{m[1]}</code>",
                  html.escape(str(text)))


def plain(text: str) -> str:
    """Remove the marks, for terminals."""
    return html.unescape(re.sub(r"</?(?:code|em)>", "", markup(text)))


def png(image: np.ndarray) -> str:
    """Encode an image [C, H, W] in [0, 1], C = 1 or 3, as a data address of at most 96 pixels."""
    from PIL import Image  # only for cards with images

    shrink = -(-max(image.shape[1:]) // 96)
    height, width = (size // shrink for size in image.shape[1:])
    blocks = image[:, : height * shrink, : width * shrink]
    blocks = blocks.reshape(len(image), height, shrink, width, shrink).mean(axis=(2, 4))
    pixels_HWC = np.rint(blocks.transpose(1, 2, 0) * 255).astype(np.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(pixels_HWC[..., 0] if len(image) == 1 else pixels_HWC)
    picture.save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def in_the_book(what: str) -> str:
    return f"<p>In the book, and in a notebook that is trusted, {what} here.</p>"


def table(caption: str, heads, names, rows, images=None) -> str:
    """Make the table that stands in place of a card where scripts do not run.

    rows: for each name the texts of its cells. images: data addresses, one for each name.
    """
    body = ""
    for i, (name, texts) in enumerate(zip(map(html.escape, names), rows, strict=True)):
        image = f'<img src="{images[i]}" width="56" height="56" alt="{name}"> ' if images else ""
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in texts)
        body += f"<tr><th>{image}{name}</th>{cells}</tr>"
    heads = "".join(f"<th>{html.escape(head)}</th>" if head else "<td></td>" for head in heads)
    return (f"<table><caption>{html.escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
            f"<tbody>{body}</tbody></table>")


class Explorable:
    """A card that a cell shows: live in any page that runs scripts, a table or text elsewhere.

    `print(x)` shows the text of terminals; `x.widget()` gives the reader's choice to Python.
    """

    def __init__(self, kind: str, data: dict, state: dict, still: str, text: str):
        self.kind, self.data, self.state, self.still, self.text = kind, data, state, still, text

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        data = {**self.data, "images": True} if self.data.get("images") else self.data
        state = to_json({"data": data, **self.state})
        digest = hashlib.sha256((self.kind + state + self.still).encode()).hexdigest()
        key = f"{self.kind}-{digest[:12]}"
        code = module(self.kind).replace("export default ", "const explorable = ")
        start = _read("stand_in.js").replace("KEY", key).replace("STATE", state)
        page = (f'<div data-kdx="{key}">{self.still}</div>\n<style>{_css("tokens.css")}</style>\n'
                f'<script>(() => {{ "use strict";\n{code}{start}}})();</script>')
        return {"text/plain": self.text, "text/html": page}

    @property
    def choices(self) -> list[str]:
        """The answers to choose from, as they were given."""
        return [choice["text"] for choice in self.data.get("choices") or []]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<kdcourse.explore.{self.kind}: {self.text.splitlines()[0]}>"

    def widget(self):
        """Make the same card as an `anywidget.AnyWidget`, whose traits Python reads or observes.

        `T` and `index` of a temperature card, `choice` of a question, `value` of a bet or score.
        """
        import anywidget  # a page without a kernel does without it
        import traitlets

        kinds = {float: traitlets.Float, int: traitlets.Int, dict: traitlets.Dict}
        body = {key: kinds.get(type(value), traitlets.Any)(value).tag(sync=True)
                for key, value in {**self.state, "data": self.data}.items()}
        body |= {"_esm": module(self.kind), "_css": _css("tokens.css"), "__module__": __package__,
                 "__repr__": lambda _: repr(self)}  # without an address, which changes
        return type(self.kind.capitalize(), (anywidget.AnyWidget,), body)()
