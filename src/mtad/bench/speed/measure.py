"""The loop: all runs take turns on the same prompts, and every row is written as soon as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from mtad.api.pair import ModelPair
from mtad.bench.conditions import conditions
from mtad.bench.files import CONDITIONS, open_rows, read_json, write_json
from mtad.bench.plan import PairSpec
from mtad.bench.speed.baseline import Transformers
from mtad.bench.speed.cost import PairCost
from mtad.bench.speed.llama_cpp import LLAMA_CPP, VARIANTS, LlamaCpp
from mtad.bench.speed.llama_engine import LlamaEngine
from mtad.bench.speed.models import Loaded, load, measured_cost, models_of, require_pair
from mtad.bench.speed.plan import BATCHES, CONTEXTS, Experiment, Point, SpeedPlan, experiments
from mtad.bench.speed.prompts import encoded, prompts_for
from mtad.bench.speed.rows import LIMITS, PLAN, ROWS, Measured, Row
from mtad.bench.speed.runs import Decoder, Ours, Sampling
from mtad.core.prompt import Prompt
from mtad.errors import DataError, MtadError
from mtad.jsonl import JsonLines
from mtad.measure.meter import Meter, find_meter, idle_power_w
from mtad.runtime.cpu_tapes import Tapes
from mtad.testing import WIDENED

TAPES_BYTES = 2**33
"""Memory of the tapes of a run, so that none has to leave."""
IDLE_S = 2.0
WATCHED = ("context",)
"""Axes along which the peak of the memory is measured; elsewhere that would cost time."""

ProgressCallback = Callable[[str, int, int], None]
"""Called with the next step, the number of finished rows and of all rows."""
Load = Callable[[PairSpec, int | None], Loaded]


def measure(
    plan: SpeedPlan,
    folder: Path,
    prompts: Sequence[Prompt] = (),
    on_progress: ProgressCallback = lambda text, done, total: None,
    load_one: Load = load,
    start: Callable[[int], LlamaEngine] = LlamaEngine,
) -> None:
    """Decode all that the plan asks for; rows that were written stay if it is interrupted.

    Args:
        plan: what to do.
        folder: made if it is not there; it must not hold rows.
        prompts: instead of the held-out ones.
        on_progress: called before each step.
        load_one: loads a pair and measures its device.
        start: starts llama.cpp with a number of threads.

    Raises:
        DataError: the folder has rows of another run.
        ValueError, MtadError: what was asked for cannot be done.
    """
    require_pair(plan.pair)
    if (folder / ROWS).exists() and (folder / ROWS).stat().st_size:
        raise DataError(
            f"{folder} has rows already, and rows are compared only if they were made side by "
            "side; give another --output, or --report-only to make tables of them"
        )
    if plan.num_threads:
        torch.set_num_threads(plan.num_threads)
    asked = prompts or prompts_for(plan.pair.target, _num_prompts(plan))
    with ExitStack() as stack:
        engine = None
        if LLAMA_CPP in plan.against:
            on_progress(f"starting {LLAMA_CPP}", 0, 0)
            engine = stack.enter_context(closing(start(torch.get_num_threads())))
        on_progress(f"loading {plan.pair.target}", 0, 0)
        _measure_all(_Shelf(folder, plan, load_one, engine), asked, on_progress)


def _measure_all(shelf: _Shelf, asked: Sequence[Prompt], on_progress: ProgressCallback) -> None:
    """All experiments of the plan."""
    plan, folder = shelf.plan, shelf.folder
    main = shelf.take(plan.pair)
    todo = experiments(plan, encoded(main.pair, asked), main.context, main.has_assistant)
    write_json(folder / PLAN, plan.as_dict())
    with open_rows(folder / ROWS) as rows:
        loop = _Loop(shelf, rows, on_progress, sum(e.num_turns for e in todo))
        for experiment in todo:
            loop.run(experiment)
    on_progress("measuring the limits again", loop.total, loop.total)
    shelf.clear()
    on_progress("done", loop.total, loop.total)


def _record_at_once(pair: ModelPair) -> None:
    """Let a pair on a CPU begin anew, and without patience, to record its iterations."""
    if isinstance(pair.graphs, Tapes):
        pair.graphs = Tapes(patience=0, limit_bytes=TAPES_BYTES)


def _num_prompts(plan: SpeedPlan) -> int:
    return max(plan.num_prompts, *(BATCHES if "batch" in plan.scaling else (1,)))


@dataclass
class _Shelf:
    """The pair in use, and the notes about every pair that was."""

    folder: Path
    plan: SpeedPlan
    load_one: Load
    engine: LlamaEngine | None = None
    held: Loaded | None = None
    meters: dict[str, Meter] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def take(self, spec: PairSpec) -> Loaded:
        """The pair; another one that is held is let go first, for both may not fit."""
        if self.held is None or self.held.name != spec.target:
            self.clear()
            has_long = "context" in self.plan.scaling and spec.target in WIDENED
            self.held = self.load_one(spec, max(CONTEXTS) if has_long else None)
            _record_at_once(self.held.pair)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._note_limits(self.held.name, self.held.cost)
            if spec.target not in self.ids:
                self._note_conditions(self.held, spec)
        return self.held

    def clear(self) -> None:
        """Let go of the pair, after its device was measured once more."""
        if self.held is not None:
            self._note_limits(self.held.name, measured_cost(self.held.plain, self.held.pair.models))
        self.held = None

    def _note_limits(self, name: str, cost: PairCost) -> None:
        """Write down the fastest rates that were seen with this pair."""
        known = read_json(self.folder / LIMITS)
        if name in known:
            best = cost.limits.best(PairCost.of(known[name]).limits)
            cost = replace(cost, limits=best)
        write_json(self.folder / LIMITS, known | {name: cost.as_dict()})

    def _note_conditions(self, loaded: Loaded, spec: PairSpec) -> None:
        """Write down on what the rows were made."""
        meter = find_meter([torch.device(m.device) for m in models_of(loaded.plain)])
        facts = {
            "pair": loaded.name,
            "target_weights": loaded.pair.models.target_weights,
            "draft_weights": loaded.pair.models.draft_weights,
            "meter": meter.source,
            "meter_remark": meter.reason,
            "idle_power_w": idle_power_w(meter, IDLE_S) or "unavailable",
            **({} if self.engine is None else {"llama_cpp": self.engine.version}),
        }
        here = conditions(loaded.plain, spec, facts)
        with open_rows(self.folder / CONDITIONS) as rows:
            rows.append([here])
        self.meters[loaded.name], self.ids[loaded.name] = meter, here["id"]


@dataclass
class _Loop:
    """Decodes experiments, and writes every row at once.

    Attributes:
        total: rows that there will be.
        done: rows that there are.
    """

    shelf: _Shelf
    rows: JsonLines
    on_progress: ProgressCallback
    total: int
    done: int = 0

    def run(self, experiment: Experiment) -> None:
        """All turns of an experiment, after each point is warmed up."""
        loaded = self.shelf.take(experiment.pair)
        meter = self.shelf.meters[loaded.name]
        watches = experiment.axis in WATCHED
        engine = self.shelf.engine
        decoders = {p: decoder_of(p, loaded, meter, watches, engine) for p in experiment.points}
        for point, decoder in decoders.items():
            self._say(experiment, f"warming up {point.label}")
            seeds = [self._seed(batch) for batch in range(len(experiment.batches))]
            decoder.warm_up(experiment.batches, seeds, experiment.sampling)
        for repeat, batch, point in experiment.turns():
            self._say(experiment, f"{point.at} {point.label}".strip())
            row = self._row(experiment, repeat, batch, point, decoders[point])
            self.rows.append([row.as_dict()])
            self.done += 1

    def _say(self, experiment: Experiment, text: str) -> None:
        self.on_progress(f"{experiment.axis} {text}".strip(), self.done, self.total)

    def _seed(self, batch: int, repeat: int = 0) -> int:
        return self.shelf.plan.seed + 1000 * batch + 1_000_000 * repeat

    def _row(
        self, experiment: Experiment, repeat: int, batch: int, point: Point, decoder: Decoder
    ) -> Row:
        seed = self._seed(batch, repeat)
        what = decoder, experiment.batches[batch], seed, experiment.sampling
        found, error = measured(*what)
        if found is not None and found.num_unsettled:  # a form that no text had so far
            found, error = measured(*what)
        return Row(
            axis=experiment.axis,
            at=point.at,
            pair=experiment.pair.target,
            run=point.label,
            method=decoder.method,
            batch=batch,
            repeat=repeat,
            seed=seed,
            measured=found,
            error=error,
            conditions=self.shelf.ids[experiment.pair.target],
        )


def decoder_of(
    point: Point,
    loaded: Loaded,
    meter: Meter,
    watches_memory: bool,
    engine: LlamaEngine | None = None,
) -> Decoder:
    """The way to decode that a point stands for; llama.cpp decodes with the engine."""
    if engine is not None and point.label in VARIANTS:
        return LlamaCpp(point.label, loaded, meter, VARIANTS[point.label], engine)
    if point.method is None:
        assisted = point.is_assisted
        return Transformers(point.label, loaded, meter, assisted, watches_memory=watches_memory)
    return Ours(point.label, loaded, meter, point.method, watches_memory=watches_memory)


def measured(
    decoder: Decoder, batch: list[list[int]], seed: int, sampling: Sampling
) -> tuple[Measured | None, str]:
    """What was measured, or why it could not be."""
    try:
        return decoder.measure(batch, seed, sampling), ""
    except MtadError as error:
        return None, str(error)
