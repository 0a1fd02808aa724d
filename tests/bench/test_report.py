"""Reports of small results written by hand: every value against a hand computation."""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.benchmarks import JOULES, TASKS, sample, score

from mtad.bench.report import (
    Results,
    Summary,
    main_table,
    write_report,
)
from mtad.bench.report import latex as latex_module
from mtad.bench.report import markdown as markdown_module
from mtad.bench.report.differences import difference_tables
from mtad.bench.report.lines import lines_by, varied_options
from mtad.bench.report.metrics import (
    ACCEPTANCE_LENGTH,
    ACCEPTANCE_RATE,
    ACCEPTED_ENERGY,
    CUT_OFF,
    END_TO_END_SPEED,
    ENERGY,
    LENGTH,
    MEAN_QUALITY,
    PATH_RATE,
    PERPLEXITY,
    QUALITY,
    REPETITION,
    REQUEST_ENERGY,
    REQUEST_SPEED,
    SPEED,
    WALL_SPEED,
)
from mtad.bench.report.plots import plots
from mtad.bench.report.provenance import coverage_table, phase_table, position_table, warnings
from mtad.bench.report.table import Table, number
from mtad.bench.report.write import report_tables
from mtad.bench.sample import Sample
from mtad.bench.statistics import Estimate, farthest_from_end
from mtad.errors import DataError

NASTY = "mtad | τ_{0.5} <b> & 50% #1 \\x [y](z) \"q\" 'r', $^$~"


def results(rows: Sequence[tuple[Sample, float | None]], **fields: Any) -> Results:
    samples = [row for row, _ in rows]
    scores = [score(row, value) for row, value in rows]
    return Results(samples, scores, **({"tasks": TASKS} | fields))


def method(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "options": options, "lossless": name != "mtad"}


def everything() -> Results:
    """Four runs: sampling, greedy with one seed, a draft with a meter, and one with gaps."""
    rows: list[tuple[Sample, float | None]] = []
    for i in range(12):
        spider = {"item": f"s{i}", "nll": 1.0 + i / 10}
        judged = {"item": f"m{i}", "task": "mt_bench", "nll": 2.0}
        free = {"item": f"p{i}", "task": "perplexity", "nll": 3.0}
        for seed in (0, 1):
            again = {"seed": seed, "is_timed": seed == 0, "batch_size": 1 if seed == 0 else 32}
            rows += [
                (sample(**spider, **again), float((i + seed) % 3 == 0)),
                (sample(**judged, **again), 1.0 + (i + seed) % 9),
                (sample(**free, **again), None),
            ]
            drafts = {
                "run": "spec",
                "method": method("speculative_sampling", num_draft_tokens=4),
                "steps": 4,
                "drafted": 16,
                "accepted": 6,
                "histogram": {"0": 1, "1": 1, "2": 1, "3": 1},
                "decode_s": 1.0,
                "energy": JOULES if seed == 0 else None,
                "phases_s": {"draft": 0.25, "target": 0.75},
                "phases_j": {"draft": 2.0, "target": 6.0},
            }
            rows += [
                (sample(**spider, **again, **drafts), float((i + seed) % 3 == 1)),
                (sample(**judged, **again, **drafts), 2.0 + (i + seed) % 9),
            ]
        greedy = {"run": "greedy", "sampling": {"temperature": 0.0}}
        rows += [(sample(**spider, **greedy), 1.0), (sample(**judged, **greedy), 9.0)]
        lossy = {"run": NASTY, "method": method("mtad", accept_threshold=0.5), "conditions": "c2"}
        if i < 11:
            rows += [(sample(**spider, **lossy, decode_s=1.0 + i), float(i % 2 == 0))]
        rows += [(sample(**judged, **lossy), None if i == 4 else 5.0)]
    found = results(
        rows,
        conditions={"c1": {"id": "c1", "device": "cpu", "versions": {"torch": "2.11"}}},
        chosen={NASTY: {"spider": {"run": "p7", "options": {"k": [4, 2]}, "rule": "speed"}}},
        more={("spider", "base"): {"share of broken queries": 0.125}},
    )
    # as if scoring had been stopped before the last row of the last run
    return replace(found, scores=found.scores[:-1])


