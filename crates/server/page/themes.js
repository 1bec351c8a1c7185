// As the system, light or dark.

import { find, icon } from "./dom.js";

const ORDER = ["auto", "light", "dark"];

export const nextTheme = (theme) => ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];

export function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const button = find("toggle-theme");
  button.replaceChildren(icon(theme));
  button.setAttribute("aria-label", `Theme: ${theme === "auto" ? "as the system" : theme}`);
  document.dispatchEvent(new Event("themechange"));
}
