"""A checkup as one page of text, and as JSON."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Iterator
from typing import Any

from mtad.advice.checkup import Checkup, Survey
from mtad.advice.spelling import flags_of, interval
from mtad.advice.verdict import Verdict
from mtad.bench.statistics import Estimate
from mtad.methods import describe

WIDTH = 100
_LABEL = 14
ALONE = 0.9
"""Share of the time that a process with the processor to itself runs, at least."""


def page(checkup: Checkup) -> str:
    """The whole page; the verdict comes last, where a terminal shows it."""
    return "\n".join(
        [
            *_models(checkup),
            "",
            *_forwards(checkup),
            "",
            *_acceptance(checkup),
            "",
            *_methods(checkup),
            "",
            *verdict_lines(checkup.verdict),
        ]
    )


def as_dict(checkup: Checkup) -> dict[str, Any]:
    """Everything on the page, for JSON."""
    evidence, memory = checkup.evidence, checkup.memory
    costs = evidence.prospect.costs
    _, offer = evidence.recommended
    return {
        "vocabulary": checkup.vocabulary,
        "chat_template": checkup.templates,
        "memory": dataclasses.asdict(memory),
        "target_s": dict(zip(map(str, costs.target.num_tokens), costs.target.seconds, strict=True)),
        "draft_s": costs.draft_s if costs.draft else None,
        "num_prompts": checkup.num_prompts,
        "running": checkup.running,
        "sampling": dict(checkup.settings),
        "acceptance_by_position": list(evidence.rates),
        "acceptance_by_kind": {kind: list(rates) for kind, rates in evidence.by_kind.items()},
        "break_even_acceptance": evidence.prospect.break_even,
        "methods": {
            survey.method.name: _survey(survey)
            | {"measured_speed_up": _estimate(evidence.measured.get(survey.method.name))}
            for survey in checkup.surveys
        },
        "recommended": describe(offer.shape.method),
        "measured_speed_up": _estimate(evidence.speed) if evidence.measured else None,
        "verdict": dataclasses.asdict(checkup.verdict),
    }


def _survey(survey: Survey) -> dict[str, Any]:
    offer = survey.offer
    return {
        "options": describe(offer.shape.method)["options"],
        "acceptance_by_position": list(survey.whole.rates),
        "tokens_per_iteration": offer.tokens,
        "seconds_over_plain_step": offer.ratio,
        "expected_speed_up": offer.speed_up,
    }


def _estimate(found: Estimate | None) -> dict[str, float | None] | None:
    return None if found is None else {"value": found.value, "low": found.low, "high": found.high}


def verdict_lines(verdict: Verdict) -> list[str]:
    """The verdict and what to try next."""
    lines = _labelled("verdict", verdict.sentence)
    for place, step in enumerate(verdict.next):
        lines += _labelled("next" if not place else "or", step)
    return lines


def _labelled(label: str, text: str) -> list[str]:
    """A text with its label in front, in lines of the page's width."""
    indent = " " * _LABEL
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{label:<{_LABEL}}",
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _models(checkup: Checkup) -> Iterator[str]:
    memory = checkup.memory
    yield from _labelled("vocabulary", checkup.vocabulary)
    yield from _labelled("chat template", checkup.templates)
    free = "" if math.isinf(memory.free_bytes) else f"; {memory.free_bytes / 2**30:.1f} GiB free"
    yield from _labelled(
        "memory",
        f"target {_mib(memory.target_bytes)}, draft {_mib(memory.draft_bytes)}, caches "
        f"{_mib(1000 * memory.token_bytes)} for 1,000 tokens of one text{free}",
    )


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _forwards(checkup: Checkup) -> Iterator[str]:
    """Milliseconds of the forwards, and from where on a draft pays."""
    prospect = checkup.evidence.prospect
    costs, even = prospect.costs, prospect.break_even
    target = costs.target
    pairs = zip(target.num_tokens, target.seconds, strict=True)
    times = ", ".join(f"{seconds * 1e3:.3g}" for _, seconds in pairs)
    sizes = ", ".join(map(str, target.num_tokens))
    yield from _labelled("target", f"a forward of {sizes} tokens takes {times} ms")
    if costs.draft:
        yield from _labelled(
            "draft",
            f"a drafted token takes {costs.draft_s * 1e3:.3g} ms, "
            f"{costs.draft_s / target(1):.1%} of a target forward",
        )
    if even is None:
        said = "no acceptance is high enough for a draft to pay at these costs"
    else:
        said = (
            f"a draft pays where each token is accepted with a chance of {even:.0%} or more; were "
            f"all accepted, it would bring {prospect.best_at(1.0).speed_up:.1f} times the speed"
        )
    yield from _labelled("break-even", said)
    if checkup.running < ALONE:
        yield from _labelled(
            "caution",
            f"other programs take the processor: this one ran {checkup.running:.0%} of the time in "
            "which forwards were timed, so that all times are too long",
        )


def _acceptance(checkup: Checkup) -> Iterator[str]:
    """The chain's acceptance by position, one line by kind of prompt."""
    chain = checkup.surveys[0]
    longest = chain.prospect.longest
    yield f"acceptance of draft token 1 to {longest}, if those before it are accepted"
    yield f"  ({chain.method.name}, {checkup.num_prompts} prompts, {_sampling(checkup)})"
    width = max(map(len, ["all prompts", *chain.by_kind]))
    rows = {"all prompts": chain.whole} | (dict(chain.by_kind) if len(chain.by_kind) > 1 else {})
    for kind, counts in rows.items():
        shares = " ".join(f"{rate:.2f}" for rate in counts.rates).ljust(5 * longest - 1)
        best = chain.prospect.best(counts.tokens)
        yield (
            f"  {kind:<{width}}  {shares}  best with {best.shape.length}: "
            f"expected {best.speed_up:.2f} times"
        )


def _sampling(checkup: Checkup) -> str:
    shown = {"temperature": None, "top_k": 0, "top_p": 1.0}
    given = {n: v for n, v in checkup.settings.items() if n in shown and v != shown[n]}
    return ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in given.items())


def _methods(checkup: Checkup) -> Iterator[str]:
    """One line by lossless method, the fastest first."""
    evidence = checkup.evidence
    width = max(len(survey.method.name) for survey in checkup.surveys)
    yield f"{'lossless method':<{width + 2}}  tokens   time  expected  measured           options"
    timed = evidence.measured
    for survey in sorted(checkup.surveys, key=lambda one: -one.offer.speed_up):
        offer, name = survey.offer, survey.method.name
        measured = interval(timed[name]) if name in timed else ""
        yield (
            f"  {name:<{width}}  {offer.tokens:6.2f}  {offer.ratio:5.2f}  {offer.speed_up:8.2f}  "
            f"{measured:<17}  {' '.join(flags_of(offer.shape.method))}"
        )
    yield (
        "  tokens and time of an iteration, time over that of a plain step; speed over plain "
        "decoding,"
    )
    yield "  expected by the forwards alone, and measured in turns with plain decoding"
