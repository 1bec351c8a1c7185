// Light highlighting: comments, strings, numbers and key words. Spans with a class, nothing else.

import { h } from "./dom.js";

const LONGEST = 60_000; // characters; longer code is shown plain

const words = (text) => new Set(text.split(" "));

const DOUBLE = `"(?:[^"\\\\\\n]|\\\\.)*"?`;
const SINGLE = `'(?:[^'\\\\\\n]|\\\\.)*'?`;
const BACKTICK = "`(?:[^`\\\\]|\\\\[^])*`?";
const SLASHES = "//[^\\n]*|/\\*(?:[^*]|\\*(?!/))*(?:\\*/)?";
const HASH = "#[^\\n]*";
const NUMBER = "\\b(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\w*";

const CURLY = words("abstract as async auto await bool boolean break byte case catch char class const constexpr continue crate default defer delete do double dyn else enum export extends extern false final finally float fn for from func function go if impl implements import in inline int interface let long loop map match mod move mut namespace new nil null operator override package private protected pub public ref return self Self short signed sizeof static string struct super switch template this throw trait true try type typedef typeof undefined union unsafe unsigned use using var virtual void volatile where while yield");
const PYTHON = words("and as assert async await break case class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return self True try while with yield");
const SHELL = words("case cd do done echo elif else esac exit export fi for function if in local return set source then until while");
const SQL = words("add alter and as asc begin between by case create delete desc distinct drop else end exists from full group having in index inner insert into is join key left like limit not null on or order outer primary references right select set table then union unique update values view when where with");
const DATA = words("true false null yes no on off");

/** A language: patterns of comments and strings, key words, and whether these are written in any case. */
const language = (comment, strings, keywords, isCaseless = false) => ({
  pattern: new RegExp(`(?<comment>${comment})|(?<string>${strings.join("|")})|(?<number>${NUMBER})|(?<word>[A-Za-z_$][\\w$]*)`, "g"),
  keywords, isCaseless,
});

const curly = language(SLASHES, [DOUBLE, SINGLE, BACKTICK], CURLY);
// A single quote in Rust may be a lifetime.
const rust = language(SLASHES, [DOUBLE, "'(?:[^'\\\\\\n]|\\\\.[^'\\n]*)'"], CURLY);
const python = language(HASH, ['"""[^]*?(?:"""|$)', "'''[^]*?(?:'''|$)", DOUBLE, SINGLE], PYTHON);
const shell = language("(?<![$\\w{])#[^\\n]*", [DOUBLE, "'[^']*'?"], SHELL);
const data = language("(?<![\\w&])#[^\\n]*", [DOUBLE, SINGLE], DATA);
const sql = language("--[^\\n]*|/\\*(?:[^*]|\\*(?!/))*(?:\\*/)?", [DOUBLE, SINGLE], SQL, true);
const markup = language("<!--(?:[^-]|-(?!->))*(?:-->)?", [DOUBLE, SINGLE], words(""));

const LANGUAGES = {
  c: curly, h: curly, cc: curly, cpp: curly, "c++": curly, cs: curly, csharp: curly, css: curly, go: curly, java: curly,
  javascript: curly, js: curly, jsx: curly, kotlin: curly, mjs: curly, php: curly, swift: curly, ts: curly, tsx: curly, typescript: curly,
  rust, rs: rust, python, py: python, bash: shell, sh: shell, shell, zsh: shell, console: shell,
  json: data, jsonc: data, toml: data, yaml: data, yml: data, ini: data, sql, html: markup, xml: markup, svg: markup,
};

/** The code as text and spans. */
export function highlight(text, name = "") {
  const key = name.toLowerCase();
  const found = Object.hasOwn(LANGUAGES, key) ? LANGUAGES[key] : null;
  if (!found || text.length > LONGEST) return [text];
  const out = [];
  let at = 0;
  for (const match of text.matchAll(found.pattern)) {
    const kind = kindOf(match.groups, found);
    if (!kind) continue;
    if (match.index > at) out.push(text.slice(at, match.index));
    out.push(h("span", { class: `tok-${kind}` }, match[0]));
    at = match.index + match[0].length;
  }
  out.push(text.slice(at));
  return out;
}

function kindOf(groups, { keywords, isCaseless }) {
  if (groups.comment !== undefined) return "comment";
  if (groups.string !== undefined) return "string";
  if (groups.number !== undefined) return "number";
  return keywords.has(isCaseless ? groups.word.toLowerCase() : groups.word) ? "keyword" : null;
}
