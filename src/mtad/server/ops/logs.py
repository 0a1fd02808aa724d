"""One line per request: who asked, what came of it and how long it took.

What was asked and answered is not in it, unless the operator wants that; nor are keys, only the
names of their owners. Errors of the server are logged by type and place, since their messages may
repeat a prompt. Knows no route.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable
from collections.abc import Sequence as Items
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from mtad.engine.stats import total
from mtad.errors import DataError
from mtad.server.http.middleware import (
    NotingSend,
    new_request_id,
    request_id_of,
    state_of,
)
from mtad.server.ops.metrics import Metrics
from mtad.server.scheduler.sequence import Sequence
from mtad.server.values import LogFormat

TextOf = Callable[[Items[int]], str]
REQUESTS = logging.getLogger("mtad.requests")
"""Has a record per request, at level INFO, with its fields in the attribute `fields`."""
_LOGGERS = ("mtad", "uvicorn", "asyncio", "concurrent", "opentelemetry")
"""Those whose records the server writes."""


class LineFormatter(logging.Formatter):
    """Formats each record as one line: JSON, or `name=value` for people; the time comes first.

    Args:
        form: of the lines.
        with_messages: whether the messages of errors are in them; these may repeat a prompt.
    """

    def __init__(self, form: LogFormat, with_messages: bool = False) -> None:
        super().__init__()
        self._form, self._with_messages = form, with_messages

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": at, **(getattr(record, "fields", None) or self._fields(record))}
        if self._form == "json":
            return _json(line)
        return " ".join(f"{name}={_json(value)}" for name, value in line.items())

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """The fields of a record that is no request's: an error, by its type and place."""
        message = record.getMessage().strip()
        fields: dict[str, Any] = {
            "level": record.levelname.lower(),
            "logger": record.name,
            # asyncio goes on with the error's own words
            "message": message if self._with_messages else message.partition("\n")[0],
        }
        if error := record.exc_info[1] if record.exc_info else None:
            fields |= {"error": type(error).__name__, "at": _place(error)}
            fields |= {"reason": str(error)} if self._with_messages else {}
        return fields


def _place(error: BaseException) -> list[str]:
    """File, line and function of each call that led to an error, without any value."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def _json(value: Any) -> str:
    """JSON in which nothing can steer a terminal: what is not printable is written as its code."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]


class _LogFile(WatchedFileHandler):
    """Appends to a file; to a new one of its name once it was moved away."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; a file that cannot be opened again is no request's error."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def reopen(self) -> None:
        """Let a file that was moved away go, and open a new one."""
        with suppress(OSError), self.lock or nullcontext():
            self.reopenIfNeeded()


def configure(form: LogFormat, with_messages: bool = False, file: Path | None = None) -> None:
    """Send the records of the server's loggers to a file or to stderr, and nowhere else.

    Args:
        form, with_messages: as for `LineFormatter`.
        file: lines are added to it; stderr if None.

    Raises:
        DataError: the file cannot be written to.
    """
    try:
        handler = logging.StreamHandler() if file is None else _LogFile(file, encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"the log cannot be written to {file}: {error.strerror}; give another --log-file"
        ) from error
    handler.setFormatter(LineFormatter(form, with_messages))
    for logger in map(logging.getLogger, _LOGGERS):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
    REQUESTS.setLevel(logging.INFO)


def reopen_log() -> None:
    """Open the log file again if it was moved away."""
    for handler in logging.getLogger(_LOGGERS[0]).handlers:
        if isinstance(handler, _LogFile):
            handler.reopen()


@dataclass(frozen=True)
class RequestLog:
    """Logs every request when its answer is complete; the outermost layer of the application.

    A route that decodes leaves the request's sequences in `request.state.sequences`.

    Attributes:
        app: the next ASGI application.
        metrics: counts the responses.
        text_of: to log prompts and outputs as text; None to leave them out.
        log: gets the records.
        open_ids: ids of the requests in progress; another request with one of them gets its own.
    """

    app: ASGIApp
    metrics: Metrics | None = None
    text_of: TextOf | None = None
    log: logging.Logger = REQUESTS
    open_ids: set[str] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and log what came of it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, noting = time.monotonic(), NotingSend(send)
        if request_id_of(scope) in self.open_ids:
            state_of(scope)["request_id"] = new_request_id()
        self.open_ids.add(request_id_of(scope))
        try:
            await self.app(scope, receive, noting)
        finally:
            self.open_ids.discard(request_id_of(scope))
            given: Items[Sequence] = state_of(scope).get("sequences", ())
            texts = [one for one in given if one.admitted_at is not None]
            total_s = time.monotonic() - begun
            if self.metrics:
                self.metrics.answered(noting.status)
            fields = _head(scope, noting.status, total_s) | _tail(texts) | self._words(texts)
            self.log.info("request", extra={"fields": fields})

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
