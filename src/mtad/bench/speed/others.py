"""mtad beside other engines: plain decoding and its fastest lossless method, against their runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtad.bench.report.table import Table, table_of
from mtad.bench.speed.llama_cpp import LLAMA_CPP, VARIANTS
from mtad.bench.speed.summary import (
    RunResult,
    Speed,
    Spread,
    decode_rate,
    end_to_end_rate,
    model_rate,
)
from mtad.bench.speed.tables import AUTOREGRESSIVE, shown
from mtad.methods import find


def other_table(speed: Speed) -> Table:
    """One row per run of another engine, and how many times as fast mtad is."""
    ours = [run for run in (_plain(speed), fastest_lossless(speed)) if run is not None]
    rows = [
        {
            "run": other.row.run,
            "tokens/s": shown(other.tokens_per_s, 1),
            "acceptance": shown(other.mean_acceptance_length, 2),
            **{k: v for run in ours for k, v in _times(speed, run, other.row.run).items()},
            "same tokens": shown(shared_tokens(speed, other), 1),
        }
        for other in speed.main.values()
        if not other.is_ours
    ]
    note = (
        "How many times as fast two runs of mtad are, on the same prompts in turns: plain decoding "
        "and the fastest of the lossless methods. Models only: against the seconds that the engine "
        "counts within its target by its own clock, without its sampling and what calls it, while "
        "all of ours counts. Same tokens: with how many tokens of plain decoding a greedy text "
        "begins; weights in another form say other things."
    )
    return table_of("Other engines", rows, note, slug="other-engines")


def _times(speed: Speed, run: RunResult, other: str) -> dict[str, str]:
    name = run.row.run
    return {
        f"decode: {name} ×": shown(speed.ratio(run, other, decode_rate), 2),
        f"end to end: {name} ×": shown(speed.ratio(run, other, end_to_end_rate), 2),
        f"models only: {name} ×": shown(speed.ratio(run, other, decode_rate, model_rate), 2),
    }


def _plain(speed: Speed) -> RunResult | None:
    return speed.main.get(AUTOREGRESSIVE)


def fastest_lossless(speed: Speed) -> RunResult | None:
    """The run of a lossless method, plain decoding aside, with the most tokens per second."""
    runs = [r for r in speed.main.values() if r.row.run != AUTOREGRESSIVE and _is_lossless(r)]
    return max(runs, key=_decode_value, default=None)


def _is_lossless(result: RunResult) -> bool:
    method = result.row.method
    if method is None or result.tokens_per_s is None:
        return False
    return find(method["name"])(**method["options"]).is_lossless


def _decode_value(result: RunResult) -> float:
    return result.tokens_per_s.value if result.tokens_per_s else 0.0


def other_verdicts(speed: Speed) -> Iterator[str]:
    """Whether mtad is faster than the fastest runs of llama.cpp, plain and speculative."""
    known = [r for name, r in speed.main.items() if name in VARIANTS and r.tokens_per_s]
    plain = [r for r in known if not VARIANTS[r.row.run].speculation]
    sides = ((_plain(speed), plain, "plain "), (fastest_lossless(speed), known, ""))
    for ours, theirs, kind in sides:
        if ours is not None and theirs:
            best = max(theirs, key=_decode_value).row.run
            ratio = speed.ratio(ours, best, decode_rate)
            if ratio is not None:
                yield f"{ours.row.run} {_than(ratio)} the fastest {kind}run of {LLAMA_CPP}, {best}"


def _than(ratio: Spread) -> str:
    times = f"{shown(ratio, 2)} times as fast as"
    if ratio.low > 1:
        return f"is faster, {times}"
    return f"is slower, {times}" if ratio.high < 1 else f"is within the spread, {times}"


def shared_tokens(speed: Speed, other: RunResult) -> float | None:
    """Mean number of tokens that texts begin with as plain decoding's do; None if not greedy."""
    plain = _plain(speed)
    if plain is None:
        return None
    turns = [turn for turn in other.turns if turn in plain.turns]
    pairs = [
        pair
        for turn in turns
        for pair in zip(other.turns[turn].texts, plain.turns[turn].texts, strict=False)
    ]
    return sum(_shared(*pair) for pair in pairs) / len(pairs) if pairs else None


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
