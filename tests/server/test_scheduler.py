"""The scheduler: many texts at once, each as if it were alone, whatever its neighbours do."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.heads import random_head
from support.serving import load_demo
from support.tiny import PROMPTS, complete, similar, some_variants, suited, token_ids
from support.two_drafts import renumbered

import mtad.model.lm
from mtad.api.completion import with_text
from mtad.api.pair import ModelPair
from mtad.engine.request import Request
from mtad.engine.session import Session
from mtad.errors import CacheMemoryError, MtadError, NonFiniteLogitsError
from mtad.methods.autoregressive import Autoregressive
from mtad.methods.margin import Margin
from mtad.methods.mtad import MTAD
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.kv_cache import SlotLayer
from mtad.model.lm import LM
from mtad.model.tokenizer import TextStream
from mtad.runtime.cpu_tapes import Tapes
from mtad.sampling.params import SamplingParams
from mtad.server.scheduler import admission
from mtad.server.scheduler import batch as batches
from mtad.server.scheduler.admission import Admission, Limits
from mtad.server.scheduler.batch import Batch
from mtad.server.scheduler.errors import (
    ClosingError,
    DeadlineError,
    ModelFailedError,
    QueueFullError,
)
from mtad.server.scheduler.queue import WaitingQueue
from mtad.server.scheduler.scheduler import STALL_S, Scheduler
from mtad.server.scheduler.sequence import Chunk, Sequence
from mtad.speculative.method import Method
from mtad.testing import random_llama

PATIENCE_S = 120.0
SMALL = MTAD(num_draft_tokens=2, beam_width=2)
TEXTS = pytest.mark.parametrize(
    ("method", "padding"),
    [
        pytest.param(*one.values, padded, id=f"{one.id}-{name}", marks=marks)
        for one in some_variants(fast=("mcss", "mmtad", "mtad"))
        for padded, name in ((False, "exact"), (True, "padded"))
        for marks in [one.marks if one.values[0].name == "mtad" or not padded else pytest.mark.slow]
    ],
    indirect=["padding"],
)
"""Every method in batches as on a CPU, and as on a GPU; of these, MTAD alone by default."""


class Received:
    """A sink that keeps its chunks."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.is_over = threading.Event()

    def __call__(self, chunk: Chunk) -> None:
        assert not self.is_over.is_set(), "a chunk after the last one"
        self.chunks.append(chunk)
        if chunk.is_last:
            self.is_over.set()

    @property
    def last(self) -> Chunk:
        assert self.is_over.wait(PATIENCE_S), "the text never ended"
        return self.chunks[-1]

    @property
    def text(self) -> str:
        """The whole text, and proof that the chunks add up to it."""
        stream, whole = self.last.sequence.detokenizer, Chunk.joined(self.chunks)
        assert whole.text == (stream.text if stream else "")
        return whole.text or ""

    @property
    def token_ids(self) -> list[int]:
        """All tokens, and proof that the sequence has the same."""
        assert self.last.error is None, self.last
        ids = list(Chunk.joined(self.chunks).token_ids)
        assert ids == self.last.sequence.token_ids
        assert self.text is not None
        return ids

    @property
    def error(self) -> Exception:
        assert self.last.error is not None
        return self.last.error


class Story:
    """An observer that keeps what it sees."""

    def __init__(self) -> None:
        self.admitted_ids: list[int] = []
        self.iterations: list[list[int]] = []
        self.outcomes: dict[int, str | None] = {}
        self.num_tokens: defaultdict[int, int] = defaultdict(int)

    def admitted(self, sequence: Sequence) -> None:
        self.admitted_ids.append(sequence.id)

    def decoded(self, chunks: Any, seconds: float) -> None:
        assert seconds > 0
        self.saw(chunks)

    def saw(self, chunks: Any) -> None:
        self.iterations.append([chunk.sequence.id for chunk in chunks])
        for chunk in chunks:
            self.num_tokens[chunk.sequence.id] += len(chunk.token_ids)

    def ended(self, sequence: Sequence) -> None:
        assert sequence.ended_at is not None and sequence.id not in self.outcomes
        self.outcomes[sequence.id] = sequence.outcome


class Clock:
    """Real time, and what is added to it."""

    def __init__(self) -> None:
        self.added = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.added


@pytest.fixture(scope="module")
def models():
    target = random_llama()
    return target, similar(target)


def unrecorded(pair: ModelPair) -> ModelPair:
    """The pair without tapes: recording one takes longer than all of a test's texts."""
    pair.graphs = None
    return pair


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture(params=[False, True], ids=["exact", "padded"])
def padding(request, monkeypatch) -> bool:
    """Batches as on a CPU, and as on a GPU."""
    for module in (batches, admission):
        monkeypatch.setattr(module, "pads_batches", lambda pair: request.param)
    return request.param


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def serve(models, story, clock) -> Iterator[Callable[..., Scheduler]]:
    """Makes started schedulers, which are closed in the end."""
    made: list[Scheduler] = []

    def start(pair: ModelPair | None = None, **limits: Any) -> Scheduler:
        pair = pair or unrecorded(ModelPair(*models))
        scheduler = Scheduler(pair, Limits(**limits), (story,), clock=clock)
        made.append(scheduler)
        scheduler.start()
        return scheduler

    yield start
    for scheduler in made:
        scheduler.close()
        assert scheduler.load.num_running == scheduler.load.slots_reserved == 0


