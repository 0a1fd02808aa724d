"""The figures as tables, and as CSV with all digits."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from mtad.bench.report.table import NONE, UNAVAILABLE, Table, number
from mtad.bench.speed.baseline import ASSISTED, PLAIN
from mtad.bench.speed.runs import EAGER, RECORDED
from mtad.bench.speed.summary import (
    PARTS,
    Figures,
    Speed,
    Spread,
    beside,
    decode_rate,
    end_to_end_rate,
    key_of,
)

AUTOREGRESSIVE = "autoregressive"
_LIMIT_NOTE = "Measured before and after the runs; the faster of both counts."
REFERENCES = (PLAIN, ASSISTED, AUTOREGRESSIVE)


def main_table(speed: Speed) -> Table:
    """One row per run: speed, acceptance, the split of an iteration, and its limit."""
    headers = [
        "run",
        "tokens/s",
        "end to end",
        "× plain generate",
        "× assisted",
        "acceptance",
        "iteration ms",
        *PARTS,
        "limit ms",
        "of limit",
        "ceiling",
        "iterations",
        "J/token",
    ]
    rows = [_main_row(speed, figures) for figures in speed.main.values()]
    note = (
        "tokens/s without the prompt; end to end with it, and so are both ratios to transformers. "
        "In brackets the least and the largest of the repeats. Acceptance is the mean acceptance "
        "length. Ceiling: the speed-up over plain decoding if both were at their limits."
    )
    return Table("Speed", headers, rows, note, slug="speed")


def _main_row(speed: Speed, figures: Figures) -> list[str]:
    key = key_of(figures)
    ratios = [speed.ratio(key, beside(figures, r)) for r in (PLAIN, ASSISTED)]
    parts = figures.parts_s
    return [
        figures.row.run,
        shown(figures.tokens_per_s, 1),
        shown(figures.end_to_end_tokens_per_s, 1),
        *(shown(ratio, 2) for ratio in ratios),
        _number(figures.mean_acceptance_length, 2),
        _number(figures.iteration_s, 2, 1e3),
        *(_number(parts.get(part), 2, 1e3) for part in PARTS),
        _number(figures.limit_s, 2, 1e3),
        percent(figures.fraction),
        _number(figures.ceiling, 2),
        _recorded(figures),
        _number(figures.joules_per_token, 3) if figures.joules_per_token else UNAVAILABLE,
    ]


def ratio_table(speed: Speed) -> Table:
    """How many times as fast every run is, end to end and without the prompt."""
    known = [name for name in REFERENCES if name in speed.main]
    kinds = (("end to end", end_to_end_rate), ("decode", decode_rate))
    headers = ["run", *(f"{kind}: × {name}" for kind, _ in kinds for name in known)]
    rows = []
    for run, figures in speed.main.items():
        key = key_of(figures)
        ratios = [
            speed.ratio(key, beside(figures, name), rate) for _, rate in kinds for name in known
        ]
        rows.append([run, *(shown(ratio, 2) for ratio in ratios)])
    note = (
        "On the same prompts, in turns. The decode time of transformers is its time less that of a "
        "generate of one token."
    )
    return Table("Ratios", headers, rows, note, slug="ratios")


def overhead_table(speed: Speed) -> Table:
    """What an iteration spends outside of the models."""
    rows = []
    for run, figures in speed.main.items():
        outside, whole = figures.outside_s, figures.iteration_s
        if outside is not None and whole:
            rows.append([run, number(1e3 * outside, 2), percent(outside / whole)])
    note = "Time of an iteration that is in no forward of target or draft."
    return Table("Outside of the models", ["run", "ms", "share"], rows, note, slug="outside")


def limit_table(speed: Speed) -> Table:
    """What was measured of the device, and what the models need."""
    headers = ["pair", "model", "parameters", "weights read MB", "main memory GB/s"]
    headers += ["at the size of the weights GB/s", "Gflop/s", "threads"]
    rows = []
    for pair, cost in speed.costs.items():
        limits = cost.limits
        for name, model in cost.models.items():
            rows.append(
                [
                    pair,
                    name,
                    f"{model.num_parameters:,}",
                    number(model.weight_bytes / 1e6, 1),
                    number(limits.memory_bytes_per_s / 1e9, 1),
                    number(limits.working_bytes_per_s / 1e9, 1),
                    number(limits.flops_per_s / 1e9, 1),
                    str(limits.num_threads),
                ]
            )
    return Table("Limits", headers, rows, _LIMIT_NOTE, 2, slug="limits")


def scaling_table(speed: Speed, axis: str) -> Table:
    """One row per run and value."""
    headers = ["run", axis, "tokens/s", "ms per token of a text", "acceptance"]
    headers += ["of limit", "× autoregressive", "peak memory MB"]
    rows = []
    for figures in sorted(speed.figures(axis), key=lambda f: f.row.run):
        ratio = speed.ratio(key_of(figures), beside(figures, AUTOREGRESSIVE), decode_rate)
        memory = peak_bytes(figures)
        rows.append(
            [
                figures.row.run,
                str(figures.row.at),
                shown(figures.tokens_per_s, 1),
                _number(figures.token_latency_s, 2, 1e3),
                _number(figures.mean_acceptance_length, 2),
                percent(figures.fraction),
                shown(ratio, 2),
                _number(memory, 1, 1e-6),
            ]
        )
    note = "Peak memory: the weights, and what a call took beyond what was in use before."
    return Table(f"Scaling: {axis}", headers, rows, note, 2, slug=f"scaling-{axis}")


def peak_bytes(figures: Figures) -> float | None:
    """Weights of the models that take part, and the peak of the calls; None if unknown."""
    seen = {f.model for m in figures.all if m.observed for f in m.observed.forwards}
    weights = sum(figures.cost.models[name].weight_bytes for name in seen)
    return None if figures.memory_bytes is None else float(weights + figures.memory_bytes)


def figures_csv(speed: Speed) -> str:
    """One row per run, value and figure, with all digits."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["axis", "at", "pair", "run", "figure", "value", "low", "high", "unit"])
    for axis in dict.fromkeys(row.axis for row in speed.rows):
        for figures in speed.figures(axis):
            row = figures.row
            for name, value, unit in _all_figures(speed, figures):
                writer.writerow([row.axis, row.at, row.pair, row.run, name, *_cells(value), unit])
    return stream.getvalue()


