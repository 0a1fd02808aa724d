"""The guard over a running batch: active only while every row permits it, and texts stay."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.guarded import CHAIN, Meter, follow_script
from support.serving import Served, fake_server, load_demo, real_server
from support.tiny import PROMPTS, VOCAB, opposite, token_ids
from support.two_drafts import renumbered

import mtad.server.run
from mtad.api.guard import PLAIN
from mtad.api.pair import ModelPair
from mtad.engine.request import Request
from mtad.methods.mtad import MTAD
from mtad.model.drafter import Draft
from mtad.model.lm import Model
from mtad.runtime.cpu_tapes import Tapes
from mtad.sampling.params import SamplingParams
from mtad.server.scheduler import batch as batches
from mtad.server.scheduler.batch import Batch
from mtad.server.scheduler.sequence import Sequence
from mtad.server.settings import ServerSettings
from mtad.testing import random_llama

GREEDY = {"temperature": 0.0}


@pytest.fixture(scope="module")
def target() -> Model:
    return random_llama(vocab=VOCAB)


def pair_of(target: Model, draft: Draft) -> ModelPair:
    pair = ModelPair(target, draft)
    pair.graphs = None
    return pair


def text(index: int = 0, guarded: bool = True, num_new: int = 40, **sampling: Any) -> Sequence:
    """A greedy text to complete, or one with these settings."""
    params = SamplingParams(max_new_tokens=num_new, **(sampling or GREEDY))
    return Sequence(Request(PROMPTS[index], params), method=CHAIN, guarded=guarded)


def plain(target: Model, one: Sequence) -> list[int]:
    """The target's own text."""
    return token_ids(target, None, PLAIN, [one.request.prompt_ids], one.request.sampling)[0]


@torch.inference_mode()
def join(batch: Batch, *sequences: Sequence) -> None:
    batch.add(sequences)
    while batch.prefilling:
        batch.prefill(0.0)


@torch.inference_mode()
def decode(batch: Batch, steps: int = 10**6) -> Iterator[int]:
    """Iterations, until there are no rows: how many tokens each drafted for its first row."""
    while batch.session.rows and steps:
        steps -= 1
        chunks, _ = batch.decode(lambda: 0.0)
        assert chunks[0].block is not None
        yield chunks[0].block.num_drafted


@pytest.mark.slow
def test_a_useless_draft_is_left_out_and_the_text_stays(target, monkeypatch) -> None:
    pair = pair_of(target, opposite(target))
    meter = Meter(monkeypatch, draft=0.1, node=0.02)
    monkeypatch.setattr(batches, "time", SimpleNamespace(perf_counter=meter))
    pair.guards.measure(meter)
    for guarded in (True, False):
        batch, one = Batch.of(pair, CHAIN, None), text(guarded=guarded)
        join(batch, one)
        assert sum(1 for _ in decode(batch)) == len(one.blocks) == 40
        assert one.token_ids == plain(target, one)
        if guarded:
            assert 40 - 8 < one.stats.num_plain_steps < 40
            assert str(one.stats.fallback).startswith("plain decoding: a draft of ")
            assert one.stats.decode_s <= 1.03 * 40
        else:
            assert one.stats.num_plain_steps == 0 and one.stats.fallback is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["the target itself", "another tokenizer"])
def test_a_row_that_forbids_it_brings_the_method_s_own_drafts(target, monkeypatch, kind) -> None:
    """The draft has read all that it missed, and all that joined: the target accepts each token."""
    follow_script(monkeypatch, "p")
    draft = target if kind == "the target itself" else renumbered(target)
    batch = Batch.of(pair_of(target, draft), CHAIN, None)
    first, second, third = text(0, num_new=60), text(1, False, 16), text(2, num_new=21)
    join(batch, first)
    assert [*decode(batch, 5)] == [0] * 5
    join(batch, third)
    assert [*decode(batch, 3)] == [0] * 3
    join(batch, second)
    assert [*decode(batch, 4)] == [4] * 4, "then its budget is used up"
    assert set(decode(batch)) == {0}
    assert (first.stats.num_plain_steps, second.stats.num_plain_steps) == (60 - 4 * 5, 0)
    accepted = [one.stats.num_accepted_draft_tokens for one in (first, second, third)]
    assert accepted == [4 * 4, 3 * 4, 3 * 4 + 2]
    for one in (first, second, third):
        assert one.token_ids == plain(target, one)


