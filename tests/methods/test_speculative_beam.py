"""Speculative beam search: a simulation block by block, beam search itself, greedy, and pinning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from support import oracles
from support.heads import random_head
from support.oracles import Law, Text
from support.tiny import PROMPTS, VOCAB, similar, token_ids
from support.toys import J_DRAFT, J_TARGET, MarkovPair, decode_all, make

from mtad.engine.decode import decode
from mtad.engine.session import Request
from mtad.engine.stats import Stats
from mtad.errors import OptionError
from mtad.model.lm import Model
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.testing import random_llama

EOS, NUM_TOKENS = 0, 6


def simulated(
    p: Law,
    q: Law,
    prompt: Text,
    budget: int,
    eos: Sequence[int],
    *,
    num_beams: int,
    num_draft_tokens: int,
    beam_width: int,
    length_penalty: float = 0.0,
    pinned: bool = False,
) -> list[Text]:
    """The blocks of the method, by strings: what is a node is in a set of strings."""

    def ended(text: Text) -> bool:
        return len(done) + len(text) == budget or bool(text and text[-1] in eos)

    def best(pool: list[tuple[Text, float]], count: int) -> list[tuple[Text, float]]:
        return sorted(pool, key=lambda one: -one[1])[:count]

    def longer(text: Text, score: float, law: Law) -> list[tuple[Text, float]]:
        """A text that has ended is its own only continuation."""
        if ended(text):
            return [(text, score)]
        return [((*text, v), score + math.log(x)) for v, x in enumerate(law(prompt + done + text))]

    done: Text = ()
    blocks: list[Text] = []
    beams, greedy = [((), 0.0)], ((), 0.0)
    while len(done) < budget and not (done and done[-1] in eos):
        everyone = [*beams, *([greedy] if pinned else [])]
        nodes = {text[:i] for text, _ in everyone for i in range(len(text) + 1)}
        drafted = [one for one in dict.fromkeys(everyone) if not ended(one[0])]
        for depth in range(len(drafted[0][0]) + 1, num_draft_tokens + 1):
            if len(done) + depth >= budget:
                break
            followed = [one for one in drafted if not ended(one[0])]
            drafted = best([more for one in followed for more in longer(*one, q)], beam_width)
            nodes |= {text for text, _ in drafted}
        while not all(ended(text) for text, _ in everyone):
            if any(text not in nodes for text, _ in everyone if not ended(text)):
                break
            beams = best([more for one in beams for more in longer(*one, p)], num_beams)
            greedy = best(longer(*greedy, p), 1)[0]
            everyone = [*beams, *([greedy] if pinned else [])]
        known = greedy[0] if pinned else beams[0][0]
        longest = max(len(text) for text, _ in everyone)
        fixed = known[: max(0, min(longest - num_draft_tokens, len(known)))]
        beams = [one for one in beams if one[0][: len(fixed)] == fixed]
        everyone = [*beams, *([greedy] if pinned else [])]
        won = max(everyone, key=lambda o: o[1] / max(1, len(done + o[0])) ** length_penalty)
        count = next(
            n
            for n in range(99)
            if len({text[: n + 1] for text, _ in everyone}) > 1 or n == len(known)
        )
        block = known[:count]
        if all(ended(text) for text, _ in everyone) or (length_penalty == 0 and ended(won[0])):
            block = won[0]
        blocks.append(block)
        done += block
        beams = [(text[len(block) :], score) for text, score in beams]
        greedy = (greedy[0][len(block) :], greedy[1])
        beams = beams or [greedy]
    return blocks


def law_of(model: Model) -> Law:
    """The next token's law after a text."""

    @cache
    def law(text: Text) -> list[float]:
        with torch.inference_mode():
            probs: list[float] = (
                model(torch.tensor([text])).logits[0, -1].double().softmax(0).tolist()
            )
        return probs

    return law


@cache
def some_pair(seed: int) -> tuple[Model, Model, Law, Law]:
    """A target and a draft that is right now and then, and their laws.

    Every text has a probability of its own, where a model of the last token alone has many equals.
    """
    target = random_llama(vocab=NUM_TOKENS, seed=seed)
    draft = similar(target, 0.03)
    return target, draft, law_of(target), law_of(draft)


def requests(eos: Sequence[int]) -> list[Request]:
    """Three texts of different prompts and budgets."""
    params = SamplingParams(temperature=0.0, eos_token_ids=tuple(eos))
    prompts = [[3], [4, 1], [2, 2, 1]]
    return [
        Request(prompt, replace(params, max_new_tokens=12 - i)) for i, prompt in enumerate(prompts)
    ]


def score(p: Law, prompt: Sequence[int], text: Sequence[int]) -> float:
    """Log-probability of a text."""
    return math.log(oracles.joint(p, tuple(prompt), tuple(text)))


OPTIONS: list[dict[str, Any]] = [
    {"num_beams": 1, "num_draft_tokens": 3, "beam_width": 2},
    {"num_beams": 2, "num_draft_tokens": 3, "beam_width": 2},
    {"num_beams": 3, "num_draft_tokens": 4, "beam_width": 5},
    {"num_beams": 2, "num_draft_tokens": 4, "beam_width": 4, "length_penalty": 1.0},
    {"num_beams": 2, "num_draft_tokens": 3, "beam_width": 3, "pinned": True},
    {"num_beams": 3, "num_draft_tokens": 5, "beam_width": 4, "pinned": True},
]


