"""The two formats of responses: chats and completions, whole or in chunks.

Knows no scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from mtad.server.api.call_models import CalledFunction, FunctionDelta, ToolCall, ToolCallDelta
from mtad.server.api.parsing import Echo
from mtad.server.api.response_models import (
    BaseChunk,
    BaseCompletion,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatFinishReason,
    ChatLogprobs,
    ChatMessage,
    Delta,
    TextChoice,
    TextChunk,
    TextCompletion,
    TextDelta,
    TextLogprobs,
    TokenLogprob,
    TopLogprob,
)
from mtad.server.api.tokenizing import Texts
from mtad.server.api.tool_parsers.pieces import CallPiece, Piece, Reply
from mtad.server.api.tool_parsers.reading import Reading, TextReader
from mtad.server.scheduler.sequence import Chunk, FinishReason, Sequence
from mtad.trace.record import TokenLogprobs

LOWEST = -9999.0
"""Stands for minus infinity, which JSON lacks."""


@runtime_checkable
class Format(Protocol):
    """How one kind of request is answered."""

    @property
    def texts(self) -> Texts:
        """Makes the texts of single tokens."""

    @property
    def prefix(self) -> str:
        """What ids of responses begin with."""

    def first(self, sequence: Sequence, echo: Echo) -> ChatDelta | TextDelta | None:
        """The delta of a choice before any token."""

    def deltas(self, chunk: Chunk, offset: int) -> Items[ChatDelta | TextDelta]:
        """What is new of a choice, whose tokens' text begins after `offset` characters.

        There is one at least, which may be empty; the first has all that is of tokens.
        """

    def ends(self, index: int, reason: FinishReason) -> Items[ChatDelta | TextDelta]:
        """The deltas that end a choice; the last one has the reason."""

    def event(self, deltas: list[Any], rest: dict[str, Any]) -> BaseChunk:
        """An event of a stream."""

    def choice(self, chunk: Chunk, echo: Echo) -> ChatChoice | TextChoice:
        """A whole choice, whose chunks are joined."""

    def whole(self, choices: list[Any], rest: dict[str, Any]) -> BaseCompletion:
        """The response in one piece."""


@dataclass(frozen=True)
class ChatFormat:
    """Chats.

    Attributes:
        texts: makes the texts of single tokens.
        has_logprobs: whether log-probabilities were asked for.
        has_ids: whether token ids were.
        reading: what is separated from the content; None where nothing is.
    """

    texts: Texts
    has_logprobs: bool = False
    has_ids: bool = False
    reading: Reading | None = None
    prefix: str = "chatcmpl-"
    _readers: dict[int, TextReader] = field(default_factory=dict, repr=False)

    def first(self, sequence: Sequence, echo: Echo) -> ChatDelta:
        """The role."""
        delta = Delta(role="assistant", content="")
        return ChatDelta(index=sequence.index, delta=delta, logprobs=None, finish_reason=None)

    def deltas(self, chunk: Chunk, offset: int) -> list[ChatDelta]:
        """Parts of a message."""
        index, text = chunk.sequence.index, chunk.text or ""
        if self.reading is None:
            said = [Delta(content=text)]
        else:
            said = list(map(_said, self._reader(index).push(text))) or [Delta(content="")]
        logprobs, ids = self._logprobs(chunk), _ids(self.has_ids, chunk)
        first = _chat_delta(index, said[0], logprobs, None, **ids)
        return [first, *(_chat_delta(index, one) for one in said[1:])]

    def ends(self, index: int, reason: FinishReason) -> list[ChatDelta]:
        """What was held back, and the reason."""
        if self.reading is None:
            return [_chat_delta(index, Delta(), reason=reason)]
        reader = self._reader(index)
        left = [_chat_delta(index, _said(piece)) for piece in reader.finish()]
        why = _reason(reason, has_calls=reader.has_calls)
        return [*left, _chat_delta(index, Delta(), reason=why)]

    def _reader(self, index: int) -> TextReader:
        """Of the choice with that number, while it is streamed."""
        if index not in self._readers:
            assert self.reading is not None
            self._readers[index] = self.reading.reader()
        return self._readers[index]

    def event(self, deltas: list[Any], rest: dict[str, Any]) -> BaseChunk:
        """An event of a stream."""
        return ChatChunk(object="chat.completion.chunk", choices=deltas, **rest)

    def choice(self, chunk: Chunk, echo: Echo) -> ChatChoice:
        """A whole message."""
        reply = self.reading.reply(chunk.text or "") if self.reading else Reply(chunk.text or "")
        reason = _reason(chunk.finish_reason or "length", has_calls=bool(reply.calls))
        return ChatChoice(
            index=chunk.sequence.index,
            message=_message(reply),
            logprobs=self._logprobs(chunk),
            finish_reason=reason,
            **_ids(self.has_ids, chunk),
        )

    def whole(self, choices: list[Any], rest: dict[str, Any]) -> BaseCompletion:
        """The response in one piece."""
        return ChatCompletion(object="chat.completion", choices=choices, **rest)

    def _logprobs(self, chunk: Chunk) -> ChatLogprobs | None:
        if not self.has_logprobs:
            return None
        return ChatLogprobs(content=list(map(self._token, chunk.logprobs)), refusal=None)

    def _token(self, one: TokenLogprobs) -> TokenLogprob:
        tops = [TopLogprob(**self._fields(*top)) for top in one.top]
        return TokenLogprob(**self._fields(one.token, one.logprob), top_logprobs=tops)

    def _fields(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self.texts.token(token)
        return {"token": text, "logprob": max(logprob, LOWEST), "bytes": raw}


@dataclass(frozen=True)
class TextFormat:
    """Completions.

    Attributes:
        texts, has_logprobs, has_ids: as for `ChatFormat`.
        has_top: whether the most likely tokens come beside those of the text.
    """

    texts: Texts
    has_logprobs: bool = False
    has_ids: bool = False
    has_top: bool = False
    prefix: str = "cmpl-"

    def first(self, sequence: Sequence, echo: Echo) -> TextDelta | None:
        """The prompt, if it is to be echoed."""
        if not (echo.text or echo.token_ids):
            return None
        logprobs = self._of_prompt(sequence, echo) if echo.token_ids else None
        return TextDelta(
            index=sequence.index, text=echo.text, logprobs=logprobs, finish_reason=None
        )

    def deltas(self, chunk: Chunk, offset: int) -> list[TextDelta]:
        """A part of a completion."""
        delta = TextDelta(
            index=chunk.sequence.index,
            text=chunk.text or "",
            logprobs=self._logprobs(chunk, offset) if self.has_logprobs else None,
            finish_reason=None,
            **_ids(self.has_ids, chunk),
        )
        return [delta]

    def ends(self, index: int, reason: FinishReason) -> list[TextDelta]:
        """The reason alone."""
        return [TextDelta(index=index, text="", logprobs=None, finish_reason=reason)]

    def event(self, deltas: list[Any], rest: dict[str, Any]) -> BaseChunk:
        """An event of a stream."""
        return TextChunk(object="text_completion", choices=deltas, **rest)

    def choice(self, chunk: Chunk, echo: Echo) -> TextChoice:
        """A whole completion."""
        logprobs = self._logprobs(chunk, len(echo.text)) if self.has_logprobs else None
        if logprobs and echo.token_ids:
            logprobs = self._of_prompt(chunk.sequence, echo).followed_by(logprobs)
        return TextChoice(
            index=chunk.sequence.index,
            text=echo.text + (chunk.text or ""),
            logprobs=logprobs,
            finish_reason=chunk.finish_reason or "length",
            **_ids(self.has_ids, chunk),
        )

    def whole(self, choices: list[Any], rest: dict[str, Any]) -> BaseCompletion:
        """The response in one piece."""
        return TextCompletion(object="text_completion", choices=choices, **rest)

    def _of_prompt(self, sequence: Sequence, echo: Echo) -> TextLogprobs:
        """Log-probabilities of the prompt; the model gives none to its first token."""
        given = sequence.prompt_logprobs
        return TextLogprobs(
            tokens=[self.texts.token(token)[0] for token in echo.token_ids],
            token_logprobs=[None, *(max(one.logprob, LOWEST) for one in given)],
            top_logprobs=[None, *map(self._top, given)] if self.has_top else None,
            text_offset=list(echo.places),
        )

    def _logprobs(self, chunk: Chunk, offset: int) -> TextLogprobs:
        given = chunk.logprobs
        return TextLogprobs(
            tokens=[self.texts.token(one.token)[0] for one in given],
            token_logprobs=[max(one.logprob, LOWEST) for one in given],
            top_logprobs=list(map(self._top, given)) if self.has_top else None,
            text_offset=[offset + place for place in chunk.places],
        )

    def _top(self, one: TokenLogprobs) -> dict[str, float]:
        """The most likely tokens by their text; of several with one text the most likely."""
        best: dict[str, float] = {}
        for token, logprob in one.top:
            best.setdefault(self.texts.token(token)[0], max(logprob, LOWEST))
        return best


def _ids(is_wanted: bool, chunk: Chunk) -> dict[str, list[int]]:
    """The field of the token ids, if they were asked for."""
    return {"token_ids": list(chunk.token_ids)} if is_wanted else {}


def _chat_delta(
    index: int,
    delta: Delta,
    logprobs: ChatLogprobs | None = None,
    reason: ChatFinishReason | None = None,
    **ids: Any,
) -> ChatDelta:
    return ChatDelta(index=index, delta=delta, logprobs=logprobs, finish_reason=reason, **ids)


def _said(piece: Piece) -> Delta:
    """A piece of a text as a delta has it."""
    if piece.call is not None:
        return Delta(tool_calls=[_call_delta(piece.call)])
    if piece.reasoning:
        return Delta(reasoning_content=piece.reasoning)
    return Delta(content=piece.content)


def _call_delta(call: CallPiece) -> ToolCallDelta:
    if not call.name:
        return ToolCallDelta(index=call.index, function=FunctionDelta(arguments=call.arguments))
    function = FunctionDelta(name=call.name, arguments=call.arguments)
    return ToolCallDelta(index=call.index, id=call.id, type="function", function=function)


def _message(reply: Reply) -> ChatMessage:
    """A whole message; what it does not have is left out."""
    more: dict[str, Any] = {} if reply.reasoning is None else {"reasoning_content": reply.reasoning}
    if reply.calls:
        more["tool_calls"] = [
            ToolCall(
                id=call.id,
                type="function",
                function=CalledFunction(name=call.name, arguments=call.arguments),
            )
            for call in reply.calls
        ]
    content = None if more and not reply.content else reply.content
    return ChatMessage(role="assistant", content=content, refusal=None, **more)


def _reason(reason: FinishReason, *, has_calls: bool) -> ChatFinishReason:
    return "tool_calls" if has_calls and reason == "stop" else reason