@pytest.mark.slow
def test_a_given_seed_keeps_its_text_beside_rows_that_are_guarded(target, monkeypatch) -> None:
    follow_script(monkeypatch, "p")
    pair, drawn = pair_of(target, opposite(target)), {"seed": 5, "temperature": 1.0}
    expected = token_ids(
        target, pair.models.draft, CHAIN, PROMPTS[1:2], text(**drawn).request.sampling
    )
    batch, other = Batch.of(pair, CHAIN, None), text(1, False, **drawn)
    join(batch, text(0))
    [*decode(batch, 3)]
    join(batch, other)
    [*decode(batch)]
    assert other.token_ids == expected[0]


def test_what_is_not_recorded_anyhow_needs_not_be_paid_for(target, monkeypatch) -> None:
    """Batches beyond a number of rows are never recorded, so that no length waits for that."""
    monkeypatch.setattr(batches, "MOST_RECORDED", {"cpu": 2})
    pair = ModelPair(target, target)
    pair.graphs = Tapes(patience=1)
    batch = Batch.of(pair, CHAIN, None)
    join(batch, *(text(i, num_new=6) for i in range(3)))
    [*decode(batch)]
    assert batch.guard is not None
    recordings = batch.guard.controller._known.recordings
    assert not any(num_rows > 2 for num_rows, _ in recordings._begun)
    assert not any(num_rows > 2 for num_rows in recordings._num_plain)


# --- who is guarded, and what the answer says -----------------------------------------------------


@pytest.fixture(scope="module")
def fakes() -> Iterator[dict[bool, Served]]:
    with fake_server() as on, fake_server(guard=False) as off:
        yield {True: on, False: off}


@pytest.mark.parametrize(
    ("setting", "method", "given", "expected"),
    [
        (True, "speculative_sampling", {}, True),
        (True, "speculative_sampling", {"seed": 0}, False),
        (True, "speculative_sampling", {"seed": 0, "temperature": 0}, True),
        (True, "autoregressive", {}, False),
        (True, "mtad", {"temperature": 0}, False),
        (True, "mtjd", {}, False),
        (False, "speculative_sampling", {"temperature": 0}, False),
    ],
)
def test_a_request_is_guarded_where_generate_would_be(
    fakes: dict[bool, Served], setting: bool, method: str, given: dict[str, Any], expected: bool
) -> None:
    served = fakes[setting]
    body = {"model": "demo", "prompt": "a", "max_tokens": 1, "method": method, **given}
    with served.client() as http:
        assert http.post("/v1/completions", json=body).status_code == 200
    assert served.scheduler.submitted[-1].guarded is expected


@pytest.mark.slow
def test_the_answer_says_what_the_guard_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft that could not pay is never run."""
    pair, meter = load_demo(), Meter(monkeypatch, draft=1.5)
    pair.guards.measure(meter)
    body = {"model": "demo", "prompt": "def area(r):", "max_tokens": 6, "temperature": 0}
    body |= {"method": "speculative_sampling", "ignore_eos": True}
    with real_server(pair) as served, served.client() as http:
        found = http.post("/v1/completions", json=body).json()["metrics"]["speculative_decoding"]
        other = http.post("/v1/completions", json=body | {"method": "mtad"}).json()
    assert found["num_plain_steps"] == found["num_spec_steps"] == 6
    assert found["fallback"].startswith("plain decoding: a draft of 1 token would take 2.50 times")
    figures = other["metrics"]["speculative_decoding"]
    assert figures["num_plain_steps"] == 0 and figures["fallback"] is None


@pytest.mark.parametrize("guard", [True, False])
def test_costs_are_measured_at_load(target, monkeypatch, guard: bool) -> None:
    meter, pair = Meter(monkeypatch, draft=0.1), pair_of(target, opposite(target))
    monkeypatch.setattr(mtad.server.run, "time", SimpleNamespace(perf_counter=meter))
    mtad.server.run.assemble(pair, ServerSettings(guard=guard, method=MTAD())).close()
    before = meter.num_calls
    assert bool(before) is guard
    for method in (CHAIN, MTAD(), mtad.methods.find("prompt_lookup")()):
        requests = [text(i).request for i in range(3)] * 11
        control = pair.guards.controller(method, requests, meter)
        assert (meter.num_calls == before) is guard
        assert bool(control.shapes[-1].fed) and len(control.shapes) > 1
