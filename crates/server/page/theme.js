// Runs before the first paint, so that a chosen theme does not flash in the other one's colours.
try {
  const theme = JSON.parse(localStorage.getItem("flashmill.settings") || "{}").theme;
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is off or holds something else: the system's theme it is.
}
