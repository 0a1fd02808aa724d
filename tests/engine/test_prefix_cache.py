"""Sessions with a prefix cache: texts, counts and caches are those of sessions without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from support import two_drafts
from support.caches import assert_fresh
from support.heads import random_head
from support.tiny import VOCAB, similar, token_ids
from support.two_tokenizers import byte_level

import mtad.model.lm
from mtad.api.costs import PLAIN
from mtad.api.pair import ModelPair
from mtad.engine.session import Request, Session
from mtad.engine.workspace import Workspace
from mtad.methods.mtad import MTAD
from mtad.model.drafter import Draft
from mtad.model.lm import LM, Model
from mtad.model.prefix_cache import BLOCK
from mtad.model.translated import TranslatedLM
from mtad.runtime.cpu_tapes import Tapes
from mtad.sampling.params import SamplingParams
from mtad.testing import random_llama

METHOD = MTAD(num_draft_tokens=2, beam_width=2)
KINDS = pytest.mark.parametrize("kind", ["model", "head", "translated"])
SETTINGS = [
    SamplingParams(max_new_tokens=11, seed=1),
    SamplingParams(max_new_tokens=16, temperature=0.0),
    SamplingParams(max_new_tokens=14, seed=3, top_k=12),
]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtad.model.lm, "PREFILL_TOKENS", {"cpu": 32})


@cache
def case(kind: str) -> tuple[Model, Draft, int, list[list[int]]]:
    """Target, draft, number of tokens, and prompts of which the second and third begin alike."""
    if kind == "translated":
        a, b, c, d = two_drafts.prompts()
        return *two_drafts.models(), len(byte_level()), [b * 3, a * 9 + c, a * 9 + d * 2]
    target, shared = random_llama(), [(7 * i) % VOCAB for i in range(75)]
    prompts = [[5, 4] * 20, [*shared, 3, 1, 4], [*shared, *[9, 8, 7] * 9]]
    draft = similar(target) if kind == "model" else random_head(target, 40, scale=0.02)
    return target, draft, VOCAB, prompts


def requests_for(kind: str) -> list[Request]:
    return [Request(p, s) for p, s in zip(case(kind)[3], SETTINGS, strict=True)]


@cache
def alone(kind: str) -> list[list[int]]:
    """The texts of `requests_for`, each in a batch of its own and without a cache."""
    target, draft, vocab, _ = case(kind)
    return [
        token_ids(target, draft, METHOD, [r.prompt_ids], r.sampling, vocab)[0]
        for r in requests_for(kind)
    ]


def workspace(mib: int = 16) -> Workspace:
    made = Workspace()
    made.prefixes.max_bytes = mib << 20
    return made


def session_of(
    kind: str, shared: Workspace, requests: Sequence[Request], pads: bool = False
) -> Session:
    target, draft, vocab, _ = case(kind)
    return Session(target, draft, METHOD, requests, vocab, workspace=shared, pads=pads)


@torch.inference_mode()
def finish(session: Session, found: dict[int, list[int]], most: int = 10**6) -> None:
    """Steps, with a chunk of what is in prefill before each; caches are compared after each."""
    texts = {i: [*r.prompt_ids, *found.get(i, [])] for i, r in session.requests.items()}
    while most > 0 and session.requests:
        session.prefill_chunk()
        for block in session.step().require_sound().blocks if session.rows else ():
            found.setdefault(block.request, []).extend(block.token_ids)
            texts[block.request] += block.token_ids
        if session.rows and not session._prefilling:
            require_fresh(session, [texts[i] for i in session.rows])
        most -= 1


def require_fresh(session: Session, running: list[list[int]]) -> None:
    copies = session.target.num_rows - len(running)
    for lm in session.lms:
        if type(lm) is LM:
            texts = [*running, *[running[0]] * copies]
            assert_fresh(lm, texts, last_slot_may_lag=lm is not session.target)


@pytest.mark.slow
@pytest.mark.parametrize("pads", [False, True], ids=["exact", "padded"])
@KINDS
def test_texts_with_and_without_cached_prefixes_are_the_same(kind: str, pads: bool) -> None:
    """All three at once, with nothing to be found; then one by one, all of it found."""
    shared, requests, expected = workspace(), requests_for(kind), alone(kind)
    found: dict[int, list[int]] = {}
    first = session_of(kind, shared, requests, pads)
    assert set(first.cached.values()) == {0}
    finish(first, found)
    first.close()
    assert [found[i] for i in range(3)] == expected
    second, found = session_of(kind, shared, [], pads), {}
    for index, request in enumerate(requests):
        with torch.inference_mode():
            assert second.join([request]) == [index]
        assert second.cached == {index: (len(request.prompt_ids) - 2) // BLOCK * BLOCK}
        finish(second, found, 1 if index < 2 else 10**6)
    assert [found[i] for i in range(3)] == expected


@pytest.mark.slow
@KINDS
def test_a_prefix_is_found_while_others_run_and_one_that_is_cancelled_adds_none(kind: str) -> None:
    shared, (other, first, second), expected = workspace(), requests_for(kind), alone(kind)
    session, found = session_of(kind, shared, [other]), {}
    with torch.inference_mode():
        session.join([first])
        finish(session, found, 1)
        assert session._prefilling
        session.leave({1})
        session.join([first])
        assert session.cached == {2: 0}
        while session._prefilling:
            finish(session, found, 1)
        session.join([second])
        assert session.cached[3] > 0
    finish(session, found)
    assert [found[i] for i in (0, 2, 3)] == expected


@pytest.mark.slow
@KINDS
def test_a_text_that_is_resumed_finds_its_prompt(kind: str) -> None:
    request, expected = requests_for(kind)[2], alone(kind)[2]
    shared, begun, found = workspace(), {}, {}
    first = session_of(kind, shared, [request])
    finish(first, begun, 2)
    resumed = session_of(kind, shared, [replace(request, output_ids=begun[0])])
    assert resumed.cached[0] == (len(request.prompt_ids) - 1) // BLOCK * BLOCK
    with torch.inference_mode():
        for step in resumed.run():
            for block in step.blocks:
                found.setdefault(block.request, []).extend(block.token_ids)
    assert begun[0] + found[0] == expected


@pytest.mark.slow
def test_a_cache_that_is_too_small_evicts_and_changes_no_text() -> None:
    requests, expected = requests_for("model"), alone("model")
    shared = workspace()
    shared.prefixes.max_bytes = 40_000
    for _ in range(2):
        for request, text in zip(requests, expected, strict=True):
            found: dict[int, list[int]] = {}
            session = session_of("model", shared, [request])
            assert session.cached[0] < len(request.prompt_ids) // BLOCK * BLOCK
            finish(session, found)
            session.close()
            assert found[0] == text
            assert 0 < shared.prefixes.num_bytes <= 40_000


@pytest.mark.slow
def test_captured_iterations_after_a_cached_prefix_give_the_same_texts() -> None:
    target, draft, _, prompts = case("model")
    pair = ModelPair(target, draft)
    pair.graphs = Tapes(patience=0)
    for _ in range(3):
        made = [
            pair.generate([p], METHOD, seed=1, max_new_tokens=11, ignore_eos=True)[0]
            for p in prompts
        ]
        assert [one.token_ids for one in made] == [
            token_ids(target, draft, METHOD, [p], SETTINGS[0])[0] for p in prompts
        ]
    assert pair.graphs.last_mode == "captured"
    assert [one.stats.num_cached_tokens for one in made] == [32, 64, 96]


def test_a_workspace_without_a_prefix_cache_keeps_nothing() -> None:
    shared, request = Workspace(), requests_for("model")[2]
    for _ in range(2):
        session = session_of("model", shared, [request])
        assert session.cached == {0: 0}
        session.close()


def test_how_much_is_kept_unless_told_otherwise() -> None:
    target, draft, _, _ = case("model")
    pair = ModelPair(target, draft)
    assert pair.workspace.prefixes.max_bytes == 512 << 20
    int8 = replace(pair.models, target_weights="int8")
    kept = {mib: ModelPair.of(int8, mib).workspace.prefixes.max_bytes for mib in (None, 0, 3)}
    assert kept == {None: 0, 0: 0, 3: 3 << 20}
    assert ModelPair(target, draft, prefix_cache_mib=0).workspace.prefixes.max_bytes == 0
    with pytest.raises(ValueError, match="prefix_cache_mib is -1; it must be at least 0"):
        ModelPair(target, draft, prefix_cache_mib=-1)


def own_ids(session: Session, text: list[int]) -> list[int]:
    """A text in the draft's tokens."""
    is_translated = isinstance(session.drafter, TranslatedLM)
    return list(session.drafter.translation.encode(text)) if is_translated else text


