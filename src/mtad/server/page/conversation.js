// The conversation in chat mode. The newest answer stands in the lanes, all else in the list.

import { copyButton } from "./copy.js";
import { byId, el } from "./dom.js";
import { showMarkdown } from "./markdown.js";

/** Messages so far; the last answer may be replaced by the other lane's. */
export class Conversation {
  constructor() {
    this.messages = [];
    this.isInLanes = false;
  }

  /** The messages of a request, with a system prompt where one is given. */
  asking(system) {
    const first = system.trim() ? [{ role: "system", content: system }] : [];
    return [...first, ...this.messages];
  }

  /** Add a question. */
  ask(text) {
    this.#set([...this.messages, { role: "user", content: text }], false);
  }

  /** Ask the last question once more: its answer goes. */
  askAgain() {
    this.#set(this.messages.slice(0, -1), false);
  }

  /** Add the answer that the lanes show. */
  answer(text) {
    this.#set([...this.messages, { role: "assistant", content: text }], true);
  }

  /** Go on with another answer to the last question. */
  replaceAnswer(text) {
    this.#set([...this.messages.slice(0, -1), { role: "assistant", content: text }], true);
  }

  /** Back to these messages, all of them in the list. */
  restore(messages) {
    this.#set(messages, false);
  }

  #set(messages, isInLanes) {
    Object.assign(this, { messages, isInLanes });
    this.draw();
  }

  /** Show it. */
  draw() {
    const listed = this.isInLanes ? this.messages.slice(0, -1) : this.messages;
    byId("history").replaceChildren(...listed.map(item));
  }
}

function item({ role, content }) {
  if (role === "user") {
    const who = el("span", { class: "unseen", text: "You: " });
    return el("li", { class: role }, who, el("span", { class: "said", text: content }));
  }
  const who = el("span", { class: "unseen", text: "Model: " });
  const said = el("div", { class: "said prose" });
  showMarkdown(said, content);
  const tools = el("div", { class: "tools" }, copyButton(() => content));
  return el("li", { class: role }, who, said, tools);
}
