// Calls of tools: put together from a stream, shown, and answered.

import { codeElement } from "./code.js";
import { el } from "./dom.js";
import { indented } from "./indent.js";

/** Add what a part of a stream has of calls. */
export function addCalls(calls, parts) {
  for (const { index = calls.length, id, function: said = {} } of parts) {
    calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } };
    const call = calls[index];
    call.id ||= id ?? "";
    call.function.name += said.name ?? "";
    call.function.arguments += said.arguments ?? "";
  }
}

/** Calls as cards. */
export const showCalls = (box, calls) => box.replaceChildren(...calls.filter(Boolean).map(card));

function card({ function: { name, arguments: given } }) {
  const head = el("p", { class: "code-head" }, el("span", {}, "Calls ", el("b", { text: name })));
  const body = el("pre", { tabindex: "0" }, codeElement(indented(given), "json"));
  return el("div", { class: "code call" }, head, body);
}

/** A form for the results of calls; `send` gets the messages that tell them to the model. */
export function resultForm(calls, send) {
  const rows = calls.map((call) => [call, el("textarea", { rows: "1", spellcheck: "false" })]);
  const fields = rows.map(([call, input]) =>
    el("label", { class: "field" }, `Result of ${call.function.name}`, input),
  );
  const button = el("button", { type: "submit", class: "quiet", text: "Send results" });
  const onsubmit = (event) => {
    event.preventDefault();
    send(rows.map(([{ id }, { value }]) => ({ role: "tool", tool_call_id: id, content: value })));
  };
  const onkeydown = (event) => {
    const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing;
    if (!sends || event.target === button) return;
    event.preventDefault();
    event.stopPropagation(); // Ctrl Enter would send the field for messages
    form.requestSubmit();
  };
  const form = el("form", { class: "call-results", onsubmit, onkeydown }, ...fields, button);
  return form;
}
