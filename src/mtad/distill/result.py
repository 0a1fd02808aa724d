"""What a distilled draft is worth, and its folder: weights, figures and a model card."""

from __future__ import annotations

import json
import statistics
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from mtad.api.options import server_toml
from mtad.api.pair import ModelPair
from mtad.api.turns import Timed, in_turns, num_texts
from mtad.distill.corpus import read_answers
from mtad.distill.pay import lay_out
from mtad.distill.plan import Plan
from mtad.distill.run import HELD_OUT, Distilled, Observer, steps
from mtad.methods.autoregressive import Autoregressive
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.copy_rates import copy_rates_of

FIGURES, PAIR = "figures.json", "pair.toml"
NUM_PROMPTS = 8
NUM_TOKENS = 96
ROUNDS = 3


@dataclass(frozen=True)
class Measured:
    """Speculative sampling with the draft beside plain decoding, on held-out prompts.

    Attributes:
        temperature: of both.
        num_draft_tokens: of a block; what the costs say is best.
        mean_acceptance_length: tokens per target call.
        tokens_per_s, plain_tokens_per_s: decode only, batch 1, medians of rounds in turns.
    """

    temperature: float
    num_draft_tokens: int
    mean_acceptance_length: float
    tokens_per_s: float
    plain_tokens_per_s: float

    @property
    def speed_up(self) -> float:
        """Over plain decoding."""
        return self.tokens_per_s / self.plain_tokens_per_s


@dataclass(frozen=True)
class Figures:
    """All that is known of a draft.

    Attributes:
        table: the content of `figures.json`.
        measured: by temperature.
    """

    table: dict[str, Any]
    measured: tuple[Measured, ...]

    def sentence(self) -> str:
        """Whether the draft pays, in one sentence."""
        parts = [
            f"{one.speed_up:.2f} times at temperature {one.temperature:g} "
            f"({one.mean_acceptance_length:.2f} tokens per call, {one.num_draft_tokens} drafted)"
            for one in self.measured
        ]
        pays = all(one.speed_up > 1 for one in self.measured)
        verdict = "pays" if pays else "does not pay at every temperature"
        return f"the draft {verdict} here: plain decoding's speed {', '.join(parts)}"


def write_draft(
    pair: ModelPair, plan: Plan, made: Distilled, folder: Path, observer: Observer
) -> Figures:
    """Write the draft's folder and measure the draft; whole or not at all.

    Args:
        pair: has the target.
        plan: that was followed.
        made: the draft.
        folder: where it goes; its `work` has the answers.
        observer: hears how far it is.
    """
    made.student.save(folder, pair.models.target)
    measured = tuple(_measured(pair, plan, made, folder, observer))
    table = _table(plan, made, measured)
    (folder / FIGURES).write_text(json.dumps(table, indent=2) + "\n")
    figures = Figures(table, measured)
    (folder / "README.md").write_text(card(plan, made, figures))
    (folder / PAIR).write_text(pair_file(plan, folder, measured))
    return figures


def pair_file(plan: Plan, folder: Path, measured: Sequence[Measured]) -> str:
    """Target, draft and the length of drafts that was measured, as `mtad serve --config` reads it.

    Args:
        plan: names the target.
        folder: of the draft.
        measured: by temperature; the draft is as long as is best at the highest.
    """
    target, last = Path(plan.target), max(measured, key=lambda one: one.temperature)
    name = str(target.resolve()) if target.exists() else plan.target
    models = {"target_model": name, "draft_model": str(folder.resolve())}
    method = SpeculativeSampling(num_draft_tokens=last.num_draft_tokens)
    return "# mtad serve --config pair.toml\n" + server_toml(models, method)


def _measured(
    pair: ModelPair, plan: Plan, made: Distilled, folder: Path, observer: Observer
) -> list[Measured]:
    """The draft of the folder beside plain decoding, temperature by temperature."""
    target = pair.models.target
    draft = made.student.load(folder, target)
    with_draft = ModelPair(target, draft, pair.tokenizer)
    lay_out(draft)
    answers = read_answers(folder / "work" / "answers.jsonl")[::HELD_OUT][:NUM_PROMPTS]
    prompts = [list(answer.prompt_ids) for answer in answers]
    temperatures = sorted(made.curve[-1].acceptance)
    total = len(temperatures) * num_texts(2, len(prompts), ROUNDS)
    on_text, found = steps(observer, "measuring", total), []
    for temperature in temperatures:
        length = made.prospect.best(made.curve[-1].acceptance[temperature].tokens).shape.length
        plain, drafted = in_turns(
            with_draft,
            [Autoregressive(), SpeculativeSampling(num_draft_tokens=length)],
            prompts,
            ROUNDS,
            on_text,
            max_new_tokens=NUM_TOKENS,
            **plan.sampling.cut(temperature),
        )
        found.append(Measured(temperature, length, *_figures(drafted), _figures(plain)[1]))
    return found


