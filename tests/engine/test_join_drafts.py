"""Heads and translated drafts while texts join, leave and are resumed: each text stays the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from support import two_drafts
from support.heads import random_head
from support.recorder import Recorder
from support.tiny import PROMPTS, VOCAB, drafting_variants, suited, token_ids
from support.two_tokenizers import byte_level

import mtad.model.lm
from mtad.engine.session import Request, Session
from mtad.engine.workspace import Workspace
from mtad.errors import CacheMemoryError
from mtad.methods.mcss import MCSS
from mtad.methods.mtad import MTAD
from mtad.model.drafter import Draft
from mtad.model.lm import Model
from mtad.runtime.cpu_tapes import Tapes
from mtad.runtime.cuda_graphs import Graphs
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.testing import random_llama

METHODS = pytest.mark.parametrize("method", drafting_variants(fast=("mtad",)))
KINDS = pytest.mark.parametrize("kind", ["head", "translated"])
PADS = pytest.mark.parametrize(
    "pads", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["exact", "padded"]
)
SLOW = pytest.mark.slow
CAPTURED = MCSS(k_config=(2, 2)), MTAD(num_draft_tokens=2, beam_width=2)
LONG = [(7 * i) % VOCAB for i in range(130)]
SETTINGS = [
    SamplingParams(max_new_tokens=11, seed=1),
    SamplingParams(max_new_tokens=24, seed=2, temperature=0.5),
    SamplingParams(max_new_tokens=3, seed=3),
    SamplingParams(max_new_tokens=17, seed=4, eos_token_ids=(3, 9)),
    SamplingParams(max_new_tokens=9, seed=5, top_k=12),
]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtad.model.lm, "PREFILL_TOKENS", {"cpu": 48})


@cache
def case(kind: str) -> tuple[Model, Draft, int, list[list[int]]]:
    """Target, draft, number of tokens, and prompts, one of which is prefilled in several chunks."""
    if kind == "translated":
        prompts = two_drafts.prompts()
        return *two_drafts.models(), len(byte_level()), [*prompts[:3], prompts[3] * 20, prompts[0]]
    target = random_llama()
    return target, random_head(target, 40, scale=0.02), VOCAB, [*PROMPTS, LONG, [5]]


def requests_for(kind: str, method: Method) -> list[Request]:
    return [Request(p, suited(method, s)) for p, s in zip(case(kind)[3], SETTINGS, strict=True)]


@cache
def alone(kind: str, method: Method) -> list[list[int]]:
    """The texts of `requests_for`, each in a batch of its own."""
    target, draft, vocab, _ = case(kind)
    requests = requests_for(kind, method)
    return [
        token_ids(target, draft, method, [r.prompt_ids], r.sampling, vocab)[0] for r in requests
    ]


def session_of(kind: str, method: Method, requests: list[Request], **options: Any) -> Session:
    target, draft, vocab, _ = case(kind)
    return Session(target, draft, method, requests, vocab, **options)


def finish(session: Session, found: dict[int, list[int]], most: int = 10**6) -> int:
    """Steps, with a chunk of what is in prefill before each; how many of them had others in it."""
    beside = 0
    with torch.inference_mode():
        while most > 0 and session.requests:
            beside += session.prefill_chunk() and bool(session.rows)
            for block in session.step().require_sound().blocks if session.rows else ():
                found.setdefault(block.request, []).extend(block.token_ids)
            most -= 1
    return beside


@pytest.mark.slow
@PADS
@KINDS
@METHODS
def test_a_text_is_the_same_after_joining_late(kind: str, method: Method, pads: bool) -> None:
    """A long prompt is prefilled in chunks while the others run; one of those leaves meanwhile."""
    requests, expected = requests_for(kind, method), alone(kind, method)
    session, found = session_of(kind, method, requests[:2], pads=pads), {}
    finish(session, found, 1)
    with torch.inference_mode():
        session.join([requests[3]])
        beside = finish(session, found, 1)
        session.leave({0})
        while session._prefilling:
            beside += finish(session, found, 1)
        session.join([requests[2], requests[4]])
    finish(session, found)
    assert beside > 1
    assert {i: found[i] for i in (1, 2, 3, 4)} == dict(
        zip((1, 2, 3, 4), (expected[i] for i in (1, 3, 2, 4)), strict=True)
    )
    assert found.get(0, []) == expected[0][: len(found.get(0, []))]


@pytest.mark.slow
@KINDS
@METHODS
def test_a_text_is_the_same_when_it_is_resumed(kind: str, method: Method) -> None:
    for request, whole in zip(requests_for(kind, method), alone(kind, method), strict=True):
        session, begun = session_of(kind, method, [request]), dict[int, list[int]]()
        finish(session, begun, 2)
        if len(begun[0]) < len(whole):
            kept = [] if session.prefix.ledger is None else session.prefix.ledger[0].tolist()
            receipt = dict(zip(method.kept, kept, strict=True))
            again = replace(request, output_ids=begun[0], receipt=receipt)
            found: dict[int, list[int]] = {}
            finish(session_of(kind, method, [again]), found)
            assert begun[0] + found[0] == whole


@pytest.mark.slow
def test_a_draft_without_memory_for_its_own_tokens_leaves_all_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The draft needs more tokens for this text than the target, which has room for it."""
    method, params = MTAD(num_draft_tokens=2, beam_width=2), SETTINGS[0]
    expected = alone("translated", method)[0]
    session, found = session_of("translated", method, requests_for("translated", method)[:1]), {}

    def failing(num_slots: int) -> None:
        raise CacheMemoryError("no")

    monkeypatch.setattr(session.drafter, "on_growth", failing)
    finish(session, found, 1)
    with torch.inference_mode(), pytest.raises(CacheMemoryError):
        session.join([Request(two_drafts.costly(60), params)])
    assert session.target._prefill is None and session.drafter._prefill is None
    with torch.inference_mode():
        session.join([requests_for("translated", method)[4]])
    finish(session, found)
    assert found == {0: expected, 1: alone("translated", method)[4]}


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize(
    ("method", "make"),
    [
        pytest.param(CAPTURED[0], lambda: Graphs(Recorder(), patience=1), id="mcss-graphs"),
        pytest.param(CAPTURED[0], lambda: Tapes(patience=1), id="mcss-tapes", marks=SLOW),
        pytest.param(CAPTURED[1], lambda: Tapes(patience=1), id="mtad-tapes", marks=SLOW),
    ],
)
def test_captured_iterations_give_the_same_texts(
    kind: str, method: Method, make: Callable[[], Any]
) -> None:
    """Others join meanwhile, for whom the caches grow; the new caches are captured, too."""
    long = SamplingParams(max_new_tokens=40, seed=7)
    requests = [replace(r, sampling=long) for r in requests_for(kind, method)[2:4]]
    texts, modes = [], []
    for workspace in (Workspace(), Workspace(make())):
        session, found = session_of(kind, method, requests[:1], workspace=workspace), {}
        finish(session, found, 9)
        modes.append(session.graphs.last_mode)
        with torch.inference_mode():
            session.join(requests[1:])
        finish(session, found)
        texts.append(found)
    assert texts[0] == texts[1]
    assert modes == ["eager", "captured"]
    assert session.graph_reason is None
