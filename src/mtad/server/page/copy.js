// Buttons that copy a text.

import { el } from "./dom.js";

const SHOWN_MS = 1500;

/** A button that copies what `textOf` returns, and says whether it could. */
export function copyButton(textOf, label = "Copy") {
  const button = el("button", { type: "button", class: "quiet copy", text: label });
  button.addEventListener("click", async () => {
    button.textContent = (await copied(textOf())) ? "Copied" : "Cannot copy";
    setTimeout(() => (button.textContent = label), SHOWN_MS);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedBySelection(text); // pages from http://, but localhost, have no clipboard
  }
}

function copiedBySelection(text) {
  const [area, before] = [el("textarea", { class: "unseen" }), document.activeElement];
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus();
  return done;
}
