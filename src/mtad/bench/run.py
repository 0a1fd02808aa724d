"""From a recipe to samples.jsonl: resumable, every row written as soon as its batch is decoded.

Knows no cluster: a `Decoder` decodes, by default in this process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mtad.api.pair import ModelPair, load_pair
from mtad.bench.checks import (
    Items,
    check_items,
    check_prompts,
    check_rows,
    check_scoring,
    read_items,
)
from mtad.bench.choose import choose, chosen_points
from mtad.bench.conditions import conditions
from mtad.bench.decoder import Decoder, DecoderFactory
from mtad.bench.files import (
    CHOSEN,
    CONDITIONS,
    RECIPE,
    SAMPLES,
    open_rows,
    read_conditions,
    read_json,
    read_samples,
    read_scores,
    write_json,
)
from mtad.bench.jobs import Job, jobs
from mtad.bench.plan import Point, Recipe
from mtad.bench.recipe import without_permissions
from mtad.bench.runner import JobRunner
from mtad.bench.sample import Key, Sample
from mtad.bench.score import score_folder
from mtad.bench.split import DEV, TEST
from mtad.errors import DataError
from mtad.jsonl import JsonLines
from mtad.measure.meter import Meter, find_meter, idle_power_w
from mtad.model.loading import quiet
from mtad.model.recurrent_head import RecurrentHead
from mtad.pairs import PAIRS
from mtad.tasks import Item

IDLE_S = 3.0
WARM_UP_TOKENS = 16


ProgressCallback = Callable[[str, str, int, int], None]
"""Called with the stage, the label of the run, the number of finished rows and of all rows."""


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


def run(
    recipe: Recipe,
    folder: Path,
    on_progress: ProgressCallback = lambda stage, label, done, total: None,
    new_decoder: DecoderFactory | None = None,
) -> None:
    """Decode everything that the recipe asks for and the folder does not have yet.

    Args:
        recipe: what is asked for.
        folder: where the rows are, and get.
        on_progress: called before each job and at the end of each stage.
        new_decoder: makes what decodes the jobs; None decodes in this process.

    Raises:
        MtadError, ValueError: what was asked for cannot be done; nothing that was written is lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items = read_items(recipe)
    check_scoring(recipe)
    with (new_decoder or in_process)(recipe) as decoder:
        decoder.check(items)
        with open_rows(folder / SAMPLES) as rows:
            ledger = _Ledger()
            ledger.add(read_samples(folder))
            check_items(recipe, folder, items, ledger.done)
            decoder.open(folder)
            write_json(folder / RECIPE, without_permissions(recipe.table))
            chosen: dict[str, dict[str, Point]] = {}
            if any(run.is_tuned for run in recipe.runs):
                _stage(recipe, DEV, items[DEV], {}, decoder, rows, ledger, on_progress)
                chosen = _choose(recipe, folder, ledger)
            _stage(recipe, TEST, items[TEST], chosen, decoder, rows, ledger, on_progress)


@contextmanager
def in_process(recipe: Recipe) -> Iterator[Decoder]:
    """The decoder of this process."""
    yield _LocalDecoder(recipe, load(recipe))


@dataclass
class _LocalDecoder:
    """Decodes in this process, one job at a time."""

    recipe: Recipe
    pair: ModelPair
    runner: JobRunner | None = None

    def check(self, items: Items) -> None:
        check_prompts(self.recipe, self.pair, items)

    def open(self, folder: Path) -> None:
        self.runner, here = make_runner(self.recipe, self.pair)
        note_conditions(folder, here, lambda: idle_power(self._ready.meter))

    def expect(self, left: Sequence[Job], is_wanted: Callable[[Job], bool]) -> None:
        warm_up(self.recipe, left, self._ready)

    def samples(self, job: Job) -> list[Sample]:
        return decode(self.recipe, job, self._ready)

    @property
    def _ready(self) -> JobRunner:
        assert self.runner is not None, "the folder is opened first"
        return self.runner


def load(recipe: Recipe) -> ModelPair:
    """The pair of the recipe, on as many threads as it says."""
    quiet()
    if recipe.plan.num_threads:
        torch.set_num_threads(recipe.plan.num_threads)
    options = dataclasses.asdict(recipe.pair)
    if recipe.plan.timed_seeds:
        options["prefix_cache_mib"] = 0  # each prompt's whole cost
    target, draft = options.pop("target"), options.pop("draft")
    if target in PAIRS and draft is None:
        return load_pair(target, **options)
    return load_pair(target=target, draft=draft, **options)


