// Markdown to DOM nodes, written for text that nobody vouches for: every character ends in a text node, links are
// http, https or mailto, pictures become links, HTML is shown as it stands. Blocks here, what is inside a line in inline.js.

import { copyButton, h } from "./dom.js";
import { highlight } from "./highlight.js";
import { inline } from "./inline.js";

const DEEPEST = 8; // lists and quotes within each other; deeper ones are text

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const ITEM = /^ {0,3}([-*+]|\d{1,9}[.)])(?:[ \t]+|$)/;
const QUOTE = /^ {0,3}>/;
const DELIMITER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;
const startsBlock = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || QUOTE.test(line);

/** Shows markdown in `container`. Blocks whose text has not changed since the last call keep their nodes. */
export function renderMarkdown(container, text) {
  const blocks = parse(text.replace(/\r\n?/g, "\n").replaceAll("\t", "    ").split("\n"), 0);
  const shown = container.shownBlocks ?? [];
  let same = 0;
  while (same < blocks.length && same < shown.length && blocks[same].raw === shown[same].raw) same += 1;
  for (const old of shown.slice(same)) old.node.remove();
  container.shownBlocks = shown.slice(0, same);
  for (const block of blocks.slice(same)) {
    const node = block.build();
    container.append(node);
    container.shownBlocks.push({ raw: block.raw, node });
  }
}

/** Blocks of lines: `{raw, build}`, where `build` makes the node. */
function parse(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const { end, build } = blockAt(lines, at, depth);
    blocks.push({ raw: lines.slice(at, end).join("\n"), build });
    at = end;
  }
  return blocks;
}

const nodes = (lines, depth) => parse(lines, depth + 1).map((block) => block.build());

function blockAt(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    // The page has h1 and h2 of its own.
    return { end: at + 1, build: () => h(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(heading[2] ?? "")) };
  }
  if (RULE.test(line)) return { end: at + 1, build: () => h("hr") };
  if (depth < DEEPEST && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, at, depth);
  if (line.includes("|") && at + 1 < lines.length && DELIMITER.test(lines[at + 1])) {
    const table = tableAt(lines, at);
    if (table) return table;
  }
  return paragraph(lines, at);
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && !startsBlock(lines[end])) end += 1;
  const text = lines.slice(at, end).map((line) => line.trim()).join("\n");
  return { end, build: () => h("p", {}, inline(text)) };
}

/** A fenced block; one that is still being written goes to the end. */
function code(lines, at, [, mark, language]) {
  const closes = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}[ \\t]*$`);
  const indent = indentOf(lines[at]);
  let end = at + 1;
  while (end < lines.length && !closes.test(lines[end])) end += 1;
  const body = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent, indentOf(line))));
  const text = body.join("\n");
  const build = () => h("figure", { class: "code-block" },
    h("figcaption", {}, h("span", {}, language || "text"), copyButton(() => text)),
    h("pre", { tabindex: "0" }, h("code", {}, highlight(text, language))));
  return { end: Math.min(end + 1, lines.length), build };
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && !isBlank(lines[end]) && (QUOTE.test(lines[end]) || !startsBlock(lines[end]))) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(/^ {0,3}> ?/, ""));
  return { end, build: () => h("blockquote", {}, nodes(inner, depth)) };
}

function list(lines, at, depth) {
  const isOrdered = (mark) => /\d/.test(mark);
  const first = ITEM.exec(lines[at])[1];
  const items = [];
  let isLoose = false;
  let end = at;
  while (end < lines.length) {
    const match = ITEM.exec(lines[end]);
    if (!match || RULE.test(lines[end]) || isOrdered(match[1]) !== isOrdered(first)) break;
    const item = itemAt(lines, end, match);
    end = item.end;
    isLoose ||= item.lines.some((line, i) => isBlank(line) && i > 0);
    items.push(item.lines);
    let next = end;
    while (next < lines.length && isBlank(lines[next])) next += 1;
    if (next > end && next < lines.length && ITEM.test(lines[next])) {
      isLoose = true;
      end = next;
    }
  }
  const build = () => {
    const tag = isOrdered(first) ? "ol" : "ul";
    const start = isOrdered(first) && parseInt(first, 10) !== 1 ? String(parseInt(first, 10)) : null;
    return h(tag, { start, class: isLoose ? "loose" : null }, items.map((item) => listItem(item, depth)));
  };
  return { end, build };
}

/** The lines of one item, without its marker and indentation. */
function itemAt(lines, at, match) {
  const indent = match[0].length || 2;
  const body = [lines[at].slice(match[0].length)];
  let end = at + 1;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    const lead = indentOf(line);
    if (isBlank(line)) body.push("");
    else if (lead >= Math.min(indent, 2)) body.push(line.slice(Math.min(lead, indent)));
    else if (body.at(-1) === "" || startsBlock(line)) break;
    else body.push(line);
  }
  while (body.length > 1 && body.at(-1) === "") {
    body.pop();
    end -= 1;
  }
  return { lines: body, end };
}

function listItem(lines, depth) {
  const task = /^\[([ xX])\] +/.exec(lines[0]);
  if (!task) return h("li", {}, unwrapped(nodes(lines, depth)));
  const isDone = task[1] !== " ";
  const box = h("span", { class: "task", role: "img", "aria-label": isDone ? "done" : "to do" }, isDone ? "\u2611" : "\u2610");
  return h("li", { class: "has-task" }, box, unwrapped(nodes([lines[0].slice(task[0].length), ...lines.slice(1)], depth)));
}

/** A lone first paragraph needs no element of its own in an item. */
const unwrapped = ([first, ...rest]) => (first?.tagName === "P" ? [...first.childNodes, ...rest] : [first, ...rest]);

function tableAt(lines, at) {
  const head = cells(lines[at]);
  const sides = cells(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : null));
  if (head.length !== sides.length) return null;
  let end = at + 2;
  while (end < lines.length && !isBlank(lines[end]) && lines[end].includes("|")) end += 1;
  const row = (line, tag) => {
    const values = cells(line);
    return h("tr", {}, head.map((_, i) => h(tag, { class: sides[i], scope: tag === "th" ? "col" : null }, inline(values[i] ?? ""))));
  };
  const build = () => h("div", { class: "table-frame", tabindex: "0" }, h("table", {},
    h("thead", {}, row(lines[at], "th")),
    h("tbody", {}, lines.slice(at + 2, end).map((line) => row(line, "td")))));
  return { end, build };
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(^|[^\\])\|$/, "$1");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}
