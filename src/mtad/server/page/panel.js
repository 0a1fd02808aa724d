// What stands beside the texts: chats and settings. They fold away; one at a time, unless the window
// is wide; and on a narrow window they are drawers over the texts.

import { byId } from "./dom.js";

const NARROW = matchMedia("(max-width: 820px)");
const WIDE = matchMedia("(min-width: 1560px)");

/** Both panels; where there is room the settings are open, until a person says otherwise. */
export class Panels {
  constructor() {
    this.chats = new Panel(byId("chats"), byId("open-chats"), () => this.#show(this.chats));
    this.settings = new Panel(byId("request"), byId("open-settings"), () => this.#show(this.settings));
    for (const id of ["close-chats", "close-settings", "shade"]) {
      byId(id).addEventListener("click", () => this.close());
    }
    for (const query of [NARROW, WIDE]) query.addEventListener("change", () => this.#begin());
    this.#begin();
  }

  /** Whether the window is too narrow for two columns. */
  get isNarrow() {
    return NARROW.matches;
  }

  /** Show the settings. */
  showSettings() {
    if (!this.settings.isOpen) this.#show(this.settings);
  }

  /** Close what lies over the texts, and give the focus back; false where nothing does. */
  close() {
    const panel = this.#all.find((one) => one.isOpen);
    if (!panel || !NARROW.matches) return false;
    this.#show(panel);
    return true;
  }

  get #all() {
    return [this.chats, this.settings];
  }

  #begin() {
    this.chats.set(WIDE.matches);
    this.settings.set(!NARROW.matches);
    this.#cover();
  }

  /** Open a panel, or close it; a drawer takes the focus, and what closes gives it back. */
  #show(panel) {
    const isOpen = !panel.isOpen;
    if (isOpen && !WIDE.matches) this.#all.forEach((one) => one.set(false));
    panel.set(isOpen);
    this.#cover();
    if (!isOpen) panel.button.focus();
    else if (NARROW.matches) panel.node.querySelector(".drawer-head button").focus();
  }

  #cover() {
    const isOver = NARROW.matches && this.#all.some((one) => one.isOpen);
    byId("shade").hidden = !isOver;
    for (const under of [byId("results"), byId("top")]) under.inert = isOver;
  }
}

class Panel {
  constructor(node, button, toggle) {
    Object.assign(this, { node, button });
    button.addEventListener("click", toggle);
  }

  get isOpen() {
    return !this.node.hidden;
  }

  set(isOpen) {
    this.node.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
  }
}
