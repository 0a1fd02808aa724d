// The frame around the texts: which mode, which view, and what shows before the first run.

import { byId } from "./dom.js";
import { EXAMPLES } from "./examples.js";

const HINTS = {
  prompt: ["Ctrl", "Enter", " runs, ", "Esc", " stops"],
  chat: ["Enter", " sends, ", "Shift", "Enter", " breaks the line, ", "Esc", " stops"],
};

/** Mode, view and emptiness of the page; `onView(view)` is called when the view changes. */
export class Frame {
  constructor() {
    this.onView = () => {};
    this.mode = "prompt";
    this.views = { prompt: "tokens", chat: "formatted" };
    this.drafts = { prompt: EXAMPLES[0].text, chat: "" };
    byId("prompt").value = this.drafts.prompt;
    for (const radio of document.getElementsByName("view")) {
      radio.addEventListener("change", () => this.#look(radio.value));
    }
  }

  /** Begin with a chat, or with a prompt where the address says so. */
  start() {
    this.enter(location.hash === "#mode=prompt" ? "prompt" : "chat");
  }

  /** Say which model it is. */
  name(model) {
    for (const place of document.querySelectorAll(".model")) place.textContent = model;
  }

  /** Change the mode; each keeps its own unsent text. */
  enter(mode) {
    const prompt = byId("prompt");
    this.drafts[this.mode] = prompt.value;
    this.mode = mode;
    const isChat = mode === "chat";
    document.body.dataset.mode = mode;
    history.replaceState(null, "", isChat ? location.pathname + location.search : "#mode=prompt");
    byId("request").elements.mode.value = mode;
    // the order of the page is the order of the Tab key
    if (isChat) byId("results").append(byId("composer"));
    else byId("results").prepend(byId("composer"));
    byId("structure-box").disabled = !isChat; // what is not sent is not checked
    byId("prompt-label").textContent = isChat ? "Message" : "Prompt";
    byId("run").textContent = isChat ? "Send" : "Run";
    byId("keys").replaceChildren(...HINTS[mode].map(keyOrWords));
    for (const hint of byId("empty").children) hint.hidden = hint.dataset.for !== mode;
    prompt.placeholder = isChat ? "Message the model" : "";
    prompt.rows = isChat ? 2 : 7;
    prompt.value = this.drafts[mode];
    this.#look(this.views[mode]);
  }

  /** Show what there is: a hint where nothing is, else the lanes. */
  fill({ hasLanes, hasMessages }) {
    byId("empty").hidden = hasLanes || hasMessages;
    byId("lanes").hidden = !hasLanes;
    byId("new-chat").hidden = !hasMessages;
    byId("examples").hidden = hasMessages;
  }

  /** A run has begun. */
  begin() {
    byId("run").setAttribute("aria-disabled", "true"); // keeps the focus where it is
    byId("stop").hidden = false;
    byId("status").textContent = "Running.";
  }

  /** It has ended; `report` says how, to those who listen. */
  end(report) {
    byId("run").removeAttribute("aria-disabled");
    if (document.activeElement === byId("stop")) byId("run").focus();
    byId("stop").hidden = true;
    byId("status").textContent = report;
  }

  #look(view) {
    this.views[this.mode] = view;
    for (const radio of document.getElementsByName("view")) radio.checked = radio.value === view;
    document.body.dataset.view = view;
    this.onView(view);
  }
}

function keyOrWords(text) {
  if (text.includes(" ")) return text;
  const key = document.createElement("kbd");
  key.textContent = text;
  return key;
}
