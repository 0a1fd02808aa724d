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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtad.engine.session import Block
from mtad.engine.stats import Stats
from mtad.server.http.middleware import new_request_id, request_id_of, state_of
from mtad.server.ops.metrics import Metrics
from mtad.server.scheduler.jobs import Job
from mtad.server.scheduler.watch import Outcome
from mtad.server.settings import LogFormat

TextOf = Callable[[Sequence[int]], str]
LOGGERS = ("mtad", "uvicorn", "asyncio", "concurrent")
"""Those whose records the server writes down."""


@dataclass
class _Text:
    """What the scheduler told about one text."""

    job: Job
    stats: Stats = field(default_factory=Stats)
    token_ids: list[int] = field(default_factory=list)
    outcome: str | None = None


class Journal:
    """What the scheduler did for the requests at work; a `Watch`, safe for several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._open: dict[str, list[_Text]] = {}

    def open(self, request_id: str) -> bool:
        """Begin to note what is done for a request; false if another one has this id."""
        with self._lock:
            is_new = request_id not in self._open
            if is_new:
                self._open[request_id] = []
            return is_new

    def close(self, request_id: str) -> list[_Text]:
        """What was done for it; it is forgotten."""
        with self._lock:
            return self._open.pop(request_id, [])

    def admitted(self, job: Job) -> None:
        """Note a text whose prompt is about to be read."""
        with self._lock:
            if job.work.request_id in self._open:
                self._open[job.work.request_id].append(_Text(job))

    def iterated(self, blocks: list[tuple[Job, Block]], seconds: float) -> None:
        """Note what an iteration added."""
        with self._lock:
            for job, block in blocks:
                text = self._find(job) if block.error is None else None
                if text:
                    text.stats.add(block)
                    text.token_ids += block.token_ids
                    text.outcome = block.finish_reason or text.outcome

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Note how a text ended."""
        with self._lock:
            if text := self._find(job):
                text.outcome = outcome

    def _find(self, job: Job) -> _Text | None:
        texts = self._open.get(job.work.request_id, ())
        return next((text for text in texts if text.job is job), None)


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

    Attributes:
        app: what comes after.
        journal: also the scheduler's watch.
        log: where the lines go.
        metrics: counts the answers.
        text_of: to log prompts and outputs as text; None to leave them out.
    """

    app: ASGIApp
    journal: Journal
    log: Log
    metrics: Metrics | None = None
    text_of: TextOf | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, and log what came of it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, status = time.monotonic(), 0
        if not self.journal.open(request_id_of(scope)):
            state_of(scope)["request_id"] = new_request_id()
            self.journal.open(request_id_of(scope))

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_noted)
        finally:
            texts = self.journal.close(request_id_of(scope))
            total_s = time.monotonic() - begun
            if self.metrics:
                self.metrics.answered(status)
            self.log.line(_head(scope, status, total_s) | _tail(texts) | self._words(texts))

    def _words(self, texts: Sequence[_Text]) -> dict[str, Any]:
        if self.text_of is None or not texts:
            return {}
        return {
            "prompts": [self.text_of(list(text.job.work.request.prompt_ids)) for text in texts],
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


def _tail(texts: Sequence[_Text]) -> dict[str, Any]:
    """What the scheduler told; nothing if no text came to be admitted."""
    if not texts:
        return {}
    jobs = [text.job for text in texts]
    waits = [job.admitted_at - job.arrived_at for job in jobs if job.admitted_at is not None]
    firsts = [job.first_token_at - job.arrived_at for job in jobs if job.first_token_at is not None]
    steps = sum(text.stats.num_spec_steps for text in texts)
    accepted = sum(text.stats.num_accepted_draft_tokens for text in texts)
    return {
        "method": jobs[0].work.method.name,
        "prompt_tokens": len(jobs[0].work.request.prompt_ids),
        "output_tokens": sum(len(text.token_ids) for text in texts),
        "queue_s": round(max(waits), 4) if waits else None,
        "ttft_s": round(min(firsts), 4) if firsts else None,
        "finish_reasons": [text.outcome for text in texts],
        "mean_acceptance_length": round(1 + accepted / steps, 3) if steps else None,
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
