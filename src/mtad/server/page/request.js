// The form of a request: methods, sampling, the seed, and what an answer must be like.

import { byId } from "./dom.js";
import { MethodForm } from "./methods.js";
import { SamplingForm } from "./sampling.js";
import { SeedField } from "./seed.js";
import { StructureForm } from "./structure.js";

const LETTERS = ["A", "B"];
const RIVALS = ["speculative_sampling", "mtad"];

/** Everything beside the texts; empty until the server has said what it knows. */
export class RequestForm {
  constructor() {
    Object.assign(this, { form: byId("request"), model: null, methods: [], sampling: null });
    this.takesThoughts = false;
    this.seed = new SeedField();
    this.structure = new StructureForm();
  }

  /** Whether the server's methods are known. */
  get isFilled() {
    return this.methods.length > 0;
  }

  /** How many methods a run compares. */
  get count() {
    return Number(this.form.elements.lanes.value);
  }

  /** Make the controls of what the server knows. */
  fill(model, registry, features) {
    this.model = model;
    const own = registry.default ?? { name: "mtad", options: {} };
    const rival = { name: RIVALS.find((name) => name !== own.name), options: {} };
    const starts = [own, rival];
    this.methods = starts.map((start, i) => new MethodForm(LETTERS[i], registry.data, start));
    this.sampling = new SamplingForm(registry.sampling);
    this.structure.offer(features);
    this.takesThoughts = features.thoughts;
  }

  /** Show the controls of as many methods as a run compares. */
  showMethods() {
    byId("methods").replaceChildren(...this.methods.slice(0, this.count).map((one) => one.node));
    byId("methods").classList.toggle("two", this.count === 2);
  }

  /** Whether it can be sent; the browser says what is wrong where it cannot. */
  isRight() {
    for (const bad of this.form.querySelectorAll(":invalid")) {
      for (let box = bad.closest("details"); box; box = box.parentElement.closest("details")) {
        box.open = true;
      }
    }
    return this.form.reportValidity();
  }

  /** The body of a request for the method of a lane; `asked` is its prompt, or its messages. */
  body(index, asked, seed) {
    return {
      model: this.model,
      ...asked,
      ...this.sampling.value,
      ...(asked.messages && this.structure.value),
      seed,
      method: this.methods[index].value,
      stream: true,
      stream_options: { include_usage: true },
      trace: true,
    };
  }
}
