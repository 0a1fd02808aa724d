"""Successive halving: settings are compared on few prompts, and the slower half on no more of them.

All settings that are left decode a prompt in turns before the next prompt comes. A setting is
dropped where it is in the slower half and its whole interval says that it is slower than the best
one that may be taken, or where its whole interval says that it loses more than is allowed. So the
noise of a round costs time and no good setting.
Knows no model: what a text takes is asked of a function. After Jamieson and Talwalkar, AISTATS
2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from mtad.advice.timing import speed_ratio, weights_of
from mtad.api.costs import PLAIN
from mtad.api.turns import Timed
from mtad.bench.statistics import MIN_ITEMS, Estimate, Resampled, ratio, sums
from mtad.speculative.method import Method

FIRST = 4
"""Prompts of the first round; each further one has asked twice as many when it ends."""
SLACK = 0.05
"""Share of the best speed that does not matter: no setting is dropped for less."""

Measure: TypeAlias = Callable[[Method, int], tuple[Timed, float]]
"""What a method takes for the prompt of that place, and −log p of its text under the target."""


@dataclass
class Arm:
    """A setting, and what is known of it.

    Attributes:
        method: with its options.
        texts: by prompt.
        nlls: −log p under the target of each.
        dropped: why it was given up; empty if it was not.
    """

    method: Method
    texts: list[Timed] = field(default_factory=list)
    nlls: list[float] = field(default_factory=list)
    dropped: str = ""

    @property
    def tokens_per_s(self) -> float:
        """Of all prompts together."""
        return sum(text.num_tokens for text in self.texts) / sum(t.seconds for t in self.texts)

    def copy(self) -> Arm:
        """The same, to which no text is added any more."""
        return Arm(self.method, [*self.texts], [*self.nlls], self.dropped)

    def over(self, other: Arm) -> Estimate:
        """Its speed over that of another, on the prompts that both have answered."""
        count = min(len(self.texts), len(other.texts))
        return speed_ratio(self.texts[:count], other.texts[:count])

    def loss(self, plain: Arm) -> Estimate:
        """Nats per token by which its texts are less likely than those of plain decoding."""
        count = len(self.texts)
        return _nats(self, count).minus(_nats(plain, count)).estimate()


def _nats(arm: Arm, count: int) -> Resampled:
    weights = weights_of(count)
    nlls = np.array(arm.nlls[:count], dtype=np.float64)
    tokens = np.array([text.num_tokens for text in arm.texts[:count]], dtype=np.float64)
    return ratio(sums(nlls, weights), sums(tokens, weights), count)


@dataclass(frozen=True)
class Tuned:
    """What came of it.

    Attributes:
        arms: all settings, plain decoding first.
        max_loss: nats per token that may be lost; None where nothing may be.
    """

    arms: tuple[Arm, ...]
    max_loss: float | None = None

    @property
    def plain(self) -> Arm:
        """Plain decoding."""
        return self.arms[0]

    @property
    def lossless(self) -> Arm:
        """The fastest setting that loses nothing."""
        return self._fastest([a for a in self.arms if a.method.is_lossless and not a.dropped])

    @property
    def within(self) -> Arm:
        """The fastest of all settings that are shown to lose no more than is allowed.

        Of fewer than `MIN_ITEMS` prompts, on which an interval is too narrow, none that is lossy.
        """
        return self._fastest([self.lossless, *filter(self._is_shown, self.arms)])

    def _is_shown(self, arm: Arm) -> bool:
        if self.max_loss is None or arm.dropped or arm.method.is_lossless:
            return False
        loss = arm.loss(self.plain)
        is_enough = loss.num_items >= MIN_ITEMS and loss.high is not None
        return is_enough and (loss.high or 0.0) <= self.max_loss

    def _fastest(self, arms: Sequence[Arm]) -> Arm:
        return max(arms, key=lambda arm: arm.tokens_per_s)


def rounds_of(num_prompts: int) -> Iterator[range]:
    """The prompts that each round adds."""
    start, stop = 0, min(FIRST, num_prompts)
    while start < num_prompts:
        yield range(start, stop)
        start, stop = stop, min(2 * stop, num_prompts)


def halve(
    methods: Sequence[Method],
    num_prompts: int,
    measure: Measure,
    max_loss: float | None = None,
    on_round: Callable[[int, int], Callable[[], None]] = lambda number, num_texts: lambda: None,
    on_prompt: Callable[[Tuned], None] = lambda tuned: None,
) -> Tuned:
    """Find the fastest of the methods.

    Args:
        methods: with their options; plain decoding is compared in any case.
        num_prompts: that may be asked.
        measure: decodes.
        max_loss: nats per token that lossy methods may lose.
        on_round: called before each round with its number, from 1, and the texts that it takes;
            what it returns is called after each text.
        on_prompt: called when all settings that are left have answered a prompt, with what is known
            by then; it does not change any more.
    """
    plain = Arm(PLAIN)
    arms = [Arm(method) for method in methods if method != PLAIN]
    for number, places in enumerate(rounds_of(num_prompts), 1):
        going = [plain, *(arm for arm in arms if not arm.dropped)]
        on_text = on_round(number, len(going) * len(places))
        for place in places:
            turn = place % len(going)  # no setting always comes after the same one
            for arm in [*going[turn:], *going[:turn]]:
                text, nll = measure(arm.method, place)
                arm.texts.append(text)
                arm.nlls.append(nll)
                on_text()
            on_prompt(Tuned(tuple(arm.copy() for arm in (plain, *arms)), max_loss))
        _drop_losing(going[1:], plain, max_loss)
        best = Tuned((plain, *arms), max_loss)
        for is_lossless, leader in ((True, best.lossless), (False, best.within)):
            left = [a for a in going if a.method.is_lossless == is_lossless and not a.dropped]
            _drop_slow(left, leader, plain)
    return Tuned((plain, *arms), max_loss)


def _drop_losing(arms: Sequence[Arm], plain: Arm, max_loss: float | None) -> None:
    """Drop lossy settings that are shown to lose too much."""
    for arm in arms:
        if max_loss is None or arm.method.is_lossless:
            continue
        low = arm.loss(plain).low
        if low is not None and low > max_loss:
            arm.dropped = "loses too much"


def _drop_slow(arms: Sequence[Arm], leader: Arm, plain: Arm) -> None:
    """Drop what is in the slower half and shown to be slower than the leader by more than `SLACK`.

    Args:
        arms: of one kind, on equally many prompts.
        leader: the fastest that may be taken.
        plain: is never dropped.
    """
    order = sorted(arms, key=lambda arm: -arm.tokens_per_s)
    for arm in order[(len(order) + 1) // 2 :]:
        high = arm.over(leader).high
        if arm is not plain and high is not None and high < 1 - SLACK:
            arm.dropped = "slower"
