// What pushes the student's logits: the label and the teacher, at a temperature and an alpha.
import { h, card } from "./kit.js";

const SPACE = "\u00a0";

function softmax(logits, T) {
  const top = Math.max(...logits);
  const weights = logits.map((z) => Math.exp((z - top) / T));
  const total = weights.reduce((sum, w) => sum + w, 0);
  return weights.map((w) => w / total);
}

/** log softmax, which stays exact where the probability has run out of digits. */
function logSoftmax(logits, T) {
  const top = Math.max(...logits);
  const log = Math.log(logits.reduce((sum, z) => sum + Math.exp((z - top) / T), 0));
  return logits.map((z) => (z - top) / T - log);
}

/** Both parts of the loss, and by class how each pushes the student's logits (minus the gradient). */
function measure(student, teacher, label, T, alpha) {
  const q1 = softmax(student, 1);
  const [p, q] = [softmax(teacher, T), softmax(student, T)];
  const [logP, logQ] = [logSoftmax(teacher, T), logSoftmax(student, T)];
  const hard = q1.map((value, k) => (1 - alpha) * ((k === label ? 1 : 0) - value));
  const soft = p.map((value, k) => alpha * T * (value - q[k]));
  return {
    hard, soft,
    ce: -logSoftmax(student, 1)[label],
    kl: T ** 2 * p.reduce((sum, value, k) => sum + value * (logP[k] - logQ[k]), 0),
  };
}