@pytest.fixture(scope="module")
def everything_written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    paths = write_report(everything(), folder, title="A <title> & more")
    assert sorted(paths) == sorted(folder.iterdir())
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


# values


def test_ratios_are_sums_over_sums() -> None:
    drafts = {"method": method("mtad"), "steps": 4, "drafted": 20, "accepted": 6, "deepest": 10}
    first = sample(**drafts, nll=4.0, tokens=10, decode_s=2.0, energy=JOULES)
    second = sample(
        item="b",
        **{**drafts, "steps": 2, "accepted": 1},
        nll=9.0,
        tokens=30,
        decode_s=3.0,
        prefill_s=1.5,
        wall_s=7.0,
        energy={"joules": {"gpu": 4.0}, "source": "x"},
        finish_reasons=["stop", "length"],
    )
    made = results([(first, 1.0), (second, 0.0)])
    made = replace(made, scores=[score(first, 1.0), score(second, 0.0, num_repeated_4grams=2)])
    summary = Summary(made)
    expected = {
        QUALITY: 0.5,
        PERPLEXITY: math.exp(13 / 40),
        REPETITION: 2 / 14,
        ACCEPTANCE_LENGTH: 1 + 7 / 6,
        ACCEPTANCE_RATE: 7 / 40,
        PATH_RATE: 7 / 20,
        SPEED: 40 / 5,
        END_TO_END_SPEED: 40 / 7,
        WALL_SPEED: 40 / 10,
        REQUEST_SPEED: (10 / 2 + 30 / 3) / 2,
        ENERGY: 12 / 40,
        REQUEST_ENERGY: 12 / 2,
        ACCEPTED_ENERGY: 12 / 7,
        LENGTH: 20,
        CUT_OFF: 0.5,
    }
    for metric, value in expected.items():
        assert summary.estimate("base", metric, "spider").value == pytest.approx(value), metric.name
        assert summary.estimate("base", metric, "spider").num_items == 2


def test_seeds_are_averaged_within_the_item_first() -> None:
    rows = [(sample(seed=seed), float(seed == 0)) for seed in range(3)]
    summary = Summary(results([*rows, (sample(item="b"), 1.0)]))
    assert summary.estimate("base", QUALITY, "spider").value == pytest.approx((1 / 3 + 1) / 2)


def test_more_seeds_of_the_same_are_no_more_evidence() -> None:
    once = [(sample(item=f"i{i}", tokens=5 + i, nll=float(i)), float(i % 2)) for i in range(20)]
    thrice = [(replace(row, seed=seed), value) for row, value in once for seed in range(3)]
    for metric in (QUALITY, PERPLEXITY, SPEED):
        one, three = (
            Summary(results(r)).estimate("base", metric, "spider") for r in (once, thrice)
        )
        assert one.low is not None and one.low < (one.value or 0.0)
        assert (three.low, three.high) == pytest.approx((one.low, one.high))


def test_rows_that_are_not_timed_do_not_count_in_speed_and_energy() -> None:
    slow = sample(seed=1, decode_s=99.0, is_timed=False, energy={"joules": {"gpu": 1e6}})
    summary = Summary(results([(sample(energy=JOULES), 1.0), (slow, 0.0)]))
    assert summary.estimate("base", SPEED).value == 5
    assert summary.estimate("base", ENERGY).value == pytest.approx(0.8)
    assert summary.estimate("base", QUALITY, "spider").value == 0.5


def test_rows_without_a_score_are_left_out_and_shown() -> None:
    rows = [(sample(item=item), value) for item, value in (("a", 1.0), ("b", 0.0), ("c", None))]
    made = results([*rows, (sample(item="d"), 1.0)])
    made = replace(
        made,
        scores=[*made.scores[:2], replace(made.scores[2], detail={"problem": "judge silent"})],
    )
    summary = Summary(made)
    assert summary.estimate("base", QUALITY, "spider").value == 0.5
    assert summary.estimate("base", QUALITY, "spider").num_items == 2
    table = coverage_table(summary)
    assert dict(zip(table.headers, table.rows[0], strict=True))["without a score"] == (
        "1 × judge silent; 1 × not scored yet"
    )
    assert any("not counted as 0: base 2" in sentence for sentence in warnings(summary))
    assert "(2 of 4 items)" in main_table(made)


