// A message of the person: its text, and the field in which it is edited.

import { copyButton, h } from "./dom.js";

export class UserView {
  constructor(message, act) {
    this.message = message;
    this.act = act;
    this.node = h("article", { class: "turn user", "aria-label": "You" });
    this.#show();
  }

  update() {}

  #show() {
    const { content } = this.message;
    this.node.replaceChildren(
      h("div", { class: "bubble" }, content),
      h("div", { class: "meta" },
        copyButton(() => content),
        h("button", { type: "button", class: "quiet small edit", onclick: () => this.edit() }, "Edit")));
  }

  edit() {
    const area = h("textarea", { "aria-label": "Edit your message", rows: String(Math.min(12, this.message.content.split("\n").length + 1)) });
    area.value = this.message.content;
    const leave = () => {
      this.#show();
      this.node.querySelector(".edit").focus();
    };
    const send = () => {
      const text = area.value.trim();
      if (text) this.act.edit(this.message, text);
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        leave();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    this.node.replaceChildren(h("div", { class: "editor" }, area, h("div", { class: "row" },
      h("span", { class: "muted small" }, "What follows is answered anew."),
      h("button", { type: "button", class: "quiet small", onclick: leave }, "Cancel"),
      h("button", { type: "button", class: "primary small", onclick: send }, "Send"))));
    area.focus();
  }
}
