"""Whole texts under a grammar: lossless methods follow the target without excluded tokens."""

from __future__ import annotations

from typing import Any

import pytest
from support.letters import grammars_of, guided, texts_of
from support.tiny import methods_that, suited
from support.toy_texts import ONE_EACH, few_of
from support.toys import MarkovPair, assert_law, decode_all, make

from mtad.engine.session import Request
from mtad.grammar.grammar import Grammar
from mtad.sampling.params import SamplingParams
from mtad.speculative.forced import ForcedTokens
from mtad.speculative.method import Method

TOKENS = ["a", "b", "(", ")", "ab", "<end>"]
EOS = 5
WORDS = ["a", "b", "ab", "ba", "(a)", "(b)", "(ab)", "((a)b)", "((b)a)", "(a)b", "(a)(b)"]
NESTED = Grammar.lark(
    "start: word\n"
    'word: "a" | "b" | "ab" | "ba" | pair\n'
    'pair: "(a)" | "(b)" | "(ab)" | "((" inner | "(a)b" | "(a)(b)"\n'
    'inner: "a)b)" | "b)a)"\n'
)
TARGET = [
    [0.10, 0.25, 0.05, 0.30, 0.20, 0.10],
    [0.30, 0.05, 0.15, 0.25, 0.05, 0.20],
    [0.25, 0.20, 0.20, 0.10, 0.15, 0.10],
    [0.10, 0.30, 0.20, 0.25, 0.05, 0.10],
    [0.15, 0.15, 0.10, 0.40, 0.05, 0.15],
    [0.20, 0.15, 0.35, 0.10, 0.15, 0.05],
]
"""The last row is the law after the end, which prompts consist of."""
DRAFT = [
    [0.20, 0.10, 0.20, 0.15, 0.05, 0.30],
    [0.05, 0.25, 0.25, 0.15, 0.20, 0.10],
    [0.10, 0.35, 0.10, 0.20, 0.20, 0.05],
    [0.30, 0.10, 0.15, 0.10, 0.15, 0.20],
    [0.10, 0.10, 0.30, 0.20, 0.20, 0.10],
    [0.25, 0.25, 0.15, 0.15, 0.10, 0.10],
]
LAW = dict(texts_of(TOKENS, WORDS, TARGET, EOS))


@pytest.fixture(scope="module")
def pair() -> MarkovPair:
    return MarkovPair.of(TARGET, DRAFT)


@pytest.fixture(scope="module")
def grammars():
    return grammars_of(TOKENS)


def drawn(pair: MarkovPair, grammars: Any, method: Method, count: int, seed: int = 0) -> list[Any]:
    """Texts of that many seeds."""
    requests = []
    for one in range(seed, seed + count):
        params = SamplingParams(seed=one, max_new_tokens=9, eos_token_ids=(EOS,))
        requests.append(guided([EOS], params, grammars.begin(NESTED, (EOS,))))
    texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
    return [tuple(text) for text in texts]


def test_the_law_is_one():
    assert sum(LAW.values()) == pytest.approx(1)
    assert len(LAW) > len(WORDS)  # some words are spelled in several ways


@pytest.mark.parametrize(("name", "options"), few_of(ONE_EACH))
def test_lossless_methods_follow_the_target_without_excluded_tokens(pair, grammars, name, options):
    assert_law(drawn(pair, grammars, make(name, **options), 800), LAW)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), ONE_EACH)
def test_they_do_at_length(pair, grammars, name, options):
    """4,000 texts, which show a probability of 0.1 that is off by 20 %."""
    texts: list[Any] = []
    for part in range(4):
        texts += drawn(pair, grammars, make(name, **options), 1_000, part * 1_000_003)
    assert_law(texts, LAW)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 3])
def test_forced_tokens_leave_the_law(pair, grammars, length):
    assert_law(drawn(pair, grammars, ForcedTokens(length), 800), LAW)


# --- a grammar that depends on the last token alone, and so is a table without tokens ----------

LOCAL_TOKENS = ["a", "b", "c", "<end>"]
FOLLOWERS = {0: (1, 2), 1: (0, 2), 2: (0, 2), 3: (0, 1)}
LOCAL = Grammar.lark('start: a | b\na: "a" (b | c)?\nb: "b" (a | c)?\nc: "c" (a | c)?\n')
LOCAL_TARGET = [
    [0.4, 0.3, 0.2, 0.1],
    [0.2, 0.4, 0.3, 0.1],
    [0.3, 0.3, 0.3, 0.1],
    [0.3, 0.3, 0.2, 0.2],
]
LOCAL_DRAFT = [
    [0.1, 0.2, 0.6, 0.1],
    [0.5, 0.2, 0.2, 0.1],
    [0.2, 0.3, 0.4, 0.1],
    [0.2, 0.5, 0.2, 0.1],
]


def without_excluded(table: list[list[float]]) -> list[list[float]]:
    """The table without the tokens that may not follow, renormalised."""
    kept = [
        [p if token in FOLLOWERS[last] else 0.0 for token, p in enumerate(row)]
        for last, row in enumerate(table)
    ]
    return [[p / sum(row) for p in row] for row in kept]


@pytest.mark.parametrize("method", methods_that())
def test_every_method_is_what_it_is_on_the_models_without_excluded_tokens(method):
    """Token for token: the grammar is in the laws of both models, and nowhere else."""
    plain = MarkovPair.of(LOCAL_TARGET, LOCAL_DRAFT)
    narrow = MarkovPair.of(without_excluded(LOCAL_TARGET), without_excluded(LOCAL_DRAFT))
    grammars = grammars_of(LOCAL_TOKENS)
    greedy = getattr(method, "rule", "star") == "own"  # which takes -10,000 for a possible logit
    params = [
        suited(
            method, SamplingParams(seed=i, max_new_tokens=11, temperature=0.0 if greedy else 1.0)
        )
        for i in range(40)
    ]
    with_grammar = [guided([3], one, grammars.begin(LOCAL, ())) for one in params]
    texts = decode_all(plain.target, plain.draft, method, with_grammar, plain.vocab)
    without = [Request([3], one) for one in params]
    assert texts == decode_all(narrow.target, narrow.draft, method, without, narrow.vocab)
    assert {len(text) for text in texts} == {11}


@pytest.mark.parametrize("method", methods_that())
def test_no_text_breaks_its_grammar(pair, grammars, method):
    """Whatever the method, and beside texts without one."""
    params = [
        suited(method, SamplingParams(seed=i, max_new_tokens=9, eos_token_ids=(EOS,)))
        for i in range(60)
    ]
    states = [grammars.begin(NESTED, (EOS,)) if i % 3 else None for i in range(60)]
    requests = [guided([EOS], one, state) for one, state in zip(params, states, strict=True)]
    texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
    words = {
        "".join(TOKENS[t] for t in text if t != EOS)
        for text, state in zip(texts, states, strict=True)
        if state
    }
    assert words and words <= {*WORDS}
    free = [Request([EOS], one) for one, state in zip(params, states, strict=True) if not state]
    alone = decode_all(pair.target, pair.draft, method, free, pair.vocab)
    assert [t for t, state in zip(texts, states, strict=True) if not state] == alone
