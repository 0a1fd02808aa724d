// The keys of the whole page, and those of the field for messages.

import { byId } from "./dom.js";

/** Listen; `acts` are `send()`, `stop()`, `close()` (false where nothing was open) and `isChat()`. */
export function listenToKeys(acts) {
  byId("prompt").addEventListener("keydown", (event) => {
    const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing;
    if (!acts.isChat() || !sends || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    acts.send();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !acts.close()) acts.stop();
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    acts.send();
  });
}