def work(
    prompt: Items[int] = (1, 2, 3),
    method: Method | None = None,
    num_new: int = 12,
    seed: int = 0,
    tokenizer: Any = None,
    stops: Items[str] = (),
    **options: Any,
) -> Sequence:
    params = SamplingParams(max_new_tokens=num_new, seed=seed, **options.pop("sampling", {}))
    method = method or SMALL
    request = with_text(Request(list(prompt), suited(method, params)), tokenizer, stops)
    return Sequence(*request, method=method, **options)


def again(sequence: Sequence) -> Sequence:
    """The same text once more."""
    request = replace(sequence.request, output_ids=(), receipt={})
    return Sequence(request, method=sequence.method)


def send(scheduler: Scheduler, *sequences: Sequence) -> tuple[list[Sequence], list[Received]]:
    received = [Received() for _ in sequences]
    for sequence, one in zip(sequences, received, strict=True):
        sequence.sink = one
    scheduler.submit(sequences)
    return list(sequences), received


def texts_of(scheduler: Scheduler, *sequences: Sequence) -> list[list[int]]:
    return [one.token_ids for one in send(scheduler, *map(again, sequences))[1]]


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


@pytest.mark.slow
@TEXTS
def test_a_text_depends_on_its_seed_alone(models, serve, method, padding):
    prompts = [*PROMPTS, [4, 4, 2] * 40, [9]]
    texts = [work(p, method, 5 + 3 * i, seed=i) for i, p in enumerate(prompts)]
    expected = [
        token_ids(*models, method, [w.request.prompt_ids], w.request.sampling)[0] for w in texts
    ]
    is_recorded = padding or method.name == "mtad"
    scheduler = serve(ModelPair(*models) if is_recorded else None)
    assert [texts_of(scheduler, one)[0] for one in texts] == expected
    assert texts_of(scheduler, *texts) == expected
    received = [send(scheduler, again(one))[1][0] for one in reversed(texts)]  # joining as it comes
    assert [one.token_ids for one in reversed(received)] == expected


@pytest.mark.slow
def test_methods_are_decoded_side_by_side(models, serve, story):
    kinds = [SMALL, MTAD(accept_threshold=0.1), SpeculativeSampling(3), Autoregressive()]
    texts = [work(PROMPTS[i % 3], kinds[i % 4], 10, seed=i) for i in range(12)]
    scheduler = serve()
    found = texts_of(scheduler, *texts)
    for one, ids in zip(texts, found, strict=True):
        alone = token_ids(*models, one.method, [one.request.prompt_ids], one.request.sampling)
        assert ids == alone[0]
    first = min(story.outcomes)
    batches = {frozenset((i - first) % 4 for i in ids) for ids in story.iterations}
    assert batches == {frozenset({kind}) for kind in range(4)}, "one batch per method"
    assert max(map(len, story.iterations)) == 3


# ---------------------------------------------------------------- order and capacity


def test_no_more_rows_than_allowed_and_none_is_passed(serve, story, gate):
    scheduler = serve(max_rows=2)
    texts, received = send(scheduler, *(work(seed=i, num_new=8) for i in range(7)))
    assert gate.reached.wait(PATIENCE_S)
    load = scheduler.load
    assert (load.num_running, load.num_waiting, load.num_batches) == (2, 5, 1)
    gate.opened.set()
    assert all(len(one.token_ids) == 8 for one in received)
    assert story.admitted_ids == [text.id for text in texts]
    assert max(map(len, story.iterations)) <= 2
    assert all(text.arrived_at <= text.admitted_at <= text.first_token_at for text in texts)
    assert all(text.first_token_at <= text.last_token_at <= text.ended_at for text in texts)


@pytest.mark.slow
def test_a_text_that_needs_many_slots_waits_and_keeps_its_place(serve, story, gate):
    small = [work([1], Autoregressive(), 20, seed=i) for i in range(2)]
    large = work([1], Autoregressive(), 200)
    scheduler = serve(cache_slots=256)
    texts, received = send(scheduler, *small, large, work([1], Autoregressive(), 3))
    assert gate.reached.wait(PATIENCE_S)
    assert scheduler.load.num_running == 2 and scheduler.load.num_waiting == 2
    assert scheduler.load.slots_reserved == 2 * 64
    gate.opened.set()
    assert [len(one.token_ids) for one in received] == [20, 20, 200, 3]
    assert story.admitted_ids == [text.id for text in texts]
    assert [texts[2].id, texts[3].id] not in story.iterations, "together they need 512 slots"


