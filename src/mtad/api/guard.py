"""Never slower than not drafting: the guard gives drafting up where it does not pay.

An iteration that drafts takes t seconds and gives k tokens a row; a plain step, one token of the
target alone, takes s seconds. Drafting pays if t/k < s. Now and then the guard lets a plain step
be taken to learn s. A plain step gives a token too, so it wastes at most s - t/k, which is 0 where
drafting does not pay; the guard wastes `BUDGET` of the time and one plain step in advance.

`Guard` only decides: it has no clock, knows no model and gets what iterations took. `iterations`
asks it before each iteration of a session and measures. Every step is lossless if the methods are,
and each begins with fresh random numbers, so their order does not change the distribution of the
text.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch

from mtad.engine.session import Session
from mtad.engine.step import Step
from mtad.measure.device import synchronize
from mtad.methods.autoregressive import Autoregressive
from mtad.runtime.programs import Mode
from mtad.speculative.method import Method

Clock = Callable[[], float]
PLAIN = Autoregressive()

WARM_UP = 1
"""First iterations of a draft length that are not counted: memory and kernels are new to them."""
MIN_DRAFTED = 6
"""Drafted iterations that are seen before anything is judged."""
MARGINS = (1.5, 1.2, 1.05)
"""How many times as fast plain decoding must be, by the number of plain steps it is known from."""
GAP = 1
"""Drafted iterations between two plain steps, so that both meet the same load of the machine."""
VALID = 64
"""Iterations after which a plain step is too old to judge by."""
RECENT = 16
"""Drafted iterations whose median is what one takes now."""
BUDGET = 0.02
"""Share of the time that plain steps may waste."""
DOUBT = 0.25
"""Variance added to that of the tokens per iteration: a few equal numbers prove little."""


@dataclass(frozen=True)
class _Drafted:
    """What one drafted iteration took and gave, row by row."""

    seconds: float
    tokens: Sequence[int]
    mean: float

    def mean_up_to(self, num_draft_tokens: int) -> float:
        """Mean tokens of a row, had the draft been no longer than this."""
        return fmean(min(n, num_draft_tokens + 1) for n in self.tokens)


class Guard:
    """Chooses the method of every iteration of one batch of texts.

    Where plain decoding turns out faster, a shorter draft is tried if one is predicted to be the
    fastest, else drafting ends. There is no way back: once drafting has ended, the draft model no
    longer reads the text.

    Args:
        method: drafts; a shorter draft is tried if it has the option `num_draft_tokens`.

    Attributes:
        method: what drafts now.
        reason: what the guard fell back to last and why, None if it did not.
        mode: how the iterations ran that it judges by.
        has_given_up: whether all further iterations are plain.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.reason: str | None = None
        self.mode: Mode = "eager"
        self.has_given_up = False
        self._drafted: deque[_Drafted] = deque(maxlen=VALID)
        self._plain: deque[tuple[int, float]] = deque(maxlen=len(MARGINS))
        self._num_seen, self._num_drafted, self._last_plain = 0, 0, -VALID
        self._elapsed_s, self._wasted_s = 0.0, 0.0
        self._is_in_vain = False

    def choose(self) -> Method:
        """The method of the next iteration."""
        if not self.has_given_up and len(self._drafted) >= MIN_DRAFTED:
            self._judge()
        return PLAIN if self.has_given_up or self._may_probe() else self.method

    def add_drafted(self, seconds: float, tokens: Sequence[int], mode: Mode = "eager") -> None:
        """Learn what a drafted iteration took, and how many tokens each row got.

        What was learnt of another mode is forgotten.
        """
        if mode != self.mode:
            self.mode, self._num_drafted, self._is_in_vain = mode, 0, False
            self._drafted.clear()
            self._plain.clear()
        self._num_seen += 1
        self._num_drafted += 1
        self._elapsed_s += seconds
        if tokens and self._num_drafted > WARM_UP:
            self._drafted.append(_Drafted(seconds, tokens, fmean(tokens)))

    def add_plain(self, seconds: float, aside: float = 0.0, mode: Mode = "eager") -> None:
        """Learn what a plain step took, and what had to be done for it `aside`, in seconds."""
        self._num_seen += 1
        self._elapsed_s += seconds + aside
        if self.mode == "eager" != mode:
            self._is_in_vain = True  # what a plain step takes without its tape is unknown
        elif not self.has_given_up:
            self._last_plain = self._num_seen
            self._plain.append((self._num_seen, seconds))
            self._wasted_s += self._waste(seconds + aside)

    def add_capture(self, seconds: float) -> None:
        """Learn nothing from an iteration that will be faster once it is captured."""
        self._num_seen += 1
        self._elapsed_s += seconds
        self._last_plain = self._num_seen

    def _may_probe(self) -> bool:
        """Whether it is time for a plain step, and what it may waste at most is there."""
        if len(self._drafted) < MIN_DRAFTED or self._num_seen - self._last_plain <= GAP:
            return False
        if self._is_in_vain or len(self._fresh()) == len(MARGINS):
            return False
        if not self._plain:
            return True
        waste = self._waste(median(seconds for _, seconds in self._plain))
        return self._wasted_s + waste <= BUDGET * self._elapsed_s

    def _waste(self, plain_s: float) -> float:
        """Seconds lost to a plain step; what it took beyond a drafted iteration was a hindrance."""
        return max(0.0, min(plain_s, self._seconds()) - self._seconds() / self._tokens())

    def _fresh(self) -> list[float]:
        """Seconds of the plain steps that still count."""
        return [s for at, s in self._plain if self._num_seen - at < VALID]

    def _judge(self) -> None:
        """Fall back if plain decoding is faster by the margin even if k is a little larger."""
        fresh = self._fresh()
        if not fresh:
            return
        plain_s, k = median(fresh), self._tokens()
        variance = fmean((one.mean - k) ** 2 for one in self._drafted)
        error = math.sqrt((variance + DOUBT) / len(self._drafted))
        if self._seconds() / (k + error) >= MARGINS[len(fresh) - 1] * plain_s:
            self._fall_back(self._fastest_length(plain_s), plain_s)

    def _fall_back(self, num_draft_tokens: int, plain_s: float) -> None:
        plural = "s" if num_draft_tokens > 1 else ""
        now = f"{num_draft_tokens} draft token{plural}" if num_draft_tokens else "plain decoding"
        self.reason = (
            f"{now} after {self._num_seen} iterations: with drafts {self._seconds() * 1e3:.1f}"
            f" ms for {self._tokens():.1f} tokens, without {plain_s * 1e3:.1f} ms a token"
        )
        self.has_given_up = num_draft_tokens == 0
        if self.has_given_up:
            self.reason += _warning(self.method)
        else:
            shorter: dict[str, Any] = {"num_draft_tokens": num_draft_tokens}
            self.method = dataclasses.replace(self.method, **shorter)
        self._drafted.clear()
        self._num_drafted = 0

    def _fastest_length(self, plain_s: float) -> int:
        """The draft length below the present one that is predicted to be fastest, 0 for none.

        The time of an iteration is taken to grow evenly from a plain step to the present length.
        """
        longest = getattr(self.method, "num_draft_tokens", 1)
        slope = (self._seconds() - plain_s) / longest

        def seconds_per_token(length: int) -> float:
            tokens = fmean(one.mean_up_to(length) for one in self._drafted)
            return (plain_s + slope * length) / tokens

        return min(range(longest), key=seconds_per_token)

    def _seconds(self) -> float:
        return median(one.seconds for one in list(self._drafted)[-RECENT:])

    def _tokens(self) -> float:
        return fmean(one.mean for one in self._drafted)


