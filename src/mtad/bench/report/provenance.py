"""What the numbers rest on: rows, items, settings, machines, definitions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtad.bench.report.metrics import MEAN_QUALITY, METRICS, joules
from mtad.bench.report.results import Results, Row
from mtad.bench.report.summary import Summary
from mtad.bench.report.table import NONE, Table, number
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
        [run, *(number(rate, 2) for rate in each), *[NONE] * (deepest - len(each))]
        for run, each in rates.items()
    ]
    note = "The share of verification steps that accept at least that many draft tokens, a_j/S."
    headers = ["run", *(str(position) for position in range(1, deepest + 1))]
    return Table("Acceptance per position", headers, rows, note, slug="positions")


def phase_table(summary: Summary) -> Table:
    """Where the seconds and joules of decoding go, for rows whose phases were measured."""
    sums = {
        (run, unit): sum_by_name(phases)
        for run, rows in summary.results.by_run.items()
        for unit, phases in (
            ("s", [row.sample.phases_s for row in rows]),
            ("J", [row.sample.phases_j for row in rows]),
        )
    }
    names = list(dict.fromkeys(name for phases in sums.values() for name in phases))
    rows = [
        [run, unit, *(_share(phases.get(name), sum(phases.values())) for name in names)]
        for (run, unit), phases in sums.items()
        if phases
    ]
    note = (
        "Share of the seconds, or joules, of all phases together in %. Joules are there where the "
        "meter's counters are fast enough to split them."
    )
    return Table("Phases", ["run", "of", *names], rows, note, num_labels=2, slug="phases")


def sum_by_name(parts: Iterable[Mapping[str, float] | None]) -> dict[str, float]:
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
    headers = [
        "run",
        "rows",
        *(f"items of {task}" for task in summary.tasks),
        "seeds",
        "without a score",
        "timed rows",
        "timed rows with energy",
        "batch size, timed",
        "batch size, others",
        "conditions",
    ]
    rows = [_coverage(summary, run) for run in summary.runs]
    note = (
        "Only timed rows count in speed and energy. Rows without a score are left out of the "
        "quality, not counted as 0."
    )
    return Table("Rows and items", headers, rows, note, slug="rows")


def _coverage(summary: Summary, run: str) -> list[str]:
    rows, items = summary.results.by_run[run], summary.results.items
    timed = [row for row in rows if row.sample.is_timed]
    others = [row for row in rows if not row.sample.is_timed]
    return [
        run,
        str(len(rows)),
        *(f"{summary.num_items(run, task)} of {len(items[task])}" for task in summary.tasks),
        _listed({row.sample.seed for row in rows}),
        "; ".join(f"{n} × {why}" for why, n in summary.results.problems(run).items()) or "0",
        str(len(timed)),
        str(sum(joules(row.sample) is not None for row in timed)),
        _listed({row.sample.batch_size for row in timed}),
        _listed({row.sample.batch_size for row in others}),
        ", ".join(sorted({row.sample.conditions for row in rows})),
    ]


def _listed(numbers: set[int]) -> str:
    if len(numbers) > 4 and max(numbers) - min(numbers) == len(numbers) - 1:
        return f"{min(numbers)} … {max(numbers)}"
    return ", ".join(map(str, sorted(numbers))) or NONE


def runs_table(summary: Summary) -> Table:
    """The method, options and sampling settings of each run."""
    rows = [
        [run, *map("; ".join, zip(*settings, strict=True))]
        for run, rows in summary.results.by_run.items()
        for settings in [list(dict.fromkeys(_settings(row) for row in rows))]
    ]
    headers = ["run", "method", "contract", "options", "sampling", "models"]
    note = "Several settings in one cell belong to different tasks, in one order in all cells."
    return Table("Runs", headers, rows, note, num_labels=len(headers), slug="runs")


def _settings(row: Row) -> tuple[str, str, str, str, str]:
    sample = row.sample
    return (
        str(sample.method["name"]),
        {True: "lossless", False: "lossy"}.get(sample.method.get("lossless"), NONE),  # type: ignore[arg-type]
        pairs(sample.method.get("options", {})),
        pairs(sample.sampling),
        sample.models,
    )


def pairs(options: Mapping[str, Any]) -> str:
    """Options on one line."""
    return ", ".join(f"{name} {_plain(value)}" for name, value in options.items()) or NONE


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def chosen_table(results: Results) -> Table:
    """What the dev stage chose for each tuned run and task."""
    rows = [
        [
            run,
            task,
            str(choice.get("run", NONE)),
            pairs(choice.get("options", {})),
            str(choice.get("rule", NONE)),
            str(choice.get("num_points", NONE)),
        ]
        for run, by_task in results.chosen.items()
        for task, choice in by_task.items()
    ]
    headers = ["run", "task", "chosen", "options", "by", "points tried"]
    note = "Chosen on the items of the dev stage, which are in none of the other tables."
    return Table("Chosen options", headers, rows, note, num_labels=5, slug="chosen")


def further_table(results: Results) -> Table:
    """Metrics that only one task has."""
    rows = [
        [task, run, name, number(value, 3)]
        for (task, run), values in results.more.items()
        for name, value in values.items()
    ]
    headers = ["task", "run", "figure", "value"]
    return Table("Further metrics", headers, rows, num_labels=3, slug="further")


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
    rows = [[m.title, m.unit or NONE, m.formula] for m in (*METRICS, MEAN_QUALITY)]
    rows += [["tokens/s, relative", NONE, "tokens/s of the run / tokens/s of the reference"]]
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
    timed = {run: [r.sample for r in rows if r.sample.is_timed] for run, rows in _rows(summary)}
    if len({sample.batch_size for samples in timed.values() for sample in samples}) > 1:
        found.append("Timed rows have different batch sizes; their speeds are not comparable.")
    if len({sample.conditions for samples in timed.values() for sample in samples}) > 1:
        found.append("Timed rows come from more than one machine or setting; see the conditions.")
    for task in summary.tasks:
        short = [r for r in summary.runs if summary.num_items(r, task) < len(results.items[task])]
        if short:
            found.append(f"Some items of {task} are missing in: {', '.join(short)}.")
    unscored = {run: sum(results.problems(run).values()) for run in summary.runs}
    if any(unscored.values()):
        listed = ", ".join(f"{run} {n}" for run, n in unscored.items() if n)
        found.append(f"Rows without a score, not counted as 0: {listed}.")
    if results.num_stray_scores:
        found.append(f"{results.num_stray_scores} scores have no sample and are left out.")
    return found


def _rows(summary: Summary) -> Iterable[tuple[str, Sequence[Row]]]:
    return summary.results.by_run.items()
