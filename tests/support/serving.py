"""A real server on a free port, in a thread of the tests' process, and a scheduler to break."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import uvicorn

import mtad
from mtad.api.pair import ModelPair
from mtad.sampling.params import SamplingParams
from mtad.server.api.service import Decodes
from mtad.server.app import create_app
from mtad.server.ops.metrics import Metrics
from mtad.server.ops.sockets import listening, place_of
from mtad.server.run import config_of
from mtad.server.scheduler.events import Load
from mtad.server.scheduler.sequence import Chunk, Sequence
from mtad.server.settings import ServerSettings
from mtad.trace.record import TokenLogprobs


def load_demo() -> ModelPair:
    """The embedded pair without tapes: recording one takes longer than all of a test's texts."""
    pair = mtad.load_pair("demo", dtype="float32")
    pair.graphs = None
    return pair


@functools.cache
def demo() -> ModelPair:
    """The same, loaded once."""
    return load_demo()


@dataclass
class FakeScheduler:
    """Decodes one text after another with `pair.stream`; can be made to fail.

    Attributes:
        pair: what decodes.
        refusal: raised by `submit`.
        failure: after how many pieces jobs fail, and how.
        gate: jobs wait for it before each piece.
        submitted, cancelled: all that were.
        is_ready, is_alive: what `load` tells.
    """

    pair: ModelPair
    refusal: Exception | None = None
    failure: tuple[int, Exception] | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    submitted: list[Sequence] = field(default_factory=list)
    cancelled: list[Sequence] = field(default_factory=list)
    is_ready: bool = True
    is_alive: bool = True
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def load(self) -> Load:
        return Load(0, 0, 0, 0, 0, 0, self.is_alive, self.is_ready)

    def submit(self, sequences: Items[Sequence]) -> None:
        if self.refusal is not None:
            raise self.refusal
        for sequence in sequences:
            sequence.method.check(sequence.request.sampling)
            sequence.arrive(time.monotonic())
            self.pool.submit(self._run, sequence)
        self.submitted += sequences

    def cancel(self, sequence: Sequence) -> None:
        sequence.is_cancelled = True
        self.cancelled.append(sequence)

    def _run(self, sequence: Sequence) -> None:
        sequence.admitted_at = time.monotonic()
        for count, chunk in enumerate(self._chunks(sequence)):
            self.gate.wait(30)
            if sequence.is_cancelled:
                return
            if self.failure and count == self.failure[0]:
                return sequence.sink(Chunk(sequence, error=self.failure[1]))
            if chunk.finish_reason:
                sequence.outcome, sequence.ended_at = chunk.finish_reason, time.monotonic()
            sequence.sink(chunk)

    def _chunks(self, sequence: Sequence) -> Iterator[Chunk]:
        names = [f.name for f in dataclasses.fields(SamplingParams) if f.name != "seed"]
        sampling = {name: getattr(sequence.request.sampling, name) for name in names}
        chunks = self.pair.stream(
            list(sequence.request.prompt_ids),
            sequence.method,
            seed=sequence.request.sampling.seed,
            stop=sequence.detokenizer.stops if sequence.detokenizer else [],
            guard=False,
            **sampling,
        )
        for chunk in chunks:
            assert chunk.block is not None
            sequence.advance(chunk.block, 0.0, time.monotonic())
            yield Chunk(
                sequence,
                chunk.block,
                chunk.text,
                chunk.block.token_ids,
                self._logprobs(sequence, chunk.block.token_ids),
                (0,) * (0 if sequence.num_logprobs is None else len(chunk.block.token_ids)),
                ({"position": 0, "tokens": list(chunk.block.token_ids)},) * sequence.traced,
                sequence.finish_reason if chunk.completion else None,
            )

    def _logprobs(self, sequence: Sequence, ids: Items[int]) -> tuple[TokenLogprobs, ...]:
        if sequence.num_logprobs is None:
            return ()
        return tuple(TokenLogprobs(token, -0.5, _TOP[: sequence.num_logprobs]) for token in ids)


_TOP = ((5, -0.25), (6, -1.5), (7, float("-inf")))


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    url: str
    scheduler: Any
    settings: ServerSettings
    app: Any

    def client(self, **options: Any) -> httpx.Client:
        """A plain HTTP client."""
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)


@contextmanager
def serving(app: Any, scheduler: Decodes, settings: ServerSettings) -> Iterator[Served]:
    """The application behind a real socket: a free port, or the Unix socket of the settings."""
    config = config_of(app, settings)
    config.lifespan, config.timeout_graceful_shutdown = "off", 1
    server = uvicorn.Server(config)
    free = settings if settings.uds else dataclasses.replace(settings, port=0)
    with listening(free) as sock:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        try:
            url = "http://localhost" if settings.uds else place_of(sock, settings)
            yield Served(url, scheduler, settings, app)
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


@contextmanager
def fake_server(**settings: Any) -> Iterator[Served]:
    """A server around a `FakeScheduler`."""
    scheduler, chosen = FakeScheduler(demo()), ServerSettings(**settings)
    with serving(create_app(scheduler, chosen), scheduler, chosen) as served:
        yield served
    scheduler.gate.set()
    scheduler.pool.shutdown(wait=True)


def wait_for(fact: Callable[[], object], seconds: float = 20) -> None:
    """Return as soon as `fact` holds; fail if that takes too long."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


@contextmanager
def real_server(pair: ModelPair | None = None, **settings: Any) -> Iterator[Served]:
    """A server around the real scheduler."""
    from mtad.server.scheduler.admission import Limits
    from mtad.server.scheduler.scheduler import Scheduler

    chosen, metrics = ServerSettings(**settings), Metrics()
    limits = Limits(chosen.max_rows, chosen.cache_slots, chosen.max_queue)
    scheduler = Scheduler(pair or demo(), limits, (metrics,))
    scheduler.start()
    try:
        with serving(create_app(scheduler, chosen, metrics), scheduler, chosen) as served:
            yield served
    finally:
        scheduler.close()


def client_of(served: Served, key: str = "none") -> openai.OpenAI:
    """OpenAI's client of a server."""
    http = httpx.Client(verify=False, trust_env=False)  # no TLS here; saves reading certificates
    return openai.OpenAI(
        base_url=f"{served.url}/v1", api_key=key, max_retries=0, timeout=60, http_client=http
    )
