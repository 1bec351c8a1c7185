// The conversation and the settings as a request of the chat completions API.

import { offered } from "./tools.js";

const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];

export function requestOf(model, messages, settings) {
  const request = { model, messages: apiMessages(messages, settings.system) };
  for (const name of NUMBERS) {
    if (settings[name].trim() !== "") request[name] = Number(settings[name]);
  }
  if (settings.thinking) request.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
  const tools = offered(settings);
  if (tools.length) {
    request.tools = tools;
    // Once a call is answered, `required` would ask for another one for ever.
    const isAnswering = messages.at(-1)?.role === "assistant";
    request.tool_choice = settings.tool_choice === "required" && isAnswering ? "auto" : settings.tool_choice;
  }
  return request;
}

function apiMessages(messages, system) {
  const out = system.trim() ? [{ role: "system", content: system }] : [];
  for (const message of messages) {
    if (message.role === "user") {
      out.push({ role: "user", content: message.content });
      continue;
    }
    if (!message.content && !message.calls.length) continue; // failed or stopped before the first word
    const said = { role: "assistant", content: message.content };
    if (message.reasoning) said.reasoning_content = message.reasoning;
    if (message.calls.length) {
      said.tool_calls = message.calls.map((c) => ({ id: c.id, type: "function", function: { name: c.name, arguments: c.arguments } }));
    }
    out.push(said);
    for (const c of message.calls) out.push({ role: "tool", tool_call_id: c.id, content: c.result ?? '{"error": "not answered"}' });
  }
  return out;
}
