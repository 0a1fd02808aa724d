"""The two forms of answers: chats and completions, whole or in chunks.

Knows no scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from mtad.api.completion import Completion
from mtad.server.api.replies import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    Chunk,
    Delta,
    FinishReason,
    TextChoice,
    TextChunk,
    TextCompletion,
    TextDelta,
    TextLogprobs,
    TokenLogprob,
    TopLogprob,
    Whole,
)
from mtad.server.api.tokenizing import Texts
from mtad.server.scheduler.jobs import Job
from mtad.trace.writer import TokenLogprobs

LOWEST = -9999.0
"""Stands for minus infinity, which JSON lacks."""


@dataclass
class Result:
    """What has come of one choice.

    Attributes:
        job: of the choice.
        echo: what its text begins with.
        logprobs: of its tokens so far, if asked for.
        traces: its iterations so far, if asked for.
        completion: the whole, once it is done.
        queue_s: seconds in the queue.
    """

    job: Job
    echo: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    traces: list[dict[str, Any]] = field(default_factory=list)
    completion: Completion | None = None
    queue_s: float = 0.0

    @property
    def done(self) -> Completion:
        """The completion of a choice that is done."""
        assert self.completion is not None
        return self.completion

    @property
    def reason(self) -> FinishReason:
        """Why the text ended."""
        return "stop" if self.done.finish_reason == "stop" else "length"


@dataclass
class Part:
    """What is new of one choice.

    Attributes:
        text: new text.
        logprobs: of the new tokens; None if they were not asked for.
        token_ids: new tokens; None if they were not asked for.
        reason: why the text ended, if it did.
        offset: characters before this part's tokens.
    """

    text: str = ""
    logprobs: Sequence[TokenLogprobs] | None = None
    token_ids: Sequence[int] | None = None
    reason: FinishReason | None = None
    offset: int = 0

    @property
    def ids(self) -> dict[str, list[int]]:
        """The field of the token ids, if they were asked for."""
        return {} if self.token_ids is None else {"token_ids": list(self.token_ids)}


@runtime_checkable
class Form(Protocol):
    """How one kind of request is answered."""

    @property
    def prefix(self) -> str:
        """What ids of answers begin with."""

    def first(self, index: int, echo: str) -> ChatDelta | TextDelta | None:
        """The first part of a choice, before any token."""

    def delta(self, index: int, part: Part) -> ChatDelta | TextDelta:
        """A part of a choice."""

    def chunk(self, deltas: list[Any], rest: dict[str, Any]) -> Chunk:
        """An event of a stream."""

    def whole(self, parts: list[Part], rest: dict[str, Any]) -> Whole:
        """The answer in one piece."""


@dataclass(frozen=True)
class ChatForm:
    """Chats."""

    texts: Texts
    prefix: str = "chatcmpl-"

    def first(self, index: int, echo: str) -> ChatDelta:
        """The role."""
        delta = Delta(role="assistant", content="")
        return ChatDelta(index=index, delta=delta, logprobs=None, finish_reason=None)

    def delta(self, index: int, part: Part) -> ChatDelta:
        """A part of a message; the last one has no text."""
        return ChatDelta(
            index=index,
            delta=Delta() if part.reason else Delta(content=part.text),
            logprobs=self._logprobs(part),
            finish_reason=part.reason,
            **part.ids,
        )

    def chunk(self, deltas: list[Any], rest: dict[str, Any]) -> Chunk:
        """An event of a stream."""
        return ChatChunk(object="chat.completion.chunk", choices=deltas, **rest)

    def whole(self, parts: list[Part], rest: dict[str, Any]) -> Whole:
        """The answer in one piece."""
        choices = [
            ChatChoice(
                index=index,
                message=ChatMessage(role="assistant", content=part.text, refusal=None),
                logprobs=self._logprobs(part),
                finish_reason=part.reason or "length",
                **part.ids,
            )
            for index, part in enumerate(parts)
        ]
        return ChatCompletion(object="chat.completion", choices=choices, **rest)

    def _logprobs(self, part: Part) -> ChatLogprobs | None:
        if part.logprobs is None:
            return None
        content = [
            TokenLogprob(
                **self._token(one.token, one.logprob),
                top_logprobs=[TopLogprob(**self._token(*top)) for top in one.top],
            )
            for one in part.logprobs
        ]
        return ChatLogprobs(content=content, refusal=None)

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self.texts.token(token)
        return {"token": text, "logprob": max(logprob, LOWEST), "bytes": raw}


@dataclass(frozen=True)
class TextForm:
    """Completions.

    Attributes:
        has_top: whether the most likely tokens are told beside those of the text.
    """

    texts: Texts
    has_top: bool
    prefix: str = "cmpl-"

    def first(self, index: int, echo: str) -> TextDelta | None:
        """The prompt, if it is to be echoed."""
        if not echo:
            return None
        return TextDelta(index=index, text=echo, logprobs=None, finish_reason=None)

    def delta(self, index: int, part: Part) -> TextDelta:
        """A part of a completion."""
        return TextDelta(
            index=index,
            text=part.text,
            logprobs=self._logprobs(part),
            finish_reason=part.reason,
            **part.ids,
        )

    def chunk(self, deltas: list[Any], rest: dict[str, Any]) -> Chunk:
        """An event of a stream."""
        return TextChunk(object="text_completion", choices=deltas, **rest)

    def whole(self, parts: list[Part], rest: dict[str, Any]) -> Whole:
        """The answer in one piece."""
        choices = [
            TextChoice(
                index=index,
                text=part.text,
                logprobs=self._logprobs(part),
                finish_reason=part.reason or "length",
                **part.ids,
            )
            for index, part in enumerate(parts)
        ]
        return TextCompletion(object="text_completion", choices=choices, **rest)

    def _logprobs(self, part: Part) -> TextLogprobs | None:
        if part.logprobs is None:
            return None
        tokens = [self.texts.token(one.token)[0] for one in part.logprobs]
        offsets = [part.offset]
        for token in tokens:
            offsets.append(offsets[-1] + len(token))
        tops = [
            {self.texts.token(token)[0]: max(logprob, LOWEST) for token, logprob in one.top}
            for one in part.logprobs
        ]
        return TextLogprobs(
            tokens=tokens,
            token_logprobs=[max(one.logprob, LOWEST) for one in part.logprobs],
            top_logprobs=tops if self.has_top else None,
            text_offset=offsets[:-1],
        )