def test_tasks_without_scores_have_no_quality_and_no_unscored_rows() -> None:
    made = results([(sample(task="perplexity", nll=5.0), None)])
    summary = Summary(made)
    assert main_table(made).startswith("| run | perplexity |")
    assert summary.mean_quality("base").value is None
    assert not made.problems("base")
    assert summary.estimate("base", PERPLEXITY).value == pytest.approx(math.exp(0.5))


def test_mean_quality_maps_scales_and_weighs_tasks_alike() -> None:
    rows = [(sample(item=f"s{i}"), float(i < 1)) for i in range(4)]
    rows += [(sample(item="m", task="mt_bench"), 5.5)]
    assert Summary(results(rows)).mean_quality("base").value == pytest.approx((25 + 50) / 2)


def test_a_run_without_a_task_has_no_mean_quality() -> None:
    rows = [(sample(), 1.0), (sample(task="mt_bench"), 5.0), (sample("other"), 1.0)]
    summary = Summary(results(rows))
    assert summary.mean_quality("other").value is None
    assert summary.compare("other", "base", MEAN_QUALITY).verdict == "–"


def test_equal_scores_at_an_end_of_the_scale_get_the_exact_bound() -> None:
    rows = [(sample(item=f"i{i}"), 1.0) for i in range(20)]
    rows += [(sample(item=f"i{i}", task="mt_bench"), 1.0) for i in range(20)]
    summary = Summary(results(rows))
    perfect = summary.estimate("base", QUALITY, "spider")
    worst = summary.estimate("base", QUALITY, "mt_bench")
    reach = farthest_from_end(20)
    assert perfect == Estimate(1.0, 1 - reach, 1.0, 20)
    assert worst == Estimate(1.0, 1.0, 1 + 9 * reach, 20)
    both = summary.mean_quality("base")
    assert (both.low, both.value, both.high) == pytest.approx(
        (50 - 50 * reach, 50, 50 + 50 * reach)
    )


def test_acceptance_is_a_dash_for_runs_that_never_draft() -> None:
    drafts = {"run": "spec", "steps": 2, "method": method("prompt_lookup")}
    rows = [(sample(), 1.0), (sample(**drafts, drafted=4, accepted=2), 1.0)]
    # a text in which nothing was found to draft still has its steps
    rows += [(sample(item="b", **drafts), 1.0)]
    summary = Summary(results(rows))
    assert summary.estimate("base", ACCEPTANCE_LENGTH).value is None
    assert summary.estimate("spec", ACCEPTANCE_LENGTH).value == 1 + 2 / 4
    assert [row[0] for row in position_table(summary).rows] == ["spec"]


def test_acceptance_per_position_adds_up_to_the_mean_length() -> None:
    summary = Summary(everything())
    rows = {row[0]: row[1:] for row in position_table(summary).rows}
    assert rows == {"spec": ["0.75", "0.50", "0.25"]}
    assert summary.estimate("spec", ACCEPTANCE_LENGTH).value == 1 + 0.75 + 0.50 + 0.25


def test_phases_are_shares_of_their_sum() -> None:
    phases = {"phases_s": {"draft": 1.0, "target": 1.0}, "phases_j": {"target": 2.0}}
    rows = [
        (sample(**phases), 1.0),
        (sample(item="b", phases_s={"draft": 0.5, "verify": 7.5}), 1.0),
    ]
    table = phase_table(Summary(results([*rows, (sample("unmeasured"), 1.0)])))
    assert table.headers == ["run", "of", "draft", "target", "verify"]
    assert table.rows == [
        ["base", "s", "15.0", "10.0", "75.0"],
        ["base", "J", "–", "100.0", "–"],
    ]


# comparisons


def test_runs_are_compared_on_common_items_only() -> None:
    rows = [(sample(item=f"i{i}", decode_s=1.0 + i), float(i % 2)) for i in range(30)]
    rows += [(sample("short", f"i{i}", decode_s=(1.0 + i) / 2), 1.0) for i in range(20)]
    made = results(rows)
    summary = Summary(made)
    quality = summary.compare("short", "base", QUALITY, "spider")
    assert quality.estimate.value == pytest.approx(1 - 10 / 20)
    assert quality.estimate.num_items == 20
    assert quality.verdict == "better"
    speed = summary.compare("short", "base", SPEED).estimate
    assert (speed.value, speed.low, speed.high) == pytest.approx((2, 2, 2))
    assert summary.estimate("short", SPEED).value == pytest.approx(200 / (210 / 2))
    table = difference_tables(summary)[0]
    assert table.rows[0][1].startswith("+50.0 [")
    assert table.rows[0][1].endswith("better † (on 20 of 30 items)")
    assert "2.00 [2.00, 2.00] (on 20 of 30 items)" in main_table(made)
    assert "Some items of spider are missing in: short." in warnings(summary)


