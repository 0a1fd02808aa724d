"""Drafts with another tokenizer: no law and no greedy text of a target changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support import oracles
from support.tiny import (
    PROMPTS,
    VOCAB,
    complete,
    drafting_variants,
    each_once,
    honours,
    is_greedy,
    reference_text,
    similar,
    suited,
    tiny_model,
    token_ids,
)
from support.toy_texts import (
    DRAFTING,
    EMPTY,
    LENGTH,
    PENALTIES,
    PROMPT,
    decode_groups,
    penalized_law,
    plain_law,
    plain_requests,
)
from support.toys import assert_law, make, requests_of
from support.two_drafts import costly, models, prompts, renumbered, require_fresh_drafts, toy_pair
from support.two_tokenizers import byte_level, characters, toy_tokenizers

from mtad.engine.session import Observation, Request, Session
from mtad.engine.workspace import Workspace
from mtad.model.translated import TranslatedLM, translated
from mtad.model.translation import Translation
from mtad.runtime.cpu_tapes import Tapes
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.testing import TOY_TARGET, markov_model

OUTSIDE: list[dict[str, Any]] = [
    {"logit_bias": {1: 1.2, 0: -0.4}, "repetition_penalty": 1.5},
    {"suppress_tokens": (0, 2)},
    {"eos_token_ids": (1,), "min_new_tokens": 2, "temperature": 0.7, "top_k": 2},
]


@pytest.mark.parametrize(("name", "options"), DRAFTING)
def test_text_has_the_law_of_the_target(name: str, options: dict[str, Any]) -> None:
    groups = [plain_requests(900, 6), plain_requests(300, 4)]
    for texts in decode_groups(toy_pair(), name, options, groups):
        assert_law(texts, plain_law())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), DRAFTING)
def test_penalized_laws(name: str, options: dict[str, Any]) -> None:
    settings = [*OUTSIDE, *PENALTIES[1::4]]
    groups = [requests_of([PROMPT] * 150, max_new_tokens=6, **s) for s in settings]
    found = decode_groups(toy_pair(scaled=True), name, options, groups)
    for given, texts in zip(settings, found, strict=True):
        eos = given.get("eos_token_ids", ())
        assert_law(texts, oracles.text_law(penalized_law(given), PROMPT, LENGTH, eos))


# --- models whose drafts depend on the whole text ---------------------------------------------

BIASES = {106: 4.0, 260: 4.0}
"""Of tokens that both have, so that drafts are accepted now and then."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("specinfer", {"k_config": (2, 2)}),
        ("speculative_sampling", {"num_draft_tokens": 1}),
        ("mtad", {"num_draft_tokens": 3, "beam_width": 2}),
        ("mmtad", {"num_draft_tokens": 2, "beam_width": 3}),
    ],
)
def test_drafts_follow_the_committed_text(name: str, options: dict[str, Any]) -> None:
    """Whatever was kept in the cache, with rows that join, leave and are preempted."""
    target, draft = models()
    seen: list[Observation] = []
    params = SamplingParams(max_new_tokens=24, temperature=1.0, logit_bias=BIASES)
    requests = [Request(p, replace(params, seed=i)) for i, p in enumerate(prompts())]
    with torch.inference_mode():
        session = Session(target, draft, make(name, **options), requests[:3], len(byte_level()))
        session.observe = seen.append
        for turn in range(16):
            if turn > 5 and not session.rows:
                break
            if turn == 2:
                session.join(requests[3:])
                while session.prefill_chunk():
                    pass
            if turn == 5:
                session.leave([0])
            session.step()
    assert isinstance(session.drafter, TranslatedLM)
    assert sum(require_fresh_drafts(draft, one, BIASES) for one in seen) > 30
    accepted = torch.cat([one.verdict.num_accepted for one in seen])
    depth = len(options.get("k_config", ())) or options["num_draft_tokens"]
    assert (accepted == 0).any() and (accepted == depth).any()


SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.8, "repetition_penalty": 1.3, "logit_bias": {4: 2.5}},
    {"temperature": 0.0},
    {"top_k": 9, "suppress_tokens": (5,)},
]


@pytest.mark.parametrize("method", drafting_variants())
def test_the_same_draft_behind_other_ids_gives_the_same_blocks(method: Method) -> None:
    """What a method drafts, accepts and counts, rows of three settings in one batch."""
    target = tiny_model("llama")
    settings = [given if honours(method, **given) else {"temperature": 0.0} for given in SETTINGS]
    params = [
        suited(method, SamplingParams(max_new_tokens=14, seed=row, **given))
        for row, given in enumerate(settings)
    ]
    draft = similar(target, 0.02)
    wanted, found = (
        [text.blocks for text in complete(target, one, method, PROMPTS, params)]
        for one in (draft, renumbered(draft))
    )
    assert found == wanted
    assert sum(block.num_accepted for blocks in found for block in blocks) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        m
        for m in each_once(("mcss", "mmtad", "speculative_sampling"))
        if m.values[0].drafted_by == "draft"
    ],
)
def test_greedy_text_is_the_target_s(method: Method) -> None:
    target, draft = models()
    params = SamplingParams(temperature=0.0, max_new_tokens=14, suppress_tokens=[0, 1])
    texts = token_ids(target, draft, method, prompts(), params, len(byte_level()))
    if not is_greedy(method):
        return
    rules = {"suppress_tokens": [0, 1]}
    assert texts == [reference_text(target, p, 14, **rules) for p in prompts()]


