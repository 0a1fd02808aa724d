// The text of a lane: one span per token, with its origin, and keys to walk over it.

import { el } from "./dom.js";
import { visible } from "./format.js";
import { ORIGINS, rejectedBranches } from "./record.js";
import { Follower } from "./scroll.js";
import { hideTip, showTip } from "./tip.js";

const HELP = "Arrow keys left and right move over tokens, up and down over iterations.";
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/** A lane's text. `onChoose` gets the iteration that a person chose. */
export class TokenText {
  constructor(letter, onChoose) {
    this.onChoose = onChoose;
    this.node = el("div", {
      class: "text",
      role: "group",
      "aria-label": `Text of ${letter}. ${HELP}`,
      onclick: (event) => this.#choose(event),
      onfocusin: (event) => this.#point(event.target),
      onfocusout: hideTip,
      onmouseover: (event) => this.#point(event.target),
      onmouseleave: hideTip,
      onkeydown: (event) => this.#walk(event),
    });
    this.follower = new Follower(this.node);
    this.clear();
  }

  /** Back to nothing. */
  clear() {
    this.records = [];
    this.texts = [];
    this.spans = [];
    this.chosen = null;
    this.stop = null;
    this.follower.restart();
    this.node.replaceChildren();
  }

  /** Add what an iteration committed and made of the text; nothing that is there is drawn again. */
  append(record, text) {
    const index = this.records.push(record) - 1;
    this.texts.push(text);
    const spans = record.tokens.map((token, place) => {
      const span = tokenSpan(token, index, place);
      return isControl(record, place, text) ? asControl(span, token.text) : span;
    });
    this.spans.push(spans);
    this.node.append(...this.spans[index]);
    this.spans[index].at(-1)?.classList.add("last");
    if (!this.stop && this.spans[index].length) this.#rest(this.spans[index][0]);
    if (this.node.classList.contains("with-rejected")) this.#insertRejected(index);
  }

  /** Add text of which no more is known. */
  appendPlain(text) {
    this.node.append(text);
  }

  /** Keep the newest text in sight, unless a person has scrolled up. */
  keepUp() {
    this.follower.keepUp();
  }

  /** Show rejected drafts at their places, or take them away. */
  showRejected(shown) {
    this.node.classList.toggle("with-rejected", shown);
    this.node.querySelectorAll("s").forEach((gone) => gone.remove());
    if (shown) this.records.forEach((_, index) => this.#insertRejected(index));
  }

  /** Mark an iteration. */
  mark(index) {
    for (const span of this.spans[this.chosen] ?? []) span.classList.remove("chosen");
    for (const span of this.spans[index] ?? []) span.classList.add("chosen");
    this.chosen = index;
  }

  #insertRejected(index) {
    const spans = this.spans[index];
    for (const [place, texts] of rejectedBranches(this.records[index])) {
      const title = `rejected draft, iteration ${index + 1}`;
      const gone = texts.map((text) =>
        el("s", { class: "rejected", title, text: text.replaceAll("\n", "↵") }),
      );
      if (spans[place]) spans[place].before(...gone);
      else spans.at(-1)?.after(...gone);
    }
  }

  #rest(span) {
    if (this.stop) this.stop.tabIndex = -1;
    this.stop = span;
    span.tabIndex = 0;
  }

  #choose(event) {
    const span = event.target.closest(".token");
    if (!span) return;
    this.#rest(span);
    span.focus({ preventScroll: true });
    this.onChoose(Number(span.dataset.iteration));
  }

  #point(target) {
    const span = target.closest?.(".token");
    if (!span) return hideTip();
    const index = Number(span.dataset.iteration);
    showTip(span, this.records[index], index, Number(span.dataset.place));
    if (document.activeElement === span && this.chosen !== index) this.onChoose(index);
  }

  #walk(event) {
    const step = STEPS[event.key];
    const span = event.target.closest(".token");
    if (!step || !span || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const index = Number(span.dataset.iteration);
    const next = step[0] ? this.spans[index + step[0]]?.[0] : this.#neighbour(index, span, step[1]);
    if (!next) return;
    this.#rest(next);
    next.focus();
  }

  #neighbour(index, span, step) {
    const beside = this.spans[index][Number(span.dataset.place) + step];
    return beside ?? (step > 0 ? this.spans[index + 1]?.[0] : this.spans[index - 1]?.at(-1));
  }
}

/** Whether a token is a sign for the model, such as the end of a text, and no part of the text. */
function isControl(record, place, text) {
  const token = record.tokens[place];
  if (token.text === "" || text.includes(token.text)) return false;
  const isEnd = record.finish_reason === "stop" && place === record.tokens.length - 1;
  return isEnd || /^<(?!0x)[^\s<>]+>$/.test(token.text);
}

/** The span with its token as a mark beside the text: it is neither read nor copied as text. */
function asControl(span, text) {
  span.classList.add("control");
  span.textContent = "";
  span.dataset.mark = text.replace(/^<[|｜/]?(.*?)[|｜]?>$/, "$1");
  span.setAttribute("aria-label", `${span.dataset.mark}: a sign, not text`);
  return span;
}

function tokenSpan(token, iteration, place) {
  const kind = token.origin in ORIGINS ? token.origin : "endpoint";
  const span = el("span", { class: `token ${kind}`, tabindex: "-1" });
  Object.assign(span.dataset, { iteration, place });
  if (token.text === "") span.classList.add("empty");
  if (token.text.includes("\n")) span.classList.add("line-end");
  if (token.text.trim() === "") span.setAttribute("aria-label", visible(token.text));
  span.textContent = token.text;
  return span;
}
