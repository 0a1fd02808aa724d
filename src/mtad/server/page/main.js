// The page: the form, the lanes, and what happens when somebody runs them.

import { getJson } from "./api.js";
import { Conversation } from "./conversation.js";
import { byId, el } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { seconds } from "./format.js";
import { Inspector } from "./inspector.js";
import { Lane } from "./lane.js";
import { MethodForm } from "./methods.js";
import { SamplingForm } from "./sampling.js";
import { addThemeButton } from "./theme-button.js";

const LETTERS = ["A", "B"];
const RIVALS = ["speculative_sampling", "mtad"];

const form = byId("request");
const inspector = new Inspector();
const conversation = new Conversation();
const hooks = {
  onChoose: (lane, index) => inspector.choose(lane, index),
  onRecord: (lane) => inspector.follow(lane),
};
const lanes = LETTERS.map((letter) => new Lane(letter, hooks));
let methodForms = [];
let sampling = null;
let model = null;
let stopper = null;

const isChat = () => form.elements.mode.value === "chat";
const active = () => lanes.slice(0, Number(form.elements.lanes.value));
const key = () => byId("key").value.trim();

async function load() {
  try {
    const models = await getJson("v1/models", key());
    const registry = await getJson("v1/methods", key());
    model = models.data[0].id;
    byId("model").textContent = model;
    const own = registry.default ?? { name: "mtad", options: {} };
    const rival = { name: RIVALS.find((name) => name !== own.name), options: {} };
    methodForms = [own, rival].map((start, i) => new MethodForm(LETTERS[i], registry.data, start));
    sampling = new SamplingForm(registry.sampling);
    notice("");
  } catch (error) {
    notice(error.message);
    if (error.status === 401) askForKey();
  }
  showLanes();
}

function showLanes() {
  const count = active().length;
  byId("lanes").replaceChildren(...active().map((lane) => lane.node));
  byId("lanes").classList.toggle("two", count === 2);
  byId("methods").replaceChildren(...methodForms.slice(0, count).map((one) => one.node));
  byId("methods").classList.toggle("two", count === 2);
}

function showMode() {
  byId("history-box").hidden = !isChat();
  byId("prompt-label").textContent = isChat() ? "Message" : "Prompt";
  byId("prompt").rows = isChat() ? 3 : 8;
  conversation.draw();
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = text === "";
}

function askForKey() {
  byId("key-box").open = true;
  byId("key").focus();
}

function requestOf(index) {
  const text = byId("prompt").value;
  const asked = isChat() ? { messages: conversation.asking(text) } : { prompt: text };
  return {
    model,
    ...asked,
    ...sampling.value,
    seed: byId("seed").valueAsNumber,
    method: methodForms[index].value,
    stream: true,
    stream_options: { include_usage: true },
    trace: true,
  };
}

async function run() {
  if (stopper) return;
  if (!methodForms.length) await load();
  if (!methodForms.length || !ready()) return;
  begin();
  const [chat, question, racing] = [isChat(), byId("prompt").value, active()];
  const path = chat ? "v1/chat/completions" : "v1/completions";
  let best = null;
  const runs = racing.map(async (lane, i) => {
    const began = performance.now();
    const whole = await lane.run(path, requestOf(i), methodForms[i].entry, key(), stopper.signal);
    if (!whole) return false;
    const took = (performance.now() - began) / 1000;
    best ??= took;
    if (racing.length > 1) place(lane, took, best);
    return true;
  });
  const whole = await Promise.all(runs);
  end(racing, whole);
  if (chat) settle(racing, whole, question);
}

/** Whether the form can be sent; the browser says what is wrong where it cannot. */
function ready() {
  for (const bad of form.querySelectorAll(":invalid")) {
    const box = bad.closest("details");
    if (box) box.open = true;
  }
  if (!form.reportValidity()) return false;
  if (!isChat() || byId("prompt").value.trim()) return true;
  notice("Write a message first.");
  byId("prompt").focus();
  return false;
}

function begin() {
  notice("");
  stopper = new AbortController();
  inspector.clear();
  for (const lane of lanes) lane.clear();
  // aria-disabled keeps the focus where it is
  byId("run").setAttribute("aria-disabled", "true");
  byId("stop").disabled = false;
  byId("status").textContent = "Running.";
  if (matchMedia("(max-width: 820px)").matches) byId("results").scrollIntoView();
}

function end(racing, whole) {
  stopper = null;
  byId("run").removeAttribute("aria-disabled");
  if (document.activeElement === byId("stop")) byId("run").focus();
  byId("stop").disabled = true;
  const results = racing.map((lane, i) =>
    whole[i]
      ? `${lane.letter} is done: ${lane.tally.tokens} tokens, ${lane.speed.textContent} a second.`
      : `${lane.letter} did not finish.`,
  );
  byId("status").textContent = results.join(" ");
}

function place(lane, took, best) {
  const isFirst = took === best;
  lane.mark.textContent = isFirst ? `first · ${seconds(took)}` : `+${seconds(took - best)}`;
  lane.mark.classList.toggle("won", isFirst);
}

/** In a chat: keep what was said, or give the message back where no answer came. */
function settle(racing, whole, question) {
  const done = racing.filter((_, i) => whole[i]);
  if (!done.length) return;
  conversation.keep(question, done[0].answer);
  byId("prompt").value = "";
  for (const lane of done.length > 1 ? done : []) {
    const onclick = () => conversation.replaceAnswer(lane.answer);
    const text = "Go on with this answer";
    lane.foot.append(" ", el("button", { type: "button", class: "quiet", text, onclick }));
  }
}

function addExamples() {
  const buttons = EXAMPLES.map((example) => {
    const use = () => {
      form.elements.mode.value = example.chat ? "chat" : "prompt";
      showMode();
      byId("prompt").value = example.text;
      byId("prompt").focus();
    };
    return el("button", { type: "button", class: "quiet", text: example.name, onclick: use });
  });
  byId("examples").replaceChildren(...buttons);
  byId("prompt").value = EXAMPLES[0].text;
}

function listen() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  form.elements.mode.forEach((radio) => radio.addEventListener("change", showMode));
  form.elements.lanes.forEach((radio) => radio.addEventListener("change", () => {
    stopper?.abort();
    inspector.clear();
    showLanes();
  }));
  byId("stop").addEventListener("click", () => stopper?.abort());
  byId("new-chat").addEventListener("click", () => {
    stopper?.abort();
    conversation.clear();
    byId("prompt").focus();
  });
  byId("new-seed").addEventListener("click", () => {
    byId("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0] >>> 1);
  });
  byId("rejected").addEventListener("change", (event) => {
    for (const lane of lanes) lane.text.showRejected(event.target.checked);
  });
  byId("key").addEventListener("change", () => {
    remember(key());
    load();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") escape();
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    run();
  });
}

/** The key of this tab; nothing where storage is switched off. */
function remembered() {
  try {
    return sessionStorage.getItem("mtad-key") ?? "";
  } catch {
    return "";
  }
}

function remember(value) {
  try {
    sessionStorage.setItem("mtad-key", value);
  } catch {
    // the field keeps it as long as the page is there
  }
}

function escape() {
  const box = byId("key-box");
  if (!box.open) return stopper?.abort();
  box.open = false;
  box.querySelector("summary").focus();
}

byId("key").value = remembered();
addThemeButton(byId("theme"));
addExamples();
listen();
showMode();
await load();
document.documentElement.dataset.ready = "";
