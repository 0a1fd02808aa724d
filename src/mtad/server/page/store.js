// Chats in this browser's storage, each under a key of its own, so that a tab writes only its own.

const PREFIX = "mtad-chat-";
const FORM = 1; // of what is stored; what has another is left alone
const MOST_CHATS = 100;
const MOST_CHARACTERS = 2_000_000; // browsers allow about five million
const ROLES = ["user", "assistant", "tool"];
const KEPT = ["role", "content", "tool_calls", "tool_call_id", "isJson", "reasoning_content", "thinking_s"];

/** The chats; `onChange()` is called when another tab has changed them. */
export class ChatStore {
  constructor(onChange) {
    this.place = storage();
    this.seen = new Map(); // what this tab last read or wrote, by id
    addEventListener("storage", ({ key }) => {
      if (key === null || key.startsWith(PREFIX)) onChange();
    });
  }

  /** All of them, the newest first; what cannot be read is left out. */
  list() {
    const chats = this.#ids().map((id) => parsed(id, this.place.getItem(PREFIX + id)));
    return chats.filter(Boolean).toSorted((a, b) => b.changed - a.changed);
  }

  /** One of them, null where it is gone. */
  read(id) {
    const text = this.place.getItem(PREFIX + id);
    this.seen.set(id, text);
    return parsed(id, text);
  }

  /** Keep a chat: its `id`, `name`, `system` and `messages`. The id that it is under, another one
   * where another tab has changed the chat meanwhile; null where there is no room for it. */
  write(chat) {
    const before = this.place.getItem(PREFIX + chat.id);
    const isOthers = before !== null && before !== this.seen.get(chat.id);
    const id = isOthers ? newId() : chat.id;
    const messages = chat.messages.map(kept);
    const text = JSON.stringify({ form: FORM, changed: Date.now(), ...chat, id, messages });
    if (text.length > MOST_CHARACTERS) return null;
    this.#makeRoom(id, text.length);
    try {
      this.place.setItem(PREFIX + id, text);
    } catch {
      return null; // full: what was there before still is
    }
    this.seen.set(id, text);
    return id;
  }

  /** Forget one. */
  remove(id) {
    this.place.removeItem(PREFIX + id);
  }

  /** Forget all, with those that cannot be read. */
  clear() {
    this.#ids().forEach((id) => this.remove(id));
  }

  #ids() {
    const names = Object.keys(this.place).filter((name) => name.startsWith(PREFIX));
    return names.map((name) => name.slice(PREFIX.length));
  }

  /** Drop the oldest of the others until a chat of so many characters fits the bounds. */
  #makeRoom(id, length) {
    const others = this.list().filter((one) => one.id !== id);
    let [count, size] = [1, length];
    for (const other of others) {
      count += 1;
      size += this.place.getItem(PREFIX + other.id).length;
      if (count > MOST_CHATS || size > MOST_CHARACTERS) this.remove(other.id);
    }
  }
}

/** A name for a chat. */
export function newId() {
  const numbers = crypto.getRandomValues(new Uint32Array(3));
  return [...numbers].map((number) => number.toString(36)).join("");
}

/** The browser's storage; where it is switched off, one that lasts as long as the page. */
function storage() {
  try {
    localStorage.getItem(PREFIX);
    return localStorage;
  } catch {
    return new PageStorage();
  }
}

class PageStorage {
  getItem(name) {
    return this[name] ?? null;
  }
  setItem(name, text) {
    this[name] = text;
  }
  removeItem(name) {
    delete this[name];
  }
}

const kept = (message) => Object.fromEntries(KEPT.map((name) => [name, message[name]]));

/** A stored chat, null where it is none of this form. */
function parsed(id, text) {
  try {
    const chat = JSON.parse(text);
    return chat.form === FORM && isChat(chat) ? { ...chat, id } : null;
  } catch {
    return null;
  }
}

const isText = (value) => typeof value === "string";
const isMaybe = (isRight, value) => value === undefined || isRight(value);

function isChat({ name, system, changed, messages }) {
  const isSound = isText(name) && isText(system) && Number.isFinite(changed);
  return isSound && messages.length > 0 && messages.every(isMessage);
}

function isMessage({ role, content, tool_calls: calls, tool_call_id: id, ...more }) {
  return (
    ROLES.includes(role) &&
    isText(content) &&
    isMaybe((found) => found.every(isCall), calls) &&
    isMaybe(isText, id) &&
    isMaybe(isText, more.reasoning_content) &&
    isMaybe(Number.isFinite, more.thinking_s)
  );
}

const isCall = (call) => [call.id, call.function.name, call.function.arguments].every(isText);
