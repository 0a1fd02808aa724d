// The fields of a JSON schema and of tools, for servers that know them.

import { byId, el, quiet } from "./dom.js";

const SCHEMA = {
  type: "object",
  properties: { city: { type: "string" }, population: { type: "integer" } },
  required: ["city", "population"],
  additionalProperties: false,
};
const TOOLS = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather in a city.",
      parameters: {
        type: "object",
        properties: { city: { type: "string" } },
        required: ["city"],
        additionalProperties: false,
      },
    },
  },
];

const CHOICES = { auto: "as the model decides", required: "one at least", none: "none" };

/** The fields; those that the server does not know are not there. */
export class StructureForm {
  constructor() {
    this.schema = new JsonField("schema", "JSON schema of the answer", SCHEMA, isObject);
    this.tools = new JsonField("tools", "Tools, a JSON list", TOOLS, Array.isArray);
    this.choice = new ChoiceField();
    byId("structure").append(this.schema.node, this.tools.node, this.choice.node);
    this.offer({ schema: false, tools: false, choice: false });
  }

  /** Show what the server knows. */
  offer({ schema, tools, choice }) {
    this.schema.offer(schema);
    this.tools.offer(tools);
    this.choice.node.hidden = !tools || !choice;
    byId("structure-box").hidden = !schema && !tools;
  }

  /** What a chat's request says of them. */
  get value() {
    const [schema, tools] = [this.schema.value, this.tools.value];
    const named = { name: "answer", schema, strict: true };
    return {
      ...(schema && { response_format: { type: "json_schema", json_schema: named } }),
      ...(tools && { tools, ...this.choice.value }),
    };
  }
}

/** Whether tools must be called; nothing is said of it where the model decides. */
class ChoiceField {
  constructor() {
    const option = ([value, text]) => el("option", { value, text });
    this.input = el("select", { id: "tool-choice" }, ...Object.entries(CHOICES).map(option));
    const label = el("label", { for: "tool-choice", text: "Calls of tools" });
    this.node = el("div", { class: "field wide" }, label, this.input);
  }

  get value() {
    const { value } = this.input;
    return this.node.hidden || value === "auto" ? {} : { tool_choice: value };
  }
}

/** A field for JSON; the browser says what is wrong with it when it is to be sent. */
class JsonField {
  constructor(id, label, example, isRight) {
    this.isRight = isRight;
    const look = { rows: "4", spellcheck: "false", placeholder: "none" };
    this.input = el("textarea", { id, ...look, oninput: () => this.#check() });
    const fill = quiet("Example", () => this.#fill(example));
    fill.setAttribute("aria-label", `Example: ${label}`);
    const head = el("div", { class: "labelled" }, el("label", { for: id, text: label }), fill);
    this.node = el("div", { class: "field wide" }, head, this.input);
  }

  offer(isKnown) {
    this.node.hidden = !isKnown;
    this.input.disabled = !isKnown;
  }

  /** What it says, null for nothing. */
  get value() {
    return this.input.disabled || !this.input.value.trim() ? null : JSON.parse(this.input.value);
  }

  #fill(example) {
    this.input.value = JSON.stringify(example, null, 2);
    this.#check();
  }

  #check() {
    this.input.setCustomValidity(this.#trouble());
  }

  #trouble() {
    try {
      const value = this.value;
      const isList = this.isRight === Array.isArray;
      if (value === null || this.isRight(value)) return "";
      return `This must be a JSON ${isList ? "list" : "object"}.`;
    } catch (error) {
      return `This is not JSON: ${error.message}`;
    }
  }
}

const isObject = (value) => typeof value === "object" && !Array.isArray(value);