def test_what_never_fits_is_refused(serve):
    scheduler = serve(cache_slots=128)
    with pytest.raises(CacheMemoryError, match="this server has 128: lower max_tokens"):
        scheduler.submit([work(num_new=10), work(num_new=200)])
    assert scheduler.load.num_waiting == 0


@pytest.mark.slow
def test_a_full_queue_takes_all_or_nothing(serve, gate):
    scheduler = serve(max_rows=1, max_queue=3)
    _, first = send(scheduler, work())
    assert gate.reached.wait(PATIENCE_S)
    _, waiting = send(scheduler, work(), work())
    with pytest.raises(QueueFullError, match="3 texts are decoded or wait and 2 more") as caught:
        send(scheduler, work(), work())
    assert caught.value.retry_after_s >= 1
    assert scheduler.load.num_waiting == 2
    gate.opened.set()
    assert all(len(one.token_ids) == 12 for one in [*first, *waiting])


@pytest.mark.parametrize(
    ("sizes", "max_rows", "max_queue", "taken"),
    [
        ([1] * 14, 2, 4, 6),
        ([1] * 14, 1, 1, 2),
        ([3] * 4, 2, 4, 6),
        ([7, 6, 1], 2, 4, 6),
        ([4, 4, 1, 1], 3, 3, 6),
    ],
)
def test_a_burst_on_an_idle_server_fills_rows_and_queue(
    serve, gate, sizes, max_rows, max_queue, taken
):
    """However far the scheduler has come meanwhile; what was taken is decoded."""
    scheduler, received = serve(max_rows=max_rows, max_queue=max_queue), []
    for size in sizes:
        with contextlib.suppress(QueueFullError):
            received += send(scheduler, *(work() for _ in range(size)))[1]
    assert len(received) == taken
    gate.opened.set()
    assert all(len(one.token_ids) == 12 for one in received)
    assert len(send(scheduler, *(work() for _ in range(taken)))[1]) == taken, "the same again"


def test_texts_that_are_put_back_keep_their_place():
    queue, sequences = WaitingQueue(max_waiting=4, max_rows=2), [work() for _ in range(4)]
    queue.add(sequences)
    queue.receive()
    queue.take([sequences[i] for i in (1, 0, 2)])
    assert (queue.waiting, len(queue)) == ([sequences[3]], 1)
    queue.put_back([sequences[2]])
    queue.put_back(sequences[:2])
    assert queue.waiting == sequences
    assert len(queue) == 4


def test_the_time_to_try_again_follows_from_how_long_texts_took(clock):
    queue, sequences = WaitingQueue(2, 2, clock), [work() for _ in range(5)]
    queue.add(sequences[:4])
    with pytest.raises(QueueFullError) as caught:
        queue.add(sequences[4:])
    assert caught.value.retry_after_s == 1.0, "nothing is known"
    queue.receive()
    queue.take(sequences[:1])
    sequences[0].admitted_at = clock() - 10
    assert queue.end(sequences[0]) and not queue.end(sequences[0])
    with pytest.raises(QueueFullError) as caught:
        queue.add(sequences[3:])
    assert caught.value.retry_after_s == pytest.approx(10 * 3 / 2, rel=0.1)


@pytest.mark.parametrize("seconds", [0.0, 1e6], ids=["short", "long"])
def test_a_step_prefills_for_as_long_as_it_decodes(serve, story, monkeypatch, seconds):
    decode = Batch.decode
    monkeypatch.setattr(mtad.model.lm, "PREFILL_TOKENS", {"cpu": 16})
    monkeypatch.setattr("mtad.server.scheduler.admission.PREFILL_TOKENS", {"cpu": 16})
    monkeypatch.setattr(Batch, "decode", lambda batch, clock: (decode(batch, clock)[0], seconds))
    monkeypatch.setattr(Story, "decoded", lambda story, chunks, _: story.saw(chunks))
    scheduler = serve()
    texts, received = send(
        scheduler, work([1], Autoregressive(), 40), work([5] * 320, Autoregressive(), 4)
    )
    assert [len(one.token_ids) for one in received] == [40, 4]
    alone = [ids for ids in story.iterations if ids == [texts[0].id]]
    if seconds:
        assert len(alone) <= 40 - 4 + 1, "the whole prefill came after the first iteration"
        assert len(story.iterations[1]) == 2
    else:
        assert len(alone) >= 320 // 16, "an iteration for the one after each chunk for the other"


# ---------------------------------------------------------------- ends