const length = (values) => Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0));
const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(3)}`;

function render({ model, el }) {
  const data = model.get("data");
  const { classes, labels, student, teacher } = data;
  const title = "What pushes the student";
  const { body, show, announce } = card(el, "push", title);

  function control(id, label, min, max, step, words) {
    const value = h("output", { for: id, class: "big" });
    const input = h("input", { type: "range", id, min, max, step,
      oninput: () => set({ [id]: input.valueAsNumber }) });
    return { input, value, words, box: h("div", { class: "control" },
      h("label", { for: id }, label), value, h("div", { class: "track" }, input)) };
  }
  const sliders = {
    T: control("T", "Temperature", 1, 20, 0.5, (x) => `T = ${Number(x.toFixed(2))}`),
    alpha: control("alpha", "Weight of the teacher", 0, 1, 0.05, (x) => `α = ${Number(x.toFixed(2))}`),
  };
  const choice = h("select", { id: "image", onchange: () => set({ index: Number(choice.value) }) },
    ...labels.map((k, i) => h("option", { value: i }, `${i + 1}: ${classes[k]}`)));
  const picture = h("img", { class: "picture", alt: "" });
  const rows = h("tbody", {});
  const say = h("p", { class: "say" });
  const tile = (label, note) => {
    const number = h("b", {});
    return { number, box: h("div", { class: "tile" }, h("span", { class: "what" }, label), number,
      h("span", { class: "note" }, note)) };
  };
  const ce = tile("Label part, CE", "nats, before its weight 1 − α");
  const kl = tile("Teacher part, T² KL", "nats, before its weight α");
  const share = tile("The teacher's part of the push", "its length, of both lengths together");
  const sample = (kind, text) => h("span", {}, h("i", { class: `swatch ${kind}` }), text);

  body.append(
    h("p", { class: "title" }, title),
    h("div", { class: "top" }, ...(data.images ? [picture] : []),
      h("label", { for: "image" }, "Image and its label"), choice),
    h("div", { class: "pair" }, sliders.T.box, sliders.alpha.box),
    h("table", {},
      h("caption", { class: "unseen" }, "How strongly each logit of the student is pushed up or down"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "name" }, "Logit of"),
        h("th", { scope: "col", "aria-hidden": "true", class: "ends" },
          h("span", {}, "← down"), h("span", {}, "up →")),
        h("th", { scope: "col", class: "number" }, "Label"),
        h("th", { scope: "col", class: "number" }, "Teacher"))), rows),
    h("div", { class: "legend" }, h("span", { class: "samples", "aria-hidden": "true" },
      sample("rival", "the label pushes"), sample("true", "the teacher pushes"))),
    say,
    h("div", { class: "pair" }, ce.box, kl.box, share.box),
  );

  function update() {
    const [index, T, alpha] = ["index", "T", "alpha"].map((key) => model.get(key));
    const label = labels[index];
    const now = measure(student[index], teacher[index], label, T, alpha);
    const order = classes.map((_, k) => k).sort((a, b) =>
      Math.abs(now.hard[b] + now.soft[b]) - Math.abs(now.hard[a] + now.soft[a]) || a - b);
    const shown = [label, ...order.filter((k) => k !== label)].slice(0, data.top);
    const reach = Math.max(0.02, ...shown.flatMap((k) => [now.hard[k], now.soft[k]].map(Math.abs)));
    const bar = (kind, value) => {
      const fill = h("i", { class: `fill ${kind}` });
      fill.style.setProperty("--from", 0.5 + Math.min(0, value / reach) / 2);
      fill.style.setProperty("--size", Math.abs(value / reach) / 2);
      return h("div", { class: "lane" }, fill);
    };
    rows.replaceChildren(...shown.map((k) => h("tr",
      { "data-class": k, "data-hard": now.hard[k], "data-soft": now.soft[k] },
      h("th", { scope: "row" }, classes[k], ...(k === label ? [h("span", { class: "tag" }, "✓ label")] : [])),
      h("td", { class: "bar", "aria-hidden": "true" }, bar("rival", now.hard[k]), bar("true", now.soft[k])),
      h("td", { class: "p" }, signed(now.hard[k])), h("td", { class: "p" }, signed(now.soft[k])))));
    for (const [key, { input, value, words }] of Object.entries(sliders)) {
      const at = model.get(key);
      input.value = at;
      value.textContent = words(at);
      input.setAttribute("aria-valuetext", words(at));
      input.style.setProperty("--at", (at - input.min) / (input.max - input.min));
    }
    choice.value = index;
    if (data.images) {
      picture.src = data.images[index];
      picture.alt = `Image ${index + 1}, label ${classes[label]}`;
    }
    const [hard, soft] = [length(now.hard), length(now.soft)];
    const part = hard + soft ? soft / (hard + soft) : 0;
    ce.number.textContent = now.ce.toFixed(3);
    kl.number.textContent = now.kl.toFixed(3);
    share.number.textContent = `${(100 * part).toFixed(0)}${SPACE}%`;
    const against = shown.filter((k) => now.hard[k] * now.soft[k] < 0
      && Math.max(Math.abs(now.hard[k]), Math.abs(now.soft[k])) > 0.005 // one push is visible,
      && Math.min(Math.abs(now.hard[k]), Math.abs(now.soft[k])) >= 0.0005); // no column says 0
    const text = `${sliders.T.words(T)}, ${sliders.alpha.words(alpha)}. ${
      part === 0 ? "Only the label pushes."
        : part === 1 ? "Only the teacher pushes."
          : part > 0.5 ? "The teacher pushes more than the label."
            : "The label pushes more than the teacher."} ${
      against.length ? `They disagree about ${against.map((k) => `“${classes[k]}”`).join(", ")}.`
        : part && part < 1 ? "They do not disagree about any of these classes." : ""}`.trim();
    say.textContent = text;
    announce(text);
    Object.assign(body.dataset, { index, t: T, alpha, ce: now.ce, kl: now.kl, share: part });
  }

  function set(changes) {
    for (const [key, to] of Object.entries(changes)) model.set(key, to);
    model.save_changes();
  }

  for (const key of ["T", "alpha", "index"]) model.on(`change:${key}`, update);
  update();
  show();
  return () => { for (const key of ["T", "alpha", "index"]) model.off(`change:${key}`, update); };
}

export default { render };
