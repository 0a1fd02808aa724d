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

from mtad.api.costs import Costs
from mtad.api.recordings import Recordings

FIRST_RATE = 0.5
"""Acceptance that is expected of a pair before anything was seen."""
ALLOWANCE = 0.5
"""Plain steps that may be lost at once, on a pair's first text."""
UNTIMED = 1
"""First iterations of a length that are not timed: memory and kernels are new to them."""
REMEMBERED = 9
"""Comparisons of a length with plain steps whose median counts."""
DOUBTS = 2
"""Comparisons that agree with what was predicted, before there are any."""


class Acceptance:
    """Running averages of the conditional acceptance by position.

    Args:
        keeps: share of what was seen that still counts after one more block.
        weight: blocks that what is expected beforehand counts for.
    """

    def __init__(self, keeps: float, weight: float) -> None:
        self.keeps, self.weight = keeps, weight
        self._seen: list[float] = []
        self._accepted: list[float] = []

    def add(self, length: int, accepted: Sequence[int]) -> None:
        """Learn how many of a block's draft tokens each row accepted."""
        missing, share = max(0, length - len(self._seen)), 1 / len(accepted)
        self._seen = [self.keeps * n for n in self._seen] + [0.0] * missing
        self._accepted = [self.keeps * n for n in self._accepted] + [0.0] * missing
        for count in accepted:
            for place in range(min(count + 1, length)):
                self._seen[place] += share
                self._accepted[place] += share * (count > place)

    def rates(self, length: int, expected: Sequence[float] = ()) -> list[float]:
        """The rates of so many positions; what is not seen yet is like the position before.

        Args:
            length: number of positions.
            expected: rates of these positions beforehand; the first one is `FIRST_RATE` without.
        """
        rates: list[float] = []
        for place in range(length):
            before = rates[-1] if rates else expected[0] if expected else FIRST_RATE
            likely = (before + expected[place]) / 2 if expected else before
            is_seen = place < len(self._seen)
            seen = self._seen[place] if is_seen else 0.0
            accepted = self._accepted[place] if is_seen else 0.0
            rates.append((accepted + self.weight * likely) / (seen + self.weight))
        return rates


class Corrections:
    """How much dearer drafted iterations are than predicted, beside plain steps.

    Learnt from plain steps and drafted iterations one after the other: what else slows a machine
    down slows both down. Medians, since single iterations may be slowed down all the same.
    """

    def __init__(self) -> None:
        self.num_looks = 0
        self._num_timed: Counter[int] = Counter()
        self._errors: dict[int, deque[float]] = {}
        self._all: deque[float] = deque(maxlen=REMEMBERED)
        self._factors: dict[int, float] = {}

    def copy(self) -> Corrections:
        """The same to begin with, where iterations run in another way."""
        other = Corrections()
        other._all = copy.copy(self._all)
        return other

    def factor(self, length: int) -> float:
        """What the seconds of drafts of that length are to be multiplied by, beside plain ones."""
        if length == 0:
            return 1.0
        if length not in self._factors:
            errors = self._errors.get(length) or self._all
            self._factors[length] = math.exp(median([*[0.0] * DOUBTS, *errors]))
        return self._factors[length]

    def is_new(self, length: int) -> bool:
        """Whether an iteration of that length is among the first ones, which are not timed."""
        self._num_timed[length] += 1
        return self._num_timed[length] <= UNTIMED

    def compare(self, length: int, drafted: float, plain: float) -> None:
        """Learn from a drafted iteration and a plain step beside it.

        Args:
            length: of the draft.
            drafted, plain: seconds over predicted ones.
        """
        error = math.log(drafted / plain)
        self._errors.setdefault(length, deque(maxlen=REMEMBERED)).append(error)
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
