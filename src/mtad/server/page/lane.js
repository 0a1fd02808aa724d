// One answer as it comes: text, numbers and the contract.

import { ApiError, stream } from "./api.js";
import { addCalls, showCalls } from "./calls.js";
import { drawShares } from "./chart.js";
import { byId, el, oncePerFrame } from "./dom.js";
import { seconds } from "./format.js";
import { asMarkdown, showMarkdown } from "./markdown.js";
import { Tally } from "./record.js";
import { TokenText } from "./text.js";
import { Thinking } from "./thinking.js";

/** A lane; `hooks` are its callbacks: `onChoose(lane, iteration)`, `onRecord(lane)`, `onDraw()`. */
export class Lane {
  constructor(letter, hooks) {
    this.letter = letter;
    this.text = new TokenText(letter, (index) => hooks.onChoose(this, index));
    this.onRecord = () => hooks.onRecord(this);
    this.onDraw = hooks.onDraw;
    this.view = "tokens";
    this.redraw = oncePerFrame(() => this.#draw());
    this.#build();
    this.clear();
  }

  #build() {
    const slot = (name, tag = "span") => (this[name] = el(tag, { class: name }));
    const letter = el("span", { class: "letter", text: this.letter, "aria-hidden": "true" });
    const head = el("header", {}, letter, slot("title", "h2"), slot("badge"), slot("mark"));
    const figure = (name, label, title) =>
      el("div", { title }, el("dt", { text: label }), slot(name, "dd"));
    const numbers = el(
      "dl",
      { class: "figures" },
      figure("speed", "tokens/s", "Tokens so far / seconds since the request was sent"),
      figure("mean", "mean acceptance length", "1 + accepted drafts / iterations"),
      figure("share", "accepted / drafted", "Draft tokens that were accepted, of those drafted"),
      figure("energy", "joules", "Energy of this answer, where the server has a meter"),
    );
    const caption = el("figcaption", { text: "Acceptance by position" });
    this.chart = el("div");
    const chart = el("figure", {}, this.chart, caption);
    this.measured = el("div", { class: "measured" }, numbers, chart);
    const [error, rule, foot] = ["error", "rule", "foot"].map((name) => slot(name, "p"));
    error.setAttribute("role", "alert");
    this.prose = el("div", { class: "prose", hidden: true });
    this.thinking = new Thinking();
    this.callBox = el("div", { class: "calls" });
    this.tools = el("div", { class: "tools" });
    this.node = el("article", { class: "lane", "aria-label": `Lane ${this.letter}` });
    const texts = [this.thinking.node, this.text.node, this.prose, this.callBox, this.tools];
    this.node.append(head, this.measured, error, ...texts, rule, foot);
  }

  /** Whether a run has begun. */
  get isUsed() {
    return this.started !== null;
  }

  /** Where the tree of an iteration stands: below the text, or below both of them. */
  get place() {
    return byId("lanes").classList.contains("two") ? byId("lanes") : this.text.node;
  }

  /** Whether anything came. */
  get hasAnswer() {
    return this.answer !== "" || this.calls.length > 0;
  }

  /** The answer as a message; calls that broke off are none. */
  get message() {
    const { records, texts } = this.text;
    const calls = this.error.hidden && this.calls.length ? { tool_calls: this.calls } : {};
    const { answer: content, isJson } = this;
    const thinking_s = this.#thoughtFor ?? 0;
    const thinking = this.thoughts && { reasoning_content: this.thoughts, thinking_s };
    return { role: "assistant", content, ...calls, ...thinking, isJson, records, texts };
  }

  /** Show the text as tokens, or formatted. */
  show(view) {
    this.view = view;
    this.text.node.hidden = view === "formatted";
    this.prose.hidden = view !== "formatted";
    this.#drawProse();
    this.text.keepUp();
    this.onDraw();
  }

  /** The records so far. */
  get records() {
    return this.text.records;
  }

  /** Back to nothing. */
  clear() {
    Object.assign(this, { tally: new Tally(), answer: "", calls: [], isJson: false });
    Object.assign(this, { started: null, ended: null, final: null });
    Object.assign(this, { thoughts: "", thoughtSince: null, thoughtUntil: null });
    this.text.clear();
    this.thinking.clear();
    for (const slot of [this.title, this.badge, this.mark, this.error, this.rule, this.foot]) {
      slot.textContent = "";
    }
    this.error.hidden = true;
    this.tools.replaceChildren();
    this.#draw();
  }

  /** Run a request to its end; true if the text came whole. */
  async run(path, body, entry, key, signal) {
    this.clear();
    Object.assign(this, { seed: body.seed, note: "", isJson: "response_format" in body });
    this.title.textContent = entry.name;
    this.#contract({ lossless: entry.lossless, rule: null, accept_threshold: null });
    this.started = performance.now();
    this.node.setAttribute("aria-busy", "true");
    try {
      await this.#read(path, body, key, signal);
      return true;
    } catch (error) {
      this.#fail(error);
      return false;
    } finally {
      this.ended = performance.now();
      this.node.removeAttribute("aria-busy");
      this.#draw();
    }
  }

  /** A sentence about the run, for those who listen. */
  report(isWhole) {
    if (!isWhole) return `${this.letter} did not finish.`;
    const [tokens, speed] = [this.tally.tokens, this.speed.textContent];
    return `${this.letter} is done: ${tokens} tokens, ${speed} a second.`;
  }

  /** Say how a race ended: its seconds, or by how many the best was faster. */
  showPlace(took, best) {
    const isFirst = took === best;
    this.mark.textContent = isFirst ? `first · ${seconds(took)}` : `+${seconds(took - best)}`;
    this.mark.classList.toggle("won", isFirst);
  }

