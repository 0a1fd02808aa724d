"""Drafts that know a part of the vocabulary: no law and no greedy text of a target changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import oracles
from support.tiny import (
    PROMPTS,
    VOCAB,
    complete,
    drafting_variants,
    is_greedy,
    methods_that,
    reference_text,
    similar,
    tiny_model,
)
from support.toy_texts import (
    DRAFTING,
    LENGTH,
    PENALTIES,
    PROMPT,
    SCALED_DRAFT,
    SCALED_TARGET,
    decode_groups,
    penalized_law,
    plain_law,
    plain_requests,
)
from support.toys import MarkovPair, assert_law, iterate, make, requests_of
from support.trimmed import trimmed

from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.testing import TOY_DRAFT, TOY_START, TOY_TARGET

KNOWN = (2, 0)
"""The toy tokens that the draft has, in its own order; it lacks token 1 and the start."""
OUTSIDE: list[dict[str, Any]] = [
    {"logit_bias": {1: 1.2, 0: -0.4}, "repetition_penalty": 1.5},
    {"suppress_tokens": (0, 2)},
    {"suppress_tokens": (1,), "presence_penalty": 0.8},
    {"eos_token_ids": (1, 2), "min_new_tokens": 2, "temperature": 0.7, "top_k": 2},
]
"""What is asked of tokens that the draft lacks, and a ban on all that it has."""


@pytest.fixture(scope="module", params=[False, True], ids=["head", "embedding"])
def toy(request: pytest.FixtureRequest) -> MarkovPair:
    pair = MarkovPair.of(TOY_TARGET, TOY_DRAFT)
    return MarkovPair(pair.target, trimmed(pair.draft, KNOWN, request.param), pair.vocab)


@pytest.fixture(scope="module")
def scaled() -> MarkovPair:
    pair = MarkovPair.of(SCALED_TARGET, SCALED_DRAFT)
    return MarkovPair(pair.target, trimmed(pair.draft, KNOWN), pair.vocab)


@pytest.mark.parametrize(("name", "options"), DRAFTING)
def test_text_has_the_law_of_the_target(
    toy: MarkovPair, name: str, options: dict[str, Any]
) -> None:
    groups = [plain_requests(900, 6), plain_requests(300, 4)]
    for texts in decode_groups(toy, name, options, groups):
        assert_law(texts, plain_law())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), DRAFTING)
def test_penalized_laws(scaled: MarkovPair, name: str, options: dict[str, Any]) -> None:
    """Settings differ from row to row of one batch; every row has the law of its own."""
    settings = [*OUTSIDE, *PENALTIES[::3]]
    groups = [requests_of([PROMPT] * 150, max_new_tokens=6, **s) for s in settings]
    for given, texts in zip(settings, decode_groups(scaled, name, options, groups), strict=True):
        eos = given.get("eos_token_ids", ())
        assert_law(texts, oracles.text_law(penalized_law(given), PROMPT, LENGTH, eos))


@pytest.mark.parametrize("warp", [{}, {"temperature": 0.6, "top_k": 1}, {"top_p": 0.5}], ids=str)
def test_q_is_the_law_of_the_tokens_that_the_draft_has(
    toy: MarkovPair, warp: dict[str, Any]
) -> None:
    tree = iterate(toy, make("specinfer", k_config=(2, 2)), [(TOY_START, 0)], **warp).tree
    known = [oracles.log(x) if i in KNOWN else -1e9 for i, x in enumerate(TOY_DRAFT[0])]
    assert tree.draft_logprobs[0].shape == (1, 1, toy.vocab)
    wanted = [*oracles.warp(known, **warp), 0.0]
    assert tree.draft_logprobs[0][0, 0].exp().tolist() == pytest.approx(wanted, abs=1e-5)
    assert set(tree.tokens[tree.alive][2:].tolist()) <= set(KNOWN)


FAR = MarkovPair.everywhere((0.35, 0.25, 0.2, 0.1, 0.1), (0.04, 0.06, 0.3, 0.4, 0.2))
"""The two likeliest tokens of one are not those of the other."""


@pytest.mark.parametrize("widths", [(3,), (4, 2)])
@pytest.mark.parametrize("warp", [{"top_k": 2}, {"min_p": 0.5}, {"top_p": 0.6}], ids=str)
def test_a_token_that_truncation_removed_is_no_child(
    warp: dict[str, Any], widths: tuple[int, ...]
) -> None:
    """Drawn without replacement: a child that the draft gives no probability is always accepted."""
    pair = MarkovPair(FAR.target, trimmed(FAR.draft, (3, 1, 2, 0)), 5)
    method = make("mcss", k_config=widths)
    tree = iterate(pair, method, [(0, 1)], **warp).tree
    assert set(tree.tokens[0, 1 : 1 + widths[0]][tree.alive[0, 1 : 1 + widths[0]]].tolist()) == {
        2,
        3,
    }
    groups = [requests_of([(0, 1)] * 900, max_new_tokens=4, **warp)]
    [texts] = decode_groups(pair, "mcss", {"k_config": widths}, groups)
    law = oracles.warp([oracles.log(x) for x in (0.35, 0.25, 0.2, 0.1, 0.1)], **warp)
    assert_law((text[0] for text in texts), dict(enumerate(law)))


SOME = [*range(40, 7, -3), 3, 5, 9]
"""Tokens of the tiny models' vocabulary, in an order of the draft's own."""


@pytest.mark.parametrize("method", drafting_variants())
def test_greedy_text_is_the_target_s(method: Method) -> None:
    target = tiny_model("llama")
    draft = trimmed(similar(target, 0.02), SOME, embedding=method.name == "mtad")
    params = SamplingParams(
        temperature=0.0, max_new_tokens=14, logit_bias={4: 2.5, 9: -3.0}, suppress_tokens=[0, 8]
    )
    texts = complete(target, draft, method, PROMPTS, params)
    assert sum(sum(text.num_accepted) for text in texts) > 0
    if not is_greedy(method):
        return
    biases = [[[t], b] for t, b in {4: 2.5, 9: -3.0}.items()]
    rules = {"sequence_bias": biases, "suppress_tokens": [0, 8]}
    expected = [reference_text(target, prompt, 14, **rules) for prompt in PROMPTS]
    assert [text.token_ids for text in texts] == expected


@pytest.mark.parametrize("method", methods_that(lambda m: m.drafter == "draft"))
def test_sampled_drafts_are_of_tokens_that_the_draft_has(method: Method) -> None:
    """With top-k and penalties, beside a greedy row; no more than the draft's support is alive."""
    pair = MarkovPair(tiny_model("llama"), trimmed(tiny_model("llama"), SOME), VOCAB)
    for sampling in ({"top_k": 4, "repetition_penalty": 1.3}, {"temperature": 0.0}, {}):
        tree = iterate(pair, method, PROMPTS, **sampling).tree
        drafted = tree.tokens[:, 1:][tree.alive[:, 1:]]
        assert len(drafted) and set(drafted.tolist()) <= set(SOME)
        assert torch.isfinite(tree.node_logprobs[tree.alive]).all()


def test_no_tensor_of_the_drafter_has_nodes_and_vocabulary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beams of a trimmed draft are chosen among its own tokens, penalties included."""
    from torch.utils._python_dispatch import TorchDispatchMode

    shapes: set[tuple[int, ...]] = set()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                shapes.add(tuple(out.shape))
            return out

    method = make("mtad", num_draft_tokens=3, beam_width=4)
    draft = method.draft

    def watched(*args: Any) -> Any:
        with Seen():
            return draft(*args)

    monkeypatch.setattr(type(method), "draft", lambda self, *args: watched(*args))
    pair = MarkovPair(tiny_model("llama"), trimmed(tiny_model("llama"), SOME), VOCAB)
    iterate(pair, method, PROMPTS, repetition_penalty=1.2, logit_bias={3: 1.0})
    assert (3, 4, len(SOME)) in shapes
    assert not [s for s in shapes if len(s) == 3 and s[-1] == VOCAB]
