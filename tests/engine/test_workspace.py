"""Caches and captured programs belong to the pair: later calls find them, whatever ended before."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from support.heads import random_head
from support.recorder import Recorder
from support.tiny import PROMPTS, VOCAB, complete, similar, token_ids

import mtad.model.kv_cache
from mtad import ModelPair
from mtad.engine.session import Request, Session
from mtad.engine.workspace import Workspace
from mtad.errors import CacheMemoryError
from mtad.methods.autoregressive import Autoregressive
from mtad.methods.mtad import MTAD
from mtad.model.kv_cache import SlotLayer
from mtad.model.lm import LM, Model
from mtad.runtime.cpu_tapes import Tapes
from mtad.runtime.cuda_graphs import Graphs
from mtad.sampling.params import SamplingParams
from mtad.testing import random_llama

METHOD = MTAD(num_draft_tokens=2, beam_width=2)
OPTIONS = {"max_new_tokens": 24, "ignore_eos": True, "guard": False}


@pytest.fixture(scope="module")
def models() -> tuple[Model, Model]:
    target = random_llama()
    return target, similar(target)


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Rows and slots of every layer that was allocated."""
    sizes: list[tuple[int, int]] = []
    allocate = SlotLayer.allocated

    def noted(layer: SlotLayer, like: torch.Tensor, rows: int, capacity: int, fits: bool):
        sizes.append((rows, capacity))
        return allocate(layer, like, rows, capacity, fits)

    monkeypatch.setattr(SlotLayer, "allocated", noted)
    yield sizes


def session_of(models, workspace: Workspace, *prompts: list[int], num_new: int = 4) -> Session:
    params = SamplingParams(max_new_tokens=num_new, seed=1)
    requests = [Request(prompt, params) for prompt in prompts]
    with torch.inference_mode():
        return Session(*models, METHOD, requests, VOCAB, workspace=workspace)


@torch.inference_mode()
def spoil(session: Session) -> None:
    """Fill the caches with NaN."""
    for lm in session.lms:
        for buffer in lm.buffers:
            if buffer is not getattr(lm, "places", None):
                buffer.fill_(float("nan"))


def drain(session: Session) -> list[list[int]]:
    """The texts of the session's requests."""
    texts: dict[int, list[int]] = {index: [] for index in session.rows}
    for step in session.run():
        for block in step.blocks:
            texts[block.request] += block.token_ids
    return list(texts.values())


# --- the second call of a form captures and records nothing


@pytest.mark.slow
def test_a_second_call_records_no_tape(models):
    pair = ModelPair(*models)
    pair.graphs = Tapes(patience=0)
    first = pair.generate([PROMPTS[0]], METHOD, seed=1, **OPTIONS)
    captured = pair.graphs.num_captured
    assert captured > 0
    eager = pair.graphs.eager_iterations.total()
    again = pair.generate([PROMPTS[0]], METHOD, seed=1, **OPTIONS)
    assert pair.graphs.num_captured == captured
    assert pair.graphs.eager_iterations.total() == eager
    assert again[0].token_ids == first[0].token_ids


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tapes", "graphs"])
def test_a_second_call_with_a_head_captures_nothing(models, kind):
    pair, backend = ModelPair(models[0], random_head(models[0], 40)), Recorder()
    pair.graphs = Tapes(patience=0) if kind == "tapes" else Graphs(backend, patience=1)
    first = pair.generate([PROMPTS[0]], METHOD, seed=1, **OPTIONS)
    captured, eager = pair.graphs.num_captured, pair.graphs.eager_iterations.total()
    assert captured > 0
    assert pair.graphs.last_mode == "captured"
    again = pair.generate([PROMPTS[0]], METHOD, seed=1, **OPTIONS)
    assert pair.graphs.num_captured == captured
    assert pair.graphs.eager_iterations.total() == eager
    pair.graphs = None
    plain = pair.generate([PROMPTS[0]], METHOD, seed=1, **OPTIONS)
    assert first[0].token_ids == again[0].token_ids == plain[0].token_ids


@pytest.mark.slow
def test_a_second_call_captures_no_graph_and_warms_nothing_up(models):
    pair, backend = ModelPair(*models), Recorder()
    pair.graphs = Graphs(backend, patience=1)
    prompts = [PROMPTS[0]]
    first = pair.generate(prompts, METHOD, seed=1, **OPTIONS)
    num_captured, num_warm_ups = len(backend.recordings), backend.num_warm_ups
    assert num_captured > 0
    again = pair.generate(prompts, METHOD, seed=1, **OPTIONS)
    other = pair.generate(prompts, METHOD, seed=2, **OPTIONS)
    assert (len(backend.recordings), backend.num_warm_ups) == (num_captured, num_warm_ups)
    assert again[0].token_ids == first[0].token_ids
    params = SamplingParams(max_new_tokens=24, seed=2)
    assert other[0].token_ids == token_ids(*models, METHOD, prompts, params)[0]


