// The form of a bet, shared by the card that takes it and the card that scores it.
import { h, store } from "./kit.js";

/** A number with its unit: "7 points", "7 %". */
export const amount = (x, { digits, unit }) =>
  `${Number(x).toFixed(digits).replace("-", "−")}${unit ? `\u00a0${unit}` : ""}`;

/** The two ends of a number line, as labels under it. */
export const ends = (low, high, unit) => h("div", { class: "ticks ends", "aria-hidden": "true" },
  ...[low, high].map((x, i) =>
    h("span", { style: `--at:${i}` }, amount(x, { digits: Number.isInteger(x) ? 0 : 1, unit }))));

/** The stored bet, or null; a choice that the question no longer offers does not count. */
export function stored({ name, choices, range }) {
  const value = store.read(`bet:${name}`);
  if (choices) return choices.some((choice) => choice.text === value) ? value : null;
  if (typeof value !== "number") return null;
  return range && (value < range.low || value > range.high) ? null : value;
}

/**
 * Radio buttons, a slider, or a field for a number; `place` gets the bet.
 *
 * `instant`: every move is a bet. Right where the bet can be changed; wrong where it is scored at
 * once, because the arrow keys pass over the other answers on their way.
 */
export function form(data, place, instant) {
  const now = stored(data);
  const legend = h("legend", { html: data.prompt });
  const button = h("button", { type: "submit" }, "Place the bet");
  const wrap = (value, ...children) => h("form", {
    onsubmit: (event) => { event.preventDefault(); place(value()); },
  }, h("fieldset", {}, legend, ...children));

  if (data.choices) {
    const inputs = data.choices.map(({ text }) => h("input", {
      type: "radio", name: "bet", value: text, checked: text === now, required: true,
      onchange: () => { if (instant) place(text); },
    }));
    return wrap(() => inputs.find((input) => input.checked).value,
      ...data.choices.map(({ html }, i) => h("div", { class: "choice" },
        h("label", {}, inputs[i], h("span", { html })))),
      ...(instant ? [] : [h("div", { class: "actions" }, button)]));
  }
  const { range, unit } = data;
  if (!range) {
    const field = h("input", { type: "number", id: "n", step: "any", required: true });
    return wrap(() => field.valueAsNumber, h("div", { class: "actions" },
      h("label", { for: "n" }, "Your bet"), field, unit, button));
  }
  const value = h("output", { for: "n", class: "big" });
  const slider = h("input", {
    type: "range", id: "n", min: range.low, max: range.high, step: range.step,
    value: now ?? (range.low + range.high) / 2, oninput: tell,
    // The button is for those who want the value where the slider stands.
    onchange: () => { if (instant) place(slider.valueAsNumber); },
  });
  function tell() {
    value.textContent = amount(slider.value, { digits: range.digits, unit });
    slider.setAttribute("aria-valuetext", value.textContent);
    slider.style.setProperty("--at", (slider.valueAsNumber - range.low) / (range.high - range.low));
  }
  tell();
  return wrap(() => slider.valueAsNumber,
    h("div", { class: "control" }, h("label", { for: "n" }, "Your bet"), value,
      h("div", { class: "track" }, slider, ends(range.low, range.high, unit))),
    h("div", { class: "actions" }, button));
}
