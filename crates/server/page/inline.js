// What markdown means inside a line, as DOM nodes: emphasis, code, links, line breaks.
// Each search that fails is remembered, so that a text full of openers without closers costs one pass for each kind of them.

import { h } from "./dom.js";

const DEEPEST = 6; // emphasis and links within each other; deeper ones are text
const LONGEST_LINK = 2000;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const EMPHASIS = { "*": "em", _: "em", "**": "strong", __: "strong", "~~": "del" };

const isSpace = (c) => c === undefined || /\s/.test(c);
const isWord = (c) => c !== undefined && /[\p{L}\p{N}]/u.test(c);

/** The address, if it is absolute and of a kind that is safe to follow; null otherwise. */
export function safeHref(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** The nodes of a text. */
export function inline(text, depth = 0) {
  const out = [];
  const failed = new Set(); // searches that found nothing, by what was searched
  let plain = "";
  let at = 0;
  while (at < text.length) {
    const found = special(text, at, depth, failed);
    if (found) {
      if (plain) out.push(plain);
      plain = "";
      out.push(...found.nodes);
      at = found.end;
    } else if (text[at] === "\\" && PUNCTUATION.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  if (plain) out.push(plain);
  return out;
}

/** What begins at `at`, if that is more than a letter: `{nodes, end}`. */
function special(text, at, depth, failed) {
  switch (text[at]) {
    case "\n": return { nodes: [h("br")], end: at + 1 };
    case "`": return codeSpan(text, at, failed);
    case "*":
    case "_":
    case "~": return depth < DEEPEST ? emphasis(text, at, depth, failed) : null;
    case "!": return text[at + 1] === "[" ? link(text, at + 1, depth, failed, "picture: ") : null;
    case "[": return depth < DEEPEST ? link(text, at, depth, failed, "") : null;
    case "<": return angle(text, at);
    case "h": return isWord(text[at - 1]) ? null : bareLink(text, at);
    default: return null;
  }
}

function runAt(text, at) {
  let end = at;
  while (text[end] === text[at]) end += 1;
  return end - at;
}

function codeSpan(text, at, failed) {
  const n = runAt(text, at);
  const mark = "`".repeat(n);
  if (!failed.has(mark)) {
    for (let end = text.indexOf(mark, at + n); end >= 0; end = text.indexOf(mark, end)) {
      const run = runAt(text, end);
      if (run === n) {
        const inner = text.slice(at + n, end).replaceAll("\n", " ");
        const padded = /^ .*[^ ].* $/.test(inner);
        return { nodes: [h("code", {}, padded ? inner.slice(1, -1) : inner)], end: end + n };
      }
      end += run;
    }
    failed.add(mark);
  }
  return { nodes: [mark], end: at + n };
}

function emphasis(text, at, depth, failed) {
  const char = text[at];
  const run = runAt(text, at);
  const whole = { nodes: [char.repeat(run)], end: at + run };
  if (isSpace(text[at + run]) || (isWord(text[at - 1]) && (char === "_" || run === 1)) || (char === "~" && run !== 2)) return whole;
  for (const n of run >= 3 ? [3, 2, 1] : [run]) {
    const close = closer(text, at + run, char, n, failed);
    if (close < 0) continue;
    const inner = inline(text.slice(at + run, close), depth + 1);
    const node = n === 3 ? h("strong", {}, h("em", {}, inner)) : h(EMPHASIS[char.repeat(n)], {}, inner);
    return { nodes: [char.repeat(run - n), node].filter((piece) => piece !== ""), end: close + n };
  }
  return whole;
}

/** Where a run of exactly `n` that can close stands, outside of code; -1 if nowhere. */
function closer(text, from, char, n, failed) {
  const key = char.repeat(n);
  if (failed.has(key)) return -1;
  let at = from;
  while (at < text.length) {
    const c = text[at];
    if (c === "\\") at += 2;
    else if (c === "`") {
      const ticks = runAt(text, at);
      const end = text.indexOf("`".repeat(ticks), at + ticks);
      at = (end >= 0 && ticks === runAt(text, end) ? end : at) + ticks;
    } else if (c === char) {
      const run = runAt(text, at);
      const canClose = !isSpace(text[at - 1]) && !(char === "_" && isWord(text[at + run]));
      if (run === n && canClose) return at;
      at += run;
    } else at += 1;
  }
  failed.add(key);
  return -1;
}

function link(text, at, depth, failed, before) {
  if (failed.has("](")) return null;
  const last = Math.min(text.length, at + LONGEST_LINK);
  let level = 0;
  let close = at;
  for (; close < last; close += 1) {
    if (text[close] === "\\") close += 1;
    else if (text[close] === "[") level += 1;
    else if (text[close] === "]" && --level === 0) break;
  }
  if (text.indexOf("](", at) < 0) failed.add("](");
  if (text[close + 1] !== "(") return null;
  const target = /\(\s{0,9}<?((?:[^\s()<>]|\([^\s()<>]{0,200}\)){1,2000})>?(?:\s{1,9}["'][^"'\n]{0,200}["'])?\s{0,9}\)/y;
  target.lastIndex = close + 1;
  const match = target.exec(text);
  if (!match) return null;
  const href = safeHref(match[1]);
  const label = inline(text.slice(at + 1, close), DEEPEST); // no links and no emphasis within a label
  return { nodes: href ? [anchor(href, before ? [before, ...label] : label)] : [before, ...label], end: target.lastIndex };
}

const anchor = (href, label) => h("a", { href, target: "_blank", rel: "noopener noreferrer" }, label.length ? label : [href]);

function angle(text, at) {
  const pattern = /<(?:(br) ?\/?|((?:https?:\/\/|mailto:)[^\s<>]{1,2000}))>/iy;
  pattern.lastIndex = at;
  const match = pattern.exec(text);
  if (!match) return null;
  if (match[1]) return { nodes: [h("br")], end: pattern.lastIndex };
  const href = safeHref(match[2]);
  return href && { nodes: [anchor(href, [match[2]])], end: pattern.lastIndex };
}

function bareLink(text, at) {
  const pattern = /https?:\/\/[^\s<>"'`\\]{1,2000}/y;
  pattern.lastIndex = at;
  let url = pattern.exec(text)?.[0];
  if (!url) return null;
  while (/[.,;:!?*_~]$/.test(url) || (url.endsWith(")") && !url.includes("(")) || (url.endsWith("]") && !url.includes("["))) url = url.slice(0, -1);
  const href = safeHref(url);
  return href && { nodes: [anchor(href, [url])], end: at + url.length };
}
