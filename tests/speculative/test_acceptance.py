"""Acceptance rules on scripted laws: BiLD, typical acceptance, edge cases of the lossless rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import oracles
from support.oracles import Text
from support.toys import MarkovPair, assert_law, assert_rate, decode_all, iterate, make, requests_of

from mtad.engine.decode import decode
from mtad.engine.session import Block
from mtad.methods.spectr import division_factor
from mtad.speculative.acceptance import (
    last_true,
    prefix_length,
    residual,
    residual_weights,
    try_children,
)

# --- pieces ------------------------------------------------------------------------------------


def logs(*probs: float) -> torch.Tensor:
    return torch.tensor([probs], dtype=torch.float64).log()


def test_residual_is_the_excess_of_p() -> None:
    law = residual(logs(0.5, 0.3, 0.2), logs(0.2, 0.5, 0.3)).exp()
    assert law[0].tolist() == pytest.approx([1, 0, 0])
    law = residual(logs(0.45, 0.25, 0.2, 0.1), logs(0.1, 0.6, 0.05, 0.25)).exp()
    assert law[0].tolist() == pytest.approx([0.7, 0, 0.3, 0])


@pytest.mark.parametrize("p", [(0.5, 0.3, 0.2), (1.0, 0.0, 0.0)])
def test_residual_of_equal_laws_is_p(p: tuple[float, ...]) -> None:
    """A rejection of equal laws is a rounding event: nothing is divided by zero."""
    assert residual(logs(*p), logs(*p)).exp()[0].tolist() == pytest.approx(p)
    assert residual_weights(logs(*p), logs(*p).exp())[0].exp().tolist() == pytest.approx(p)


def test_residual_of_disjoint_supports_is_p() -> None:
    law = residual(logs(0.5, 0.5, 0.0, 0.0), logs(0.0, 0.0, 0.5, 0.5)).exp()
    assert law[0].tolist() == pytest.approx([0.5, 0.5, 0, 0])


def test_lengths_of_passing_prefixes() -> None:
    rows = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    assert prefix_length(rows).tolist() == [2, 0, 0, 4]
    assert last_true(rows).tolist() == [4, 3, 0, 4]


@pytest.mark.parametrize("shrink", [True, False])
def test_laws_left_after_rejections(shrink: bool) -> None:
    """Each rejection takes the q of that moment out of p, and only then leaves q."""
    p, q = (0.45, 0.25, 0.2, 0.1), (0.1, 0.6, 0.05, 0.25)
    tokens, alive = torch.tensor([[1, 3]]), torch.ones(1, 2, dtype=torch.bool)
    certain = torch.full((1, 2), 1 - 1e-12, dtype=torch.float64)
    chosen, left = try_children(logs(*p), logs(*q), tokens, alive, certain, shrink)
    second = oracles.norm([0.1, 0.0, 0.05, 0.25]) if shrink else list(q)
    wanted = oracles.residual(oracles.residual(p, q), second)
    assert chosen.tolist() == [2]
    assert left[0].exp().tolist() == pytest.approx(wanted)


def test_dead_children_are_neither_accepted_nor_paid_for() -> None:
    p, q = logs(0.2, 0.8), logs(0.5, 0.5)
    tokens, alive = torch.tensor([[1, 1]]), torch.tensor([[False, False]])
    u = torch.zeros(1, 2, dtype=torch.float64) + 1e-9
    chosen, left = try_children(p, q, tokens, alive, u, shrink_q=False)
    assert chosen.tolist() == [2]
    assert torch.equal(left, p)


def test_division_factor_of_disjoint_supports_and_of_equal_laws() -> None:
    p, q = logs(0.5, 0.5, 0, 0).float(), logs(0, 0, 0.5, 0.5).float()
    for k in (1, 2, 4):
        count = torch.tensor([k])
        assert 1 <= float(division_factor(p, q, count)) <= k
        assert float(division_factor(p, p, count)) == pytest.approx(1, abs=1e-6)


# --- extreme pairs -----------------------------------------------------------------------------

LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("speculative_sampling", {"num_draft_tokens": 2}),
    ("block_verification", {"num_draft_tokens": 2}),
    ("spectr", {"num_drafts": 3, "num_draft_tokens": 2}),
    ("specinfer", {"k_config": (3, 2)}),
    ("mcss", {"k_config": (3, 2)}),
    ("mcss", {"k_config": (3, 2), "replacement": "with"}),
    ("mcss", {"k_config": (3, 2), "replacement": "naive"}),
    ("gbv", {"num_paths": 3, "num_draft_tokens": 2, "adaptive_paths": False}),
]
LOSSY: list[tuple[str, dict[str, Any]]] = [
    ("mtad", {"accept_threshold": 0.0}),
    ("mmtad", {"accept_threshold": 0.0}),
]


@pytest.mark.parametrize(("name", "options"), LOSSLESS + LOSSY)
def test_disjoint_supports(name: str, options: dict[str, Any]) -> None:
    """Nothing can be accepted, and the text still has the law of the target."""
    p, q = (0.7, 0.3, 0.0, 0.0), (0.0, 0.0, 0.4, 0.6)
    pair = MarkovPair.everywhere(p, q)
    sampling = {"top_k": 2}  # the zeros of the toy models are tiny numbers: make them zeros
    blocks = iterate(pair, make(name, **options), [(0,)] * 1500, **sampling).blocks
    assert {len(block) for block in blocks} == {1}
    assert_law((block[0] for block in blocks), {0: 0.7, 1: 0.3})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), LOSSLESS)
def test_more_children_than_the_support_has(name: str, options: dict[str, Any]) -> None:
    """Two tokens survive the draft's warp and three children are asked for."""
    p, q = (0.15, 0.5, 0.3, 0.05), (0.45, 0.05, 0.4, 0.1)
    pair = MarkovPair.everywhere(p, q)
    blocks = iterate(pair, make(name, **options), [(0,)] * 2500, top_k=2).blocks
    kept = {1: 0.5 / 0.8, 2: 0.3 / 0.8}
    assert_law((block[0] for block in blocks), kept)
    pairs = {(a, b): kept[a] * kept[b] for a in kept for b in kept}
    texts = decode_all(
        pair.target,
        pair.draft,
        make(name, **options),
        requests_of([(0,)] * 1200, max_new_tokens=4, top_k=2),
        pair.vocab,
    )
    assert_law((tuple(text[1:3]) for text in texts), pairs)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mcss", {"k_config": (5, 4)}),
        ("mcss", {"k_config": (5, 4), "replacement": "naive"}),
        ("specinfer", {"k_config": (5, 4)}),
        ("spectr", {"num_drafts": 6, "num_draft_tokens": 2}),
    ],
)
def test_more_children_than_the_vocabulary_has(name: str, options: dict[str, Any]) -> None:
    pair = MarkovPair.everywhere((0.5, 0.3, 0.2), (0.2, 0.5, 0.3))
    blocks = iterate(pair, make(name, **options), [(0,)] * 2500).blocks
    assert_law((block[0] for block in blocks), {0: 0.5, 1: 0.3, 2: 0.2})
    seconds = [block[1] for block in blocks if len(block) > 1]
    assert len(seconds) > 300


