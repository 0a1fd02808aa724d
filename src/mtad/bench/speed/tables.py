"""The results of runs as tables, and with all digits for the CSV file."""

from __future__ import annotations

from collections.abc import Iterator

from mtad.bench.report.table import (
    NONE,
    UNAVAILABLE,
    Table,
    all_digits,
    formatted,
    number,
    table_of,
)
from mtad.bench.speed.baseline import ASSISTED, PLAIN
from mtad.bench.speed.runs import EAGER, RECORDED
from mtad.bench.speed.summary import (
    PARTS,
    RunResult,
    Speed,
    Spread,
    decode_rate,
    end_to_end_rate,
    over,
)
from mtad.bench.statistics import Estimate

AUTOREGRESSIVE = "autoregressive"
REFERENCES = (PLAIN, ASSISTED, AUTOREGRESSIVE)


def main_table(speed: Speed) -> Table:
    """One row per run: speed, acceptance, the split of an iteration, and its limit."""
    rows = [
        {
            "run": r.row.run,
            "tokens/s": shown(r.tokens_per_s, 1),
            "end to end": shown(r.end_to_end_tokens_per_s, 1),
            "× plain generate": shown(speed.ratio(r, PLAIN), 2),
            "× assisted": shown(speed.ratio(r, ASSISTED), 2),
            "acceptance": shown(r.mean_acceptance_length, 2),
            "iteration ms": shown(r.iteration_s, 2, 1e3),
            **{part: shown(r.parts_s.get(part), 2, 1e3) for part in PARTS},
            "limit ms": shown(r.limit_s, 2, 1e3),
            "of limit": percent(r.fraction),
            "ceiling": shown(r.ceiling, 2),
            "iterations": _recorded(r.recorded),
            "J/token": shown(r.joules_per_token, 3) if r.joules_per_token else UNAVAILABLE,
        }
        for r in speed.main.values()
    ]
    note = (
        "tokens/s without the prompt; end to end with it, and so are both ratios to transformers. "
        "In brackets the least and the largest of the repeats. Acceptance is the mean acceptance "
        "length. Ceiling: the speed-up over plain decoding if both were at their limits."
    )
    return table_of("Speed", rows, note, slug="speed")


def ratio_table(speed: Speed) -> Table:
    """How many times as fast every run is, end to end and without the prompt."""
    rates = {"end to end": end_to_end_rate, "decode": decode_rate}
    references = [name for name in REFERENCES if name in speed.main]
    rows = [
        {"run": r.row.run}
        | {
            f"{kind}: × {name}": shown(speed.ratio(r, name, rate), 2)
            for kind, rate in rates.items()
            for name in references
        }
        for r in speed.main.values()
    ]
    note = (
        "On the same prompts, in turns. The decode time of transformers is its time less that of a "
        "generate of one token."
    )
    return table_of("Ratios", rows, note, slug="ratios")


def overhead_table(speed: Speed) -> Table:
    """What an iteration spends outside of the models."""
    rows = [
        {
            "run": r.row.run,
            "ms": shown(r.outside_s, 2, 1e3),
            "share": percent(over(r.outside_s, r.iteration_s)),
        }
        for r in speed.main.values()
        if r.outside_s is not None and r.iteration_s
    ]
    note = "Time of an iteration that is in no forward of target or draft."
    return table_of("Outside of the models", rows, note, slug="outside")


def limit_table(speed: Speed) -> Table:
    """What was measured of the device, and what the models need."""
    rows = [
        {
            "pair": pair,
            "model": name,
            "parameters": f"{model.num_parameters:,}",
            "weights read MB": number(model.weight_bytes / 1e6, 1),
            "main memory GB/s": number(cost.limits.memory_bytes_per_s / 1e9, 1),
            "at the size of the weights GB/s": number(cost.limits.working_bytes_per_s / 1e9, 1),
            "Gflop/s": number(cost.limits.flops_per_s / 1e9, 1),
            "threads": str(cost.limits.num_threads),
        }
        for pair, cost in speed.costs.items()
        for name, model in cost.models.items()
    ]
    note = "Measured before and after the runs; the faster of both counts."
    return table_of("Limits", rows, note, num_labels=2, slug="limits")


