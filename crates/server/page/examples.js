// What the empty page offers: for the demo model what it was trained on, for any other what people ask.

import { find, h } from "./dom.js";
import { WEATHER } from "./tools.js";

const DEMO = [
  { text: "What is 17 * 23?", about: "the calculator runs in this page", builtin: ["calculator"] },
  { text: "What's the weather in Oslo?", about: "you answer for the tool", custom: [WEATHER] },
  { text: "What is 144 / 12 and what is 19 * 21?", about: "two calls at once", builtin: ["calculator"] },
  { text: "What is a mixture of experts?", about: "no tool at all" },
];

const GENERAL = [
  { text: "Explain in a few sentences how a mixture-of-experts model works.", about: "an explanation" },
  { text: "Write a Rust function that returns the longest common prefix of a list of strings, with tests.", about: "code" },
  { text: "Compare bubble sort, merge sort and quicksort in a table.", about: "a table" },
  { text: "What is 1234 * 5678 / 9?", about: "with a calculator that runs in this page", builtin: ["calculator"] },
];

export function showExamples(model, choose) {
  const isDemo = /(^|\/)demo$/.test(model);
  find("empty-lead").textContent = isDemo
    ? "This is the demo model: 22 million parameters, trained to call tools and little else. It can do these:"
    : "Answered by your own machine. A few ways to begin:";
  find("examples").replaceChildren(...(isDemo ? DEMO : GENERAL).map((example) => h("button",
    { type: "button", class: "example", onclick: () => choose(example) },
    h("span", {}, example.text), h("span", { class: "muted small" }, example.about))));
}