def test_lower_is_better_for_perplexity_and_energy() -> None:
    both = {"nll": 5.0, "energy": JOULES}
    half = {"run": "half", "nll": 2.0, "energy": {"joules": {"gpu": 4.0}}}
    rows = [(sample(item=f"i{i}", **both), 1.0) for i in range(12)]
    rows += [(sample(item=f"i{i}", **half), 1.0) for i in range(12)]
    summary = Summary(results(rows))
    assert summary.compare("half", "base", ENERGY).estimate.value == pytest.approx(0.5)
    assert summary.compare("half", "base", ENERGY).verdict == "better"
    assert summary.compare("half", "base", PERPLEXITY).verdict == "better"
    assert summary.compare("half", "base", PERPLEXITY).estimate.value == pytest.approx(
        math.exp(0.2 - 0.5)
    )
    assert summary.compare("base", "half", PERPLEXITY).verdict == "worse"


def test_mean_quality_is_compared_task_by_task() -> None:
    rows = [(sample(item=f"i{i}"), 0.0) for i in range(40)]
    rows += [(sample(item=f"i{i}", task="mt_bench"), 1.0) for i in range(10)]
    rows += [(replace(row, run="other"), 1.0 if row.task == "spider" else 5.5) for row, _ in rows]
    found = Summary(results(rows)).compare("other", "base", MEAN_QUALITY)
    assert found.estimate.value == pytest.approx((100 + 50) / 2)
    assert found.estimate.num_items == 50
    assert found.verdict == "better"


def test_the_reference_samples_from_the_target_alone() -> None:
    greedy = sample("greedy", sampling={"temperature": 0.0})
    draft = sample("draft alone", models="draft")
    spec = sample("spec", method=method("speculative_sampling"))
    rows = [(row, 1.0) for row in (draft, spec, greedy, sample("sampling"))]
    made = results(rows)
    assert made.reference_run == "sampling"
    assert made.speed_reference == "spec"
    assert results(rows[:3]).reference_run == "greedy"
    assert results(rows[:1]).reference_run == "draft alone"
    assert results(rows, reference="spec").reference_run == "spec"
    with pytest.raises(ValueError, match=r"'unknown'.*draft alone, spec, greedy, sampling"):
        _ = results(rows, reference="unknown").reference_run


def test_differences_are_shown_against_both_references() -> None:
    titles = [table.title for table in difference_tables(Summary(everything()))]
    assert titles == [
        "Quality, against base",
        "Speed, energy, perplexity, against base",
        "Speed, energy, perplexity, against spec",
    ]


# energy


@pytest.mark.slow
def test_no_meter_is_unavailable_and_never_zero(everything_written: Path) -> None:
    energies = {
        (row["run"], row["task"]): row["value"]
        for row in rows_of(everything_written / "table.csv")
        if row["metric"] == "energy_per_token_joules"
    }
    assert energies["base", "all"] == energies["greedy", "spider"] == "unavailable"
    assert energies["spec", "all"] == "0.8"
    assert not [value for value in energies.values() if value in ("", "0", "nan")]
    lines = main_table(everything()).splitlines()
    assert lines[2].endswith("| unavailable |")
    assert lines[3].endswith("| 0.80 [0.80, 0.80] |")
    for name in ("report.md", "table.tex", "report.html"):
        text = (everything_written / name).read_text(encoding="utf-8")
        assert "unavailable" in text
        assert not re.search(r"\bnan\b", text)


