"""Keeps benchmarks/headline.json: every figure of the README's tables of results, from its rows.

    python benchmarks/headline.py PAIR FOLDER COMMAND [METRIC …]    take a folder's figures in
    python benchmarks/headline.py                                   make all again from their rows

Where several folders measured a pair, METRIC … says which figures are this one's; without, all.

A key is PAIR.METHOD.METRIC, where METHOD is the run's label in small letters and underscores. An
entry has the value and its interval (low and high; None where there is none), the unit, the command
that made the rows, the file that they are in, the label of the run, and the number of items or
repeats that the value rests on. Intervals of `mtad bench run` are 95 % intervals over items; those
of `mtad bench speed` hold the least and the largest of its repeats.

`docs/generate.py --check` makes all figures again and names the file where they differ.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from mtad.bench.files import SAMPLES
from mtad.bench.report import Summary
from mtad.bench.report.column import Column
from mtad.bench.report.metrics import (
    ACCEPTANCE_LENGTH,
    ACCEPTANCE_RATE,
    ENERGY,
    MEAN_QUALITY,
    PERPLEXITY,
    QUALITY,
    REPETITION,
    SPEED,
)
from mtad.bench.results import read_results
from mtad.bench.speed.baseline import PLAIN
from mtad.bench.speed.rows import ROWS
from mtad.bench.speed.summary import read_speed
from mtad.bench.statistics import Estimate
from mtad.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "benchmarks" / "headline.json"
RELATIVE = "tokens_per_s_relative"
OVER_TRANSFORMERS = "tokens_per_s_over_transformers"
METRICS: Final = {
    "mean_quality": MEAN_QUALITY,
    "perplexity": PERPLEXITY,
    "repetition_rate": REPETITION,
    "acceptance_length": ACCEPTANCE_LENGTH,
    "draft_acceptance_rate": ACCEPTANCE_RATE,
    "joules_per_token": ENERGY,
}
"""The metrics of all tasks together that a table may show, by their name in a key."""

Entry = dict[str, Any]
Entries = dict[str, Entry]


def key(pair: str, run: str, metric: str) -> str:
    """The key of a figure."""
    method = re.sub(r"[^a-z0-9]+", "_", run.lower()).strip("_")
    return f"{pair}.{method}.{metric}"


def of_folder(
    pair: str, folder: Path, command: str, root: Path = ROOT, metrics: Collection[str] = ()
) -> Entries:
    """The figures of a folder that `mtad bench run` and `score`, or `mtad bench speed`, wrote.

    Args:
        pair: the first part of the keys.
        folder: in the repository.
        command: that made the rows.
        root: of the repository.
        metrics: those to take; none of them named is all.

    Raises:
        DataError: it is neither; a file is damaged, two labels give the same key, or the folder
            has no figure of a metric.
    """
    folder = folder.resolve()
    for name, figures in {SAMPLES: _of_samples, ROWS: _of_speed}.items():
        for path in (folder / name, folder / f"{name}.xz"):
            if path.exists():
                common = {"command": command, "rows": _within(path, root.resolve())}
                found = _keyed(pair, ((*one, common) for one in figures(folder)))
                return _only(metrics, found, folder)
    raise DataError(f"{folder} has neither {SAMPLES} nor {ROWS}; give a folder of results")


def _only(metrics: Collection[str], found: Entries, folder: Path) -> Entries:
    """The figures of these metrics; all if none is named."""
    known = dict.fromkeys(map(metric_of, found))
    if missing := [name for name in metrics if name not in known]:
        raise DataError(f"{folder} has no figure of {missing[0]}; it has {', '.join(known)}")
    return {name: one for name, one in found.items() if not metrics or metric_of(name) in metrics}


def metric_of(name: str) -> str:
    """The metric of a key."""
    return name.rpartition(".")[2]


def _within(path: Path, root: Path) -> str:
    """The path from the root of the repository."""
    if not path.is_relative_to(root):
        raise DataError(f"{path} is not in {root}; copy the folder there, so that it can be kept")
    return path.relative_to(root).as_posix()


def _keyed(pair: str, figures: Iterator[tuple[str, str, Entry, Entry]]) -> Entries:
    found: Entries = {}
    for run, metric, entry, common in figures:
        name = key(pair, run, metric)
        if name in found:
            raise DataError(f"the runs {found[name]['run']!r} and {run!r} share the key {name}")
        found[name] = {**entry, **common, "run": run}
    return found


def _of_samples(folder: Path) -> Iterator[tuple[str, str, Entry]]:
    """Run, metric and figure: the scores by task, and the metrics of all tasks together."""
    summary = Summary(read_results(folder))
    reference = summary.results.reference_run
    columns = {task: Column(summary, QUALITY, task) for task in summary.results.scored_tasks}
    columns |= {name: Column(summary, metric) for name, metric in METRICS.items()}
    for run in summary.runs:
        for name, column in columns.items():
            factor, unit, _ = column.scale
            yield from _figure(
                run, name, summary.estimate(run, column.metric, column.task), unit, factor
            )
        speed = summary.compare(run, reference, SPEED).estimate
        if run == reference and speed.value is not None:
            speed = Estimate(1.0, num_items=speed.num_items)
        yield from _figure(run, RELATIVE, speed, f"times {reference}")


def _of_speed(folder: Path) -> Iterator[tuple[str, str, Entry]]:
    """Run, metric and figure: end to end, over transformers' generate."""
    speed = read_speed(folder)
    for run, result in speed.main.items():
        found = speed.ratio(result, PLAIN)
        if found is not None and run != PLAIN:
            repeats = len({repeat for repeat, _ in result.turns})
            estimate = Estimate(found.value, found.low, found.high, repeats)
            yield from _figure(run, OVER_TRANSFORMERS, estimate, f"times {PLAIN}, end to end")


