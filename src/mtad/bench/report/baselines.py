"""Lossy runs beside what they must be compared with: greedy decoding, and likely sampling.

Text that is likelier under the target can be had without a lossy rule: from the target at a lower
temperature, down to greedy decoding, where drafts are checked without loss. So each lossy run is
compared with greedy speculative decoding, and with plain sampling at the temperature at which that
has the run's log-likelihood per token. Between the temperatures that were decoded, log-perplexity
and quality are interpolated linearly, in every resample of the items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mtad.bench.report.column import Column
from mtad.bench.report.metrics import LOG_LIKELIHOOD, MEAN_QUALITY, PERPLEXITY, SPEED
from mtad.bench.report.summary import Summary
from mtad.bench.report.table import NONE, Table, formatted, table_of
from mtad.bench.sample import Sample
from mtad.bench.statistics import Comparison, Estimate, Floats, Resampled, holm, judge

FARTHEST: Final = 0.5
"""Neighbouring temperatures that are farther apart are not interpolated between."""
SUGGESTED: Final = (0.0, 0.3, 0.5, 0.7)
_ROUNDING: Final = 1e-6
"""Nats per token by which equal texts may differ, read in other batches."""
_MAY_DIFFER: Final = ("temperature", "max_new_tokens")


@dataclass(frozen=True)
class Equal:
    """Plain sampling that has a run's log-likelihood per token.

    Attributes:
        temperature: of it.
        gain: mean quality of the run over its quality; None where nothing has a score.
    """

    temperature: Estimate
    gain: Resampled | None


class Ladder:
    """Plain sampling from the target at several temperatures, otherwise with the same settings.

    The settings are those of the report's reference where it samples plainly, else those of the
    first run that does.

    Args:
        rows: of all runs.

    Attributes:
        runs: by temperature, the lowest first; greedy decoding is at 0.
    """

    def __init__(self, rows: Summary) -> None:
        self._rows = rows
        plain = [run for run in rows.runs if _is_plain(_first(rows, run))]
        warm = [run for run in plain if _temperature(rows, run) > 0]
        wanted = rows.results.reference_run
        base = wanted if wanted in warm else next(iter(warm), None)
        steps: dict[float, str] = {}
        for run in plain:
            if base is not None and _others(rows, run) == _others(rows, base):
                steps.setdefault(_temperature(rows, run), run)
        measured = {t: run for t, run in steps.items() if rows.is_measured(run, PERPLEXITY)}
        self.runs = dict(sorted(measured.items()))

    def at(self, run: str) -> Equal | str:
        """Where the run's log-likelihood per token is, or in words why that is not known."""
        if not self._rows.is_measured(run, PERPLEXITY):
            return "its likelihood was not measured"
        at, logs, gains = self._beside(run)
        if len(at) < 2:
            return "too few temperatures"
        if logs[0, 0] > _ROUNDING:
            return f"likelier than at {at[0]:g}"
        if logs[0, -1] < -_ROUNDING:
            return f"less likely than at {at[-1]:g}"
        found = np.array([np.interp(0.0, row, at) for row in logs])
        low, high = at[at <= found[0]].max(), at[at >= found[0]].min()
        if high - low > FARTHEST:
            return f"between {low:g} and {high:g}, which are too far apart"
        num_items = self._rows.resampled(run, PERPLEXITY).num_items
        gain = None
        if gains is not None:
            points = [np.interp(t, at, row) for t, row in zip(found, gains[0], strict=True)]
            gain = Resampled(np.array(points), gains[1])
        return Equal(Resampled(found, num_items).estimate(), gain)

    def _beside(self, run: str) -> tuple[Floats, Floats, tuple[Floats, int] | None]:
        """Each temperature on the items that it has in common with the run.

        Returns:
            The temperatures; log-perplexity at each over that of the run, growing; mean quality
            of the run over that at each, with its items. The latter are (resamples, temperatures).
        """
        found = [(t, *self._pair(run, step)) for t, step in self.runs.items()]
        found = [one for one in found if np.isfinite(one[1][0])]
        if not found:
            return np.zeros(0), np.zeros((0, 0)), None
        at, logs, gains = zip(*found, strict=True)
        rising = np.maximum.accumulate(np.stack(logs, 1), axis=1)
        if not self._rows.results.scored_tasks:
            return np.array(at), rising, None
        num_items = min(gain.num_items for gain in gains)
        return np.array(at), rising, (np.stack([gain.values for gain in gains], 1), num_items)

    def _pair(self, run: str, step: str) -> tuple[Floats, Resampled]:
        """Log-perplexity of a step over that of a run, and mean quality of the run over its."""
        both = (step, run), (run, step)
        above, below = (self._rows.resampled(r, PERPLEXITY, None, other) for r, other in both)
        its, own = (self._rows.resampled(r, MEAN_QUALITY, None, other) for r, other in both)
        return np.log(above.over(below).values), own.minus(its)


def is_lossy(rows: Summary, run: str) -> bool:
    """Whether the run's texts follow another law than the target's."""
    first = _first(rows, run)
    return not first.method["lossless"] or first.models != "pair"


