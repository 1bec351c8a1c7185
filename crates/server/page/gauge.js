// A number with its last minute as a line.

import { h, svg } from "./dom.js";

const KEPT = 120; // samples, two a second
const HEIGHT = 24;

export function numberText(value) {
  if (value === 0) return "0";
  return value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
}

/** Bytes in powers of ten, as disks count. */
export function bytesText(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export class Gauge {
  #samples = [];

  /** `top`: the value at the upper edge, if it is not the largest that was seen. */
  constructor(name, unit, text, top = null) {
    this.text = text;
    this.top = top;
    this.value = h("span", { class: "gauge-value" }, "\u2013");
    this.line = svg("path", { class: "spark-line", "vector-effect": "non-scaling-stroke" });
    this.area = svg("path", { class: "spark-area" });
    this.node = h("div", { class: "gauge" },
      h("div", { class: "gauge-text" }, h("span", { class: "gauge-name" }, name), this.value, h("span", { class: "gauge-unit muted" }, unit)),
      svg("svg", { class: "spark", viewBox: `0 0 ${KEPT - 1} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, this.area, this.line));
  }

  /** A sample, null where there was nothing to measure: the number stays and the line has a gap. */
  add(sample) {
    const value = Number.isFinite(sample) ? sample : null;
    if (value !== null) this.value.textContent = this.text(value);
    this.#samples.push(value);
    if (this.#samples.length > KEPT) this.#samples.shift();
    this.#draw();
  }

  #draw() {
    const top = this.top ?? Math.max(...this.#samples, Number.EPSILON);
    const first = KEPT - this.#samples.length;
    const runs = [[]]; // of points without a gap
    this.#samples.forEach((value, i) => {
      if (value === null) runs.push([]);
      else runs.at(-1).push([first + i, HEIGHT - 1 - (value / top) * (HEIGHT - 3)]);
    });
    const drawn = runs.filter((run) => run.length > 0);
    const path = (run) => run.map(([x, y]) => `${x} ${y.toFixed(1)}`).join("L");
    this.line.setAttribute("d", drawn.map((run) => `M${path(run)}h0.01`).join(""));
    this.area.setAttribute("d", drawn.map((run) => `M${run[0][0]} ${HEIGHT}L${path(run)}V${HEIGHT}Z`).join(""));
  }
}
