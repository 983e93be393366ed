// One quiz question. Every answer is explained, the wrong ones too.
import { h, card, plain, store } from "./kit.js";

// A name such as "01/why-t2" keeps the score of chapter 01 apart from the others.
const chapter = (name) => (name.includes("/") ? name.slice(0, name.lastIndexOf("/") + 1) : "");

function scoreline(name) {
  const seen = store.keys(`quiz:${chapter(name)}`).map((key) => store.read(key));
  const answered = seen.filter((entry) => entry?.tried?.length);
  const right = answered.filter((entry) => entry.first).length;
  const where = chapter(name) ? " in this chapter" : "";
  if (!answered.length) return `No question answered yet${where}.`;
  const many = answered.length === 1 ? "question" : "questions";
  return `Score${where}: ${right} of ${answered.length} ${many} right at the first try.`;
}

function render({ model, el }) {
  const { name, prompt, choices } = model.get("data");
  const key = `quiz:${name}`;
  const { body, show, announce } = card(el, "question", "Quiz question");

  const rows = choices.map((choice, i) => {
    const input = h("input", { type: "radio", name: "choice", value: i });
    const why = h("p", { class: "why", hidden: true });
    const box = h("div", { class: "choice" },
      h("label", {}, input, h("span", { html: choice.html })), why);
    return { ...choice, input, why, box };
  });
  const hint = h("span", { class: "hint" });
  const score = h("span", { class: "tally" });
  const again = h("button", { type: "button", class: "quiet", onclick: restart }, "Start again");
  const rest = h("button", { type: "button", class: "quiet", onclick: explainAll },
    "Explain every answer");
  const form = h("form", { onsubmit: check },
    h("fieldset", {}, h("legend", { html: prompt }), ...rows.map((row) => row.box)),
    h("div", { class: "actions" }, h("button", { type: "submit" }, "Check"), rest, again, hint),
    score);
  body.append(form);

  /** What was tried before, in the words of the answers: a question may be edited later. */
  function tried() {
    const entry = store.read(key);
    return (entry?.tried ?? []).filter((text) => rows.some((row) => row.text === text));
  }

  function explain(row) {
    row.why.hidden = false;
    row.box.classList.add(row.right ? "right" : "wrong");
    row.box.dataset.right = row.right;
    row.why.innerHTML = `<b>${row.right ? "✓ Right." : "✗ No."}</b> ${row.why_html}`;
  }

  function check(event) {
    event.preventDefault();
    const row = rows.find(({ input }) => input.checked);
    hint.textContent = row ? "" : "Choose an answer first.";
    if (!row) return announce(hint.textContent);
    const before = tried();
    if (!before.includes(row.text)) {
      const first = before.length ? Boolean(store.read(key).first) : row.right;
      store.write(key, { tried: [...before, row.text], first });
    }
    model.set("choice", row.text);
    model.save_changes();
    announce(`${row.right ? "Right." : "No."} ${plain(row.why_html)} ${scoreline(name)}`);
  }

  function explainAll() {
    rows.forEach(explain);
    announce(rows.map((row) => `${plain(row.html)}: ${row.right ? "right" : "wrong"}. `
      + plain(row.why_html)).join(" "));
  }

  function restart() {
    for (const row of rows) {
      row.input.checked = false;
      row.why.hidden = true;
      row.box.classList.remove("right", "wrong");
      delete row.box.dataset.right;
    }
    store.remove(key);
    model.set("choice", null);
    model.save_changes();
    rows[0].input.focus();
  }

  function update() {
    const done = tried();
    for (const row of rows) if (done.includes(row.text)) explain(row);
    again.hidden = rest.hidden = done.length === 0;
    body.dataset.tried = done.length;
    score.textContent = scoreline(name);
  }

  const last = rows.find((row) => row.text === tried().at(-1));
  if (last) last.input.checked = true;
  update();
  const unwatch = store.watch(update);
  show();
  return unwatch;
}

export default { render };