EOSES = pytest.mark.parametrize("eos", [(), (EOS,)], ids=["no eos", "eos"])


def blocks_of(seed: int, method: Method, given: Sequence[Request]) -> list[list[Text]]:
    """The tokens of every iteration of every text."""
    target, draft, *_ = some_pair(seed)
    blocks: list[list[Text]] = [[] for _ in given]
    for step in decode(target, draft, method, given, NUM_TOKENS):
        for block in step.blocks:
            blocks[block.request].append(block.token_ids)
    return blocks


def texts_of(seed: int, name: str, given: Sequence[Request], **options: Any) -> list[list[int]]:
    """What a method writes."""
    target, draft, *_ = some_pair(seed)
    return decode_all(target, draft, make(name, **options), given, NUM_TOKENS)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@EOSES
def test_every_block_is_that_of_a_simulation(options: dict[str, Any], eos: Sequence[int]) -> None:
    given = requests(eos)
    for seed in range(3):
        found = blocks_of(seed, make("speculative_beam", **options), given)
        for request, blocks in zip(given, found, strict=True):
            prompt, budget = tuple(request.prompt_ids), request.sampling.max_new_tokens
            assert blocks == simulated(*some_pair(seed)[2:], prompt, budget, eos, **options)


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 2, 3])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_where_nothing_is_given_up_it_is_beam_search(num_beams: int, length_penalty: float) -> None:
    options = {"num_beams": num_beams, "length_penalty": length_penalty}
    for seed in range(4):
        found = texts_of(seed, "speculative_beam", requests((EOS,)), num_draft_tokens=12, **options)
        assert found == texts_of(seed, "beam_search", requests((EOS,)), **options)


@pytest.mark.slow
@pytest.mark.parametrize("pinned", [False, True])
def test_one_hypothesis_is_greedy_decoding(pinned: bool) -> None:
    for seed in range(3):
        found = texts_of(seed, "speculative_beam", requests(()), num_beams=1, pinned=pinned)
        assert found == texts_of(seed, "autoregressive", requests(()))


@pytest.mark.slow
@pytest.mark.parametrize("options", [o for o in OPTIONS if o.get("pinned")], ids=str)
@EOSES
def test_a_pinned_text_is_never_less_likely_than_the_greedy_one(
    options: dict[str, Any], eos: Sequence[int]
) -> None:
    gains = []
    for seed in range(10):
        given, p = requests(eos), some_pair(seed)[2]
        greedy = texts_of(seed, "autoregressive", given)
        texts = texts_of(seed, "speculative_beam", given, **options)
        for request, *pair in zip(given, texts, greedy, strict=True):
            ours, others = (score(p, request.prompt_ids, text) for text in pair)
            gains.append(ours - others)
    assert min(gains) > -1e-5
    assert sum(gain > 1e-5 for gain in gains) >= 3


def test_iterations_without_a_token_are_counted() -> None:
    method = make("speculative_beam", num_beams=3, num_draft_tokens=4, beam_width=5)
    target, draft, *_ = some_pair(0)
    stats, num_empty = Stats(), 0
    for step in decode(target, draft, method, requests(())[:1], NUM_TOKENS):
        stats.add(step.blocks[0])
        num_empty += step.blocks[0].token_ids == ()
    assert stats.num_empty_steps == num_empty > 0
    assert stats.mean_acceptance_length == 12 / stats.num_spec_steps


def test_golden_texts_and_calls_of_toy_j() -> None:
    pair = MarkovPair.of(J_TARGET, J_DRAFT)
    given = [Request([3], SamplingParams(temperature=0.0, max_new_tokens=10))]
    for num_beams, token in ((1, 0), (2, 1)):
        method = make(
            "speculative_beam", num_beams=num_beams, num_draft_tokens=3, beam_width=2 * num_beams
        )
        steps = list(decode(pair.target, pair.draft, method, given, pair.vocab))
        assert [t for step in steps for t in step.blocks[0].token_ids] == [token] * 10
        assert len(steps) == 3
    assert score(oracles.markov(J_TARGET), [3], [1] * 10) == pytest.approx(-1.746752, abs=1e-6)


@pytest.mark.slow
def test_a_head_drafts_the_same_texts() -> None:
    target = random_llama(vocab=VOCAB)
    params = SamplingParams(temperature=0.0, max_new_tokens=10)
    search = token_ids(target, None, make("beam_search", num_beams=2), PROMPTS, params)
    method = make("speculative_beam", num_beams=2, num_draft_tokens=10)
    assert token_ids(target, random_head(target), method, PROMPTS, params) == search


def test_trees_without_room_for_the_hypotheses_are_refused() -> None:
    with pytest.raises(OptionError, match="beam_width is 2; it must be at least 3"):
        make("speculative_beam", num_beams=2, beam_width=2, pinned=True)
    with pytest.raises(OptionError, match="top_k"):
        make("speculative_beam").check(SamplingParams(temperature=0.0, top_k=5))
