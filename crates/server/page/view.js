// The conversation on the page: one node a message, brought up to date at most once a frame.

import { find, h } from "./dom.js";
import { AssistantView } from "./assistant.js";
import { UserView } from "./user.js";

const NEAR = 80; // pixels from the end within which the page follows the answer

export class ConversationView {
  #views = new Map();
  #dirty = new Set();
  #frame = 0;

  constructor(conversation, act) {
    this.conversation = conversation;
    this.act = act;
    this.turns = find("turns");
    this.scroller = find("chat");
    this.announcer = new Announcer(find("said"));
  }

  /** Notes that a message (or, with null, the list) has changed. */
  changed(message) {
    this.#dirty.add(message);
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  userView(message) {
    return this.#views.get(message);
  }

  #draw() {
    this.#frame = 0;
    const isFollowing = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < NEAR;
    const { messages } = this.conversation;
    if (this.#dirty.has(null)) this.#list(messages);
    for (const message of this.#dirty) this.#views.get(message)?.update();
    this.#dirty.clear();
    const last = messages.at(-1);
    if (last?.role === "assistant") this.announcer.say(last);
    if (isFollowing) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #list(messages) {
    const known = new Set(messages);
    for (const [message, view] of this.#views) {
      if (!known.has(message)) {
        view.node.remove();
        this.#views.delete(message);
      }
    }
    for (const message of messages) {
      let view = this.#views.get(message);
      if (!view) {
        view = message.role === "user" ? new UserView(message, this.act) : new AssistantView(message, this.act);
        this.#views.set(message, view);
        this.turns.append(view.node);
      }
      view.update();
    }
    find("empty").hidden = messages.length > 0;
    this.turns.hidden = messages.length === 0;
  }
}

/** Tells screen readers the answer, sentence by sentence as it comes. */
class Announcer {
  #message = null;
  #told = 0; // characters of its text
  #isOver = true;

  constructor(log) {
    this.log = log;
  }

  say(message) {
    const isRunning = message.state === "running";
    if (message !== this.#message) {
      this.#message = message;
      this.#told = 0;
      this.#isOver = !isRunning; // kept from an earlier visit: it was told then
      this.log.replaceChildren();
      if (isRunning) this.#tell("The model is answering.");
    }
    if (this.#isOver) return;
    const fresh = message.content.slice(this.#told);
    const end = isRunning ? Math.max(fresh.lastIndexOf(". "), fresh.lastIndexOf("\n")) + 1 : fresh.length;
    this.#told += end;
    this.#tell(fresh.slice(0, end).trim());
    if (!isRunning) this.#end(message);
  }

  #end(message) {
    this.#isOver = true;
    if (message.state === "stopped") this.#tell("Stopped.");
    for (const call of message.calls) {
      if (call.result === null && message.state === "done") this.#tell(`The model calls ${call.name} and waits for your answer.`);
    }
  }

  #tell(text) {
    if (text) this.log.append(h("p", {}, text));
  }
}
