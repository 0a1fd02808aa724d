"""Requests that join, leave and come back while others run: each text stays the same."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from support.recorder import Recorder
from support.tiny import PROMPTS, VOCAB, label, similar, some_variants, suited, token_ids

import mtad.model.lm
from mtad.core.buckets import rows_of
from mtad.engine.session import Block, Request, Session
from mtad.engine.workspace import Workspace
from mtad.errors import CacheMemoryError, NonFiniteLogitsError
from mtad.methods.autoregressive import Autoregressive
from mtad.methods.mtad import MTAD
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.kv_cache import SlotLayer
from mtad.model.lm import Model
from mtad.runtime.cpu_tapes import Tapes
from mtad.runtime.cuda_graphs import Graphs
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.testing import random_llama

EVERY_METHOD = pytest.mark.parametrize("method", some_variants(fast=("mcss", "mtad")))
SMALL = MTAD(num_draft_tokens=2, beam_width=2)
PADS = pytest.mark.parametrize("pads", [False, True], ids=["exact", "padded"])
LONG = [(7 * i) % VOCAB for i in range(300)]
TEXTS = [*PROMPTS, LONG, [5], [2, 4] * 9]
SETTINGS = [
    SamplingParams(max_new_tokens=11, seed=1),
    SamplingParams(max_new_tokens=30, seed=2, temperature=0.0),
    SamplingParams(max_new_tokens=3, seed=3),
    SamplingParams(max_new_tokens=17, seed=4, eos_token_ids=(3, 9)),
    SamplingParams(max_new_tokens=9, seed=5, repetition_penalty=1.3),
    SamplingParams(max_new_tokens=14, seed=6, min_new_tokens=4, eos_token_ids=(1,)),
]


@pytest.fixture(scope="module")
def pair():
    return models()


@cache
def models() -> tuple[Model, Model]:
    target = random_llama()
    return target, similar(target)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtad.model.lm, "PREFILL_TOKENS", {"cpu": 64})


def settings_for(method: Method) -> list[SamplingParams]:
    """Settings that the method honours."""
    kept = []
    for params in SETTINGS:
        try:
            method.check(params)
        except ValueError:
            params = SamplingParams(max_new_tokens=params.max_new_tokens, seed=params.seed)
        kept.append(suited(method, params))
    return kept


def requests_for(method: Method) -> list[Request]:
    return [Request(t, p) for t, p in zip(TEXTS, settings_for(method), strict=False)]


@cache
def alone(method: Method) -> list[list[int]]:
    """The texts of `requests_for`, each in a batch of its own."""
    requests = requests_for(method)
    return [token_ids(*models(), method, [r.prompt_ids], r.sampling)[0] for r in requests]


def finish(session: Session, found: dict[int, list[int]], most: int = 10**6) -> None:
    """Take steps and read what waits; every text grows by its blocks."""
    with torch.inference_mode():
        while most > 0 and (session.rows or session.requests):
            session.prefill_chunk()
            blocks: Sequence[Block] = session.step().require_sound().blocks if session.rows else ()
            for block in blocks:
                found.setdefault(block.request, []).extend(block.token_ids)
            most -= 1


@pytest.mark.slow
@PADS
@EVERY_METHOD
def test_a_text_is_the_same_after_joining_late(pair, method, pads):
    requests = requests_for(method)
    session, found = Session(*pair, method, [], VOCAB, pads=pads), {}
    with torch.inference_mode():
        for group, steps in (([0], 1), ([1, 2], 0), ([3, 4], 1), ([5], 10**6)):
            assert session.join([requests[i] for i in group]) == group
            while session._prefilling:
                finish(session, found, 1)
            finish(session, found, steps)
    assert found == dict(enumerate(alone(method)))
    assert session.rows == [] and session.requests == {}


def test_the_others_run_while_a_long_prompt_is_read(pair):
    requests = requests_for(SMALL)
    session, found = Session(*pair, SMALL, [requests[1]], VOCAB), {}
    with torch.inference_mode():
        session.join([requests[3]])
        chunks = 0
        while session.prefill_chunk():
            chunks += 1
            before = len(found.get(0, ()))
            if session.rows:
                found.setdefault(0, []).extend(session.step().blocks[0].token_ids)
                assert len(found[0]) > before
    assert chunks == -(-(len(LONG) - 1) // 64) - 1


@pytest.mark.slow
@EVERY_METHOD
def test_a_text_is_the_same_when_it_is_taken_up_again(pair, method):
    for request, whole in zip(requests_for(method), alone(method), strict=True):
        steps = Session(*pair, method, [request], VOCAB).run()
        (block,) = next(steps).blocks
        begun = list(block.token_ids)
        if len(begun) < len(whole):
            again, found = replace(request, output_ids=begun, receipt=block.receipt), {}
            finish(Session(*pair, method, [again], VOCAB), found)
            assert begun + found[0] == whole


def test_a_text_that_is_whole_already_never_runs(pair):
    request = Request([1, 2], SamplingParams(max_new_tokens=2), output_ids=[3, 4])
    assert Session(*pair, SMALL, [request], VOCAB).rows == []


@pytest.mark.slow
@pytest.mark.parametrize("pads", [True], ids=["padded"])
@EVERY_METHOD
def test_leaving_does_not_touch_the_others(pair, method, pads):
    requests = requests_for(method)
    expected = alone(method)
    session, found = Session(*pair, method, requests, VOCAB, pads=pads), {}
    finish(session, found, 1)
    leaving = {1, 3} & set(session.rows)
    with torch.inference_mode():
        session.leave({1, 3})
    assert not {1, 3} & session.requests.keys()
    finish(session, found)
    stayed = set(range(len(requests))) - leaving
    assert {i: found[i] for i in stayed} == {i: expected[i] for i in stayed}


def test_leaving_an_empty_session_is_nothing(pair):
    Session(*pair, SMALL, [], VOCAB).leave({0})


@PADS
def test_caches_grow_in_steps_and_keep_what_they_hold(pair, pads):
    session = Session(*pair, SMALL, [Request([1, 2], SETTINGS[0])], VOCAB, pads=pads)
    sizes = []
    with torch.inference_mode():
        for count in range(2, 10):
            more = [Request([count], SamplingParams(max_new_tokens=20))]
            expected = session.slots_with(more)
            session.join(more)
            assert not session.prefill_chunk()
            address = session.target._address
            assert session.slots_with([]) == expected == address.num_rows * address.capacity
            sizes.append(address.num_rows)
            layer = session.target._layers[0]
            assert layer.keys.shape[0] == address.num_rows
            assert layer.keys.shape[2] == address.capacity
    assert sizes == [2, 4, 4, 8, 8, 8, 8, 16]


@pytest.mark.slow
def test_no_memory_to_grow_leaves_all_as_it_was(pair, monkeypatch):
    requests = requests_for(SMALL)
    expected = token_ids(*pair, SMALL, [requests[1].prompt_ids], requests[1].sampling)[0]
    session, found = Session(*pair, SMALL, [requests[1]], VOCAB), {}
    finish(session, found, 2)
    allocate, count = SlotLayer.allocated, iter(range(100))

    def failing(layer: SlotLayer, *size) -> list[torch.Tensor]:
        if next(count) == 1:  # the first layer has its memory already
            raise CacheMemoryError("no")
        return allocate(layer, *size)

    monkeypatch.setattr(SlotLayer, "allocated", failing)
    with torch.inference_mode(), pytest.raises(CacheMemoryError):
        session.join([requests[3]])
    monkeypatch.undo()
    monkeypatch.setattr(mtad.model.lm, "PREFILL_TOKENS", {"cpu": 64})
    assert session.join([requests[0]]) == [1]
    finish(session, found)
    assert found[0] == expected
    assert found[1] == token_ids(*pair, SMALL, [requests[0].prompt_ids], requests[0].sampling)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "make"),
    [
        pytest.param(SMALL, lambda: Tapes(patience=1), id="tapes"),
        pytest.param(SMALL, lambda: Graphs(Recorder()), id="graphs", marks=pytest.mark.slow),
        pytest.param(Autoregressive(), lambda: Graphs(Recorder()), id="plain, graphs"),
    ],
)
def test_captured_iterations_know_when_caches_have_grown(pair, method, make):
    """The others run while the text that caches grew for is still being read."""
    requests = [
        Request([1, 2, 3], SamplingParams(max_new_tokens=50, seed=1)),
        Request(LONG, SamplingParams(max_new_tokens=6, seed=2)),
    ]
    expected = [token_ids(*pair, method, [r.prompt_ids], r.sampling)[0] for r in requests]
    with torch.inference_mode():
        session, found = (
            Session(*pair, method, requests[:1], VOCAB, workspace=Workspace(make())),
            {},
        )
        finish(session, found, 12)
        assert session.graphs.last_mode == "captured"
        session.join(requests[1:])
        finish(session, found)
    assert [found[0], found[1]] == expected


@pytest.mark.slow
def test_a_text_may_leave_while_it_is_read(pair):
    requests = [replace(r, sampling=SETTINGS[0]) for r in requests_for(SMALL)]
    expected = token_ids(*pair, SMALL, [r.prompt_ids for r in requests], SETTINGS[0])
    session, found = Session(*pair, SMALL, requests[:2], VOCAB), {}
    with torch.inference_mode():
        (index,) = session.join([requests[3]])
        assert session.prefill_chunk()
        finish(session, found, 1)
        session.leave({index})
        assert not session.prefill_chunk() and session.requests.keys() == {0, 1}
        session.join([requests[2]])
        finish(session, found)
    assert [found[0], found[1], found[3]] == expected[:3]


def test_a_draft_without_memory_leaves_the_target_alone(pair, monkeypatch):
    session = Session(*pair, SMALL, [Request([1, 2], SETTINGS[0])], VOCAB)

    def failing(*size: int) -> None:
        raise CacheMemoryError("no")

    monkeypatch.setattr(session.drafter, "resized", failing)
    with torch.inference_mode(), pytest.raises(CacheMemoryError):
        session.join([Request([3], SETTINGS[0])])
    assert session.target._prefill is None


# ---------------------------------------------------------------- copies that fill the batch up


def test_few_numbers_of_rows_occur():
    assert [rows_of(n) for n in range(1, 18)] == [
        *(1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16, 24)
    ]


@pytest.mark.slow
def test_captured_iterations_are_replayed_while_others_come_and_go(pair):
    """Of 13 to 16 texts at a time, each number would need a capture of its own."""
    params = [SamplingParams(max_new_tokens=12 + i % 7, seed=i) for i in range(28)]
    texts = [[i + 1, i + 2] for i in range(28)]
    requests = [Request(t, p) for t, p in zip(texts, params, strict=True)]
    method, captured = SpeculativeSampling(num_draft_tokens=2), {}
    expected = token_ids(*pair, method, texts, params)
    for pads in (False, True):
        waiting, graphs, found = list(requests), Graphs(Recorder(), patience=1), {}
        session = Session(*pair, method, [], VOCAB, workspace=Workspace(graphs), pads=pads)
        with torch.inference_mode():
            while waiting:
                if len(session.rows) < 13:
                    count = 16 - len(session.rows)
                    session.join(waiting[:count])
                    assert not session.prefill_chunk()
                    waiting = waiting[count:]
                if pads:
                    assert session.target.num_rows in (12, 16)
                finish(session, found, 1)
            captured[pads] = graphs.num_captured
            finish(session, found)
        assert [found[i] for i in range(28)] == expected
    assert captured[True] < captured[False], captured


@pytest.mark.slow
def test_large_batches_run_eagerly_where_that_is_asked_for(pair):
    requests = [Request([i], SamplingParams(max_new_tokens=8 + 4 * i)) for i in range(1, 5)]
    graphs, paces = Graphs(Recorder(), patience=1), []
    session = Session(*pair, SMALL, requests, VOCAB, workspace=Workspace(graphs), most_captured=2)
    with torch.inference_mode():
        while session.rows:
            graphs.last_mode, num_rows = "eager", len(session.rows)
            session.step()
            paces.append((num_rows > 2, graphs.last_mode == "eager"))
    assert set(paces) == {(True, True), (False, False)}


@pytest.mark.slow
def test_copies_that_stray_are_made_again(pair):
    """As a row may in another place of a batch, where products are rounded otherwise."""
    params = [SamplingParams(max_new_tokens=20, seed=i) for i in range(5)]
    texts = [[i + 1] for i in range(5)]
    expected = token_ids(*pair, SMALL, texts, params)
    requests = [Request(t, p) for t, p in zip(texts, params, strict=True)]
    session, found = Session(*pair, SMALL, requests, VOCAB, pads=True), {}
    num_strayed = 0
    while session.rows:
        copied = len(session.rows) == 5
        assert session.target.num_rows == len(session.rows) + copied
        if copied:
            with torch.inference_mode():
                session.seeds[5] += 1
            num_strayed += 1
        finish(session, found, 1)
        if len(session.rows) == 5:
            assert torch.equal(session.prefix.tokens[5], session.prefix.tokens[0])
            for lm in session.lms:
                assert lm.lengths[5] == lm.lengths[0]
    assert [found[i] for i in range(5)] == expected and num_strayed > 2


@pytest.mark.slow
def test_copies_make_room_for_those_who_join(pair):
    texts = [[i + 1] for i in range(16)]
    params = [SamplingParams(max_new_tokens=12, seed=i) for i in range(16)]
    expected = token_ids(*pair, SMALL, texts, params)
    requests = [Request(t, p) for t, p in zip(texts, params, strict=True)]
    session, found = Session(*pair, SMALL, requests[:9], VOCAB, pads=True), {}
    assert session.target.num_rows == session.target.max_rows == 12
    with torch.inference_mode():
        session.join(requests[9:])
        assert session.target.max_rows == 16, "no more than the texts need"
        assert session.target.num_rows == 9, "12 and 7 are too many"
        finish(session, found)
    assert [found[i] for i in range(16)] == expected


@pytest.mark.slow
def test_copies_give_way_to_those_who_have_been_read(pair):
    texts = [[i + 1] for i in range(8)] + [LONG]
    params = [SamplingParams(max_new_tokens=16, seed=i) for i in range(9)]
    expected = token_ids(*pair, SMALL, texts, params)
    requests = [Request(t, p) for t, p in zip(texts, params, strict=True)]
    session, found = Session(*pair, SMALL, requests[:8], VOCAB, pads=True), {}
    with torch.inference_mode():
        session.leave({5, 6, 7})
        session.join(requests[8:])
        while session.prefill_chunk():
            assert session.target.num_rows == 6, "5 texts and a copy"
            for block in session.step().require_sound().blocks:
                found.setdefault(block.request, []).extend(block.token_ids)
        assert len(session.rows) == session.target.num_rows == 6
        finish(session, found)
    assert [found[i] for i in (0, 1, 2, 3, 4, 8)] == [expected[i] for i in (0, 1, 2, 3, 4, 8)]


# ---------------------------------------------------------------- a row that fails


def broken_at(token: int):
    """A model that returns NaN wherever it reads this token."""
    model = copy.deepcopy(random_llama())
    embeddings = model.get_input_embeddings()
    weight = torch.nn.Parameter(embeddings.weight.detach().clone(), requires_grad=False)
    weight[token] = float("nan")
    embeddings.weight = weight
    return model


@PADS
@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("method", [Autoregressive(), SMALL], ids=label)
def test_nan_fails_one_row_and_no_neighbour(method, failing, pads):
    sound, bad = random_llama(), 30
    suppressed = {"suppress_tokens": (bad,)}
    params = [SamplingParams(max_new_tokens=12, seed=s, **suppressed) for s in range(6)]
    prompts = [[1, 2, 3], [4, 10, 5], [6, 7], [8, 9], [1], [2]]
    expected = token_ids(sound, sound, method, prompts, params)
    prompts[failing] = [4, bad, 5]
    broken = broken_at(bad)
    requests = [Request(t, p) for t, p in zip(prompts, params, strict=True)]
    session = Session(broken, broken, method, requests[:5], VOCAB, pads=pads)
    found, errors = {}, {}
    with torch.inference_mode():
        for joining in (requests[5:], requests[4:]):  # the last one where one has failed
            session.join(joining)
            while session.prefill_chunk():
                pass
            for block in session.step().blocks:
                found.setdefault(block.request, []).extend(block.token_ids)
                if block.error:
                    errors[block.request] = block
        finish(session, found)
    assert list(errors) == [failing]
    assert errors[failing].finish_reason == "error" and errors[failing].token_ids == ()
    assert isinstance(errors[failing].error, NonFiniteLogitsError)
    assert f"request {failing}" in str(errors[failing].error)
    expected += expected[4:]
    others = set(range(8)) - {failing}
    assert {i: found[i] for i in others} == {i: expected[i] for i in others}


def test_nan_that_leaves_early_stays_with_nobody():
    broken, params = broken_at(30), SamplingParams(max_new_tokens=6, suppress_tokens=(30,))
    sound = random_llama()
    session = Session(broken, broken, SMALL, [Request([1, 2], params)], VOCAB)
    found: dict[int, list[int]] = {}
    with torch.inference_mode():
        for read_all in (True, False):
            (index,) = session.join([Request([30] * 200, params)])
            while session.prefill_chunk() and read_all:
                pass
            session.leave({index})
            session.join([Request([4, 5], params)])
            while session.prefill_chunk():
                pass
            session.leave({index + 1})
        session.join([Request([4, 5], params)])
        finish(session, found)
    expected = token_ids(sound, sound, SMALL, [[1, 2], [4, 5]], params)
    assert [found[0], found[5]] == expected
