// A row of pictures, or of names, of which one is chosen.
import { h } from "./kit.js";

/** Small pictures to choose one from, by mouse or arrow keys; `shown` are their places. */
export function picker(data, index, choose, shown) {
  const faces = shown.map((i) => {
    const name = data.labels ? data.classes[data.labels[i]] : `image ${i + 1}`;
    const face = data.images
      ? [h("img", { src: data.images[i], alt: `Image ${i + 1}:` }), h("span", {}, name)]
      : [h("span", {}, data.labels ? `${i + 1}: ${name}` : name)];
    const input = h("input", {
      type: "radio", name: "image", value: i, checked: i === index, onchange: () => choose(i),
    });
    return h("label", { class: "thumb" }, input, h("span", { class: "face" }, ...face));
  });
  const legend = data.labels ? "Image and its true class" : "Image";
  return h("fieldset", { class: "picker" }, h("legend", {}, legend),
    h("div", { class: "thumbs" }, ...faces));
}
