"""Questions, bets and their scores."""

import hashlib
import html
import math
import numbers
from collections.abc import Mapping, Sequence

from ._inputs import expect, finite
from ._page import Explorable, markup, plain


def question(prompt: str, choices: Mapping[str, str], name: str, *, answer: str) -> Explorable:
    """Ask a quiz question; every answer is explained, the wrong ones too.

    choices: {answer: why it is right or wrong}, 2 or more. They are shown in a fixed order that
        depends on `name` and the texts, so it does not matter which is written first.
    name: a unique name under which the browser stores the answer; "01/why-t2" counts for the score
    of chapter 01.
    answer: the right one, as its text or a beginning of it that no other has.

    Raises `ValueError` for fewer than 2 choices, an empty explanation, no name, no right answer.

    >>> quiz = question(
    ...     "What does T = 20 do to the teacher's softmax?",
    ...     {"It flattens it.": "Logits are divided by 20.", "It sharpens it.": "T < 1 would."},
    ...     name="01/flat", answer="It flattens")
    >>> print(quiz)
    What does T = 20 do to the teacher's softmax?
      ( ) It sharpens it.
      ( ) It flattens it.
    """
    _check_texts(prompt, name)
    expect(isinstance(choices, Mapping) and len(choices) >= 2, "choices",
           "a dict of at least 2 answers with their explanations", repr(choices),
           "write {'answer': 'why it is right or wrong', ...}")
    choices = {str(text): str(why) for text, why in choices.items()}
    choices = dict(sorted(choices.items(), key=lambda item: hashlib.sha256(
        f"{name}: {item[0]}".encode()).digest()))
    for text, why in choices.items():
        expect(text.strip() and why.strip(), "choices", "an explanation for every answer",
               f"{why!r} for {text!r}", "say why it is right or wrong")
    found = [text for text in choices if answer and text.startswith(str(answer))]
    right = answer if answer in choices else found[0] if len(found) == 1 else None
    expect(right is not None, "answer", f"one of {list(choices)}, or the beginning of just one",
           repr(answer), "mark the right answer with answer='...'")
    entries = [{"text": text, "html": markup(text), "why_html": markup(why), "right": text == right}
               for text, why in choices.items()]
    items = "".join(
        f"<li><details><summary>{entry['html']}</summary>"
        f"{'✓ Right.' if entry['right'] else '✗ No.'} {entry['why_html']}</details></li>"
        for entry in entries)
    data = {"name": name, "prompt": markup(prompt), "choices": entries}
    still = f"<p><strong>{data['prompt']}</strong></p><ul>{items}</ul>"
    return Explorable("question", data, {"choice": None}, still, _listing(prompt, choices))


def bet(prompt: str, choices: Sequence, name: str, *, unit: str = "",
        step: float | None = None) -> Explorable:
    """Ask for a prediction before the experiment; `score` compares it afterwards.

    choices: a list of answers (radio buttons), or a pair of numbers (low, high) (a slider).
    name: a unique name under which the browser stores the bet, such as "01/gain".
    unit: of the number, such as "points" or "%".
    step: of the slider; by default about a hundredth of its length.

    Raises `ValueError` for fewer than 2 choices, low >= high, step <= 0, an empty name.

    >>> print(bet("By how much will the student improve?", (0, 30), "01/gain", unit="points"))
    By how much will the student improve?
      a number from 0 to 30 points
    """
    data = _bet_data(prompt, name, unit, choices, step)
    if span := data["range"]:
        line = f"a number from {span['low']:g} to {span['high']:g} {unit}".rstrip()
        text = f"{plain(prompt)}\n  {line}"
        offer = f"<p>{html.escape(line.capitalize())}.</p>"
    else:
        text = _listing(prompt, choices)
        offer = "<ul>" + "".join(f"<li>{c['html']}</li>" for c in data["choices"]) + "</ul>"
    still = (f"<p><strong>{data['prompt']}</strong></p>{offer}<p>Write your guess down: it is "
             "compared with the measurement later.</p>")
    return Explorable("bet", data, {"value": None}, still, text)


