// The page: the form, the lanes, and what happens when somebody runs them.

import { getJson } from "./api.js";
import { Conversation } from "./conversation.js";
import { copyButton } from "./copy.js";
import { byId, quiet } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { Frame } from "./frame.js";
import { Inspector } from "./inspector.js";
import { Lane } from "./lane.js";
import { MethodForm } from "./methods.js";
import { SamplingForm } from "./sampling.js";
import { Follower } from "./scroll.js";
import { SeedField } from "./seed.js";
import { KeyField } from "./key.js";
import { addThemeButton } from "./theme-button.js";

const LETTERS = ["A", "B"];
const RIVALS = ["speculative_sampling", "mtad"];

const form = byId("request");
const inspector = new Inspector();
const conversation = new Conversation();
const frame = new Frame();
const isChat = () => frame.mode === "chat"; // the radio is ahead of it while a run ends
const active = () => lanes.slice(0, Number(form.elements.lanes.value));

const follower = new Follower(byId("thread"));
const hooks = {
  onChoose: (lane, index) => inspector.choose(lane, index),
  onRecord: (lane) => inspector.follow(lane),
  onDraw: follow,
};
const lanes = LETTERS.map((letter) => new Lane(letter, hooks));
const seed = new SeedField();
frame.onView = (view) => lanes.forEach((lane) => lane.show(view));
const key = new KeyField(() => load());
let methodForms = [];
let sampling = null;
let model = null;
let stopper = null;
let running = Promise.resolve();

/** Keep the end of a chat in sight; below tokens stands the tree, so they scroll by themselves. */
function follow() {
  if (document.body.dataset.view === "formatted" && isChat()) follower.keepUp();
}

