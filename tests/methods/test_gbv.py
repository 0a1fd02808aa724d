"""`gbv` against enumerations over all tuples of paths."""

from __future__ import annotations

import random

import pytest
import torch
from support import oracles
from support.gbv_oracles import law_of_highest, num_used
from support.oracles import Blocks, Law, Text
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

from mtad.methods.gbv import laws_of_highest
from mtad.testing import TOY_DRAFT, TOY_TARGET

PAIRS = {"G": (TOY_TARGET, TOY_DRAFT), "H": (H_TARGET, H_DRAFT)}
EXACT = [
    ("G", 1, 2, 2.326000),
    ("G", 2, 2, 2.495169),
    ("G", 3, 2, 2.472493),
    ("G", 4, 2, 2.426101),
    ("G", 2, 3, 3.096088),
    ("H", 1, 2, 2.492500),
    ("H", 2, 2, 2.817669),
    ("H", 3, 2, 2.592603),
    ("H", 4, 2, 2.402347),
    ("H", 2, 3, 3.562346),
]


def laws_of(pair: str) -> tuple[Law, Law, Text]:
    target, draft = PAIRS[pair]
    return oracles.markov(target), oracles.markov(draft), (len(target) - 1,)


def block_law(pair: str, num_paths: int, depth: int) -> Blocks:
    p, q, start = laws_of(pair)
    law = law_of_highest(p, q, start, num_paths, depth)
    return oracles.block_verification_blocks(p, law, start, depth)


@pytest.mark.parametrize(("pair", "num_paths", "depth", "tokens"), EXACT)
def test_law_of_one_iteration(pair: str, num_paths: int, depth: int, tokens: float) -> None:
    exact, start = block_law(pair, num_paths, depth), laws_of(pair)[2]
    assert oracles.mean_length(exact) == pytest.approx(tokens, abs=1e-6)
    method = make("gbv", num_paths=num_paths, num_draft_tokens=depth, adaptive_paths=False)
    models = MarkovPair.of(*PAIRS[pair])
    assert_law(iterate(models, method, [start] * 4_000).blocks, exact)


@pytest.mark.parametrize(("pair", "used"), [("G", 3), ("H", 2)])
def test_adaptation_uses_the_paths_that_are_accepted_most(pair: str, used: int) -> None:
    p, q, start = laws_of(pair)
    assert num_used(p, q, start, 4, 1) == used
    method = make("gbv", num_paths=4, num_draft_tokens=2)
    blocks = iterate(MarkovPair.of(*PAIRS[pair]), method, [start] * 4_000).blocks
    assert_law(blocks, block_law(pair, used, 2))


@pytest.mark.parametrize("num_paths", [1, 2, 3, 5])
def test_law_of_the_highest_of_many(num_paths: int) -> None:
    """A place in the middle of an order, of which a part lies below and a part is left out."""
    rng = random.Random(num_paths)
    own = torch.tensor([[rng.random() for _ in range(6)]], dtype=torch.float64)
    under = 0.3 + own.cumsum(1) - own
    last = laws_of_highest(under, own, num_paths)[0, -1]
    powers = (under + own) ** num_paths - under**num_paths
    assert torch.allclose(last, (powers / powers.sum())[0], rtol=1e-12)


def test_laws_of_tiny_masses_do_not_cancel() -> None:
    own = torch.tensor([[2e-20, 1e-20]], dtype=torch.float64)
    laws = laws_of_highest(torch.ones_like(own), own, 3)
    assert torch.allclose(laws, torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))


def test_a_draft_equal_to_the_target() -> None:
    """Two chains are accepted less than one, for choosing for the target overshoots it."""
    same, start = MarkovPair.of(TOY_TARGET, TOY_TARGET), laws_of("G")[2]
    method = make("gbv", num_paths=2, num_draft_tokens=2)
    assert (iterate(same, method, [start] * 2_000).verdict.num_accepted == 2).all()
    p = oracles.markov(TOY_TARGET)
    law = law_of_highest(p, p, start, 2, 2)
    exact = oracles.block_verification_blocks(p, law, start, 2)
    assert oracles.mean_length(exact) == pytest.approx(2.44, abs=1e-6)
    method = make("gbv", num_paths=2, num_draft_tokens=2, adaptive_paths=False)
    assert_law(iterate(same, method, [start] * 4_000).blocks, exact)


def test_tokens_that_the_target_excludes_are_lowest() -> None:
    """p(x) = 0 for two drafted tokens: their paths are chosen only where there is no other."""
    p, q = (0.7, 0.3, 0.0, 0.0), (0.2, 0.2, 0.3, 0.3)
    method = make("gbv", num_paths=2, num_draft_tokens=1, adaptive_paths=False)
    once = iterate(MarkovPair.everywhere(p, q), method, [(0,)] * 4_000)
    chosen = once.tree.tokens.gather(1, once.verdict.path)[:, 0]
    # the order, lowest first, is 2 3 1 0
    assert_law(chosen.tolist(), {2: 0.09, 3: 0.36 - 0.09, 1: 0.64 - 0.36, 0: 1 - 0.64})
    assert {block[0] for block in once.blocks} == {0, 1}
    assert_law((block[0] for block in once.blocks), {0: 0.7, 1: 0.3})


def test_one_path_is_block_verification() -> None:
    models, start = MarkovPair.of(H_TARGET, H_DRAFT), (4,)
    ours = iterate(models, make("gbv", num_paths=1, num_draft_tokens=3), [start] * 500)
    other = iterate(models, make("block_verification", num_draft_tokens=3), [start] * 500)
    assert ours.blocks == other.blocks


@pytest.mark.slow
@pytest.mark.parametrize("adaptive", [True, False])
def test_texts_have_the_law_of_the_target(adaptive: bool) -> None:
    """With an EOS and rows of other budgets in the batch."""
    p, _, start = laws_of("H")
    requests = requests_of([start] * 2_000, max_new_tokens=6, eos_token_ids=(3,))
    requests += requests_of([start] * 50, first_seed=9_000, max_new_tokens=2)
    method = make("gbv", num_paths=3, num_draft_tokens=3, adaptive_paths=adaptive)
    models = MarkovPair.of(H_TARGET, H_DRAFT)
    texts = decode_all(models.target, models.draft, method, requests, models.vocab)
    law = oracles.text_law(p, start, 4, eos=(3,))
    assert_law((tuple(text[:4]) for text in texts[:2_000]), law)
