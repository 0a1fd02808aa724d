// Markdown as elements: what chat models write, not all of CommonMark. HTML in it stays text,
// links lead to http and https alone, and pictures become links: the page loads nothing.

import { codeElement } from "./code.js";
import { copyButton } from "./copy.js";
import { el } from "./dom.js";
import { indented } from "./indent.js";

const DEEPEST = 8; // lists and quotes below this are shown as plain text
const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(\s+|$)(.*)$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const WEB = /^https?:[/]{2}/i;
const INLINE = new RegExp(
  [
    "(?<escape>\\\\[\\\\`*_{}\\[\\]()#+.!|>~-])",
    "(?<!`)(?<ticks>`{1,8})(?!`)(?<code>.{1,2000}?)(?<!`)\\k<ticks>(?!`)",
    "!?\\[(?<label>[^\\[\\]\\n]{0,500})\\]" +
      "\\((?<href>(?:[^\\s()<>]|\\([^\\s()<>]*\\)){1,2000})(?:\\s+\"[^\"\\n]*\")?\\)",
    "\\*{3}(?=\\S)(?<both>[^*\\n]{0,999}?[^\\s*])\\*{3}",
    "\\*\\*(?=\\S)(?<bold>[^\\n]{0,999}?[^\\s*])\\*\\*(?!\\*)",
    "(?<!\\w)(?<under>__?)(?=[^\\s_])(?<scored>[^\\n]{0,999}?[^\\s_])\\k<under>(?!\\w)",
    "~~(?=\\S)(?<gone>[^\\n]{0,999}?\\S)~~",
    "\\*(?=[^\\s*])(?<italic>(?:\\*\\*|[^*\\n]){0,999}?[^\\s*])\\*(?!\\*)",
    "(?<url>https?:\\/\\/[^\\s<>\"'`]{1,2000}[^\\s<>\"'`.,:;!?)\\]*_])",
    "(?<line>\\n)",
  ].join("|"),
  "g",
);

/** The Markdown of an answer; one that a schema shaped is code. */
export const asMarkdown = ({ content, isJson }) =>
  isJson && content ? `\`\`\`json\n${indented(content)}\n\`\`\`` : content;

/** Show a Markdown text in a box; blocks that have not changed stay as they are. */
export function showMarkdown(box, text) {
  const fresh = blocks(text.replaceAll("\r\n", "\n").split("\n"), 0);
  let same = 0;
  while (same < fresh.length && box.childNodes[same]?.isEqualNode(fresh[same])) same += 1;
  while (box.childNodes.length > same) box.lastChild.remove();
  box.append(...fresh.slice(same));
}

function blocks(lines, depth) {
  const made = [];
  for (let i = 0; i < lines.length; ) {
    const [block, next] = blockAt(lines, i, depth);
    if (block) made.push(block);
    i = next;
  }
  return made;
}

/** The block that begins at a line, null for a blank one, and the line after it. */
function blockAt(lines, i, depth) {
  const line = lines[i];
  if (!line.trim()) return [null, i + 1];
  if (FENCE.test(line)) return fenced(lines, i);
  const heading = HEADING.exec(line);
  if (heading) return [el(`h${Math.min(6, heading[1].length + 2)}`, {}, ...inline(heading[2])), i + 1];
  if (RULE.test(line)) return [el("hr"), i + 1];
  if (QUOTE.test(line) && depth < DEEPEST) return quote(lines, i, depth);
  if (ITEM.test(line) && depth < DEEPEST) return list(lines, i, depth);
  if (line.includes("|") && TABLE_RULE.test(lines[i + 1] ?? "")) return table(lines, i);
  return paragraph(lines, i);
}

