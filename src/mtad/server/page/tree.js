// The token tree of one iteration as a drawing and as a table.
//
// The accepted path runs straight along the first row; what was not accepted hangs below it.

import { el, svg } from "./dom.js";
import { chance, ratio, shorten, visible } from "./format.js";
import { childrenOf, fates, lastAccepted } from "./record.js";

const BOX = { width: 110, height: 42, across: 26, down: 10, margin: 4 };

/** The drawing. */
export function drawTree(record) {
  const places = layout(record);
  const columns = Math.max(...places.map((p) => p.column)) + 1;
  const rows = Math.max(...places.map((p) => p.row)) + 1;
  const width = columns * (BOX.width + BOX.across) - BOX.across + 2 * BOX.margin;
  const height = rows * (BOX.height + BOX.down) - BOX.down + 2 * BOX.margin;
  const box = { viewBox: `0 0 ${width} ${height}`, width, height };
  const drawing = svg("svg", { ...box, class: "tree", role: "img", "aria-label": summary(record) });
  const edges = places.filter((p) => p.parent).sort((a, b) => isOnPath(a) - isOnPath(b));
  drawing.append(...edges.map(edge), ...places.map(nodeBox));
  return drawing;
}

/** In a sentence, for those who do not see the drawing. */
export function summary(record) {
  const path = record.tokens.map((t) => visible(t.text)).join(" ");
  const counts = `${record.num_drafted} tokens drafted, ${record.num_accepted} accepted`;
  return `${counts}; the block is ${path}`;
}

/** The same as a table. */
export function treeTable(record) {
  const names = ["token", "below", "draft", "target", "joint ratio", "what became of it"];
  const head = el("tr", {}, ...names.map((text) => el("th", { scope: "col", text })));
  const texts = new Map([[0, record.root.text], ...record.nodes.map((n) => [n.index, n.text])]);
  const [alive, fateOf] = [record.nodes.filter((n) => n.alive !== false), fates(record)];
  const rows = alive.map((n) => tableRow(n, texts.get(n.parent), fateOf.get(n.index)));
  return el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows));
}

function tableRow(node, above, fate) {
  const cells = [visible(above ?? ""), chance(node.draft_logprob), chance(node.target_logprob)];
  cells.push(ratio(node.joint_log_ratio), fate);
  const name = el("th", { scope: "row", text: visible(node.text) });
  const rest = cells.map((text) => el("td", { text }));
  return el("tr", { class: fate.replace(" ", "-") }, name, ...rest);
}

/** Every box with its column (depth) and row. */
function layout(record) {
  const children = childrenOf(record);
  const [own, fateOf] = [written(record), fates(record)];
  const end = own.length ? (lastAccepted(record)?.index ?? 0) : null;
  const places = [];
  let nextRow = 0;
  const put = (node, kind, column, parent) => {
    const place = { node, kind, column, parent, row: nextRow };
    places.push(place);
    const below = children.get(node.index) ?? [];
    const line = below.filter((n) => n.accepted).map((n) => [n, "accepted"]);
    if (node.index === end) line.push([own[0], own[0].kind]);
    const others = below.filter((n) => !n.accepted);
    line.push(...others.map((n) => [n, fateOf.get(n.index).replace(" ", "-")]));
    line.forEach(([child, name], i) => {
      if (i > 0) nextRow += 1;
      put(child, name, column + 1, place);
    });
    const next = own[own.indexOf(node) + 1];
    if (own.includes(node) && next) put(next, next.kind, column + 1, place);
  };
  put({ ...record.root, index: 0 }, "root", 0, null);
  return places;
}

/** What stands in no tree: the endpoint, or a block that the target wrote alone. */
function written(record) {
  const own = record.tokens.filter((t) => t.node === null || t.node === undefined);
  const kindOf = (token) => (token.origin === "target" ? "target" : "endpoint");
  return own.map((token) => ({ ...token, index: null, kind: kindOf(token) }));
}

const isOnPath = (place) => ["accepted", "endpoint", "target"].includes(place.kind);
const left = (place) => BOX.margin + place.column * (BOX.width + BOX.across);
const top = (place) => BOX.margin + place.row * (BOX.height + BOX.down);

function edge(place) {
  const [x1, y1] = [left(place.parent) + BOX.width, top(place.parent) + BOX.height / 2];
  const [x2, y2] = [left(place), top(place) + BOX.height / 2];
  const bend = (x1 + x2) / 2;
  const d = `M${x1} ${y1}C${bend} ${y1} ${bend} ${y2} ${x2} ${y2}`;
  return svg("path", { class: `edge ${place.kind}`, d });
}

function nodeBox(place) {
  const { node, kind } = place;
  const [x, y] = [left(place), top(place)];
  const box = svg("rect", { x, y, width: BOX.width, height: BOX.height, rx: 6 });
  const text = shorten(visible(node.text), 12);
  const name = svg("text", { class: "name", x: x + 9, y: y + 17, text });
  const title = svg("title", { text: inWords(node, kind) });
  const below = numbers(node, kind, x + 9, y + 33);
  return svg("g", { class: `node ${kind}` }, title, box, name, ...below);
}

function numbers(node, kind, x, y) {
  if (kind === "root") return [svg("text", { class: "small", x, y, text: "last token" })];
  const right = { class: "small of-target", x: x + 49, y };
  const target = svg("text", { ...right, text: chance(node.target_logprob) });
  if (kind === "endpoint" || kind === "target") {
    return [svg("text", { class: "small", x, y, text: "target" }), target];
  }
  const draft = svg("text", { class: "small of-draft", x, y, text: chance(node.draft_logprob) });
  return kind === "not-proposed" ? [draft] : [draft, target];
}

function inWords(node, kind) {
  if (kind === "root") return `${visible(node.text)}: the last token before the block`;
  const target = `target ${chance(node.target_logprob)}`;
  if (kind === "endpoint") return `${visible(node.text)}: endpoint; ${target}`;
  const both = `draft ${chance(node.draft_logprob)}, ${target}`;
  const joint = `joint ratio ${ratio(node.joint_log_ratio)}`;
  return `${visible(node.text)}: ${kind.replace("-", " ")}; ${both}; ${joint}`;
}
