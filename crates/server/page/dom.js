// Builds DOM nodes. What comes from a model or a person only ever becomes a text node; nothing here parses markup.

/** An element with attributes; `onclick` and its like are listeners, `false`, `null` and `undefined` leave an attribute out. */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Strokes on a 16 x 16 grid.
const ICONS = {
  close: "M4 4l8 8M12 4l-8 8",
  auto: "M8 2.5a5.5 5.5 0 1 0 0 11zM8 2.5a5.5 5.5 0 0 1 0 11",
  light: "M8 5a3 3 0 1 0 0 6a3 3 0 0 0 0-6M8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1",
  dark: "M13 9.5A5.5 5.5 0 0 1 6.5 3a5.5 5.5 0 1 0 6.5 6.5z",
  tool: "M10 2.5a3.5 3.5 0 0 0-3 5L2.5 12 4 13.5 8.500 9a3.5 3.5 0 0 0 4.800-4.300L11.200 6.800 9.200 4.800z",
};

export function icon(name) {
  const path = svg("path", { d: ICONS[name], fill: "none", stroke: "currentColor", "stroke-width": "1.5", "stroke-linecap": "round", "stroke-linejoin": "round" });
  return svg("svg", { viewBox: "0 0 16 16", width: "16", height: "16", "aria-hidden": "true" }, path);
}

export const find = (id) => document.getElementById(id);

let toastTimer = 0;

/** A short notice at the bottom, with at most one button. */
export function toast(text, label, act) {
  const box = find("toast");
  clearTimeout(toastTimer);
  box.replaceChildren(text);
  if (label) {
    box.append(h("button", { type: "button", class: "link", onclick: () => { box.replaceChildren(); act(); } }, label));
  }
  toastTimer = setTimeout(() => box.replaceChildren(), 8000);
}

/** Copies text; where the clipboard is closed to plain http, through a selection. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** A button that copies what `text()` gives and says so for a moment. */
export function copyButton(text, label = "Copy") {
  const button = h("button", { type: "button", class: "quiet small" }, label);
  button.addEventListener("click", async () => {
    await copyText(text());
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  });
  return button;
}
