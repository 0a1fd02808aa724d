"""Temperature 0 equals transformers' own greedy search, and beam search its beam search."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from support.tiny import (
    PROMPTS,
    VOCAB,
    is_greedy,
    label,
    methods_that,
    reference_text,
    similar,
    tiny_model,
    token_ids,
)

from mtad import methods
from mtad.methods.beam_search import BeamSearch
from mtad.methods.mmtad import MMTAD
from mtad.methods.mtjd import MTJD
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.lm import Model
from mtad.sampling.params import SamplingParams

FAMILIES = [
    "llama",
    pytest.param("qwen2", marks=pytest.mark.slow),
    pytest.param("opt", marks=pytest.mark.slow),
    "gpt2",
]
NUM_NEW = 14
OTHERS = [
    methods.find("bild")(num_draft_tokens=3, fallback_threshold=0.0, rollback_threshold=1e-9),
    BeamSearch(num_beams=1),
    MTJD(num_block_tokens=1),
    MTJD(num_block_tokens=3, beam_width=1),
    MMTAD(beam="search"),
    MMTAD(ratio_on="raw", accept_threshold=0.01),
]
GREEDY = methods_that(is_greedy) + [pytest.param(m, id=label(m)) for m in OTHERS]


@dataclass(frozen=True)
class Pair:
    """Two models, and what transformers says the target's greedy texts are."""

    target: Model
    draft: Model
    expected: list[list[int]]

    @classmethod
    def of(cls, family: str, **options: Any) -> Pair:
        target = tiny_model(family)
        texts = [reference_text(target, prompt, NUM_NEW, **options) for prompt in PROMPTS]
        return cls(target, similar(target, 0.1), texts)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair.of(request.param)


@pytest.fixture(scope="module")
def llama() -> Pair:
    return Pair.of("llama")


CHAIN_AND_TREE = pytest.mark.parametrize(
    "method",
    [
        pytest.param(SpeculativeSampling(3), id="chain", marks=pytest.mark.slow),
        pytest.param(MMTAD(3, 3), id="tree"),
    ],
)


@pytest.mark.parametrize("method", GREEDY)
def test_greedy_equals_generate(llama, method):
    params = SamplingParams(temperature=0.0, max_new_tokens=NUM_NEW)
    assert token_ids(llama.target, llama.draft, method, PROMPTS, params) == llama.expected


@CHAIN_AND_TREE
def test_greedy_equals_generate_on_every_family(pair, method):
    params = SamplingParams(temperature=0.0, max_new_tokens=NUM_NEW)
    assert token_ids(pair.target, pair.draft, method, PROMPTS, params) == pair.expected


@pytest.mark.slow
@CHAIN_AND_TREE
def test_greedy_alone_equals_greedy_in_a_batch(llama, method):
    params = SamplingParams(temperature=0.0, max_new_tokens=NUM_NEW)
    alone = [token_ids(llama.target, llama.draft, method, [p], params)[0] for p in PROMPTS]
    assert alone == llama.expected


def test_greedy_does_not_depend_on_truncation_or_seed(pair):
    params = SamplingParams(temperature=0.0, top_k=3, top_p=0.2, seed=99, max_new_tokens=NUM_NEW)
    method = SpeculativeSampling(3)
    assert token_ids(pair.target, pair.draft, method, PROMPTS, params) == pair.expected


@CHAIN_AND_TREE
def test_a_useless_draft_costs_nothing_but_time(pair, method):
    stranger = tiny_model("llama", seed=8)
    params = SamplingParams(temperature=0.0, max_new_tokens=NUM_NEW)
    assert token_ids(pair.target, stranger, method, PROMPTS, params) == pair.expected


@pytest.mark.parametrize("num_beams", [2, 3, 5])
def test_beam_search_equals_generate(pair, num_beams):
    params = SamplingParams(max_new_tokens=8)
    search = {"num_beams": num_beams, "length_penalty": 0.0}
    expected = [reference_text(pair.target, prompt, 8, **search) for prompt in PROMPTS]
    assert token_ids(pair.target, None, BeamSearch(num_beams), PROMPTS, params) == expected


def test_wide_joint_beams_equal_beam_search(pair):
    params = SamplingParams(temperature=0.0, max_new_tokens=6)
    method = MTJD(num_block_tokens=6, beam_width=5)
    joint = token_ids(pair.target, None, method, PROMPTS, params)
    assert joint == token_ids(pair.target, None, BeamSearch(5), PROMPTS, params)


BIAS = {4: 2.5, 9: -3.0, 20: 1.5}
RULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "repetition": ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
    "repetition_reward": ({"repetition_penalty": 0.8}, {"repetition_penalty": 0.8}),
    "bias": ({"logit_bias": BIAS}, {"sequence_bias": [[[t], b] for t, b in BIAS.items()]}),
    "suppress": ({"suppress_tokens": [0, 7, 8, 9]}, {"suppress_tokens": [0, 7, 8, 9]}),
    "min_new": (
        {"min_new_tokens": 7, "eos_token_ids": list(range(0, VOCAB, 3))},
        {"min_new_tokens": 7, "eos_token_id": list(range(0, VOCAB, 3))},
    ),
    "everything": (
        {
            "repetition_penalty": 1.2,
            "logit_bias": BIAS,
            "suppress_tokens": [3, 5],
            "min_new_tokens": 4,
            "eos_token_ids": list(range(0, VOCAB, 3)),
        },
        {
            "repetition_penalty": 1.2,
            "sequence_bias": [[[t], b] for t, b in BIAS.items()],
            "suppress_tokens": [3, 5],
            "min_new_tokens": 4,
            "eos_token_id": list(range(0, VOCAB, 3)),
        },
    ),
}


@cache
def ruled(rule: str) -> tuple[Pair, SamplingParams]:
    """A pair with the texts of transformers under a rule, and the rule in our words."""
    ours, theirs = RULES[rule]
    params = SamplingParams(temperature=0.0, max_new_tokens=NUM_NEW, **ours)
    return Pair.of("llama", **theirs), params


@CHAIN_AND_TREE
@pytest.mark.parametrize("rule", RULES)
def test_penalties_and_biases_equal_those_of_transformers(rule, method):
    pair, params = ruled(rule)
    assert token_ids(pair.target, pair.draft, method, PROMPTS, params) == pair.expected


@pytest.mark.parametrize("method", GREEDY)
def test_all_penalties_and_biases_at_once_equal_those_of_transformers(method):
    pair, params = ruled("everything")
    assert token_ids(pair.target, pair.draft, method, PROMPTS, params) == pair.expected


@pytest.mark.parametrize("method", methods_that(is_greedy))
def test_frequency_and_presence_penalties_count_the_output_alone(method):
    """By hand: greedy on logits minus what every token of the output so far costs."""
    target = tiny_model("llama")
    expected = list(PROMPTS[0])
    with torch.inference_mode():
        for _ in range(12):
            logits = target(torch.tensor([expected])).logits[0, -1]
            output = torch.tensor(expected[len(PROMPTS[0]) :], dtype=torch.int64)
            counts = torch.bincount(output, minlength=VOCAB)
            logits = logits - 0.7 * counts - 1.1 * (counts > 0)
            expected.append(int(logits.argmax()))
    params = SamplingParams(
        temperature=0.0, frequency_penalty=0.7, presence_penalty=1.1, max_new_tokens=12
    )
    texts = token_ids(target, similar(target, 0.1), method, PROMPTS[:1], params)
    assert PROMPTS[0] + texts[0] == expected
