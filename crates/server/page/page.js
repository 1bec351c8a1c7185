// The page of `flashmill serve`. Here its parts meet; each is a module of its own.

import { listModels } from "./api.js";
import { Conversation } from "./conversation.js";
import { find, icon, toast } from "./dom.js";
import { showExamples } from "./examples.js";
import { listenForKeys, showKeys } from "./keys.js";
import { LivePanel } from "./live.js";
import { SettingsDialog, toolsLine } from "./settings.js";
import { loadChat, loadKey, loadSettings, saveChat, saveSettings } from "./store.js";
import { applyTheme, nextTheme } from "./themes.js";
import { ConversationView } from "./view.js";

const WIDE = "(min-width: 68rem)"; // where the live panel stands beside the conversation

const settings = loadSettings();
const field = find("message");
let model = "";
let isFull = false; // of the local storage; said once

const conversation = new Conversation(loadChat(), settings, () => ({ model, key: loadKey() }), changed);
const dialog = new SettingsDialog(settings, settingsChanged);
const live = new LivePanel(loadKey);

const act = {
  send() {
    const text = field.value.trim();
    if (!text || conversation.isRunning) return;
    field.value = "";
    fit();
    conversation.send(text);
    find("chat").scrollTop = find("chat").scrollHeight;
  },
  stop: () => conversation.stop(),
  retry: (message) => conversation.retry(message),
  retryLast() {
    const last = conversation.messages.at(-1);
    if (last?.role === "assistant") conversation.retry(last);
  },
  edit: (message, text) => {
    conversation.edit(message, text);
    field.focus();
  },
  editLast() {
    const last = conversation.messages.findLast((message) => message.role === "user");
    if (last) view.userView(last)?.edit();
  },
  answerCall(message, call, text) {
    conversation.answerCall(message, call, text);
    if (message.calls.every((c) => c.result !== null)) field.focus();
  },
  goOn: (message) => conversation.goOn(message),
  askKey: () => dialog.askKey("The server wants a key (--api-key)."),
  newChat() {
    const gone = conversation.clear();
    if (gone.length) toast("A new chat has begun. ", "Undo", () => conversation.restore(gone));
    field.focus();
  },
  choose(example) {
    dialog.turnOn(example.builtin ?? [], example.custom ?? []);
    conversation.send(example.text);
    field.focus();
  },
  toggleLive() {
    settings.live = !live.isOpen;
    saveSettings(settings);
    live.show(settings.live);
  },
  openSettings: () => dialog.open(),
  toggleTheme() {
    settings.theme = nextTheme(settings.theme);
    saveSettings(settings);
    applyTheme(settings.theme);
  },
  showKeys,
  focusMessage: () => field.focus(),
};

const view = new ConversationView(conversation, act);

function changed(message) {
  view.changed(message);
  const isRunning = conversation.isRunning;
  find("send").textContent = isRunning ? "Stop" : "Send";
  find("send").classList.toggle("stop", isRunning);
  if (message?.state === "running") return;
  if (!saveChat(conversation.messages) && !isFull) {
    isFull = true;
    toast("The browser has no room left; this conversation will not outlive the tab.");
  }
}

let keyInUse = loadKey();

function settingsChanged() {
  find("tools-on").textContent = toolsLine(settings);
  if (loadKey() === keyInUse) return;
  keyInUse = loadKey();
  live.restart();
  findModel();
}

/** The field is as high as its text, up to what the style allows. */
function fit() {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

async function findModel() {
  try {
    const models = await listModels(loadKey());
    model = models[0]?.id ?? "";
    find("model").textContent = model;
    document.title = model ? `${model} \u00b7 flashmill` : "flashmill";
  } catch (error) {
    if (error.status === 401) dialog.askKey(loadKey() ? "The server does not know this key." : "The server wants a key (--api-key).");
    else toast(`${error.message}. `, "Try again", findModel);
  }
  showExamples(model, act.choose);
}

for (const button of document.querySelectorAll("dialog .close, #close-live")) button.append(icon("close"));
for (const box of document.querySelectorAll("dialog")) {
  box.querySelector(".close").addEventListener("click", () => box.close());
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); }); // the backdrop
}
find("send").addEventListener("click", () => (conversation.isRunning ? act.stop() : act.send()));
find("new-chat").addEventListener("click", act.newChat);
find("toggle-live").addEventListener("click", act.toggleLive);
find("close-live").addEventListener("click", act.toggleLive);
find("open-settings").addEventListener("click", act.openSettings);
find("tools-on").addEventListener("click", act.openSettings);
find("toggle-theme").addEventListener("click", act.toggleTheme);
find("open-keys").addEventListener("click", showKeys);
field.addEventListener("input", fit);
window.addEventListener("pagehide", () => saveChat(conversation.messages));
listenForKeys(act, () => conversation.isRunning);

applyTheme(settings.theme);
settingsChanged();
changed(null);
live.show(settings.live ?? matchMedia(WIDE).matches);
findModel();
field.focus();