@pytest.mark.slow
def test_calls_of_other_sizes_in_between_lose_no_graph_of_a_cache_that_is_large_enough(models):
    pair, backend = ModelPair(*models), Recorder()
    pair.graphs = Graphs(backend, patience=1)
    sizes = [PROMPTS[:1] * 4, PROMPTS[:1]]
    for prompts in [*sizes, *sizes]:  # forms that occur once in a call are captured in the next
        pair.generate(prompts, METHOD, seed=1, **OPTIONS)
    before = len(backend.recordings)
    assert before >= 2
    for prompts in sizes:
        pair.generate(prompts, METHOD, seed=1, **OPTIONS)
    assert len(backend.recordings) == before


@pytest.mark.slow
def test_a_second_call_allocates_nothing(models, allocated):
    pair = ModelPair(*models)
    pair.graphs = None
    allocated.clear()  # of the check that the models work
    pair.generate(PROMPTS, METHOD, seed=1, **OPTIONS)
    assert allocated
    allocated.clear()
    pair.generate(PROMPTS, METHOD, seed=2, **OPTIONS)
    pair.generate(PROMPTS[:1], METHOD, seed=2, **OPTIONS)
    assert allocated == []


# --- who has which caches


@pytest.mark.slow
def test_two_streams_at_a_time_have_their_own_caches(models):
    pair = ModelPair(*models)
    expected = [pair.generate([p], METHOD, seed=3, **OPTIONS)[0].token_ids for p in PROMPTS[:2]]
    streams = [pair.stream(p, METHOD, seed=3, **OPTIONS) for p in PROMPTS[:2]]
    texts: list[list[int]] = [[], []]
    for chunks in zip(*streams, strict=False):
        for text, chunk in zip(texts, chunks, strict=True):
            text += chunk.block.token_ids
    for stream, text in zip(streams, texts, strict=True):
        for chunk in stream:
            text += chunk.block.token_ids
    assert texts[0][:10] == expected[0][:10] and texts[1][:10] == expected[1][:10]


@pytest.mark.slow
def test_a_stream_that_is_dropped_gives_its_caches_back(models, allocated):
    pair = ModelPair(*models)
    pair.graphs = None
    stream = pair.stream(PROMPTS[0], METHOD, seed=1, **OPTIONS)
    next(stream)
    assert pair.workspace.idle_bytes == 0
    del stream
    assert pair.workspace.idle_bytes > 0
    allocated.clear()
    pair.generate([PROMPTS[0]], METHOD, seed=1, **OPTIONS)
    assert allocated == []


def test_a_session_gives_its_caches_back_once(models):
    workspace = Workspace()
    session = session_of(models, workspace, PROMPTS[0])
    session.close()
    session.close()
    del session
    first, second = (session_of(models, workspace, PROMPTS[0]) for _ in range(2))
    assert not {*map(id, first.lms)} & {*map(id, second.lms)}


def test_a_session_that_cannot_begin_gives_its_caches_back(models, monkeypatch):
    workspace = Workspace()

    def failing(lm: LM) -> bool:
        raise RuntimeError("lost")

    monkeypatch.setattr(LM, "prefill_chunk", failing)
    with pytest.raises(RuntimeError, match="lost"):
        session_of(models, workspace, PROMPTS[0])
    monkeypatch.undo()
    assert len(workspace._idle) == 2


def test_methods_and_models_get_caches_of_their_models(models):
    workspace = Workspace()
    session_of(models, workspace, PROMPTS[0]).close()
    with torch.inference_mode():
        other = Session(*models[::-1], METHOD, [], VOCAB, workspace=workspace)
        plain = Session(*models, Autoregressive(), [], VOCAB, workspace=workspace)
    assert [lm.model for lm in other.lms] == list(models[::-1])
    assert [lm.model for lm in plain.lms] == [models[0]]


# --- what a cache held


def test_nan_of_the_session_before_reaches_no_text(models):
    workspace = Workspace()
    expected = drain(session_of(models, Workspace(), *PROMPTS))
    session = session_of(models, workspace, *PROMPTS, PROMPTS[0])
    spoil(session)
    session.close()
    again = session_of(models, workspace, *PROMPTS)
    assert {*map(id, again.lms)} == {*map(id, session.lms)}
    assert drain(again) == expected


