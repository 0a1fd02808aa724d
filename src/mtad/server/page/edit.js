// A message that is being rewritten, in its place.

import { el, quiet } from "./dom.js";

/** A field with a message's text; `save(text)` and `cancel()` end it. */
export function editor(text, label, save, cancel) {
  const input = el("textarea", { class: "edit", rows: "2", "aria-label": "Edit the message" });
  input.value = text;
  const done = () => input.value.trim() && save(input.value);
  input.addEventListener("keydown", (event) => {
    const isSend = event.key === "Enter" && !event.shiftKey && !event.isComposing;
    if (!isSend && event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation(); // neither sends the field below nor stops what runs
    if (isSend) done();
    else cancel();
  });
  const buttons = el("div", { class: "tools" }, quiet(label, done), quiet("Cancel", cancel));
  return el("div", { class: "editor" }, input, buttons);
}
