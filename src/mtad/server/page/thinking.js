// What a model thought before it answered: open while it comes, folded once the answer does.

import { el } from "./dom.js";
import { seconds } from "./format.js";
import { showMarkdown } from "./markdown.js";

/** A box for one answer's thinking; a person who opens or closes it has the last word. */
export class Thinking {
  constructor() {
    this.label = el("summary", { onclick: () => (this.isTouched = true) });
    this.text = el("div", { class: "thoughts" });
    this.node = el("details", { class: "thinking" }, this.label, this.text);
    this.clear();
  }

  /** Back to nothing. */
  clear() {
    this.isTouched = false;
    this.show("", null, false);
  }

  /** Show what is there: its text, the seconds it took (null while it comes), and whether an
   * answer follows, which folds it. */
  show(text, took, isAnswered) {
    this.node.hidden = text === "";
    this.label.textContent = took === null ? "Thinking…" : `Thought for ${seconds(took)}`;
    if (!this.isTouched) this.node.open = !isAnswered;
    showMarkdown(this.text, text);
  }
}
