"""From a recipe to samples.jsonl: resumable, every row written as soon as its batch is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mtad.bench.answering import Answering
from mtad.bench.choose import choose, chosen_points
from mtad.bench.conditions import conditions
from mtad.bench.files import (
    CHOSEN,
    CONDITIONS,
    RECIPE,
    SAMPLES,
    Rows,
    read_conditions,
    read_json,
    read_samples,
    read_scores,
    write_json,
)
from mtad.bench.jobs import Job, jobs
from mtad.bench.meter import Meter, find_meter, idle_power_w
from mtad.bench.recipe import Point, Recipe
from mtad.bench.sample import Key, Sample
from mtad.bench.score import score_folder
from mtad.bench.split import DEV, TEST, split
from mtad.errors import DataError
from mtad.lm import context_of
from mtad.load import quiet
from mtad.pair import ModelPair, load_pair
from mtad.tasks import Item
from mtad.text import encode

Items = Mapping[str, Mapping[str, Sequence[Item]]]
"""The items of each task, by stage and task."""

IDLE_S = 3.0


Tell = Callable[[str, str, int, int], None]
"""Told how far a run is: the stage, the label, rows that are done, all rows."""


@dataclass
class _Ledger:
    """The rows that are there, and the timed seconds that each run has used."""

    done: dict[Key, Sample] = field(default_factory=dict)
    used_s: dict[tuple[str, str, str], float] = field(default_factory=dict)

    def add(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            self.done[sample.key] = sample
            if sample.is_timed:
                place = (sample.stage, sample.task, sample.run)
                used = self.used_s.get(place, 0.0)
                self.used_s[place] = used + sample.prefill_s + sample.decode_s

    def is_out_of_time(self, job: Job, limit_s: float) -> bool:
        """Whether the run has used up its seconds on this task."""
        return bool(limit_s) and self.used_s.get((job.stage, job.task, job.label), 0.0) >= limit_s


def run(recipe: Recipe, folder: Path, tell: Tell = lambda stage, label, done, total: None) -> None:
    """Decode everything that the recipe asks for and the folder does not have yet.

    Raises:
        MtadError, ValueError: what was asked for cannot be done; nothing that was written is lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items = read_items(recipe)
    for task in _tuned_tasks(recipe):
        recipe.tasks[task].task.check()  # options are chosen by scores: scoring must be possible
    pair = load(recipe)
    _check_prompts(recipe, pair, items)
    with Rows(folder / SAMPLES) as rows:
        ledger = _Ledger()
        ledger.add(read_samples(folder))
        answering = _answering(recipe, pair, folder, ledger)
        write_json(folder / RECIPE, recipe.table)
        chosen: dict[str, dict[str, Point]] = {}
        if any(run.is_tuned for run in recipe.runs):
            _stage(recipe, DEV, items[DEV], {}, answering, rows, ledger, tell)
            chosen = _choose(recipe, folder, ledger)
        _stage(recipe, TEST, items[TEST], chosen, answering, rows, ledger, tell)


def _tuned_tasks(recipe: Recipe) -> list[str]:
    return sorted({task for run in recipe.runs if run.is_tuned for task in run.tasks})


def read_items(recipe: Recipe) -> dict[str, dict[str, list[Item]]]:
    """The dev and test items of every task."""
    parts = {
        name: split(plan.task.prompts(), plan.num_dev, plan.num_test)
        for name, plan in recipe.tasks.items()
    }
    return {stage: {name: part[stage] for name, part in parts.items()} for stage in (DEV, TEST)}


def load(recipe: Recipe) -> ModelPair:
    """The pair of the recipe, on as many threads as it says."""
    quiet()
    if recipe.plan.num_threads:
        torch.set_num_threads(recipe.plan.num_threads)
    options = dataclasses.asdict(recipe.pair)
    target, draft = options.pop("target"), options.pop("draft")
    if target == "demo" and draft is None:
        return load_pair("demo", **options)
    return load_pair(target=target, draft=draft, **options)


