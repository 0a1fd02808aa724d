"""The scheduler: many jobs at once, each as if it were alone; nobody pays for a neighbour."""

from __future__ import annotations

import copy
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from support.tiny import PROMPTS, label, similar, some_variants, token_ids

import mtad.model.lm
from mtad.api.completion import Running
from mtad.api.pair import ModelPair, load_pair
from mtad.engine.request import Request
from mtad.engine.session import Session
from mtad.errors import CacheMemoryError, MtadError, NonFiniteLogitsError
from mtad.methods.autoregressive import Autoregressive
from mtad.methods.mtad import MTAD
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.kv_cache import SlotLayer
from mtad.model.lm import LM
from mtad.runtime.cpu_tapes import Tapes
from mtad.sampling.params import SamplingParams
from mtad.server.scheduler.batch import Batch, Seat
from mtad.server.scheduler.jobs import (
    ClosingError,
    DeadlineError,
    Done,
    Failed,
    Job,
    ModelFailedError,
    Piece,
    QueueFullError,
    Update,
    Work,
)
from mtad.server.scheduler.line import Line
from mtad.server.scheduler.room import Room
from mtad.server.scheduler.scheduler import Limits, Scheduler
from mtad.speculative.method import Method
from mtad.testing import random_llama

PATIENCE_S = 120.0
EVERY_METHOD = pytest.mark.parametrize("method", some_variants())


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.is_over = threading.Event()

    def __call__(self, update: Update) -> None:
        assert not self.is_over.is_set(), "told after the end"
        self.updates.append(update)
        if not isinstance(update, Piece):
            self.is_over.set()

    @property
    def last(self) -> Any:
        assert self.is_over.wait(PATIENCE_S), "the job never ended"
        return self.updates[-1]

    @property
    def token_ids(self) -> list[int]:
        """The whole text, and proof that the pieces say the same."""
        assert isinstance(self.last, Done), self.last
        pieces = [u for u in self.updates if isinstance(u, Piece)]
        ids = [token for piece in pieces for token in piece.block.token_ids]
        assert ids == self.last.completion.token_ids
        assert "".join(p.text for p in pieces) == self.last.completion.text
        return ids

    @property
    def error(self) -> Exception:
        assert isinstance(self.last, Failed)
        return self.last.error


class Story:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.admitted_ids: list[int] = []
        self.iterations: list[list[int]] = []
        self.outcomes: dict[int, str] = {}
        self.num_tokens: defaultdict[int, int] = defaultdict(int)

    def admitted(self, job: Job) -> None:
        self.admitted_ids.append(job.id)

    def iterated(self, blocks: list[Any], seconds: float) -> None:
        assert seconds > 0
        self.saw(blocks)

    def saw(self, blocks: list[Any]) -> None:
        self.iterations.append([job.id for job, _ in blocks])
        for job, block in blocks:
            self.num_tokens[job.id] += len(block.token_ids)

    def ended(self, job: Job, outcome: Any) -> None:
        assert job.ended_at is not None and job.id not in self.outcomes
        self.outcomes[job.id] = outcome


@pytest.fixture(scope="module")
def models():
    target = random_llama()
    return target, similar(target)


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture(params=[False, True], ids=["exact", "padded"])
def padding(request, monkeypatch):
    """Batches as on a CPU, and as on a GPU."""
    monkeypatch.setattr(Room, "pads", request.param)


@pytest.fixture
def serve(models, story) -> Iterator[Callable[..., Scheduler]]:
    """Makes started schedulers, which are closed in the end."""
    made: list[Scheduler] = []

    def start(pair: ModelPair | None = None, **limits: Any) -> Scheduler:
        scheduler = Scheduler(pair or ModelPair(*models), Limits(**limits), story)
        made.append(scheduler)
        scheduler.start()
        return scheduler

    yield start
    for scheduler in made:
        scheduler.close()
        assert scheduler.load.num_running == scheduler.load.slots_reserved == 0


def work(
    prompt: Sequence[int] = (1, 2, 3),
    method: Method | None = None,
    num_new: int = 12,
    seed: int = 0,
    **options: Any,
) -> Work:
    request = Request(list(prompt), SamplingParams(max_new_tokens=num_new, seed=seed))
    return Work(request, method or MTAD(), **options)


