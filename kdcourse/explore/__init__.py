"""Cards that a reader can move: in the book, in JupyterLab and in Colab, from one piece of code.

Each function returns an object that a notebook shows when it is the last line of a cell. Its HTML
holds everything (no kernel, no network), and stays the same from run to run. Where scripts do not
run, a still version is seen. The reader's answers stay in the reader's browser.

Texts may hold `code` and *emphasis*; write maths as plain characters (T², α).
"""

import html
import math
import numbers
from collections.abc import Mapping, Sequence

import numpy as np

from ._page import Explorable, expect, markup, plain, png, to_array

__all__ = ["bet", "divergence", "question", "score", "temperature"]


def temperature(logits, classes, images=None, labels=None, T=4.0, title=None, top=8) -> Explorable:
    """A temperature slider over real logits: what a softened teacher says about a few images.

    The reader picks an image and moves T from 1 to 20, and sees softmax(logits / T), its entropy
    in bits (and 2^entropy: as if so many classes were equally likely), the share of the wrong
    classes, and the ratio of the first two among them. Without `labels` the teacher's first choice
    takes the place of the true class.

    logits: [N, K], N from 1 to 16; a list, an array, or a tensor on any device.
    classes: K names, in the order of the logits.
    images: [N, 1, H, W] or [N, 3, H, W] in [0, 1]; larger ones are shrunk to 96 pixels.
    labels: [N] class numbers.
    T: where the slider starts, above 0.
    title: what stands above, instead of "What the teacher says at temperature T".
    top: so many classes have a bar of their own, the others share one (all have one when K is at
    most top + 2).

    Raises `ValueError` for other shapes, values that are not finite, T <= 0, labels outside 0 to
    K - 1.

    >>> print(temperature([[6.0, 2.0, 0.0]], ["O", "0", "Q"], labels=[0], T=2))
    What the teacher says at temperature T = 2
    Image 1, O: 84.4 % O, 11.4 % 0, 4.2 % Q; wrong classes 15.6 %, entropy 0.76 bits
    """
    z_NK = to_array("logits", logits)
    fits = z_NK.ndim == 2 and 1 <= len(z_NK) <= 16 and z_NK.shape[1] >= 2
    expect(
        fits,
        "logits",
        "[N, K] with 1 to 16 images and at least 2 classes",
        list(z_NK.shape),
        "pick a few rows, such as logits[:9]",
    )
    N, K = z_NK.shape
    classes = [str(name) for name in classes]
    expect(
        len(classes) == K,
        "classes",
        f"{K} names, one for each column of logits",
        len(classes),
        "pass the names in the order of the logits",
    )
    expect(_finite(T) and T > 0, "T", "a temperature above 0", repr(T), "usual values are 1 to 20")
    expect(_finite(top) and top >= 2, "top", "a number of at least 2", repr(top), "8 is usual")
    if labels is not None:
        y_N = to_array("labels", labels)
        whole = y_N.shape == (N,) and (y_N == np.rint(y_N)).all()
        expect(
            whole,
            "labels",
            f"{N} whole numbers, one for each image",
            f"{y_N.ravel()[:3].tolist()}... of shape {list(y_N.shape)}",
            "pass class numbers",
        )
        expect(
            ((y_N >= 0) & (y_N < K)).all(),
            "labels",
            f"class numbers from 0 to {K - 1}",
            f"{y_N.min():.0f} to {y_N.max():.0f}",
            "number the classes from 0",
        )
        labels = [int(label) for label in y_N]
    if images is not None:
        x_NCHW = to_array("images", images)
        shape = list(x_NCHW.shape)
        fits = len(shape) == 4 and shape[0] == N and shape[1] in (1, 3) and 0 not in shape
        expect(
            fits,
            "images",
            f"[{N}, 1, H, W] or [{N}, 3, H, W]",
            shape,
            "pass one image for each row of logits, channels first",
        )
        expect(
            x_NCHW.min() >= 0 and x_NCHW.max() <= 1,
            "images",
            "values in [0, 1]",
            f"{x_NCHW.min():.3g} to {x_NCHW.max():.3g}",
            "pass them before normalisation",
        )
        images = [png(x_CHW) for x_CHW in x_NCHW]

    heading = str(title) if title else "What the teacher says at temperature T"
    text = f"{heading} (T = {T:g})" if title else f"{heading} = {T:g}"
    others = "besides the first" if labels is None else "wrong classes"
    lines, rows = [text], []
    for i, z_K in enumerate(z_NK):
        p_K = np.exp((z_K - z_K.max()) / T)
        p_K /= p_K.sum()
        bits = -(p_K * np.log2(np.maximum(p_K, 1e-300))).sum()
        order = np.argsort(-z_K, kind="stable")
        answer = order[0] if labels is None else labels[i]
        first = ", ".join(f"{100 * p_K[k]:.1f} % {classes[k]}" for k in order[:3])
        wrong = f"{100 * np.delete(p_K, answer).sum():.1f} %"
        name = f"Image {i + 1}" + ("" if labels is None else f", {classes[answer]}")
        lines.append(f"{name}: {first}; {others} {wrong}, entropy {bits:.2f} bits")
        name = html.escape(name)
        picture = f'<img src="{images[i]}" width="56" height="56" alt="{name}"> ' if images else ""
        cells = "".join(f"<td>{html.escape(x)}</td>" for x in (first, wrong, f"{bits:.2f}"))
        rows.append(f"<tr><th>{picture}{name}</th>{cells}</tr>")
    heads = ("Image", "First three", others.capitalize(), "Entropy (bits)")
    still = (
        f"<table><caption>{html.escape(text)}</caption>"
        f"<thead><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
        "<p>In the book, and in a notebook that is trusted, a slider moves T here.</p>"
    )
    data = {
        "title": heading,
        "classes": classes,
        # Nine digits tell any two float32 numbers apart, so nothing is lost.
        "logits": [[float(f"{z:.9g}") for z in row] for row in z_NK],
        "labels": labels,
        "images": images,
        "top": top,
    }
    state = {"T": float(T), "index": 0}
    return Explorable("temperature", data, state, still, "\n".join(lines))


