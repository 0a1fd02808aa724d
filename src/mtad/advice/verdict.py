"""The verdict on a pair: whether drafting pays, and if it does not, why.

The reason is found by asking what would have to be otherwise. If a draft that is accepted as often
as well matched ones are would pay at these costs, this one is poor; if it would pay were it free,
it is too dear; if not even that helps, the target takes too long to verify several tokens. Knows no
clock and no model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mtad.advice.spelling import interval
from mtad.api.costs import tokens_by_length
from mtad.api.paying import Offer, Prospect
from mtad.bench.statistics import Estimate

Reason: TypeAlias = Literal[
    "dear", "poor", "not flat", "overhead", "too long", "mismatched", "no draft"
]

WELL_MATCHED = 0.7
"""Acceptance of each token of a draft that was made for its target, on texts like those that it
learnt from."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a pair.

    Attributes:
        prospect: chains of drafts and what they cost.
        rates: conditional acceptance of a chain by position.
        by_kind: the same by kind of prompt.
        offers: the best of each lossless method that uses the draft, by its name; of all where
            there is no draft.
        others: of those that need none, where there is one.
        measured: speed over plain decoding of the methods that were timed.
        num_draft_tokens: the chain that the user would draft.
    """

    prospect: Prospect
    rates: Sequence[float]
    by_kind: Mapping[str, Sequence[float]]
    offers: Mapping[str, Offer]
    others: Mapping[str, Offer]
    measured: Mapping[str, Estimate]
    num_draft_tokens: int

    @property
    def recommended(self) -> tuple[str, Offer]:
        """The fastest method and its offer: as it was measured, or else as it is expected."""
        timed = [name for name in self.offers if name in self.measured]
        name = max(timed or self.offers, key=lambda name: self.speed_of(name).value or 0.0)
        return name, self.offers[name]

    @property
    def speed(self) -> Estimate:
        """That of the recommended method."""
        return self.speed_of(self.recommended[0])

    def speed_of(self, name: str) -> Estimate:
        """That of a method; what is expected, without an interval, if it was not timed."""
        offers = {**self.offers, **self.others}
        return self.measured.get(name, Estimate(offers[name].speed_up))

    @property
    def better_without(self) -> str | None:
        """A method that needs no draft and is faster than plain decoding and than the draft."""
        name = max(self.others, key=lambda name: self.speed_of(name).value or 0.0, default=None)
        if name is None or _interval(self.speed_of(name))[0] <= 1:
            return None
        return name if (self.speed_of(name).value or 0.0) > (self.speed.value or 0.0) else None

    @property
    def kinds_that_lose(self) -> list[str]:
        """Kinds of prompts on which no chain is expected to pay."""
        return [kind for kind, rates in self.by_kind.items() if not self._pays(rates)]

    def _pays(self, rates: Sequence[float]) -> bool:
        return bool(rates) and self.prospect.best(tokens_by_length(rates)).speed_up > 1


@dataclass(frozen=True)
class Verdict:
    """What is said to the user.

    Attributes:
        pays: whether drafting pays; None where the measurement shows neither.
        reason: why it does not, or what is wrong although it does; None if nothing is.
        sentence: both in words.
        next: what to try, the best first.
    """

    pays: bool | None
    reason: Reason | None
    sentence: str
    next: tuple[str, ...] = ()


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a pair that can be decoded."""
    verdict, name = _judged(evidence), evidence.better_without
    if name is None:
        return verdict
    step = f"--method {name}, which needs no draft: {_said(evidence.speed_of(name))} as plain"
    return dataclasses.replace(verdict, next=(f"{step} decoding", *verdict.next))


def _judged(evidence: Evidence) -> Verdict:
    name, offer = evidence.recommended
    expected, (low, high) = offer.speed_up, _interval(evidence.speed)
    if low > 1:
        return _paying(evidence)
    if max(one.speed_up for one in evidence.offers.values()) <= 1:
        return _refused(evidence)
    said = _said(evidence.speed)
    if high < 1:
        return Verdict(
            False,
            "overhead",
            f"drafting does not pay: by its forwards {name} should be {expected:.2f} times as fast "
            f"as plain decoding, but it is {said}: what is done between the forwards takes the "
            "gain",
            (
                "close what else runs on this machine, and run `mtad doctor` again",
                "a larger target, beside which that time is small",
            ),
        )
    return Verdict(
        None,
        None,
        f"whether drafting pays is not shown: {name} is expected to be {expected:.2f} times as "
        f"fast as plain decoding, and was {said} in turns with it",
        ("run `mtad doctor` again with more prompts: --num-prompts 48",),
    )


