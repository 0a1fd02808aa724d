"""One running text, from its arrival to its end, and the chunks in which it is sent.

A `Sequence` belongs to the scheduler's thread while it runs. Without stop strings its detokenizer
belongs to the publisher's thread. Knows no HTTP, no model and no batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

from mtad.api.completion import Generation, with_ends
from mtad.engine.session import Block, Request
from mtad.engine.stats import Drafted
from mtad.errors import GrammarError
from mtad.grammar.matcher import GrammarState
from mtad.server.scheduler.errors import DeadlineError
from mtad.speculative.method import Method, method_key
from mtad.trace.record import TokenLogprobs

Clock: TypeAlias = Callable[[], float]
FinishReason: TypeAlias = Literal["stop", "length"]
Outcome: TypeAlias = Literal["stop", "length", "cancelled", "deadline", "error", "closing"]
_ids = itertools.count()


@dataclass(eq=False)
class Chunk:
    """What one iteration added to a text, or its end.

    Attributes:
        sequence: the text.
        block: what the iteration committed; None where the chunk only ends the text.
        text: new text; what may yet become a stop string is held back. The publisher fills it in
            where it is None.
        token_ids: the new tokens.
        logprobs: one per token, if the request asked for them; of tokens whose place in the text
            is not certain yet they come with a later chunk.
        places: where in the text the tokens of `logprobs` begin.
        trace: the iteration in full, if the request asked for it; see
            `mtad.trace.record.record_of`.
        finish_reason: "stop" or "length" in the last chunk of a text that is complete.
        error: why the text ends here, in the last chunk of one that failed.
        at: when the iteration ended.
        gap_s: seconds since the text's chunk before; None for its first tokens.
    """

    sequence: Sequence
    block: Block | None = None
    text: str | None = None
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    places: tuple[int, ...] = ()
    trace: tuple[Mapping[str, Any], ...] = ()
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    at: float = 0.0
    gap_s: float | None = None

    @property
    def is_last(self) -> bool:
        """Whether the text ends with it."""
        return self.finish_reason is not None or self.error is not None

    @classmethod
    def joined(cls, chunks: Items[Chunk]) -> Chunk:
        """A text's chunks as one; there must be one at least."""
        return cls(
            chunks[-1].sequence,
            text="".join(chunk.text or "" for chunk in chunks),
            token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
            logprobs=tuple(one for chunk in chunks for one in chunk.logprobs),
            places=tuple(place for chunk in chunks for place in chunk.places),
            trace=tuple(record for chunk in chunks for record in chunk.trace),
            finish_reason=chunks[-1].finish_reason,
        )


Sink: TypeAlias = Callable[[Chunk], None]
"""Takes a text's chunks on the publisher's thread; returns at once."""


def discard(chunk: Chunk) -> None:
    """No-op sink."""