def divergence(means=(-2.0, 2.0), stds=(0.7, 0.7), weights=(0.6, 0.4), mean=0.0,
               std=1.0) -> Explorable:
    """Forward against reverse KL: one normal distribution in the place of a mixture.

    The reader moves the middle and the width of the student's bump, sees KL(teacher ‖ student) and
    KL(student ‖ teacher) in nats, and can go downhill on either.

    means, stds, weights: of the teacher's two bumps; the weights are made to sum to 1.
    mean, std: of the student's bump at the start.

    Raises `ValueError` for anything but pairs, widths or weights that are not above 0.

    >>> print(divergence(mean=-2, std=0.7))
    One bump for two: student with middle -2 and width 0.7
    KL(teacher ‖ student) 5.864 nats, KL(student ‖ teacher) 0.506 nats
    """
    mixture = [to_array(name, value) for name, value in
               (("means", means), ("stds", stds), ("weights", weights))]
    m, s, w = mixture
    expect(m.shape == s.shape == w.shape == (2,), "means",
           "means, stds and weights of two bumps, a number each",
           [list(x.shape) for x in mixture], "pass three pairs")
    for name, value in (("stds", s), ("weights", w)):
        expect((value > 0).all(), name, "numbers above 0", value.tolist(), "leave empty bumps out")
    expect(_finite(mean), "mean", "a number", repr(mean), "0 is usual")
    expect(_finite(std) and std > 0, "std", "a number above 0", repr(std), "1 is usual")
    w = w / w.sum()
    low, high = float((m - 4 * s).min()), float((m + 4 * s).max())
    widest = round((high - low) / 3, 2)
    expect(low <= mean <= high, "mean", f"a number from {low:g} to {high:g}", mean,
           "start among the bumps")
    narrowest = round(float(s.min()) / 4, 2)
    expect(narrowest <= std <= widest, "std", f"a width from {narrowest:g} to {widest:g}", std,
           "start with a width like the bumps'")

    x = np.linspace(2 * low - high, 2 * high - low, 1601)
    log_p = np.logaddexp.reduce([np.log(wi) + _log_normal(x, mi, si)
                                 for mi, si, wi in zip(m, s, w, strict=True)])
    log_q = _log_normal(x, mean, std)
    forward = float((np.exp(log_p) * (log_p - log_q)).sum() * (x[1] - x[0]))
    reverse = float((np.exp(log_q) * (log_q - log_p)).sum() * (x[1] - x[0]))
    first = f"One bump for two: student with middle {mean:g} and width {std:g}"
    second = (f"KL(teacher ‖ student) {forward:.3f} nats, KL(student ‖ teacher) {reverse:.3f} nats")
    still = (f"<p><strong>{first}.</strong> {second}.</p><p>In the book, and in a notebook that is "
             "trusted, two sliders move the student here.</p>")
    data = {"means": m.tolist(), "stds": s.tolist(), "weights": w.tolist(), "low": low,
            "high": high, "narrowest": narrowest, "widest": widest}
    state = {"mean": float(mean), "std": float(std)}
    return Explorable("divergence", data, state, still, f"{first}\n{second}")


