"""The results of runs as tables, and with all digits for the CSV file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from mtad.bench.report.table import NONE, UNAVAILABLE, Table, number
from mtad.bench.speed.baseline import ASSISTED, PLAIN
from mtad.bench.speed.runs import EAGER, RECORDED
from mtad.bench.speed.summary import (
    PARTS,
    Rate,
    RunResult,
    Speed,
    Spread,
    beside,
    decode_rate,
    end_to_end_rate,
    key_of,
    over,
)

AUTOREGRESSIVE = "autoregressive"
Cell = Callable[[RunResult], str]
_LIMIT_NOTE = "Measured before and after the runs; the faster of both counts."
REFERENCES = (PLAIN, ASSISTED, AUTOREGRESSIVE)


def main_table(speed: Speed) -> Table:
    """One row per run: speed, acceptance, the split of an iteration, and its limit."""
    columns: dict[str, Cell] = {
        "run": lambda r: r.row.run,
        "tokens/s": lambda r: shown(r.tokens_per_s, 1),
        "end to end": lambda r: shown(r.end_to_end_tokens_per_s, 1),
        "× plain generate": _times(speed, PLAIN),
        "× assisted": _times(speed, ASSISTED),
        "acceptance": lambda r: _number(r.mean_acceptance_length, 2),
        "iteration ms": lambda r: _number(r.iteration_s, 2, 1e3),
        **{part: _part_ms(part) for part in PARTS},
        "limit ms": lambda r: _number(r.limit_s, 2, 1e3),
        "of limit": lambda r: percent(r.fraction),
        "ceiling": lambda r: _number(r.ceiling, 2),
        "iterations": _recorded,
        "J/token": lambda r: _number(r.joules_per_token, 3) if r.joules_per_token else UNAVAILABLE,
    }
    note = (
        "tokens/s without the prompt; end to end with it, and so are both ratios to transformers. "
        "In brackets the least and the largest of the repeats. Acceptance is the mean acceptance "
        "length. Ceiling: the speed-up over plain decoding if both were at their limits."
    )
    return _table("Speed", columns, speed.main.values(), note, slug="speed")


def ratio_table(speed: Speed) -> Table:
    """How many times as fast every run is, end to end and without the prompt."""
    columns: dict[str, Cell] = {"run": lambda r: r.row.run}
    for kind, rate in (("end to end", end_to_end_rate), ("decode", decode_rate)):
        for name in REFERENCES:
            if name in speed.main:
                columns[f"{kind}: × {name}"] = _times(speed, name, rate)
    note = (
        "On the same prompts, in turns. The decode time of transformers is its time less that of a "
        "generate of one token."
    )
    return _table("Ratios", columns, speed.main.values(), note, slug="ratios")


def overhead_table(speed: Speed) -> Table:
    """What an iteration spends outside of the models."""
    columns: dict[str, Cell] = {
        "run": lambda r: r.row.run,
        "ms": lambda r: _number(r.outside_s, 2, 1e3),
        "share": lambda r: percent(over(r.outside_s, r.iteration_s)),
    }
    known = [r for r in speed.main.values() if r.outside_s is not None and r.iteration_s]
    note = "Time of an iteration that is in no forward of target or draft."
    return _table("Outside of the models", columns, known, note, slug="outside")


def limit_table(speed: Speed) -> Table:
    """What was measured of the device, and what the models need."""
    headers = ["pair", "model", "parameters", "weights read MB", "main memory GB/s"]
    headers += ["at the size of the weights GB/s", "Gflop/s", "threads"]
    rows = [
        [
            pair,
            name,
            f"{model.num_parameters:,}",
            number(model.weight_bytes / 1e6, 1),
            number(cost.limits.memory_bytes_per_s / 1e9, 1),
            number(cost.limits.working_bytes_per_s / 1e9, 1),
            number(cost.limits.flops_per_s / 1e9, 1),
            str(cost.limits.num_threads),
        ]
        for pair, cost in speed.costs.items()
        for name, model in cost.models.items()
    ]
    return Table("Limits", headers, rows, _LIMIT_NOTE, 2, slug="limits")


def scaling_table(speed: Speed, axis: str) -> Table:
    """One row per run and value."""
    columns: dict[str, Cell] = {
        "run": lambda r: r.row.run,
        axis: lambda r: str(r.row.at),
        "tokens/s": lambda r: shown(r.tokens_per_s, 1),
        "ms per token of a text": lambda r: _number(r.token_latency_s, 2, 1e3),
        "acceptance": lambda r: _number(r.mean_acceptance_length, 2),
        "of limit": lambda r: percent(r.fraction),
        f"× {AUTOREGRESSIVE}": _times(speed, AUTOREGRESSIVE, decode_rate),
        "peak memory MB": lambda r: _number(peak_bytes(r), 1, 1e-6),
    }
    found = sorted(speed.results(axis), key=lambda r: r.row.run)
    note = "Peak memory: the weights, and what a call took beyond what was in use before."
    return _table(f"Scaling: {axis}", columns, found, note, 2, slug=f"scaling-{axis}")


def _table(
    title: str,
    columns: Mapping[str, Cell],
    results: Iterable[RunResult],
    note: str,
    num_labels: int = 1,
    *,
    slug: str,
) -> Table:
    rows = [[cell(result) for cell in columns.values()] for result in results]
    return Table(title, list(columns), rows, note, num_labels, slug)


def _times(speed: Speed, reference: str, rate: Rate = end_to_end_rate) -> Cell:
    """How many times as fast a run is as the reference."""
    return lambda r: shown(speed.ratio(key_of(r), beside(r, reference), rate), 2)


def _part_ms(part: str) -> Cell:
    return lambda r: _number(r.parts_s.get(part), 2, 1e3)


def peak_bytes(result: RunResult) -> float | None:
    """Weights of the models that take part, and the peak of the calls; None if unknown."""
    seen = {f.model for m in result.all if m.observed for f in m.observed.forwards}
    weights = sum(result.cost.models[name].weight_bytes for name in seen)
    return None if result.memory_bytes is None else float(weights + result.memory_bytes)


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
    yield "peak_memory", peak_bytes(result), "B"
    for name in REFERENCES:
        other = beside(result, name)
        yield f"end_to_end_ratio_to_{name}", speed.ratio(key_of(result), other), ""
        yield f"decode_ratio_to_{name}", speed.ratio(key_of(result), other, decode_rate), ""


def _cells(value: Spread | float | None) -> list[str]:
    if isinstance(value, Spread):
        return [f"{v:.6g}" for v in (value.value, value.low, value.high)]
    return ["" if value is None else f"{value:.6g}", "", ""]


def shown(value: Spread | None, digits: int) -> str:
    """The value with the ends of its spread if it has any, or a dash."""
    if value is None:
        return NONE
    low, high = number(value.low, digits), number(value.high, digits)
    return number(value.value, digits) + (f" [{low}, {high}]" if value.low < value.high else "")


def percent(share: float | None) -> str:
    """A share in percent, or a dash."""
    return NONE if share is None else f"{number(100 * share, 1)} %"


def _recorded(result: RunResult) -> str:
    """How the iterations ran."""
    share = result.recorded
    if share is None:
        return NONE
    return {1.0: RECORDED, 0.0: EAGER}.get(share, f"{percent(share)} {RECORDED}")


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return NONE if value is None else number(factor * value, digits)
