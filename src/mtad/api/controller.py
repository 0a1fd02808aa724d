"""Chooses what each iteration drafts, so that expected tokens per second are the most.

With α_i the chance that the i-th draft token is accepted if those before it are, a draft of K
tokens is expected to give

    (1 + Σ_{i<=K} Π_{j<=i} α_j) / T(K)    tokens per second.

Where there are several draft tokens to choose from, α_i is the chance that one of them is accepted;
narrower trees are chosen from, too. Acceptance is a running average of each batch of texts, which
begins with that of the pair. T comes from a pair's measured forwards, and is corrected by what
iterations took. Both may be wrong, so that an account bounds what is lost beside plain decoding: a
draft is taken only if the balance allows that all of it is refused.

Knows no clock and no model. Every block of a lossless method has the target's distribution given
the text before it, whatever was accepted before; so a choice by acceptance leaves the text's alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtad.api.costs import Shape, Widths, tokens_by_length
from mtad.api.experience import Acceptance, Corrections, Experience, Way
from mtad.core.buckets import power_of_two
from mtad.speculative.method import Method

SHARE = 0.015
"""Share of the time that may be lost to drafts that are refused."""
MOST_SAVED = 2.0
"""Plain steps that the account holds at most, so that a text that turns hard is noticed."""
BETTER = 1.02
"""How many times as fast another shape must be expected to be: fewer programs are captured."""
NEVER = 0.9
"""A draft that would be no faster than this even if all of it were accepted is left out."""
SOONEST_PROBE, LATEST_PROBE = 4, 16
"""Plain steps after which drafting is tried again; twice as many after each that failed."""
SOONEST_LOOK, LATEST_LOOK = 8, 128
"""Drafted iterations after which a plain step is timed beside them; twice as many each time."""


class Controller:
    """Chooses the shape of every iteration of one batch of texts.

    Args:
        shapes: to choose from, the plain step first, the method's own last.
        experience: of the method on the pair; it is added to.

    Attributes:
        shapes: the plain step alone where no draft can pay.
        reason: why the last choice was a plain step; None where it drafts, or only looks what a
            plain step takes.
        is_trial: whether the last choice is not worth a recording.
    """

    def __init__(self, shapes: Sequence[Shape], experience: Experience) -> None:
        self.shapes, self._known = tuple(shapes), experience
        self.reason: str | None = None
        self.is_trial = False
        self._warning = _warning(shapes[-1].method)
        self._longest = _longest([shape.widths for shape in shapes])
        self._own = Acceptance(keeps=0.85, weight=2.0)
        self._last: tuple[Way, Widths, float] | None = None
        self._seconds: dict[int, list[float]] = {}
        self._chosen, self._num_rows, self._risks = 0, 1, [0.0]
        self._may_record = True
        self._num_plain, self._num_drafted, self._patience = 0, 0, SOONEST_PROBE
        if self._is_hopeless:
            whole = self._tokens(), self._ratios()
            self.shapes, self.reason = self.shapes[:1], self._why(*whole)

    @property
    def is_hopeless(self) -> bool:
        """Whether no draft can pay, so that none is ever chosen."""
        return len(self.shapes) == 1

    @property
    def _is_hopeless(self) -> bool:
        """Whether one text is decoded faster without drafts even if all of them are accepted."""
        pairs = zip(self.shapes, self._ratios(), strict=True)
        return max((1 + shape.length) / ratio for shape, ratio in [*pairs][1:]) < NEVER

    def choose(self, num_rows: int, num_missed: int = 0, may_record: bool = True) -> Shape:
        """What the next iteration drafts.

        Args:
            num_rows: of the batch.
            num_missed: tokens of each row that the draft has not read.
            may_record: whether it is one of those that are recorded where that pays.
        """
        if self.is_hopeless:
            return self.shapes[0]
        self._num_rows, self._may_record = num_rows, may_record
        ratios, tokens = self._ratios(), self._tokens()
        missed = self._known.costs.of_catching_up(num_missed, num_rows) / self._predicted[0]
        taken = [ratio * self._slowness(i) for i, ratio in enumerate(ratios)]
        self._risks = [0.0, *(one - 1 + missed for one in taken[1:])]
        allowed = [i for i, risk in enumerate(self._risks) if risk <= self._known.balance or not i]
        speeds = [token / ratio for token, ratio in zip(tokens, ratios, strict=True)]
        speeds[0] /= self._slowness(0)
        best = max(allowed, key=speeds.__getitem__)
        if best and self._chosen in allowed[1:] and speeds[best] < BETTER * speeds[self._chosen]:
            best = self._chosen
        best = self._recorded(best, allowed, speeds)
        self.reason = None if best else self._why(tokens, ratios)
        self._chosen = self._tried(best, allowed)
        self.is_trial = not self._is_recorded(self._chosen)
        return self.shapes[self._chosen]

    def add(
        self,
        tokens: Sequence[int],
        seconds: float,
        mode: str = "eager",
        firsts: Sequence[int] | None = None,
    ) -> None:
        """Learn from the iteration that was chosen last.

        Args:
            tokens: what each row got whose text goes on.
            seconds: that it took, without what the draft had missed.
            mode: how it ran; what was "capturing" is not timed.
            firsts: how many of them a chain would have had accepted, see `Block.num_first`; None if
                that is not known.
        """
        if self.is_hopeless:
            return
        widths = self.shapes[self._chosen].widths
        if tokens:
            self._account(sum(tokens) / len(tokens), seconds, mode)
        if tokens and widths:
            accepted = [count - 1 for count in tokens]
            self._own.add(widths, accepted, firsts)
            self._known.acceptance.add(widths, accepted, firsts)
        self._time(widths, seconds, mode)

    def _account(self, mean: float, seconds: float, mode: str) -> None:
        """Note what an iteration saved or lost beside plain steps, by its tokens per row."""
        risk, place = self._risks[self._chosen], self._chosen
        saved = self._known.balance + (1 + SHARE) * mean - 1 - risk
        self._known.balance = min(saved, MOST_SAVED)
        pace, ratio = seconds / self._predicted[place], self._ratios()[place]
        widths = self.shapes[place].widths
        if self._may_record:
            self._known.recordings.add(self._num_rows, widths, mean, ratio, pace, mode)

    def _is_recorded(self, place: int) -> bool:
        """Whether iterations of a shape are recorded, or will be, or need not be."""
        widths = self.shapes[place].widths
        return not self._may_record or self._known.recordings.allows(self._num_rows, widths)

    def _slowness(self, place: int) -> float:
        """How many times as long as a recorded iteration one of that shape takes."""
        return 1.0 if self._is_recorded(place) else self._known.recordings.slowness

    def _recorded(self, best: int, allowed: Sequence[int], speeds: Sequence[float]) -> int:
        """The best shape if its recording is worth while, or is not paid for yet by any draft."""
        if self._is_recorded(best):
            return best
        other = max([0, *filter(self._is_recorded, allowed[1:])], key=speeds.__getitem__)
        recordings, widths = self._known.recordings, self.shapes[best].widths
        if recordings.begin(self._num_rows, widths, speeds[best] / speeds[other]):
            return best
        return other if recordings.has_drafts(self._num_rows) else best

    def _tried(self, best: int, allowed: Sequence[int]) -> int:
        """The best shape, or now and then one of the other kind, so that both are known."""
        if best == 0:
            self._num_plain, self._num_drafted = self._num_plain + 1, 0
            if self._num_plain <= self._patience or len(allowed) == 1:
                return 0
            self._num_plain, self._patience = 0, min(2 * self._patience, LATEST_PROBE)
            return next(filter(self._is_recorded, allowed[1:]), allowed[1])
        self._num_plain, self._patience = 0, SOONEST_PROBE
        self._num_drafted += 1
        corrections = self._corrections
        if self._num_drafted <= min(SOONEST_LOOK << corrections.num_looks, LATEST_LOOK):
            return best
        self._num_drafted, corrections.num_looks = 0, min(corrections.num_looks + 1, 8)
        return 0

    def _time(self, widths: Widths, seconds: float, mode: str) -> None:
        before, self._last = self._last, None
        if mode == "capturing" or seconds <= 0:
            return
        if widths:
            self._known.mode = mode
        way = self._way(mode)
        corrections = self._known.corrections_of(way)
        if corrections.is_new(widths):
            return
        ratio = seconds / self._predicted[self._chosen]
        self._last = (way, widths, ratio)
        if before is None or before[0] != way or bool(before[1]) == bool(widths):
            return
        if widths:
            corrections.compare(widths, ratio, before[2])
        else:
            corrections.compare(before[1], before[2], ratio)

    def _way(self, mode: str) -> Way:
        return mode, power_of_two(self._num_rows)

    @property
    def _corrections(self) -> Corrections:
        return self._known.corrections_of(self._way(self._known.mode))

    @property
    def _predicted(self) -> list[float]:
        """Seconds of every shape, as its forwards were measured."""
        if self._num_rows not in self._seconds:
            costs, num_rows = self._known.costs, self._num_rows
            self._seconds[num_rows] = [costs.of(shape, num_rows) for shape in self.shapes]
        return self._seconds[self._num_rows]

    def _ratios(self) -> list[float]:
        """Seconds of every shape over those of a plain step, as far as is known."""
        factor, seconds = self._corrections.factor, self._predicted
        pairs = zip(self.shapes, seconds, strict=True)
        return [max(1.0, factor(shape.widths) * one / seconds[0]) for shape, one in pairs]

    def _tokens(self) -> list[float]:
        """Expected tokens of every shape."""
        known, tokens = self._known.acceptance, dict[Widths, float]()
        for widths in self._longest:
            found = tokens_by_length(self._own.rates(widths, known.singles(widths)))
            tokens |= {widths[:length]: found[length] for length in range(len(found))}
        return [tokens[shape.widths] for shape in self.shapes]

    def _why(self, tokens: Sequence[float], ratios: Sequence[float]) -> str:
        best = max(range(1, len(ratios)), key=lambda i: tokens[i] / ratios[i])
        length = self.shapes[best].length
        return (
            f"plain decoding: a draft of {length} token{'s' * (length > 1)} would take "
            f"{ratios[best]:.2f} times as long as a plain step, for {tokens[best]:.2f} tokens"
            + self._warning
        )


def _longest(all_widths: Sequence[Widths]) -> list[Widths]:
    """Those that are not the beginning of others: they say all about these."""
    return [one for one in all_widths if not any(_begins(one, other) for other in all_widths)]


def _begins(one: Widths, other: Widths) -> bool:
    return len(one) < len(other) and other[: len(one)] == one


def _warning(method: Method) -> str:
    if method.is_lossless:
        return ""
    return f"; such steps follow the target's distribution, not that of {method.name}"