@dataclass(eq=False, kw_only=True)
class Sequence(Generation):
    """A text to complete, as the scheduler decodes it.

    Attributes:
        method: how to decode.
        guarded: whether a guard may choose what its iterations draft, see `wants_guard`.
        num_logprobs: None for no log-probabilities, else how many of the most likely tokens come
            with each token of the text.
        scores_prompt: whether the prompt's tokens get log-probabilities, too.
        ends_with_prompt: whether only the prompt is wanted; no token is made.
        prompt_logprobs: of the prompt's tokens but the first, as far as it has been prefilled.
        traced: whether every chunk has its iteration in full.
        timeout_s: seconds from arrival after which it fails; None for no limit.
        client: the name of the key's owner; None without keys.
        cache_salt: prefixes are shared with the client's texts of the same one alone.
        request_id: names the request in logs and traces.
        index: its number among the choices of its request.
        sink: takes its chunks.
        id: counts up in order of arrival; -1 before that.
        arrived_at, admitted_at, first_token_at, last_token_at, ended_at: times of the scheduler's
            clock; None where it has not come to that.
        outcome: how it ended; None before.
        failure: why it cannot go on, found outside of the scheduler's thread.
        is_cancelled: its chunks are wanted no more.
        is_alone: it gets a batch of its own, because a batch that it was in failed.
        trace_key: names it in the trace file.
    """

    method: Method
    guarded: bool = False
    num_logprobs: int | None = None
    scores_prompt: bool = False
    ends_with_prompt: bool = False
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list, repr=False)
    traced: bool = False
    timeout_s: float | None = None
    client: str | None = None
    cache_salt: str = ""
    request_id: str = ""
    index: int = 0
    sink: Sink = discard
    id: int = -1
    arrived_at: float = 0.0
    admitted_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome | None = None
    failure: Exception | None = None
    is_cancelled: bool = False
    is_alone: bool = False
    trace_key: str = field(default="", repr=False)
    _unplaced: list[TokenLogprobs] = field(default_factory=list, repr=False)

    def arrive(self, now: float) -> None:
        """Take the next id and the time of arrival."""
        self.id, self.arrived_at = next(_ids), now

    @property
    def deadline(self) -> float:
        """The time at which it fails."""
        return float("inf") if self.timeout_s is None else self.arrived_at + self.timeout_s

    def is_over(self, now: float) -> bool:
        """Whether it has ended, or may not go on; `why_over` says why."""
        has_ended = self.outcome is not None or self.failure is not None
        return has_ended or self.is_cancelled or self.deadline <= now

    @property
    def why_over(self) -> tuple[Outcome, Exception]:
        """How it ends if it may not go on."""
        if self.failure is not None:
            return "error", self.failure
        error = DeadlineError(
            f"the request took longer than {self.timeout_s} s; ask for fewer tokens"
        )
        return ("cancelled" if self.is_cancelled else "deadline"), error

    @property
    def queue_s(self) -> float:
        """Seconds in the queue; 0 where it was not admitted."""
        return 0.0 if self.admitted_at is None else self.admitted_at - self.arrived_at

    @property
    def finish_reason(self) -> FinishReason:
        """Why a complete text ended."""
        return "stop" if self.blocks and self.blocks[-1].finish_reason == "stop" else "length"

    @property
    def salted(self) -> Request:
        """The request with whom it shares prefixes: nobody, where all its prompt is to be fed."""
        salt = None if self.scores_prompt else (self.client, self.cache_salt)
        return replace(self.request, cache_salt=salt)

    @property
    def needs_observation(self) -> bool:
        """Whether its chunks need the tensors of its iterations, which then run eagerly."""
        return self.traced or self.num_logprobs is not None

    @cached_property
    def _method_key(self) -> Hashable:
        """Made once; the scheduler asks for it in every step."""
        return method_key(self.method)

    @property
    def batch_key(self) -> Hashable:
        """What it shares with the sequences of its batch."""
        key = (self._method_key, self.needs_observation)
        return (*key, self.id) if self.is_alone else key

    def advance(
        self,
        block: Block,
        seconds: float,
        now: float,
        drafted: Drafted = "method",
        fallback: str | None = None,
    ) -> float | None:
        """Add an iteration's block; seconds since the one before, None for the first tokens."""
        self.append(block, drafted)
        self.stats.decode_s, self.stats.fallback = self.stats.decode_s + seconds, fallback
        before, self.last_token_at = self.last_token_at, now
        self.first_token_at = now if before is None else self.first_token_at
        return None if before is None else now - before

    def fill(self, chunk: Chunk) -> None:
        """Give a chunk its text, and its log-probabilities their places in it."""
        assert chunk.block is not None
        chunk.text = self.detokenize(chunk.block)
        stream, is_last = self.detokenizer, chunk.block.finish_reason is not None
        if self.num_logprobs is None or (stream and not stream.locates):
            return
        waiting = [*self._unplaced, *chunk.logprobs]
        places = stream.take_places(is_last) if stream else [0] * len(waiting)
        if is_last and stream:  # what ended the text has no place in it
            places += [len(stream.text)] * (len(waiting) - len(places))
        chunk.places, chunk.logprobs = tuple(places), tuple(waiting[: len(places)])
        self._unplaced = waiting[len(places) :]

    def hold(self, grammar: GrammarState) -> None:
        """Hold the text, which has not begun, to a grammar at its beginning."""
        assert self.detokenizer is not None
        self.request = with_ends(replace(self.request, grammar=grammar), self.detokenizer)

    def preempt(self) -> None:
        """Make it ready to be resumed where its text ends."""
        tokens, request = self.token_ids, self.request
        if self.detokenizer and self.has_stops:  # an iteration that failed may have pushed tokens
            self.detokenizer = self.detokenizer.restarted()
            grammar = request.grammar.restarted() if request.grammar else None
            request = with_ends(replace(request, grammar=grammar), self.detokenizer)
            assert request.stop is not None
            try:
                for token in tokens:
                    request.stop(token)
            except GrammarError as error:
                self.failure = error
            self.detokenizer.take()
            self.detokenizer.take_places()
        self.request = replace(request, output_ids=tokens, receipt=self.stats.kept)