  async #read(path, body, key, signal) {
    try {
      await this.#takeAll(stream(path, body, key, signal));
    } catch (error) {
      if (!(error instanceof ApiError) || error.param !== "trace") throw error;
      this.note = "This server sends no traces: the text comes without its origins.";
      this.foot.textContent = this.note;
      await this.#takeAll(stream(path, { ...body, trace: false }, key, signal));
    }
  }

  async #takeAll(events) {
    for await (const event of events) this.#take(event);
  }

  #take(event) {
    const choice = event.choices?.[0];
    const delta = choice?.delta ?? {};
    const [content, parts] = [choice?.text ?? delta.content ?? "", delta.tool_calls ?? []];
    this.answer += content;
    addCalls(this.calls, parts);
    this.#think(delta.reasoning_content ?? "", content || parts.length > 0);
    const text = [delta.reasoning_content ?? "", content, ...parts.map(argumentsOf)].join("");
    const contract = event.mtad ?? {};
    if (contract.trace) for (const record of [contract.trace].flat()) this.#record(record, text);
    else if (!this.records.length && text) this.text.appendPlain(text);
    if (event.metrics) this.final = { ...this.final, ...event.metrics.speculative_decoding };
    if (event.usage) this.final = { ...this.final, num_tokens: event.usage.completion_tokens };
    if ("lossless" in contract) this.#close(contract);
    this.redraw();
  }

  /** Take more thinking, or what comes after it. */
  #think(text, isAnswered) {
    this.thoughts += text;
    if (text) this.thoughtSince ??= performance.now();
    if (isAnswered && this.thoughts) this.thoughtUntil ??= performance.now();
  }

  /** Seconds of the thinking, null while it goes on. */
  get #thoughtFor() {
    const until = this.thoughtUntil ?? this.ended;
    return until === null || !this.thoughts ? null : (until - this.thoughtSince) / 1000;
  }

  #record(record, text) {
    this.tally.add(record);
    this.text.append(record, text);
    this.onRecord();
  }

  #close(contract) {
    this.#contract(contract);
    const { energy_joules: joules, energy_reason } = contract;
    this.final = { ...this.final, joules, energy_reason };
    const parts = ["queue", "prefill", "decode"].map((name) => [name, contract[`${name}_s`]]);
    const times = parts.filter(([, s]) => Number.isFinite(s)).map(([n, s]) => `${n} ${seconds(s)}`);
    const kept = Object.entries(contract.receipt?.[0] ?? {});
    if (this.thoughts && !this.hasAnswer) this.note = "The text ended before the thinking did.";
    const receipt = kept.map(([name, value]) => `${name.replaceAll("_", " ")} ${value.toFixed(3)}`);
    const said = [`seed ${this.seed}`, ...receipt, ...times, this.note];
    this.foot.textContent = said.filter(Boolean).join(" · ");
  }

  #contract({ lossless, rule, accept_threshold: threshold, target_weights: weights }) {
    const known = threshold !== null && threshold !== undefined;
    const limit = known ? ` · threshold ${threshold}` : "";
    const target = weights === "int8" ? " of the int8 target" : "";
    this.badge.textContent = `${lossless ? "lossless" : "lossy"}${target}${limit}`;
    this.badge.className = `badge ${lossless ? "lossless" : "lossy"}`;
    this.rule.textContent = rule ?? "";
  }

  #fail(error) {
    const stopped = error.name === "AbortError";
    const unexpected = !stopped && !(error instanceof ApiError);
    this.error.textContent = stopped ? "Stopped." : error.message;
    this.error.classList.toggle("calm", stopped);
    this.error.hidden = false;
    if (unexpected) console.error(error);
  }

  #draw() {
    const { tally, final } = this;
    const tokens = final?.num_tokens ?? tally.tokens;
    const mean = final?.mean_acceptance_length ?? tally.meanLength;
    const [accepted, drafted] = [
      final?.num_accepted_draft_tokens ?? tally.accepted,
      final?.num_draft_tokens ?? tally.drafted,
    ];
    const rate = tokens / this.#spent;
    this.speed.textContent = tokens ? rate.toFixed(rate < 100 ? 1 : 0) : "–";
    this.mean.textContent = Number.isFinite(mean) && mean !== null ? mean.toFixed(2) : "–";
    this.share.textContent = drafted ? `${accepted} / ${drafted}` : "–";
    this.#drawEnergy();
    this.measured.hidden = !tokens;
    this.chart.replaceChildren(...(tally.steps ? [drawShares(tally.shares)] : []));
    this.#drawProse();
    this.text.keepUp();
    this.onDraw();
  }

  #drawProse() {
    const { answer: content, isJson } = this;
    if (this.view === "formatted") showMarkdown(this.prose, asMarkdown({ content, isJson }));
    else this.prose.replaceChildren();
    const thoughts = this.view === "formatted" ? this.thoughts : "";
    this.thinking.show(thoughts, this.#thoughtFor, this.hasAnswer);
    showCalls(this.callBox, this.calls);
  }

  /** Seconds since the request was sent, or that it took. */
  get #spent() {
    return ((this.ended ?? performance.now()) - (this.started ?? 0)) / 1000;
  }

  #drawEnergy() {
    const joules = this.final?.joules;
    const metered = typeof joules === "number";
    const isKnown = this.final && "joules" in this.final;
    this.energy.textContent = metered ? joules.toPrecision(3) : isKnown ? "not metered" : "–";
    this.energy.title = metered || !isKnown ? "" : (this.final.energy_reason ?? "");
  }
}

const argumentsOf = ({ function: said }) => said?.arguments ?? "";