def test_a_cancelled_text_is_gone_within_an_iteration(serve, story, gate):
    scheduler = serve(max_rows=2)
    texts, received = send(scheduler, *(work(num_new=60, seed=i) for i in range(3)))
    assert gate.reached.wait(PATIENCE_S)
    scheduler.cancel(texts[0])
    scheduler.cancel(texts[0])
    gate.opened.set()
    assert len(received[1].token_ids) == 60
    assert sum(texts[0].id in ids for ids in story.iterations) == 1
    assert story.outcomes[texts[0].id] == "cancelled"
    assert received[0].chunks == []
    assert len(received[2].token_ids) == 60
    scheduler.cancel(texts[2])  # too late, and no matter


def test_a_prefill_is_given_up_at_once(serve, story, monkeypatch):
    monkeypatch.setattr(mtad.model.lm, "PREFILL_TOKENS", {"cpu": 4})
    monkeypatch.setattr("mtad.server.scheduler.admission.PREFILL_TOKENS", {"cpu": 4})
    begun, num_reads, read = threading.Event(), [], LM.prefill_chunk

    def held(lm: LM) -> bool:
        num_reads.append(lm.name)
        begun.set()
        assert cancelled.wait(PATIENCE_S)
        return read(lm)

    cancelled, scheduler = threading.Event(), serve(max_rows=1)
    monkeypatch.setattr(LM, "prefill_chunk", held)
    texts, received = send(scheduler, work([5] * 200), work(num_new=3))
    assert begun.wait(PATIENCE_S)
    scheduler.cancel(texts[0])
    cancelled.set()
    assert len(received[1].token_ids) == 3 and not received[0].chunks
    assert len(num_reads) == 4, "a chunk of each model for each of the two"
    assert story.outcomes[texts[0].id] == "cancelled"


def test_a_cancelled_text_in_the_queue_never_runs(serve, story, gate):
    scheduler = serve(max_rows=1)
    texts, received = send(scheduler, work(), work(seed=1), work(seed=2))
    assert gate.reached.wait(PATIENCE_S)
    scheduler.cancel(texts[1])
    gate.opened.set()
    assert received[2].token_ids and not received[1].chunks
    assert story.outcomes[texts[1].id] == "cancelled" and texts[1].id not in story.admitted_ids


def test_a_text_that_waits_too_long_fails(serve, gate, clock):
    scheduler = serve(max_rows=1)
    texts = work(num_new=60), work(timeout_s=1000.0), work(seed=2, num_new=3)
    _, received = send(scheduler, *texts)
    assert gate.reached.wait(PATIENCE_S)
    clock.added = 1000.0
    gate.opened.set()
    assert isinstance(received[1].error, DeadlineError)
    assert "longer than 1000.0 s" in str(received[1].error)
    assert len(received[0].token_ids) == 60 and len(received[2].token_ids) == 3


def test_a_running_text_that_takes_too_long_fails(serve, gate, clock):
    scheduler = serve()
    _, received = send(scheduler, work(num_new=60, timeout_s=1000.0), work(num_new=30))
    assert gate.reached.wait(PATIENCE_S)
    clock.added = 1000.0
    gate.opened.set()
    assert isinstance(received[0].error, DeadlineError)
    assert len(received[1].token_ids) == 30


def test_closing_lets_running_texts_finish(serve, gate, monkeypatch):
    scheduler = serve(max_rows=2)
    _, received = send(scheduler, *(work(seed=i) for i in range(4)))
    assert gate.reached.wait(PATIENCE_S) and scheduler.load.is_ready
    closed, close = threading.Event(), WaitingQueue.close

    def noted(queue: WaitingQueue, drain_s: float = 0.0) -> None:
        close(queue, drain_s)
        closed.set()

    monkeypatch.setattr(WaitingQueue, "close", noted)
    closing = threading.Thread(target=scheduler.close, args=(PATIENCE_S,))
    closing.start()
    assert closed.wait(PATIENCE_S)
    assert scheduler.load.is_alive and not scheduler.load.is_ready
    with pytest.raises(ClosingError):
        send(scheduler, work())
    gate.opened.set()
    closing.join(PATIENCE_S)
    assert all(len(one.token_ids) == 12 for one in received)
    assert not scheduler.load.is_alive


def test_closing_without_patience_fails_all(serve, story, gate):
    scheduler = serve(max_rows=1)
    _, received = send(scheduler, work(num_new=400), work())
    assert gate.reached.wait(PATIENCE_S)
    gate.opened.set()
    scheduler.close(0.0)
    assert all(isinstance(one.error, ClosingError) for one in received)
    assert set(story.outcomes.values()) == {"closing"}


def test_closing_before_the_start_fails_what_waits(models):
    scheduler = Scheduler(ModelPair(*models))
    _, received = send(scheduler, work())
    scheduler.close()
    assert isinstance(received[0].error, ClosingError)