def test_a_draft_without_replacement_that_covers_everything_is_always_accepted() -> None:
    pair = MarkovPair.everywhere((0.5, 0.3, 0.2), (0.2, 0.5, 0.3))
    verdict = iterate(pair, make("mcss", k_config=(3, 3)), [(0,)] * 5000).verdict
    assert (verdict.num_accepted == 2).all()


def test_a_fixed_threshold_per_token_stops_at_the_first_failure() -> None:
    """The ablation: what comes later does not make up for a weak token, as it does in MTAD."""
    pair = MarkovPair.of(
        [[0.0, 0.4, 0.6], [0.0, 0.05, 0.95], [1.0, 0.0, 0.0]],
        [[0.0, 0.8, 0.2], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]],
    )
    options = {"num_draft_tokens": 3, "accept_threshold": 0.7}
    joint = iterate(pair, make("mtad", **options, beam="search"), [(0,)])
    assert joint.blocks[0][:-1] == (1, 2, 0)  # joint ratios 0.5, 0.95, 0.95
    token = iterate(pair, make("speculative_sampling", **options), [(0,)] * 500)
    assert {block[0] for block in token.blocks if len(block) > 1} == {2}


@pytest.mark.slow
def test_a_discarded_low_probability_token_would_bias_the_law() -> None:
    """Pair A: unlikely draft tokens are verified like all others."""
    pair = MarkovPair.everywhere((0.5, 0.3, 0.2), (0.2, 0.5, 0.3))
    blocks = iterate(pair, make("speculative_sampling", num_draft_tokens=1), [(0,)] * 20_000).blocks
    first = [block[0] for block in blocks]
    for token, chance in enumerate((0.5, 0.3, 0.2)):
        assert_rate(first.count(token), len(first), chance)


