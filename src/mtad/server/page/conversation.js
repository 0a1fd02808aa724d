// The conversation in chat mode: what was said, and which answer it goes on with.

import { byId, el } from "./dom.js";

/** Messages so far; the last answer may be replaced by the other lane's. */
export class Conversation {
  constructor() {
    this.messages = [];
  }

  /** The messages of a request that asks this next. */
  asking(text) {
    return [...this.messages, { role: "user", content: text }];
  }

  /** Keep a question with its answer. */
  keep(question, answer) {
    this.messages = [...this.asking(question), { role: "assistant", content: answer }];
    this.draw();
  }

  /** Go on with another answer to the last question. */
  replaceAnswer(answer) {
    this.messages = [...this.messages.slice(0, -1), { role: "assistant", content: answer }];
    this.draw();
  }

  /** Start again. */
  clear() {
    this.messages = [];
    this.draw();
  }

  /** Show it. */
  draw() {
    const names = { user: "You", assistant: "Model" };
    const items = this.messages.map((message) =>
      el(
        "li",
        { class: message.role },
        el("span", { class: "who", text: names[message.role] }),
        el("span", { class: "said", text: message.content || "(nothing)" }),
      ),
    );
    byId("history").replaceChildren(...items);
    byId("new-chat").hidden = items.length === 0;
    byId("history").scrollTop = byId("history").scrollHeight;
  }
}
