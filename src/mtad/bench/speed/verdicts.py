"""What the numbers mean, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from mtad.bench.report.table import number
from mtad.bench.speed.baseline import ASSISTED, PLAIN
from mtad.bench.speed.others import other_verdicts
from mtad.bench.speed.summary import RunResult, Speed, Spread, decode_rate
from mtad.bench.speed.tables import AUTOREGRESSIVE, percent, shown

SPECULATIVE = "speculative_sampling"
_PAYS = "drafting pays", "drafting does not pay", "whether drafting pays is not clear"
_PAYS_AT = "pays", "does not pay", "is as fast as plain decoding within the spread"


def verdicts(speed: Speed) -> list[str]:
    """One statement per run, and what follows from several of them."""
    runs = [f for f in speed.main.values() if f.is_ours and f.all]
    lines = [_of_run(speed, result) for result in runs]
    lines += other_verdicts(speed)
    lines += _against_speculative(speed, runs)
    lines += _ceiling([f for f in runs if f.row.run != AUTOREGRESSIVE])
    lines += _batch_sizes(speed)
    lines += _eager(runs)
    return lines + [f"left out: {error}" for error in speed.errors]


def _eager(runs: list[RunResult]) -> Iterator[str]:
    """Which runs were slower than recorded ones, and why."""
    for result in runs:
        for reason in result.eager_reasons:
            yield f"{result.row.run} ran eagerly: {reason}"
        if not result.eager_reasons and result.recorded not in (None, 1.0):
            yield f"{result.row.run}: some iterations were still being recorded when timed"


def _of_run(speed: Speed, result: RunResult) -> str:
    parts = [f"{shown(result.tokens_per_s, 1)} tokens/s"]
    if result.fraction is not None and result.limit_tokens_per_s is not None:
        limit = number(result.limit_tokens_per_s, 1)
        parts.append(f"{percent(result.fraction)} of the limit of {limit}")
    for name in (PLAIN, ASSISTED):
        if ratio := speed.ratio(result, name):
            parts.append(f"{shown(ratio, 2)} times {name} end to end")
    if result.row.run != AUTOREGRESSIVE:
        ratio = speed.ratio(result, AUTOREGRESSIVE, decode_rate)
        if ratio is not None:
            verdict = _if_clear(ratio, *_PAYS)
            parts.append(f"{verdict}: {shown(ratio, 2)} times {AUTOREGRESSIVE}")
    return f"{result.row.run}: {'; '.join(parts)}"


def _if_clear(ratio: Spread, faster: str, slower: str, unclear: str) -> str:
    """Whether a run is faster than plain decoding in every repeat, in none, or in some."""
    if ratio.low > 1:
        return faster
    return slower if ratio.high < 1 else unclear


def _against_speculative(speed: Speed, runs: list[RunResult]) -> Iterator[str]:
    by_name = {(f.row.method or {}).get("name"): f for f in reversed(runs)}
    reference = by_name.get(SPECULATIVE)
    for name in ("mtad", "mmtad"):
        result = by_name.get(name)
        if result is None or reference is None:
            continue
        ratio = speed.ratio(result, reference.row.run, decode_rate)
        if ratio is not None:
            ideal = _ratio_of_limits(result, reference)
            yield (
                f"{result.row.run} against {reference.row.run}: {shown(ratio, 2)} times as fast; "
                f"{ideal} if both were at their limits"
            )


def _ratio_of_limits(one: RunResult, other: RunResult) -> str:
    ours, theirs = one.limit_tokens_per_s, other.limit_tokens_per_s
    return "not known" if not ours or not theirs else f"{number(ours / theirs, 2)} times"


def _ceiling(runs: list[RunResult]) -> Iterator[str]:
    """What the best of the drafting runs could reach."""
    known = [(f.ceiling, f.row.run) for f in runs if f.ceiling is not None]
    if known:
        best, run = max(known)
        yield (
            f"ceiling of the pair: {number(best, 2)} times plain decoding, with {run}, if both "
            "were at their limits"
        )


def _batch_sizes(speed: Speed) -> Iterator[str]:
    """Up to which batch each method is faster than plain decoding of the same batch."""
    found: dict[str, list[tuple[float, Spread]]] = {}
    for result in speed.results("batch"):
        ratio = speed.ratio(result, AUTOREGRESSIVE, decode_rate)
        if ratio is not None and result.row.run != AUTOREGRESSIVE:
            found.setdefault(result.row.run, []).append((float(result.row.at), ratio))
    for run, points in found.items():
        sized = sorted(points, key=lambda point: point[0])
        answers: dict[str, list[str]] = {}
        for size, ratio in sized:
            answers.setdefault(_if_clear(ratio, *_PAYS_AT), []).append(f"{size:g}")
        findings = "; ".join(f"{answer} at batch {', '.join(n)}" for answer, n in answers.items())
        sizes = ", ".join(f"{size:g}: {number(r.value, 2)}" for size, r in sized)
        yield f"{run} by batch: drafting {findings} (times {AUTOREGRESSIVE} at {sizes})"
