// The API key: kept in this tab, until it is closed.

import { byId } from "./dom.js";
import { remember, remembered } from "./tab.js";

const NAME = "mtad-key";

/** The field of the key; `onChange` is called when there is another. */
export class KeyField {
  constructor(onChange) {
    [this.box, this.input] = [byId("key-box"), byId("key")];
    this.input.value = remembered(NAME);
    this.input.addEventListener("change", () => {
      remember(NAME, this.value);
      onChange();
    });
  }

  /** The key, empty for none. */
  get value() {
    return this.input.value.trim();
  }

  /** Ask for it. */
  ask() {
    this.box.open = true;
    this.input.focus();
  }

  /** Close the box; false if it was closed. */
  close() {
    if (!this.box.open) return false;
    this.box.open = false;
    this.box.querySelector("summary").focus();
    return true;
  }
}
