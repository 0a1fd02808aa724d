"""`suffix` against a search in plain Python, and its laws."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import oracles
from support.oracles import Text
from support.suffix_oracles import matching_blocks, suffix_chain, suffix_tree, with_chain
from support.toys import (
    H_DRAFT,
    H_TARGET,
    MarkovPair,
    assert_law,
    decode_all,
    iterate,
    make,
    prefix_of,
    requests_of,
)

import mtad.methods
from mtad.core.noise import Noise
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.errors import OptionError
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper
from mtad.testing import TOY_DRAFT, TOY_TARGET

VOCAB = 10


def drafted(prefix: Prefix, **options: Any) -> TokenTree:
    """The tree of the method without a model."""
    rows = len(prefix.lengths)
    warp = Warper.of([SamplingParams()] * rows, VOCAB, torch.device("cpu")).at(prefix)
    noise = Noise(torch.arange(rows), prefix.num_new)
    return make("suffix", **options).draft(None, prefix, warp, noise)


def paths(tree: TokenTree, row: int = 0) -> set[Text]:
    """The paths of all living nodes below the root."""
    found = set()
    for node in tree.alive[row].nonzero()[1:, 0].tolist():
        line = tree.ancestors[row, node].nonzero()[1:, 0]
        assert tree.alive[row, line].all()
        found.add(tuple(tree.tokens[row, line].tolist()))
    return found


def chain(tree: TokenTree, row: int = 0) -> list[int]:
    return tree.tokens[row, 1:][tree.alive[row, 1:]].tolist()


CORPUS = (1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3, 5, 7)


@pytest.mark.parametrize(
    ("text", "options", "draft"),
    [
        ((9, 1, 2, 3), {"num_draft_tokens": 4, "max_match": 4, "corpus": CORPUS}, [5, 7]),
        ((9, 1, 2, 3), {"num_draft_tokens": 4, "min_match": 4, "corpus": CORPUS}, []),
        ((9, 1, 2, 3), {"num_draft_tokens": 4, "corpus": CORPUS, "min_share": 0.5}, [5]),
        ((9, 1, 2, 3), {"num_draft_tokens": 4, "corpus": CORPUS, "length_factor": 0.34}, [5]),
        ((9, 1, 2, 3), {"num_draft_tokens": 4, "corpus": CORPUS, "max_places": 1}, [5, 7]),
        ((0, 1, 2, 0, 1, 0, 1, 2, 2, 0, 1), {"num_draft_tokens": 5}, [0, 1, 2, 2, 0]),
        ((4, 1, 2, 1, 2, 1, 2), {"num_draft_tokens": 8}, [1, 2]),  # the place overlaps the suffix
        ((7, 7, 7, 7), {"num_draft_tokens": 8}, [7]),
        ((0, 1, 0), {"num_draft_tokens": 3, "max_match": 3}, [1, 0]),
        ((0, 1, 3, 0, 1), {"num_draft_tokens": 3, "max_match": 3}, [3, 0, 1]),
        ((5,), {"corpus": (5, 5, 5, 1), "min_match": 2}, []),  # a match ends where the text begins
        ((5,), {"corpus": (5, 5, 5, 1), "num_draft_tokens": 2}, [5, 1]),
        ((3, 1, 2), {"corpus": (1, 2)}, []),  # none reaches from the corpus into the text
        ((6,), {"min_match": 4}, []),
    ],
)  # fmt: skip
def test_drafts(text: Text, options: dict[str, Any], draft: list[int]) -> None:
    assert chain(drafted(prefix_of([text]), **options)) == draft
    depth = options.get("num_draft_tokens", 8)
    given = {k: v for k, v in options.items() if k != "num_draft_tokens"}
    assert [token for token, _ in suffix_chain(text, depth, **given)] == draft


def random_texts(rng: random.Random, rows: int, most: int) -> list[Text]:
    """Of few tokens, so that much is repeated, and of different lengths."""
    return [tuple(rng.choices(range(3), k=rng.randint(1, most))) for _ in range(rows)]


@pytest.mark.parametrize("seed", range(6))
def test_chains_are_those_of_a_plain_search(seed: int) -> None:
    rng = random.Random(seed)
    corpus = tuple(rng.choices(range(3), k=rng.choice([0, 5, 30])))
    options: dict[str, Any] = {
        "max_match": rng.randint(2, 6),
        "min_match": rng.randint(1, 2),
        "min_share": rng.choice([0.0, 0.3, 0.6]),
        "length_factor": rng.choice([float("inf"), 1.0, 1.5]),
        "max_places": rng.choice([1, 3, 64]),
    }
    texts, eos = random_texts(rng, 40, 40), rng.choice([-1, 2])
    prefix = replace(prefix_of(texts, budget=64), eos=torch.full((len(texts), 1), eos))
    depth = rng.randint(1, 7)
    tree = drafted(prefix, corpus=corpus or None, num_draft_tokens=depth, **options)
    for row, text in enumerate(texts):
        wanted = suffix_chain(text, depth, corpus, eos=(eos,), **options)
        assert chain(tree, row) == [token for token, _ in wanted]


@pytest.mark.parametrize("seed", range(6))
def test_trees_are_those_of_a_plain_search(seed: int) -> None:
    rng = random.Random(seed)
    corpus = tuple(rng.choices(range(3), k=rng.choice([0, 30])))
    depth, most = rng.randint(1, 5), rng.choice([2, 5, 64])
    nodes = max(1, depth + rng.randint(-2, 9))
    texts, eos = random_texts(rng, 30, 40), rng.choice([-1, 2])
    prefix = replace(prefix_of(texts, budget=64), eos=torch.full((len(texts), 1), eos))
    given: dict[str, Any] = {"max_match": 3, "max_places": most}
    options = {"num_draft_tokens": depth, "num_draft_nodes": nodes, **given}
    tree = drafted(prefix, corpus=corpus or None, **options)
    assert tree.num_nodes <= make("suffix", **options).num_nodes(VOCAB, 16)
    for row, text in enumerate(texts):
        assert paths(tree, row) == suffix_tree(text, depth, nodes, corpus, eos=(eos,), **given)


def test_only_committed_tokens_are_read() -> None:
    """What stands behind the text's end is from rows that have left, or from refused blocks."""
    texts = random_texts(random.Random(1), 20, 30)
    prefix = prefix_of(texts, budget=64)
    order = torch.arange(prefix.tokens.shape[1])
    noise = torch.randint(3, prefix.tokens.shape)
    other = torch.where(order < prefix.lengths[:, None], prefix.tokens, noise)
    for options in ({}, {"num_draft_nodes": 12}):
        plain = drafted(prefix, **options)
        dirty = drafted(replace(prefix, tokens=other), **options)
        assert [paths(plain, r) for r in range(20)] == [paths(dirty, r) for r in range(20)]


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_neighbours() -> None:
    texts = random_texts(random.Random(2), 20, 30)
    together = drafted(prefix_of(texts, budget=64), num_draft_nodes=12)
    for row, text in enumerate(texts):
        assert paths(drafted(prefix_of([text], budget=64), num_draft_nodes=12)) == paths(
            together, row
        )


