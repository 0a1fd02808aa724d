// The token tree of the iteration that was chosen, with steps to the one before and after it.

import { byId, el, oncePerFrame, quiet } from "./dom.js";
import { withScrollCue } from "./scroll.js";
import { drawTree, treeTable } from "./tree.js";

const HELP = "Drawing of the tree. Arrow keys left and right step through iterations.";

/** The panel below the lanes. */
export class Inspector {
  constructor() {
    this.node = byId("inspector");
    this.heading = el("h2");
    this.back = quiet("← Previous", () => this.step(-1));
    this.next = quiet("Next →", () => this.step(1));
    this.canvas = el("div", { class: "canvas", tabindex: "0", role: "group", "aria-label": HELP });
    this.law = el("span");
    this.table = el("div", { class: "canvas", tabindex: "0", role: "group", "aria-label": "Table" });
    this.rows = el("details", { ontoggle: () => this.#fillTable() });
    this.rows.append(el("summary", { text: "As a table" }), ...withScrollCue(this.table, "The table"));
    const steps = el("div", { class: "steps" }, this.back, this.next);
    const bar = el("div", { class: "bar" }, this.heading, steps);
    const tree = withScrollCue(this.canvas, "The tree");
    this.node.replaceChildren(bar, ...tree, readingAid(this.law), this.rows);
    this.node.addEventListener("keydown", (event) => this.#key(event));
    this.redraw = oncePerFrame(() => this.#draw());
    this.clear();
  }

  /** Back to nothing; it follows the first lane until a person chooses. */
  clear() {
    Object.assign(this, { lane: null, index: null, follows: true });
    byId("lanes").after(this.node);
    this.node.hidden = true;
  }

  /** Show an iteration that a person chose, of a lane or of an earlier answer. */
  choose(lane, index) {
    this.follows = false;
    this.#set(lane, index);
  }

  /** A lane has a new record. */
  follow(lane) {
    const first = this.lane === null || this.lane === lane;
    if (this.follows && first) this.#set(lane, lane.records.length - 1);
    else if (this.lane === lane) this.redraw();
  }

  /** To the iteration before or after this one. */
  step(by) {
    const index = this.index + by;
    if (this.lane && index >= 0 && index < this.lane.records.length) this.choose(this.lane, index);
  }

  #set(lane, index) {
    if (this.lane && this.lane !== lane) this.lane.text.mark(null);
    Object.assign(this, { lane, index });
    if (lane.place.nextSibling !== this.node) lane.place.after(this.node);
    if (!this.follows) lane.text.mark(index);
    this.redraw();
  }

  #draw() {
    const record = this.lane?.records[this.index];
    this.node.hidden = !record;
    if (!record) return;
    const count = this.lane.records.length;
    const drafts = `${record.num_accepted} of ${record.num_drafted} drafts accepted`;
    const place = `Iteration ${this.index + 1} of ${count}: ${drafts}`;
    const isOneOfTwo = this.lane.letter && document.querySelector(".lanes.two");
    const letter = isOneOfTwo ? `${this.lane.letter} · ` : "";
    this.heading.textContent = letter + place;
    const isRaw = record.law === "raw";
    this.law.textContent = `${isRaw ? "before" : "after"} temperature and truncation`;
    // stays focusable at the ends: a button that goes dead under the finger loses the focus
    this.back.setAttribute("aria-disabled", String(this.index === 0));
    this.next.setAttribute("aria-disabled", String(this.index === count - 1));
    if (this.drawn !== record) this.canvas.replaceChildren(drawTree(record));
    this.drawn = record;
    this.#fillTable();
  }

  #fillTable() {
    const record = this.lane?.records[this.index];
    if (record && this.rows.open) this.table.replaceChildren(treeTable(record));
  }

  #key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || this.rows.contains(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.step(by);
  }
}

function readingAid(law) {
  const name = (text) => el("span", { class: `of-${text}`, text });
  const marks = ". Bold: accepted. Struck: rejected. Dotted: drafted, not proposed.";
  const both = [name("draft"), " left, ", name("target"), " right, "];
  return el("p", { class: "hint" }, "Probabilities: ", ...both, law, marks);
}
