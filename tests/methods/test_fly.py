"""FLy: golden numbers, laws of whole texts by enumeration, its window, and where it is exact."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
from support import lossy_laws, oracles
from support.oracles import Blocks, Text
from support.toys import (
    H_DRAFT,
    H_TARGET,
    MarkovPair,
    assert_law,
    decode_all,
    iterate,
    make,
    requests_of,
)

from mtad.engine.decode import decode
from mtad.testing import TOY_DRAFT, TOY_TARGET, Table

PAIRS: dict[str, tuple[Table, Table]] = {
    "G": (TOY_TARGET, TOY_DRAFT),
    "H": (H_TARGET, H_DRAFT),
}
GREEDY = {"temperature": 0.0}


def toys(name: str) -> tuple[MarkovPair, oracles.Law, oracles.Law, Text]:
    """A pair, its laws and its empty text."""
    target, draft = PAIRS[name]
    laws = oracles.markov(target), oracles.markov(draft)
    return MarkovPair.of(target, draft), *laws, (len(target) - 1,)


@pytest.mark.parametrize(
    ("name", "window", "threshold", "tokens"),
    [
        ("G", 1, 0.8, 3.443330),
        ("H", 1, 0.8, 3.593000),
        ("G", 2, 0.8, 3.175850),
        ("H", 2, 0.8, 3.319500),
        ("G", 1, 2.0, 2.630870),
        ("H", 2, 2.0, 2.950500),
    ],
)
def test_golden_tokens_and_the_law_of_one_iteration(
    name: str, window: int, threshold: float, tokens: float
) -> None:
    pair, p, q, start = toys(name)
    exact = lossy_laws.fly_blocks(p, q, start, 3, window, threshold)
    assert oracles.mean_length(exact) == pytest.approx(tokens, abs=1e-6)
    method = make("fly", num_draft_tokens=3, window=window, entropy_threshold=threshold)
    assert_law(iterate(pair, method, [start] * 4_000).blocks, exact)


def test_golden_entropies() -> None:
    wanted = [0.905642, 0.938024, 0.956103, 0.764499, 1.049596]
    assert [*map(lossy_laws.top_entropy, H_TARGET)] == pytest.approx(wanted, abs=1e-6)


# --- whole texts -------------------------------------------------------------------------------


def text_law(name: str, length: int, budgeted: bool, depth: int, **rule: Any) -> Blocks:
    _, p, q, start = toys(name)

    @cache
    def blocks(text: Text, left: int) -> Blocks:
        most = min(depth, left - 1) if budgeted else depth
        return lossy_laws.fly_blocks(p, q, text, most, **rule)

    return oracles.compose(blocks, start, length)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "length", "rule"),
    [
        ("G", 4, {"window": 1, "threshold": 0.8}),
        ("G", 4, {"window": 2, "threshold": 0.0, "max_gap": 1.0}),
        ("H", 3, {"window": 1, "threshold": 0.92}),
    ],
)
def test_texts_have_their_law(name: str, length: int, rule: dict[str, Any]) -> None:
    pair, *_, start = toys(name)
    options = {"entropy_threshold" if n == "threshold" else n: v for n, v in rule.items()}
    method = make("fly", num_draft_tokens=3, **options)
    for budget in (length + 3, length):
        requests = requests_of([start] * 1_200, max_new_tokens=budget)
        texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
        law = text_law(name, length, budget == length, 3, **rule)
        assert_law((tuple(text[:length]) for text in texts), law)


@pytest.mark.parametrize(
    ("name", "prompt", "window", "threshold", "text", "calls"),
    [
        ("G", 0, 1, 0.8, "222222222222", 3),
        ("G", 0, 3, 0.8, "222222222222", 3),
        ("G", 0, 4, 0.8, "000000000000", 12),
        ("G", 0, 3, 0.9, "000000000000", 12),
        ("H", 2, 1, 0.0, "130130130130", 4),
        ("H", 2, 3, 0.0, "130130130130", 4),
    ],
)
def test_golden_texts_of_temperature_0(
    name: str, prompt: int, window: int, threshold: float, text: str, calls: int
) -> None:
    """After token 0 of G all but the first draft token agree; of H two in a row do not."""
    pair, p, q, _ = toys(name)
    wanted = tuple(map(int, text))
    found = lossy_laws.fly_greedy(p, q, (prompt,), 12, 4, window, threshold)
    assert found == (wanted, calls)
    method = make("fly", num_draft_tokens=4, window=window, entropy_threshold=threshold)
    requests = requests_of([(prompt,)], max_new_tokens=12, **GREEDY)
    steps = [*decode(pair.target, pair.draft, method, requests, pair.vocab)]
    assert sum((step.blocks[0].token_ids for step in steps), ()) == wanted
    assert len(steps) == calls


@pytest.mark.slow
def test_golden_regret_and_its_cap() -> None:
    """The kept token is log 6 nats less likely than the best one; the gap must be less."""
    pair, p, *_ = toys("G")
    row = p((0,))
    assert math.log(max(row) / row[2]) == pytest.approx(1.791759, abs=1e-6)
    requests = requests_of([(0,)], max_new_tokens=12, **GREEDY)
    for cap, text in ((1.8, [2] * 12), (1.79, [0] * 12), (math.inf, [2] * 12)):
        method = make("fly", num_draft_tokens=4, window=3, entropy_threshold=0.8, max_gap=cap)
        assert decode_all(pair.target, pair.draft, method, requests, pair.vocab) == [text]


# --- the window --------------------------------------------------------------------------------

LADDER: Table = [
    [0.5, 0.4, 0.1, 0.0, 0.0],
    [0.0, 0.0, 0.9, 0.1, 0.0],
    [0.0, 0.0, 0.0, 0.9, 0.1],
    [0.0, 0.1, 0.0, 0.0, 0.9],
    [0.1, 0.9, 0.0, 0.0, 0.0],
]
"""After 0 the draft says 1 and the target 0; from there on both count: 1 2 3 4 1 2 …"""
COUNTING: Table = [[0.1, 0.9, 0.0, 0.0, 0.0], *LADDER[1:]]


@pytest.mark.parametrize(("budget", "first"), [(2, 0), (3, 0), (4, 1), (5, 1)])
def test_the_window_ends_with_the_budget(budget: int, first: int) -> None:
    """Two agreeing tokens are asked for, and the last one of a budget is the target's own."""
    pair = MarkovPair.of(LADDER, COUNTING)
    method = make("fly", num_draft_tokens=5, window=2, entropy_threshold=0.5)
    requests = requests_of([(0,)], max_new_tokens=budget, **GREEDY)
    assert decode_all(pair.target, pair.draft, method, requests, pair.vocab)[0][0] == first
    p, q = oracles.markov(LADDER), oracles.markov(COUNTING)
    assert lossy_laws.fly_greedy(p, q, (0,), budget, 5, 2, 0.5)[0][0] == first


