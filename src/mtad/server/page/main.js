// The page: the form, the lanes, and what happens when somebody runs them.

import { getJson } from "./api.js";
import { Chats } from "./chats.js";
import { Conversation, untilAnswer } from "./conversation.js";
import { byId } from "./dom.js";
import { addExamples } from "./examples.js";
import { readFeatures } from "./features.js";
import { Frame } from "./frame.js";
import { Inspector } from "./inspector.js";
import { KeyField } from "./key.js";
import { listenToKeys } from "./keys.js";
import { Lane } from "./lane.js";
import { offer } from "./offers.js";
import { Panels } from "./panel.js";
import { RequestForm } from "./request.js";
import { Follower } from "./scroll.js";
import { addThemeButton } from "./theme-button.js";

const inspector = new Inspector();
const panels = new Panels();
const request = new RequestForm();
const frame = new Frame();
const key = new KeyField(() => load());
const follower = new Follower(byId("thread"));
const conversation = new Conversation({
  onChoose: (earlier, index) => inspector.choose(earlier, index),
  onRewrite: rewrite,
  onAgain: again,
  onTell: tell,
  onChange: (messages) => chats.save(byId("system").value, messages),
});
const chats = new Chats({ onOpen: openChat, onNew: newChat });
const hooks = {
  onChoose: (lane, index) => inspector.choose(lane, index),
  onRecord: (lane) => inspector.follow(lane),
  onDraw: follow,
};
const lanes = ["A", "B"].map((letter) => new Lane(letter, hooks));
let stopper = null;
let running = Promise.resolve();

const isChat = () => frame.mode === "chat"; // the radio is ahead of it while a run ends
const active = () => lanes.slice(0, request.count);
frame.onView = (view) => {
  for (const lane of lanes) lane.show(view);
  showEarlier();
};

/** Keep the end of a chat in sight; below tokens stands the tree, so they scroll by themselves. */
function follow() {
  if (document.body.dataset.view === "formatted" && isChat()) follower.keepUp();
}

async function load() {
  try {
    const models = await getJson("v1/models", key.value);
    const registry = await getJson("v1/methods", key.value);
    const model = models.data[0].id;
    request.fill(model, registry, await readFeatures(key.value));
    frame.name(model);
    notice("");
  } catch (error) {
    notice(error.message);
    if (error.status === 401) key.ask();
  }
  showLanes();
}

function showLanes() {
  byId("lanes").replaceChildren(...active().map((lane) => lane.node));
  byId("lanes").classList.toggle("two", request.count === 2);
  request.showMethods();
}

