"""Which shapes may be recorded: a further one has to be paid from what drafts have saved.

Each length and width of a draft is another program, and its recording takes as long as a dozen
plain steps. The first one is free, since plain decoding needs one as well. Shapes that may not be
recorded are only tried, eagerly unless there is a recording. Knows no clock and no model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mtad.api.costs import Widths

EAGER = 1.4
"""How many times as long as a recorded iteration an eager one takes, until that is known."""
ENOUGH = 3.0
"""Plain steps that drafts must have won before the first of them is recorded."""
LEAST_WON = -6.0
"""What drafts that were refused count at most, so that a text that is easier is noticed."""
GAIN = 1.05
"""How many times as fast as what is recorded a further shape must be expected to be."""
MOST_PLAIN = 24
"""Eager plain steps beside recorded drafts after which plain steps are recorded, too."""
KEEPS = 0.8
"""Share of what seconds were so far that still counts after one more iteration."""


@dataclass
class Recordings:
    """The recorded shapes of a method on a pair, and what they cost.

    Attributes:
        cost: plain steps that a recording takes; 0 where there are none, and all shapes are used.
        savings: plain steps that drafts have saved so far, less what recordings have taken.
        won: the same of drafts alone, as if they had been recorded.
    """

    cost: float = 0.0
    savings: float = 0.0
    won: float = 0.0
    _begun: set[tuple[int, Widths]] = field(default_factory=set)
    _num_plain: Counter[int] = field(default_factory=Counter)
    _pace: dict[str, float] = field(default_factory=dict)

    def allows(self, num_rows: int, widths: Widths) -> bool:
        """Whether iterations of that shape are recorded, or will be."""
        if not self.cost or (num_rows, widths) in self._begun:
            return True
        return not widths and not self.has_drafts(num_rows)

    def has_drafts(self, num_rows: int) -> bool:
        """Whether that is so of some draft."""
        return any(rows == num_rows and widths for rows, widths in self._begun)

    def begin(self, num_rows: int, widths: Widths, gain: float) -> bool:
        """Whether a shape is recorded from now on.

        Args:
            num_rows: of the batch.
            widths: of the draft.
            gain: how many times as fast as what is recorded it is expected to be.
        """
        is_first = not self.has_drafts(num_rows)
        is_paid = self.won >= ENOUGH if is_first else self.savings >= self.cost
        if gain < GAIN or not is_paid:
            return False
        self._begun.add((num_rows, widths))
        return True

    @property
    def slowness(self) -> float:
        """How many times as long as a recorded iteration an eager one takes."""
        if not self._pace.keys() >= {"eager", "captured"}:
            return EAGER
        return max(1.0, self._pace["eager"] / self._pace["captured"])

    def add(
        self, num_rows: int, widths: Widths, num_tokens: float, ratio: float, pace: float, mode: str
    ) -> None:
        """Count what an iteration saved.

        Args:
            num_rows, widths: its shape.
            num_tokens: that a row got.
            ratio: what it should take of a plain step.
            pace: its seconds over predicted ones.
            mode: how it ran.
        """
        if not self.cost:
            return
        self._note(num_rows, widths, mode)
        if mode != "capturing":
            self._pace[mode] = KEEPS * self._pace.get(mode, pace) + (1 - KEEPS) * pace
        usual = self._pace.get("captured", self._pace.get("eager", pace))
        slow = 1.0 if mode == "captured" else max(1.0, pace / usual)
        self.savings += num_tokens - ratio * slow
        if widths:
            self.won = max(LEAST_WON, self.won + num_tokens - ratio)

    def _note(self, num_rows: int, widths: Widths, mode: str) -> None:
        """Take note of what is recorded; plain steps that are often eager will be."""
        self._num_plain[num_rows] += not widths and mode == "eager"
        is_due = not widths and self._num_plain[num_rows] > MOST_PLAIN
        if mode != "eager" or is_due:
            self._begun.add((num_rows, widths))
