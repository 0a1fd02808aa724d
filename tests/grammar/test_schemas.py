"""Random JSON schemas: no text that does not satisfy its schema, whatever the method."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from support.benchmarks import program

import mtad
from mtad.errors import GrammarError
from mtad.grammar.grammar import Grammar

SCHEMAS = program("random_schemas")
ENDINGS = set('"]},')


@pytest.fixture(scope="module")
def pair() -> mtad.ModelPair:
    return mtad.load_pair("demo")


def check(pair: mtad.ModelPair, seed: int) -> bool:
    """Whether a text was complete; it satisfies its schema then."""
    schema = SCHEMAS.schema_of(random.Random(seed))
    method = SCHEMAS.METHODS[seed % len(SCHEMAS.METHODS)]
    greedy = {"temperature": 0.0} if method in SCHEMAS.SEARCHES else {}
    settings: Any = {"grammar": schema, "seed": seed, "max_new_tokens": 250} | greedy
    try:
        found = pair.generate("x = ", method, **settings)[0]
    except GrammarError:
        return False
    if found.finish_reason != "stop":
        return False
    assert SCHEMAS.breaks(found.text, schema) is None
    return True


@pytest.mark.slow
def test_texts_of_random_schemas(pair):
    assert sum(check(pair, seed) for seed in range(8)) >= 4


@pytest.mark.slow
def test_texts_of_many_random_schemas(pair):
    assert sum(check(pair, seed) for seed in range(60)) > 30


def any_text(pair: mtad.ModelPair, schema: Any, rng: random.Random, most: int = 120) -> str | None:
    """A text of tokens that may follow each other, those that end something more often."""
    eos = pair.tokenizer.eos_token_id
    state = pair.models.grammars.begin(Grammar.json(schema), [eos])
    vocab = range(len(pair.tokenizer))
    ending = np.array([{*pair.text_of(t).strip()} <= ENDINGS for t in vocab])
    tokens: list[int] = []
    while len(tokens) < most:
        excluded = state.excluded(())
        assert excluded is not None
        may = ~excluded
        if may[eos] and (rng.random() < 0.5 or may.sum() == 1):
            return str(pair.tokenizer.decode(tokens))
        may[eos] = False
        if rng.random() < 0.5 and (may & ending).any():
            may &= ending
        tokens.append(int(rng.choice(np.flatnonzero(may))))
        if state.push(tokens[-1]):
            return str(pair.tokenizer.decode(tokens))
    return None


def check_any_texts(pair: mtad.ModelPair, seeds: range) -> int:
    """How many texts were complete, of tokens that no model chose; each satisfies its schema."""
    complete = 0
    for seed in seeds:
        rng = random.Random(seed)
        schema = SCHEMAS.schema_of(rng)
        try:
            text = any_text(pair, schema, rng)
        except GrammarError:
            continue
        complete += text is not None
        assert text is None or SCHEMAS.breaks(text, schema) is None
    return complete


@pytest.mark.slow
def test_whatever_tokens_are_chosen_the_text_satisfies_its_schema(pair):
    assert check_any_texts(pair, range(100, 140)) > 20


@pytest.mark.slow
def test_whatever_tokens_are_chosen_many_texts_satisfy_their_schemas(pair):
    assert check_any_texts(pair, range(1000, 2000)) > 600
