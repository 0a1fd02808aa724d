"""Drafts that copy: what follows the longest match, and the law that copying makes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.copies import followed
from support.letters import grammars_of
from support.tiny import random_tree
from support.toys import TableLM, prefix_of
from torch import Tensor

from mtad.core.tree import TokenTree
from mtad.grammar.grammar import Grammar
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper
from mtad.speculative.copying import Copies, matches
from mtad.speculative.drafting import Level, LevelLogprobs

RATES = torch.tensor([0.0, 0.3, 0.6, 0.9])
TEXTS = [
    [4, 5, 6, 7, 4, 5, 8, 4, 5],  # the last two stood there twice; the later one counts
    [1, 2, 3, 9, 2, 3, 7, 1, 2, 3],  # the longest match is the earlier one
    [5, 5, 5],  # its own end is no match
    [3],
    [6, 1, 6],
]


@pytest.mark.parametrize("widths", [(), (1, 1, 1), (2, 3, 4)])
@pytest.mark.parametrize("longest", [1, 2, 3])
def test_what_followed_the_longest_match_is_copied(widths, longest) -> None:
    tree, prefix = random_tree(TEXTS, widths, seed=1), prefix_of(TEXTS, budget=20)
    tree = replace(tree, tokens=torch.cat([tree.tokens[:, :1], tree.tokens[:, 1:] % 10], dim=1))
    copies = Copies.after(tree, prefix, RATES[: longest + 1])
    num_found = 0
    for row, text in enumerate(TEXTS):
        for place, node in enumerate(range(tree.last_level.start, tree.num_nodes)):
            line = tree.ancestors[row, node].nonzero()[1:, 0]
            token, length = followed(text, tree.tokens[row, line].tolist(), longest)
            assert copies.rates[row, place] == RATES[length]
            if token is not None:
                assert copies.tokens[row, place] == token
                num_found += 1
    assert num_found


def test_matches_count_backwards() -> None:
    text = torch.tensor([[1, 2, 3, 2, 3, 3]])
    allowed = torch.tensor([[True, True, True, True, False, True]])
    assert matches(text, torch.tensor([[3, 2, 1]]), allowed).tolist() == [[0, 0, 3, 0, 0, 1]]


TABLE = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15])


def level_of(
    sampling: SamplingParams, table: torch.Tensor, ids: torch.Tensor | None, copied: int
) -> Level:
    """After one text, of 5 tokens; a token is copied with rate 0.6."""
    text = [[3, 1, copied, 3, 1]]
    prefix = prefix_of(text, budget=9)
    warp = Warper.of([sampling], 5, torch.device("cpu")).at(prefix).over(ids)
    lm = TableLM(table.expand(1, 9, -1))
    lm.copy_rates = RATES
    return Level.after(lm, prefix.root(), prefix, warp)


def tokens_of(level: LevelLogprobs) -> Tensor:
    """The token of each candidate."""
    return level.tokens(torch.arange(level.values.shape[2])[None, None])[0, 0]


@pytest.mark.parametrize("copied", [0, 2, 4])
@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("ids", [None, (0, 2, 3)])
def test_the_law_is_a_mixture(copied, top_k, ids) -> None:
    """Of a draft with all tokens, or some, of which top-k leaves some."""
    kept = torch.arange(5) if ids is None else torch.tensor(ids)
    level = level_of(
        SamplingParams(top_k=top_k), TABLE[kept], None if ids is None else kept, copied
    )
    own = torch.zeros(5).index_copy(0, kept, TABLE[kept])
    raw = own / own.sum()
    if top_k:
        own = torch.where(own >= own.topk(top_k).values[-1], own, 0.0)
    one = torch.nn.functional.one_hot(torch.tensor(copied), 5)
    for found, law in ((level.warped, own / own.sum()), (level.raw, raw)):
        mixed = 0.4 * law + 0.6 * one
        torch.testing.assert_close(found.dense()[0, 0].exp(), mixed)
        torch.testing.assert_close(found.complete().dense()[0, 0].exp(), mixed)
        spread = torch.zeros(5).scatter_add(0, tokens_of(found), found.values[0, 0].exp())
        torch.testing.assert_close(spread, mixed)
    picked = level.warped.pick(level.raw.values)[0, 0]
    for token, value in zip(tokens_of(level.warped), picked, strict=True):
        if value > -math.inf:
            torch.testing.assert_close(value, level.raw.dense()[0, 0, token])


@pytest.mark.parametrize(("sure", "token"), [(0.99, 4), (0.3, 4)])
def test_at_temperature_0_the_likelier_of_both_is_drafted(sure, token) -> None:
    """A rate of 0.6 beats whatever the draft says; one below a half gives way to a sure draft."""
    table = torch.tensor([sure, (1 - sure) / 3, (1 - sure) / 3, (1 - sure) / 3, 0.0])
    greedy = SamplingParams(temperature=0.0)
    law = level_of(greedy, table, None, copied=4).warped.dense()[0, 0].exp()
    assert law.argmax() == token and law.max() == 1.0
    copies = Copies(torch.tensor([[4]]), torch.tensor([[0.3]]))
    values = table.clamp(min=1e-30).log()[None, None]
    raw = copies.mixed(values, (torch.arange(5) == 4)[None, None])
    decided = copies.decided(torch.tensor([[[True]]]), raw)
    assert decided.rates.item() == (1.0 if sure < 0.4 else 0.0)


def test_a_tree_of_texts_without_a_match_is_the_drafts_own() -> None:
    prefix = prefix_of([[0, 1, 2]], budget=9)
    warp = Warper.of([SamplingParams()], 5, torch.device("cpu")).at(prefix)
    lm = TableLM(TABLE.expand(1, 9, -1))
    lm.copy_rates = RATES
    tree: TokenTree = prefix.root()
    law = Level.after(lm, tree, prefix, warp).warped.dense()[0, 0].exp()
    torch.testing.assert_close(law, TABLE)


@pytest.mark.parametrize(("copied", "share"), [(0, 0.0), (2, 0.6)])
def test_what_a_grammar_excludes_is_not_copied(copied, share) -> None:
    state = grammars_of(["a", "b", "c", "d", "<end>"]).begin(Grammar.regex("[bc]+"), ())
    text = [[3, 1, copied, 3, 1]]
    prefix = replace(prefix_of(text, budget=9), grammars=torch.tensor([state.number]))
    warp = Warper.of([SamplingParams()], 5, torch.device("cpu")).at(prefix)
    lm = TableLM(TABLE.expand(1, 9, -1))
    lm.copy_rates = RATES
    law = Level.after(lm, prefix.root(), prefix, warp).warped.dense()[0, 0].exp()
    own = torch.tensor([0.0, 0.4, 0.6, 0.0, 0.0])  # of 0.2 and 0.3
    expected = (1 - share) * own + share * torch.eye(5)[copied]
    torch.testing.assert_close(law, expected)