def _warning(method: Method) -> str:
    if method.is_lossless:
        return ""
    return f"; from there on the text follows the target's distribution, not that of {method.name}"


def wants_guard(method: Method, guard: bool | None, has_seed: bool, is_greedy: bool) -> bool:
    """Whether a guard watches over the method.

    Args:
        method: the method asked for.
        guard: what the caller said. None is yes for a lossless method whose text does not have to
            come again from its seed: without a given seed, or where nothing is drawn.
        has_seed: whether a seed was given.
        is_greedy: whether the temperature is 0.

    Raises:
        ValueError: a guard is asked for and the method has no drafts that could be left out.
    """
    if method.drafter == "target":
        if guard:
            raise ValueError(
                f"guard is True, and {method.name} searches with the target itself: there are no "
                "drafts to give up; leave guard out or choose a method that drafts"
            )
        return False
    if guard is not None:
        return guard and method != PLAIN
    return method.is_lossless and method != PLAIN and (is_greedy or not has_seed)


@dataclass(frozen=True)
class Iteration:
    """An iteration of a session, with what it took.

    Attributes:
        step: what it committed.
        decode_s: seconds of this iteration and those before, without the caller's own time.
        is_plain: whether the guard left the draft out.
        reason: what the guard had fallen back to by then and why, None if it had not.
    """

    step: Step
    decode_s: float = 0.0
    is_plain: bool = False
    reason: str | None = None


def iterations(session: Session, guard: Guard | None, clock: Clock) -> Iterator[Iteration]:
    """The iterations of a session until every request is finished.

    Args:
        session: its `method` is what the guard chooses.
        guard: None to leave the session its method.
        clock: shows seconds, such as `time.perf_counter`.
    """
    steps, decode_s = session.run(), 0.0
    while session.rows:
        began = clock()
        iteration = (
            Iteration(next(steps)) if guard is None else _guarded(session, steps, guard, clock)
        )
        decode_s += clock() - began
        yield dataclasses.replace(iteration, decode_s=decode_s)


def _guarded(session: Session, steps: Iterator[Step], guard: Guard, clock: Clock) -> Iteration:
    """One iteration of the method that the guard chooses."""
    began = clock()
    _prepare(session, guard)
    reason, middle = guard.reason, clock()
    step = next(steps)
    seconds, is_plain = clock() - middle, session.method is PLAIN
    if session.graphs.last_mode == "capturing":
        guard.add_capture(seconds)
    elif is_plain:
        guard.add_plain(seconds, middle - began, session.graphs.last_mode)
    else:
        going = [len(b.token_ids) for b in step.blocks if b.finish_reason is None]
        guard.add_drafted(seconds, going, session.graphs.last_mode)
    return Iteration(step, is_plain=is_plain, reason=reason)


def _prepare(session: Session, guard: Guard) -> None:
    """Give the session its next method; before a plain step that is not for good, the draft reads.

    A draft phase makes up for one token that the draft has not read, and a plain step would leave
    it two.
    """
    session.method = guard.choose()
    drafter = session.drafter
    if session.method is not PLAIN or drafter is None:
        return
    if guard.has_given_up:
        return drafter.retire()
    with torch.inference_mode():
        drafter.catch_up(session.prefix.root())
    synchronize(drafter.device)  # so that the plain step is timed alone
