"""What the numbers rest on: rows, items, settings, machines, definitions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtad.bench.report.metrics import MEAN_QUALITY, METRICS, joules
from mtad.bench.report.results import Results
from mtad.bench.report.summary import Summary
from mtad.bench.report.table import NONE, Table, number, table_of
from mtad.bench.sample import Sample
from mtad.bench.statistics import MIN_ITEMS, NUM_RESAMPLES
from mtad.engine.stats import total


def positions(results: Results) -> dict[str, list[float]]:
    """The share of steps that accept each position, by run; runs that never draft are left out."""
    stats = {
        run: total(row.sample.total_stats for row in rows) for run, rows in results.by_run.items()
    }
    return {
        run: each.acceptance_rate_per_position
        for run, each in stats.items()
        if each.num_draft_tokens
    }


def position_table(summary: Summary) -> Table:
    """Acceptance per position, for runs that draft."""
    rates = positions(summary.results)
    deepest = max(map(len, rates.values()), default=0)
    rows = [
        {"run": run, **{str(at + 1): _rate(each, at) for at in range(deepest)}}
        for run, each in rates.items()
    ]
    note = "The share of verification steps that accept at least that many draft tokens, a_j/S."
    return table_of("Acceptance per position", rows, note, slug="positions")


def _rate(rates: Sequence[float], at: int) -> str:
    return number(rates[at], 2) if at < len(rates) else NONE


def phase_table(summary: Summary) -> Table:
    """Where the seconds and joules of decoding go, for rows whose phases were measured."""
    sums = {
        (run, unit): _sum_by_name(getattr(row.sample, field) for row in rows)
        for run, rows in summary.results.by_run.items()
        for unit, field in (("s", "phases_s"), ("J", "phases_j"))
    }
    names = dict.fromkeys(name for phases in sums.values() for name in phases)
    rows = [
        {"run": run, "of": unit, **{n: _share(phases.get(n), sum(phases.values())) for n in names}}
        for (run, unit), phases in sums.items()
        if phases
    ]
    note = (
        "Share of the seconds, or joules, of all phases together in %. Joules are there where the "
        "meter's counters are fast enough to split them."
    )
    return table_of("Phases", rows, note, num_labels=2, slug="phases")


def _sum_by_name(parts: Iterable[Mapping[str, float] | None]) -> dict[str, float]:
    """The sums of the values with one name; None has no part in them."""
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in (part or {}).items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def _share(part: float | None, whole: float) -> str:
    return NONE if part is None or not whole else number(100 * part / whole, 1)


def coverage_table(summary: Summary) -> Table:
    """What each run has: rows, items, seeds, scores, timed rows, energy, batch sizes."""
    rows = [_coverage(summary, run) for run in summary.runs]
    note = (
        "Only timed rows count in speed and energy. Rows without a score are left out of the "
        "quality, not counted as 0."
    )
    return table_of("Rows and items", rows, note, slug="rows")


def _coverage(summary: Summary, run: str) -> dict[str, str]:
    results = summary.results
    samples, problems = [row.sample for row in results.by_run[run]], results.problems(run)
    timed = [sample for sample in samples if sample.is_timed]
    return {
        "run": run,
        "rows": str(len(samples)),
        **{
            f"items of {task}": f"{summary.num_items(run, task)} of {len(items)}"
            for task, items in results.items.items()
        },
        "seeds": _listed({sample.seed for sample in samples}),
        "without a score": "; ".join(f"{n} × {why}" for why, n in problems.items()) or "0",
        "timed rows": str(len(timed)),
        "timed rows with energy": str(sum(joules(sample) is not None for sample in timed)),
        "batch size, timed": _listed({sample.batch_size for sample in timed}),
        "batch size, others": _listed({s.batch_size for s in samples if not s.is_timed}),
        "conditions": ", ".join(sorted({sample.conditions for sample in samples})),
    }


def _listed(numbers: set[int]) -> str:
    if len(numbers) > 4 and max(numbers) - min(numbers) == len(numbers) - 1:
        return f"{min(numbers)} … {max(numbers)}"
    return ", ".join(map(str, sorted(numbers))) or NONE


def runs_table(summary: Summary) -> Table:
    """The method, options and sampling settings of each run."""
    rows = [
        [run, *map("; ".join, zip(*settings, strict=True))]
        for run, rows in summary.results.by_run.items()
        for settings in [dict.fromkeys(_settings(row.sample) for row in rows)]
    ]
    headers = ["run", "method", "contract", "options", "sampling", "models"]
    note = "Several settings in one cell belong to different tasks, in one order in all cells."
    return Table("Runs", headers, rows, note, num_labels=len(headers), slug="runs")


def _settings(sample: Sample) -> tuple[str, ...]:
    contracts: dict[bool | None, str] = {True: "lossless", False: "lossy"}
    return (
        str(sample.method["name"]),
        contracts.get(sample.method.get("lossless"), NONE),
        _pairs(sample.method.get("options", {})),
        _pairs(sample.sampling),
        sample.models,
    )


def _pairs(options: Mapping[str, Any]) -> str:
    """Options on one line."""
    return ", ".join(f"{name} {_plain(value)}" for name, value in options.items()) or NONE


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def chosen_table(results: Results) -> Table:
    """What the dev stage chose for each tuned run and task."""
    rows = [
        {
            "run": run,
            "task": task,
            "chosen": str(choice.get("run", NONE)),
            "options": _pairs(choice.get("options", {})),
            "by": str(choice.get("rule", NONE)),
            "points tried": str(choice.get("num_points", NONE)),
        }
        for run, by_task in results.chosen.items()
        for task, choice in by_task.items()
    ]
    note = "Chosen on the items of the dev stage, which are in none of the other tables."
    return table_of("Chosen options", rows, note, num_labels=5, slug="chosen")


def further_table(results: Results) -> Table:
    """Metrics that only one task has."""
    rows = [
        {"task": task, "run": run, "figure": name, "value": number(value, 3)}
        for (task, run), values in results.more.items()
        for name, value in values.items()
    ]
    return table_of("Further metrics", rows, num_labels=3, slug="further")


def condition_tables(results: Results) -> list[Table]:
    """Every line of conditions.jsonl that a row of the test stage names."""
    used = list(dict.fromkeys(row.sample.conditions for row in results.rows))
    return [_conditions(name, results.conditions.get(name)) for name in used]


def _conditions(name: str, facts: Mapping[str, Any] | None) -> Table:
    rows = [[key, text] for key, text in _flat(facts or {}) if key != "id"]
    note = "" if facts else "conditions.jsonl has no such line."
    title, slug = f"Conditions {name}", f"conditions-{name}"
    return Table(title, ["fact", "value"], rows, note, num_labels=2, slug=slug)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, _plain(value)


def definition_table() -> Table:
    """The formula of every metric."""
    rows = [(m.title, m.unit or NONE, m.formula) for m in (*METRICS, MEAN_QUALITY)]
    rows += [("tokens/s, relative", NONE, "tokens/s of the run / tokens/s of the reference")]
    note = (
        "S: verification steps, D: drafted, A: accepted draft tokens. Σ runs over all seeds of all "
        f"items. Intervals: 95 %, percentiles of {NUM_RESAMPLES} resamples of items with all of "
        "their seeds, within each task; the same resamples for all runs. Where all scores are at "
        "one end of the scale: the exact binomial bound, which the mean quality adds in full. "
        f"Below {MIN_ITEMS} common items no run is called better or worse. † by Holm's rule, with "
        "the normal approximation."
    )
    headers = ["figure", "unit", "formula"]
    return Table("Definitions", headers, rows, note, num_labels=3, slug="definitions")


def warnings(summary: Summary) -> list[str]:
    """What makes numbers less comparable than they look, one sentence each."""
    results, found = summary.results, []
    timed = [row.sample for row in results.rows if row.sample.is_timed]
    if len({sample.batch_size for sample in timed}) > 1:
        found.append("Timed rows have different batch sizes; their speeds are not comparable.")
    if len({sample.conditions for sample in timed}) > 1:
        found.append("Timed rows come from more than one machine or setting; see the conditions.")
    for task in summary.tasks:
        short = [r for r in summary.runs if summary.num_items(r, task) < len(results.items[task])]
        if short:
            found.append(f"Some items of {task} are missing in: {', '.join(short)}.")
    unscored = [f"{run} {n}" for run in summary.runs if (n := results.problems(run).total())]
    if unscored:
        found.append(f"Rows without a score, not counted as 0: {', '.join(unscored)}.")
    if results.num_stray_scores:
        found.append(f"{results.num_stray_scores} scores have no sample and are left out.")
    return found