def test_nothing_to_do_is_done(serve, story):
    _, received = send(serve(), work(num_new=0), work(num_new=2))
    assert [one.token_ids for one in received] == [[], received[1].token_ids]
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
@pytest.mark.parametrize(
    ("method", "padding"),
    [
        pytest.param(Autoregressive(), False, id="autoregressive-exact"),
        pytest.param(Autoregressive(), True, id="autoregressive-padded", marks=pytest.mark.slow),
        pytest.param(SMALL, False, id="mtad-exact"),
        pytest.param(SMALL, True, id="mtad-padded"),
    ],
    indirect=["padding"],
)
def test_an_error_in_one_row_does_not_fail_its_neighbours(
    models, serve, story, nan, method, padding
):
    never = {"suppress_tokens": (30,)}
    prompts = [[1, 2], [3, 30, 5], [6, 7, 8], [9], [10, 11]]
    params = [SamplingParams(max_new_tokens=15, seed=i, **never) for i in range(5)]

    def text(i: int) -> Sequence:
        return Sequence(Request(prompts[i], params[i]), method=method)

    expected = token_ids(*models, method, prompts, params)
    pair = fused(models, nan)
    scheduler = serve(pair if padding else unrecorded(pair))
    texts, received = [], []
    for group in ([0], [1, 2, 3], [4]):
        sent = send(scheduler, *map(text, group))
        texts, received = texts + sent[0], received + sent[1]
    error = received[1].error
    assert isinstance(error, NonFiniteLogitsError if nan else ModelFailedError)
    assert nan or str(error) == "the model failed: CUDA error: a device-side assert"
    sound = [0, 2, 3, 4]
    assert [received[i].token_ids for i in sound] == [expected[i] for i in sound]
    assert story.outcomes[texts[1].id] == "error"
    assert sorted(story.admitted_ids) == [text.id for text in texts], "none is admitted twice"
    assert texts_of(scheduler, text(0)) == [expected[0]]


@pytest.mark.slow
def test_an_error_in_the_middle_loses_and_repeats_no_token(models, serve, monkeypatch):
    texts = [work(PROMPTS[i], num_new=24, seed=i) for i in range(3)]
    expected = [
        token_ids(*models, SMALL, [w.request.prompt_ids], w.request.sampling)[0] for w in texts
    ]
    step, count = Session.step, iter(range(10**6))

    def failing(session: Session) -> Any:
        if next(count) == 4:
            raise RuntimeError("once")
        return step(session)

    monkeypatch.setattr(Session, "step", failing)
    assert texts_of(serve(), *texts) == expected


@pytest.mark.slow
def test_a_text_that_is_resumed_has_spent_what_it_had_spent(models, serve, monkeypatch):
    method = Margin(num_draft_tokens=2, max_gap=9.0, max_rank=60, regret_budget=3.0)
    texts = [work(PROMPTS[i], method, num_new=24, sampling={"temperature": 0.0}) for i in range(3)]
    prompts, params = [w.request.prompt_ids for w in texts], [w.request.sampling for w in texts]
    expected = complete(*models, method, prompts, params)
    step, count = Session.step, iter(range(10**6))

    def failing(session: Session) -> Any:
        if next(count) == 4:
            raise RuntimeError("once")
        return step(session)

    monkeypatch.setattr(Session, "step", failing)
    _, received = send(serve(), *texts)
    assert [one.token_ids for one in received] == [text.token_ids for text in expected]
    spent = [one.last.sequence.stats.receipt for one in received]
    for one, text in zip(spent, expected, strict=True):
        assert one == pytest.approx(text.blocks[-1].receipt, abs=1e-4)
        assert 1.5 < one["regret"] < 3.0


def test_a_sink_that_fails_harms_no_other_text(serve, story, caplog):
    def failing(chunk: Chunk) -> None:
        raise KeyError("mine")

    scheduler, received = serve(), Received()
    texts = [work(sink=failing), work(seed=1, sink=received)]
    scheduler.submit(texts)
    assert len(received.token_ids) == 12
    assert "a sink failed" in caplog.text
    assert texts_of(scheduler, work())
    assert story.outcomes[texts[0].id] == "cancelled"


def test_a_mistake_in_the_scheduler_fails_all_and_shows(serve, monkeypatch, caplog):
    def broken(*args: Any) -> None:
        raise AssertionError("a bug")

    scheduler = serve()
    monkeypatch.setattr(scheduler, "_drop", broken)
    _, received = send(scheduler, work())
    assert isinstance(received[0].error, ModelFailedError)
    scheduler._thread.join(PATIENCE_S)
    assert not scheduler.load.is_alive and not scheduler.load.is_ready
    with pytest.raises(MtadError):
        send(scheduler, work())
    assert "a bug" in caplog.text


def test_a_step_that_hangs_shows(serve, gate, clock):
    scheduler = serve()
    assert scheduler.load.is_alive
    send(scheduler, work())
    assert gate.reached.wait(PATIENCE_S)
    assert scheduler.load.is_alive
    clock.added = STALL_S
    assert not scheduler.load.is_alive


