// The list of chats at the side, and which of them is open.

import { byId, el, quiet } from "./dom.js";
import { ChatStore, newId } from "./store.js";
import { remember, remembered } from "./tab.js";

const OPEN = "mtad-open"; // in the tab's own storage: the chat that a reload opens again
const MOST_NAME = 60;
const ASKED_MS = 4000;

/** The list; `hooks` are `onOpen(chat)` and `onNew()`. */
export class Chats {
  constructor(hooks) {
    Object.assign(this, { hooks, id: newId(), name: "", saved: "" });
    this.store = new ChatStore(() => this.draw());
    this.node = byId("chat-list");
    this.node.addEventListener("keydown", (event) => this.#walk(event));
    byId("begin-chat").addEventListener("click", () => hooks.onNew());
    const all = byId("delete-all");
    all.replaceWith(askedTwice("Delete all", "Delete all?", () => this.#forget(), { id: "delete-all" }));
    this.draw();
  }

  /** Open what was open before the page was loaded anew, if it is still there. */
  reopen() {
    const chat = this.store.read(remembered(OPEN));
    if (chat) this.hooks.onOpen(chat);
  }

  /** The chat whose messages are given from now on. */
  take({ id, name, system, messages }) {
    Object.assign(this, { id, name, saved: JSON.stringify([system, messages]) });
    remember(OPEN, id);
    this.draw();
  }

  /** Begin another chat, of which nothing is kept before it has a message. */
  begin() {
    Object.assign(this, { id: newId(), name: "", saved: "" });
    remember(OPEN, "");
    this.#tell(false);
    this.draw();
  }

  /** Keep what the open chat is now. */
  save(system, messages) {
    const now = JSON.stringify([system, messages.map(({ records, texts, ...rest }) => rest)]);
    if (now === this.saved) return;
    this.saved = now;
    if (messages.length) this.#write(system, messages);
    else this.store.remove(this.id);
    this.draw();
  }

  #write(system, messages) {
    const id = this.store.write({ id: this.id, name: this.name, system, messages });
    this.#tell(id === null);
    if (id === null) return;
    this.id = id;
    remember(OPEN, id);
  }

  /** Say whether the open chat could not be kept, on the button too, as the list may be closed. */
  #tell(isTrouble) {
    byId("chat-trouble").hidden = !isTrouble;
    byId("open-chats").classList.toggle("trouble", isTrouble);
    if (isTrouble) byId("open-chats").setAttribute("aria-description", "This chat is not kept.");
    else byId("open-chats").removeAttribute("aria-description");
  }

  /** Show the list as it is stored now. */
  draw() {
    const chats = this.store.list();
    const at = document.activeElement?.closest?.("#chat-list li")?.dataset.id;
    this.node.replaceChildren(...chats.map((chat) => this.#item(chat)));
    byId("delete-all").hidden = !chats.length;
    byId("no-chats").hidden = chats.length > 0;
    if (at) this.node.querySelector(`[data-id="${at}"] .open`)?.focus();
  }

  #item(chat) {
    const [title, isOpen] = [titleOf(chat), chat.id === this.id];
    const open = el("button", { type: "button", class: "open", title, text: title });
    if (isOpen) open.setAttribute("aria-current", "true");
    open.addEventListener("click", () => this.#open(chat.id));
    const rename = quiet("Rename", () => this.#rename(item, chat));
    const gone = askedTwice("Delete", "Delete it?", () => this.#delete(chat.id));
    for (const button of [rename, gone]) button.setAttribute("aria-description", title);
    const acts = el("div", { class: "acts" }, rename, gone);
    const item = el("li", { "data-id": chat.id, class: isOpen ? "current" : null }, open, acts);
    return item;
  }

  #open(id) {
    const chat = this.store.read(id);
    if (chat) this.hooks.onOpen(chat);
    else this.draw();
  }

  #rename(item, chat) {
    const input = el("input", { type: "text", "aria-label": "Name of the chat", maxlength: MOST_NAME });
    input.value = titleOf(chat);
    const done = (name) => {
      if (name !== null) this.#name(chat.id, name.trim());
      this.draw();
      this.node.querySelector(`[data-id="${chat.id}"] .open`)?.focus();
    };
    input.addEventListener("keydown", (event) => {
      if (!["Enter", "Escape"].includes(event.key) || event.isComposing) return;
      event.preventDefault();
      event.stopPropagation();
      done(event.key === "Enter" ? input.value : null);
    });
    item.replaceChildren(input);
    input.select();
  }

  #name(id, name) {
    const chat = this.store.read(id);
    if (!chat) return;
    this.store.write({ ...chat, name, changed: chat.changed });
    if (id === this.id) this.name = name;
  }

  async #delete(id) {
    if (id === this.id) await this.hooks.onNew(); // first: what runs there is kept when it ends
    this.store.remove(id);
    this.draw();
  }

  async #forget() {
    await this.hooks.onNew();
    this.store.clear();
    this.draw();
  }

  /** Up and down in the list, as in one of files. */
  #walk(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const items = [...this.node.children];
    const next = items[items.indexOf(event.target.closest("li")) + by];
    if (!by || event.target.matches("input") || !next) return;
    event.preventDefault();
    next.querySelector(".open").focus();
  }
}

/** A chat's name: the one given to it, else its first words. */
function titleOf({ name, messages }) {
  if (name) return name;
  const words = messages[0].content.trim().replace(/\s+/g, " ");
  if (words.length <= MOST_NAME) return words || "Chat";
  return `${words.slice(0, MOST_NAME).replace(/\s\S*$/, "")} …`;
}

/** A button that asks once more before it acts. */
function askedTwice(label, question, act, attributes = {}) {
  const button = quiet(label, () => {
    if (button.textContent === question) return act();
    button.textContent = question;
    return setTimeout(reset, ASKED_MS);
  });
  const reset = () => (button.textContent = label);
  button.addEventListener("blur", reset);
  for (const [name, value] of Object.entries(attributes)) button.setAttribute(name, value);
  return button;
}
