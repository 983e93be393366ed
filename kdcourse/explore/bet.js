// A prediction, made before the experiment.
import { h, card, plain, store } from "./kit.js";
import { amount, form, stored } from "./betform.js";

function render({ model, el }) {
  const data = model.get("data");
  const { body, show, announce } = card(el, "bet", "Your prediction");
  const state = h("p", { class: "state" });

  function place(value) {
    store.write(`bet:${data.name}`, value);
    model.set("value", value);
    model.save_changes();
    announce(state.textContent);
  }

  function update() {
    const value = stored(data);
    const words = data.choices
      ? plain(data.choices.find((choice) => choice.text === value)?.html ?? "")
      : amount(value, { digits: data.range.digits, unit: data.unit });
    body.dataset.bet = value ?? "";
    state.textContent = value === null
      ? "No bet yet. It stays in this browser and is compared with the measurement later."
      : `✓ Your bet: ${words}. You can change it until you have seen the result.`;
    const button = body.querySelector("button");
    if (!button) return;
    const focused = button.matches(":focus");
    button.hidden = value !== null;
    if (button.hidden && focused) body.querySelector("input").focus(); // do not lose the place
  }

  body.append(h("p", { class: "kicker" }, "Predict first"), form(data, place, true), state);
  update();
  const value = stored(data);
  if (value !== null) { // a bet from an earlier visit: Python may want it
    model.set("value", value);
    model.save_changes();
  }
  const unwatch = store.watch(update);
  show();
  return unwatch;
}

export default { render };
