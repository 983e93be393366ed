// What several networks say about the same images.
import { h, card } from "./kit.js";
import { picker } from "./picker.js";

function softmax(logits) {
  const top = Math.max(...logits);
  const weights = logits.map((z) => Math.exp(z - top));
  const total = weights.reduce((sum, w) => sum + w, 0);
  return weights.map((w) => w / total);
}

const first = (logits) => logits.indexOf(Math.max(...logits));

function render({ model, el }) {
  const data = model.get("data");
  const { classes, labels, names, logits } = data; // logits[network][image][class]
  const title = data.title;
  const { body, show, announce } = card(el, "gallery", title);
  const everything = labels.map((_, i) => i);

  // The confusions of the first network, the most frequent first.
  const pairs = new Map();
  for (const i of everything) {
    const said = first(logits[0][i]);
    if (said === labels[i]) continue;
    const key = `${labels[i]},${said}`;
    pairs.set(key, [...(pairs.get(key) ?? []), i]);
  }
  const groups = [["all images", everything],
    ...[...pairs].sort((a, b) => b[1].length - a[1].length).map(([key, places]) => {
      const [label, said] = key.split(",").map((k) => classes[k]);
      return [`“${label}” taken for “${said}” by the ${names[0]} (${places.length})`, places];
    })];
  const choice = h("select", { id: "group", onchange: () => regroup(Number(choice.value)) },
    ...groups.map(([text], i) => h("option", { value: i }, text)));
  const place = h("div", {});
  const picture = h("img", { class: "picture", alt: "" });
  const panels = h("div", { class: "panels" });
  const say = h("p", { class: "say" });

  body.append(
    h("p", { class: "title" }, title),
    h("div", { class: "top" }, h("label", { for: "group" }, "Show"), choice),
    place,
    h("div", { class: "seen" }, picture, say),
    panels,
  );

  function regroup(group) {
    const places = groups[group][1];
    const index = places.includes(model.get("index")) ? model.get("index") : places[0];
    place.replaceChildren(picker(data, index, (i) => set(i), places));
    choice.value = group;
    set(index);
  }

  function update() {
    const index = model.get("index");
    const label = labels[index];
    const right = [];
    panels.replaceChildren(...names.map((name, m) => {
      const p = softmax(logits[m][index]);
      const said = first(logits[m][index]);
      if (said === label) right.push(name);
      const order = classes.map((_, k) => k).sort((a, b) => p[b] - p[a] || a - b);
      let shown = order.slice(0, data.top);
      if (!shown.includes(label)) shown = [...shown.slice(0, -1), label];
      const rows = shown.map((k) => {
        const fill = h("i", { class: `fill ${k === label ? "true" : "rival"}` });
        fill.style.setProperty("--at", p[k]);
        return h("tr", { "data-class": k, "data-p": p[k] },
          h("th", { scope: "row" }, classes[k]),
          h("td", { class: "bar", "aria-hidden": "true" }, h("div", { class: "lane" }, fill)),
          h("td", { class: "p" }, `${(100 * p[k]).toFixed(1)}\u00a0%`));
      });
      return h("div", { class: "panel", "data-network": name },
        h("table", {}, h("caption", {}, h("b", {}, name), " says ", classes[said],
          h("span", { class: said === label ? "good" : "bad" }, said === label ? " ✓" : " ✗")),
        h("tbody", {}, ...rows)));
    }));
    if (data.images) {
      picture.src = data.images[index];
      picture.alt = `Image ${index + 1}, label ${classes[label]}`;
    }
    picture.hidden = !data.images;
    for (const input of body.querySelectorAll("input[name=image]"))
      input.checked = Number(input.value) === index;
    const text = `Image ${index + 1} is “${classes[label]}”. ${
      right.length === names.length ? "All of them are right."
        : right.length ? `Right: ${right.join(", ")}.` : "None of them is right."}`;
    say.textContent = text;
    announce(text);
    Object.assign(body.dataset, { index, right: right.join(",") });
  }

  function set(index) {
    model.set("index", index);
    model.save_changes();
    update();
  }

  model.on("change:index", update);
  regroup(0);
  show();
  return () => { model.off("change:index", update); };
}

export default { render };
