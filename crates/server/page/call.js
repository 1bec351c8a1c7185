// A call of a tool: its name and arguments, and its result or the field in which a person gives it.

import { h, icon } from "./dom.js";
import { highlight } from "./highlight.js";

export class CallView {
  #shown = "";
  #field = null;

  constructor(message, call, act) {
    this.message = message;
    this.call = call;
    this.act = act;
    this.title = h("span", { class: "call-name" });
    this.state = h("span", { class: "muted small" });
    this.args = h("pre", { tabindex: "0", "aria-label": "Arguments" });
    this.result = h("div", { class: "call-result" });
    this.node = h("section", { class: "call", "aria-label": "Tool call" },
      h("div", { class: "call-head" }, icon("tool"), this.title, this.state), this.args, this.result);
  }

  update() {
    const { call, message } = this;
    this.title.textContent = call.name;
    const isOver = message.state !== "running";
    const shown = isOver ? pretty(call.arguments) : call.arguments;
    if (shown !== this.#shown) {
      this.args.replaceChildren(...highlight(shown, "json"));
      this.#shown = shown;
    }
    this.state.textContent = stateText(call, message);
    if (call.result !== null) {
      this.result.replaceChildren(h("pre", { tabindex: "0", "aria-label": "Result" }, highlight(pretty(call.result), "json")));
    } else if (message.state === "done" && !this.#field) {
      this.#ask();
    }
  }

  #ask() {
    const { call, message } = this;
    this.#field = h("textarea", {
      rows: "2", spellcheck: "false", class: "code", "aria-label": `What ${call.name} returns`,
      placeholder: call.name === "get_weather" ? '{"temperature": -3, "sky": "clear"}' : "What the tool returns, as JSON or text",
    });
    const answer = () => {
      const text = this.#field.value.trim() || (call.name === "get_weather" ? this.#field.placeholder : "");
      if (text) this.act.answerCall(message, call, text);
      else this.#field.focus();
    };
    this.#field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        answer();
      }
    });
    this.result.replaceChildren(this.#field, h("div", { class: "row" },
      h("button", { type: "button", class: "primary small answer-call", onclick: answer }, "Answer")));
    if (message.calls.find((c) => c.result === null) === call) this.#field.focus({ preventScroll: true });
  }
}

function stateText(call, message) {
  if (message.state === "running") return "being written";
  if (call.by === "page") return "ran in this page";
  if (call.by === "you") return "answered by you";
  if (call.by === "nobody") return "not answered";
  return message.state === "done" ? "waits for your answer" : "not finished";
}

/** JSON with line breaks where it is long; anything else as it is. */
function pretty(text) {
  try {
    const value = JSON.parse(text);
    const line = JSON.stringify(value);
    return line.length <= 72 ? text.trim() : JSON.stringify(value, null, 2);
  } catch {
    return text;
  }
}