def greedy_run(rows: Summary) -> str | None:
    """The run of greedy speculative decoding, or another of the same law; None without one."""
    found = [r for r in rows.runs if not is_lossy(rows, r) and _temperature(rows, r) == 0]
    order = sorted(found, key=lambda r: _first(rows, r).method["name"] != "speculative_sampling")
    return next(iter(order), None)


def baseline_table(rows: Summary) -> Table:
    """One row per lossy run; the note says what could not be had. No rows without a lossy run."""
    runs = [run for run in rows.runs if is_lossy(rows, run)]
    greedy, ladder = greedy_run(rows), Ladder(rows)
    parts = [
        {"run": runs},
        _beside_greedy(rows, runs, greedy),
        _beside_sampling(rows, runs, ladder),
    ]
    columns = {title: cells for part in parts for title, cells in part.items()}
    found = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    note = " ".join(_notes(rows, greedy, ladder))
    return table_of(
        "Lossy runs beside greedy decoding and likely sampling", found, note, slug="baselines"
    )


def _beside_greedy(rows: Summary, runs: Sequence[str], greedy: str | None) -> dict[str, list[str]]:
    if greedy is None:
        return {}
    quality, nats, speed = (Column(rows, m) for m in (MEAN_QUALITY, LOG_LIKELIHOOD, SPEED))
    found = {}
    if rows.results.scored_tasks:
        found[f"mean quality over {greedy}"] = quality.compared_cells(runs, greedy)
    if rows.is_measured(greedy, PERPLEXITY):
        logs = [rows.compare(run, greedy, LOG_LIKELIHOOD).estimate for run in runs]
        found[f"{nats.metric.title} over {greedy}, nats"] = [
            formatted(e, 2, sign="+") for e in logs
        ]
    if rows.is_measured(greedy, SPEED):
        found[f"tokens/s over {greedy}"] = [
            formatted(speed.compare(r, greedy).estimate, 2) for r in runs
        ]
    return found


def _beside_sampling(rows: Summary, runs: Sequence[str], ladder: Ladder) -> dict[str, list[str]]:
    if len(ladder.runs) < 2:
        return {}
    equals = [ladder.at(run) for run in runs]
    found = {"as likely as sampling at temperature": [_temperature_cell(e) for e in equals]}
    if rows.results.scored_tasks:
        found["mean quality over that sampling"] = _gain_cells(rows, equals)
    return found


def _temperature_cell(equal: Equal | str) -> str:
    return equal if isinstance(equal, str) else formatted(equal.temperature, 2)


def _gain_cells(rows: Summary, equals: Sequence[Equal | str]) -> list[str]:
    found = [
        judge(e.gain, 0, "higher")
        if isinstance(e, Equal) and e.gain is not None
        else Comparison(Estimate(None), NONE)
        for e in equals
    ]
    holds = holm([comparison.p_value for comparison in found])
    column = Column(rows, MEAN_QUALITY)
    return [column.compared(one, hold) for one, hold in zip(found, holds, strict=True)]


def _notes(rows: Summary, greedy: str | None, ladder: Ladder) -> Iterator[str]:
    """What the columns are, and why others are not there."""
    yield (
        "What a lossy rule brings counts only beside what can be had without one. Differences are "
        "paired, on the items that both runs have, with 95 % intervals; mean quality is in points "
        "of 100."
    )
    if greedy is None:
        yield (
            "Greedy speculative decoding was not run, so nothing is compared with it: add a run of "
            "speculative_sampling with temperature 0."
        )
    if len(ladder.runs) < 2:
        more = [t for t in SUGGESTED if t not in ladder.runs]
        yield (
            "The temperature of equal log-likelihood is not known: plain sampling has likelihoods "
            f"at {len(ladder.runs)} temperature{'s' * (len(ladder.runs) != 1)} and needs two or "
            f"more. Give the recipe's run of autoregressive temperatures = {more}, and leave "
            "perplexity = true."
        )
    else:
        among = ", ".join(f"{t:g} ({run})" for t, run in ladder.runs.items())
        yield (
            "The temperature is that at which plain sampling has the run's log-likelihood per "
            f"token, interpolated in every resample of the items between {among}. An interval that "
            "ends at the lowest or highest of them may reach beyond."
        )
    if not rows.results.scored_tasks:
        yield "No task has scores, so there are no differences in quality."


def _first(rows: Summary, run: str) -> Sample:
    return rows.results.by_run[run][0].sample


def _is_plain(first: Sample) -> bool:
    return first.method["name"] == "autoregressive" and first.models == "pair"


def _temperature(rows: Summary, run: str) -> float:
    return float(_first(rows, run).sampling.get("temperature", 1.0))


def _others(rows: Summary, run: str) -> Mapping[str, Any]:
    """The sampling settings apart from temperature and budget."""
    given = _first(rows, run).sampling
    return {name: value for name, value in given.items() if name not in _MAY_DIFFER}