def score(name: str | Explorable, measured: float | str | Sequence[str], *,
          prompt: str | None = None,
          choices: Sequence | None = None, unit: str = "",
          interval: tuple[float, float] | None = None, tolerance: float = 0.0,
          digits: int | None = None, note: str = "") -> Explorable:
    """Show the reader's bet beside what was measured; without a bet, the card asks for one.

    name: what `bet` returned (then prompt, choices and unit come from it), or its name.
    measured: the number, or the text of the choice that turned out right; or a list of choices
        between which the measurement cannot decide, because the interval holds them all: a bet on
        any of them is a good one.
    interval: (low, high), the 95 % interval of the measured number; a bet inside is a good one.
    tolerance: a bet as near as this is a good one too, in units of the number.
    digits: how many after the decimal point; by default about three significant ones.
    note: a sentence that follows the comparison.

    Raises `ValueError` when `measured` is not finite or not among the choices, or when a choice is
    scored without its choices.

    >>> print(score("01/gain", 13.24, unit="points", interval=(11.9, 14.5)))
    We measured 13.2 points (95 % interval 11.9 to 14.5).
    """
    asked = name.data if isinstance(name, Explorable) else _bet_data(
        prompt or "Your prediction", name, unit, choices)
    data = {key: asked[key] for key in ("choices", "range", "prompt", "name", "unit")}
    between = ""
    if isinstance(measured, (str, list, tuple)):
        held = [measured] if isinstance(measured, str) else list(measured)
        known = [choice["text"] for choice in data["choices"] or []]
        expect(held and all(one in known for one in held), "measured",
               "the text of one of the choices" + ", or some of them" * (held != [measured]),
               repr(measured),
               "pass the object that bet() returned, or choices=[...]")
        quoted = " or ".join(f"“{plain(one)}”" for one in held)
        result = f"We measured: {quoted}."
        if len(held) > 1:
            result = f"These runs cannot tell: {quoted}."
        measured, digits, interval = held, 0, None
    else:
        numbers_given = [measured, tolerance, *(interval if interval is not None else ())]
        expect(not data["choices"] and all(map(finite, numbers_given)), "measured",
               "finite numbers, or the text of a choice where choices were offered",
               f"{measured!r}, tolerance {tolerance!r}, interval {interval!r}",
               "pass what the experiment gave")
        measured, tolerance, span = float(measured), float(tolerance), data["range"]
        if digits is None:  # about three significant ones
            size = abs(span["high"] - span["low"] if span else measured)
            digits = max(1, 2 - math.floor(math.log10(size))) if size else 1
        digits = int(digits)
        if interval is not None:
            interval = [float(x) for x in interval]
            expect(len(interval) == 2 and interval[0] <= interval[1], "interval", "(low, high)",
                   interval, "put the lower number first")
            interval = [round(x, digits) for x in interval]  # as printed, so as a reader judges
            low, high = (_format(x, digits) for x in interval)
            between = f" (95 % interval {low} to {high})"
        unit = data["unit"] and f" {data['unit']}"
        result = f"We measured {_format(measured, digits)}{unit}{between}."
    data |= {"measured": measured, "interval": interval, "tolerance": tolerance, "digits": digits,
             "note": markup(note), "between": between, "result": html.escape(result)}
    still = f"<p>{data['result']} {data['note']}</p>"
    return Explorable("score", data, {"value": None}, still, f"{result} {plain(note)}".strip())


def _check_texts(prompt: str, name: str) -> None:
    for what, text in (("prompt", prompt), ("name", name)):
        expect(isinstance(text, str) and text.strip(), what, "a text that is not empty",
               repr(text), "give it one")


def _bet_data(prompt: str, name: str, unit: str, choices, step: float | None = None) -> dict:
    """Check what a bet is about. Its answers are "choices" or a "range" (in `score` neither)."""
    _check_texts(prompt, name)
    data = {"name": name, "prompt": markup(prompt), "unit": unit, "choices": None, "range": None}
    if choices is None:
        return data
    choices = list(choices)
    if not (len(choices) == 2 and all(isinstance(x, numbers.Real) for x in choices)):
        texts = all(isinstance(text, str) and text.strip() for text in choices)
        expect(texts and len(set(choices)) == len(choices) >= 2, "choices",
               "at least 2 different texts, or two numbers (low, high)", choices,
               "list what one can bet on")
        return data | {"choices": [{"text": text, "html": markup(text)} for text in choices]}
    low, high = map(float, choices)
    expect(finite(low) and finite(high) and low < high, "choices", "(low, high)", choices,
           "put the lower number first")
    if step is None:  # the round number next to a hundredth of the way: 1, 2 or 5 times 10^n
        power = 10.0 ** math.floor(math.log10((high - low) / 100) + 1e-9)
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= (high - low) / 100.1)
    expect(finite(step) and step > 0, "step", "a number above 0", repr(step), "leave it out")
    return data | {"range": {"low": low, "high": high, "step": round(float(step), 12),
                             "digits": max(0, -math.floor(math.log10(step) + 1e-9))}}


def _format(x: float, digits: int) -> str:
    return f"{x:.{digits}f}".replace("-", "−")


def _listing(prompt: str, choices) -> str:
    return "\n".join([plain(prompt), *(f"  ( ) {plain(choice)}" for choice in choices)])
