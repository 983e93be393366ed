// A temperature slider over a real teacher's logits.
import { h, card } from "./kit.js";
import { picker } from "./picker.js";

const SPACE = "\u00a0"; // between a number and its sign, so that they stay on one line
const FLOOR = -6; // the logarithmic scale runs from 10^-6 to 1

// The numbers. Everything is float64; Python's float64 agrees to 1e-12 or so.

/** softmax(logits / T), the entropy in bits, and what the classes besides `answer` get. */
function measure(logits, T, answer) {
  const top = Math.max(...logits); // subtracted first, so that exp cannot overflow
  const weights = logits.map((z) => Math.exp((z - top) / T));
  const total = weights.reduce((sum, w) => sum + w, 0);
  const p = weights.map((w) => w / total);
  // -p log p from the logits: it stays exact where p has run out of digits.
  const nats = p.reduce((sum, q, k) => sum + q * (Math.log(total) - (logits[k] - top) / T), 0);
  // Summed, not 1 - p: the difference of nearly equal numbers would lose the small shares.
  const wrong = p.reduce((sum, q, k) => (k === answer ? sum : sum + q), 0);
  return { p, bits: nats / Math.LN2, equal: Math.exp(nats), wrong };
}

function power(x) {
  const exponent = Math.floor(Math.log10(x));
  const raised = [...String(exponent)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");
  return `${(x / 10 ** exponent).toFixed(1)}·10${raised}`;
}

function percent(p, digits = 1) {
  if (p === 0) return `0${SPACE}%`;
  if (p < 1e-4) return power(p);
  if (p < 0.00995) return `${(100 * p).toPrecision(2)}${SPACE}%`;
  const text = (100 * p).toFixed(digits);
  return p < 1 && Number(text) === 100 ? `>${SPACE}99.9${SPACE}%` : `${text}${SPACE}%`;
}

const short = (T) => String(Number(T.toPrecision(4)));
const times = (x) => (x < 10 ? x.toFixed(1) : x < 10000 ? x.toFixed(0) : power(x));

// The slider stops at round numbers, closer together where temperature changes more.
function stops(first) {
  const all = new Set([first]);
  for (let T = 10; T < 50; T += 1) all.add(T / 10);
  for (let T = 50; T < 100; T += 2) all.add(T / 10);
  for (let T = 100; T <= 200; T += 5) all.add(T / 10);
  return [...all].sort((a, b) => a - b);
}

/** One sentence that says what one sees. */
function sentence({ data, T, index, now, answer, order }) {
  const { labels } = data;
  const classes = data.classes.map((name) => `“${name}”`); // some are called 0 or 1
  const rivals = order.filter((k) => k !== answer);
  const [first, second] = rivals.map((k) => classes[k]);
  const others = labels ? "the wrong classes" : `the classes besides ${classes[answer]}`;
  const at = `At T = ${short(T)}`;
  const mistake = labels && order[0] !== answer
    ? `Image ${index + 1} is ${classes[answer]}, but the teacher's first choice is `
      + `${classes[order[0]]}. `
    : "";
  const share = percent(now.wrong, now.wrong < 0.995 ? 0 : 1);
  if (now.wrong < 0.01)
    return `${at} the teacher gives ${others} only ${share} of its probability: hardly more than `
      + "a plain label says.";
  if (now.equal > 0.8 * classes.length && classes.length > 2)
    return `${mistake}${at} the probabilities are nearly equal, and ${others} hold ${share}: the `
      + "differences fade.";
  let text = `${mistake}${at} the teacher gives ${others} ${share} of its probability`;
  if (second === undefined) return `${text}.`;
  const lead = now.p[rivals[0]] / now.wrong;
  const ratio = now.p[rivals[0]] / now.p[rivals[1]];
  text += lead > 0.5 ? `; most of it to ${first}` : `; the largest part to ${first}`;
  return ratio < 1.05
    ? `${text}, about as much as to ${second}.`
    : `${text}, ${times(ratio)} times as much as to ${second}.`;
}

// The picture.

function tile(label, note) {
  const number = h("b", {});
  const small = h("span", { class: "note" }, note);
  const box = h("div", { class: "tile" }, h("span", { class: "what" }, label), number, small);
  return { box, number, small };
}

function render({ model, el }) {
  const data = model.get("data");
  const { classes, labels } = data;
  const title = data.title ?? "What the teacher says at temperature T";
  const { body, show, announce } = card(el, "temperature", title);
  const grid = stops(model.get("T"));
  const all = classes.length <= data.top + 2; // "all others" should stand for several classes

  const value = h("output", { for: "T", class: "big" });
  const slider = h("input", {
    type: "range", id: "T", min: 0, max: grid.length - 1, step: 1,
    oninput: () => { set({ T: grid[slider.valueAsNumber] }); },
  });
  const ticks = [1, 2, 4, 10, 20].map((T) =>
    h("span", { style: `--at:${grid.indexOf(T) / (grid.length - 1)}` }, String(T)));
  const say = h("p", { class: "say" });
  const log = h("input", { type: "checkbox", role: "switch", onchange: () => update() });
  const rows = h("tbody", {});
  const axis = h("div", { class: "axis" });
  const picture = h("img", { class: "picture", alt: "" });
  const entropy = tile("Entropy", "");
  const wrong = tile(labels ? "On wrong classes" : "Besides the first", "of the probability");
  const ratio = tile(labels ? "First two wrong" : "Second to third", "");
  const sample = (kind, text) => h("span", {}, h("i", { class: `swatch ${kind}` }), text);

  body.append(
    h("p", { class: "title" }, title),
    ...(data.logits.length > 1 ? [picker(data, model.get("index"), (index) => set({ index }), data.logits.map((_, i) => i))] : []),
    h("div", { class: "control" },
      h("label", { for: "T" }, "Temperature"), value,
      h("div", { class: "track" }, slider, h("div", { class: "ticks", "aria-hidden": "true" }, ...ticks))),
    say,
    h("div", { class: "board" },
      h("div", { class: "chart" },
        h("table", {},
          h("caption", { class: "unseen" }, "The teacher's probability for each class"),
          h("thead", {}, h("tr", {},
            h("th", { scope: "col", class: "name" }, h("span", { class: "unseen" }, "Class")),
            h("th", { scope: "col", "aria-hidden": "true" }, axis),
            h("th", { scope: "col", class: "number" }, h("span", { class: "unseen" }, "Probability")))),
          rows),
        h("div", { class: "legend" },
          h("span", { class: "samples", "aria-hidden": "true" },
            sample("true", labels ? "true class" : "first choice"),
            sample("rival", labels ? "wrong class" : "other class"),
            ...(all ? [] : [sample("rest", "all others")]), sample("mark", "at T = 1")),
          h("label", { class: "switch" }, log, h("span", {}, "Logarithmic scale")))),
      h("div", { class: "side" }, ...(data.images ? [picture] : []),
        entropy.box, wrong.box, ...(classes.length > 2 ? [ratio.box] : []))),
  );

  let bars = [];
  let order = [];
  let answer = 0;
  let cold = null;

  /** A new image: its classes in the order of its logits, which no temperature changes. */
  function draw() {
    const index = model.get("index");
    const logits = data.logits[index];
    order = logits.map((_, k) => k).sort((a, b) => logits[b] - logits[a] || a - b);
    answer = labels ? labels[index] : order[0];
    cold = measure(logits, 1, answer);
    let shown = all ? order : order.slice(0, data.top);
    if (!shown.includes(answer)) shown = [...shown.slice(0, -1), answer];
    const rest = order.filter((k) => !shown.includes(k));
    bars = shown.map((k) => ({
      ks: [k], kind: k === answer ? "true" : "rival", name: classes[k],
      note: k === answer && labels ? "true" : "",
    }));
    if (rest.length) bars.push({ ks: rest, kind: "rest", name: `${rest.length} others`, note: "" });
    // The column of names is as wide as its longest entry, so far as there is room.
    const widest = Math.max(...bars.map(({ name, note }) => name.length + (note ? 8 : 0)));
    body.style.setProperty("--name", widest);
    rows.replaceChildren(...bars.map((bar) => {
      bar.fill = h("i", { class: `fill ${bar.kind}` });
      bar.mark = h("i", { class: "mark" });
      bar.text = h("td", { class: "p" });
      const tag = bar.note ? [h("span", { class: "tag" }, "✓ ", bar.note)] : [];
      bar.row = h("tr", { "data-class": bar.kind === "rest" ? "rest" : bar.ks[0] },
        h("th", { scope: "row" }, bar.name, ...tag),
        h("td", { class: "bar", "aria-hidden": "true" }, h("div", { class: "lane" }, bar.fill, bar.mark)),
        bar.text);
      return bar.row;
    }));
    if (data.images) {
      picture.src = data.images[index];
      picture.alt = labels ? `Image ${index + 1}, true class ${classes[answer]}` : `Image ${index + 1}`;
    }
    for (const input of body.querySelectorAll("input[name=image]"))
      input.checked = Number(input.value) === index;
    update();
  }

  function update() {
    const T = model.get("T");
    const index = model.get("index");
    const now = measure(data.logits[index], T, answer);
    const rivals = order.filter((k) => k !== answer);
    const along = (p) => (log.checked ? Math.max(0, 1 - Math.log10(p) / FLOOR) : p);
    for (const bar of bars) {
      const p = bar.ks.reduce((sum, k) => sum + now.p[k], 0);
      bar.fill.style.setProperty("--at", along(p));
      bar.mark.style.setProperty("--at", along(bar.ks.reduce((sum, k) => sum + cold.p[k], 0)));
      bar.text.textContent = percent(p);
      bar.row.dataset.p = p;
    }
    axis.replaceChildren(...(log.checked ? [-6, -4, -2, 0] : [0, 0.25, 0.5, 0.75, 1]).map((x) =>
      h("span", { style: `--at:${log.checked ? 1 - x / FLOOR : x}` },
        log.checked ? (x ? `10⁻${"⁰¹²³⁴⁵⁶"[-x]}` : "1") : `${100 * x}${SPACE}%`)));
    body.classList.toggle("log", log.checked);

    value.textContent = `T = ${short(T)}`;
    const place = grid.findIndex((stop) => stop >= T - 1e-9);
    slider.value = place < 0 ? grid.length - 1 : place;
    slider.setAttribute("aria-valuetext", value.textContent);
    slider.style.setProperty("--at", slider.valueAsNumber / (grid.length - 1));

    const text = sentence({ data, T, index, now, answer, order });
    say.textContent = text;
    announce(text);
    entropy.number.textContent = `${now.bits.toFixed(2)}${SPACE}bits`;
    entropy.small.textContent = `as if ${now.equal.toFixed(1)} of ${classes.length} classes were equally likely`;
    wrong.number.textContent = percent(now.wrong);
    Object.assign(body.dataset, {
      t: T, index, entropy: now.bits, equal: now.equal, wrong: now.wrong,
    });
    if (rivals.length > 1) {
      const z = data.logits[index];
      body.dataset.ratio = Math.exp((z[rivals[0]] - z[rivals[1]]) / T);
      ratio.number.textContent = `${times(Number(body.dataset.ratio))}${SPACE}×`;
      ratio.small.textContent = `${classes[rivals[0]]} against ${classes[rivals[1]]}`;
    }
  }

  /** The reader moved something: tell the model, which tells us (and Python, if it listens). */
  function set(changes) {
    for (const [key, to] of Object.entries(changes)) model.set(key, to);
    model.save_changes();
  }

  model.on("change:T", update);
  model.on("change:index", draw);
  draw();
  show();
  return () => { model.off("change:T", update); model.off("change:index", draw); };
}

export default { render };