def send(scheduler: Scheduler, *works: Work) -> tuple[list[Job], list[Heard]]:
    heard = [Heard() for _ in works]
    return scheduler.submit(works, heard), heard


def texts_of(scheduler: Scheduler, *works: Work) -> list[list[int]]:
    return [one.token_ids for one in send(scheduler, *works)[1]]


class Gate:
    """Holds the scheduler's thread before an iteration until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        step = Session.step

        def held(session: Session) -> Any:
            self.reached.set()
            assert self.opened.wait(PATIENCE_S)
            return step(session)

        monkeypatch.setattr(Session, "step", held)


@pytest.fixture
def gate(monkeypatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


# ---------------------------------------------------------------- same seed, same text


@EVERY_METHOD
def test_a_text_depends_on_its_seed_alone(models, serve, method, padding):
    prompts = [*PROMPTS, [4, 4, 2] * 40, [9]]
    jobs = [work(p, method, 5 + 3 * i, seed=i) for i, p in enumerate(prompts)]
    expected = [
        token_ids(*models, method, [w.request.prompt_ids], w.request.sampling)[0] for w in jobs
    ]
    scheduler = serve()
    assert [texts_of(scheduler, one)[0] for one in jobs] == expected
    assert texts_of(scheduler, *jobs) == expected
    heard = [send(scheduler, one)[1][0] for one in reversed(jobs)]  # joining as it comes
    assert [one.token_ids for one in reversed(heard)] == expected


def test_methods_are_decoded_side_by_side(models, serve, story):
    kinds = [MTAD(), MTAD(accept_threshold=0.1), SpeculativeSampling(3), Autoregressive()]
    jobs = [work(PROMPTS[i % 3], kinds[i % 4], 20, seed=i) for i in range(12)]
    scheduler = serve()
    found = texts_of(scheduler, *jobs)
    for one, ids in zip(jobs, found, strict=True):
        alone = token_ids(*models, one.method, [one.request.prompt_ids], one.request.sampling)
        assert ids == alone[0]
    first = min(story.outcomes)
    batches = {frozenset((i - first) % 4 for i in ids) for ids in story.iterations}
    assert batches == {frozenset({kind}) for kind in range(4)}, "one batch per method"
    assert max(map(len, story.iterations)) == 3


# ---------------------------------------------------------------- order and room


def test_no_more_rows_than_allowed_and_nobody_is_passed(serve, story, gate):
    scheduler = serve(max_rows=2)
    jobs, heard = send(scheduler, *(work(seed=i, num_new=8) for i in range(7)))
    assert gate.reached.wait(PATIENCE_S)
    load = scheduler.load
    assert (load.num_running, load.num_waiting, load.num_batches) == (2, 5, 1)
    gate.opened.set()
    assert all(len(one.token_ids) == 8 for one in heard)
    assert story.admitted_ids == [job.id for job in jobs]
    assert max(map(len, story.iterations)) <= 2
    assert all(job.arrived_at <= job.admitted_at <= job.first_token_at for job in jobs)
    assert all(job.first_token_at <= job.last_token_at <= job.ended_at for job in jobs)


def test_who_needs_many_slots_waits_and_keeps_its_place(serve, story, gate):
    small = [work([1], Autoregressive(), 20, seed=i) for i in range(2)]
    large = work([1], Autoregressive(), 200)
    scheduler = serve(cache_slots=256)
    jobs, heard = send(scheduler, *small, large, work([1], Autoregressive(), 3))
    assert gate.reached.wait(PATIENCE_S)
    assert scheduler.load.num_running == 2 and scheduler.load.num_waiting == 2
    assert scheduler.load.slots_reserved == 2 * 64
    gate.opened.set()
    assert [len(one.token_ids) for one in heard] == [20, 20, 200, 3]
    assert story.admitted_ids == [job.id for job in jobs]
    assert [jobs[2].id, jobs[3].id] not in story.iterations, "together they need 512 slots"


def test_what_never_fits_is_refused(serve):
    scheduler = serve(cache_slots=128)
    with pytest.raises(CacheMemoryError, match="this server has 128: lower max_tokens"):
        scheduler.submit([work(num_new=10), work(num_new=200)], [Heard(), Heard()])
    assert scheduler.load.num_waiting == 0


def test_a_full_line_takes_all_or_nothing(serve, gate):
    scheduler = serve(max_rows=1, max_queue=3)
    _, first = send(scheduler, work())
    assert gate.reached.wait(PATIENCE_S)
    _, waiting = send(scheduler, work(), work())
    with pytest.raises(QueueFullError, match="2 texts wait already and 2 more") as caught:
        send(scheduler, work(), work())
    assert caught.value.retry_after_s >= 1
    assert scheduler.load.num_waiting == 2
    gate.opened.set()
    assert all(len(one.token_ids) == 12 for one in [*first, *waiting])


def test_those_who_come_back_stand_where_they_stood():
    line = Line(most=4, max_rows=2)
    one = work()
    seats = [Seat(Job(one, Heard()), Running.of(one.request, None)) for _ in range(4)]
    line.add(seats)
    line.take(lambda waiting: [[seats[1]], [seats[0], seats[2]]])
    line.put_back([seats[2]])
    line.put_back(seats[:2])
    assert line.drop(lambda seat: True) == seats


def test_the_time_to_try_again_follows_from_how_long_texts_took():
    line = Line(most=4, max_rows=2)
    one = work()
    seats = [Seat(Job(one, Heard()), Running.of(one.request, None)) for _ in range(5)]
    line.add(seats[:4])
    with pytest.raises(QueueFullError) as caught:
        line.add(seats[4:])
    assert caught.value.retry_after_s == 1.0, "nothing is known"
    line.take(lambda waiting: [seats[:1]])
    seats[0].job.admitted_at = time.monotonic() - 10
    assert line.end(seats[0]) and not line.end(seats[0])
    with pytest.raises(QueueFullError) as caught:
        line.add(seats[3:])
    assert caught.value.retry_after_s == pytest.approx(10 * 3 / 2, rel=0.1)


@pytest.mark.parametrize("seconds", [0.0, 1e6], ids=["short", "long"])
def test_a_turn_reads_for_as_long_as_it_iterates(serve, story, monkeypatch, seconds):
    step = Batch.step
    monkeypatch.setattr(mtad.model.lm, "PREFILL_TOKENS", {"cpu": 16})
    monkeypatch.setattr("mtad.server.scheduler.room.PREFILL_TOKENS", {"cpu": 16})
    monkeypatch.setattr(Batch, "step", lambda batch: (step(batch)[0], seconds))
    monkeypatch.setattr(Story, "iterated", lambda story, blocks, _: story.saw(blocks))
    scheduler = serve()
    jobs, heard = send(
        scheduler, work([1], Autoregressive(), 40), work([5] * 320, Autoregressive(), 4)
    )
    assert [len(one.token_ids) for one in heard] == [40, 4]
    alone = [ids for ids in story.iterations if ids == [jobs[0].id]]
    if seconds:
        assert len(alone) <= 40 - 4 + 1, "all of the prompt was read after the first iteration"
        assert len(story.iterations[1]) == 2
    else:
        assert len(alone) >= 320 // 16, "an iteration for the one after each chunk for the other"


# ---------------------------------------------------------------- ends


def test_a_cancelled_job_is_gone_within_an_iteration(serve, story, gate):
    scheduler = serve(max_rows=2)
    jobs, heard = send(scheduler, *(work(num_new=60, seed=i) for i in range(3)))
    assert gate.reached.wait(PATIENCE_S)
    scheduler.cancel(jobs[0])
    scheduler.cancel(jobs[0])
    gate.opened.set()
    assert len(heard[1].token_ids) == 60
    assert sum(jobs[0].id in ids for ids in story.iterations) == 1
    assert story.outcomes[jobs[0].id] == "cancelled"
    assert heard[0].updates == []
    assert len(heard[2].token_ids) == 60
    scheduler.cancel(jobs[2])  # too late, and no matter


def test_a_prompt_that_is_being_read_is_given_up_at_once(serve, story, monkeypatch):
    monkeypatch.setattr(mtad.model.lm, "PREFILL_TOKENS", {"cpu": 4})
    monkeypatch.setattr("mtad.server.scheduler.room.PREFILL_TOKENS", {"cpu": 4})
    begun, num_reads, read = threading.Event(), [], LM.read

    def held(lm: LM) -> bool:
        num_reads.append(lm.name)
        begun.set()
        assert cancelled.wait(PATIENCE_S)
        return read(lm)

    cancelled, scheduler = threading.Event(), serve(max_rows=1)
    monkeypatch.setattr(LM, "read", held)
    jobs, heard = send(scheduler, work([5] * 200), work(num_new=3))
    assert begun.wait(PATIENCE_S)
    scheduler.cancel(jobs[0])
    cancelled.set()
    assert len(heard[1].token_ids) == 3 and not heard[0].updates
    assert len(num_reads) == 4, "a chunk of each model for each of the two"
    assert story.outcomes[jobs[0].id] == "cancelled"


def test_a_cancelled_job_in_the_line_never_runs(serve, story, gate):
    scheduler = serve(max_rows=1)
    jobs, heard = send(scheduler, work(), work(seed=1), work(seed=2))
    assert gate.reached.wait(PATIENCE_S)
    scheduler.cancel(jobs[1])
    gate.opened.set()
    assert heard[2].token_ids and not heard[1].updates
    assert story.outcomes[jobs[1].id] == "cancelled" and jobs[1].id not in story.admitted_ids


def test_a_job_that_takes_too_long_fails(serve, gate):
    scheduler = serve(max_rows=1)
    jobs, heard = send(scheduler, work(num_new=60), work(timeout_s=0.01), work(seed=2, num_new=3))
    assert gate.reached.wait(PATIENCE_S)
    while time.monotonic() < jobs[1].deadline:
        time.sleep(0.01)
    gate.opened.set()
    assert isinstance(heard[1].error, DeadlineError)
    assert "longer than 0.01 s" in str(heard[1].error)
    assert len(heard[0].token_ids) == 60 and len(heard[2].token_ids) == 3


def test_a_running_job_that_takes_too_long_fails(serve, gate):
    scheduler = serve()
    jobs, heard = send(scheduler, work(num_new=60, timeout_s=0.5), work(num_new=30))
    assert gate.reached.wait(PATIENCE_S)
    while time.monotonic() < jobs[0].deadline:
        time.sleep(0.01)
    gate.opened.set()
    assert isinstance(heard[0].error, DeadlineError)
    assert len(heard[1].token_ids) == 30


def test_closing_lets_running_jobs_finish(serve, gate):
    scheduler = serve(max_rows=2)
    _, heard = send(scheduler, *(work(seed=i) for i in range(4)))
    assert gate.reached.wait(PATIENCE_S) and scheduler.load.is_ready
    closing = threading.Thread(target=scheduler.close, args=(PATIENCE_S,))
    closing.start()
    while scheduler.load.is_ready:
        time.sleep(0.01)
    assert scheduler.load.is_alive
    with pytest.raises(ClosingError):
        send(scheduler, work())
    gate.opened.set()
    closing.join(PATIENCE_S)
    assert all(len(one.token_ids) == 12 for one in heard)
    assert not scheduler.load.is_alive


def test_closing_without_patience_fails_all(serve, story, gate):
    scheduler = serve(max_rows=1)
    _, heard = send(scheduler, work(num_new=400), work())
    assert gate.reached.wait(PATIENCE_S)
    gate.opened.set()
    scheduler.close(0.0)
    assert all(isinstance(one.error, ClosingError) for one in heard)
    assert set(story.outcomes.values()) == {"closing"}


def test_closing_before_the_start_fails_what_waits(models):
    scheduler = Scheduler(ModelPair(*models))
    _, heard = send(scheduler, work())
    scheduler.close()
    assert isinstance(heard[0].error, ClosingError)


def test_nothing_to_do_is_done(serve, story):
    _, heard = send(serve(), work(num_new=0), work(num_new=2))
    assert [one.token_ids for one in heard] == [[], heard[1].token_ids]
    assert sorted(story.outcomes.values()) == ["length", "length"]


# ---------------------------------------------------------------- what fails


class Fuse(torch.nn.Module):
    """Embeddings that raise, or give NaN, where they meet a token."""

    def __init__(self, inner: torch.nn.Module, token: int, nan: bool) -> None:
        super().__init__()
        self.inner, self.token, self.nan, self.weight = inner, token, nan, inner.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        met = tokens == self.token
        if not self.nan and bool(met.any()):
            raise RuntimeError("CUDA error: a device-side assert\nand more")
        return self.inner(tokens).masked_fill(met[..., None], float("nan"))


def fused(models, nan: bool) -> ModelPair:
    """The pair with fuses, put in after the check that its models work."""
    target, draft = map(copy.deepcopy, models)
    pair = ModelPair(target, draft)
    for model in (target, draft):
        model.set_input_embeddings(Fuse(model.get_input_embeddings(), 30, nan))
    return pair


@pytest.mark.parametrize("nan", [True, False], ids=["nan", "raises"])
@pytest.mark.parametrize("method", [Autoregressive(), MTAD()], ids=label)
def test_an_error_in_one_row_does_not_fail_its_neighbours(
    models, serve, story, nan, method, padding
):
    never = {"suppress_tokens": (30,)}
    prompts = [[1, 2], [3, 30, 5], [6, 7, 8], [9], [10, 11]]
    params = [SamplingParams(max_new_tokens=25, seed=i, **never) for i in range(5)]
    expected = token_ids(*models, method, prompts, params)
    scheduler = serve(fused(models, nan))
    pairs = list(zip(prompts, params, strict=True))
    jobs, heard = [], []
    for group in (pairs[:1], pairs[1:4], pairs[4:]):
        sent = send(scheduler, *(Work(Request(t, p), method) for t, p in group))
        jobs, heard = jobs + sent[0], heard + sent[1]
    error = heard[1].error
    assert isinstance(error, NonFiniteLogitsError if nan else ModelFailedError)
    assert nan or str(error) == "the model failed: CUDA error: a device-side assert"
    sound = [0, 2, 3, 4]
    assert [heard[i].token_ids for i in sound] == [expected[i] for i in sound]
    assert story.outcomes[jobs[1].id] == "error"
    assert sorted(story.admitted_ids) == [job.id for job in jobs], "nobody is admitted twice"
    assert texts_of(scheduler, Work(Request(prompts[0], params[0]), method)) == [expected[0]]


def test_an_error_in_the_middle_loses_and_repeats_no_token(models, serve, monkeypatch):
    jobs = [work(PROMPTS[i], num_new=40, seed=i) for i in range(3)]
    expected = [
        token_ids(*models, MTAD(), [w.request.prompt_ids], w.request.sampling)[0] for w in jobs
    ]
    step, count = Session.step, iter(range(10**6))

    def failing(session: Session) -> Any:
        if next(count) == 4:
            raise RuntimeError("once")
        return step(session)

    monkeypatch.setattr(Session, "step", failing)
    assert texts_of(serve(), *jobs) == expected


def test_a_listener_that_fails_harms_nobody(serve, story, caplog):
    def failing(update: Update) -> None:
        raise KeyError("mine")

    scheduler, heard = serve(), Heard()
    jobs = scheduler.submit([work(), work(seed=1)], [failing, heard])
    assert len(heard.token_ids) == 12
    assert "a listener failed" in caplog.text
    assert texts_of(scheduler, work())
    assert story.outcomes[jobs[0].id] == "cancelled"


def test_a_mistake_in_the_scheduler_fails_all_and_shows(serve, monkeypatch, caplog):
    def broken(*args: Any) -> None:
        raise AssertionError("a bug")

    scheduler = serve()
    monkeypatch.setattr(scheduler, "_drop", broken)
    _, heard = send(scheduler, work())
    assert isinstance(heard[0].error, ModelFailedError)
    scheduler._thread.join(PATIENCE_S)
    assert not scheduler.load.is_alive and not scheduler.load.is_ready
    with pytest.raises(MtadError):
        send(scheduler, work())
    assert "a bug" in caplog.text


def test_a_turn_that_hangs_shows(serve, gate, monkeypatch):
    monkeypatch.setattr("mtad.server.scheduler.scheduler.STALL_S", 0.0)
    scheduler = serve()
    assert scheduler.load.is_alive
    send(scheduler, work())
    assert gate.reached.wait(PATIENCE_S)
    assert not scheduler.load.is_alive


def test_a_watch_that_fails_harms_nobody(serve, story, monkeypatch, caplog):
    def failing(*args: Any) -> None:
        raise OSError("the disk is full")

    for name in ("admitted", "iterated", "ended"):
        monkeypatch.setattr(story, name, failing)
    assert [len(ids) for ids in texts_of(serve(), work(), work(seed=1))] == [12, 12]
    assert caplog.text.count("OSError: the disk is full") == 1, "once is enough"


def test_jobs_between_line_and_batch_fail_with_the_scheduler(serve, monkeypatch):
    def broken(*args: Any) -> None:
        raise AssertionError("a bug")

    scheduler = serve()
    monkeypatch.setattr(scheduler, "_admit", broken)
    _, heard = send(scheduler, work(), work(seed=1, method=Autoregressive()))
    assert all(isinstance(one.error, ModelFailedError) for one in heard)


def test_an_error_while_jobs_leave_harms_no_other(serve, monkeypatch, gate):
    leave, count = Session.leave, iter(range(10**6))

    def failing(session: Session, indices: Any) -> None:
        if next(count) == 0:
            raise RuntimeError("out of memory")
        leave(session, indices)

    scheduler = serve()
    jobs, heard = send(scheduler, *(work(num_new=40, seed=i) for i in range(3)))
    assert gate.reached.wait(PATIENCE_S)
    monkeypatch.setattr(Session, "leave", failing)
    scheduler.cancel(jobs[1])
    gate.opened.set()
    assert [len(heard[i].token_ids) for i in (0, 2)] == [40, 40]
    assert not heard[1].updates


def test_a_text_that_cannot_be_told_fails_alone(models, serve, monkeypatch):
    piece = Batch._piece

    def failing(batch: Batch, seat: Any, *args: Any) -> Any:
        if seat.job.work.request.sampling.seed == 1:
            raise ValueError("no such character")
        return piece(batch, seat, *args)

    monkeypatch.setattr(Batch, "_piece", failing)
    jobs = [work(PROMPTS[i], num_new=20, seed=i) for i in range(3)]
    expected = [
        token_ids(*models, MTAD(), [w.request.prompt_ids], w.request.sampling)[0] for w in jobs
    ]
    scheduler = serve()
    _, heard = send(scheduler, *jobs)
    assert "no such character" in str(heard[1].error)
    assert [heard[0].token_ids, heard[2].token_ids] == [expected[0], expected[2]]


def test_who_lacks_memory_waits_and_is_admitted_once(models, serve, story, monkeypatch, gate):
    """Both where caches must grow and where a batch is new."""
    scheduler = serve()
    _, first = send(scheduler, work(num_new=40))
    assert gate.reached.wait(PATIENCE_S)

    def is_tight() -> bool:
        return len(first[0].updates) < 4

    grow, make = LM.reserve, SlotLayer.lazy_initialization

    def no_growth(lm: LM, num_rows: int, capacity: int) -> None:
        if is_tight() and lm.num_rows:
            raise CacheMemoryError("no room to grow")
        grow(lm, num_rows, capacity)

    def no_cache(layer: SlotLayer, *args: Any) -> None:
        if is_tight():
            raise CacheMemoryError("no room at all")
        make(layer, *args)

    monkeypatch.setattr(LM, "reserve", no_growth)
    monkeypatch.setattr(SlotLayer, "lazy_initialization", no_cache)
    jobs, heard = send(scheduler, work(seed=1), work(seed=2, method=Autoregressive()))
    gate.opened.set()
    assert [len(one.token_ids) for one in (*first, *heard)] == [40, 12, 12]
    assert sorted(story.admitted_ids)[1:] == [job.id for job in jobs], "each is admitted once"
    assert all(story.outcomes[job.id] == "length" for job in jobs)
    assert set(map(len, story.iterations)) == {1, 2}, "nobody was blamed"


def test_a_job_that_lacks_memory_alone_fails(serve, monkeypatch):
    def never(layer: SlotLayer, *args: Any) -> None:
        raise CacheMemoryError("no room at all")

    scheduler = serve()
    monkeypatch.setattr(SlotLayer, "lazy_initialization", never)
    _, heard = send(scheduler, work(), work(seed=1))
    assert all(isinstance(one.error, CacheMemoryError) for one in heard)


def test_a_device_that_is_lost_ends_it_all(serve, monkeypatch):
    def lost(*args: Any) -> Any:
        raise RuntimeError("CUDA error: unspecified launch failure")

    scheduler = serve()
    monkeypatch.setattr(Session, "step", lost)
    monkeypatch.setattr(scheduler, "_require_devices", lost)
    _, heard = send(scheduler, work(), work(seed=1))
    assert all("the server has failed" in str(one.error) for one in heard)
    scheduler._thread.join(PATIENCE_S)
    assert not scheduler.load.is_alive


def test_a_prompt_is_read_while_others_run_on_a_tape(models, serve, monkeypatch, caplog):
    monkeypatch.setattr(mtad.model.lm, "PREFILL_TOKENS", {"cpu": 16})
    monkeypatch.setattr("mtad.server.scheduler.room.PREFILL_TOKENS", {"cpu": 16})
    pair = ModelPair(*models)
    pair.graphs = Tapes(patience=1)
    scheduler = serve(pair)
    jobs = [work(num_new=200), work([5] * 300, num_new=4, seed=1)]
    expected = [
        token_ids(*models, MTAD(), [w.request.prompt_ids], w.request.sampling)[0] for w in jobs
    ]
    _, first = send(scheduler, jobs[0])
    while len(first[0].updates) < 10:
        time.sleep(0.001)
    assert [*texts_of(scheduler, jobs[1]), first[0].token_ids] == expected[::-1]
    assert not caplog.text, "no batch failed"


# ---------------------------------------------------------------- text


@pytest.fixture(scope="module")
def demo() -> ModelPair:
    return load_pair("demo", dtype="float32")


def test_texts_stops_and_probabilities(demo, serve):
    prompt = demo.tokenizer("CREATE TABLE t (a INT)\n").input_ids
    params = SamplingParams(max_new_tokens=40, seed=3)
    whole = demo.generate([prompt], MTAD(), max_new_tokens=40, seed=3, ignore_eos=True)[0]
    stop = whole.text[10:13]
    scheduler = serve(demo)
    plain = Work(Request(prompt, params), MTAD())
    cut = Work(Request(prompt, params), MTAD(), stops=(stop,))
    told = Work(Request(prompt, params), MTAD(), num_logprobs=2, traced=True)
    _, (a, b, c) = send(scheduler, plain, cut, told)
    assert a.token_ids == whole.token_ids == c.token_ids
    assert a.last.completion.text == whole.text
    assert b.token_ids and b.last.completion.text == whole.text[: whole.text.find(stop)]
    pieces = [u for u in c.updates if isinstance(u, Piece)]
    probs = [one for piece in pieces for one in piece.logprobs]
    assert [one.token for one in probs] == whole.token_ids
    assert all(one.logprob <= one.top[0][1] <= 0 and len(one.top) == 2 for one in probs)
    traced = [t["token"] for piece in pieces for t in piece.trace["tokens"]]
    assert traced == whole.token_ids
    assert not any(u.trace or u.logprobs for u in a.updates if isinstance(u, Piece))
    stats = a.last.completion.stats
    assert stats.num_output_tokens == 40 and stats.decode_s > 0 and stats.prefill_s > 0
    assert a.last.queue_s >= 0


def test_a_text_that_is_taken_up_again_ends_at_the_same_stop(demo, serve, monkeypatch):
    prompt = demo.tokenizer("def area(r):").input_ids
    whole = demo.generate([prompt], MTAD(), max_new_tokens=40, seed=5, ignore_eos=True)[0]
    stop = whole.text[20:24]
    step, count = Session.step, iter(range(10**6))

    def failing(session: Session) -> Any:
        if next(count) in (1, 3):
            raise RuntimeError("now and then")
        return step(session)

    monkeypatch.setattr(Session, "step", failing)
    params = SamplingParams(max_new_tokens=40, seed=5)
    jobs = [Work(Request(prompt, params), MTAD(), stops=(stop,)) for _ in range(4)]
    _, heard = send(serve(demo), *jobs)
    found = [one.last for one in heard]
    assert sum(isinstance(one, Failed) for one in found) <= 1, "alone, one of them met the second"
    for one in heard:
        if isinstance(one.last, Done):
            assert one.token_ids
            assert one.last.completion.text == whole.text[: whole.text.find(stop)]
            assert one.last.completion.finish_reason == "stop"
