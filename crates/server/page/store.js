// What outlives a reload: the conversation and the settings in local storage, the API key for the tab only.

const CHAT = "flashmill.chat";
const SETTINGS = "flashmill.settings";
const KEY = "flashmill.key";

const DEFAULTS = {
  system: "", temperature: "", top_p: "", top_k: "", max_tokens: "", seed: "", thinking: "",
  builtin: [], custom: "", tool_choice: "auto", theme: "auto", live: null,
};

function read(storage, key) {
  try {
    return JSON.parse(storage.getItem(key));
  } catch {
    return null;
  }
}

function write(storage, key, value) {
  try {
    storage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false; // off, or full: the page goes on without
  }
}

/** The settings, each of the type it has by default. */
export function loadSettings() {
  const saved = read(localStorage, SETTINGS) ?? {};
  const settings = { ...DEFAULTS };
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    if (usual === null ? typeof saved[name] === "boolean" : typeof saved[name] === typeof usual) settings[name] = saved[name];
  }
  if (!Array.isArray(settings.builtin)) settings.builtin = [];
  return settings;
}

export const saveSettings = (settings) => write(localStorage, SETTINGS, settings);

/**
 * The messages of the conversation:
 * `{role: "user", content}` and `{role: "assistant", content, reasoning, calls: [{id, name, arguments, result, by}], state, ...}`.
 */
export function loadChat() {
  const saved = read(localStorage, CHAT);
  if (!Array.isArray(saved)) return [];
  const good = saved.filter((m) => m && typeof m.content === "string" && (m.role === "user" || (m.role === "assistant" && Array.isArray(m.calls))));
  for (const message of good) {
    if (message.state === "running") message.state = "stopped"; // the page went while it was being written
  }
  return good;
}

export const saveChat = (messages) => write(localStorage, CHAT, messages);

export const loadKey = () => read(sessionStorage, KEY) ?? "";
export const saveKey = (key) => write(sessionStorage, KEY, key);