def _figures(rounds: Sequence[Sequence[Timed]]) -> tuple[float, float]:
    """Tokens of an iteration in the first round, and the median of the rounds' tokens/s."""
    sums = [reduce(add, texts) for texts in rounds]
    return sums[0].tokens_per_step, statistics.median(one.tokens_per_s for one in sums)


def _table(plan: Plan, made: Distilled, measured: Sequence[Measured]) -> dict[str, Any]:
    last = made.curve[-1]
    return {
        "target": plan.target,
        "written": time.strftime("%Y-%m-%d"),
        "num_answers": made.num_answers,
        "num_tokens": made.num_tokens,
        "training_s": round(last.seconds, 1),
        "stopped": made.stopped,
        "draft_s": made.prospect.costs.draft_s,
        "target_s": list(made.prospect.costs.target.seconds),
        "copy_rates": list(copy_rates_of(made.student.model)),
        "break_even_acceptance": made.prospect.break_even,
        "acceptance_by_position": {
            f"{t:g}": list(found.by_position) for t, found in last.acceptance.items()
        },
        "tokens_per_call": {
            f"{t:g}": list(found.tokens_per_call) for t, found in last.acceptance.items()
        },
        "curve": [
            {"training_s": j.seconds}
            | {f"{t:g}": a.tokens_per_call[-1] for t, a in j.acceptance.items()}
            for j in made.curve
        ],
        "measured": [vars(one) | {"speed_up": one.speed_up} for one in measured],
    }


def card(plan: Plan, made: Distilled, figures: Figures) -> str:
    """The model card."""
    rows = "\n".join(
        f"| {t:g} | {' '.join(f'{share:.2f}' for share in found.by_position)} "
        f"| {found.tokens_per_call[-1]:.2f} |"
        for t, found in made.curve[-1].acceptance.items()
    )
    speeds = "\n".join(
        f"| {one.temperature:g} | {one.num_draft_tokens} | {one.mean_acceptance_length:.2f} "
        f"| {one.tokens_per_s:.1f} | {one.plain_tokens_per_s:.1f} | {one.speed_up:.2f} |"
        for one in figures.measured
    )
    costs = made.prospect.costs
    speed = (
        f"Decode only, batch 1, {NUM_PROMPTS} held-out prompts, up to {NUM_TOKENS} tokens each, "
        f"medians of {ROUNDS} rounds in turns, speculative sampling beside plain decoding, on the "
        f"machine that trained it: a target forward took {costs.target(1) * 1e3:.1f} ms, a "
        f"drafted token {costs.draft_s * 1e3:.2f} ms."
    )
    return f"""---
tags: [speculative-decoding]
base_model: {plan.target}
---

# A draft for {plan.target}

{made.student.about}

    mtad generate --target-model {plan.target} --draft-model FOLDER "…"

Its licence follows from the target's: it learnt from the target's answers and holds weights that
began as the target's.

## Training

{_training(plan, made)}

## Acceptance on held-out answers

Conditional acceptance at each draft position, and expected tokens per target call with as many.

| temperature | by position | tokens per call |
|---|---|---|
{rows}

## Speed

{textwrap.fill(speed, 100)}

| temperature | draft tokens | tokens per call | tokens/s | plain | speed-up |
|---|---|---|---|---|---|
{speeds}
"""


def _training(plan: Plan, made: Distilled) -> str:
    """What it learnt from, and how it came on."""
    sampling, last = plan.sampling, made.curve[-1]
    sources = [plan.prompts] if plan.prompts else []
    if plan.also_bundled or not sources:
        sources += ["bundled prompts", "prompts of its own"]
    prompts = " and ".join(sources)
    temperatures = " and ".join(f"{t:g}" for t in sampling.temperatures)
    rates = ", ".join(f"{rate:g}" for rate in copy_rates_of(made.student.model)[1:])
    text = (
        f"{made.num_answers:,} answers of the target ({made.num_tokens:,} tokens) to {prompts}, "
        f"drawn at temperature {temperatures} (top-k {sampling.top_k}, top-p {sampling.top_p:g} "
        f"above 0), seed {sampling.seed}; {last.seconds:,.0f} s of training. One answer in "
        f"{HELD_OUT} was kept for measuring. After a match of 1, 2, … tokens in the text it copies "
        f"with rates {rates}. {made.stopped}"
    )
    curve = "\n".join(
        f"| {judged.seconds:,.0f} s | "
        + " | ".join(f"{found.tokens_per_call[-1]:.2f}" for found in judged.acceptance.values())
        + " |"
        for judged in made.curve
    )
    heads = " | ".join(f"temperature {temperature:g}" for temperature in last.acceptance)
    return f"""{textwrap.fill(text, 100)}

Tokens per target call on the answers that were kept, by the time of training:

| after | {heads} |
|---|{"---|" * len(last.acceptance)}
{curve}"""