def test_energy_per_accepted_token_without_drafts_is_a_dash() -> None:
    table = next(t for t in report_tables(Summary(everything())) if t.title == "Energy")
    cells = {(row[0], row[1]): row[2:] for row in table.rows}
    assert cells["spec", "all"] == [
        "0.80 [0.80, 0.80]",
        "8.00 [8.00, 8.00]",
        "1.33 [1.33, 1.33]",
    ]
    assert cells["base", "all"] == ["unavailable"] * 3
    metered = Summary(results([(sample(energy=JOULES), 1.0)]))
    table = next(t for t in report_tables(metered) if t.title == "Energy")
    assert table.rows[0][2:] == ["0.80", "8.00", "–"]


@pytest.mark.slow
def test_a_comparison_without_one_of_the_meters_is_unavailable(everything_written: Path) -> None:
    found = [
        (row["run"], row["reference"], row["value"], row["verdict"])
        for row in rows_of(everything_written / "differences.csv")
        if row["metric"] == "energy_per_token_joules" and NASTY not in row["run"]
    ]
    assert found == [
        ("spec", "base", "unavailable", "–"),
        ("greedy", "base", "unavailable", "–"),
        ("base", "spec", "unavailable", "–"),
        ("greedy", "spec", "unavailable", "–"),
    ]
    table = difference_tables(Summary(everything()))[1]
    column = table.headers.index("J/token, ratio")
    assert [row[column] for row in table.rows] == ["unavailable"] * 3


def test_energy_of_some_rows_is_per_token_of_those_rows() -> None:
    rows = [(sample(energy=JOULES), 1.0), (sample(item="b", tokens=90), 1.0)]
    rows += [(sample(item="c", energy={"joules": {}, "source": "none"}), 1.0)]
    summary = Summary(results(rows))
    assert summary.estimate("base", ENERGY).value == pytest.approx(0.8)
    table = coverage_table(summary)
    assert dict(zip(table.headers, table.rows[0], strict=True))["timed rows with energy"] == "1"


# what may be wrong with the rows


def test_the_dev_stage_stays_out() -> None:
    dev = sample("point 1", stage="dev")
    made = results([(sample(), 1.0), (dev, 0.0)])
    assert list(made.by_run) == ["base"]
    with pytest.raises(DataError, match="none of the 1 samples is of the stage 'test'"):
        _ = results([(dev, 0.0)]).rows


def test_rows_that_occur_twice_and_unknown_tasks_are_refused() -> None:
    with pytest.raises(DataError, match=r"samples: the row \('test', 'spider', 'a'.* twice"):
        _ = results([(sample(), 1.0), (sample(), 1.0)]).rows
    with pytest.raises(DataError, match=r"tasks chess, .* known: spider, mt_bench, perplexity"):
        _ = results([(sample(task="chess"), 1.0)]).rows


def test_what_makes_rows_less_comparable_is_said() -> None:
    rows = [(sample(), 1.0), (sample("b", batch_size=8, conditions="c2"), 1.0)]
    made = results(rows)
    stray = replace(made, scores=[*made.scores, score(sample(item="gone"), 1.0)])
    found = warnings(Summary(stray))
    assert [sentence.split(";")[0] for sentence in found] == [
        "Timed rows have different batch sizes",
        "Timed rows come from more than one machine or setting",
        "1 scores have no sample and are left out.",
    ]
    assert warnings(Summary(results(rows[:1]))) == []


def test_runs_come_in_the_order_asked_for() -> None:
    made = results([(sample(run), 1.0) for run in "abc"], runs=["c", "absent", "a"])
    assert Summary(made).runs == ["c", "a", "b"]


# files


@pytest.mark.slow
def test_every_metric_is_in_the_csv(everything_written: Path) -> None:
    rows = rows_of(everything_written / "table.csv")
    assert list(rows[0]) == ["run", "task", "metric", "value", "low", "high", "unit", "n"]
    found = {(row["run"], row["task"], row["metric"]): row for row in rows}
    assert len(found) == len(rows)
    assert {run for run, _, _ in found} == {"base", "spec", "greedy", NASTY}
    quality = found["base", "spider", "quality"]
    assert (quality["unit"], quality["n"]) == ("%", "12")
    assert float(quality["value"]) == pytest.approx(100 / 3, rel=1e-5)
    assert float(quality["low"]) < float(quality["value"]) < float(quality["high"])
    assert found["base", "mt_bench", "quality"]["unit"] == "1 to 10"
    assert found["greedy", "spider", "quality"]["value"] == "100"
    assert found["base", "all", "output_tokens_per_second"]["value"] == "5"
    assert found["base", "all", "draft_acceptance_rate"]["value"] == "–"
    assert found["base", "all", "mean_quality"]["n"] == "24"
    assert ("base", "perplexity", "quality") not in found
    assert ("base", "all", "quality") not in found
    assert found[NASTY, "spider", "quality"]["n"] == "11"