# --- which laws the ratio of MTAD uses ----------------------------------------------------------


def test_the_ratio_on_raw_laws_ignores_the_warp() -> None:
    p = (0.05, 0.5, 0.45)
    pair = MarkovPair.everywhere(p, (0.9, 0.06, 0.04))
    options = {"num_draft_tokens": 1, "beam_width": 1, "beam": "search"}
    for threshold, accepted in ((0.05, 1), (0.06, 0)):
        raw = make("mtad", **options, accept_threshold=threshold, ratio_on="raw")
        assert iterate(pair, raw, [(0,)], top_k=2).verdict.num_accepted.tolist() == [accepted]
        warped = make("mtad", **options, accept_threshold=threshold)
        assert iterate(pair, warped, [(0,)], top_k=2).verdict.num_accepted.tolist() == [0]


@pytest.mark.parametrize("name", ["mtad", "mmtad"])
def test_a_greedy_endpoint_is_the_most_likely_token(toy: MarkovPair, name: str) -> None:
    method = make(name, num_draft_tokens=2, beam_width=2, endpoint="greedy", accept_threshold=0.6)
    for block in iterate(toy, method, [(3,)] * 500).blocks:
        context = block[-2] if len(block) > 1 else 3
        assert block[-1] == {0: 0, 1: 1, 2: 2, 3: 0}[context]


# --- BiLD --------------------------------------------------------------------------------------

RING = 6


def ring(confidence: float, jumps: dict[int, int] | None = None) -> list[list[float]]:
    """After token i comes i + 1, or what `jumps` says, with probability `confidence`."""
    rest = (1 - confidence) / (RING - 1)
    targets = {i: (i + 1) % RING for i in range(RING)} | (jumps or {})
    return [[confidence if j == targets[i] else rest for j in range(RING)] for i in range(RING)]


def bild_blocks(pair: MarkovPair, max_new_tokens: int, **options: Any) -> list[Block]:
    """The blocks of one greedy run from token 0."""
    requests = requests_of([(0,)], max_new_tokens=max_new_tokens, temperature=0.0)
    steps = decode(pair.target, pair.draft, make("bild", **options), requests, pair.vocab)
    return [block for step in steps for block in step.blocks]


def test_bild_that_always_falls_back_is_greedy_decoding() -> None:
    pair = MarkovPair.of(ring(0.8, {3: 0}), ring(0.9))
    blocks = bild_blocks(pair, 9, fallback_threshold=1.01)
    assert [b.token_ids for b in blocks] == [(t,) for t in (1, 2, 3, 0, 1, 2, 3, 0, 1)]
    assert {b.num_drafted for b in blocks} == {0}


def test_bild_that_never_falls_or_rolls_back_follows_the_draft() -> None:
    """Chunks of γ_max draft tokens, each followed by one token of the target."""
    pair = MarkovPair.of(ring(0.8, dict.fromkeys(range(RING), 3)), ring(0.9))
    blocks = bild_blocks(
        pair, 11, fallback_threshold=0.0, rollback_threshold=math.inf, num_draft_tokens=4
    )
    assert [b.token_ids for b in blocks] == [(3,), (4, 5, 0, 1, 3), (4, 5, 0, 1, 3)]
    assert [b.num_accepted for b in blocks] == [0, 4, 4]


def test_bild_rolls_back_to_the_first_offending_token() -> None:
    pair = MarkovPair.of(ring(0.99, {2: 0, 4: 0}), ring(0.9))
    blocks = bild_blocks(pair, 8, fallback_threshold=0.5, rollback_threshold=2.0)
    # the target starts with 1; the draft runs 2 3 4 5 0 …; after 2 the target wants 0, not 3
    assert [b.token_ids for b in blocks[:2]] == [(1,), (2, 0)]
    assert blocks[1].num_accepted == 1
    assert blocks[1].num_drafted == 6


