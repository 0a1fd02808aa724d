"""A real server on a free port, in a thread of the tests' process, and a scheduler to break."""

from __future__ import annotations

import dataclasses
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

import mtad
from mtad.api.pair import ModelPair
from mtad.sampling.params import SamplingParams
from mtad.server.api.service import Decodes
from mtad.server.app import create_app
from mtad.server.ops.metrics import Metrics
from mtad.server.scheduler.jobs import Done, Failed, Job, Listener, Piece, Update, Work
from mtad.server.scheduler.watch import Load
from mtad.server.settings import ServerSettings
from mtad.trace.writer import TokenLogprobs


@functools.cache
def demo() -> ModelPair:
    """The embedded pair, loaded once."""
    return mtad.load_pair("demo", dtype="float32")


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
    submitted: list[Job] = field(default_factory=list)
    cancelled: list[Job] = field(default_factory=list)
    is_ready: bool = True
    is_alive: bool = True
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def load(self) -> Load:
        return Load(0, 0, 0, 0, 0, 0, self.is_alive, self.is_ready)

    def submit(self, works: Sequence[Work], listeners: Sequence[Listener]) -> list[Job]:
        if self.refusal is not None:
            raise self.refusal
        jobs = [Job(work, tell) for work, tell in zip(works, listeners, strict=True)]
        for job in jobs:
            job.work.method.check(job.work.request.sampling)
            self.pool.submit(self._run, job)
        self.submitted += jobs
        return jobs

    def cancel(self, job: Job) -> None:
        job.is_cancelled = True
        self.cancelled.append(job)

    def _run(self, job: Job) -> None:
        job.admitted_at = time.monotonic()
        for count, update in enumerate(self._updates(job)):
            self.gate.wait(30)
            if job.is_cancelled:
                return
            if self.failure and count == self.failure[0]:
                job.listener(Failed(self.failure[1]))
                return
            if isinstance(update, Done):
                job.ended_at = time.monotonic()
            job.listener(update)

    def _updates(self, job: Job) -> Iterator[Update]:
        work = job.work
        names = [f.name for f in dataclasses.fields(SamplingParams) if f.name != "seed"]
        sampling = {name: getattr(work.request.sampling, name) for name in names}
        chunks = self.pair.stream(
            list(work.request.prompt_ids),
            work.method,
            seed=work.request.sampling.seed,
            stop=list(work.stops),
            guard=False,
            **sampling,
        )
        for chunk in chunks:
            if chunk.block is not None:
                told = [
                    TokenLogprobs(t, -0.5, _TOP[: work.num_logprobs]) for t in chunk.block.token_ids
                ]
                yield Piece(
                    chunk.text,
                    chunk.block,
                    () if work.num_logprobs is None else tuple(told),
                    {"position": 0, "tokens": list(chunk.block.token_ids)} if work.traced else None,
                )
            if chunk.completion:
                yield Done(chunk.completion, 0.0)


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
    """The application behind a real socket."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http="h11",
        log_config=None,
        lifespan="off",
        loop="asyncio",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    try:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        yield Served(url, scheduler, settings, app)
    finally:
        server.should_exit = True
        thread.join(10)
        sock.close()
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
    from mtad.server.scheduler.scheduler import Limits, Scheduler

    chosen, metrics = ServerSettings(**settings), Metrics()
    limits = Limits(chosen.max_rows, chosen.cache_slots, chosen.max_queue)
    scheduler = Scheduler(pair or demo(), limits, metrics)
    scheduler.start()
    try:
        with serving(create_app(scheduler, chosen, metrics), scheduler, chosen) as served:
            yield served
    finally:
        scheduler.close()