def test_comparisons_in_the_csv(everything_written: Path) -> None:
    rows = rows_of(everything_written / "differences.csv")
    found = {(r["run"], r["reference"], r["task"], r["metric"]): r for r in rows}
    faster = found["spec", "base", "all", "output_tokens_per_second"]
    assert (faster["kind"], faster["value"], faster["verdict"]) == ("ratio", "2", "better")
    slower = found["base", "spec", "all", "output_tokens_per_second"]
    assert (slower["value"], slower["verdict"]) == ("0.5", "worse")
    better = found["greedy", "base", "spider", "quality"]
    assert (better["kind"], better["unit"], better["verdict"]) == (
        "difference",
        "points",
        "better",
    )
    assert float(better["value"]) == pytest.approx(200 / 3, rel=1e-5)
    assert found[NASTY, "base", "spider", "quality"]["n"] == "11"


def test_markdown_rows_have_as_many_cells_as_headers(everything_written: Path) -> None:
    text = (everything_written / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# A &lt;title&gt; &amp; more\n")
    blocks = [b for b in text.split("\n\n") if b.startswith("|")]
    assert len(blocks) > 10
    for block in blocks:
        cells = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1
    assert "<b>" not in text
    assert "](z)" not in text.replace(r"\](z)", "")
    for image in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (everything_written / image).exists()


def test_main_table_is_one_row_per_run() -> None:
    lines = main_table(everything()).splitlines()
    assert lines[0] == (
        "| run | spider, execution accuracy, % | mt_bench, judge score, 1 to 10 "
        "| mean quality, 0 to 100 | perplexity | repetition rate | mean acceptance length "
        "| draft acceptance rate | tokens/s, relative | J/token |"
    )
    assert len(lines) == 2 + 4
    assert "| – | – | 1.00 | unavailable |" in lines[2]
    assert "| 2.50 [2.50, 2.50] | 0.38 [0.38, 0.38] | 2.00 [2.00, 2.00] " in lines[3]
    assert lines[4].startswith("| greedy | 100.0 [73.5, 100.0] | 9.00 [9.00, 9.00] |")
    assert "(11 of 12 items)" in lines[5]


def test_the_papers_layout_has_methods_across() -> None:
    table = next(t for t in report_tables(Summary(everything())) if t.slug == "paper")
    assert table.headers == ["data", "metric", "base", "spec", "greedy", NASTY]
    assert [row[:4] for row in table.rows][:3] == [
        ["spider", "tokens/s", "5.0", "10.0"],
        ["spider", "J/token", "unavailable", "0.80"],
        ["spider", "execution accuracy, %", "33.3", "33.3"],
    ]
    assert table.rows[-1][:3] == ["perplexity", "perplexity", "1.350"]


def test_latex_escapes_and_rules(everything_written: Path) -> None:
    text = (everything_written / "table.tex").read_text(encoding="utf-8")
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == 2
    assert latex_module.escaped(NASTY) == (
        r"mtad \textbar{} $\tau$\_\{0.5\} \textless{}b\textgreater{} \& 50\% \#1 "
        r"\textbackslash{}x {[}y](z) "
        "\"q\" 'r', \\$\\textasciicircum{}\\$\\textasciitilde{}"
    )
    assert latex_module.escaped(NASTY) in text
    for line in text.splitlines():
        if line.endswith(r"\\"):
            assert not line.startswith("[")
            assert len(re.findall(r"(?<!\\)&", line)) in (9, 5)


def test_markdown_escapes() -> None:
    table = Table("T", ["a"], [["x|y\nz * ` <i> &"]])
    assert markdown_module.grid(table).splitlines()[2] == r"| x\|y z \* \` &lt;i&gt; &amp; |"
    assert markdown_module.escaped("1 [2, 3]") == "1 [2, 3]"


class Page(HTMLParser):
    """Collects what a page holds and fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_loads_nothing(everything_written: Path) -> None:
    text = (everything_written / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open
    assert {"script", "link", "iframe", "b"}.isdisjoint(tag for tag, _ in page.seen)
    assert "http:" not in text and "https:" not in text and "url(" not in text
    ids = {a["id"] for _, a in page.seen if "id" in a}
    jumps = [a["href"] for tag, a in page.seen if tag == "a"]
    assert len(jumps) > 10
    assert all(jump is not None and jump[0] == "#" and jump[1:] in ids for jump in jumps)
    assert NASTY in page.text
    assert "prefers-color-scheme: dark" in text
    tables = sum(tag == "table" for tag, _ in page.seen)
    assert tables == sum(a.get("class") == "scroll" for _, a in page.seen)
    images = [a["src"] or "" for tag, a in page.seen if tag == "img"]
    assert len(images) == 4
    for image in images:
        kind, _, data = image.partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")


@pytest.mark.slow
def test_the_same_rows_give_the_same_bytes(everything_written: Path, tmp_path: Path) -> None:
    again = write_report(everything(), tmp_path / "deep" / "folder", title="A <title> & more")
    for path in again:
        assert path.read_bytes() == (everything_written / path.name).read_bytes(), path.name


def test_provenance_is_in_the_report(everything_written: Path) -> None:
    text = (everything_written / "report.md").read_text(encoding="utf-8")
    for line in (
        "| versions.torch | 2.11 |",
        "conditions.jsonl has no such line.",
        "| spider | base | share of broken queries | 0.125 |",
        "| spider | p7 | k [4, 2] | speed | – |",
        "| 1 × could not be judged; 1 × not scored yet |",
        "| draft acceptance rate | – | A/D |",
        "2000 resamples",
        "(Holm)",
    ):
        assert line in text, line


def test_numbers() -> None:
    assert [number(-0.25, 1), number(0.0042, 2), number(0.0, 2)] == ["−0.2", "0.0042", "0.00"]
    assert [number(0.004, 2, "+"), number(3.14159, 2, "+")] == ["+0.00", "+3.14"]


# plots


@pytest.mark.slow
def test_plots_are_images_in_both_formats() -> None:
    drawn = plots(Summary(everything()))
    assert [plot.name for plot in drawn] == ["quality", "trade", "positions", "energy"]
    for plot in drawn:
        assert plot.png.startswith(b"\x89PNG")
        assert ElementTree.fromstring(plot.svg).tag.endswith("svg")
    assert len({plot.png for plot in drawn}) == 4


def test_what_was_not_measured_is_not_drawn() -> None:
    rows = [(sample(task="perplexity", is_timed=False), None)]
    assert plots(Summary(results(rows))) == []


def sweep() -> Results:
    rows: list[tuple[Sample, float | None]] = [(sample(nll=1.0), 1.0)]
    for threshold in (0.9, 0.1, 0.5):
        for endpoint in ("sample", "greedy"):
            options = {"accept_threshold": threshold, "endpoint": endpoint}
            run = f"{endpoint} {threshold}"
            made = sample(run, method=method("mtad", **options), decode_s=threshold, nll=1.0)
            rows.append((made, 1.0))
    return results(rows)


@pytest.mark.slow
def test_runs_that_differ_in_one_option_make_a_line() -> None:
    summary = Summary(sweep())
    lines = lines_by(summary, {"mtad": "accept_threshold"}.get)
    assert {line.label: list(line.places.items()) for line in lines} == {
        f"mtad, endpoint {endpoint}": [(f"{endpoint} {x}", x) for x in (0.1, 0.5, 0.9)]
        for endpoint in ("sample", "greedy")
    }
    assert list(varied_options(summary)) == ["accept_threshold"]
    assert "quality-by-accept_threshold" in [plot.name for plot in plots(summary)]
    assert not varied_options(Summary(everything()))


def test_an_option_that_each_task_got_for_itself_makes_no_line() -> None:
    rows: list[tuple[Sample, float | None]] = [
        (sample(f"r{x}", task=task, method=method("mtad", width=x + (task == "mt_bench"))), 1.0)
        for x in (1, 2, 3)
        for task in ("spider", "mt_bench")
    ]
    assert lines_by(Summary(results(rows)), lambda name: "width") == []