def test_an_observer_that_fails_harms_no_text(serve, story, monkeypatch, caplog):
    def failing(*args: Any) -> None:
        raise OSError("the disk is full")

    for name in ("admitted", "decoded", "ended"):
        monkeypatch.setattr(story, name, failing)
    assert [len(ids) for ids in texts_of(serve(), work(), work(seed=1))] == [12, 12]
    assert caplog.text.count("OSError: the disk is full") == 1, "once is enough"


def test_sequences_between_queue_and_batch_fail_with_the_scheduler(serve, monkeypatch):
    def broken(*args: Any) -> None:
        raise AssertionError("a bug")

    scheduler = serve()
    monkeypatch.setattr(scheduler, "_join", broken)
    _, received = send(scheduler, work(), work(seed=1, method=Autoregressive()))
    assert all(isinstance(one.error, ModelFailedError) for one in received)


@pytest.mark.slow
def test_an_error_while_texts_leave_harms_no_other(serve, monkeypatch, gate):
    leave, count = Session.leave, iter(range(10**6))

    def failing(session: Session, indices: Any) -> None:
        if next(count) == 0:
            raise RuntimeError("out of memory")
        leave(session, indices)

    scheduler = serve()
    texts, received = send(scheduler, *(work(num_new=40, seed=i) for i in range(3)))
    assert gate.reached.wait(PATIENCE_S)
    monkeypatch.setattr(Session, "leave", failing)
    scheduler.cancel(texts[1])
    gate.opened.set()
    assert [len(received[i].token_ids) for i in (0, 2)] == [40, 40]
    assert not received[1].chunks


@pytest.mark.slow
@pytest.mark.parametrize("num_new", [1, 20], ids=["at its end", "before"])
@pytest.mark.parametrize("stops", [(), ("no such text",)], ids=["publisher", "scheduler"])
def test_a_text_that_cannot_be_sent_fails_alone(demo, serve, story, monkeypatch, num_new, stops):
    detokenize = Sequence.detokenize

    def failing(sequence: Sequence, block: Any) -> str:
        if sequence.request.sampling.seed == 1:
            raise ValueError("no such character")
        return detokenize(sequence, block)

    monkeypatch.setattr(Sequence, "detokenize", failing)
    prompt = demo.tokenizer("def area(r):").input_ids
    options: Any = {"tokenizer": demo.tokenizer, "stops": stops, "method": MTAD(num_draft_tokens=1)}
    texts = [work(prompt, num_new=num_new if i == 1 else 20, seed=i, **options) for i in range(3)]
    _, received = send(serve(demo), *texts)
    assert "no such character" in str(received[1].error)
    assert [len(received[i].token_ids) for i in (0, 2)] == [20, 20]
    assert story.outcomes[texts[1].id] == "error"
    assert len(received[1].chunks) == 1


@pytest.mark.slow
def test_texts_that_lack_memory_wait_and_are_admitted_once(models, serve, story, monkeypatch, gate):
    """Both where caches must grow and where a batch is new."""
    scheduler = serve()
    _, first = send(scheduler, work(num_new=40))
    assert gate.reached.wait(PATIENCE_S)

    def is_tight() -> bool:
        return len(first[0].chunks) < 4

    grow, make = LM.resized, SlotLayer.lazy_initialization

    def no_growth(lm: LM, num_rows: int, capacity: int) -> Any:
        if is_tight() and lm.num_rows:
            raise CacheMemoryError("no room to grow")
        return grow(lm, num_rows, capacity)

    def no_cache(layer: SlotLayer, *args: Any) -> None:
        if is_tight():
            raise CacheMemoryError("no room at all")
        make(layer, *args)

    monkeypatch.setattr(LM, "resized", no_growth)
    monkeypatch.setattr(SlotLayer, "lazy_initialization", no_cache)
    texts, received = send(scheduler, work(seed=1), work(seed=2, method=Autoregressive()))
    gate.opened.set()
    assert [len(one.token_ids) for one in (*first, *received)] == [40, 12, 12]
    assert sorted(story.admitted_ids)[1:] == [text.id for text in texts], "each is admitted once"
    assert all(story.outcomes[text.id] == "length" for text in texts)
    assert set(map(len, story.iterations)) == {1, 2}, "no text was blamed"


def test_a_text_that_lacks_memory_alone_fails(serve, monkeypatch):
    def never(layer: SlotLayer, *args: Any) -> None:
        raise CacheMemoryError("no room at all")

    scheduler = serve()
    monkeypatch.setattr(SlotLayer, "lazy_initialization", never)
    _, received = send(scheduler, work(), work(seed=1))
    assert all(isinstance(one.error, CacheMemoryError) for one in received)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["head", "translated"])