function fenced(lines, i) {
  const [, indent, fence, language] = FENCE.exec(lines[i]);
  const isEnd = (line) => line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "");
  const after = lines.slice(i + 1);
  const length = after.findIndex(isEnd);
  const body = length < 0 ? after : after.slice(0, length); // a stream has not closed it yet
  const code = body.map((line) => line.replace(new RegExp(`^ {0,${indent.length}}`), "")).join("\n");
  const head = el("div", { class: "code-head" }, el("span", { text: language || "text" }));
  head.append(copyButton(() => code, "Copy code"));
  const shown = el("pre", { tabindex: "0" }, codeElement(code, language));
  return [el("div", { class: "code" }, head, shown), i + 1 + body.length + (length < 0 ? 0 : 1)];
}

function quote(lines, i, depth) {
  const end = endOf(lines, i, (line) => QUOTE.test(line));
  const inner = lines.slice(i, end).map((line) => line.replace(QUOTE, ""));
  return [el("blockquote", {}, ...blocks(inner, depth + 1)), end];
}

function list(lines, i, depth) {
  const [, indent, mark] = ITEM.exec(lines[i]);
  const isOrdered = /\d/.test(mark);
  const items = [];
  let at = i;
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    const isNext = item && item[1].length <= indent.length + 1 && /\d/.test(item[2]) === isOrdered;
    if (!isNext || RULE.test(lines[at])) break;
    const [margin, content] = [item[1].length, item[1].length + item[2].length + 1];
    const end = endOf(lines, at + 1, (line) => !line.trim() || line.search(/\S/) >= margin + 2);
    const body = lines.slice(at + 1, end).map((l) => l.slice(Math.min(l.search(/\S|$/), content)));
    items.push(el("li", {}, ...tight(blocks([item[4], ...body], depth + 1))));
    at = end;
  }
  const start = isOrdered && Number.parseInt(mark, 10) !== 1 ? Number.parseInt(mark, 10) : null;
  return [el(isOrdered ? "ol" : "ul", { start }, ...items), at];
}

/** The blocks of a list item, its first paragraph without a frame of its own. */
const tight = ([first, ...rest]) =>
  first?.localName === "p" ? [...first.childNodes, ...rest] : [first, ...rest];

function table(lines, i) {
  const end = endOf(lines, i + 2, (line) => line.includes("|"));
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/);
  const cell = (text, name) => el(name, {}, ...inline(text.trim()));
  const row = (line, name) => el("tr", {}, ...cells(line).map((text) => cell(text, name)));
  const body = lines.slice(i + 2, end).map((line) => row(line, "td"));
  const whole = el("table", {}, el("thead", {}, row(lines[i], "th")), el("tbody", {}, ...body));
  return [el("div", { class: "wide-table", tabindex: "0" }, whole), end];
}

function paragraph(lines, i) {
  const starts = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((form) => form.test(line));
  const end = endOf(lines, i + 1, (line) => line.trim() && !starts(line));
  return [el("p", {}, ...inline(lines.slice(i, end).join("\n"))), end];
}

function endOf(lines, from, belongs) {
  let end = from;
  while (end < lines.length && belongs(lines[end])) end += 1;
  return end;
}

function inline(text) {
  const made = [];
  let last = 0;
  for (const match of text.matchAll(INLINE)) {
    made.push(text.slice(last, match.index), marked(match));
    last = match.index + match[0].length;
  }
  return [...made, text.slice(last)].filter((part) => part !== "");
}

function marked({ 0: whole, groups: g }) {
  if (g.escape) return g.escape[1];
  if (g.code !== undefined) return el("code", { text: g.code.replace(/^ (.*) $/, "$1") });
  if (g.href !== undefined) return link(g.href, g.label) ?? whole;
  if (g.url) return link(g.url, g.url);
  if (g.line) return el("br");
  if (g.gone) return el("del", {}, ...inline(g.gone));
  if (g.both) return el("strong", {}, el("em", {}, ...inline(g.both)));
  const isBold = g.bold || g.under === "__";
  return el(isBold ? "strong" : "em", {}, ...inline(g.bold ?? g.italic ?? g.scored));
}

/** A link; null where it leads to anything but the web. */
function link(href, label) {
  if (!WEB.test(href) || !URL.canParse(href)) return null;
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow", text: label || href });
}