async function load() {
  try {
    const models = await getJson("v1/models", key.value);
    const registry = await getJson("v1/methods", key.value);
    model = models.data[0].id;
    byId("model").textContent = model;
    const own = registry.default ?? { name: "mtad", options: {} };
    const rival = { name: RIVALS.find((name) => name !== own.name), options: {} };
    methodForms = [own, rival].map((start, i) => new MethodForm(LETTERS[i], registry.data, start));
    sampling = new SamplingForm(registry.sampling);
    notice("");
  } catch (error) {
    notice(error.message);
    if (error.status === 401) key.ask();
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

/** Change between prompt and chat; what runs is stopped, and the lanes are for the new mode. */
async function showMode(mode) {
  await stopped();
  clearLanes();
  conversation.restore(conversation.messages);
  frame.enter(mode);
  byId("history").hidden = mode !== "chat";
  fill();
}

/** Stop what runs, and wait for its end. */
function stopped() {
  stopper?.abort();
  return running;
}

async function changeLanes() {
  await stopped();
  inspector.clear();
  if (isChat()) clearLanes();
  conversation.restore(conversation.messages);
  showLanes();
  fill();
}

function fill() {
  for (const lane of lanes) lane.node.hidden = !lane.isUsed;
  const hasMessages = isChat() && conversation.messages.length > 0;
  frame.fill({ hasLanes: lanes.some((lane) => lane.isUsed), hasMessages });
}

function clearLanes() {
  inspector.clear();
  for (const lane of lanes) {
    lane.clear();
    lane.node.classList.remove("kept");
  }
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = text === "";
}

function requestOf(index, seedOfRun) {
  const asked = isChat()
    ? { messages: conversation.asking(byId("system").value) }
    : { prompt: byId("prompt").value };
  return {
    model,
    ...asked,
    ...sampling.value,
    seed: seedOfRun,
    method: methodForms[index].value,
    stream: true,
    stream_options: { include_usage: true },
    trace: true,
  };
}

/** Run what the form says; `again` asks a chat's last question once more. */
async function run(again = false) {
  if (stopper) return;
  stopper = new AbortController();
  running = runToEnd(again);
  await running;
}

async function runToEnd(again) {
  if (!methodForms.length) await load();
  if (!methodForms.length || !ready(again)) {
    stopper = null;
    return;
  }
  const before = conversation.messages;
  const typed = isChat() ? ask(again) : "";
  begin();
  const racing = active();
  const whole = await raceAll(racing, seed.next());
  end(racing, whole);
  if (isChat()) settle(racing, whole, before, typed);
  offer(racing);
  fill();
}

/** Put the question into the conversation; the text that was taken from the field. */
function ask(again) {
  if (again) {
    conversation.askAgain();
    return "";
  }
  const text = byId("prompt").value;
  conversation.ask(text);
  byId("prompt").value = "";
  return text;
}

async function raceAll(racing, seedOfRun) {
  const path = isChat() ? "v1/chat/completions" : "v1/completions";
  let best = null;
  const runs = racing.map(async (lane, i) => {
    const [body, { entry }] = [requestOf(i, seedOfRun), methodForms[i]];
    const began = performance.now();
    const whole = await lane.run(path, body, entry, key.value, stopper.signal);
    const took = (performance.now() - began) / 1000;
    if (whole) best ??= took;
    if (whole && racing.length > 1) lane.showPlace(took, best);
    return whole;
  });
  fill();
  follower.restart();
  byId("thread").scrollTop = byId("thread").scrollHeight;
  if (frame.isNarrow && !isChat()) byId("thread").scrollIntoView();
  return Promise.all(runs);
}

/** Whether the form can be sent; the browser says what is wrong where it cannot. */
function ready(again) {
  for (const bad of form.querySelectorAll(":invalid")) {
    for (let box = bad.closest("details"); box; box = box.parentElement.closest("details")) {
      box.open = true;
    }
  }
  if (!form.reportValidity()) return false;
  if (again || !isChat() || byId("prompt").value.trim()) return true;
  notice("Write a message first.");
  byId("prompt").focus();
  return false;
}

function begin() {
  notice("");
  clearLanes();
  // aria-disabled keeps the focus where it is
  byId("run").setAttribute("aria-disabled", "true");
  byId("stop").disabled = false;
  byId("status").textContent = "Running.";
}

function end(racing, whole) {
  stopper = null;
  byId("run").removeAttribute("aria-disabled");
  if (document.activeElement === byId("stop")) byId("run").focus();
  byId("stop").disabled = true;
  const results = racing.map((lane, i) => lane.report(whole[i]));
  byId("status").textContent = results.join(" ");
}

/** In a chat: keep what was answered, or give the question back where nothing came. */
function settle(racing, whole, before, typed) {
  const done = racing.find((_, i) => whole[i]) ?? racing.find((lane) => lane.answer);
  if (done) return conversation.answer(done.answer);
  conversation.restore(before);
  byId("prompt").value ||= typed;
}

/** What can be done with the answers that came. */
function offer(racing) {
  const answered = racing.filter((lane) => lane.answer);
  for (const lane of answered) {
    lane.tools.append(copyButton(() => lane.answer));
    if (isChat()) lane.tools.append(quiet("Regenerate", () => run(true)));
    const goOn = quiet("Go on with this answer", () => goOnWith(lane));
    if (isChat() && answered.length > 1) lane.tools.append(goOn);
  }
}

function goOnWith(lane) {
  conversation.replaceAnswer(lane.answer);
  for (const one of lanes) one.node.classList.toggle("kept", one === lane);
}

function addExamples() {
  const use = async (example) => {
    const mode = example.chat ? "chat" : "prompt";
    if (mode !== frame.mode) await showMode(mode);
    byId("prompt").value = example.text;
    byId("prompt").focus();
  };
  byId("examples").replaceChildren(...EXAMPLES.map((one) => quiet(one.name, () => use(one))));
}

function listen() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  form.elements.mode.forEach((radio) =>
    radio.addEventListener("change", () => showMode(radio.value)),
  );
  form.elements.lanes.forEach((radio) => radio.addEventListener("change", changeLanes));
  byId("stop").addEventListener("click", () => stopper?.abort());
  byId("new-chat").addEventListener("click", newChat);
  byId("prompt").addEventListener("keydown", (event) => {
    const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing;
    if (!isChat() || !sends || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    run();
  });
  byId("rejected").addEventListener("change", (event) => {
    for (const lane of lanes) lane.text.showRejected(event.target.checked);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !key.close()) stopper?.abort();
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    run();
  });
}

async function newChat() {
  await stopped();
  clearLanes();
  conversation.restore([]);
  fill();
  byId("prompt").focus();
}

addThemeButton(byId("theme"));
addExamples();
listen();
fill();
await load();
document.documentElement.dataset.ready = "";
