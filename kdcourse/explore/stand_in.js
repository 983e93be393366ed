// Where no kernel is: draw `explorable` in its place, with a stand-in for anywidget's model.
// Python puts in KEY and STATE. The place is found by an attribute, so that the same output may
// be on a page twice.
for (const el of document.querySelectorAll('[data-kdx="KEY"]:not([data-ready])')) {
  el.dataset.ready = "";
  const state = STATE;
  // Pictures are in the page once, in the still version that the card replaces.
  if (state.data.images) state.data.images = [...el.querySelectorAll("img")].map((img) => img.src);
  const heard = {};
  const model = {
    get: (key) => state[key],
    set(key, value) {
      if (Object.is(state[key], value)) return;
      state[key] = value;
      for (const hear of heard[`change:${key}`] ?? []) hear();
    },
    on: (event, hear) => (heard[event] ??= new Set()).add(hear),
    off: (event, hear) => heard[event]?.delete(hear),
    save_changes() {},
  };
  explorable.render({ model, el });
}