def test_bild_keeps_a_token_of_large_loss_that_is_the_targets_best() -> None:
    """Every loss is above the threshold, but only a disagreement is rolled back."""
    flat = MarkovPair.of(ring(0.3), ring(0.9))
    blocks = bild_blocks(
        flat, 9, fallback_threshold=0.5, rollback_threshold=0.5, num_draft_tokens=3
    )
    assert [len(b.token_ids) for b in blocks] == [1, 4, 4]


def test_bild_falls_back_where_the_draft_is_unsure() -> None:
    draft = ring(0.9)
    draft[3] = [1 / RING] * RING
    pair = MarkovPair.of(ring(0.8), draft)
    blocks = bild_blocks(pair, 10, fallback_threshold=0.6, num_draft_tokens=10)
    assert [b.token_ids for b in blocks] == [(1,), (2, 3, 4), (5, 0, 1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("rollback", "least"), [(1.0, 0.368), (2.0, 0.135), (3.0, 0.0498), (5.0, 0.0067)]
)
def test_bild_keeps_tokens_of_enough_probability(rollback: float, least: float) -> None:
    for factor, kept in ((1.02, 1), (0.98, 0)):
        chance = least * factor
        pair = MarkovPair.everywhere((chance, 1 - chance), (1.0, 0.0))
        method = make(
            "bild", fallback_threshold=0.5, rollback_threshold=rollback, num_draft_tokens=1
        )
        once = iterate(pair, method, [(1, 1)], temperature=0.0)
        assert once.verdict.num_accepted.tolist() == [kept]


@pytest.mark.slow
def test_bild_keeps_more_with_a_larger_rollback_threshold(toy: MarkovPair) -> None:
    texts = [(3, a, b) for a in range(3) for b in range(3)] * 200
    before = None
    for rollback in (0.2, 0.6, 1.0, 1.5, 2.5, 4.0):
        method = make(
            "bild", fallback_threshold=0.0, rollback_threshold=rollback, num_draft_tokens=5
        )
        kept = iterate(toy, method, texts).verdict.num_accepted
        assert before is None or (kept >= before).all()
        before = kept


# --- typical acceptance --------------------------------------------------------------------------


def typical_tokens(p: tuple[float, ...], **options: Any) -> set[int]:
    """The first tokens that are accepted when the draft proposes each of them in turn."""
    accepted = set()
    size = len(p)
    for token in range(size):
        q = tuple(float(i == token) for i in range(size))
        method = make("typical_acceptance", num_draft_tokens=1, **options)
        once = iterate(MarkovPair.everywhere(p, q), method, [(0,)])
        accepted |= {token} if int(once.verdict.num_accepted) else set()
    return accepted


def test_typical_acceptance_of_the_documented_laws() -> None:
    assert typical_tokens((0.5, 0.3, 0.2)) == {0, 1, 2}
    assert typical_tokens((0.97, 0.02, 0.01)) == {0}
    uniform = (0.02,) * 50
    pair = MarkovPair.everywhere(uniform, uniform)
    once = iterate(pair, make("typical_acceptance", num_draft_tokens=1), [(0,)] * 500)
    assert (once.verdict.num_accepted == 1).all()


@pytest.mark.parametrize(
    ("p", "epsilon", "delta", "threshold"),
    [
        ((0.5, 0.3, 0.2), 1.0, 0.3, 0.107139),
        ((0.5, 0.3, 0.2), 1.0, 1.0, 0.357131),
        ((0.5, 0.3, 0.2), 0.25, 1.0, 0.25),
        ((0.97, 0.02, 0.01), 0.09, 0.3, 0.09),
        ((0.97, 0.02, 0.01), 0.015, 0.3, 0.015),
    ],
)
def test_typical_threshold(
    p: tuple[float, ...], epsilon: float, delta: float, threshold: float
) -> None:
    entropy = -sum(x * math.log(x) for x in p)
    assert min(epsilon, delta * math.exp(-entropy)) == pytest.approx(threshold, abs=1e-6)
    options = {"posterior_threshold": epsilon, "posterior_alpha": delta}
    assert typical_tokens(p, **options) == {i for i, x in enumerate(p) if x > threshold}


def test_typical_acceptance_stops_at_the_first_failure() -> None:
    pair = MarkovPair.of(
        [[0.02, 0.96, 0.02], [0.95, 0.02, 0.03], [0.02, 0.02, 0.96]],
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]],
    )
    method = make("typical_acceptance", num_draft_tokens=3)  # drafts 1 2 2; 2 is untypical after 1
    assert iterate(pair, method, [(0,)]).blocks[0][:-1] == (1,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("posterior_threshold", "posterior_alpha"),
        ("posterior_alpha", "posterior_threshold"),
    ],
)
def test_typical_acceptance_falls_with_its_thresholds(
    toy: MarkovPair, name: str, other: str
) -> None:
    before = None
    for value in (0.0, 0.1, 0.3, 0.6, 1.0):
        method = make("typical_acceptance", num_draft_tokens=3, **{name: value, other: 1.0})
        kept = iterate(toy, method, [(3,)] * 2000).verdict.num_accepted
        assert before is None or (kept <= before).all()
        before = kept


