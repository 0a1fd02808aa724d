// The form of one method: its name and its options, as `GET /v1/methods` lists them.

import { el } from "./dom.js";

/** One of the two methods of the form. */
export class MethodForm {
  constructor(letter, registry, start) {
    this.letter = letter;
    this.registry = registry;
    this.start = start;
    this.inputs = new Map();
    this.select = el("select", { id: `method-${letter}`, onchange: () => this.#showOptions() });
    this.select.append(...registry.map((m) => el("option", { value: m.name, text: m.name })));
    this.select.value = registry.some((m) => m.name === start.name) ? start.name : registry[0].name;
    this.about = el("p", { class: "hint" });
    this.options = el("div", { class: "options" });
    const label = el("label", { for: this.select.id, text: "Method" });
    const letterMark = el("span", { class: "letter", text: letter, "aria-hidden": "true" });
    const head = el("div", { class: "field" }, el("div", { class: "labelled" }, letterMark, label));
    head.append(this.select, this.about);
    const box = el("details", {}, el("summary", { text: "Options" }), this.options);
    this.box = box;
    this.node = el("section", { class: "method", "aria-label": `Method ${letter}` }, head, box);
    this.#showOptions();
  }

  /** The registry's entry. */
  get entry() {
    return this.registry.find((m) => m.name === this.select.value);
  }

  /** What the request says: the name, and the options that were changed. */
  get value() {
    const read = this.entry.options.map((o) => [o.name, valueOf(o, this.inputs.get(o.name))]);
    const changed = read.filter(([, value]) => value !== undefined);
    return { name: this.entry.name, ...Object.fromEntries(changed) };
  }

  #showOptions() {
    const { options, lossless, rule } = this.entry;
    const said = lossless ? "Lossless" : "Lossy";
    this.about.textContent = rule ? `${said}. ${firstSentence(rule)}` : `${said}.`;
    const given = this.entry.name === this.start.name ? this.start.options : {};
    this.inputs = new Map(options.map((o) => [o.name, this.#input(o, given[o.name] ?? o.default)]));
    this.options.replaceChildren(...options.map((o) => this.#field(o)));
    this.box.hidden = options.length === 0;
  }

  #input(option, value) {
    return inputFor(option, `${this.letter}-${option.name}`, plain(value));
  }

  #field(option) {
    const input = this.inputs.get(option.name);
    const label = el("label", { for: input.id, text: option.name.replaceAll("_", " ") });
    return el("div", { class: "field" }, label, input);
  }
}

const NO_LIMIT = "inf"; // as the server writes infinity; a field for numbers cannot show it

const firstSentence = (text) => text.split(/(?<=\.)\s/)[0];

function inputFor(option, id, value) {
  if (option.type === "boolean") {
    return el("input", { id, type: "checkbox", checked: value === "true" });
  }
  if (option.choices) {
    const choices = option.choices.map((c) => el("option", { value: c, text: c }));
    const select = el("select", { id }, ...choices);
    select.value = value;
    return select;
  }
  const unset = option.nullable ? "none" : option.default === NO_LIMIT ? "no limit" : null;
  const optional = { required: unset === null, placeholder: unset };
  if (option.type === "integer" || option.type === "number") {
    const step = option.type === "integer" ? "1" : "any";
    return el("input", { id, type: "number", step, value, ...optional });
  }
  return el("input", { id, type: "text", value, spellcheck: "false", ...optional });
}

const plain = (value) => {
  if (value === null || value === undefined || value === NO_LIMIT) return "";
  return Array.isArray(value) ? value.join(",") : String(value);
};

/** The option's value, undefined where it is the default. */
function valueOf(option, input) {
  if (option.type === "boolean") {
    return input.checked === option.default ? undefined : input.checked;
  }
  const text = input.value.trim();
  if (text === plain(option.default)) return undefined;
  if (text === "") return option.nullable ? null : NO_LIMIT;
  if (option.type === "integer" || option.type === "number") return Number(text);
  return option.type === "list" ? text.split(",").map((part) => numberOr(part.trim())) : text;
}

const numberOr = (text) => (text !== "" && Number.isFinite(Number(text)) ? Number(text) : text);