@pytest.mark.slow
def test_a_cache_that_grows_in_place_holds_nothing_stale(models):
    """The session before had more memory: growing needs none, only another layout."""
    workspace = Workspace()
    large = session_of(models, workspace, *[PROMPTS[0]] * 8, num_new=300)
    spoil(large)
    large.close()
    params = [SamplingParams(max_new_tokens=n, seed=n) for n in (40, 80, 30)]
    expected = token_ids(*models, METHOD, PROMPTS, params)
    requests = [Request(p, s) for p, s in zip(PROMPTS, params, strict=True)]
    found: dict[int, list[int]] = {0: [], 1: [], 2: []}
    with torch.inference_mode():
        session = Session(*models, METHOD, requests[:1], VOCAB, workspace=workspace)
        addresses = [lm.addresses for lm in session.lms]
        for joining in (requests[1:2], requests[2:], []):
            for block in session.step().require_sound().blocks:
                found[block.request] += block.token_ids
            session.join(joining)
            while session.prefill_chunk():
                pass
        while session.rows:
            for block in session.step().require_sound().blocks:
                found[block.request] += block.token_ids
    assert session.target.max_rows == 4
    assert [lm.addresses for lm in session.lms] == addresses, "it had enough memory"
    assert [found[i] for i in range(3)] == expected


# --- memory


def test_one_long_text_after_many_short_ones_takes_no_more_than_it_needs(models):
    workspace = Workspace()
    session_of(models, workspace, *[PROMPTS[0]] * 16).close()
    session = session_of(models, workspace, PROMPTS[0], num_new=400)
    alone = session_of(models, Workspace(), PROMPTS[0], num_new=400)
    assert [lm.num_slots for lm in session.lms] == [lm.num_slots for lm in alone.lms]
    assert sum(lm.memory_bytes for lm in session.lms) <= 2 * sum(
        lm.memory_bytes for lm in alone.lms
    )


@pytest.mark.slow
def test_idle_caches_are_freed_before_memory_is_asked_for(models, monkeypatch):
    """Of two sessions' caches, the idle ones make room for those that grow."""
    workspace = Workspace(Graphs(Recorder(), patience=1))
    first, second = (session_of(models, workspace, PROMPTS[0], num_new=20) for _ in range(2))
    drain(first)
    assert workspace.programs.num_captured > 0
    first.close()
    held = workspace.idle_bytes
    assert held > 0
    with torch.inference_mode():
        second.join([Request(PROMPTS[1], SamplingParams(max_new_tokens=400))])
    assert workspace.idle_bytes == 0
    assert workspace.programs.num_captured == 0, "they were bound to the caches"


@pytest.mark.slow
def test_an_idle_cache_that_is_too_small_is_freed_first(models, monkeypatch):
    workspace, free = Workspace(), 10**6
    session_of(models, workspace, PROMPTS[0]).close()
    held = workspace.idle_bytes
    seen: list[int] = []

    def free_bytes(device: torch.device) -> float:
        gc.collect()
        seen.append(sum(lm.memory_bytes for lm in lms))
        return float(free)

    lms = list(workspace._idle)
    monkeypatch.setattr(mtad.model.kv_cache, "free_bytes", free_bytes)
    session_of(models, workspace, PROMPTS[0], num_new=400)
    assert held > 0 and seen[0] < held


@pytest.mark.slow
def test_a_draft_that_cannot_grow_leaves_the_target_as_it_was(models, monkeypatch):
    """The target's cache finds memory first."""
    session = session_of(models, Workspace(), PROMPTS[0], num_new=40)
    sizes = [(lm.num_slots, lm.max_rows, lm.addresses) for lm in session.lms]
    allocate = SlotLayer.allocated

    def failing(layer: SlotLayer, *size) -> list[torch.Tensor]:
        if layer in session.drafter._layers:
            raise CacheMemoryError("no")
        return allocate(layer, *size)

    monkeypatch.setattr(SlotLayer, "allocated", failing)
    with torch.inference_mode(), pytest.raises(CacheMemoryError):
        session.join([Request(PROMPTS[1], SamplingParams(max_new_tokens=400))])
    monkeypatch.undo()
    assert [(lm.num_slots, lm.max_rows, lm.addresses) for lm in session.lms] == sizes
    assert session.slots_with([]) == sizes[0][0]
    expected = complete(*models, METHOD, [PROMPTS[0]], SamplingParams(max_new_tokens=40, seed=1))
    assert drain(session)[0] == list(expected[0].token_ids)