function showEarlier() {
  conversation.show(document.body.dataset.view, byId("rejected").checked);
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

function stop() {
  stopper?.abort();
}

/** Stop what runs, and wait for its end. */
function stopped() {
  stop();
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

/** What a run asks for: a prompt, or the messages of the conversation. */
function asked() {
  if (!isChat()) return { prompt: byId("prompt").value };
  return { messages: conversation.asking(byId("system").value, request.takesThoughts) };
}

/** Run what the form says; `change`, if any, makes the conversation ask, in place of the field,
 * and returns the text that a person wrote: it comes back where no answer does. */
async function run(change = null) {
  if (stopper) return;
  stopper = new AbortController();
  await (running = runToEnd(change));
}

async function runToEnd(change) {
  if (!request.isFilled) await load();
  if (!request.isFilled || !ready(change)) {
    stopper = null;
    return;
  }
  const before = conversation.messages;
  const typed = isChat() ? (change ?? askTyped)() : "";
  begin();
  const racing = active();
  const whole = await raceAll(racing, request.seed.next());
  end(racing, whole);
  if (isChat()) settle(racing, whole, before, typed);
  offer(racing, isChat() ? { again, tell, edit: editAnswer, goOnWith } : null);
  fill();
}

/** Put the question into the conversation; the text that was taken from the field. */
function askTyped() {
  const text = byId("prompt").value;
  conversation.ask(text);
  byId("prompt").value = "";
  return text;
}

/** Ask another question in the place of one that was asked; what runs is stopped. */
async function rewrite(message, text) {
  await stopped();
  await run(() => conversation.askInstead(message, text));
}

function again() {
  return run(() => conversation.askAgain());
}

function tell(results) {
  return run(() => conversation.tell(results));
}

async function raceAll(racing, seedOfRun) {
  const path = isChat() ? "v1/chat/completions" : "v1/completions";
  let best = null;
  const runs = racing.map(async (lane, i) => {
    const [body, began] = [request.body(i, asked(), seedOfRun), performance.now()];
    const { entry } = request.methods[i];
    const whole = await lane.run(path, body, entry, key.value, stopper.signal);
    const took = (performance.now() - began) / 1000;
    if (whole) best ??= took;
    if (whole && racing.length > 1) lane.showPlace(took, best);
    return whole;
  });
  fill();
  follower.toEnd();
  if (panels.isNarrow && !isChat()) byId("thread").scrollIntoView();
  return Promise.all(runs);
}

/** Whether there is something to send, and nothing wrong with it. */
function ready(change) {
  if (!request.form.checkValidity()) panels.showSettings();
  if (!request.isRight()) return false;
  if (change || !isChat() || byId("prompt").value.trim()) return true;
  notice("Write a message first.");
  byId("prompt").focus();
  return false;
}

function begin() {
  notice("");
  clearLanes();
  frame.begin();
}

function end(racing, whole) {
  stopper = null;
  frame.end(racing.map((lane, i) => lane.report(whole[i])).join(" "));
}

/** In a chat: keep what was answered, or give the question back where nothing came. */
function settle(racing, whole, before, typed) {
  const done = racing.find((_, i) => whole[i]) ?? racing.find((lane) => lane.hasAnswer);
  if (done) return conversation.answer(done.message);
  conversation.restore(before);
  byId("prompt").value ||= typed;
}

/** Rewrite the newest answer: it is no longer the models', so it leaves the lanes. */
function editAnswer() {
  clearLanes();
  conversation.editLast();
  fill();
}

function goOnWith(lane) {
  conversation.replaceAnswer(lane.message);
  for (const one of lanes) one.node.classList.toggle("kept", one === lane);
}

async function useExample(example) {
  const mode = example.chat ? "chat" : "prompt";
  if (mode !== frame.mode) await showMode(mode);
  byId("prompt").value = example.text;
  byId("prompt").focus();
}

function listen() {
  const { form } = request;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  form.elements.mode.forEach((radio) =>
    radio.addEventListener("change", () => showMode(radio.value)),
  );
  form.elements.lanes.forEach((radio) => radio.addEventListener("change", changeLanes));
  byId("stop").addEventListener("click", stop);
  byId("new-chat").addEventListener("click", newChat);
  byId("rejected").addEventListener("change", (event) => {
    for (const lane of lanes) lane.text.showRejected(event.target.checked);
    showEarlier();
  });
}

async function newChat() {
  await stopped();
  chats.begin();
  await showChat([]);
  byId("prompt").focus();
}

/** Open a chat as it was kept; a question that nothing answered goes back into its field. */
async function openChat(chat) {
  await stopped();
  const { messages, question } = untilAnswer(chat.messages);
  chats.take({ ...chat, messages });
  byId("system").value = chat.system;
  await showChat(messages);
  if (!panels.isNarrow) byId("prompt").focus(); // on a phone its keyboard would cover the chat
  byId("prompt").value ||= question;
  follower.toEnd();
}

async function showChat(messages) {
  if (!isChat()) await showMode("chat");
  clearLanes();
  conversation.restore(messages);
  fill();
  panels.close();
}

addThemeButton(byId("theme"));
addExamples(useExample);
listen();
listenToKeys({ send: () => run(), stop, close: () => key.close() || panels.close(), isChat });
frame.start();
fill();
await load();
if (isChat()) chats.reopen();
document.documentElement.dataset.ready = "";
