// Tools that run in this page, without a network and without a trace, and those that a person answers.

import { evaluate } from "./arithmetic.js";
import { toast } from "./dom.js";

const tool = (name, description, properties) => ({
  type: "function",
  function: { name, description, parameters: { type: "object", properties, required: Object.keys(properties) } },
});

export const BUILTIN = [
  {
    definition: tool("calculator", "Evaluate an arithmetic expression", { expression: { type: "string", description: "Arithmetic expression" } }),
    run: ({ expression }) => ({ result: evaluate(String(expression)) }),
  },
  {
    definition: tool("set_timer", "Start a timer", { minutes: { type: "number", description: "Length in minutes" } }),
    run: ({ minutes }) => startTimer(Number(minutes)),
  },
  {
    definition: tool("random_number", "Random integer up to a limit", { limit: { type: "integer", description: "Largest number" } }),
    run: ({ limit }) => pickNumber(Number(limit)),
  },
];

/** For a person to answer; one of the examples uses it. */
export const WEATHER = tool("get_weather", "Get the weather of a place", { city: { type: "string", description: "City name" } });

const LONGEST_TIMER = 24 * 60; // minutes

function startTimer(minutes) {
  if (!(minutes > 0 && minutes <= LONGEST_TIMER)) throw new Error(`minutes must be above 0 and at most ${LONGEST_TIMER}`);
  setTimeout(() => toast(`Your timer of ${minutes} minutes is up.`), minutes * 60_000);
  return { status: "started" };
}

function pickNumber(limit) {
  if (!(Number.isSafeInteger(limit) && limit >= 1)) throw new Error("limit must be a whole number of at least 1");
  return { number: 1 + Math.floor(Math.random() * limit) };
}

/** The custom definitions of the settings; throws an error that says what is wrong with them. */
export function parseCustom(text) {
  if (!text.trim()) return [];
  let list;
  try {
    list = JSON.parse(text);
  } catch (error) {
    throw new Error(`not JSON: ${error.message}`);
  }
  if (!Array.isArray(list)) list = [list];
  return list.map((entry, i) => {
    const definition = entry?.function ? { type: "function", ...entry } : { type: "function", function: entry };
    if (typeof definition.function?.name !== "string") throw new Error(`tool ${i + 1} has no "name"`);
    return definition;
  });
}

/** All definitions that the settings turn on. */
export function offered(settings) {
  const builtin = BUILTIN.filter((t) => settings.builtin.includes(t.definition.function.name)).map((t) => t.definition);
  const names = new Set(builtin.map((t) => t.function.name));
  return builtin.concat(parseCustom(settings.custom).filter((t) => !names.has(t.function.name)));
}

/** The result of a call as text, or null where a person has to answer it. */
export function runBuiltin(call, settings) {
  const found = BUILTIN.find((t) => t.definition.function.name === call.name);
  if (!found || !settings.builtin.includes(call.name)) return null;
  try {
    return JSON.stringify(found.run(JSON.parse(call.arguments || "{}") ?? {}));
  } catch (error) {
    return JSON.stringify({ error: error.message });
  }
}
