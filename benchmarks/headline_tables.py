"""The tables of README.md and the documentation, from the figures of benchmarks/headline.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from headline import METRICS, OVER_TRANSFORMERS, RELATIVE, Entries, Entry, key, metric_of

from mtad import tasks
from mtad.bench.report import TaskInfo
from mtad.bench.report.metrics import MEAN_QUALITY, QUALITY, Metric
from mtad.bench.report.table import NONE, UNAVAILABLE, formatted
from mtad.bench.statistics import Estimate


def results_table(
    entries: Entries, pair: str, wanted: Collection[str] = ()
) -> list[dict[str, str]]:
    """One row per run of a pair: scores by task, then the metrics of all tasks together.

    Args:
        entries: the figures.
        pair: whose figures.
        wanted: metrics that the table shows, as they are called in keys; none named is all.
    """
    runs: dict[str, Entries] = {}
    for name, entry in entries.items():
        metric = metric_of(name)
        is_shown = metric in wanted if wanted else metric != OVER_TRANSFORMERS
        if name.startswith(f"{pair}.") and is_shown:
            runs.setdefault(entry["run"], {})[metric] = entry
    seen = dict.fromkeys(metric for found in runs.values() for metric in found)
    scored = [name for name in tasks.names() if name in seen and name not in METRICS]
    scored.sort(key=[*seen].index)
    return [{"run": run, **_cells(found, scored, wanted)} for run, found in runs.items()]


def _cells(found: Entries, scored: list[str], wanted: Collection[str]) -> dict[str, str]:
    cells = {}
    for task in scored:
        info = TaskInfo.of(tasks.find(task))
        title = f"{task}, {info.metric}, {info.unit}"
        cells[title] = _cell(found.get(task), 1 if info.is_percent else QUALITY.digits)
    for name, metric in METRICS.items():
        if name == "joules_per_token" and (not wanted or RELATIVE in wanted):
            cells["tokens/s, relative"] = _cell(found.get(RELATIVE), 2)
        if name in wanted if wanted else name != "mean_quality" or len(scored) > 1:
            cells[_title(metric)] = _cell(found.get(name), metric.digits, metric)
    return cells


def _title(metric: Metric) -> str:
    return f"{metric.title}, {metric.unit}" if metric is MEAN_QUALITY else metric.title


def speed_table(
    entries: Entries, pairs: Mapping[str, str], runs: Mapping[str, str]
) -> list[dict[str, str]]:
    """End to end over transformers' generate: one row per pair, one column per run.

    Args:
        entries: the figures.
        pairs: what the table calls each pair.
        runs: what the table calls each run.
    """
    return [
        {"pair": called}
        | {
            title: _cell(entries.get(key(pair, run, OVER_TRANSFORMERS)), 2)
            for run, title in runs.items()
        }
        for pair, called in pairs.items()
    ]


def _cell(entry: Entry | None, digits: int, metric: Metric | None = None) -> str:
    if entry is None:
        return UNAVAILABLE if metric is not None and metric.needs_meter else NONE
    return formatted(Estimate(entry["value"], entry["low"], entry["high"]), digits)
