"""From settings to a running server: models, scheduler, application, sockets and signals.

Knows no route and no command line.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import torch
import uvicorn
from starlette.types import ASGIApp

from mtad import __version__
from mtad.api.pair import ModelPair, open_pair
from mtad.measure.meter import Meter, find_meter
from mtad.measure.sharing import SharedEnergy
from mtad.methods import require_draft
from mtad.model.lm import context_of
from mtad.model.loading import Models
from mtad.server.api.service import served_name
from mtad.server.app import create_app
from mtad.server.http.connection import KEEP_ALIVE_S, connection
from mtad.server.http.keys import Keys, find_keys
from mtad.server.ops.hangup import hangups
from mtad.server.ops.logs import RequestLog, TextOf, configure, reopen_log
from mtad.server.ops.metrics import Metrics
from mtad.server.ops.sockets import cannot_listen, check_certificate, listening, place_of
from mtad.server.ops.spans import Spans, exporting_to, finish, provider_of, require_packages
from mtad.server.scheduler.admission import DEFAULT_CONTEXT, Limits
from mtad.server.scheduler.scheduler import Scheduler
from mtad.server.settings import ServerSettings
from mtad.trace.format import TraceHeader
from mtad.trace.writer import TraceWriter

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

FLUSH_S = 5
"""Seconds that answers have to reach their clients once every text has ended."""
LAST_S = 2.0
"""Seconds from the second signal to the end, whatever still runs."""


@dataclass(frozen=True)
class Served:
    """A pair behind its application; the scheduler is not started yet.

    Attributes:
        scheduler: owns the models.
        app: with the log of requests around it.
        metrics: of `/metrics`.
        energy: reads the meter.
        writer: of the trace file, if one is wanted.
        spans: makes those of OpenTelemetry, if they are wanted.
    """

    scheduler: Scheduler
    app: ASGIApp
    metrics: Metrics
    energy: SharedEnergy
    writer: TraceWriter | None
    spans: TracerProvider | None = None

    def start(self) -> None:
        """Begin to take requests."""
        self.energy.start()
        self.scheduler.start()

    def reopen(self) -> None:
        """Go on in a new trace file if the one that there is was moved away."""
        if self.writer is not None:
            self.writer.reopen()

    def close(self, drain_s: float = 0.0) -> None:
        """Take no more requests, and end the running ones within `drain_s` seconds."""
        self.scheduler.close(drain_s)
        self.energy.close()
        if self.spans is not None:
            finish(self.spans)
        if self.writer is not None:
            self.writer.close()


def load(settings: ServerSettings) -> ModelPair:
    """The models that the settings name, the embedded pair if none.

    Raises:
        ValueError: the default method needs a draft and there is none.
    """
    require_draft(settings.method, settings.has_draft)
    pair = open_pair(
        settings.target_model, settings.draft_model, settings.pair, **settings.placement
    )
    for note in pair.models.notes:
        say(note)
    return pair


def assemble(
    pair: ModelPair,
    settings: ServerSettings,
    meter: Meter | None = None,
    keys: Keys | None = None,
    render: Callable[[], Awaitable[bytes]] | None = None,
) -> Served:
    """Scheduler and application of a pair; without a meter it looks for one.

    Args:
        pair: the models.
        settings: limits and defaults.
        meter: of energy.
        keys: that open it; None for those that the settings and the environment name.
        render: what `/metrics` answers; None for this process' own metrics.

    Raises:
        ValueError: the default method's tree is larger than `max_nodes`, or `max_model_len` than
            the target's context.
    """
    _check_length(pair.models, settings)
    _check_tree(pair.models, settings)
    energy = SharedEnergy(meter or find_meter(_devices(pair.models)))
    metrics = Metrics(energy, served_name(settings))
    writer = None
    if settings.trace is not None:
        writer = TraceWriter(
            settings.trace, TraceHeader.of(pair.models), prompts=settings.log_prompts
        )
    pair.workspace.keep_prefixes(pair.models, settings.prefix_cache_mib)
    if settings.guard:
        pair.guards.measure(time.perf_counter)
    limits = Limits(
        settings.max_rows, settings.cache_slots, settings.max_queue, settings.max_model_len
    )
    scheduler = Scheduler(pair, limits, (metrics,), writer)
    metrics.prefix_cache_bytes = lambda: pair.workspace.prefixes.num_bytes
    metrics.eager_iterations = lambda: pair.workspace.programs.eager_iterations
    app = create_app(scheduler, settings, metrics, keys, render)
    text_of = _text_of(pair) if settings.log_prompts else None
    outermost: ASGIApp = RequestLog(app, metrics, text_of)
    spans = None
    if settings.otlp_traces_endpoint is not None:
        spans = provider_of(exporting_to(settings.otlp_traces_endpoint))
        outermost = Spans(outermost, spans.get_tracer("mtad", __version__), served_name(settings))
    return Served(scheduler, outermost, metrics, energy, writer, spans)


def _text_of(pair: ModelPair) -> TextOf:
    """Tokens as text; as their ids where there is no tokenizer."""
    tokenizer = pair.tokenizer
    return str if tokenizer is None else lambda ids: str(tokenizer.decode(list(ids)))


def _devices(models: Models) -> list[torch.device]:
    return [model.device for model in (models.target, models.draft) if model is not None]


def _check_length(models: Models, settings: ServerSettings) -> None:
    wanted, context = settings.max_model_len, context_of(models.target)
    if wanted is not None and context is not None and wanted > context:
        raise ValueError(
            f"max_model_len is {wanted}; the target's context is {context} tokens: give at most "
            "that"
        )


def _check_tree(models: Models, settings: ServerSettings) -> None:
    method = settings.method
    lengths = (settings.max_new_tokens, settings.max_model_len, context_of(models.target))
    budget = min((one for one in lengths if one is not None), default=DEFAULT_CONTEXT)
    nodes = method.num_nodes(models.vocab, budget)
    if nodes > settings.max_nodes:
        raise ValueError(
            f"{method.name}, the default method, has a tree of {nodes} nodes; max_nodes is "
            f"{settings.max_nodes}: allow more, or choose a smaller tree"
        )


def serve(settings: ServerSettings) -> None:
    """Serve until a signal comes.

    Raises:
        AddressError: the port is taken, or the host is none of this machine's.
        ValueError, MtadError: keys, models or the trace file are not as they must be.
    """
    keys = find_keys(settings, say)
    check_certificate(settings.ssl_certfile, settings.ssl_keyfile)
    if settings.otlp_traces_endpoint is not None:
        require_packages()
    with listening(settings) as sock, hangups() as actions:
        configure(settings.log_format, settings.log_prompts, settings.log_file)
        served = assemble(load(settings), settings, keys=keys)
        actions += [reopen_log, served.reopen]
        served.start()
        # libraries and models live as long as the process: to look through their million objects
        # at the end would take it a second
        gc.freeze()
        try:
            _Server(config_of(served.app, settings), served, settings, sock).run(sockets=[sock])
        finally:
            served.close()


def config_of(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=connection(settings.header_timeout_s, settings.body_timeout_s),
        loop="asyncio",  # the one that the tests run, not uvloop wherever that happens to be
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        root_path=settings.root_path or "",
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=FLUSH_S,
        # up to here the application answers, beyond it the connection does
        h11_max_incomplete_event_size=max(65_536, 2 * settings.max_header_bytes),
    )


class _Server(uvicorn.Server):
    """Uvicorn that lets running texts end before it stops listening.

    The first signal closes the scheduler: new requests get 503, the running ones end or fail within
    `shutdown_s`. Then uvicorn closes. The second signal makes them fail now, and ends the process
    soon even if an iteration goes on.
    """

    def __init__(
        self, config: uvicorn.Config, served: Served, settings: ServerSettings, sock: socket.socket
    ) -> None:
        super().__init__(config)
        self._served, self._settings, self._sock = served, settings, sock
        self._num_signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        try:
            await super().startup(sockets)
        except OSError as error:  # another process began to listen while the models were loaded
            raise cannot_listen(self._settings.host, self._settings.port, error) from error
        if self.started:
            place = place_of(self._sock, self._settings)
            print(f"mtad serves {served_name(self._settings)} on {place}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        self._num_signals += 1
        if self._num_signals == 1:
            say("shutting down; a second signal stops at once")
        drain_s = self._settings.shutdown_s if self._num_signals == 1 else 0.0
        threading.Thread(target=self._close, args=(drain_s,), daemon=True).start()
        if self._num_signals > 1:
            end = threading.Timer(LAST_S, os._exit, (0,))  # a forward cannot be interrupted
            end.daemon = True
            end.start()

    def _close(self, drain_s: float) -> None:
        try:
            self._served.scheduler.close(drain_s)
        finally:
            self.should_exit = True


def say(text: str) -> None:
    """Write a line to stderr."""
    print(text, file=sys.stderr, flush=True)
