"""Lossy runs beside greedy decoding and likely sampling, where the answers are known."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.benchmarks import TASKS, sample, score
from support.toys import H_TARGET

from mtad.bench.recipe import parse
from mtad.bench.report import Summary
from mtad.bench.report.baselines import Equal, Ladder, baseline_table, greedy_run
from mtad.bench.report.markdown import markdown
from mtad.bench.report.write import report_tables
from mtad.bench.results import Results, read_results
from mtad.bench.run import run
from mtad.bench.score import score_folder

NUM_ITEMS = 12
LOSSY = {"name": "mtad", "options": {}, "lossless": False}
SPECULATIVE = {"name": "speculative_sampling", "options": {}, "lossless": True}


def rows(name: str, right: int, nats: float, temperature: float, **more: Any) -> list[Any]:
    """Answers of as many items, so many of them right, with so many nats per token."""
    items = range(more.pop("num_items", NUM_ITEMS))
    return [
        (
            sample(
                name,
                f"i{n:02d}",
                tokens=10 + n,
                nll=nats and nats * (10 + n),
                sampling={"temperature": temperature, "top_k": 10, **more.get("others", {})},
                **{key: value for key, value in more.items() if key != "others"},
            ),
            float(n < right),
        )
        for n in items
    ]


def plain(temperatures: Iterable[tuple[float, int, float]]) -> list[Any]:
    return [row for t, right, nats in temperatures for row in rows(f"plain {t:g}", right, nats, t)]


def summary_of(found: list[Any], task: str = "spider", **more: Any) -> Summary:
    samples = [row for row, _ in found]
    scores = [score(row, value) for row, value in found]
    return Summary(Results(samples, scores, {task: TASKS[task]}, **more))


STEPS = [(1.0, 4, 4.0), (0.5, 6, 2.0), (0.0, 10, 1.0)]


def equal(found: list[Any], name: str = "mtad") -> Equal:
    result = Ladder(summary_of(found)).at(name)
    assert isinstance(result, Equal), result
    return result


def nats_at(law: list[float], temperature: float) -> float:
    """What a token drawn at a temperature has of −log p."""
    warmed = [p ** (1 / temperature) for p in law]
    return sum(w * -math.log(p) for w, p in zip(warmed, law, strict=True)) / sum(warmed)


def test_sampling_at_a_temperature_gives_that_temperature_back() -> None:
    """Where it was decoded exactly, in every resample, and without a gain."""
    found = equal([*plain(STEPS), *rows("mtad", 6, 2.0, 1.0, method=LOSSY)])
    at = found.temperature
    assert (at.value, at.low, at.high, at.num_items) == (0.5, 0.5, 0.5, NUM_ITEMS)
    assert found.gain is not None and not found.gain.values.any()


@pytest.mark.parametrize("law", H_TARGET)
def test_a_temperature_between_those_decoded_is_nearly_given_back(law: list[float]) -> None:
    """On laws whose likelihoods are known by enumeration."""
    steps = [(t, 5, nats_at(law, t)) for t in (1.0, 0.7, 0.5, 0.3)]
    lossy = rows("mtad", 5, nats_at(law, 0.6), 1.0, method=LOSSY)
    assert equal([*plain(steps), *lossy]).temperature.value == pytest.approx(0.6, abs=0.01)


def test_between_two_temperatures_quality_is_interpolated_too() -> None:
    """Three nats lie half way from 0.5 to 1, where five of twelve are right."""
    found = equal([*plain(STEPS), *rows("mtad", 9, 3.0, 1.0, method=LOSSY)])
    assert found.temperature.value == pytest.approx(0.75)
    assert found.gain is not None
    gain = found.gain.estimate()
    assert gain.value == pytest.approx(100 * (9 - 5) / 12)
    assert gain.low is not None and 0 < gain.low < 33.3 < (gain.high or 0.0) < 70


def test_only_items_that_both_have_are_compared() -> None:
    """The last items of the lossy run are missing, and with them its wrong answers."""
    lossy = rows("mtad", 6, 2.0, 1.0, method=LOSSY, num_items=6)
    found = equal([*plain(STEPS), *lossy])
    assert found.temperature.value == 0.5 and found.temperature.num_items == 6
    assert found.gain is not None and (found.gain.value, found.gain.num_items) == (0.0, 6)
    table = baseline_table(summary_of([*plain(STEPS), *lossy]))
    assert "(on 6 of 12 items)" in table.rows[0][-1]


@pytest.mark.parametrize(
    ("steps", "nats", "why"),
    [
        (STEPS, 0.5, "likelier than at 0"),
        (STEPS, 4.5, "less likely than at 1"),
        ([STEPS[0], STEPS[2]], 2.0, "between 0 and 1, which are too far apart"),
        (STEPS, None, "its likelihood was not measured"),
    ],
)
def test_why_there_is_no_temperature_is_said(steps: Any, nats: Any, why: str) -> None:
    found = summary_of([*plain(steps), *rows("mtad", 5, nats, 1.0, method=LOSSY)])
    assert Ladder(found).at("mtad") == why
    [row] = baseline_table(found).rows
    assert row[-2:] == [why, "–"]


def test_other_sampling_settings_are_another_law() -> None:
    other = rows("wide", 5, 3.0, 0.7, others={"top_k": 0})
    draft = rows("draft", 1, 5.0, 0.6, models="draft")
    ladder = Ladder(summary_of([*other, *plain(STEPS), *draft], reference="plain 1"))
    assert ladder.runs == {0.0: "plain 0", 0.5: "plain 0.5", 1.0: "plain 1"}


def cells(found: Summary, name: str = "mtad") -> dict[str, str]:
    table = baseline_table(found)
    [row] = [row for row in table.rows if row[0] == name]
    return {h: cell.partition(" [")[0] for h, cell in zip(table.headers, row, strict=True)}


def test_the_table_has_every_lossy_run_and_no_other() -> None:
    lossy = rows("mtad", 9, 3.0, 1.0, method=LOSSY, decode_s=1.0)
    speculative = rows("fast", 10, 1.0, 0.0, method=SPECULATIVE)
    draft = rows("draft", 1, 5.0, 1.0, models="draft")
    found = summary_of([*plain(STEPS), *lossy, *speculative, *draft])
    assert greedy_run(found) == "fast"
    assert [row[0] for row in baseline_table(found).rows] == ["mtad", "draft"]
    assert cells(found) == {
        "run": "mtad",
        "mean quality over fast": "−8.3",
        "log p of an answer over fast, nats": "−31.00",
        "tokens/s over fast": "2.00",
        "as likely as sampling at temperature": "0.75",
        "mean quality over that sampling": "+33.3",
    }
    assert cells(found, "draft")["as likely as sampling at temperature"] == "less likely than at 1"
    assert "interpolated" in baseline_table(found).note
    assert any(table.slug == "baselines" for table in report_tables(found))
    lossless = summary_of([*plain(STEPS), *speculative])
    assert not any(table.slug == "baselines" for table in report_tables(lossless))


def test_greedy_decoding_without_drafts_stands_in_for_speculative() -> None:
    lossy = rows("margin", 12, 0.5, 0.0, method=LOSSY)
    assert greedy_run(summary_of([*lossy, *plain(STEPS)])) == "plain 0"
    assert greedy_run(summary_of([*lossy, *plain(STEPS[:2])])) is None


def test_what_was_not_run_is_asked_for() -> None:
    lossy = rows("mtad", 9, 3.0, 1.0, method=LOSSY)
    table = baseline_table(summary_of([*plain(STEPS[:1]), *lossy]))
    assert table.headers == ["run"] and table.rows == [["mtad"]]
    assert "add a run of speculative_sampling with temperature 0" in table.note
    assert "at 1 temperature and needs two" in table.note
    assert "temperatures = [0.0, 0.3, 0.5, 0.7]" in table.note
    silent = [row for t, right, _ in STEPS for row in rows(f"plain {t:g}", right, None, t)]
    note = baseline_table(summary_of([*silent, *lossy])).note
    assert "at 0 temperatures" in note and "perplexity = true" in note


def test_without_scores_likelihoods_are_compared_alone() -> None:
    lossy = rows("mtad", 9, 3.0, 1.0, method=LOSSY, task="perplexity")
    steps = [
        row
        for t, right, nats in STEPS
        for row in rows(f"plain {t:g}", right, nats, t, task="perplexity")
    ]
    found = summary_of([*steps, *lossy], task="perplexity")
    assert cells(found)["as likely as sampling at temperature"] == "0.75"
    assert not any("quality" in header for header in baseline_table(found).headers)
    assert "No task has scores" in markdown(baseline_table(found))


@pytest.mark.slow
def test_the_embedded_pair_gives_a_temperature_back(tmp_path: Path) -> None:
    """Of a mixture that takes the target's law alone, under a name that is called lossy."""
    neutral = {"name": "neutral", "method": "cascade"}
    neutral |= {"options": {"rule": "chow", "threshold": 0.0}, "sampling": {"temperature": 0.6}}
    recipe = parse(
        {
            "pair": {"dtype": "float32"},
            "run": {"seeds": 4, "timed_seeds": 0, "num_test": 24, "num_threads": 1},
            "sampling": {"temperature": 1.2},
            "tasks": {"spider": {"max_new_tokens": 16}},
            "runs": [
                {"method": "autoregressive", "temperatures": [0.0, 0.4, 0.8]},
                neutral,
            ],
        }
    )
    run(recipe, tmp_path)
    score_folder(recipe, tmp_path)
    found = Ladder(Summary(read_results(tmp_path))).at("neutral")
    assert isinstance(found, Equal), found
    at, gain = found.temperature, found.gain.estimate() if found.gain else None
    assert at.low is not None and at.high is not None and at.low <= 0.6 <= at.high
    assert at.low >= 0.4 and at.high <= 0.8
    assert gain is not None and gain.low is not None and gain.high is not None
    assert gain.low <= 0 <= gain.high
