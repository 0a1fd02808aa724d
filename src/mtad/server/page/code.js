// Code with its syntax coloured. Its spans are made here: no library writes HTML into the page.

import { el } from "./dom.js";
import hljs from "./vendor/highlight.min.js";

const LONGEST = 20_000; // a longer code stays plain: colours are found anew with every token of it
const KEPT = 64;

/** What highlight.js makes of a code, as nodes instead of HTML. */
class Nodes {
  constructor() {
    this.root = el("span");
    this.open = [this.root];
  }

  addText(text) {
    if (text) this.open.at(-1).append(text);
  }

  openNode(scope) {
    const span = el("span", { class: `code-${scope.split(".")[0].replaceAll("_", "-")}` });
    this.open.at(-1).append(span);
    this.open.push(span);
  }

  closeNode() {
    if (this.open.length > 1) this.open.pop();
  }

  startScope(scope) {
    this.openNode(scope);
  }

  endScope() {
    this.closeNode();
  }

  __addSublanguage(emitter) {
    this.open.at(-1).append(...emitter.root.childNodes);
  }

  finalize() {}

  toHTML() {
    return "";
  }
}

hljs.configure({ __emitter: Nodes });
const known = new Map();

/** The element of a code; one of a language that is not known stays plain. */
export function codeElement(code, language) {
  if (!hljs.getLanguage(language) || code.length > LONGEST) return el("code", { text: code });
  const name = `${language} ${code}`;
  const root = known.get(name) ?? coloured(code, language);
  known.delete(name); // the last that was asked for stands at the end
  known.set(name, root);
  if (known.size > KEPT) known.delete(known.keys().next().value);
  return el("code", {}, ...root.cloneNode(true).childNodes);
}

function coloured(code, language) {
  const { root } = hljs.highlight(code, { language, ignoreIllegals: true })._emitter;
  return root.textContent === code ? root : el("span", { text: code }); // where its grammar fails
}
