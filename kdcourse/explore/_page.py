"""The machinery behind the explorables: one HTML output with all it needs inside.

Each explorable is one ES module in anywidget's form (`temperature.js` and its neighbours). A page
without a kernel gets the same module in a classic script with a small stand-in for the model: a
classic script runs at once and everywhere (a page opened from disk, JupyterLab, Colab, VS Code),
and finds its place by an attribute, so that the same output may be shown twice.
"""

import base64
import functools
import hashlib
import html
import io
import json
import re
from importlib import resources

import numpy as np


def _read(name: str) -> str:
    """A file of this folder, without comments: a better comment must not change stored outputs."""
    file = resources.files(__package__).joinpath(name)
    text = file.read_text(encoding="utf-8") if file.is_file() else ""  # not each has its own style
    text = re.sub(r"/\*[\s\S]*?\*/|// .*", "", text)
    return re.sub(r"[ \t]+$|^\s*\n", "", text, flags=re.MULTILINE)


def _squeeze(css: str) -> str:
    return re.sub(r"\s+", " ", css).strip()


@functools.cache
def tokens() -> str:
    return _squeeze(_read("tokens.css"))


@functools.cache
def module(kind: str) -> str:
    """The ES module of one explorable, its imports and its style inside."""
    style = _squeeze(_read("card.css") + _read(f"{kind}.css"))
    done: list[str] = []

    def join(name: str) -> str:
        if name in done:
            return ""
        done.append(name)
        text = _read(name)
        needed = re.findall(r'^import .* from "\./(\w+\.js)";$', text, flags=re.MULTILINE)
        text = re.sub(r"^import .*\n", "", text, flags=re.MULTILINE)
        if name != f"{kind}.js":
            text = re.sub(r"^export ", "", text, flags=re.MULTILINE)
        return "".join(join(other) for other in needed) + text

    return f"const STYLE = {to_json(style)};\n" + join(f"{kind}.js")


def to_json(value) -> str:
    """JSON that may stand inside a script: no tag can end it, and it is ASCII (no U+2028)."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def markup(text: str) -> str:
    """Plain text to safe HTML: `code`, *emphasis*, nothing else."""
    parts = str(text).split("`")
    if len(parts) % 2 == 0:  # a lone backtick is just a backtick
        parts[-2:] = ["`".join(parts[-2:])]
    for i, part in enumerate(parts):
        part = html.escape(part)
        if i % 2:
            parts[i] = f"<code>{part}</code>"
        else:  # a star hugs what it stresses, so that 2 * 3 * 4 stays as it is
            parts[i] = re.sub(r"(?<!\w)\*(\S(?:[^*]*\S)?)\*(?!\w)", r"<em>\1</em>", part)
    return "".join(parts)


def plain(text: str) -> str:
    """The same text without its marks, for terminals."""
    return html.unescape(re.sub(r"</?(?:code|em)>", "", markup(text)))


def expect(met, what: str, expected: str, got, advice: str) -> None:
    """Errors at the door, each in one sentence of the same form."""
    if not met:
        raise ValueError(f"{what}: expected {expected}, got {got}; {advice}")


def to_array(name: str, value) -> np.ndarray:
    """A float64 array from anything array-like: NumPy, a tensor on any device, lists of them."""
    try:
        array = np.asarray(_here(value), dtype=np.float64)
    except (TypeError, ValueError):
        array = None
    got = type(value).__name__
    expect(array is not None, name, "an array of numbers", got, "pass a list, array or tensor")
    expect(np.isfinite(array).all(), name, "finite numbers", "NaN or infinity", "check the input")
    return array


def _here(value):
    """Tensors as arrays, in lists, too."""
    if hasattr(value, "detach"):  # torch, by its manners: this folder does not import it
        return value.detach().cpu().double().numpy()
    return [_here(one) for one in value] if isinstance(value, (list, tuple)) else value


def png(image: np.ndarray) -> str:
    """An image [C, H, W] in [0, 1], C = 1 or 3, as a data address; shrunk to at most 96 pixels."""
    from PIL import Image  # late: cards without images do without it

    shrink = -(-max(image.shape[1:]) // 96)
    height, width = (size // shrink for size in image.shape[1:])
    blocks = image[:, : height * shrink, : width * shrink]
    blocks = blocks.reshape(len(image), height, shrink, width, shrink).mean(axis=(2, 4))
    pixels = np.rint(blocks.transpose(1, 2, 0) * 255).astype(np.uint8)  # [H, W, C]
    file = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)
    picture.save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def table(caption: str, heads, rows) -> str:
    """What stands in place of a card where scripts do not run.

    rows: for each row its name, the texts of its cells, and a picture's data address or None.
    """
    body = ""
    for name, cells, picture in rows:
        name = html.escape(name)
        image = f'<img src="{picture}" width="56" height="56" alt="{name}"> ' if picture else ""
        body += f"<tr><th>{image}{name}</th>"
        body += "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    heads = "".join(f"<th>{html.escape(head)}</th>" if head else "<td></td>" for head in heads)
    return (f"<table><caption>{html.escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
            f"<tbody>{body}</tbody></table>")


class Explorable:
    """What a cell shows: a live card in any page that runs scripts, a still one elsewhere.

    `print(x)` shows the text that a terminal gets. `x.widget()` is the same card as an
    `anywidget.AnyWidget`, for those who want the reader's choice in Python.
    """

    def __init__(self, kind: str, data: dict, state: dict, still: str, text: str):
        self.kind, self.data, self.state, self.still, self.text = kind, data, state, still, text

    def _html(self) -> str:
        data = {**self.data, "images": True} if self.data.get("images") else self.data
        state = to_json({"data": data, **self.state})
        digest = hashlib.sha256((self.kind + state + self.still).encode()).hexdigest()
        key = f"{self.kind}-{digest[:12]}"
        code = module(self.kind).replace("export default ", "const explorable = ")
        start = _read("stand_in.js").replace("KEY", key).replace("STATE", state)
        return (
            f'<div data-kdx="{key}">{self.still}</div>\n<style>{tokens()}</style>\n'
            f'<script>(() => {{ "use strict";\n{code}{start}}})();</script>'
        )

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/plain": self.text, "text/html": self._html()}

    @property
    def choices(self) -> list[str]:
        """The texts that one can choose from, as they were given."""
        return [choice["text"] for choice in self.data.get("choices") or []]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<kdcourse.explore.{self.kind}: {self.text.splitlines()[0]}>"

    def widget(self):
        """The same card with a live link to Python: read or observe its traits.

        `T` and `index` of a temperature card, `choice` of a question, `value` of a bet or score.
        """
        import anywidget  # late: the static page needs neither it nor a kernel
        import traitlets

        kinds = {float: traitlets.Float, int: traitlets.Int}
        traits = {
            key: kinds.get(type(value), traitlets.Any)(value).tag(sync=True)
            for key, value in self.state.items()
        }
        traits |= {"__module__": __package__, "__repr__": lambda _: repr(self)}  # no address in it
        body = {"_esm": module(self.kind), "_css": tokens(), **traits}
        body["data"] = traitlets.Dict(self.data).tag(sync=True)
        return type(self.kind.capitalize(), (anywidget.AnyWidget,), body)()