def _all_figures(
    speed: Speed, figures: Figures
) -> Iterator[tuple[str, Spread | float | None, str]]:
    yield "tokens_per_s", figures.tokens_per_s, "1/s"
    yield "end_to_end_tokens_per_s", figures.end_to_end_tokens_per_s, "1/s"
    yield "mean_acceptance_length", figures.mean_acceptance_length, "tokens"
    yield "tokens_per_iteration", figures.tokens_per_iteration, "tokens"
    yield "token_latency", figures.token_latency_s, "s"
    yield "iteration", figures.iteration_s, "s"
    for part, seconds in figures.parts_s.items():
        yield part, seconds, "s"
    yield "outside_of_models", figures.outside_s, "s"
    yield "limit", figures.limit_s, "s"
    yield "fraction_of_limit", figures.fraction, ""
    yield "limit_tokens_per_s", figures.limit_tokens_per_s, "1/s"
    yield "ceiling", figures.ceiling, ""
    yield "recorded_iterations", figures.recorded, ""
    yield "energy_per_token", figures.joules_per_token, "J"
    yield "peak_memory", peak_bytes(figures), "B"
    for name in REFERENCES:
        other = beside(figures, name)
        yield f"end_to_end_ratio_to_{name}", speed.ratio(key_of(figures), other), ""
        yield f"decode_ratio_to_{name}", speed.ratio(key_of(figures), other, decode_rate), ""


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


def _recorded(figures: Figures) -> str:
    """How the iterations ran."""
    share = figures.recorded
    if share is None:
        return NONE
    return {1.0: RECORDED, 0.0: EAGER}.get(share, f"{percent(share)} {RECORDED}")


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return NONE if value is None else number(factor * value, digits)