@pytest.mark.parametrize("truncation", [{"top_k": 2}, {"top_p": 0.7}], ids=str)
def test_the_typical_threshold_does_not_depend_on_truncation(truncation: dict[str, Any]) -> None:
    """The entropy is that of the tempered law; the law after truncation would ask for more."""
    table, warm = [[0.4, 0.35, 0.25], [0.5, 0.3, 0.2], [0.45, 0.3, 0.25]], 1.3
    pair, texts = MarkovPair.of(table, table), [(token,) for token in range(3)] * 50
    method = make("typical_acceptance", num_draft_tokens=3, posterior_threshold=1.0)
    method = replace(method, posterior_alpha=0.8)
    once = iterate(pair, method, texts, temperature=warm, **truncation)

    def length(text: Text, path: Sequence[int], **settings: Any) -> int:
        for place, token in enumerate(path):
            logits = [math.log(x) for x in table[([*text, *path])[place]]]
            judged = oracles.warp(logits, temperature=warm, **settings)
            spread = -sum(x * math.log(x) for x in judged if x > 0)
            if oracles.warp(logits, temperature=warm)[token] <= 0.8 * math.exp(-spread):
                return place
        return len(path)

    drafts = list(zip(texts, once.tree.tokens[:, 1:].tolist(), strict=True))
    assert once.verdict.num_accepted.tolist() == [length(*draft) for draft in drafts]
    assert [length(*d) for d in drafts] != [length(*d, **truncation) for d in drafts]


# --- prompt lookup -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        ((0, 1, 2, 0, 1), [2, 0, 1]),  # the bigram 0 1 occurred before 2
        ((1, 2, 0, 2, 1, 0, 2), [1, 0, 2]),  # the bigram 0 2, not the earlier unigram 2
        ((2, 1, 0, 1), [0, 1]),  # no bigram; the first unigram 1 came before 0 1
        ((0, 1, 2), []),
        ((2,), []),
        ((2, 2), [2]),
    ],
)
def test_prompt_lookup_copies_the_first_match(
    toy: MarkovPair, text: Text, draft: list[int]
) -> None:
    method = make("prompt_lookup", num_draft_tokens=3, max_matching_ngram_size=2)
    tree = iterate(toy, method, [text]).tree
    assert tree.tokens[0, 1:][tree.alive[0, 1:]].tolist() == draft


@pytest.mark.slow
def test_prompt_lookup_accepts_with_the_probability_of_the_target(toy: MarkovPair) -> None:
    text = (0, 1, 2, 0, 1)  # drafts 2 0 1
    p = oracles.markov([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.12, 0.08, 0.8]])
    law: dict[Text, float] = {}
    going, path = 1.0, ()
    for token in (2, 0, 1):
        row = p(text + path)
        law |= {(*path, t): going * c for t, c in enumerate(row) if t != token}
        going, path = going * row[token], (*path, token)
    law |= {(*path, t): going * c for t, c in enumerate(p(path))}
    method = make("prompt_lookup", num_draft_tokens=3, max_matching_ngram_size=2)
    assert_law(iterate(toy, method, [text] * 20_000).blocks, law)
