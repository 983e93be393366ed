// How alike the layers of two networks are, step by step.
import { h, card } from "./kit.js";

function render({ model, el }) {
  const data = model.get("data");
  const { tables, rows, columns, steps, unit } = data; // tables[step][row][column], 0 to 1
  const { body, show, announce } = card(el, "layers", data.title);

  const value = h("output", { for: "step", class: "big" });
  const slider = h("input", { type: "range", id: "step", min: 0, max: steps.length - 1, step: 1,
    oninput: () => set(slider.valueAsNumber) });
  const cells = rows.map(() => columns.map(() => {
    const fill = h("i", {});
    const number = h("span", {});
    return { fill, number, box: h("td", {}, h("div", { class: "box", "aria-hidden": "true" }, fill), number) };
  }));
  const say = h("p", { class: "say" });
  body.append(
    h("p", { class: "title" }, data.title),
    ...(steps.length > 1 ? [h("div", { class: "control" }, h("label", { for: "step" }, unit), value,
      h("div", { class: "track" }, slider))] : []),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Likeness of the layers" },
      h("table", {},
        h("caption", { class: "unseen" }, `${data.rows_title} against ${data.columns_title}`),
        h("thead", {},
          h("tr", {}, h("td", {}), h("th", { scope: "colgroup", colspan: columns.length }, data.columns_title)),
          h("tr", {}, h("th", { scope: "col" }, data.rows_title),
            ...columns.map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, ...rows.map((name, r) =>
          h("tr", {}, h("th", { scope: "row" }, name), ...cells[r].map(({ box }) => box)))))),
    say,
  );

  function update() {
    const step = model.get("step");
    const table = tables[step];
    let best = [0, 0];
    table.forEach((line, r) => line.forEach((x, c) => {
      if (x > table[best[0]][best[1]]) best = [r, c];
      const { fill, number, box } = cells[r][c];
      fill.style.setProperty("--at", x);
      number.textContent = x.toFixed(2);
      box.dataset.value = x;
      box.classList.remove("best");
    }));
    cells[best[0]][best[1]].box.classList.add("best");
    const at = steps[step];
    slider.value = step;
    value.textContent = at;
    slider.setAttribute("aria-valuetext", `${unit} ${at}`);
    slider.style.setProperty("--at", step / Math.max(1, steps.length - 1));
    const change = table[best[0]][best[1]] - tables[0][best[0]][best[1]];
    const text = `${steps.length > 1 ? `${unit} ${at}: most alike` : "Most alike"} are ${rows[best[0]]} and `
      + `${columns[best[1]]}, ${table[best[0]][best[1]].toFixed(2)}${
        step ? ` (${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(2)} since the start)` : ""}.`;
    say.textContent = text;
    announce(text);
    Object.assign(body.dataset, { step, best: best.join(",") });
  }

  function set(step) {
    model.set("step", step);
    model.save_changes();
  }

  model.on("change:step", update);
  update();
  show();
  return () => { model.off("change:step", update); };
}

export default { render };
