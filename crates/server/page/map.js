// The map of experts: one cell for each expert of each layer, by whether it is in memory and how lately it was picked.

import { find } from "./dom.js";

const RESIDENT = 0x80; // bit of a cell's byte; the other seven say how lately, 127 = just now
const SMALLEST = 3; // pixels of a cell's side across the panel, below which layers go across instead
const HEIGHT = 240; // pixels that the map takes where layers go down, if their cells are then neither tiny nor huge
const MOST_CELLS = 1 << 20;

export class ExpertMap {
  #layers = 0;
  #experts = 0;
  #cells = new Uint8Array(0);
  #cursor = null; // {layer, expert} under the pointer or chosen with the keys
  #isAcross = false; // layers go from left to right

  constructor() {
    this.canvas = find("map");
    this.tip = find("map-tip");
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => this.#moveTo(null));
    this.canvas.addEventListener("blur", () => this.#moveTo(null));
    this.canvas.addEventListener("keydown", (event) => this.#step(event));
    new ResizeObserver(() => this.#draw()).observe(this.canvas.parentElement);
    for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)"]) {
      matchMedia(query).addEventListener("change", () => this.#draw());
    }
    document.addEventListener("themechange", () => this.#draw());
  }

  /** `{layers, experts, cells}`, the cells in base 64, a layer after the other. */
  show({ layers, experts, cells }) {
    if (!(layers > 0 && experts > 0 && layers * experts <= MOST_CELLS)) return;
    const bytes = Uint8Array.from(atob(cells), (c) => c.charCodeAt(0));
    if (bytes.length !== layers * experts) return;
    if (layers !== this.#layers || experts !== this.#experts) {
      this.#layers = layers;
      this.#experts = experts;
      this.#cursor = null;
      find("map-size").textContent = `${layers} layers of ${experts}`;
    }
    this.#cells = bytes;
    this.#draw();
    this.#describe();
  }

  /** Width and height of the map in cells, and the cell's sides in device pixels. */
  #geometry() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.floor(this.canvas.parentElement.clientWidth * ratio);
    this.#isAcross = width / this.#experts < SMALLEST * ratio;
    const columns = this.#isAcross ? this.#layers : this.#experts;
    const rows = this.#isAcross ? this.#experts : this.#layers;
    const cellWidth = width / columns;
    const usual = this.#isAcross ? Math.max(2, Math.min(cellWidth, SMALLEST * ratio)) : Math.min(Math.max((HEIGHT * ratio) / rows, 4 * ratio), 12 * ratio);
    const cellHeight = Math.round(usual);
    return { ratio, width, columns, rows, cellWidth, cellHeight };
  }

  #draw() {
    if (!this.#cells.length || !this.canvas.parentElement.clientWidth) return;
    const { ratio, width, columns, rows, cellWidth, cellHeight } = this.#geometry();
    const height = rows * cellHeight;
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.canvas.style.height = `${height / ratio}px`;
    }
    find("map-axis").textContent = this.#isAcross ? "Layers from left to right, experts downwards" : "Experts from left to right, layers downwards";
    const colours = palette();
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    const gap = cellWidth >= 4 && cellHeight >= 4 ? Math.max(1, Math.round(ratio * 0.75)) : 0;
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        const index = this.#isAcross ? column * this.#experts + row : row * this.#experts + column;
        const left = Math.round(column * cellWidth);
        const right = Math.round((column + 1) * cellWidth);
        context.fillStyle = colours[this.#cells[index]];
        context.fillRect(left, row * cellHeight, Math.max(1, right - left - gap), Math.max(1, cellHeight - gap));
      }
    }
    if (this.#cursor) this.#outline(context, cellWidth, cellHeight, ratio);
  }

  #outline(context, cellWidth, cellHeight, ratio) {
    const { layer, expert } = this.#cursor;
    const [column, row] = this.#isAcross ? [layer, expert] : [expert, layer];
    context.strokeStyle = getComputedStyle(this.canvas).color;
    context.lineWidth = 1.5 * ratio;
    context.strokeRect(column * cellWidth, row * cellHeight, cellWidth, cellHeight);
  }

  #point(event) {
    if (!this.#cells.length) return;
    const { ratio, columns, rows, cellWidth, cellHeight } = this.#geometry();
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) * ratio) / cellWidth);
    const row = Math.floor(((event.clientY - box.top) * ratio) / cellHeight);
    const isInside = column >= 0 && row >= 0 && column < columns && row < rows;
    this.#moveTo(isInside ? (this.#isAcross ? { layer: column, expert: row } : { layer: row, expert: column }) : null);
  }

  #step(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move || !this.#cells.length) return;
    event.preventDefault();
    const [layers, experts] = this.#isAcross ? move : [move[1], move[0]];
    const { layer, expert } = this.#cursor ?? { layer: 0, expert: 0 };
    const within = (value, n) => Math.min(n - 1, Math.max(0, value));
    this.#moveTo({ layer: within(layer + layers, this.#layers), expert: within(expert + experts, this.#experts) });
    find("map-cell").textContent = this.tip.textContent;
  }

  #moveTo(cursor) {
    this.#cursor = cursor;
    this.tip.hidden = !cursor;
    this.#draw();
    this.#describe();
  }

  /** The tip beside the cell. */
  #describe() {
    if (!this.#cursor) return;
    const { layer, expert } = this.#cursor;
    const cell = this.#cells[layer * this.#experts + expert];
    const picked = cell & 0x7f;
    const lately = picked === 0 ? "" : picked > 120 ? ", just picked" : ", picked lately";
    this.tip.textContent = `layer ${layer}, expert ${expert}: ${cell & RESIDENT ? "resident" : "on disk"}${lately}`;
    const { ratio, width, cellWidth, cellHeight } = this.#geometry();
    const [column, row] = this.#isAcross ? [layer, expert] : [expert, layer];
    const left = (column * cellWidth) / ratio;
    this.tip.style.left = `${Math.max(0, Math.min(left, width / ratio - this.tip.offsetWidth))}px`;
    this.tip.style.top = `${((row + 1) * cellHeight) / ratio + 6}px`;
  }
}

/** A colour for each byte, from those of the legend. */
function palette() {
  const of = (name) => getComputedStyle(document.querySelector(`.swatch-${name}`)).backgroundColor.match(/[\d.]+/g).slice(0, 3).map(Number);
  const [absent, resident, picked] = ["absent", "resident", "picked"].map(of);
  return Array.from({ length: 256 }, (_, byte) => {
    const base = byte & RESIDENT ? resident : absent;
    const lately = ((byte & 0x7f) / 127) ** 12; // bright for some ten tokens; else a small model glows all over
    const mixed = base.map((channel, i) => Math.round(channel + (picked[i] - channel) * lately));
    return `rgb(${mixed.join(" ")})`;
  });
}
