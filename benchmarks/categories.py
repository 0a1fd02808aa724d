"""Tables by category of question, such as Spec-Bench's 13: acceptance and relative speed.

A question's category stands in the detail of its score. Few questions are in each, so that there
are no intervals here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from mtad.bench.report import Results
from mtad.bench.report.table import NONE, Table, number, table_of
from mtad.bench.sample import Sample
from mtad.engine.stats import total

CATEGORY: Final = "category"

Groups = Mapping[str, Mapping[str, Sequence[Sample]]]
"""The samples of each run, by category."""


def by_category(results: Results) -> list[Table]:
    """The tables; none where no score says a category."""
    groups = _groups(results)
    if not any(groups.values()):
        return []
    speeds = {run: _each(found, _tokens_per_s) for run, found in groups.items()}
    lengths = {run: _each(found, _acceptance_length) for run, found in groups.items()}
    plain = speeds[results.reference_run]
    ratios = {
        run: {name: _over(value, plain.get(name)) for name, value in found.items()}
        for run, found in speeds.items()
    }
    drafting = {run: found for run, found in lengths.items() if any(found.values())}
    return [
        _table("Mean acceptance length by category", drafting),
        _table(f"Tokens/s by category, decode only, times {results.reference_run}", ratios),
    ]


def _groups(results: Results) -> Groups:
    found: dict[str, dict[str, list[Sample]]] = {}
    for run, rows in results.by_run.items():
        of_run = found.setdefault(run, {})
        for row in rows:
            if row.scored is not None and CATEGORY in row.scored.detail:
                of_run.setdefault(row.scored.detail[CATEGORY], []).append(row.sample)
    return found


Values = Mapping[str, float | None]


def _each(
    groups: Mapping[str, Sequence[Sample]], value: Callable[[Sequence[Sample]], float | None]
) -> Values:
    return {name: value(samples) for name, samples in groups.items()}


def _acceptance_length(samples: Iterable[Sample]) -> float | None:
    """1 + A/S; None without drafts."""
    stats = total(sample.total_stats for sample in samples)
    return stats.mean_acceptance_length if stats.num_draft_tokens else None


def _tokens_per_s(samples: Sequence[Sample]) -> float | None:
    timed = [sample for sample in samples if sample.is_timed]
    seconds = sum(sample.decode_s for sample in timed)
    return sum(sample.num_output_tokens for sample in timed) / seconds if seconds else None


def _over(value: float | None, plain: float | None) -> float | None:
    return None if value is None or not plain else value / plain


def _table(title: str, values: Mapping[str, Values]) -> Table:
    names = dict.fromkeys(name for found in values.values() for name in found)
    rows = [
        {"run": run, **{name: _cell(found.get(name)) for name in sorted(names)}}
        for run, found in values.items()
    ]
    return table_of(title, rows)


def _cell(value: float | None) -> str:
    return NONE if value is None else number(value, 2)
