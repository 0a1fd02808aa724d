"""Heads that read the target's hidden state as drafts: greedy texts, laws, and what they draft."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support import oracles
from support.caches import CLOSE
from support.heads import random_head
from support.tiny import (
    PROMPTS,
    VOCAB,
    each_once,
    is_greedy,
    label,
    prefilled,
    random_tree,
    reference_text,
    tiny_model,
    token_ids,
    variants,
)
from support.toy_texts import (
    DRAFTING,
    LENGTH,
    PROMPT,
    SCALED_TARGET,
    decode_groups,
    penalized_law,
    plain_law,
    plain_requests,
)
from support.toys import MarkovPair, assert_law, requests_of

from mtad.core.tree import TokenTree
from mtad.engine.session import Request, Session
from mtad.errors import NonFiniteLogitsError
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.head_drafter import HeadDrafter
from mtad.model.lm import LM, Model
from mtad.model.recurrent_head import RecurrentHead
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.testing import TOY_TARGET, Table, markov_model, random_llama

ARCHITECTURES = ("llama", "qwen2", "gpt2", "opt")
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=14)


def drafts(method: Method) -> bool:
    return method.drafted_by == "draft" and (is_greedy(method) or method.name == "bild")


def in_some_model() -> list[Any]:
    """Every variant that drafts in one architecture; the first ones of some methods are quick."""
    firsts = {repr(given.values[0]) for given in each_once() if not given.marks}
    return [
        pytest.param(
            method,
            name := ARCHITECTURES[index % len(ARCHITECTURES)],
            id=f"{label(method)}-{name}",
            marks=() if repr(method) in firsts else pytest.mark.slow,
        )
        for index, method in enumerate(filter(drafts, variants()))
    ]


@pytest.mark.parametrize(("method", "name"), in_some_model())
def test_greedy_texts_are_those_of_transformers(method: Method, name: str) -> None:
    model = tiny_model(name)
    head = random_head(model, 40, scale=0.02)
    expected = [reference_text(model, prompt, 14) for prompt in PROMPTS]
    assert token_ids(model, head, method, PROMPTS, GREEDY) == expected
    head.config = replace(head.config, copy_rates=COPYING)
    assert token_ids(model, head, method, PROMPTS, GREEDY) == expected


COPYING = (0.0, 0.3, 0.55, 0.8)
"""Rates of a head that also copies from the text."""


def toy_of(table: Table, is_whole: bool, copy_rates: tuple[float, ...] = ()) -> MarkovPair:
    """A toy target, and a head whose law depends on the two tokens before; of all or two tokens."""
    target = markov_model(table)
    head = random_head(target, seed=3, scale=0.3)
    if not is_whole:
        kept = torch.tensor([0, 2])
        part = RecurrentHead(replace(head.config, draft_vocab_size=2), head._embedding[0])
        state = head.state_dict()
        part.load_state_dict(state | {"d2t": kept, "lm_head.weight": state["lm_head.weight"][kept]})
        head = part.eval()
    head.config = replace(head.config, copy_rates=copy_rates)
    return MarkovPair(target, head, len(table))


@pytest.fixture(
    scope="module",
    params=[(True, ()), (False, ()), (True, COPYING), (False, COPYING)],
    ids=["all", "a_part", "all_copying", "a_part_copying"],
)
def toy(request: pytest.FixtureRequest) -> MarkovPair:
    return toy_of(TOY_TARGET, *request.param)


def test_the_toy_head_reads_the_hidden_state(toy: MarkovPair) -> None:
    logprobs = first_logits(toy, [[0, 1], [1, 1], [2, 1]]).log_softmax(-1).exp()
    gaps = [(logprobs[i] - logprobs[j]).abs().sum() for i, j in ((0, 1), (1, 2), (0, 2))]
    assert max(gaps) > 0.1, "the same root after other tokens: another law"


@torch.inference_mode()
def first_logits(pair: MarkovPair, texts: list[list[int]]) -> torch.Tensor:
    target = LM(pair.target, "target", pair.vocab, len(texts), 16, keeps_hidden=True)
    target.prefill(texts)
    drafter = drafting_for(target, pair.draft, len(texts))
    root, before = (torch.tensor([text[place] for text in texts]) for place in (-1, -2))
    return drafter.forward_level(TokenTree.root(root, before))[:, 0]


def drafting_for(target: LM, head: RecurrentHead, num_rows: int) -> HeadDrafter:
    drafter = HeadDrafter(head, "draft", target.vocab, target)
    drafter.begin_prefill([[0]] * num_rows)
    drafter.end_prefill()
    return drafter


@pytest.mark.parametrize(("name", "options"), DRAFTING)
def test_texts_have_the_law_of_the_target(
    toy: MarkovPair, name: str, options: dict[str, Any]
) -> None:
    groups = [plain_requests(900, 6), plain_requests(300, LENGTH)]
    for texts in decode_groups(toy, name, options, groups):
        assert_law(texts, plain_law())


OUTSIDE: list[dict[str, Any]] = [
    {"logit_bias": {1: 1.2, 0: -0.4}, "repetition_penalty": 1.5},
    {"suppress_tokens": (0, 2)},
    {"eos_token_ids": (1, 2), "min_new_tokens": 2, "temperature": 0.7, "top_k": 2},
]
"""What is asked of tokens that the head lacks, and a ban on all that it has."""


@pytest.mark.slow
@pytest.mark.parametrize("copy_rates", [(), COPYING], ids=["own", "copying"])
@pytest.mark.parametrize(("name", "options"), DRAFTING)
def test_penalized_laws(name: str, options: dict[str, Any], copy_rates: tuple[float, ...]) -> None:
    """Rows with settings of their own, in one batch; the head has a part of the tokens."""
    pair = toy_of(SCALED_TARGET, is_whole=False, copy_rates=copy_rates)
    groups = [requests_of([PROMPT] * 150, max_new_tokens=6, **given) for given in OUTSIDE]
    found = decode_groups(pair, name, options, groups)
    for given, texts in zip(OUTSIDE, found, strict=True):
        eos = given.get("eos_token_ids", ())
        assert_law(texts, oracles.text_law(penalized_law(given), PROMPT, LENGTH, eos))


@pytest.fixture(scope="module")
def target() -> Model:
    return random_llama()


@pytest.mark.parametrize("widths", [(1, 1), (3, 4, 2)])
def test_a_node_is_drafted_from_the_states_on_its_path(target: Model, widths) -> None:
    head, tree = random_head(target, 40, scale=0.3), random_tree(PROMPTS, widths, seed=4)
    lm = LM(target, "target", VOCAB, len(PROMPTS), 64, keeps_hidden=True)
    with torch.inference_mode():
        lm.prefill(PROMPTS)
        drafter, part = drafting_for(lm, head, len(PROMPTS)), random_tree(PROMPTS, (), seed=4)
        found = [drafter.forward_level(part)]
        for level in tree.levels[1:]:
            zeros = torch.zeros(len(PROMPTS), level.stop - level.start)
            part = part.grow(tree.tokens[:, level], tree.parents[:, level], zeros == 0, zeros)
            found.append(drafter.forward_level(part))
            again = drafter.forward_level(part)
            assert torch.equal(again, found[-1]), "a level that is fed twice is the same"
        for row, logits in enumerate(torch.cat(found, dim=1)):
            for node in range(tree.num_nodes):
                state = head.enter(lm.hidden[row])
                for above in tree.ancestors[row, node].nonzero()[:, 0]:
                    state = head(head.embed(tree.tokens[row, above]), state)
                torch.testing.assert_close(logits[node], head.logits(state), **CLOSE)


def test_a_head_that_fails_is_named(target: Model) -> None:
    head = random_head(target)
    with torch.no_grad():
        head.fc.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteLogitsError, match="the draft model returned NaN"):
        token_ids(target, head, SpeculativeSampling(2), PROMPTS, GREEDY)


def test_a_target_without_logits_fails_its_own_text_alone(target: Model) -> None:
    """Its states are NaN, too, and the text that takes its row must not get them."""
    params = SamplingParams(max_new_tokens=8, seed=1)
    expected = token_ids(target, random_head(target), SpeculativeSampling(2), PROMPTS[:1], params)
    with torch.inference_mode():
        requests = [Request(PROMPTS[1], params), Request(PROMPTS[0], params)]
        session = Session(target, random_head(target), SpeculativeSampling(2), requests, VOCAB)
        session.target.hidden[0] = float("nan")
        texts: list[list[int]] = [[], []]
        errors = []
        while session.rows:
            for block in session.step().blocks:
                texts[block.request] += block.token_ids
                errors += [(block.request, str(block.error))] if block.error else []
    assert [request for request, _ in errors] == [0]
    assert texts[1] == expected[0]


def test_a_prefilled_target_keeps_nothing_unless_asked(target: Model) -> None:
    assert prefilled(target, PROMPTS).hidden.shape == (len(PROMPTS), 0)