def _log_normal(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)


def question(prompt: str, choices: Mapping[str, str], name: str, *, answer: str) -> Explorable:
    """One quiz question; every answer is explained, the wrong ones too.

    choices: {answer: why it is right or wrong}, 2 or more, shown in this order.
    name: a unique name under which the browser remembers; "01/why-t2" counts for the score of
    chapter 01.
    answer: the right one, as its text or an unmistakable beginning of it.

    Raises `ValueError` for fewer than 2 choices, an empty explanation, no name, no right answer.

    >>> quiz = question(
    ...     "What does T = 20 do to the teacher's softmax?",
    ...     {"It flattens it.": "Logits are divided by 20.", "It sharpens it.": "T < 1 would."},
    ...     name="01/flat", answer="It flattens")
    >>> print(quiz)
    What does T = 20 do to the teacher's softmax?
      ( ) It flattens it.
      ( ) It sharpens it.
    """
    _check_texts(prompt, name)
    several = isinstance(choices, Mapping) and len(choices) >= 2
    expect(
        several,
        "choices",
        "a dict of at least 2 answers with their explanations",
        repr(choices),
        "write {'answer': 'why it is right or wrong', ...}",
    )
    choices = {str(text): str(why) for text, why in choices.items()}
    for text, why in choices.items():
        expect(
            text.strip() and why.strip(),
            "choices",
            "an explanation for every answer",
            f"{why!r} for {text!r}",
            "say why it is right or wrong",
        )
    hits = [text for text in choices if text == answer]
    hits = hits or [text for text in choices if answer and text.startswith(str(answer))]
    expect(
        len(hits) == 1,
        "answer",
        f"one of {list(choices)}, or the beginning of just one",
        repr(answer),
        "mark the right answer with answer='...'",
    )
    entries = [
        {"text": text, "html": markup(text), "why_html": markup(why), "right": text == hits[0]}
        for text, why in choices.items()
    ]
    items = "".join(
        f"<li><details><summary>{entry['html']}</summary>"
        f"{'✓ Right.' if entry['right'] else '✗ No.'} {entry['why_html']}</details></li>"
        for entry in entries
    )
    return Explorable(
        "question",
        {"name": name, "prompt": markup(prompt), "choices": entries},
        {"choice": None},
        f"<p><strong>{markup(prompt)}</strong></p><ul>{items}</ul>",
        _listing(prompt, choices),
    )


def bet(
    prompt: str, choices: Sequence, name: str, *, unit: str = "", step: float | None = None
) -> Explorable:
    """A prediction that the reader makes before the experiment; `score` compares it afterwards.

    choices: a list of answers (radio buttons), or a pair of numbers (low, high) (a slider).
    name: a unique name under which the browser remembers, such as "01/gain".
    unit: of the number, such as "points" or "%".
    step: of the slider; by default about a hundredth of its length.

    Raises `ValueError` for fewer than 2 choices, low >= high, step <= 0, an empty name.

    >>> print(bet("By how much will the student improve?", (0, 30), "01/gain", unit="points"))
    By how much will the student improve?
      a number from 0 to 30 points
    """
    _check_texts(prompt, name)
    data = {"name": name, "prompt": markup(prompt), "unit": unit, **_options(choices, step)}
    text = _listing(prompt, choices, data["range"], unit)
    if data["range"]:
        offer = f"<p>{html.escape(text.splitlines()[1].strip().capitalize())}.</p>"
    else:
        offer = "<ul>" + "".join(f"<li>{c['html']}</li>" for c in data["choices"]) + "</ul>"
    still = (
        f"<p><strong>{data['prompt']}</strong></p>{offer}<p>Write your guess down: it is compared "
        "with the measurement later.</p>"
    )
    return Explorable("bet", data, {"value": None}, still, text)


