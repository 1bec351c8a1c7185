// The settings dialog: what it shows is what is saved, at every change.

import { find, h } from "./dom.js";
import { loadKey, saveKey, saveSettings } from "./store.js";
import { BUILTIN, offered, parseCustom } from "./tools.js";

export class SettingsDialog {
  /** `changed()` is called after every change. */
  constructor(settings, changed) {
    this.settings = settings;
    this.changed = changed;
    this.dialog = find("settings");
    find("builtin-tools").append(...BUILTIN.map(({ definition }) => toolCheck(definition.function)));
    this.dialog.addEventListener("input", (event) => this.#take(event.target));
    this.#field("key").addEventListener("change", (event) => this.#takeKey(event.target.value.trim()));
    this.dialog.addEventListener("close", () => { find("key-problem").textContent = ""; });
  }

  open() {
    this.#fill();
    this.dialog.showModal();
  }

  /** Opens at the key, with the reason. */
  askKey(reason) {
    if (!this.dialog.open) this.open();
    find("key-problem").textContent = reason;
    this.#field("key").focus();
  }

  /** Turns tools on: names of built-in ones, definitions of others. */
  turnOn(builtin, custom) {
    const { settings } = this;
    settings.builtin = [...new Set([...settings.builtin, ...builtin])];
    if (custom.length) {
      const known = parseCustom(settings.custom);
      const names = new Set(known.map((t) => t.function.name));
      const added = custom.filter((t) => !names.has(t.function.name));
      if (added.length) settings.custom = JSON.stringify([...known, ...added], null, 2);
    }
    this.#save();
  }

  #field(name) {
    return this.dialog.querySelector(`[name="${name}"]`);
  }

  #fill() {
    for (const field of this.dialog.querySelectorAll("[name]")) {
      if (field.name === "key") field.value = loadKey();
      else if (field.name === "builtin") field.checked = this.settings.builtin.includes(field.value);
      else field.value = this.settings[field.name];
      this.#check(field);
    }
  }

  #take(field) {
    this.#check(field);
    if (field.name === "key") return; // a half is no key
    if (field.name === "builtin") {
      this.settings.builtin = [...this.dialog.querySelectorAll('[name="builtin"]:checked')].map((box) => box.value);
    } else if (!field.dataset.min || field.getAttribute("aria-invalid") !== "true") {
      this.settings[field.name] = field.value;
    }
    this.#save();
  }

  /** A key is tried as soon as it is whole. */
  #takeKey(key) {
    const wasAsked = find("key-problem").textContent !== "";
    saveKey(key);
    find("key-problem").textContent = "";
    if (wasAsked && key) this.dialog.close();
    this.changed();
  }

  #save() {
    saveSettings(this.settings);
    this.changed();
  }

  /** Marks a field whose value cannot be sent; a number out of its range is not saved. */
  #check(field) {
    if (field.dataset.min) {
      const text = field.value.trim();
      const value = Number(text);
      const isGood = text === "" || (value >= Number(field.dataset.min) && value <= Number(field.dataset.max) && (!("whole" in field.dataset) || Number.isInteger(value)));
      field.setAttribute("aria-invalid", String(!isGood));
      field.title = isGood ? "" : `from ${field.dataset.min} to ${field.dataset.max}`;
    } else if (field.name === "custom") {
      let problem = "";
      try {
        parseCustom(field.value);
      } catch (error) {
        problem = error.message;
      }
      field.setAttribute("aria-invalid", String(problem !== ""));
      find("custom-problem").textContent = problem;
    }
  }
}

function toolCheck({ name, description }) {
  return h("label", { class: "check" }, h("input", { type: "checkbox", name: "builtin", value: name }), h("code", {}, name), h("span", { class: "muted" }, description));
}

/** What the line under the message field says about tools. */
export function toolsLine(settings) {
  try {
    const names = offered(settings).map((t) => t.function.name);
    return names.length ? `Tools: ${names.join(", ")}` : "";
  } catch {
    return "Tools: the list in the settings is broken";
  }
}
