// The sampling controls, made from the settings that the server describes.

import { byId, el } from "./dom.js";

const FIRST = ["temperature", "top_k", "top_p", "max_tokens"];
const START = { top_k: 10, top_p: 0.9 };

/** The controls of all sampling settings but the seed, which has its own. */
export class SamplingForm {
  constructor(settings) {
    this.settings = settings.filter((one) => one.name !== "seed");
    this.inputs = new Map(this.settings.map((one) => [one.name, inputFor(one)]));
    const isFirst = (one) => FIRST.includes(one.name);
    const first = FIRST.map((name) => this.settings.find((one) => one.name === name));
    const others = this.settings.filter((one) => !isFirst(one));
    byId("sampling").replaceChildren(...first.map((one) => this.#field(one)));
    byId("sampling-more").replaceChildren(...others.map((one) => this.#field(one)));
  }

  /** What the request says: the first settings always, the others where they were changed. */
  get value() {
    const read = this.settings.map((one) => [one, this.inputs.get(one.name).valueAsNumber]);
    const said = read.filter(([one, value]) => FIRST.includes(one.name) || value !== one.default);
    return Object.fromEntries(said.map(([one, value]) => [one.name, value]));
  }

  #field(setting) {
    const text = setting.name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
    const label = el("label", { for: setting.name, title: setting.description, text });
    return el("div", { class: "field" }, label, this.inputs.get(setting.name));
  }
}

function inputFor(setting) {
  const { name: id, minimum, maximum } = setting;
  const step = setting.type === "integer" ? "1" : "any";
  const value = String(START[id] ?? setting.default);
  return el("input", { id, type: "number", min: minimum, max: maximum, step, value, required: true });
}