def mismatched(error: str) -> Verdict:
    """The verdict on a draft that cannot draft for its target.

    Args:
        error: why, as loading said it.
    """
    return Verdict(
        False,
        "mismatched",
        f"this draft cannot draft for this target: {error}",
        ("make a draft for this target: mtad distill --target-model TARGET --output FOLDER",),
    )


def _interval(speed: Estimate) -> tuple[float, float]:
    """Both ends of what is known of a speed."""
    value = speed.value or 0.0
    return value if speed.low is None else speed.low, value if speed.high is None else speed.high


def _said(speed: Estimate) -> str:
    """A speed in words."""
    return f"{interval(speed)} times as fast"


def _paying(evidence: Evidence) -> Verdict:
    name, offer = evidence.recommended
    length, asked = offer.shape.length, _asked(evidence)
    said = _said(evidence.speed)
    sentence = f"drafting pays: {name} with drafts of {_tokens(length)} is {said} as plain decoding"
    steps = []
    if losing := evidence.kinds_that_lose:
        sentence += f"; it is not expected to on {', '.join(losing)}"
        steps.append(
            "leave the guard on where kinds of prompts are mixed: it leaves drafts out that do not "
            "pay"
        )
    if asked is not None and asked.speed_up <= 1:
        return Verdict(
            True,
            "too long",
            f"{sentence}; drafts of {_tokens(asked.shape.length)} are too long: "
            f"{asked.speed_up:.2f} times",
            tuple(steps),
        )
    return Verdict(True, None, sentence, tuple(steps))


def _asked(evidence: Evidence) -> Offer | None:
    """What the chain brings that the user would draft."""
    offers = evidence.prospect.offers(tokens_by_length(evidence.rates))
    return next((o for o in offers if o.shape.length == evidence.num_draft_tokens), None)


def _refused(evidence: Evidence) -> Verdict:
    """Why no draft is expected to pay."""
    prospect = evidence.prospect
    name, offer = evidence.recommended
    head = (
        f"drafting does not pay: the fastest lossless method, {name}, is expected to decode "
        f"{offer.speed_up:.2f} times as fast as plain decoding"
    )
    target = prospect.costs.target
    if prospect.costs.draft is None:
        return Verdict(
            False,
            "no draft",
            f"{head}: there is no draft, and what it copies from the text is seldom accepted",
            ("make a draft: mtad distill --target-model TARGET --output FOLDER",),
        )
    if prospect.best_at(WELL_MATCHED).speed_up > 1:
        first = evidence.rates[0] if evidence.rates else 0.0
        return Verdict(
            False,
            "poor",
            f"{head}, since the draft is poor on these prompts: {first:.0%} of the first draft "
            f"tokens are accepted, and it would pay from {prospect.break_even or 0.0:.0%} on",
            (
                "train a draft on prompts like these: mtad distill --prompts FILE",
                "a lower temperature, at which drafts are accepted more",
            ),
        )
    if _free(prospect).best_at(WELL_MATCHED).speed_up > 1:
        share = prospect.costs.draft_s / target(1)
        return Verdict(
            False,
            "dear",
            f"{head}, since the draft is too dear: a drafted token takes {share:.0%} of a target "
            "forward",
            (
                "a smaller draft, such as a head: mtad distill --kind head",
                "a larger target, beside which this draft is cheap",
            ),
        )
    return Verdict(
        False,
        "not flat",
        f"{head}, since verification is not flat: a target forward of 2 tokens takes "
        f"{target(2) / target(1):.2f} times as long as one of 1, and of 5 tokens "
        f"{target(5) / target(1):.2f} times",
        (
            "smaller weights or another form of them, such as --dtype bfloat16",
            "a machine whose memory is slow beside its arithmetic, such as a GPU",
        ),
    )


def _free(prospect: Prospect) -> Prospect:
    """The same if drafts cost nothing."""
    return dataclasses.replace(prospect, costs=dataclasses.replace(prospect.costs, draft=None))


def _tokens(count: int) -> str:
    return f"{count} token{'s' * (count > 1)}"
