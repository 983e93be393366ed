// One bump in the place of several: KL(p || q) against KL(q || p).
import { h, card } from "./kit.js";

const STEPS = 1600; // of the grid on which both integrals are summed
const SVG = "http://www.w3.org/2000/svg";

/** log of a normal density. */
const logNormal = (x, mean, std) =>
  -0.5 * ((x - mean) / std) ** 2 - Math.log(std) - 0.5 * Math.log(2 * Math.PI);

function logMixture(x, { means, stds, weights }) {
  const logs = means.map((mean, i) => Math.log(weights[i]) + logNormal(x, mean, stds[i]));
  const top = Math.max(...logs);
  return top + Math.log(logs.reduce((sum, value) => sum + Math.exp(value - top), 0));
}

/** Both divergences in nats, by the trapezoidal rule. */
function divergences(grid, logP, mean, std) {
  let forward = 0;
  let reverse = 0;
  grid.forEach((x, i) => {
    const logQ = logNormal(x, mean, std);
    forward += Math.exp(logP[i]) * (logP[i] - logQ);
    reverse += Math.exp(logQ) * (logQ - logP[i]);
  });
  const width = grid[1] - grid[0];
  return { forward: forward * width, reverse: reverse * width };
}

/** Downhill from where one stands, a coordinate at a time; log(std), so that it stays positive. */
function descend(value, mean, std) {
  let here = [mean, Math.log(std)];
  let best = value(here[0], Math.exp(here[1]));
  for (let step = 0.25; step > 1e-6; step /= 2) {
    for (let moved = true; moved;) {
      moved = false;
      for (const [i, sign] of [[0, 1], [0, -1], [1, 1], [1, -1]]) {
        const next = [...here];
        next[i] += sign * step;
        const found = value(next[0], Math.exp(next[1]));
        if (found < best - 1e-12) [here, best, moved] = [next, found, true];
      }
    }
  }
  return { mean: here[0], std: Math.exp(here[1]) };
}

function shape(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function render({ model, el }) {
  const data = model.get("data");
  const { low, high, widest, narrowest } = data;
  const title = "Cover everything, or pick one?";
  const { body, show, announce } = card(el, "divergence", title);
  // Beyond the picture, so that the tails count too.
  const [from, to] = [low - (high - low), high + (high - low)];
  const grid = Array.from({ length: STEPS + 1 }, (_, i) => from + ((to - from) * i) / STEPS);
  const logP = grid.map((x) => logMixture(x, data));
  const tallest = 1.15 * Math.max(...logP.map(Math.exp));

  const place = (x, y) =>
    `${((600 * (x - low)) / (high - low)).toFixed(2)},${(220 - (200 * y) / tallest).toFixed(2)}`;
  const line = (density) => grid.map((x, i) => [x, density(x, i)])
    .filter(([x]) => x >= low && x <= high).map(([x, y]) => place(x, Math.min(y, 2 * tallest)));
  const teacher = shape("polygon", { class: "p", points:
    [place(low, 0), ...line((_, i) => Math.exp(logP[i])), place(high, 0)].join(" ") });
  const student = shape("polyline", { class: "q" });
  const picture = shape("svg", { viewBox: "0 0 600 224", role: "img" });
  picture.append(teacher, shape("line", { class: "ground", x1: 0, x2: 600, y1: 220, y2: 220 }), student);

  function control(id, label, min, max) {
    const value = h("output", { for: id, class: "big" });
    const input = h("input", { type: "range", id, min, max, step: 0.01,
      oninput: () => set({ [id]: input.valueAsNumber }) });
    const box = h("div", { class: "control" }, h("label", { for: id }, label), value,
      h("div", { class: "track" }, input));
    return { box, input, value };
  }
  const sliders = {
    mean: control("mean", "Middle of the bump", low, high),
    std: control("std", "Its width", narrowest, widest),
  };
  const tile = (label, note) => {
    const number = h("b", {});
    const box = h("div", { class: "tile" }, h("span", { class: "what" }, label), number,
      h("span", { class: "note" }, note));
    return { box, number };
  };
  const forward = tile("KL(teacher ‖ student)", "forward: Hinton's loss");
  const reverse = tile("KL(student ‖ teacher)", "reverse: the arguments swapped");
  const say = h("p", { class: "say" });
  const button = (text, key) => h("button", { type: "button", onclick: () => fit(key) }, text);
  const sample = (kind, text) => h("span", {}, h("i", { class: `swatch ${kind}` }), text);

  body.append(
    h("p", { class: "title" }, title),
    picture,
    h("div", { class: "legend" }, h("span", { class: "samples", "aria-hidden": "true" },
      sample("rest", "teacher: two bumps"), sample("true", "student: one bump"))),
    h("div", { class: "pair" }, sliders.mean.box, sliders.std.box),
    h("div", { class: "pair" }, forward.box, reverse.box),
    h("div", { class: "actions" }, button("Make the forward KL smallest", "forward"),
      button("Make the reverse KL smallest", "reverse")),
    say,
  );

  function fit(key) {
    set(descend((mean, std) => divergences(grid, logP, mean, std)[key],
      model.get("mean"), model.get("std")), key);
  }

  function sentence(fitted, now) {
    const [mean, std] = [model.get("mean"), model.get("std")];
    const inside = data.means.filter((m) => Math.abs(m - mean) < 2 * std).length;
    const where = inside === data.means.length ? "covers both bumps"
      : inside ? "sits on one bump and ignores the other" : "covers neither bump";
    if (fitted === "forward")
      return `The forward KL is smallest here. The student ${where}: it must have some probability `
        + "wherever the teacher has some, also in between, where the teacher has nearly none.";
    if (fitted === "reverse")
      return `The reverse KL has a smallest value here, downhill from where you stood. The student `
        + `${where}: it is punished only for what it says and the teacher does not. Start from the `
        + "other side, and it may end elsewhere.";
    return `The student ${where}. ${now.forward > now.reverse
      ? "The forward KL is the larger one: some of what the teacher considers possible is missed."
      : "The reverse KL is the larger one: the student considers possible what the teacher does not."}`;
  }

  let fitted = null;
  function update() {
    const [mean, std] = [model.get("mean"), model.get("std")];
    const now = divergences(grid, logP, mean, std);
    student.setAttribute("points", line((x) => Math.exp(logNormal(x, mean, std))).join(" "));
    for (const [key, { input, value }] of Object.entries(sliders)) {
      const at = model.get(key);
      input.value = at;
      value.textContent = at.toFixed(2);
      input.setAttribute("aria-valuetext", at.toFixed(2));
      input.style.setProperty("--at", (at - input.min) / (input.max - input.min));
    }
    forward.number.textContent = `${now.forward.toFixed(3)}\u00a0nats`;
    reverse.number.textContent = `${now.reverse.toFixed(3)}\u00a0nats`;
    const text = sentence(fitted, now);
    say.textContent = text;
    picture.setAttribute("aria-label", `Two curves over a line. ${text}`);
    Object.assign(body.dataset, { mean, std, forward: now.forward, reverse: now.reverse });
    announce(text);
  }

  function set(changes, by = null) {
    fitted = by;
    for (const [key, to] of Object.entries(changes)) model.set(key, to);
    model.save_changes();
    update(); // also where nothing moved: the sentence may be another
  }

  model.on("change:mean", update);
  model.on("change:std", update);
  update();
  show();
  return () => { model.off("change:mean", update); model.off("change:std", update); };
}

export default { render };
