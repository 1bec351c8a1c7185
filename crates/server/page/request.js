// The conversation and the settings as a request of the chat completions API.

import { offered } from "./tools.js";

const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];

/** What the model reads as the result of a call that nobody answered. */
export const NOT_ANSWERED = '{"error": "not answered"}';

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
    const calls = message.calls.filter(isWhole);
    if (!message.content && !calls.length) continue; // failed or stopped before the first word
    const said = { role: "assistant", content: message.content };
    if (message.reasoning) said.reasoning_content = message.reasoning;
    if (calls.length) {
      said.tool_calls = calls.map((c) => ({ id: c.id, type: "function", function: { name: c.name, arguments: c.arguments } }));
    }
    out.push(said);
    for (const c of calls) out.push({ role: "tool", tool_call_id: c.id, content: c.result ?? NOT_ANSWERED });
  }
  return out;
}

/** A call that was cut off in the middle is not sent again. */
function isWhole(call) {
  try {
    JSON.parse(call.arguments);
    return call.name !== "";
  } catch {
    return false;
  }
}