@pytest.mark.parametrize("nodes", [None, 12])
def test_nothing_is_drafted_beyond_the_budget(nodes: int | None) -> None:
    text = (0, 1, 2, 3, 4, 0, 1)
    for budget in range(1, 6):
        prefix = prefix_of([text], prompt_length=len(text), budget=budget)
        tree = drafted(prefix, num_draft_nodes=nodes)
        assert tree.depth_drafted.tolist() == [min(budget - 1, 5)]


# --- laws ------------------------------------------------------------------------------------

TOYS = {
    "G": (TOY_TARGET, TOY_DRAFT, (0, 1, 0), (1, 0), 1.36),
    "H": (H_TARGET, H_DRAFT, (0, 1, 3, 0, 1), (3, 0, 1), 2.0425),
}


@pytest.mark.parametrize("toy", TOYS)
def test_law_of_one_iteration(toy: str) -> None:
    target, draft, text, found, tokens = TOYS[toy]
    exact = matching_blocks(oracles.markov(target), text, found)
    assert oracles.mean_length(exact) == pytest.approx(tokens, abs=1e-6)
    method = make("suffix", num_draft_tokens=3, max_match=3)
    assert_law(iterate(MarkovPair.of(target, draft), method, [text] * 4_000).blocks, exact)


@pytest.mark.parametrize("toy", TOYS)
def test_law_of_one_iteration_with_a_fallback(toy: str) -> None:
    """The draft model goes on behind the chain; rows with another chain, or none, beside it."""
    target, draft, text, found, _ = TOYS[toy]
    start, p, q = (len(target) - 1,), oracles.markov(target), oracles.markov(draft)
    other, rows = (2, 1, 2), 1_500
    method = make("suffix", num_draft_tokens=4, max_match=3, fallback="draft")
    blocks = iterate(MarkovPair.of(target, draft), method, [text, start, other] * rows).blocks
    for place, (one, chained) in enumerate([(text, found), (start, ()), (other, (1, 2))]):
        exact = oracles.speculative_blocks(p, with_chain(q, one, chained), one, 4)
        assert_law(blocks[place::3], exact)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("toy", "options"),
    [
        ("G", {"num_draft_nodes": 5}),
        ("H", {"fallback": "draft"}),
        ("G", {"corpus": (1, 0, 2, 0, 1, 1, 2)}),
    ],
)
def test_texts_have_the_law_of_the_target(
    toy: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtad.core.buckets.NARROWEST", 64)
    target, draft, prompt, _, _ = TOYS[toy]
    pair, method = (
        MarkovPair.of(target, draft),
        make("suffix", num_draft_tokens=3, max_places=6, **options),
    )
    requests = requests_of([prompt] * 1_500, max_new_tokens=6)
    texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
    law = oracles.text_law(oracles.markov(target), prompt, 4)
    assert_law((tuple(text[:4]) for text in texts), law)


def test_a_found_token_that_the_target_excludes_is_refused() -> None:
    pair = MarkovPair.everywhere((0.7, 0.3, 0.0), (0.2, 0.3, 0.5))
    for fallback in ("none", "draft"):
        method = make("suffix", num_draft_tokens=2, fallback=fallback)
        blocks = iterate(pair, method, [(0, 2, 0)] * 1_000, top_k=2).blocks
        assert {len(block) for block in blocks} == {1}
        assert_law((block[0] for block in blocks), {0: 0.7, 1: 0.3})


# --- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_match": 5, "max_match": 4}, "min_match is 5; it must be at most max_match, 4"),
        ({"num_draft_nodes": 9, "fallback": "draft"}, "is 9; it must be none with a fallback"),
        ({"corpus": (1, -2)}, "corpus is"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make("suffix", **options)


def test_a_corpus_of_another_vocabulary_is_refused() -> None:
    pair, requests = MarkovPair.of(TOY_TARGET, TOY_DRAFT), requests_of([(0, 1)], max_new_tokens=4)
    with pytest.raises(OptionError, match="corpus has token 4; it must have ids below 4"):
        decode_all(pair.target, None, make("suffix", corpus=(1, 4)), requests, pair.vocab)


def test_a_draft_model_is_needed_where_it_is_the_fallback() -> None:
    pair = MarkovPair.of(TOY_TARGET, TOY_DRAFT)
    requests = requests_of([(0, 1, 0)], max_new_tokens=4)
    plain, falling = make("suffix"), make("suffix", fallback="draft")
    assert (plain.drafted_by, falling.drafted_by) == ("none", "draft")
    assert len(decode_all(pair.target, None, plain, requests, pair.vocab)[0]) == 4
    for method, has_draft in ((plain, None), (falling, pair.draft)):
        mtad.methods.require_draft(method, has_draft)
    with pytest.raises(ValueError, match="suffix needs a draft model"):
        mtad.methods.require_draft(falling, None)
    with pytest.raises(ValueError, match="suffix needs a draft model"):
        decode_all(pair.target, None, falling, requests, pair.vocab)
