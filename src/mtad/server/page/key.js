// The API key: kept in this tab, until it is closed.

import { byId } from "./dom.js";

const NAME = "mtad-key";

/** The field of the key; `onChange` is called when there is another. */
export class KeyField {
  constructor(onChange) {
    [this.box, this.input] = [byId("key-box"), byId("key")];
    this.input.value = remembered();
    this.input.addEventListener("change", () => {
      remember(this.value);
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

function remembered() {
  try {
    return sessionStorage.getItem(NAME) ?? "";
  } catch {
    return ""; // storage is switched off
  }
}

function remember(value) {
  try {
    sessionStorage.setItem(NAME, value);
  } catch {
    // the field keeps it as long as the page is there
  }
}