def test_texts_of_other_drafts_join_and_are_preempted(models, serve, monkeypatch, kind):
    """What a draft knows of a text goes with it, and is made anew where the text resumes."""
    target, method = models[0], SpeculativeSampling(2)
    draft = random_head(target, 40) if kind == "head" else renumbered(models[1])
    texts = [work(p, method, 12 + 9 * i, seed=i) for i, p in enumerate(PROMPTS)]
    expected = [
        token_ids(target, draft, method, [w.request.prompt_ids], w.request.sampling)[0]
        for w in texts
    ]
    scheduler, step = serve(unrecorded(ModelPair(target, draft))), Session.step
    sizes: list[int] = []

    def failing(session: Session) -> Any:
        sizes.append(len(session.rows))
        if sizes.count(3) == 3:
            sizes.append(3)
            raise RuntimeError("the batch fails once, while all three are in it")
        return step(session)

    monkeypatch.setattr(Session, "step", failing)
    received = [send(scheduler, again(one))[1][0] for one in texts]  # joining as it comes
    assert [one.token_ids for one in received] == expected
    assert sizes.count(3) >= 3
    assert [one.last.sequence.is_alone for one in received] == [True] * 3


def test_a_device_that_is_lost_ends_it_all(serve, monkeypatch):
    def lost(*args: Any) -> Any:
        raise RuntimeError("CUDA error: unspecified launch failure")

    scheduler = serve()
    monkeypatch.setattr(Session, "step", lost)
    monkeypatch.setattr("mtad.server.scheduler.scheduler.require_devices", lost)
    _, received = send(scheduler, work(), work(seed=1))
    assert all("the server has failed" in str(one.error) for one in received)
    scheduler._thread.join(PATIENCE_S)
    assert not scheduler.load.is_alive


@pytest.mark.slow
def test_prefill_while_others_run_on_a_tape(models, serve, monkeypatch, caplog):
    monkeypatch.setattr(mtad.model.lm, "PREFILL_TOKENS", {"cpu": 16})
    monkeypatch.setattr("mtad.server.scheduler.admission.PREFILL_TOKENS", {"cpu": 16})
    pair, method = ModelPair(*models), SpeculativeSampling(2)
    pair.graphs = Tapes(patience=1)
    scheduler = serve(pair)
    texts = [work(method=method, num_new=80), work([5] * 120, method, 4, seed=1)]
    expected = [
        token_ids(*models, method, [w.request.prompt_ids], w.request.sampling)[0] for w in texts
    ]
    first, is_recorded = Received(), threading.Event()

    def sink(chunk: Chunk) -> None:
        first(chunk)
        if len(first.chunks) == 10:
            is_recorded.set()

    texts[0].sink = sink
    scheduler.submit(texts[:1])
    assert is_recorded.wait(PATIENCE_S)
    assert [*texts_of(scheduler, texts[1]), first.token_ids] == expected[::-1]
    assert not caplog.text, "no batch failed"


# ---------------------------------------------------------------- text


@pytest.fixture(scope="module")
def demo() -> ModelPair:
    return load_demo()


@pytest.mark.slow
def test_texts_stops_and_probabilities(demo, serve):
    prompt = demo.tokenizer("CREATE TABLE t (a INT)\n").input_ids
    whole = demo.generate([prompt], SMALL, max_new_tokens=20, seed=3, ignore_eos=True)[0]
    stop = whole.text[10:13]
    same: Any = {"num_new": 20, "seed": 3, "tokenizer": demo.tokenizer}
    plain, cut = work(prompt, **same), work(prompt, stops=(stop,), **same)
    detailed = work(prompt, num_logprobs=2, traced=True, **same)
    _, (a, b, c) = send(serve(demo), plain, cut, detailed)
    assert a.token_ids == whole.token_ids == c.token_ids
    assert a.text == c.text == whole.text
    assert b.token_ids and b.text == whole.text[: whole.text.find(stop)]
    probs = [one for chunk in c.chunks for one in chunk.logprobs]
    assert [one.token for one in probs] == whole.token_ids
    assert all(one.logprob <= one.top[0][1] <= 0 and len(one.top) == 2 for one in probs)
    traced = [t["token"] for chunk in c.chunks for one in chunk.trace for t in one["tokens"]]
    assert traced == whole.token_ids
    assert not any(chunk.trace or chunk.logprobs for chunk in a.chunks)
    stats = plain.stats
    assert stats.num_output_tokens == 20 and stats.decode_s > 0 and stats.prefill_s > 0
    assert plain.queue_s >= 0


@pytest.mark.slow
def test_a_text_without_stop_strings_is_not_detokenized_between_iterations(
    demo, serve, monkeypatch
):
    threads: defaultdict[str, set[str]] = defaultdict(set)
    extend = TextStream.extend

    def noted(stream: TextStream, tokens: Any) -> None:
        threads[" ".join(stream.stops)].add(threading.current_thread().name)
        extend(stream, tokens)

    monkeypatch.setattr(TextStream, "extend", noted)
    prompt = demo.tokenizer("def area(r):").input_ids
    texts = [work(prompt, tokenizer=demo.tokenizer, stops=s) for s in ((), ("never",))]
    _, received = send(serve(demo), *texts)
    assert all(one.token_ids for one in received)
    assert threads == {"": {"mtad publisher"}, "never": {"mtad scheduler"}}


