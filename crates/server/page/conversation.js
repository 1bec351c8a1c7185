// The conversation: what is said, what is asked of the server, and the rounds of calls and results between two messages of a person.

import { complete } from "./api.js";
import { NOT_ANSWERED, requestOf } from "./request.js";
import { runBuiltin } from "./tools.js";

const MOST_ROUNDS = 16; // of calls that this page answers by itself, before a person is asked whether to go on

export class Conversation {
  #controller = null;

  /** `change(message)` is called when a message has changed, `change(null)` when the list has. `context()` gives `{model, key}`. */
  constructor(messages, settings, context, change) {
    this.messages = messages;
    this.settings = settings;
    this.context = context;
    this.change = change;
  }

  get isRunning() {
    return this.#controller !== null;
  }

  async send(text) {
    const last = this.messages.at(-1);
    for (const call of last?.calls ?? []) {
      if (call.result === null) Object.assign(call, { result: NOT_ANSWERED, by: "nobody" });
    }
    this.messages.push({ role: "user", content: text });
    await this.#run();
  }

  stop() {
    this.#controller?.abort();
  }

  /** Answers again: a round that failed or was stopped on its own, otherwise all since the person's last message. */
  async retry(message) {
    let at = this.messages.indexOf(message);
    if (at < 0) return;
    const isWhole = message.state === "done";
    while (isWhole && at > 0 && this.messages[at - 1].role === "assistant") at -= 1;
    this.#cut(at);
    await this.#run();
  }

  /** Says something else at this place; what followed is dropped. */
  async edit(message, text) {
    const at = this.messages.indexOf(message);
    if (at < 0) return;
    this.#cut(at);
    await this.send(text);
  }

  /** A person's answer to a call; the model goes on when all of them have one. */
  async answerCall(message, call, text) {
    call.result = text;
    call.by = "you";
    this.change(message);
    if (message === this.messages.at(-1) && message.calls.every((c) => c.result !== null)) await this.#run();
  }

  /** Goes on after the last message as it is. */
  async goOn(message) {
    message.state = "done";
    await this.#run();
  }

  /** Empties the conversation and returns what it held. */
  clear() {
    return this.#cut(0);
  }

  restore(messages) {
    this.#cut(0);
    this.messages.push(...messages);
    this.change(null);
  }

  #cut(at) {
    this.stop();
    this.#controller = null;
    const gone = this.messages.splice(at);
    this.change(null);
    return gone;
  }

  async #run() {
    this.stop();
    const controller = new AbortController();
    this.#controller = controller;
    for (let round = 0; ; round += 1) {
      const message = { role: "assistant", content: "", reasoning: "", calls: [], state: "running" };
      let request;
      try {
        request = requestOf(this.context().model, this.messages, this.settings);
      } catch (error) {
        Object.assign(message, { state: "failed", error: { status: 0, message: `the tools of the settings: ${error.message}` } });
      }
      this.messages.push(message);
      this.change(null);
      if (request) await this.#stream(message, request, controller.signal);
      const goesOn = message.state === "done" && message.calls.length > 0 && this.#answerCalls(message);
      if (goesOn && round + 1 === MOST_ROUNDS) message.state = "paused";
      if (!goesOn || message.state === "paused" || this.#controller !== controller) break;
    }
    if (this.#controller === controller) this.#controller = null;
    this.change(null);
  }

  /** Runs what runs in this page; whether every call has its result. */
  #answerCalls(message) {
    for (const call of message.calls) {
      call.result = runBuiltin(call, this.settings);
      call.by = call.result === null ? null : "page";
    }
    return message.calls.every((call) => call.result !== null);
  }

  async #stream(message, request, signal) {
    const times = { began: performance.now(), first: 0, last: 0 };
    try {
      for await (const chunk of complete(request, { key: this.context().key, signal })) {
        take(message, chunk, times);
        this.change(message);
      }
      message.state = message.finish === "length" ? "cut" : "done";
    } catch (error) {
      if (error.name === "AbortError") message.state = "stopped";
      else Object.assign(message, { state: "failed", error: { status: error.status ?? 0, message: error.message, retryAfter: error.retryAfter ?? null } });
    }
    message.stats = statsOf(message, times);
    this.change(message);
  }
}

/** Adds a chunk of the stream to the message. */
function take(message, chunk, times) {
  if (chunk.usage) message.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
  if (content || reasoning || calls) {
    times.last = performance.now();
    times.first ||= times.last;
  }
  if (reasoning) message.reasoning += reasoning;
  if (content || calls) message.thoughtSeconds ??= message.reasoning ? (times.last - times.first) / 1000 : null;
  if (content) message.content += content;
  for (const part of calls ?? []) takeCall(message.calls, part);
  if (choice.finish_reason) message.finish = choice.finish_reason;
}

function takeCall(calls, part) {
  const at = part.index ?? calls.length;
  if (at > calls.length) return; // a call whose beginning never came
  calls[at] ??= { id: "", name: "", arguments: "", result: null, by: null };
  const call = calls[at];
  if (part.id) call.id = part.id;
  call.name += part.function?.name ?? "";
  call.arguments += part.function?.arguments ?? "";
}

/** What the footer of an answer says. */
function statsOf(message, times) {
  const tokens = message.usage?.completion_tokens;
  const seconds = (times.last - times.first) / 1000;
  return {
    tokens,
    perSecond: tokens > 1 && seconds > 0.05 ? (tokens - 1) / seconds : null,
    wait: times.first ? (times.first - times.began) / 1000 : null,
    prompt: message.usage?.prompt_tokens,
    cached: message.usage?.prompt_tokens_details?.cached_tokens,
  };
}
