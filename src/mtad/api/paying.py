"""Whether drafts pay: what each length is expected to bring, by the costs that the guard knows.

A draft of K tokens brings (expected tokens of an iteration) / (its seconds over those of a plain
step) times the speed of plain decoding; see `mtad.api.controller`. Knows no clock and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mtad.api.costs import Costs, Curve, Shape, shapes_of, tokens_by_length
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.speculative.method import Method

_NARROWINGS = 40
"""Halvings of an interval in which the break-even acceptance is found."""


@dataclass(frozen=True)
class Offer:
    """What drafts of one shape are expected to bring.

    Attributes:
        shape: what is drafted.
        tokens: of an iteration.
        ratio: seconds of an iteration over those of a plain step.
    """

    shape: Shape
    tokens: float
    ratio: float

    @property
    def speed_up(self) -> float:
        """Tokens per second over those of plain decoding."""
        return self.tokens / self.ratio


@dataclass(frozen=True)
class Prospect:
    """The drafts of a method and what they cost, for one text.

    Attributes:
        costs: of the forwards.
        shapes: the plain step first, then by length.
    """

    costs: Costs
    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, costs: Costs, method: Method, vocab: int) -> Prospect:
        """That of a method and shorter drafts of it; `vocab` is the number of token ids."""
        return cls(costs, shapes_of(method, vocab))

    @property
    def longest(self) -> int:
        """Levels of the longest draft."""
        return self.shapes[-1].length

    def offers(self, tokens: Sequence[float]) -> list[Offer]:
        """What each draft brings, by length.

        Args:
            tokens: expected of an iteration by the draft's length, from 0 on; drafts that are
                longer than these say are left out.
        """
        plain = self.costs.of(self.shapes[0], 1)
        known = [shape for shape in self.shapes[1:] if shape.length < len(tokens)]
        return [Offer(s, tokens[s.length], self.costs.of(s, 1) / plain) for s in known]

    def best(self, tokens: Sequence[float]) -> Offer:
        """The draft that brings most; `tokens` as in `offers`, for one length at least."""
        return max(self.offers(tokens), key=lambda offer: offer.speed_up)

    def best_at(self, rate: float) -> Offer:
        """The draft that brings most where each token is accepted with the same chance."""
        return self.best(tokens_by_length([rate] * self.longest))

    @cached_property
    def break_even(self) -> float | None:
        """The acceptance of each token from which on a draft pays; None if none is enough."""
        if self.best_at(1.0).speed_up <= 1:
            return None
        low, high = 0.0, 1.0
        for _ in range(_NARROWINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.best_at(middle).speed_up > 1 else (middle, high)
        return high


def chains(draft_s: float, target_s: Sequence[float]) -> Prospect:
    """That of chains by measured seconds.

    Args:
        draft_s: seconds of a drafted token.
        target_s: seconds of a target forward of 1, 2, … tokens; chains are one token shorter.
    """
    sizes = tuple(range(1, len(target_s) + 1))
    costs = Costs(Curve(sizes, tuple(target_s)), Curve((1, 2), (draft_s, draft_s)))
    return Prospect.of(
        costs, SpeculativeSampling(num_draft_tokens=len(target_s) - 1), len(target_s)
    )
