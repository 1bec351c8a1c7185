// The keyboard. Alt with a letter, because letters alone belong to those who type.

import { find, h } from "./dom.js";

const SHORTCUTS = [
  { code: "KeyN", act: "newChat", says: "New chat" },
  { code: "KeyR", act: "retryLast", says: "Answer again" },
  { code: "KeyE", act: "editLast", says: "Edit your last message" },
  { code: "KeyL", act: "toggleLive", says: "Live panel" },
  { code: "KeyS", act: "openSettings", says: "Settings" },
  { code: "KeyT", act: "toggleTheme", says: "Theme" },
  { code: "KeyM", act: "focusMessage", says: "To the message field" },
  { code: "KeyK", act: "showKeys", says: "This list" },
];

const OTHERS = [
  [["Enter"], "Send"],
  [["Shift", "Enter"], "New line"],
  [["Esc"], "Stop the answer"],
  [["\u2190", "\u2192", "\u2191", "\u2193"], "Move over the map of experts, once it has the focus"],
];

export function showKeys() {
  const rows = [...OTHERS, ...SHORTCUTS.map(({ code, says }) => [["Alt", code.slice(3)], says])];
  find("key-list").replaceChildren(...rows.map(([names, says]) => h("div", {},
    h("dt", {}, names.map((name) => h("kbd", {}, name))), h("dd", {}, says))));
  if (!find("keys").open) find("keys").showModal();
}

export function listenForKeys(act, isRunning) {
  find("message").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    act.send();
  });
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return; // its own keys
    if (event.key === "Escape" && isRunning()) {
      event.preventDefault();
      act.stop();
    } else if (event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      const found = SHORTCUTS.find(({ code }) => code === event.code);
      if (!found) return;
      event.preventDefault();
      act[found.act]();
    }
  });
}
