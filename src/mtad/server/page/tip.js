// The card beside a token: both probabilities, the joint ratio, and where the token stands.

import { byId, el } from "./dom.js";
import { chance, ratio, visible } from "./format.js";
import { ORIGINS } from "./record.js";

let owner = null;

/** Show what the record says of a token, beside its element. */
export function showTip(span, record, iteration, place) {
  const token = record.tokens[place];
  const node = record.nodes.find((n) => n.index === token.node);
  const rows = [
    ["target", chance(node?.target_logprob ?? token.target_logprob)],
    ["draft", token.origin === "draft" ? chance(node?.draft_logprob) : "–"],
    ["joint ratio", ratio(node?.joint_log_ratio)],
    ["position", String(record.position + place + 1)],
    ["iteration", String(iteration + 1)],
  ];
  const tip = byId("tip");
  const head = el("p", { class: "tip-token", text: visible(token.text) });
  const origin = ORIGINS[token.origin] ?? token.origin;
  const kind = el("p", { class: `tip-origin ${token.origin}`, text: origin });
  const pairs = rows.map(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })]);
  const list = el("dl", {}, ...pairs.flat());
  tip.replaceChildren(head, kind, list);
  tip.hidden = false;
  owner?.removeAttribute("aria-describedby");
  owner = span;
  span.setAttribute("aria-describedby", "tip");
  beside(tip, span.getClientRects()[0] ?? span.getBoundingClientRect());
}

/** Take the card away. */
export function hideTip() {
  byId("tip").hidden = true;
  owner?.removeAttribute("aria-describedby");
  owner = null;
}

function beside(tip, place) {
  const { width, height } = tip.getBoundingClientRect();
  const gap = 8;
  const above = place.top - gap - height > 0; // the tree stands below the text
  const left = Math.min(place.left, document.documentElement.clientWidth - width - gap);
  tip.style.left = `${Math.max(gap, left) + scrollX}px`;
  tip.style.top = `${(above ? place.top - gap - height : place.bottom + gap) + scrollY}px`;
}