def in_blocks(num_tokens: int) -> int:
    """Tokens of whole blocks."""
    return num_tokens // BLOCK * BLOCK


@pytest.mark.slow
@pytest.mark.parametrize("way", ["finished", "left", "resting"])
@KINDS
def test_the_next_turn_finds_the_answer_of_the_last_one(kind: str, way: str) -> None:
    """Which changes no text; a draft that rests at the end has not read the answer."""
    target, draft, vocab, prompts = case(kind)
    shared, sampling = workspace(), replace(SETTINGS[1], max_new_tokens=24)
    session, found = session_of(kind, shared, [Request(prompts[1], sampling)]), {}
    assert session.drafter is not None
    if way == "resting":
        session.method = PLAIN
        session.drafter.rest()
        with torch.inference_mode():
            found[0] = [t for step in session.run() for t in step.blocks[0].token_ids]
    else:
        finish(session, found, 10**6 if way == "finished" else 12)
        session.leave({0})
    text = [*prompts[1], *found[0]]
    assert in_blocks(len(text)) > in_blocks(len(prompts[1]))
    if kind != "head":
        read = own_ids(session, prompts[1] if way == "resting" else text)
        (held,) = session.drafter.num_found([own_ids(session, text + prompts[0])], [""])
        assert in_blocks(len(read)) - BLOCK <= held <= in_blocks(len(read))
    session.close()
    request = Request([*text, *prompts[0][:20]], SETTINGS[0])
    again, more = session_of(kind, shared, [request]), {}
    assert again.cached[0] == in_blocks(len(text) - 2)
    finish(again, more)
    expected = token_ids(target, draft, METHOD, [request.prompt_ids], request.sampling, vocab)
    assert more[0] == expected[0]
