// A message of the model: thoughts folded away, the answer, the calls, and how it ended.

import { CallView } from "./call.js";
import { copyButton, h } from "./dom.js";
import { renderMarkdown } from "./markdown.js";

export class AssistantView {
  #thought = null;
  #calls = [];

  constructor(message, act) {
    this.message = message;
    this.act = act;
    this.wait = h("p", { class: "waiting" }, h("span", { class: "dot" }), h("span", { class: "dot" }), h("span", { class: "dot" }), h("span", { class: "hidden" }, "waiting for the first word"));
    this.answer = h("div", { class: "markdown answer" });
    this.calls = h("div", { class: "calls" });
    this.ending = h("div", { class: "ending" });
    this.node = h("article", { class: "turn assistant", "aria-label": "Answer" }, this.wait, this.answer, this.calls, this.ending);
  }

  update() {
    const { message } = this;
    const isRunning = message.state === "running";
    this.node.classList.toggle("running", isRunning);
    this.node.setAttribute("aria-busy", String(isRunning));
    this.wait.hidden = !isRunning || Boolean(message.content || message.reasoning || message.calls.length);
    if (message.reasoning) this.#showThought(isRunning);
    if (message.content !== this.shown) {
      renderMarkdown(this.answer, message.content);
      this.shown = message.content;
    }
    message.calls.forEach((call, i) => {
      if (!this.#calls[i]) {
        this.#calls[i] = new CallView(message, call, this.act);
        this.calls.append(this.#calls[i].node);
      }
      this.#calls[i].update();
    });
    this.ending.replaceChildren(...(isRunning ? [] : this.#ending()));
  }

  #showThought(isRunning) {
    if (!this.#thought) {
      this.#thought = { summary: h("summary"), body: h("div", { class: "markdown" }) };
      this.wait.after(h("details", { class: "thought" }, this.#thought.summary, this.#thought.body));
    }
    const { message } = this;
    const isThinking = isRunning && !message.content && !message.calls.length;
    const seconds = message.thoughtSeconds;
    this.#thought.summary.textContent = isThinking ? "Thinking" : seconds ? `Thought for ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s` : "Thoughts";
    this.#thought.summary.classList.toggle("thinking", isThinking);
    renderMarkdown(this.#thought.body, message.reasoning);
  }

  #ending() {
    const { message, act } = this;
    const retry = h("button", { type: "button", class: "quiet small retry", onclick: () => act.retry(message) }, "Retry");
    const parts = [];
    if (message.state === "failed") parts.push(failure(message.error, act));
    if (message.state === "cut") parts.push(h("p", { class: "notice" }, "Cut off at the most tokens that an answer may have, or where the context ends."));
    if (message.state === "stopped") parts.push(h("p", { class: "notice" }, "Stopped."));
    if (message.state === "paused") {
      parts.push(h("p", { class: "notice" }, "Many rounds of calls without a word. ", h("button", { type: "button", class: "link", onclick: () => act.goOn(message) }, "Go on")));
    }
    parts.push(h("div", { class: "meta" }, message.content && copyButton(() => message.content), retry, h("span", { class: "stats" }, statsText(message.stats))));
    return parts;
  }
}

function failure(error, act) {
  const box = h("div", { class: "failure", role: "alert" }, h("p", {}, error.message));
  if (error.status === 401) {
    box.append(h("p", {}, h("button", { type: "button", class: "primary small", onclick: () => act.askKey() }, "Enter the API key")));
  } else if (error.status === 429 || error.status === 503) {
    box.append(h("p", { class: "muted" }, error.retryAfter ? `Try again in ${error.retryAfter} s.` : "Try again in a moment."));
  } else if (error.status === 0) {
    box.append(h("p", { class: "muted" }, "Is flashmill serve still running? Your conversation is kept here."));
  }
  return box;
}

function statsText(stats) {
  if (!stats?.tokens) return "";
  const parts = [`${stats.tokens} tokens`];
  if (stats.perSecond) parts.push(`${stats.perSecond.toFixed(stats.perSecond < 10 ? 2 : 0)} per second`);
  if (stats.prompt) parts.push(stats.cached ? `prompt ${stats.prompt}, ${stats.cached} cached` : `prompt ${stats.prompt}`);
  return parts.join(" \u00b7 ");
}
