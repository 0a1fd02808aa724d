"""Texts of the toy pair: their exact laws, and each lossless method with small drafts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from support import oracles
from support.oracles import Blocks, Law, Text
from support.tiny import FAST
from support.toys import MarkovPair, decode_all, make, requests_of

from mtad.engine.session import Request
from mtad.testing import TOY_DRAFT, TOY_START, TOY_TARGET

EMPTY: Text = (TOY_START,)
P, Q = oracles.markov(TOY_TARGET), oracles.markov(TOY_DRAFT)
LENGTH = 4

ONE_EACH: list[tuple[str, dict[str, Any]]] = [
    ("autoregressive", {}),
    ("speculative_sampling", {"num_draft_tokens": 3}),
    ("block_verification", {"num_draft_tokens": 3}),
    ("spectr", {"num_drafts": 2, "num_draft_tokens": 2}),
    ("specinfer", {"k_config": (2, 2)}),
    ("mcss", {"k_config": (2, 2)}),
    ("mcss", {"k_config": (2, 2), "replacement": "naive"}),
    ("prompt_lookup", {"num_draft_tokens": 2}),
    ("suffix", {"num_draft_tokens": 2, "max_match": 2, "max_places": 5}),
    ("suffix", {"num_draft_tokens": 3, "max_match": 2, "max_places": 5, "fallback": "draft"}),
    ("gbv", {"num_paths": 2, "num_draft_tokens": 3}),
]


def few_of(cases: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
    """Cases as parameters: a chain and a tree stand for the others, which are slow tests."""
    quick = {name: options for name, options in reversed(cases) if name in FAST}
    return [
        pytest.param(*case, marks=() if case in quick.items() else pytest.mark.slow)
        for case in cases
    ]


DRAFTING = few_of([case for case in ONE_EACH if make(case[0], **case[1]).drafted_by == "draft"])
"""Those in which a draft model takes part."""


@cache
def plain_law() -> Blocks:
    """The probability of every text of LENGTH tokens."""
    return oracles.text_law(P, EMPTY, LENGTH)


def decode_groups(
    pair: MarkovPair, name: str, options: dict[str, Any], groups: Sequence[Sequence[Request]]
) -> list[list[Text]]:
    """The texts of several groups of requests, decoded together in one batch and cut."""
    requests = [request for group in groups for request in group]
    texts = decode_all(pair.target, pair.draft, make(name, **options), requests, pair.vocab)
    cut, start = [], 0
    for group in groups:
        cut.append([tuple(t[:LENGTH]) for t in texts[start : start + len(group)]])
        start += len(group)
    return cut


@cache
def plain_requests(rows: int, budget: int) -> list[Request]:
    return requests_of([EMPTY] * rows, first_seed=budget * 1_000_000, max_new_tokens=budget)


WARPS: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"top_k": 2},
    {"top_p": 0.65},
    {"min_p": 0.35},
    {"temperature": 1.4, "top_k": 2, "top_p": 0.8},
]

# Rows of the tables are scaled so that some logits are positive: the repetition penalty divides
# those and multiplies the others.
SCALE = 3.0
SCALED_TARGET = [[SCALE * x for x in row] for row in TOY_TARGET]
SCALED_DRAFT = [[SCALE * x for x in row] for row in TOY_DRAFT]
PENALTIES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.6},
    {"frequency_penalty": 0.7},
    {"presence_penalty": -0.9},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.3},
    {"logit_bias": {0: 0.8, 2: -0.6}, "repetition_penalty": 1.5},
    {"suppress_tokens": (1,), "frequency_penalty": 0.5},
    {"eos_token_ids": (2,), "min_new_tokens": 2},
    {"eos_token_ids": (1,), "min_new_tokens": 3, "temperature": 0.7, "presence_penalty": 0.5},
    {"eos_token_ids": (0, 2)},
    {"repetition_penalty": 1.4, "temperature": 0.8, "top_k": 2},
]
PROMPT: Text = (TOY_START, 0, 0, 2)


def penalized_law(settings: dict[str, Any]) -> Law:
    """The token law after PROMPT with penalties judged along the whole text, then the warp."""
    warps = {k: v for k, v in settings.items() if k in ("temperature", "top_k", "top_p", "min_p")}
    rules = {k: v for k, v in settings.items() if k not in warps and k != "eos_token_ids"}

    def law(text: Text) -> list[float]:
        logits = [oracles.log(x) for x in SCALED_TARGET[text[-1]]]
        output = text[len(PROMPT) :]
        eos = settings.get("eos_token_ids", ())
        seen = [t for t in PROMPT if t < len(logits)]
        scores = oracles.penalized(logits, tuple(seen), output, eos=eos, **rules)
        return oracles.warp(scores, **warps)

    return law


def warped(settings: dict[str, Any], text: Text) -> list[float]:
    return oracles.warp([oracles.log(x) for x in P(text)], **settings)
