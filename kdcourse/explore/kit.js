// Shared by every explorable: make elements, draw the card, remember answers.
// Python joins this file and the module that imports it into one text, without comment lines.

/** One element: h("p", { class: "say", onclick: f, html: "safe <em>markup</em>" }, child, "text"). */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "html") node.innerHTML = value; // made and escaped by Python
    else if (value !== undefined && value !== null && value !== false)
      node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/**
 * An empty card inside `el`, with its own shadow root.
 *
 * Why a shadow root: the book's theme, JupyterLab and Colab all style tables, labels and inputs,
 * each in another way. Behind the root their rules do not reach us, ours do not reach them, and
 * the names of ids and radio groups cannot clash between two cards. It is open, so axe-core and
 * the tests look inside. Only inherited custom properties pass through, and these carry the
 * colours: tokens.css sets them outside, where it can see whether the page is dark.
 */
export function card(el, kind, label) {
  const host = h("div", {
    class: "kdx",
    // JupyterLab would take the arrow keys, Enter and letters as commands for the cell.
    "data-lm-suppress-shortcuts": "true",
  });
  // Some themes turn the page with the arrow keys when they see no input in focus; they see the
  // host, not the slider inside it.
  host.addEventListener("keydown", (event) => {
    if (/^(Arrow|Home|End|Page|Enter| )/.test(event.key)) event.stopPropagation();
  });
  const root = host.attachShadow({ mode: "open" });
  const body = h("div", { class: `card ${kind}`, role: "group", "aria-label": label });
  const live = h("p", { class: "unseen", role: "status" });
  root.append(h("style", {}, STYLE), body, live);
  let timer;
  return {
    body,
    /** Put the card in place of the still picture. Last step, so that an error leaves the latter. */
    show: () => el.replaceChildren(host),
    /** Tell a screen reader, once the reader has stopped moving. */
    announce(text) {
      clearTimeout(timer);
      timer = setTimeout(() => { live.textContent = text; }, 400);
    },
  };
}

/** The text of a piece of safe markup, for labels and announcements. */
export const plain = (html) => h("p", { html }).textContent;

// Answers live in the browser only. Where storage is refused (private windows, some iframes) they
// live as long as the page does.
const memory = (globalThis.kdcourseMemory ??= new Map());
const PREFIX = "kdcourse:";
const CHANGED = "kdcourse-store";

export const store = {
  read(key) {
    let text = memory.get(key);
    try {
      text = localStorage.getItem(PREFIX + key) ?? text;
      return text === undefined ? null : JSON.parse(text);
    } catch {
      return text === undefined ? null : JSON.parse(text);
    }
  },
  write(key, value) {
    const text = JSON.stringify(value);
    memory.set(key, text);
    try { localStorage.setItem(PREFIX + key, text); } catch { /* kept in memory */ }
    window.dispatchEvent(new Event(CHANGED));
  },
  remove(key) {
    memory.delete(key);
    try { localStorage.removeItem(PREFIX + key); } catch { /* nothing was stored */ }
    window.dispatchEvent(new Event(CHANGED));
  },
  keys(start) {
    const all = new Set(memory.keys());
    try {
      for (const key of Object.keys(localStorage))
        if (key.startsWith(PREFIX)) all.add(key.slice(PREFIX.length));
    } catch { /* memory only */ }
    return [...all].filter((key) => key.startsWith(start));
  },
  /** Call `changed` when any card of this page, or another tab, stores something. */
  watch(changed) {
    window.addEventListener(CHANGED, changed);
    window.addEventListener("storage", changed);
    return () => {
      window.removeEventListener(CHANGED, changed);
      window.removeEventListener("storage", changed);
    };
  },
};