@pytest.mark.parametrize(("eos", "first"), [(1, 0), (2, 0), (3, 1), (4, 1)])
def test_the_window_ends_with_the_text(eos: int, first: int) -> None:
    """Nothing after an end of text counts as agreeing: 1 is kept only if 2 and 3 are drafted."""
    pair = MarkovPair.of(LADDER, COUNTING)
    method = make("fly", num_draft_tokens=5, window=2, entropy_threshold=0.5)
    requests = requests_of([(0,)], max_new_tokens=12, eos_token_ids=(eos,), **GREEDY)
    assert decode_all(pair.target, pair.draft, method, requests, pair.vocab)[0][0] == first


def test_a_token_that_truncation_removed_is_never_deferred() -> None:
    """Though the target is as unsure as before: the entropy is that before truncation."""
    p, q = (0.4, 0.35, 0.25), (0.05, 0.05, 0.9)
    pair = MarkovPair.everywhere(p, q)
    method = make("fly", num_draft_tokens=4, window=1, entropy_threshold=1.0)
    texts = [(0,)] * 400
    kept = {t for b in iterate(pair, method, texts).blocks for t in b}
    truncated = {t for b in iterate(pair, method, texts, top_k=2).blocks for t in b}
    assert (kept, truncated) == ({0, 1, 2}, {0, 1})


def test_the_entropy_is_that_before_truncation() -> None:
    """Two tokens that stay have .69 nats, three of them 1.08."""
    p, q = (0.4, 0.35, 0.25), (0.05, 0.95, 0.0)
    pair = MarkovPair.everywhere(p, q)
    options = {"num_draft_tokens": 6, "window": 1}
    loose = make("fly", **options, entropy_threshold=1.0)
    strict = make("speculative_sampling", num_draft_tokens=6)
    num = [iterate(pair, m, [(0,)] * 500, top_k=2).verdict.num_accepted for m in (loose, strict)]
    assert (num[0] >= num[1]).all() and num[0].sum() > 1.1 * num[1].sum()


# --- where it is exact -------------------------------------------------------------------------

NEUTRAL: list[dict[str, Any]] = [
    {"entropy_threshold": math.inf},
    {"entropy_threshold": 1.1},
    {"window": 4},
    {"window": 9},
    {"max_gap": 0.0},
]
SETTINGS: list[dict[str, Any]] = [
    {},
    GREEDY,
    {"top_k": 2, "temperature": 1.3},
    {"eos_token_ids": (2,), "min_new_tokens": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", NEUTRAL, ids=str)
def test_nothing_deferred_is_speculative_sampling(options: dict[str, Any]) -> None:
    """Token by token: the same noise meets the same laws."""
    pair, *_, start = toys("H")
    neutral = make(
        "fly", **{"num_draft_tokens": 4, "window": 1, "entropy_threshold": 0.0, **options}
    )
    assert neutral.is_lossless and not make("fly").is_lossless
    requests = [r for s in SETTINGS for r in requests_of([start] * 60, max_new_tokens=9, **s)]
    exact = make("speculative_sampling", num_draft_tokens=4)
    texts = [decode_all(pair.target, pair.draft, m, requests, pair.vocab) for m in (neutral, exact)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("gap", "first"), [(0.0, 0), (1e-6, 1)])
def test_a_tie_is_kept_only_where_a_gap_is_allowed(gap: float, first: int) -> None:
    """The draft's token is as likely as the target's best one and still not the greedy one."""
    pair = MarkovPair.of([[0.45, 0.45, 0.1, 0.0, 0.0], *LADDER[1:]], COUNTING)
    options = {"num_draft_tokens": 4, "window": 1, "entropy_threshold": 0.0}
    requests = requests_of([(0,)], max_new_tokens=9, **GREEDY)
    method = make("fly", **options, max_gap=gap)
    assert decode_all(pair.target, pair.draft, method, requests, pair.vocab)[0][0] == first
