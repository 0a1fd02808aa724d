"""The study's table: paired differences, and plain sampling that has a run's perplexity."""

from __future__ import annotations

import pytest
from support.benchmarks import TASKS, program, sample, score

from mtad.bench.report import Summary
from mtad.bench.results import Results

RUNS = {  # right answers of twelve, and nats of an answer of ten tokens
    "autoregressive": (4, 40.0),
    "autoregressive, greedy": (10, 10.0),
    "autoregressive, temperature 0.5": (6, 20.0),
    "speculative_sampling, greedy": (10, 10.0),
    "mtad": (9, 30.0),
    "speculative_beam": (11, 8.0),
}
TEMPERATURES = {
    "autoregressive, greedy": 0.0,
    "autoregressive, temperature 0.5": 0.5,
    "speculative_sampling, greedy": 0.0,
}
LOSSLESS = ("autoregressive", "speculative_sampling")


def rows_of(seconds: dict[str, float] | None = None) -> Summary:
    """Twelve answers of each run, each of another length, so that nothing holds by chance."""
    samples = [
        sample(
            run=run,
            item=f"i{n:02d}",
            tokens=10 + n,
            nll=nats * (10 + n) / 10,
            decode_s=(seconds or {}).get(run, 2.0),
            method={"name": run.split(",")[0], "options": {}, "lossless": run.startswith(LOSSLESS)},
            sampling={"temperature": TEMPERATURES.get(run, 1.0)},
        )
        for run, (_, nats) in RUNS.items()
        for n in range(12)
    ]
    scores = [score(row, float(int(row.item[1:]) < RUNS[row.run][0])) for row in samples]
    return Summary(Results(samples, scores, {"spider": TASKS["spider"]}))


def row_of(run: str, speed: Summary | None = None) -> list[str]:
    found = program("study").study(rows_of(), speed)
    [cells] = [row for row in found.rows if row[0] == run]
    return [cell.partition(" [")[0] for cell in cells[1:]]


def test_runs_are_compared_with_greedy_speculative_decoding() -> None:
    """On the mean of 15.5 tokens an answer, of 0.8 and 1 nat each."""
    speed = rows_of({"speculative_beam": 1.0})
    assert row_of("speculative_beam", speed) == ["+8.3", "+3.10", "–", "2.00", "–", "–"]


def test_sampling_of_equal_perplexity_is_interpolated() -> None:
    """Three nats a token lie half way from temperature 0.5 to 1, where five of twelve are right."""
    found = row_of("mtad")
    assert found == ["−8.3", "−31.00", "–", "–", "0.75", "+33.3"]


def test_an_interval_of_the_gain_has_both_runs_in_it() -> None:
    [row] = [row for row in program("study").study(rows_of(), None).rows if row[0] == "mtad"]
    low, high = (float(end.strip("+]")) for end in row[-1].partition(" [")[2].split(", "))
    assert 0 < low < 33.3 < high < 70


def test_what_only_samples_the_target_is_left_out() -> None:
    found = [row[0] for row in program("study").study(rows_of(), None).rows]
    assert found == [run for run in RUNS if run != "speculative_sampling, greedy"]
    own = row_of("autoregressive, temperature 0.5")
    assert own[-2:] == ["–", "–"]


@pytest.mark.slow
def test_the_picture_has_a_mark_for_each_timed_run() -> None:
    drawn = program("study").picture(rows_of(), rows_of()).svg.decode()
    assert all(run.replace("_", "_") in drawn for run in RUNS)