def test_a_draft_that_knows_the_target_s_text_is_accepted() -> None:
    """The same network behind other token ids: every drafted token is the target's own."""
    target, _ = toy_pair().target, None
    draft = markov_model(
        [[row[1], row[0], row[2], 0.0] for row in (TOY_TARGET[i] for i in (1, 0, 2, 3))]
    )
    swapped = characters({"b": 0, "a": 1, "c": 2, "s": 3})
    translation = Translation.between(toy_tokenizers()[0], swapped, 4, 4)
    texts = complete(
        target,
        translated(draft, translation),
        make("speculative_sampling", num_draft_tokens=3),
        [EMPTY] * 20,
        [SamplingParams(seed=i, max_new_tokens=17) for i in range(20)],
        4,
    )
    assert all(block.num_accepted == block.num_drafted for t in texts for block in t.blocks)


@pytest.mark.slow
def test_a_resumed_text_goes_on_as_if_nothing_had_happened() -> None:
    target, draft = models()
    params = SamplingParams(max_new_tokens=20, seed=7)
    method = make("speculative_sampling", num_draft_tokens=3)
    whole = complete(target, draft, method, prompts()[:1], params, len(byte_level()))[0]
    first = list(whole.blocks[0].token_ids) + list(whole.blocks[1].token_ids)
    resumed = Request(prompts()[0], params, output_ids=first)
    texts: list[int] = []
    with torch.inference_mode():
        session = Session(target, draft, method, [resumed], len(byte_level()))
        for step in session.run():
            texts += step.blocks[0].token_ids
    assert first + texts == whole.token_ids


@pytest.mark.slow
def test_captured_iterations_give_the_same_texts() -> None:
    """The text is encoded and fed between the iterations, which are captured as any others."""
    target, draft = models()
    method = make("mcss", k_config=(2, 2))
    requests = requests_of(prompts()[:2], max_new_tokens=30)
    texts, modes = [], set()
    for workspace in (Workspace(), Workspace(Tapes(patience=1))):
        with torch.inference_mode():
            session = Session(
                target, draft, method, requests, len(byte_level()), workspace=workspace
            )
            found: list[list[int]] = [[], []]
            for step in session.run():
                modes.add(session.graphs.last_mode)
                for block in step.blocks:
                    found[block.request] += block.token_ids
        texts.append(found)
    assert texts[0] == texts[1]
    assert "captured" in modes


@pytest.mark.parametrize("scale", [0.0, 0.02])
def test_what_was_read_is_not_fed_again(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both cut a text alike, there is nothing to feed between iterations."""
    target = tiny_model("llama")
    draft, fed = renumbered(similar(target, scale)), []
    params = SamplingParams(max_new_tokens=20, temperature=0.0)
    method = make("speculative_sampling", num_draft_tokens=3)
    session = Session(target, draft, method, [Request(PROMPTS[0], params)], VOCAB)
    forward = draft.forward
    monkeypatch.setattr(draft, "forward", lambda *a, **k: (fed.append(1), forward(*a, **k))[1])
    accepted = [block.num_accepted for step in session.run() for block in step.blocks]
    assert max(accepted) == 3 if scale == 0 else 0 < sum(accepted) < 2 * len(accepted)
    assert len(fed) == 3 * len(accepted)


@pytest.mark.slow
@pytest.mark.parametrize("num_tokens", [20, 100])
def test_a_text_that_the_draft_needs_more_tokens_for(num_tokens: int) -> None:
    """The draft's cache grows by itself beyond the target's, at once or when the text grows."""
    target, draft = models()
    cat = byte_level()("cat", add_special_tokens=False)["input_ids"]
    prompts = [[*costly(num_tokens), *cat], cat]
    bias = {costly(1)[0]: 50.0}  # says the same again and again
    params = SamplingParams(temperature=0.0, max_new_tokens=30, logit_bias=bias)
    method = make("speculative_sampling", num_draft_tokens=2)
    with torch.inference_mode():
        requests = [Request(prompt, params) for prompt in prompts]
        session = Session(target, draft, method, requests, len(byte_level()))
        sizes = [session.drafter.grown(0, 0)[1]]
        found: list[list[int]] = [[], []]
        for step in session.run():
            sizes.append(session.drafter.grown(0, 0)[1])
            for block in step.blocks:
                found[block.request] += block.token_ids
    assert sizes[-1] > session.target.grown(0, 0)[1]
    assert (sizes[0] < sizes[-1]) is (num_tokens == 20)
    rules = {"sequence_bias": [[[token], value] for token, value in bias.items()]}
    assert found == [reference_text(target, prompt, 30, **rules) for prompt in prompts]