def make_runner(
    recipe: Recipe,
    pair: ModelPair,
    meter: Meter | None = None,
    facts: Mapping[str, Any] | None = None,
) -> tuple[JobRunner, dict[str, Any]]:
    """The runner of the jobs, and the conditions it runs in.

    Args:
        recipe: what is asked for.
        pair: the loaded models.
        meter: of the energy; that of the models' devices if None.
        facts: what else the numbers depend on.
    """
    draft_alone = None
    if any(run.models == "draft" for run in recipe.runs):
        if pair.models.draft is None:
            raise ValueError('a run has models = "draft" and the pair has no draft model')
        if isinstance(pair.models.draft, RecurrentHead):
            raise ValueError(
                'a run has models = "draft", and this draft is a head that reads the target\'s '
                "hidden state and can't decode alone; leave that run out"
            )
        draft_alone = ModelPair(pair.models.draft, None, pair.models.tokenizer, prefix_cache_mib=0)
    devices = [m.device for m in (pair.models.target, pair.models.draft) if m is not None]
    meter = meter or find_meter(devices)
    known = {"recipe": recipe.name, "meter": meter.source, "meter_remark": meter.reason}
    here = conditions(pair, recipe.pair, {**known, **(facts or {})})
    plan = recipe.plan
    runner = JobRunner(pair, draft_alone, meter, plan.phases, plan.perplexity, here["id"])
    return runner, here


def note_conditions(
    folder: Path, here: Mapping[str, Any], idle: Callable[[], dict[str, float] | str]
) -> None:
    """Note down conditions that the folder does not have yet.

    Args:
        folder: of the results.
        here: the conditions.
        idle: asked for the idle power if they are new.

    Raises:
        DataError: the folder has rows of another pair.
    """
    if here["id"] not in require_pair(folder, here["model_fingerprint"]):
        with open_rows(folder / CONDITIONS) as rows:
            rows.append([{**here, "idle_power_w": idle()}])


def require_pair(folder: Path, fingerprint: str) -> Collection[str]:
    """The ids of the conditions that the folder has.

    Raises:
        DataError: it has rows of another pair.
    """
    known = read_conditions(folder) if (folder / CONDITIONS).exists() else {}
    if any(before["model_fingerprint"] != fingerprint for before in known.values()):
        raise DataError(f"{folder} has rows of another pair; give another --output")
    return known


def idle_power(meter: Meter) -> dict[str, float] | str:
    """Watts by device before anything is decoded."""
    return idle_power_w(meter, IDLE_S) or "unavailable"


def _stage(
    recipe: Recipe,
    stage: str,
    items: Mapping[str, Sequence[Item]],
    chosen: Mapping[str, Mapping[str, Point]],
    decoder: Decoder,
    rows: JsonLines,
    ledger: _Ledger,
    on_progress: ProgressCallback,
) -> None:
    """Decode the jobs of a stage that are not done."""
    planned = list(jobs(recipe, stage, items, chosen))
    check_rows(recipe, planned, ledger.done)
    left = [job for job in (job.without(ledger.done) for job in planned) if job is not None]

    def is_wanted(job: Job) -> bool:
        return stage == DEV or not ledger.is_out_of_time(job, recipe.plan.time_limit_s)

    decoder.expect(left, is_wanted)
    total = sum(len(job.items) for job in planned)
    done = total - sum(len(job.items) for job in left)
    for job in left:
        on_progress(stage, job.label, done, total)
        if is_wanted(job):
            samples = decoder.samples(job)
            rows.append(sample.as_dict() for sample in samples)
            ledger.add(samples)
        done += len(job.items)
    on_progress(stage, "", done, total)


def decode(recipe: Recipe, job: Job, runner: JobRunner) -> list[Sample]:
    """The rows of a job, decoded now."""
    plan = recipe.tasks[job.task]
    return runner.samples(job, plan.task, plan.max_new_tokens)


def warm_up(recipe: Recipe, left: Iterable[Job], runner: JobRunner) -> None:
    """Decode the beginning of each run's first timed job once and discard the result."""
    first: dict[tuple[str, str], Job] = {}
    for job in left:
        if job.is_timed:
            first.setdefault((job.task, job.label), job)
    plain = dataclasses.replace(runner, with_perplexity=False)
    for job in first.values():
        plan = recipe.tasks[job.task]
        plain.samples(job, plan.task, min(plan.max_new_tokens, WARM_UP_TOKENS))


def _choose(recipe: Recipe, folder: Path, ledger: _Ledger) -> dict[str, dict[str, Point]]:
    """The point of each tuned run to report, by the scores of the dev rows; kept once chosen."""
    chosen: dict[str, dict[str, Any]] = read_json(folder / CHOSEN)
    tuned = [run for run in recipe.runs if run.is_tuned]
    if any(task not in chosen.get(run.name, {}) for run in tuned for task in run.tasks):
        score_folder(recipe, folder)
        scores = {row.key: row for row in read_scores(folder)}
        dev = [sample for sample in ledger.done.values() if sample.stage == DEV]
        for name, found in choose(recipe, dev, scores).items():
            chosen[name] = found | chosen.get(name, {})
        write_json(folder / CHOSEN, chosen)
    return chosen_points(recipe, chosen)
