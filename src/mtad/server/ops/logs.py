"""One line per request: who asked, what came of it and how long it took.

What was asked and answered is not in it, unless the operator wants that; nor are keys, only the
names of their owners. Errors of the server are logged by type and place, since their messages may
repeat a prompt. Knows no route.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtad.engine.stats import total
from mtad.server.http.middleware import new_request_id, request_id_of, state_of
from mtad.server.ops.metrics import Metrics
from mtad.server.scheduler.sequence import Sequence
from mtad.server.settings import LogFormat

TextOf = Callable[[Items[int]], str]
LOGGERS = ("mtad", "uvicorn", "asyncio", "concurrent")
"""Those whose records the server writes down."""


@dataclass(frozen=True)
class Log:
    """Where the lines go.

    Attributes:
        format: JSON, or `name=value` for people.
        write: takes a line without its end; to stderr by default.
    """

    format: LogFormat = "json"
    write: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)

    def line(self, facts: dict[str, Any]) -> None:
        """Write one line; the time comes first."""
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts}
        if self.format == "json":
            self.write(_json(record))
        else:
            self.write(" ".join(f"{name}={_json(value)}" for name, value in record.items()))


def _json(value: Any) -> str:
    """JSON in which nothing can steer a terminal: what is not printable is written as its code."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]


@dataclass(frozen=True)
class RequestLog:
    """Logs every request when its answer is complete; the outermost layer of the application.

    A route that decodes leaves the request's sequences in `request.state.sequences`.

    Attributes:
        app: what comes after.
        log: where the lines go.
        metrics: counts the answers.
        text_of: to log prompts and outputs as text; None to leave them out.
        open_ids: ids of the requests at work; another request with one of them gets its own.
    """

    app: ASGIApp
    log: Log
    metrics: Metrics | None = None
    text_of: TextOf | None = None
    open_ids: set[str] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, and log what came of it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, status = time.monotonic(), 0
        if request_id_of(scope) in self.open_ids:
            state_of(scope)["request_id"] = new_request_id()
        self.open_ids.add(request_id_of(scope))

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        finally:
            self.open_ids.discard(request_id_of(scope))
            given: Items[Sequence] = state_of(scope).get("sequences", ())
            texts = [one for one in given if one.admitted_at is not None]
            total_s = time.monotonic() - begun
            if self.metrics:
                self.metrics.answered(status)
            self.log.line(_head(scope, status, total_s) | _tail(texts) | self._words(texts))

    def _words(self, texts: Items[Sequence]) -> dict[str, Any]:
        if self.text_of is None or not texts:
            return {}
        return {
            "prompts": [self.text_of(list(text.request.prompt_ids)) for text in texts],
            "outputs": [self.text_of(text.token_ids) for text in texts],
        }


def _head(scope: Scope, status: int, total_s: float) -> dict[str, Any]:
    user = state_of(scope).get("user")  # whom the client named
    return {
        "request_id": request_id_of(scope),
        "client": state_of(scope).get("client"),
        **({"user": user} if user else {}),
        "http": scope["method"] if scope["method"] in _VERBS else "unknown",
        "route": _route(scope),
        "status": status or None,
        "total_s": round(total_s, 4),
    }


_VERBS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE")


def _route(scope: Scope) -> str:
    """The route's own path where there is one: an unknown path is not repeated."""
    route = getattr(scope.get("route"), "path", None)
    return route if isinstance(route, str) else "unknown"


def _tail(texts: Items[Sequence]) -> dict[str, Any]:
    """What came of the texts; nothing if none was admitted."""
    if not texts:
        return {}
    firsts = [one.first_token_at - one.arrived_at for one in texts if one.first_token_at]
    stats = total(one.stats for one in texts)
    length = stats.mean_acceptance_length
    return {
        "method": texts[0].method.name,
        "prompt_tokens": len(texts[0].request.prompt_ids),
        "output_tokens": stats.num_output_tokens,
        "queue_s": round(max(one.queue_s for one in texts), 4),
        "ttft_s": round(min(firsts), 4) if firsts else None,
        "finish_reasons": [one.outcome for one in texts],
        "mean_acceptance_length": None if length is None else round(length, 3),
    }


class _Handler(logging.Handler):
    """Writes records of Python's logging as lines of a `Log`."""

    def __init__(self, log: Log, with_messages: bool) -> None:
        super().__init__(logging.WARNING)
        self._log, self._with_messages = log, with_messages

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        message = record.getMessage().strip()
        facts: dict[str, Any] = {
            "level": record.levelname.lower(),
            "logger": record.name,
            # asyncio goes on with the error's own words
            "message": message if self._with_messages else message.partition("\n")[0],
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            facts |= {"error": type(error).__name__, "at": _place(error)}
            if self._with_messages:
                facts["reason"] = str(error)
        self._log.line(facts)


def _place(error: BaseException) -> list[str]:
    """File, line and function of each call that led to an error, without any value."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def catch_records(log: Log, with_messages: bool = False) -> None:
    """Send the records of the server's loggers to `log`, and nowhere else.

    Args:
        log: where they go.
        with_messages: whether the messages of errors are in them; these may repeat a prompt.
    """
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_Handler(log, with_messages)], False
