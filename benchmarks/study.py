"""What searches and lossy rules bring beside greedy speculative decoding: a table and a picture.

    python benchmarks/study.py QUALITY SPEED    draw docs/images/study.svg from two folders of rows

Every run is compared with greedy speculative decoding on the same questions, and with plain
sampling at the temperature at which that has the run's perplexity.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from claims import GREEDY_SPECULATIVE
from headline import ROOT

from mtad.bench.report import Summary
from mtad.bench.report.baselines import Equal, Ladder, is_lossy
from mtad.bench.report.canvas import Plot, plot_of
from mtad.bench.report.metrics import (
    ACCEPTANCE_LENGTH,
    LOG_LIKELIHOOD,
    MEAN_QUALITY,
    SPEED,
)
from mtad.bench.report.plots import trade_figure
from mtad.bench.report.table import NONE, Table, formatted, number, table_of
from mtad.bench.results import read_results
from mtad.bench.statistics import Estimate, Resampled

SPEED_ROWS: Final = "benchmarks/results/2026-12-01-cpu-2-cores-smollm2/quality_speed"
"""Timed answers of the runs whose quality is compared."""
PICTURE: Final = ROOT / "docs" / "images" / "study.svg"


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
        if run in ladder.runs.values() or is_lossy(quality, run)
    ]
    return table_of("", rows)


def _row(quality: Summary, speed: Summary | None, ladder: Ladder, run: str) -> Mapping[str, str]:
    is_sampling = run in ladder.runs.values()
    found = "" if is_sampling else ladder.at(run)
    equal = found if isinstance(found, Equal) else None
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
        "quality over that": _points(equal and equal.gain),
    }


def _short(estimate: Estimate | None) -> str:
    """The value without its interval."""
    return NONE if estimate is None or estimate.value is None else number(estimate.value, 2)


def _points(gain: Resampled | None) -> str:
    return NONE if gain is None else formatted(gain.estimate(), 1, sign="+")


def picture(quality: Summary, speed: Summary) -> Plot:
    """Quality against tokens/s of the runs that have both."""
    points = {
        run: (speed.compare(run, GREEDY_SPECULATIVE, SPEED).estimate, quality.mean_quality(run))
        for run in quality.runs
        if run in speed.runs
    }
    figure = trade_figure(points, f"tokens/s over those of {GREEDY_SPECULATIVE}, decode only")
    caption = "Quality against speed on SmolLM2-135M, with 95 % intervals over questions"
    return plot_of(figure, "study", caption)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER_OF_QUALITY FOLDER_OF_SPEED")
    drawn = picture(*(Summary(read_results(Path(folder))) for folder in sys.argv[1:]))
    PICTURE.write_bytes(drawn.svg)
    print(f"written: {PICTURE.relative_to(ROOT)}")