def score(
    name: str | Explorable,
    measured: float | str,
    *,
    prompt: str | None = None,
    choices: Sequence | None = None,
    unit: str = "",
    interval: tuple[float, float] | None = None,
    tolerance: float = 0.0,
    digits: int | None = None,
    note: str = "",
) -> Explorable:
    """The reader's bet beside what was measured; who has not bet can still do so here.

    name: what `bet` returned (then prompt, choices and unit come from it), or its name.
    measured: the number, or the text of the choice that turned out right.
    interval: (low, high), the 95 % interval of the measured number; a bet inside is a good one.
    tolerance: a bet as near as this is a good one too, in units of the number.
    digits: so many after the decimal point; by default about three significant ones.
    note: a sentence that follows the comparison.

    Raises `ValueError` when `measured` is not finite or not among the choices, or when a choice is
    scored without its choices.

    >>> print(score("01/gain", 13.24, unit="points", interval=(11.9, 14.5)))
    We measured 13.2 points (95 % interval 11.9 to 14.5).
    """
    if isinstance(name, Explorable):
        offered = {key: name.data[key] for key in ("choices", "range", "prompt")}
        name, unit = name.data["name"], name.data["unit"]
    else:
        _check_texts(prompt or "-", name)
        offered = {"choices": None, "range": None, "prompt": markup(prompt or "Your prediction")}
        offered |= _options(choices) if choices is not None else {}
    between = ""
    if isinstance(measured, str):
        known = [choice["text"] for choice in offered["choices"] or []]
        expect(
            measured in known,
            "measured",
            "the text of one of the choices",
            repr(measured),
            "pass the object that bet() returned, or choices=[...]",
        )
        result, decimals, interval = f"We measured: “{plain(measured)}”.", 0, None
    else:
        given = [measured, tolerance, *(interval if interval is not None else ())]
        expect(
            not offered["choices"] and all(map(_finite, given)),
            "measured",
            "finite numbers, or the text of a choice where choices were offered",
            f"{measured!r}, tolerance {tolerance!r}, interval {interval!r}",
            "pass what the experiment gave",
        )
        if interval is not None:
            interval = [float(x) for x in interval]
            expect(
                len(interval) == 2 and interval[0] <= interval[1],
                "interval",
                "(low, high)",
                interval,
                "put the lower number first",
            )
        measured, tolerance, span = float(measured), float(tolerance), offered["range"]
        decimals = _decimals(span["high"] - span["low"] if span else measured)
        decimals = decimals if digits is None else int(digits)
        if interval:
            low, high = (_format(x, decimals) for x in interval)
            between = f" (95 % interval {low} to {high})"
        result = f"We measured {_format(measured, decimals, unit)}{between}."
    data = {
        **offered,
        "name": name,
        "unit": unit,
        "measured": measured,
        "interval": interval,
        "tolerance": tolerance,
        "digits": decimals,
        "note": markup(note),
        "between": between,
        "result": html.escape(result),
    }
    text = f"{result} {plain(note)}".strip()
    still = f"<p>{html.escape(result)} {markup(note)}</p>"
    return Explorable("score", data, {"value": None}, still, text)


def _finite(x) -> bool:
    return isinstance(x, numbers.Real) and not isinstance(x, bool) and math.isfinite(x)


def _check_texts(prompt: str, name: str) -> None:
    for what, text in (("prompt", prompt), ("name", name)):
        given = isinstance(text, str) and text.strip()
        expect(given, what, "a text that is not empty", repr(text), "give it one")


def _options(choices: Sequence, step: float | None = None) -> dict:
    """What one can bet on: {"choices": [...], "range": None}, or the other way round."""
    choices = list(choices)
    if not (len(choices) == 2 and all(isinstance(x, numbers.Real) for x in choices)):
        texts = all(isinstance(text, str) and text.strip() for text in choices)
        expect(
            texts and len(set(choices)) == len(choices) >= 2,
            "choices",
            "at least 2 different texts, or two numbers (low, high)",
            choices,
            "list what one can bet on",
        )
        entries = [{"text": text, "html": markup(text)} for text in choices]
        return {"choices": entries, "range": None}
    low, high = map(float, choices)
    expect(
        _finite(low) and _finite(high) and low < high,
        "choices",
        "(low, high)",
        choices,
        "put the lower number first",
    )
    if step is None:  # the round number next to a hundredth of the way: 1, 2 or 5 times 10^n
        power = 10.0 ** math.floor(math.log10((high - low) / 100) + 1e-9)
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= (high - low) / 100.1)
    expect(_finite(step) and step > 0, "step", "a number above 0", repr(step), "leave it out")
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    span = {"low": low, "high": high, "step": round(float(step), 12), "digits": digits}
    return {"choices": None, "range": span}


def _decimals(span: float) -> int:
    """So many digits after the point that a quantity of this size shows about three."""
    return max(1, 2 - math.floor(math.log10(abs(span)))) if span else 1


def _format(x: float, digits: int, unit: str = "") -> str:
    return f"{x:.{digits}f}".replace("-", "−") + (f" {unit}" if unit else "")


def _listing(prompt: str, choices, span: dict | None = None, unit: str = "") -> str:
    """The text for a terminal."""
    if span:
        ends = f"from {span['low']:g} to {span['high']:g} {unit}"
        return f"{plain(prompt)}\n  a number {ends}".rstrip()
    return "\n".join([plain(prompt), *(f"  ( ) {plain(choice)}" for choice in choices)])
