// The settings beside the texts: they fold away, and on a narrow window they are a drawer over it.

import { byId } from "./dom.js";

const NARROW = matchMedia("(max-width: 820px)");

/** The panel; it is open where there is room, until a person says otherwise. */
export class Panel {
  constructor() {
    [this.node, this.button] = [byId("request"), byId("open-settings")];
    this.button.addEventListener("click", () => this.show(this.node.hidden));
    for (const id of ["close-settings", "shade"]) {
      byId(id).addEventListener("click", () => this.close());
    }
    NARROW.addEventListener("change", () => this.#set(!NARROW.matches));
    this.#set(!NARROW.matches);
  }

  /** Whether the window is too narrow for two columns. */
  get isNarrow() {
    return NARROW.matches;
  }

  /** Open or close it; a drawer takes the focus and gives it back. */
  show(isOpen) {
    if (isOpen !== this.node.hidden) return;
    this.#set(isOpen);
    if (isOpen && NARROW.matches) byId("close-settings").focus();
    else if (!isOpen) this.button.focus();
  }

  /** Close it where it lies over the texts; false where it does not. */
  close() {
    if (this.node.hidden || !NARROW.matches) return false;
    this.show(false);
    return true;
  }

  #set(isOpen) {
    const isOver = isOpen && NARROW.matches;
    this.node.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
    document.body.dataset.settings = isOpen ? "open" : "closed";
    byId("shade").hidden = !isOver;
    for (const under of [byId("results"), byId("top")]) under.inert = isOver;
  }
}
