"""Drafts: the laws of sampled trees, and what every tree of beams promises."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracles
from support.oracles import Text
from support.toys import MarkovPair, TableLM, assert_law, iterate, make, prefix_of

from mtad.core.noise import Noise
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper
from mtad.speculative.beams import Beams, beams
from mtad.speculative.drafting import sampled_tree
from mtad.testing import TOY_DRAFT, TOY_START

Q = oracles.markov(TOY_DRAFT)
SELECTIONS = ["search", "sample", "sample_with_replacement"]
CPU = torch.device("cpu")


def random_laws(vocab: int, seed: int, rows: int = 32) -> torch.Tensor:
    torch.manual_seed(seed)
    weights = torch.rand(rows, 53, vocab) ** 2 + 1e-3
    return weights / weights.sum(-1, keepdim=True)


def bound(
    laws: torch.Tensor, eos: Sequence[int] = (), budget: int = 64, **sampling: Any
) -> tuple[TableLM, Prefix, Warper, Noise]:
    """What a draft gets: a drafter of these laws, a prompt of one token, the warper, the noise."""
    rows, vocab = len(laws), laws.shape[2]
    prefix = prefix_of([[0]] * rows, budget=budget)
    stops = torch.tensor([list(eos) or [-1]] * rows)
    prefix = Prefix(**{**vars(prefix), "eos": stops})
    warp = Warper.of([SamplingParams(**sampling)] * rows, vocab, CPU).at(prefix)
    return TableLM(laws), prefix, warp, Noise(torch.arange(rows), prefix.num_new)


def make_beams(
    laws: torch.Tensor, width: int, depth: int, selection: str, **options: Any
) -> tuple[TokenTree, Beams]:
    shape = {"width": width, "depth": depth, "selection": selection}
    return beams(*bound(laws, **options), **shape)


def path_of(tree: TokenTree, row: int, node: int) -> Text:
    """The living tokens from below the root to a node, read from the parents alone."""
    tokens: list[int] = []
    while node > 0:
        if bool(tree.alive[row, node]):
            tokens.append(int(tree.tokens[row, node]))
        node = int(tree.parents[row, node])
    return tuple(reversed(tokens))


def path_logprob(laws: torch.Tensor, row: int, path: Text) -> float:
    """log q(path) from the tables."""
    state, total = 0, 0.0
    for token in path:
        total += math.log(float(laws[row, state, token]))
        state = (state * 7 + token + 1) % laws.shape[1]
    return total


# --- beams -------------------------------------------------------------------------------------

beam_cases = settings(max_examples=12, deadline=None, derandomize=True, database=None)


@beam_cases
@given(
    vocab=st.integers(2, 6),
    width=st.integers(1, 6),
    depth=st.integers(1, 4),
    selection=st.sampled_from(SELECTIONS),
    eos=st.sampled_from([(), (1,)]),
    seed=st.integers(0, 10_000),
)
def test_beam_scores_are_chain_probabilities(
    vocab: int, width: int, depth: int, selection: str, eos: Text, seed: int
) -> None:
    """Exact scores, best first, no beam twice, no beam beyond an EOS."""
    laws = random_laws(vocab, seed, rows=4)
    tree, state = make_beams(laws, width, depth, selection, eos=eos)
    first = tree.last_level.start
    for row in range(4):
        kept = [
            (path_of(tree, row, first + i), score)
            for i, score in enumerate(state.scores[row].tolist())
            if score > -math.inf
        ]
        assert kept
        assert oracles.is_descending([score for _, score in kept])
        assert len({path for path, _ in kept}) == len(kept)
        for path, score in kept:
            assert score == pytest.approx(path_logprob(laws, row, path), abs=1e-4)
            assert not set(path[:-1]) & set(eos)
            assert len(path) == depth or path[-1] in eos


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["sample", "sample_with_replacement"])
def test_law_of_beams_that_end(selection: str) -> None:
    """Two sampled beams, either of which may end early: a finished one offers itself once."""
    table, rows = random_laws(3, 7, rows=1), 8_000

    def law(text: Text) -> list[float]:
        state = 0
        for token in text[1:]:
            state = (state * 7 + token + 1) % table.shape[1]
        return [float(x) for x in table[0, state]]

    again = selection == "sample_with_replacement"
    exact: Counter[tuple[Text, ...]] = Counter()
    for final, weight in oracles.beam_sampling(law, (0,), 2, 3, again, eos=(1,)).items():
        exact[tuple(path for path, _ in final)] += weight
    tree, state = make_beams(table.expand(rows, -1, -1), 2, 3, selection, eos=(1,))
    drawn = [
        tuple(path_of(tree, row, tree.last_level.start + i) for i in (0, 1) if score[i] > -math.inf)
        for row, score in enumerate(state.scores.tolist())
    ]
    assert sum(any(len(path) < 3 for path in final) for final in drawn) > rows / 4
    assert_law(drawn, exact)


@pytest.mark.parametrize("width", [1, 2, 4, 30])
def test_beam_search_against_the_oracle(toy: MarkovPair, width: int) -> None:
    tree = iterate(
        toy,
        make("mmtad", num_draft_tokens=3, beam_width=width, beam="search"),
        [(TOY_START,), (TOY_START, 2)],
        suppress_tokens=[TOY_START],
    ).tree
    for row, text in enumerate([(TOY_START,), (TOY_START, 2)]):
        for level, wanted in zip(
            tree.levels[1:], oracles.beam_search(Q, text, width, 3), strict=True
        ):
            nodes = [n for n in range(level.start, level.stop) if tree.alive[row, n]]
            scores = [float(tree.joint_logprobs[row, n].exp()) for n in nodes]
            assert scores == pytest.approx([score for _, score in wanted], abs=1e-6)
            found = {path_of(tree, row, n) for n in nodes}
            if len({round(score, 9) for _, score in wanted}) == len(wanted):
                assert found == {path for path, _ in wanted}


@pytest.mark.slow
@pytest.mark.parametrize("replacement", [True, False])
def test_beam_sampling_has_its_law(toy: MarkovPair, replacement: bool) -> None:
    """The whole set of final beams: weights come from log-probabilities, not from their softmax."""
    selection = "sample_with_replacement" if replacement else "sample"
    method = make("mmtad", num_draft_tokens=2, beam_width=2, beam=selection)
    rows = 20_000
    tree = iterate(toy, method, [(TOY_START,)] * rows).tree
    joint = tree.joint_logprobs
    parents = tree.parents[:, tree.last_level]
    first = tree.tokens.gather(1, parents).tolist()
    last = tree.tokens[:, tree.last_level].tolist()
    alive = tree.alive[:, tree.last_level].tolist()
    seen = [
        frozenset((a, b) for a, b, ok in zip(*row, strict=True) if ok)
        for row in zip(first, last, alive, strict=True)
    ]
    law: Counter[frozenset[Text]] = Counter()
    for final, weight in oracles.beam_sampling(Q, (TOY_START,), 2, 2, replacement).items():
        law[frozenset(path for path, _ in final)] += weight
    assert_law(seen, law)
    assert (joint[:, tree.last_level.start] >= joint[:, -1] - 1e-6)[tree.alive[:, -1]].all()


@pytest.mark.parametrize("selection", SELECTIONS)
def test_fewer_beams_where_the_support_is_smaller(selection: str) -> None:
    """Two tokens survive the warp: two beams, then four, whatever the width."""
    tree, state = make_beams(random_laws(5, 0), 6, 2, selection, top_k=2)
    living = [tree.alive[:, level].sum(1) for level in tree.levels[1:]]
    if selection == "sample_with_replacement":
        assert (living[0] <= 2).all() and (living[1] <= 4).all()
    else:
        assert (living[0] == 2).all() and (living[1] == 4).all()
    assert torch.equal(state.scores > -math.inf, tree.alive[:, tree.last_level])


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_finished_beam_stays_as_it_is(selection: str) -> None:
    """EOS is certain at depth 1 for one beam: it keeps its score and its place to the end."""
    laws = torch.full((1, 53, 3), 0.25)
    laws[:, :, 0] = 0.5
    laws[:, 0] = torch.tensor([0.04, 0.95, 0.01])  # token 1 ends the text
    tree, state = make_beams(laws, 3, 4, selection, eos=(1,))
    best = path_of(tree, 0, tree.last_level.start)
    assert best == (1,)
    assert float(state.scores[0, 0]) == pytest.approx(math.log(0.95), abs=1e-6)
    assert bool(state.finished[0, 0])
    assert not bool(tree.alive[0, tree.last_level.start])


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_drafts_stop_at_the_budget(budget: int) -> None:
    laws = random_laws(4, 1)
    tree, _ = make_beams(laws, 3, 4, "search", budget=budget)
    depth = torch.where(tree.alive, tree.depths, 0).amax(1)
    assert (depth == budget - 1).all()
    tree = sampled_tree(*bound(laws, budget=budget), (2, 2, 1))
    assert (torch.where(tree.alive, tree.depths, 0).amax(1) == budget - 1).all()


def test_all_candidates_are_kept_when_asked() -> None:
    tree, state = make_beams(random_laws(3, 2, rows=2), 1, 3, "all")
    assert tree.widths == (1, 3, 9, 27)
    assert state.scores.exp().sum(1).tolist() == pytest.approx([1, 1], abs=1e-5)
    paths = {path_of(tree, 0, tree.last_level.start + i) for i in range(27)}
    assert len(paths) == 27


def test_greedy_rows_search_in_every_mode() -> None:
    laws = random_laws(5, 3)
    texts = []
    for selection in ("search", "sample"):
        tree, _ = make_beams(laws, 3, 3, selection, temperature=0.0)
        first = tree.last_level.start
        texts.append([path_of(tree, row, first) for row in range(len(laws))])
    assert texts[0] == texts[1]


# --- sampled trees -------------------------------------------------------------------------------


def siblings(tree: TokenTree, level: int, parent: int, k: int) -> list[Text]:
    start = tree.levels[level].start + parent * k
    return [tuple(row) for row in tree.tokens[:, start : start + k].tolist()]


@pytest.mark.slow
def test_children_with_replacement_are_independent(toy: MarkovPair) -> None:
    tree = iterate(toy, make("specinfer", k_config=(2, 2)), [(TOY_START,)] * 20_000).tree
    first, q = siblings(tree, 1, 0, 2), TOY_DRAFT[TOY_START]
    assert_law(first, {(a, b): q[a] * q[b] for a in range(3) for b in range(3)})
    for parent in (0, 1):
        below = siblings(tree, 2, parent, 2)
        joint = {
            (c, a, b): q[c] * TOY_DRAFT[c][a] * TOY_DRAFT[c][b]
            for c in range(3)
            for a in range(3)
            for b in range(3)
        }
        assert_law(((f[parent], *pair) for f, pair in zip(first, below, strict=True)), joint)


@pytest.mark.slow
def test_children_without_replacement_come_in_draw_order(toy: MarkovPair) -> None:
    tree = iterate(toy, make("mcss", k_config=(2, 2)), [(TOY_START,)] * 20_000).tree
    q = TOY_DRAFT[TOY_START]
    law = {(a, b): q[a] * q[b] / (1 - q[a]) for a, b in permutations(range(3), 2)}
    assert_law(siblings(tree, 1, 0, 2), law)


def test_children_beyond_the_support_are_dead() -> None:
    tree = sampled_tree(*bound(random_laws(5, 4), top_k=2), (4, 3), replacement=False)
    living = tree.alive[:, tree.levels[1]]
    assert (living.sum(1) == 2).all()
    assert living[:, :2].all()
    below = tree.alive[:, tree.levels[2]].unflatten(1, (4, 3)).sum(2)
    assert (below[:, :2] == 2).all() and (below[:, 2:] == 0).all()


def test_greedy_children_without_replacement_are_the_most_likely_tokens() -> None:
    laws = random_laws(6, 5)
    tree = sampled_tree(*bound(laws, temperature=0.0), (3,), replacement=False)
    assert torch.equal(tree.tokens[:, 1:], laws[:, 0].topk(3).indices)


def test_laws_of_a_tree_are_those_it_was_drawn_from() -> None:
    """The recorded q is the warped law after the parent, for every node."""
    laws = random_laws(5, 6)
    lm, prefix, warp, noise = bound(laws, temperature=0.7, top_k=3)
    tree = sampled_tree(lm, prefix, warp, noise, (2, 2, 1))
    recorded = torch.cat(tree.draft_logprobs, dim=1)
    assert recorded.exp().sum(-1).allclose(torch.tensor(1.0), atol=1e-5)
    for row in range(4):
        for node in range(1, tree.num_nodes):
            parent = int(tree.parents[row, node])
            state = 0
            for token in path_of(tree, row, parent):
                state = (state * 7 + token + 1) % 53
            q = oracles.warp(laws[row, state].log().tolist(), temperature=0.7, top_k=3)
            token = int(tree.tokens[row, node])
            assert float(tree.node_logprobs[row, node]) == pytest.approx(
                math.log(q[token]), abs=1e-4
            )
            assert recorded[row, parent].exp().tolist() == pytest.approx(q, abs=1e-5)


def test_no_node_lives_below_an_end_of_text() -> None:
    tree = sampled_tree(*bound(random_laws(3, 7, rows=500), eos=(1,)), (2, 2, 2))
    for row in range(0, 500, 50):
        for node in range(1, tree.num_nodes):
            parent = int(tree.parents[row, node])
            ended = parent > 0 and int(tree.tokens[row, parent]) == 1
            dead = not tree.alive[row, parent] or ended
            assert bool(tree.alive[row, node]) != dead


def test_a_prompt_may_end_in_an_end_of_text_token() -> None:
    laws = random_laws(3, 8)
    tree = sampled_tree(*bound(laws, eos=(0,)), (2,))  # the prompt is token 0
    assert tree.alive[:, 1:].all()
