"""The guard over heads and over drafts with another tokenizer: texts and drafts stay right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.caches import CLOSE
from support.guarded import Meter, scripted, watched
from support.heads import fresh_hidden, random_head
from support.tiny import PROMPTS, VOCAB, drafting_variants, opposite, tiny_model
from support.toy_texts import DRAFTING, EMPTY, LENGTH, plain_law
from support.toys import assert_law, make, requests_of
from support.two_drafts import models, prompts, renumbered, require_fresh_drafts, toy_pair
from support.two_tokenizers import byte_level

from mtad.api.guard import PLAIN
from mtad.api.pair import ModelPair
from mtad.engine.session import Observation
from mtad.model.drafter import Draft
from mtad.model.lm import Model
from mtad.model.translation import Translation
from mtad.speculative.method import Method

VARIANTS = [
    given
    for given in drafting_variants(fast=("mcss", "mtad", "speculative_sampling"))
    if given.values[0].name != "speculative_beam"
]
ONLY_DRAFTED = [given for given in VARIANTS if given.values[0].drafter == "draft"]
"""Those whose every draft token is the draft model's."""
BIASES = {106: 4.0, 260: 4.0}


@pytest.fixture(scope="module")
def target() -> Model:
    return tiny_model("llama")


@pytest.mark.parametrize("method", VARIANTS)
def test_a_head_reads_fresh_states_after_plain_steps(target: Model, method: Method) -> None:
    requests = requests_of(PROMPTS, max_new_tokens=16)
    texts, head = [list(request.prompt_ids) for request in requests], random_head(target, 40)
    letters = ""
    for session, _, iteration in scripted(target, head, method, requests, VOCAB, "ddppspd."):
        letters += "p" if iteration.is_plain else "d"
        for block in iteration.step.blocks:
            texts[block.request] += block.token_ids
        if running := [texts[request] for request in session.rows]:
            torch.testing.assert_close(
                session.target.hidden, fresh_hidden(target, running), **CLOSE
            )
    assert "dppd" in letters and "pdp" in letters


@pytest.mark.slow
@pytest.mark.parametrize("method", ONLY_DRAFTED)
def test_a_translated_draft_follows_the_text_after_plain_steps(method: Method) -> None:
    target, draft = models()
    requests = requests_of(prompts()[:3], max_new_tokens=24, logit_bias=BIASES)
    seen: list[Observation] = []
    for session, _, _ in scripted(target, draft, method, requests, len(byte_level()), "ddpppsp"):
        session.observe = seen.append
    drafted = [one for one in seen if one.tree.num_nodes > 1]
    assert sum(require_fresh_drafts(draft, one, BIASES) for one in drafted) > 20


KINDS: dict[str, Callable[[Model], Draft]] = {
    "head": lambda target: random_head(target, 40, scale=3.0),
    "translated": lambda target: renumbered(opposite(target)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_useless_draft_is_left_out_and_the_text_stays(
    target: Model, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, meter = ModelPair(target, KINDS[kind](target)), Meter(monkeypatch, draft=0.1)
    [done] = watched(pair, monkeypatch, meter)
    [plain] = watched(pair, monkeypatch, meter, method=PLAIN)
    assert done.token_ids == plain.token_ids
    assert done.stats.fallback is not None and 20 < done.stats.num_plain_steps < 40
    assert done.stats.decode_s <= 1.03 * plain.stats.decode_s


def test_a_draft_that_rests_is_fed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No text is encoded for it, and no forward of it is run; the next session drafts again."""
    target, draft = models()
    encoded, fed = Translation.encode, draft.forward
    calls: list[str] = []

    def noted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return original(*args, **options)

        return call

    monkeypatch.setattr(Translation, "encode", noted("encoded", encoded))
    monkeypatch.setattr(draft, "forward", noted("fed", fed))
    requests = requests_of(prompts()[:2], max_new_tokens=12)
    steps, method = 0, make("speculative_sampling", num_draft_tokens=2)
    for _, guard, _ in scripted(target, draft, method, requests, len(byte_level()), "dd."):
        if guard.has_given_up:
            steps += 1
            assert steps == 1 or not calls
            calls.clear()
    assert steps > 5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), DRAFTING)
def test_the_law_of_the_text_stays(name: str, options: dict[str, Any]) -> None:
    """With a draft of another tokenizer; the choices do not follow the text."""
    pair, method = toy_pair(), make(name, **options)
    requests = requests_of([EMPTY] * 2000, first_seed=77, max_new_tokens=6)
    texts: list[list[int]] = [[] for _ in requests]
    for _, _, iteration in scripted(pair.target, pair.draft, method, requests, pair.vocab, "sdp."):
        for block in iteration.step.blocks:
            texts[block.request] += block.token_ids
    assert_law((tuple(t[:LENGTH]) for t in texts), plain_law())