def _answering(recipe: Recipe, pair: ModelPair, folder: Path, ledger: _Ledger) -> Answering:
    """What decodes the jobs; notes down the conditions if they are new."""
    draft_alone = None
    if any(run.models == "draft" for run in recipe.runs):
        if pair.models.draft is None:
            raise ValueError('a run has models = "draft" and the pair has no draft model')
        draft_alone = ModelPair(pair.models.draft, None, pair.models.tokenizer)
    meter = find_meter([m.device for m in (pair.models.target, pair.models.draft) if m is not None])
    facts = {"recipe": recipe.name, "meter": meter.source, "meter_remark": meter.reason}
    here = conditions(pair, recipe.pair, facts)
    known = read_conditions(folder) if (folder / CONDITIONS).exists() else {}
    for before in known.values():
        if before["model_fingerprint"] != here["model_fingerprint"]:
            raise DataError(f"{folder} has rows of another pair; give another --output")
    if here["id"] not in known:
        with Rows(folder / CONDITIONS) as rows:
            rows.append([here | {"idle_power_w": _idle_power(meter)}])
    plan = recipe.plan
    return Answering(pair, draft_alone, meter, plan.phases, plan.perplexity, here["id"])


def _idle_power(meter: Meter) -> dict[str, float] | str:
    """Watts by device before anything is decoded."""
    return idle_power_w(meter, IDLE_S) or "unavailable"


def _check_prompts(recipe: Recipe, pair: ModelPair, items: Items) -> None:
    """Refuse prompts that do not fit before anything is decoded; later turns add to them."""
    models = [m for m in (pair.models.target, pair.models.draft) if m is not None]
    room = min((c for m in models if (c := context_of(m)) is not None), default=None)
    for name, plan in recipe.tasks.items():
        for item in [*items[DEV][name], *items[TEST][name]] if room else []:
            size = len(encode(pair.tokenizer, plan.task.prompt(item, [])))
            if size + plan.max_new_tokens > (room or 0):
                raise DataError(
                    f"item {item.id} of {name} has {size} tokens, and with {plan.max_new_tokens} "
                    f"new ones it does not fit the context of {room}; lower max_new_tokens or take "
                    "a pair with a longer context"
                )


def _stage(
    recipe: Recipe,
    stage: str,
    items: Mapping[str, Sequence[Item]],
    chosen: Mapping[str, Mapping[str, Point]],
    answering: Answering,
    rows: Rows,
    ledger: _Ledger,
    tell: Tell,
) -> None:
    """Decode the jobs of a stage that are not done."""
    planned = list(jobs(recipe, stage, items, chosen))
    _check_rows(recipe, planned, ledger)
    left = [job for job in (job.without(ledger.done) for job in planned) if job is not None]
    if any(job.is_timed for job in left):
        _warm_up(recipe, left, answering)
    total = sum(len(job.items) for job in planned)
    done = total - sum(len(job.items) for job in left)
    for job in left:
        tell(stage, job.label, done, total)
        if not ledger.is_out_of_time(job, recipe.plan.time_limit_s):
            plan = recipe.tasks[job.task]
            samples = answering.samples(job, plan.task, plan.max_new_tokens)
            rows.append(sample.as_dict() for sample in samples)
            ledger.add(samples)
        done += len(job.items)
    tell(stage, "", done, total)


def _warm_up(recipe: Recipe, left: Sequence[Job], answering: Answering) -> None:
    """Decode the first job of every run once; what came of it is thrown away."""
    first = {(job.task, job.run.name): job for job in reversed(left) if job.is_timed}
    for job in first.values():
        plan = recipe.tasks[job.task]
        answering.samples(job, plan.task, min(plan.max_new_tokens, 16))


def _check_rows(recipe: Recipe, planned: Iterable[Job], ledger: _Ledger) -> None:
    """Refuse to mix rows of one label that were made with different options."""
    for job in planned:
        method, budget = job.point.method, recipe.tasks[job.task].max_new_tokens
        options = _jsonlike(dataclasses.asdict(method))
        sampling = {**job.run.sampling, "max_new_tokens": budget}
        wanted = (method.name, options, sampling, job.run.models)
        for before in (ledger.done[key] for key in job.keys if key in ledger.done):
            found = _jsonlike(before.method["options"])
            if (before.method["name"], found, before.sampling, before.models) != wanted:
                raise DataError(
                    f"the rows of run {job.label!r} were made with other options ({found}, "
                    f"{before.sampling}); name the run anew or give another --output"
                )


def _jsonlike(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


def _choose(recipe: Recipe, folder: Path, ledger: _Ledger) -> dict[str, dict[str, Point]]:
    """The point of each tuned run to report, by the scores of the dev rows; kept once chosen."""
    chosen = read_json(folder / CHOSEN)
    if not chosen:
        score_folder(recipe, folder)
        scores = {row.key: row for row in read_scores(folder)}
        dev = [sample for sample in ledger.done.values() if sample.stage == DEV]
        chosen = choose(recipe, dev, scores)
        write_json(folder / CHOSEN, chosen)
    return chosen_points(recipe, chosen)
