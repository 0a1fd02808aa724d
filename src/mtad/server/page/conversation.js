// The conversation in chat mode. The newest answer stands in the lanes, all else in the list.

import { byId } from "./dom.js";
import { Earlier } from "./earlier.js";

/**
 * Messages so far, as the API has them; an answer has its `records` and their `texts` beside.
 * `hooks` are `onChoose(earlier, iteration)`, `onRewrite(message, text)` for questions, `onAgain()`
 * and `onTell(results)` for the last answer, and `onChange(messages)`.
 */
export class Conversation {
  constructor(hooks) {
    this.hooks = { ...hooks, onEdit: (message, text) => this.#edit(message, text) };
    Object.assign(this, { messages: [], isInLanes: false, items: new Map() });
    Object.assign(this, { view: "formatted", withRejected: false });
  }

  /** The messages of a request, with a system prompt where one is given. Thinking is no part of
   * them, but for a server that `takesThoughts`: it gets what led to the calls of this turn. */
  asking(system, takesThoughts) {
    const first = system.trim() ? [{ role: "system", content: system }] : [];
    const turn = takesThoughts ? this.messages.findLastIndex(({ role }) => role === "user") : Infinity;
    return [...first, ...this.messages.map((one, i) => asSent(one, i > turn))];
  }

  /** Add a question. */
  ask(text) {
    this.#set([...this.messages, { role: "user", content: text }], false);
  }

  /** Ask the last question once more: its answer goes. Returns that nothing new was written. */
  askAgain() {
    this.#set(this.messages.slice(0, -1), false);
    return "";
  }

  /** Ask another question in a question's place: what came after it goes. Returns its text. */
  askInstead(message, text) {
    const at = this.messages.indexOf(message);
    const before = at < 0 ? this.messages : this.messages.slice(0, at);
    this.#set([...before, { role: "user", content: text }], false);
    return text;
  }

  /** Tell the results of tools. Returns that nothing new was asked. */
  tell(results) {
    this.#set([...this.messages, ...results], false);
    return "";
  }

  /** Add the answer that the lanes show. */
  answer(message) {
    this.#set([...this.messages, message], true);
  }

  /** Go on with another answer to the last question. */
  replaceAnswer(message) {
    this.#set([...this.messages.slice(0, -1), message], true);
  }

  /** Back to these messages, all of them in the list. */
  restore(messages) {
    this.#set(messages, false);
  }

  /** Rewrite the last answer. */
  editLast() {
    this.restore(this.messages);
    this.items.get(this.messages.at(-1)).edit();
  }

  /** Show answers as tokens, or formatted, with or without what was rejected. */
  show(view, withRejected) {
    Object.assign(this, { view, withRejected });
    for (const item of this.items.values()) item.show(view, withRejected);
  }

  #edit(message, text) {
    if (message.role === "user") return this.hooks.onRewrite(message, text);
    const changed = { role: message.role, content: text };
    const messages = this.messages.map((one) => (one === message ? changed : one));
    return this.#set(messages, this.isInLanes);
  }

  #set(messages, isInLanes) {
    Object.assign(this, { messages, isInLanes });
    const listed = isInLanes ? messages.slice(0, -1) : messages;
    const items = listed.map((one) => [one, this.items.get(one) ?? new Earlier(one, this.hooks)]);
    this.items = new Map(items);
    byId("history").replaceChildren(...items.map(([, item]) => item.node));
    for (const [message, item] of items) item.setLast(message === messages.at(-1));
    this.show(this.view, this.withRejected);
    this.hooks.onChange(messages);
  }
}

/** A message without what is not sent to the server. */
function asSent({ role, content, tool_calls, tool_call_id, reasoning_content }, withThoughts) {
  const more = { tool_calls, tool_call_id, ...(withThoughts && { reasoning_content }) };
  const given = Object.entries(more).filter(([, value]) => value);
  return { role, content, ...Object.fromEntries(given) };
}

/** Messages up to the last answer, and the question after it: what was under way when a page was
 * closed is asked anew. */
export function untilAnswer(messages) {
  const end = messages.findLastIndex(({ role }) => role === "assistant") + 1;
  const question = messages.slice(end).find(({ role }) => role === "user")?.content ?? "";
  return { messages: messages.slice(0, end), question };
}
