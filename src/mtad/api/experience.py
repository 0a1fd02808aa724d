"""What is known of the drafts of a pair: how many are accepted, and what iterations took.

Knows no clock and no model.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeAlias

from mtad.api.costs import Costs, Widths
from mtad.api.recordings import Recordings

FIRST_RATE = 0.5
"""Acceptance that is expected of a pair before anything was seen."""
ALLOWANCE = 0.5
"""Plain steps that may be lost at once, on a pair's first text."""
UNTIMED = 1
"""First iterations of a shape that are not timed: memory and kernels are new to them."""
REMEMBERED = 9
"""Comparisons of a shape with plain steps whose median counts."""
DOUBTS = 2
"""Comparisons that agree with what was predicted, before there are any."""


class Acceptance:
    """Running averages of the conditional acceptance by place of a draft and width there.

    Where a width was not seen, each of the tokens there is taken to be accepted with the same
    chance as at the widths that were, independently: r of one are 1 − (1 − r)^w of w.

    Args:
        keeps: share of what was seen that still counts after one more block.
        weight: blocks that what is expected beforehand counts for.
    """

    def __init__(self, keeps: float, weight: float) -> None:
        self.keeps, self.weight = keeps, weight
        self._seen: dict[int, dict[int, tuple[float, float]]] = {}

    def add(
        self, widths: Widths, accepted: Sequence[int], firsts: Sequence[int] | None = None
    ) -> None:
        """Learn how many of a block's draft tokens each row accepted.

        Args:
            widths: of the draft.
            accepted: by each row.
            firsts: by each row if it had been a chain; None if that is not known.
        """
        for by_width in self._seen.values():
            for width, (seen, taken) in by_width.items():
                by_width[width] = self.keeps * seen, self.keeps * taken
        self._count(widths, accepted)
        if firsts is not None and max(widths) > 1:
            self._count((1,) * len(widths), firsts)

    def _count(self, widths: Widths, accepted: Sequence[int]) -> None:
        for place, width in enumerate(widths):
            by_width = self._seen.setdefault(place, {})
            seen, taken = by_width.get(width, (0.0, 0.0))
            seen += sum(count >= place for count in accepted) / len(accepted)
            taken += sum(count > place for count in accepted) / len(accepted)
            by_width[width] = seen, taken

    def rates(self, widths: Widths, expected: Sequence[float] = ()) -> list[float]:
        """The chance that some token is accepted at each place if there was one at those before.

        Args:
            widths: of the draft.
            expected: the chance of each single token there beforehand; see `singles`.
        """
        singles = self.singles(widths, expected)
        return [1 - (1 - rate) ** width for rate, width in zip(singles, widths, strict=True)]

    def singles(self, widths: Widths, expected: Sequence[float] = ()) -> list[float]:
        """The chance of each single token by place; what is not seen yet is as at the one before.

        Args:
            widths: of the draft.
            expected: these beforehand; the first one is `FIRST_RATE` without.
        """
        rates: list[float] = []
        for place, width in enumerate(widths):
            before = rates[-1] if rates else expected[0] if expected else FIRST_RATE
            rate = (before + expected[place]) / 2 if expected else before
            by_width = self._seen.get(place, {})
            for one in sorted(by_width, key=lambda one: one == width):  # its own counts most
                seen, taken = by_width[one]
                single = 1 - (1 - taken / seen) ** (1 / one) if seen else 0.0
                rate = (seen * single + self.weight * rate) / (seen + self.weight)
            rates.append(rate)
        return rates


class Corrections:
    """How much dearer drafted iterations are than predicted, beside plain steps.

    Learnt from plain steps and drafted iterations one after the other: what else slows a machine
    down slows both down. Medians, since single iterations may be slowed down all the same.
    """

    def __init__(self) -> None:
        self.num_looks = 0
        self._num_timed: Counter[Widths] = Counter()
        self._errors: dict[Widths, deque[float]] = {}
        self._all: deque[float] = deque(maxlen=REMEMBERED)
        self._factors: dict[Widths, float] = {}

    def copy(self) -> Corrections:
        """The same to begin with, where iterations run in another way."""
        other = Corrections()
        other._all = copy.copy(self._all)
        return other

    def factor(self, widths: Widths) -> float:
        """What the seconds of such drafts are to be multiplied by, beside plain ones."""
        if not widths:
            return 1.0
        if widths not in self._factors:
            errors = self._errors.get(widths) or self._all
            self._factors[widths] = math.exp(median([*[0.0] * DOUBTS, *errors]))
        return self._factors[widths]

    def is_new(self, widths: Widths) -> bool:
        """Whether an iteration of that shape is among the first ones, which are not timed."""
        self._num_timed[widths] += 1
        return self._num_timed[widths] <= UNTIMED

    def compare(self, widths: Widths, drafted: float, plain: float) -> None:
        """Learn from a drafted iteration and a plain step beside it.

        Args:
            widths: of the draft.
            drafted, plain: seconds over predicted ones.
        """
        error = math.log(drafted / plain)
        self._errors.setdefault(widths, deque(maxlen=REMEMBERED)).append(error)
        self._all.append(error)
        self._factors = {}


Way: TypeAlias = tuple[str, int]
"""How iterations run: eagerly or captured, and with how many rows, as a power of two."""


@dataclass
class Experience:
    """What is known of a method on a pair; it outlives the texts.

    Attributes:
        costs: of the pair's forwards.
        acceptance: of all texts so far.
        balance: plain steps that may still be lost.
        corrections: of the costs, by the way that iterations ran.
        mode: how drafts ran last.
        recordings: of drafts.
    """

    costs: Costs
    acceptance: Acceptance = field(default_factory=lambda: Acceptance(keeps=0.99, weight=8.0))
    balance: float = ALLOWANCE
    corrections: dict[Way, Corrections] = field(default_factory=dict)
    mode: str = "eager"
    recordings: Recordings = field(default_factory=Recordings)
    _latest: Corrections = field(default_factory=Corrections)

    def corrections_of(self, way: Way) -> Corrections:
        """Those of iterations that run in this way, at first as in the one before it."""
        if way not in self.corrections:
            self.corrections[way] = self._latest.copy()
        self._latest = self.corrections[way]
        return self._latest
