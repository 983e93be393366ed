// The bet beside the measurement.
import { h, card, plain, store } from "./kit.js";
import { amount, ends, form, stored } from "./betform.js";

// Colab shows every output in a frame of its own, where the bet's storage is out of reach.
const inColab = () => /googleusercontent\.com$/.test(location.hostname);

/** One or two sentences from the bet and the measured numbers. */
function verdict(data, bet) {
  const { measured, interval, tolerance, digits, unit } = data;
  if (data.choices) {
    const words = (text) => `“${plain(data.choices.find((choice) => choice.text === text).html)}”`;
    const found = measured.map(words).join(" or ");
    const undecided = measured.length > 1; // the interval holds several answers
    const good = measured.includes(bet);
    const rest = undecided ? (good ? "These runs cannot rule it out." : `These runs cannot tell: ${found}.`)
      : good ? "That is what we measured." : `We measured: ${found}.`;
    return { good, text: `You bet on ${words(bet)}. ${rest}` };
  }
  const say = (x) => amount(x, { digits, unit });
  const result = `We measured ${say(measured)}${data.between}`;
  const off = bet - measured;
  if (interval && bet >= interval[0] && bet <= interval[1])
    return { good: true, text: `You bet ${say(bet)}. ${result}: your bet lies inside the interval.` };
  if (Math.abs(off) <= tolerance || Number(Math.abs(off).toFixed(digits)) === 0)
    return { good: true, text: `You bet ${say(bet)}. ${result}: well predicted.` };
  const side = off < 0 ? "too low" : "too high";
  return { good: false, text: `You bet ${say(bet)}. ${result}: your bet was ${say(Math.abs(off))} ${side}.` };
}

/** A number line with both values; the sentence beside it says the same in words. */
function line({ range, measured, interval, unit }, bet) {
  const values = [bet, measured, ...(interval ?? [])];
  const low = Math.min(range.low, ...values);
  const high = Math.max(range.high, ...values);
  const at = (x) => (x - low) / (high - low);
  const pin = (kind, x, text) => h("span", { class: `pin ${kind}`, style: `--at:${at(x)}` },
    h("b", { class: at(x) > 0.66 ? "left" : "" }, text));
  const band = interval
    ? [h("i", { class: "band", style: `--at:${at(interval[0])};--to:${at(interval[1])}` })] : [];
  return h("div", { class: "line", "aria-hidden": "true" }, ...band,
    pin("yours", bet, "your bet"), pin("ours", measured, "measured"),
    ends(low, high, unit));
}

function render({ model, el }) {
  const data = model.get("data");
  const { body, show, announce } = card(el, "score", "Your prediction and the measurement");
  const note = data.note ? [h("p", { class: "note", html: data.note })] : [];

  function place(value) {
    store.write(`bet:${data.name}`, value);
    announce(verdict(data, value).text);
    body.querySelector(".verdict")?.focus();
  }

  let drawn; // what is on show, so that other cards' news do not wipe a half-filled form

  function update() {
    const bet = stored(data);
    if (bet === drawn) return;
    drawn = bet;
    body.dataset.bet = bet ?? "";
    if (bet === null) {
      delete body.dataset.good;
      delete body.dataset.off;
      const why = inColab()
        ? "Colab gives every output a memory of its own, so a bet that you made above cannot be "
          + "read here. Enter it once more:"
        : "You did not bet, or this browser does not remember it. You still can:";
      body.replaceChildren(h("p", { class: "kicker" }, "Your bet"), h("p", { class: "state" }, why),
        form(data, place, false),
        h("details", {}, h("summary", {}, "Show what we measured, without a bet"),
          h("p", { html: data.result }), ...note));
    } else {
      const { good, text } = verdict(data, bet);
      body.dataset.good = good;
      if (!data.choices) body.dataset.off = bet - data.measured;
      body.replaceChildren(h("p", { class: "kicker" }, "Your bet"),
        h("p", { class: `verdict ${good ? "good" : "off"}`, tabindex: -1 },
          h("span", { class: "sign", "aria-hidden": "true" }, good ? "✓ " : "≠ "), text),
        ...(data.range ? [line(data, bet)] : []), ...note);
    }
    if (model.get("value") !== bet) {
      model.set("value", bet);
      model.save_changes();
    }
  }

  update();
  const unwatch = store.watch(update);
  show();
  return unwatch;
}

export default { render };