def test_observers_and_sinks_do_not_hold_up_the_decoding(serve, story, monkeypatch):
    """A slow observer sees all; the text has been decoded meanwhile."""
    scheduler, held, ended = serve(), threading.Event(), threading.Event()
    text, end = work(num_new=30), Batch.decode

    def slow(story: Story, chunks: Any, seconds: float) -> None:
        assert held.wait(PATIENCE_S)
        story.saw(chunks)

    def noted(batch: Batch, clock: Any) -> Any:
        found = end(batch, clock)
        if not batch.sequences:
            ended.set()
        return found

    monkeypatch.setattr(Story, "decoded", slow)
    monkeypatch.setattr(Batch, "decode", noted)
    _, received = send(scheduler, text)
    assert ended.wait(PATIENCE_S) and not received[0].chunks
    held.set()
    assert len(received[0].token_ids) == 30 == story.num_tokens[text.id]


def test_texts_with_probabilities_leave_the_others_captured(serve, monkeypatch):
    step, observed = Session.step, defaultdict[int, set[bool]](set)

    def noted(session: Session) -> Any:
        for request in session.requests.values():
            observed[request.sampling.seed].add(session.observe is not None)
        return step(session)

    monkeypatch.setattr(Session, "step", noted)
    texts = [work(seed=0), work(seed=1, num_logprobs=0), work(seed=2, traced=True), work(seed=3)]
    assert all(one.token_ids for one in send(serve(), *texts)[1])
    assert observed == {0: {False}, 1: {True}, 2: {True}, 3: {False}}


def test_probabilities_are_those_of_the_row_after_another_one_has_left(serve):
    """Rows move when one leaves; the index of a sequence in its session does not."""

    def probs(received: Received) -> list[Any]:
        return [one for chunk in received.chunks for one in chunk.logprobs]

    scheduler, method = serve(), Autoregressive()
    lengths = [2, 12, 8, 12]
    texts = [
        work(PROMPTS[i % 3], method, lengths[i], seed=i, num_logprobs=1, traced=True)
        for i in range(4)
    ]
    together = send(scheduler, *texts)[1]
    for text, one in zip(texts, together, strict=True):
        alone = send(scheduler, replace(again(text), num_logprobs=1))[1][0]
        assert one.token_ids == alone.token_ids
        assert [p.token for p in probs(one)] == one.token_ids
        ours, theirs = ([p.logprob for p in probs(found)] for found in (one, alone))
        assert ours == pytest.approx(theirs, abs=1e-4)
        assert all(p.logprob <= p.top[0][1] for p in probs(one))
        traced = [t["token"] for chunk in one.chunks for r in chunk.trace for t in r["tokens"]]
        assert traced == one.token_ids


def test_adding_does_not_wait_for_an_admission(serve, monkeypatch):
    """The thread that submits takes no lock that the scheduler's thread holds while it chooses."""
    choosing, added, choose = threading.Event(), threading.Event(), Admission.choose

    def held(self: Admission, waiting: Any, batches: Any) -> Any:
        choosing.set()
        assert added.wait(PATIENCE_S)
        return choose(self, waiting, batches)

    monkeypatch.setattr(Admission, "choose", held)
    scheduler, sequences = serve(), [work(seed=i) for i in range(9)]
    _, first = send(scheduler, sequences[0])
    assert choosing.wait(PATIENCE_S)
    thread = threading.Thread(target=send, args=(scheduler, *sequences[1:]), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive() and scheduler.load.num_waiting == 9
    added.set()
    assert len(first[0].token_ids) == 12


@pytest.mark.slow
@pytest.mark.parametrize("failures", [(1,), (1, 3)], ids=["once", "twice"])
def test_a_text_that_is_resumed_ends_at_the_same_stop(demo, serve, monkeypatch, failures):
    prompt = demo.tokenizer("def area(r):").input_ids
    whole = demo.generate([prompt], SMALL, max_new_tokens=24, seed=5, ignore_eos=True)[0]
    stop = whole.text[12:16]
    step, count = Session.step, iter(range(10**6))

    def failing(session: Session) -> Any:
        if next(count) in failures:
            raise RuntimeError("for a moment")
        return step(session)

    monkeypatch.setattr(Session, "step", failing)
    same: Any = {"num_new": 24, "seed": 5, "tokenizer": demo.tokenizer}
    texts = [work(prompt, stops=(stop,) if i else (), **same) for i in range(4)]
    _, received = send(serve(demo), *texts)
    sound = [one for one in received if one.last.error is None]
    assert len(sound) == 4 - (len(failures) - 1), "alone, one of them met the second failure"
    for one in sound:
        cut = whole.text[: whole.text.find(stop)] if one.last.sequence.has_stops else whole.text
        assert one.token_ids and one.text == cut
        assert one.last.finish_reason == ("stop" if one.last.sequence.has_stops else "length")