def _figure(
    run: str, metric: str, estimate: Estimate, unit: str, factor: float = 1.0
) -> Iterator[tuple[str, str, Entry]]:
    """The figure if there is one; six digits, so that rounding of the last bit does not show."""
    if estimate.value is None:
        return
    ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    entry = {k: None if v is None else float(f"{v * factor:.6g}") for k, v in ends.items()}
    yield run, metric, {**entry, "unit": unit, "num": estimate.num_items}


def read(path: Path = FILE) -> Entries:
    """The figures that are kept."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def again(entries: Entries, root: Path = ROOT) -> Entries:
    """The figures as their rows give them now, folder by folder in the order of the entries.

    A metric belongs to the folder that its figures are from. A figure that the rows do not give is
    left out, and one of such a metric that they give and the entries lack comes in.
    """
    wanted: dict[tuple[str, str, str], set[str]] = {}
    for name, entry in entries.items():
        source = (name.partition(".")[0], entry["rows"], entry["command"])
        wanted.setdefault(source, set()).add(metric_of(name))
    found: Entries = {}
    for (pair, rows, command), metrics in wanted.items():
        made = _of_rows(pair, (root / rows).parent, command, root)
        found |= {name: entry for name, entry in made.items() if metric_of(name) in metrics}
    return found


@cache
def _of_rows(pair: str, folder: Path, command: str, root: Path) -> Entries:
    return of_folder(pair, folder, command, root)


def text(entries: Mapping[str, Entry]) -> str:
    """The file's text: one figure a line, so that a change of one is a change of a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def put(entries: Entries, new: Entries) -> Entries:
    """The entries with the new ones in place of those of the same pair and metric."""
    places = {(name.partition(".")[0], metric_of(name)) for name in new}
    kept = {
        name: entry
        for name, entry in entries.items()
        if (name.partition(".")[0], metric_of(name)) not in places
    }
    return {**kept, **new}


def main(arguments: list[str]) -> str:
    """Write the file; what was done."""
    entries = read()
    if not arguments:
        found = again(entries)
    elif len(arguments) >= 3:
        pair, folder, command, *metrics = arguments
        found = put(entries, of_folder(pair, Path(folder), command, metrics=metrics))
    else:
        raise SystemExit(f"usage: python {sys.argv[0]} [PAIR FOLDER COMMAND [METRIC …]]")
    FILE.write_text(text(found), encoding="utf-8")
    changed = sum(found.get(name) != entries.get(name) for name in {*found, *entries})
    return f"{len(found)} figures in {FILE}, {changed} changed; next: python docs/generate.py"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