def scaling_table(speed: Speed, axis: str) -> Table:
    """One row per run and value."""
    rows = [
        {
            "run": r.row.run,
            axis: str(r.row.at),
            "tokens/s": shown(r.tokens_per_s, 1),
            "ms per token of a text": shown(r.token_latency_s, 2, 1e3),
            "acceptance": shown(r.mean_acceptance_length, 2),
            "of limit": percent(r.fraction),
            f"× {AUTOREGRESSIVE}": shown(speed.ratio(r, AUTOREGRESSIVE, decode_rate), 2),
            "peak memory MB": shown(r.peak_bytes, 1, 1e-6),
        }
        for r in sorted(speed.results(axis), key=lambda r: r.row.run)
    ]
    note = "Peak memory: the weights, and what a call took beyond what was in use before."
    return table_of(f"Scaling: {axis}", rows, note, num_labels=2, slug=f"scaling-{axis}")


def results_csv(speed: Speed) -> Table:
    """One row per run, value and metric, with all digits."""
    rows = [
        [row.axis, str(row.at), row.pair, row.run, name, *_cells(value), unit]
        for axis in dict.fromkeys(row.axis for row in speed.rows)
        for result in speed.results(axis)
        for row in [result.row]
        for name, value, unit in _all_values(speed, result)
    ]
    return Table("Speed", "axis at pair run figure value low high unit".split(), rows)


def _all_values(
    speed: Speed, result: RunResult
) -> Iterator[tuple[str, Spread | float | None, str]]:
    yield "tokens_per_s", result.tokens_per_s, "1/s"
    yield "end_to_end_tokens_per_s", result.end_to_end_tokens_per_s, "1/s"
    yield "mean_acceptance_length", result.mean_acceptance_length, "tokens"
    yield "tokens_per_iteration", result.tokens_per_iteration, "tokens"
    yield "token_latency", result.token_latency_s, "s"
    yield "iteration", result.iteration_s, "s"
    for part, seconds in result.parts_s.items():
        yield part, seconds, "s"
    yield "outside_of_models", result.outside_s, "s"
    yield "limit", result.limit_s, "s"
    yield "fraction_of_limit", result.fraction, ""
    yield "limit_tokens_per_s", result.limit_tokens_per_s, "1/s"
    yield "ceiling", result.ceiling, ""
    yield "recorded_iterations", result.recorded, ""
    yield "energy_per_token", result.joules_per_token, "J"
    yield "peak_memory", result.peak_bytes, "B"
    for name in REFERENCES:
        yield f"end_to_end_ratio_to_{name}", speed.ratio(result, name), ""
        yield f"decode_ratio_to_{name}", speed.ratio(result, name, decode_rate), ""


def _cells(value: Spread | float | None) -> list[str]:
    if isinstance(value, Spread):
        return all_digits(value.value, value.low, value.high)
    return all_digits(value, None, None)


def shown(value: Spread | float | None, digits: int, factor: float = 1.0) -> str:
    """The value with the ends of its spread if it has any, or a dash."""
    if isinstance(value, Spread):
        ends = (value.low, value.high) if value.low < value.high else (None, None)
        return formatted(Estimate(value.value, *ends), digits, factor)
    return formatted(Estimate(value), digits, factor)


def percent(share: float | None) -> str:
    """A share in percent, or a dash."""
    return NONE if share is None else f"{number(100 * share, 1)} %"


def _recorded(share: float | None) -> str:
    """How the iterations ran."""
    if share is None:
        return NONE
    return {1.0: RECORDED, 0.0: EAGER}.get(share, f"{percent(share)} {RECORDED}")
