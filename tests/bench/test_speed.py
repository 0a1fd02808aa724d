"""Metrics of `mtad bench speed` from made-up numbers: limits, costs, ratios, tables and plots."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mtad
from mtad.bench.plan import PairSpec
from mtad.bench.report.write import csv_text
from mtad.bench.speed.baseline import ASSISTED, PLAIN
from mtad.bench.speed.cost import Forwards, ModelCost, PairCost, cost_of
from mtad.bench.speed.limits import Limits, best_seconds, measure_limits
from mtad.bench.speed.observe import MemoryWatch, repeated_energy
from mtad.bench.speed.plan import AXES, Sampling, SpeedPlan, experiments
from mtad.bench.speed.plots import iteration_plot, plots, scaling_plot
from mtad.bench.speed.prompts import batches_of, filled, heldout_prompts, of_length
from mtad.bench.speed.report import write_speed
from mtad.bench.speed.rows import LIMITS, ROWS, Measured, Observed, Row
from mtad.bench.speed.summary import Speed, decode_rate, read_speed
from mtad.bench.speed.tables import main_table, results_csv, scaling_table
from mtad.bench.speed.verdicts import verdicts
from mtad.errors import DataError
from mtad.measure.energy import Energy, Reading
from mtad.measure.meter import Meter
from mtad.testing import random_llama

TARGET = ModelCost(500, 1000, 400, 10, 20)
DRAFT = ModelCost(60, 100, 40, 5, 2)
LIMIT = Limits("cpu", "float32", 1, 1000.0, 1100, 500.0, 1e6)
COST = PairCost(LIMIT, {"target": TARGET, "draft": DRAFT})


def measured(**changed: Any) -> Measured:
    """Ten tokens of a prompt of 4 in two iterations of one second, one of them in the models."""
    seen = Observed(
        decode_s=2.0,
        num_iterations=2,
        phases={"draft": 0.4, "target": 1.0, "verify": 0.2, "commit": 0.3},
        forward_s=1.2,
        forwards=(Forwards("draft", 1, 2, 2), Forwards("target", 1, 5, 2)),
    )
    whole = Measured(
        num_rows=1,
        num_prompt_tokens=4,
        num_output_tokens=10,
        num_iterations=2,
        num_row_steps=2,
        num_accepted=8,
        prefill_s=0.5,
        decode_s=2.0,
        num_decoded=10,
        wall_s=2.5,
        observed=seen,
    )
    return replace(whole, **changed)


def plain(seconds: float = 10.0, **changed: Any) -> Measured:
    """The same text in ten iterations without a draft."""
    forwards = (Forwards("target", 1, 1, 10),)
    phases = {"draft": 0.0, "target": seconds - 1, "verify": 0.5, "commit": 0.5}
    seen = Observed(seconds, 10, phases, seconds - 1, forwards)
    return measured(
        num_iterations=10,
        num_row_steps=10,
        num_accepted=0,
        decode_s=seconds,
        wall_s=seconds + 0.5,
        observed=seen,
        **changed,
    )


def row(run: str, what: Measured | None, repeat: int = 0, **changed: Any) -> Row:
    method = None if run.startswith("transformers") else {"name": run, "options": {}}
    whole = Row("", "", "demo", run, method, 0, repeat, 0, what)
    return replace(whole, **changed)


def speed_of(rows: Sequence[Row]) -> Speed:
    return Speed(rows, {"demo": COST}, [])


def outside(seconds: float) -> Measured:
    """What is known of transformers: times alone."""
    return replace(plain(seconds), observed=None)


@pytest.fixture
def speed() -> Speed:
    """mtad is five times as fast as plain decoding, in both repeats."""
    rows = []
    for repeat in (0, 1):
        rows += [
            row("autoregressive", plain(10.0 + repeat), repeat),
            row("mtad", measured(), repeat),
            row(PLAIN, outside(12.0), repeat),
            row(ASSISTED, replace(outside(6.0), num_iterations=0, num_row_steps=0), repeat),
        ]
    return speed_of(rows)


# -- the limit --------------------------------------------------------------------------


def test_a_forward_takes_as_long_as_its_reading_or_its_arithmetic() -> None:
    forward = Forwards("target", num_rows=2, num_tokens=3, count=1)
    read = 1000 + 6 * 10 + 2 * 5 * 20  # weights, embeddings, keys and values of 5 tokens
    assert COST.forward_s(forward, 5.0) == pytest.approx(read / 1000)
    slow = PairCost(replace(LIMIT, flops_per_s=1000.0), COST.models)
    assert slow.forward_s(forward, 5.0) == pytest.approx(2 * 400 * 6 / 1000)


def test_the_limit_adds_up_the_forwards_one_by_one() -> None:
    slow = PairCost(replace(LIMIT, flops_per_s=1000.0), COST.models)
    forwards = [Forwards("draft", 1, 2, 3), Forwards("target", 1, 5, 1)]
    draft_s = max((100 + 2 * 5) / 1000, 2 * 40 * 2 / 1000)  # arithmetic is slower
    target_s = max((1000 + 50) / 1000, 2 * 400 * 5 / 1000)
    assert slow.seconds(forwards, 0.0) == pytest.approx(3 * draft_s + target_s)


def test_weights_in_a_cache_are_read_at_its_rate() -> None:
    assert LIMIT.bytes_per_s == 1000
    assert replace(LIMIT, working_bytes_per_s=3000.0).bytes_per_s == 3000


def test_the_faster_of_two_measurements_counts() -> None:
    other = replace(LIMIT, memory_bytes_per_s=900.0, flops_per_s=2e6)
    best = LIMIT.best(other)
    assert (best.memory_bytes_per_s, best.flops_per_s) == (1000, 2e6)


def test_the_cost_of_a_model_is_that_of_its_weights() -> None:
    layer = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 32 * 64  # q, k, v, o and the MLP
    head, norms = 61 * 32, 2 * 2 * 32 + 32
    cost = cost_of(random_llama())
    assert cost == ModelCost(
        num_parameters=2 * layer + 2 * head + norms,
        weight_bytes=4 * (2 * layer + head + norms),  # not the embedding, which is looked up
        matrix_parameters=2 * layer + head,
        embedding_row_bytes=4 * 32,
        kv_bytes=2 * 2 * 16 * 4,  # keys and values, two layers, two heads of 8
    )


def test_a_tied_head_is_read_once() -> None:
    model = random_llama().to(torch.bfloat16)
    untied = cost_of(model)
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    tied = cost_of(model)
    assert tied.weight_bytes == untied.weight_bytes
    assert tied.matrix_parameters == untied.matrix_parameters
    assert tied.num_parameters == untied.num_parameters - 61 * 32
    assert untied.embedding_row_bytes == 2 * 32


def test_limits_are_measured() -> None:
    limits = measure_limits(
        torch.device("cpu"), torch.float32, 2**20, memory_bytes=2**22, matrix_size=64
    )
    assert limits.memory_bytes_per_s > 0 and limits.flops_per_s > 0
    assert (limits.device, limits.dtype, limits.working_set_bytes) == ("cpu", "float32", 2**20)
    cost = PairCost(limits, COST.models)
    assert PairCost.of(json.loads(json.dumps(cost.as_dict()))) == cost


def test_short_work_is_repeated_so_that_the_clock_can_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, calls = [0.0], []

    def work() -> None:
        calls.append(1)
        now[0] += 1e-4 if len(calls) < 30 else 5e-5  # the first ones are slower

    monkeypatch.setattr("mtad.bench.speed.limits.time.perf_counter", lambda: now[0])
    assert best_seconds(work, torch.device("cpu")) == pytest.approx(5e-5)
    assert len(calls) == 1 + 1 + 8 * 20


# -- what is observed -------------------------------------------------------------------


def test_memory_is_what_a_call_takes_beyond_what_was_in_use() -> None:
    watch = MemoryWatch.start(torch.device("cpu"))
    if watch.before is None:
        pytest.skip("this system has no such counter")
    buffer = torch.ones(2**24)
    peak = watch.peak()
    del buffer
    assert peak is not None and 2**26 <= peak < 2**27


class Ticking:
    """Counters that advance by a joule at every reading."""

    source, interval_s, ranges = "ticks", 0.001, {}

    def __init__(self) -> None:
        self.count = 0

    def read(self) -> Reading:
        self.count += 1
        return Reading(float(self.count), {"cpu": 1_000_000 * self.count})


def test_a_short_decoding_is_repeated_for_its_energy() -> None:
    calls = []
    energy = repeated_energy(Meter(Ticking()), lambda: calls.append(1), wall_s=0.0025)
    assert len(calls) == 4  # ten updates of the counter
    assert energy is not None and energy.total_j == pytest.approx(1 / 4)
    assert repeated_energy(Meter(None, "none"), lambda: calls.append(1), 1.0) is None
    assert len(calls) == 4


# -- metrics ----------------------------------------------------------------------------


def test_the_metrics_of_a_run(speed: Speed) -> None:
    mtad_ = speed.main["mtad"]
    assert mtad_.tokens_per_s and mtad_.tokens_per_s.value == 5.0
    assert mtad_.end_to_end_tokens_per_s and mtad_.end_to_end_tokens_per_s.value == 4.0
    assert mtad_.mean_acceptance_length == 5.0
    assert mtad_.tokens_per_iteration == 5.0
    assert (mtad_.iteration_s, mtad_.token_latency_s) == (1.0, 0.2)
    assert mtad_.parts_s == pytest.approx(
        {"draft": 0.2, "target": 0.5, "verify": 0.1, "overhead": 0.2}
    )
    assert mtad_.outside_s == pytest.approx(0.4)


def test_the_fraction_of_the_limit_and_the_ceiling(speed: Speed) -> None:
    prefix = 4 + 10 / 2
    limit_s = (100 + 2 * 5 + prefix * 2) / 1000 + (1000 + 5 * 10 + prefix * 20) / 1000
    plain_s = (1000 + 10 + prefix * 20) / 1000
    result = speed.main["mtad"]
    assert result.limit_s == pytest.approx(limit_s)
    assert result.fraction == pytest.approx(limit_s / 1.0)
    assert result.limit_tokens_per_s == pytest.approx(5 / limit_s)
    assert result.ceiling == pytest.approx((5 / limit_s) / (1 / plain_s))
    assert speed.main["autoregressive"].ceiling == pytest.approx(1.0)


def test_the_ceiling_of_a_batch_is_against_a_batch() -> None:
    seen = Observed(2.0, 2, {"target": 2.0}, 1.0, (Forwards("target", 2, 1, 2),))
    batch = measured(num_rows=2, num_output_tokens=4, num_decoded=4, observed=seen)
    assert speed_of([row("mtad", batch)]).main["mtad"].ceiling == pytest.approx(1.0)


def test_ratios_have_the_spread_of_the_repeats(speed: Speed) -> None:
    result = speed.main["mtad"]
    ratio = speed.ratio(result, "autoregressive", decode_rate)
    assert ratio and ratio.low == pytest.approx(5.0) and ratio.high == pytest.approx(5.5)
    assert ratio.value == pytest.approx(21 / 4)
    whole = speed.ratio(result, PLAIN)
    assert whole and whole.value == pytest.approx(12.5 / 2.5)


def test_ratios_use_the_turns_that_both_have() -> None:
    rows = [row("mtad", measured(), 0), row(PLAIN, outside(12.0), 0)]
    rows.append(row("mtad", measured(wall_s=100.0), 1))  # the other one was interrupted
    speed = speed_of(rows)
    ratio = speed.ratio(speed.main["mtad"], PLAIN)
    assert ratio and ratio.value == pytest.approx(5.0)


def iterations_of(*what: Measured) -> str:
    table = main_table(speed_of([row("mtad", m, i) for i, m in enumerate(what)]))
    return str(table.rows[0][table.headers.index("iterations")])


def test_the_table_says_how_iterations_ran() -> None:
    known = measured(iterations="recorded")
    assert iterations_of(known) == "recorded"
    assert iterations_of(known, replace(known, num_unsettled=1)) == "75.0 % recorded"
    assert iterations_of(replace(known, iterations="eager", eager_reason="it reads")) == "eager"
    assert iterations_of(measured()) == "–"


def test_verdicts_say_why_iterations_were_not_replayed() -> None:
    late = measured(iterations="recorded", num_unsettled=1)
    eager = measured(iterations="eager", eager_reason="it reads")
    rows = [row("mtad", late), row("mmtad", eager), row("bild", measured(iterations="recorded"))]
    text = "\n".join(verdicts(speed_of(rows)))
    assert "mtad: some iterations were still being recorded when timed" in text
    assert "mmtad ran eagerly: it reads" in text
    assert text.count("eagerly") == text.count("still being") == 1


def test_a_batch_counts_all_its_texts() -> None:
    result = speed_of([row("mtad", measured(num_rows=2, num_row_steps=4))]).main["mtad"]
    assert result.mean_acceptance_length == 3.0
    assert result.token_latency_s == pytest.approx(2 * 2.0 / 10)


def test_energy_needs_a_meter_in_every_row() -> None:
    known = Energy({"cpu": 5.0}, 2.5, "ticks", 0.001)
    rows = [row("mtad", measured(energy=known), 0), row("mtad", measured(energy=known), 1)]
    assert speed_of(rows).main["mtad"].joules_per_token == pytest.approx(0.5)
    rows[1] = row("mtad", measured(), 1)
    assert speed_of(rows).main["mtad"].joules_per_token is None


# -- tables, verdicts and plots ---------------------------------------------------------


def test_the_main_table(speed: Speed) -> None:
    table = main_table(speed)
    rows = {cells[0]: dict(zip(table.headers, cells, strict=True)) for cells in table.rows}
    assert [*rows] == ["autoregressive", "mtad", PLAIN, ASSISTED]
    assert rows["mtad"]["tokens/s"] == "5.0"
    assert rows["mtad"]["× plain generate"] == "5.00"
    assert rows["mtad"]["× assisted"] == "2.60"
    assert rows["mtad"]["iteration ms"] == "1000.00"
    assert rows["mtad"]["overhead"] == "200.00"
    assert rows["mtad"]["J/token"] == "unavailable"
    assert rows["autoregressive"]["tokens/s"] == "1.0 [0.9, 1.0]"
    assert rows[ASSISTED]["iteration ms"] == rows[ASSISTED]["acceptance"] == "–"


def test_all_values_are_in_the_csv(speed: Speed) -> None:
    cells = list(csv.DictReader(io.StringIO(csv_text(results_csv(speed)))))
    found = {(c["run"], c["figure"]): c for c in cells}
    assert float(found["mtad", "tokens_per_s"]["value"]) == 5.0
    assert float(found["mtad", "overhead"]["value"]) == pytest.approx(0.2)
    assert found["mtad", "energy_per_token"]["value"] == ""
    ratio = found["mtad", "decode_ratio_to_autoregressive"]
    assert [float(ratio[n]) for n in ("value", "low", "high")] == pytest.approx([5.25, 5.0, 5.5])


def test_verdicts_say_what_the_metrics_mean(speed: Speed) -> None:
    text = "\n".join(verdicts(speed))
    assert "mtad: 5.0 tokens/s; 135.8 % of the limit of 3.7" in text
    assert f"5.00 times {PLAIN} end to end" in text
    assert "drafting pays: 5.25 [5.00, 5.50] times autoregressive" in text
    assert "ceiling of the pair: 4.38 times plain decoding, with mtad" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ((20.0, 20.0), "drafting does not pay"),
        ((5.0, 20.0), "is not clear"),
        ((5.0, 12.0), "is not clear"),
    ],
)
def test_a_slow_draft_is_called_slow(seconds: tuple[float, float], words: str) -> None:
    rows = []
    for repeat, decode_s in enumerate(seconds):
        rows.append(row("autoregressive", plain(10.0), repeat))
        rows.append(row("mtad", measured(decode_s=decode_s), repeat))
    assert any(words in line for line in verdicts(speed_of(rows)))


def test_mtad_is_compared_with_speculative_sampling() -> None:
    rows = [row("speculative_sampling", measured(decode_s=4.0)), row("mtad", measured())]
    text = "\n".join(verdicts(speed_of(rows)))
    assert "mtad against speculative_sampling: 2.00 times as fast; 1.00 times if both" in text


def along(axis: str, at: Any, run: str, what: Measured) -> Row:
    return row(run, what, axis=axis, at=at)


def test_verdict_where_drafting_stops_paying() -> None:
    rows = [row("mtad", measured())]
    for size, seconds in ((1, 2.0), (4, 8.0), (16, 30.0)):
        rows.append(along("batch", size, "autoregressive", plain(10.0)))
        rows.append(along("batch", size, "mtad", measured(decode_s=seconds)))
    text = "\n".join(verdicts(speed_of(rows)))
    assert "mtad by batch: drafting pays at batch 1, 4; does not pay at batch 16" in text
    assert "1: 5.00, 4: 1.25, 16: 0.33" in text


def test_option_axes_are_compared_with_plain_decoding() -> None:
    rows = [along("width", 0, "autoregressive", plain(10.0))]
    rows += [along("width", w, "mtad", measured(decode_s=10.0 / w)) for w in (1, 2)]
    table = scaling_table(speed_of(rows), "width")
    ratios = {(cells[0], cells[1]): cells[6] for cells in table.rows}
    assert ratios["mtad", "2"] == "2.00"
    assert ratios["autoregressive", "0"] == "1.00"


def test_peak_memory_is_weights_and_calls() -> None:
    rows = [along("context", 128, "mtad", measured(memory_bytes=10**6))]
    (cells,) = scaling_table(speed_of(rows), "context").rows
    assert cells[-1] == "1.0"  # 1,100 bytes of weights do not show
    rows = [along("context", 128, "mtad", measured())]
    (cells,) = scaling_table(speed_of(rows), "context").rows
    assert cells[-1] == "–"


@pytest.mark.slow
def test_the_plot_shows_parts_and_limit(speed: Speed) -> None:
    drawn = iteration_plot(speed)
    assert drawn is not None and drawn.png.startswith(b"\x89PNG")
    slower = PairCost(replace(LIMIT, memory_bytes_per_s=500.0), COST.models)
    other = iteration_plot(replace(speed, costs={"demo": slower}))
    assert other is not None and other.svg != drawn.svg
    assert iteration_plot(speed_of([row(PLAIN, outside(1.0))])) is None


@pytest.mark.slow
@pytest.mark.parametrize("axis", AXES)
def test_every_axis_has_its_plot(axis: str) -> None:
    places: tuple[Any, ...] = ("demo", "demo") if axis == "size" else (1, 4)
    rows = [along(axis, place, "mtad", measured(memory_bytes=5)) for place in places]
    drawn = scaling_plot(speed_of(rows), axis)
    assert drawn is not None and drawn.name == f"scaling-{axis}"
    assert [p.name for p in plots(speed_of([row("mtad", measured()), *rows]))] == [
        "iteration",
        f"scaling-{axis}",
    ]


def test_rows_without_metrics_are_named() -> None:
    rows = [row("mtad", measured()), row("mmtad", None, error="too little memory")]
    speed = speed_of(rows)
    assert "left out: mmtad: too little memory" in "\n".join(verdicts(speed))
    cells = {c[0]: c for c in main_table(speed).rows}
    assert set(cells["mmtad"][1:-1]) == {"–"}
    assert iteration_plot(speed) is not None


# -- rows in files ----------------------------------------------------------------------


def write(folder: Path, rows: Sequence[Row]) -> None:
    lines = [json.dumps(r.as_dict()) + "\n" for r in rows]
    (folder / ROWS).write_text("".join(lines))
    (folder / LIMITS).write_text(json.dumps({"demo": COST.as_dict()}))


def test_rows_are_read_back_as_they_were(tmp_path: Path, speed: Speed) -> None:
    known = Energy({"cpu": 5.0}, 2.5, "ticks", 0.001)
    rows = [*speed.rows, row("mmtad", measured(energy=known)), row("bild", None, error="no")]
    write(tmp_path, rows)
    again = read_speed(tmp_path)
    assert list(again.rows) == rows and again.costs == {"demo": COST}
    paths = write_speed(again, tmp_path)
    assert {p.name for p in paths} == {"speed.md", "speed.csv", "iteration.svg", "iteration.png"}
    assert all(p.stat().st_size for p in paths)


def test_damaged_folders_are_refused(tmp_path: Path, speed: Speed) -> None:
    with pytest.raises(DataError, match="there is no"):
        read_speed(tmp_path)
    write(tmp_path, [])
    with pytest.raises(DataError, match="has no rows"):
        read_speed(tmp_path)
    write(tmp_path, [replace(speed.rows[0], pair="other")])
    with pytest.raises(DataError, match="nothing of the pair 'other'"):
        read_speed(tmp_path)
    (tmp_path / ROWS).write_text('{"run": 1}\n')
    with pytest.raises(DataError, match="line 1 is no row"):
        read_speed(tmp_path)


# -- the plan ---------------------------------------------------------------------------

TOKENS = [[1, 2, 3], [4, 5], [6]]


def test_every_turn_begins_with_another_run() -> None:
    plan = SpeedPlan(num_prompts=2, repeats=2)
    (main,) = experiments(plan, TOKENS, 1024)
    assert [p.label for p in main.points][-2:] == [PLAIN, ASSISTED]
    turns = list(main.turns())
    assert len(turns) == main.num_turns == 8 * 4
    firsts = [turns[i][2].label for i in range(0, len(turns), 8)]
    assert len(set(firsts)) == 4
    for i in range(0, len(turns), 8):
        assert {p.label for _, _, p in turns[i : i + 8]} == {p.label for p in main.points}
        assert len({(repeat, batch) for repeat, batch, _ in turns[i : i + 8]}) == 1


def test_assisted_generation_takes_single_prompts_only() -> None:
    (main,) = experiments(SpeedPlan(num_prompts=3, max_batch_size=2), TOKENS, 1024)
    assert ASSISTED not in [p.label for p in main.points]
    assert [len(batch) for batch in main.batches] == [2, 1]


def test_contexts_end_where_the_pair_does() -> None:
    plan = SpeedPlan(scaling=("context",))
    found = [e for e in experiments(plan, TOKENS, 1024) if e.axis == "context"]
    assert [e.points[0].at for e in found] == [128, 256, 512, 1024]
    for e in found:
        ((prompt,),) = e.batches
        assert len(prompt) + e.sampling.max_new_tokens == e.points[0].at
        assert e.sampling.ignore_eos


def test_option_axes_vary_the_methods_that_have_the_option() -> None:
    plan = SpeedPlan(scaling=("length", "width"))
    _, width, length = experiments(plan, TOKENS, 1024)
    assert {p.label for p in width.points} == {"autoregressive", "mtad", "mmtad"}
    wide = [p for p in width.points if p.at == 8]
    assert {getattr(p.method, "beam_width", None) for p in wide} == {8}
    assert "block_verification" in {p.label for p in length.points}
    assert [p.at for p in length.points if p.label == "autoregressive"] == [0]


def test_batches_are_filled_and_sizes_go_up_to_the_pair() -> None:
    plan = SpeedPlan(scaling=("batch", "size"), pair=PairSpec("1b"))
    _, *rest = experiments(plan, TOKENS, 1024)
    batches = [len(e.batches[0]) for e in rest if e.axis == "batch"]
    assert batches == [1, 4, 16, 64]
    assert [e.pair.target for e in rest if e.axis == "size"] == ["demo", "1b"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"repeats": 0}, "repeats is 0; it must be at least 1"),
        ({"scaling": ("speed",)}, "scaling is 'speed'; it must be one of batch"),
        ({"pair": PairSpec("some/model")}, "speculative_sampling needs a draft model"),
        (
            {"pair": PairSpec("some/model", "some/draft"), "scaling": ("size",)},
            "goes through built-in pairs",
        ),
        (
            {"methods": (("autoregressive", mtad.Autoregressive()),), "scaling": ("width",)},
            "--scaling width needs a method with beam_width",
        ),
        ({"sampling": Sampling(top_p=1.5)}, "top_p is 1.5"),
    ],
)
def test_impossible_plans_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeedPlan(**wrong)


# -- prompts ----------------------------------------------------------------------------


def test_prompts_mix_the_test_sets() -> None:
    prompts = heldout_prompts(4)
    assert [type(p) for p in prompts] == [str, str, list, str]
    with pytest.raises(ValueError, match="--num-prompts is 99999"):
        heldout_prompts(99999)


def test_prompts_of_a_length_end_with_a_whole_prompt() -> None:
    assert of_length(TOKENS, 9) == [1, 2, 3, 4, 5, 6, 1, 2, 6]
    assert of_length([[1, 2, 3]], 2) == [2, 3]
    assert filled(TOKENS, 4) == [*TOKENS, TOKENS[0]]
    assert batches_of(TOKENS, 2) == [TOKENS[:2], TOKENS[2:]]
