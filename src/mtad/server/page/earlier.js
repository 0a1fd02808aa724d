// An earlier message of a chat: read, copied, rewritten, and an answer's tokens looked at.

import { resultForm, showCalls } from "./calls.js";
import { copyButton } from "./copy.js";
import { el, quiet } from "./dom.js";
import { editor } from "./edit.js";
import { asMarkdown, showMarkdown } from "./markdown.js";
import { TokenText } from "./text.js";
import { Thinking } from "./thinking.js";

const WHO = { user: "You: ", assistant: "Model: ", tool: "Result of a tool: " };

/** A message in the list; `hooks` are `onChoose(earlier, iteration)`, `onEdit(message, text)`, and for
 * the last answer `onAgain()` and `onTell(results)`. */
export class Earlier {
  constructor(message, hooks) {
    Object.assign(this, { message, hooks, letter: "", records: message.records ?? [], text: null });
    Object.assign(this, { view: "formatted", withRejected: false, isLast: false });
    this.thinking = message.reasoning_content ? new Thinking() : null;
    this.thinking?.show(message.reasoning_content, message.thinking_s ?? 0, true);
    this.node = el("li", { class: message.role });
    this.read();
  }

  /** Where the tree of an iteration stands: below the tokens. */
  get place() {
    return this.text.node;
  }

  /** Show it to be read. */
  read() {
    const { role, content, tool_calls: calls = [] } = this.message;
    const who = el("span", { class: "unseen", text: WHO[role] });
    const tools = el("div", { class: "tools" }, ...this.#buttons());
    const callBox = el("div", { class: "calls" });
    showCalls(callBox, calls);
    this.said = el(role === "assistant" ? "div" : "span", { class: "said" });
    if (role === "assistant") showMarkdown(this.said, asMarkdown(this.message));
    else this.said.textContent = content;
    this.said.classList.toggle("prose", role === "assistant");
    const texts = [this.thinking?.node, this.said, this.text?.node].filter(Boolean);
    this.node.replaceChildren(who, ...texts, callBox, tools);
    this.show(this.view, this.withRejected);
  }

  /** Offer what can be done with the last message, or no longer. */
  setLast(isLast) {
    if (isLast === this.isLast) return;
    this.isLast = isLast;
    if (!this.node.querySelector(".editor")) this.read();
  }

  #buttons() {
    const { role, content, tool_calls: calls } = this.message;
    const isAnswer = this.isLast && role === "assistant";
    return [
      content ? copyButton(() => content) : null,
      isAnswer ? quiet("Regenerate", this.hooks.onAgain) : null,
      role !== "tool" && !calls ? quiet("Edit", () => this.edit()) : null,
      isAnswer && calls ? resultForm(calls, this.hooks.onTell) : null,
    ].filter(Boolean);
  }

  /** Show it to be rewritten. */
  edit() {
    const label = this.message.role === "user" ? "Send" : "Save";
    const cancel = () => this.read();
    const save = (text) => this.hooks.onEdit(this.message, text);
    this.node.replaceChildren(editor(this.message.content, label, save, cancel));
    this.node.querySelector("textarea").focus();
  }

  /** Show an answer as tokens, or formatted; its tokens are made when they are first asked for. */
  show(view, withRejected) {
    Object.assign(this, { view, withRejected });
    if (this.message.role !== "assistant") return;
    const isTokens = view === "tokens";
    if (isTokens && !this.text) this.#makeTokens();
    this.said.hidden = isTokens;
    if (this.thinking) this.thinking.node.hidden = isTokens;
    if (!this.text) return;
    this.text.node.hidden = !isTokens;
    this.text.showRejected(withRejected);
  }

  #makeTokens() {
    this.text = new TokenText("an earlier answer", (index) => this.hooks.onChoose(this, index));
    this.records.forEach((record, i) => this.text.append(record, this.message.texts[i]));
    if (!this.records.length) this.text.appendPlain(this.message.content);
    this.said.after(this.text.node);
  }
}
