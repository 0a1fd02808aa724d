"""What searches and lossy rules bring beside greedy speculative decoding: a table and a picture.

    python benchmarks/study.py QUALITY SPEED    draw docs/images/study.svg from two folders of rows

Every run is compared with greedy speculative decoding on the same questions, and with plain
sampling at the temperature at which that has the run's perplexity. Between the temperatures that
were decoded, perplexity and quality are interpolated linearly, in every resample of the questions.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from claims import GREEDY, GREEDY_SPECULATIVE, SAMPLING
from headline import ROOT

from mtad.bench.report import Summary
from mtad.bench.report.canvas import Plot, error_bars, label_axes, new_figure, plain, plot_of, style
from mtad.bench.report.metrics import (
    ACCEPTANCE_LENGTH,
    LOG_LIKELIHOOD,
    MEAN_QUALITY,
    PERPLEXITY,
    SPEED,
)
from mtad.bench.report.table import NONE, Table, formatted, number, table_of
from mtad.bench.results import read_results
from mtad.bench.statistics import Estimate, Floats, Resampled

SPEED_ROWS: Final = "benchmarks/results/2026-12-01-cpu-2-cores-smollm2/quality_speed"
"""Timed answers of the runs whose quality is compared."""
PICTURE: Final = ROOT / "docs" / "images" / "study.svg"
TEMPERATURE: Final = f"{SAMPLING}, temperature "


@dataclass(frozen=True)
class Equal:
    """Plain sampling that has a run's perplexity.

    Attributes:
        temperature: of it.
        gain: mean quality of the run over its quality.
    """

    temperature: Estimate
    gain: Estimate


class Ladder:
    """Plain sampling at several temperatures.

    Args:
        rows: of scored runs, those of plain sampling at temperature 1 and 0 among them.
    """

    def __init__(self, rows: Summary) -> None:
        self.rows = rows
        steps = {1.0: SAMPLING, 0.0: GREEDY}
        steps |= {
            float(run.removeprefix(TEMPERATURE)): run
            for run in rows.runs
            if run.startswith(TEMPERATURE)
        }
        self.runs = dict(sorted(steps.items()))

    @cached_property
    def _steps(self) -> tuple[Floats, Floats]:
        """Log-perplexity and quality, (resamples, temperatures)."""
        found = [
            np.stack([self.rows.resampled(run, metric).values for run in self.runs.values()], 1)
            for metric in (PERPLEXITY, MEAN_QUALITY)
        ]
        return np.maximum.accumulate(np.log(found[0]), axis=1), found[1]

    def at(self, run: str) -> Equal | None:
        """Where the run's perplexity is; None beyond the ends, as of likelier text."""
        wanted = np.log(self.rows.resampled(run, PERPLEXITY).values)
        logs, qualities = self._steps
        if not logs[0, 0] <= wanted[0] <= logs[0, -1]:
            return None
        warmth, quality = np.empty_like(wanted), np.empty_like(wanted)
        for index, value in enumerate(wanted):
            warmth[index] = np.interp(value, logs[index], [*self.runs])
            quality[index] = np.interp(warmth[index], [*self.runs], qualities[index])
        own = self.rows.resampled(run, MEAN_QUALITY)
        gain = Resampled(own.values - quality, own.num_items)
        return Equal(Resampled(warmth, own.num_items).estimate(), gain.estimate())


def study(quality: Summary, speed: Summary | None) -> Table:
    """One row per run that is not the target's own law by another way.

    Args:
        quality: of scored runs.
        speed: of timed runs of the same names; None where there are none.
    """
    ladder = Ladder(quality)
    rows = [
        _row(quality, speed, ladder, run)
        for run in quality.runs
        if run in ladder.runs.values() or not _is_lossless(quality, run)
    ]
    return table_of("", rows)


def _is_lossless(rows: Summary, run: str) -> bool:
    return bool(rows.results.by_run[run][0].sample.method["lossless"])


def _row(quality: Summary, speed: Summary | None, ladder: Ladder, run: str) -> Mapping[str, str]:
    is_sampling = run in ladder.runs.values()
    equal = None if is_sampling else ladder.at(run)
    points = quality.compare(run, GREEDY_SPECULATIVE, MEAN_QUALITY).estimate
    nats = quality.compare(run, GREEDY_SPECULATIVE, LOG_LIKELIHOOD).estimate
    times = Estimate(None)
    if speed is not None and run in speed.runs:
        times = speed.compare(run, GREEDY_SPECULATIVE, SPEED).estimate
    return {
        "run": run,
        "quality over greedy's": formatted(points, 1, sign="+"),
        "log p of an answer over greedy's, nats": formatted(nats, 2, sign="+"),
        "tokens per target call": formatted(quality.estimate(run, ACCEPTANCE_LENGTH), 2),
        "tokens/s over greedy speculative's": formatted(times, 2),
        "as likely as sampling at temperature": _short(equal and equal.temperature),
        "quality over that": formatted(equal.gain, 1, sign="+") if equal else NONE,
    }


def _short(estimate: Estimate | None) -> str:
    """The value without its interval."""
    return NONE if estimate is None or estimate.value is None else number(estimate.value, 2)


def picture(quality: Summary, speed: Summary) -> Plot:
    """Quality against tokens/s of the runs that have both."""
    figure = new_figure(9.0, 5.0)
    axes = figure.subplots()
    runs = [run for run in quality.runs if run in speed.runs]
    for index, run in enumerate(runs):
        times = speed.compare(run, GREEDY_SPECULATIVE, SPEED).estimate
        points = quality.mean_quality(run)
        at = times.value or 0.0, points.value or 0.0
        axes.errorbar(
            *at,
            xerr=error_bars([times]),
            yerr=error_bars([points]),
            **style(index) | {"linestyle": "none"},
            markersize=6,
            capsize=2,
            elinewidth=0.6,
            label=plain(f"{index + 1}  {run}"),
        )
        axes.annotate(str(index + 1), at, (4, 4), textcoords="offset points", fontsize=7)
    axes.axvline(1.0, color="#888888", linewidth=0.8, linestyle=":")
    label_axes(axes, f"tokens/s over those of {GREEDY_SPECULATIVE}, decode only", "mean quality")
    figure.legend(loc="outside right center", fontsize=7)
    caption = "Quality against speed on SmolLM2-135M, with 95 % intervals over questions"
    return plot_of(figure, "study", caption)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER_OF_QUALITY FOLDER_OF_SPEED")
    drawn = picture(*(Summary(read_results(Path(folder))) for folder in sys.argv[1:]))
    PICTURE.write_bytes(drawn.svg)
    print(f"written: {PICTURE.relative_to(ROOT)}")
