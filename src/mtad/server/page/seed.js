// The seed: a new one for every run, unless a person keeps it.

import { byId } from "./dom.js";

/** The field and its lock. */
export class SeedField {
  constructor() {
    [this.input, this.lock] = [byId("seed"), byId("keep-seed")];
    this.input.addEventListener("input", () => {
      this.lock.checked = this.input.value !== ""; // who writes a seed wants this one
      this.#require();
    });
    this.lock.addEventListener("change", () => this.#require());
  }

  /** The seed of the next run; the field shows it. */
  next() {
    if (!this.lock.checked) this.input.value = String(randomSeed());
    return this.input.valueAsNumber;
  }

  #require() {
    this.input.required = this.lock.checked;
  }
}

const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
