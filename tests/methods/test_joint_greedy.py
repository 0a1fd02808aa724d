"""joint_greedy: its golden numbers, and that no block is less likely or shorter than greedy's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracles
from support.oracles import Law, Text
from support.tiny import Text as Completed
from support.tiny import complete
from support.toys import (
    H_DRAFT,
    H_TARGET,
    J_DRAFT,
    J_TARGET,
    MarkovPair,
    TableLM,
    decode_all,
    iterate,
    make,
    prefix_of,
    requests_of,
)

from mtad.core.noise import Noise
from mtad.core.tree import TokenTree
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper
from mtad.speculative.method import Method
from mtad.testing import TOY_DRAFT, TOY_TARGET, markov_model

J, START = oracles.markov(J_TARGET), (3,)
SLACK = 1e-4
"""Nats that rounding in float32 may cost."""


@pytest.fixture(scope="module")
def pair() -> MarkovPair:
    return MarkovPair.of(J_TARGET, J_DRAFT)


def joint_greedy(width: int, depth: int, margin: float = 0.0) -> Method:
    return make("joint_greedy", beam_width=width, num_draft_tokens=depth, joint_margin=margin)


# --- golden numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "depth", "margin", "block", "logprob"),
    [
        (1, 2, 0.0, (0,), -0.693147),
        (1, 2, 0.4, (1, 1, 1), -1.009229),
        (2, 2, 0.0, (1, 1, 1), -1.009229),
        (2, 3, 0.0, (1, 1, 1, 1), -1.114589),
    ],
)
def test_first_block(
    pair: MarkovPair, width: int, depth: int, margin: float, block: Text, logprob: float
) -> None:
    seen = iterate(pair, joint_greedy(width, depth, margin), [START], temperature=0.0)
    assert seen.blocks == [block]
    assert math.log(oracles.joint(J, START, block)) == pytest.approx(logprob, abs=1e-6)


def test_a_longer_block_may_win_by_a_bound_on_tokens_that_greedy_was_not_asked_for(
    pair: MarkovPair,
) -> None:
    """Nodes 0, 1 and 1 1: greedy is known to 0 0, and its third token can only cost more."""
    nodes = torch.tensor([[3]]), torch.tensor([[0, 1]]), torch.tensor([[1]])
    tree = TokenTree.root(nodes[0][:, 0], nodes[0][:, 0])
    for tokens, parents in ((nodes[1], [[0, 0]]), (nodes[2], [[2]])):
        sure = torch.ones_like(tokens, dtype=torch.bool)
        tree = tree.grow(tokens, torch.tensor(parents), sure, torch.zeros(tokens.shape))
    law = torch.tensor(J_TARGET)
    warp, noise = bound([START], vocab=4)
    verdict = joint_greedy(2, 2).verify(tree, law[tree.tokens].log(), warp, noise)
    assert (verdict.path.tolist(), verdict.next_token.tolist()) == ([[2, 3]], [1])


def test_texts(pair: MarkovPair) -> None:
    """Greedy's first token leads nowhere; the likelier text takes as many target calls."""
    params = SamplingParams(temperature=0.0, max_new_tokens=10)
    (text,) = complete(pair.target, pair.draft, joint_greedy(2, 3), [START], params, pair.vocab)
    assert text.token_ids == [1] * 10
    assert math.log(oracles.joint(J, START, (1,) * 10)) == pytest.approx(-1.746752, abs=1e-6)
    assert len(text.blocks) == 3
    plain = decode_all(pair.target, None, make("autoregressive"), greedy([START], 10), pair.vocab)
    assert plain == [[0] * 10]
    assert math.log(oracles.joint(J, START, (0,) * 10)) == pytest.approx(-10.402434, abs=1e-6)


@pytest.mark.parametrize(("target", "draft"), [(TOY_TARGET, TOY_DRAFT), (H_TARGET, H_DRAFT)])
def test_greedy_text_where_nothing_is_likelier(target: list, draft: list) -> None:
    toy = MarkovPair.of(target, draft)
    asked = greedy([(len(target) - 1,)], 12)
    plain = decode_all(toy.target, None, make("autoregressive"), asked, toy.vocab)
    assert decode_all(toy.target, toy.draft, joint_greedy(4, 3), asked, toy.vocab) == plain


def test_greedy_of_equals(pair: MarkovPair) -> None:
    """All blocks are equally likely; greedy takes the lowest token each time."""
    flat, inverse = [[0.5, 0.5]] * 2, [[0.4, 0.6]] * 2
    toy = MarkovPair.of(flat, inverse)
    assert iterate(toy, joint_greedy(8, 3), [(0,)], temperature=0.0).blocks == [(0, 0, 0, 0)]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("temperature", 1.0), ("temperature", 0.5), ("top_k", 5), ("top_p", 0.9), ("min_p", 0.1)],
)
def test_what_a_search_cannot_honour_is_refused(setting: str, value: float) -> None:
    params = replace(SamplingParams(temperature=0.0), **{setting: value})
    with pytest.raises(ValueError, match=f"joint_greedy does not honour {setting}={value}: it se"):
        make("joint_greedy").check(params)


# --- the theorem -------------------------------------------------------------------------------


def greedy(prompts: Sequence[Text], budget: int) -> list:
    return requests_of(prompts, temperature=0.0, max_new_tokens=budget)


def bound(
    texts: Sequence[Text], vocab: int, eos: Text = (), budgets: Sequence[int] = (16,)
) -> tuple[Warper, Noise]:
    """What `verify` gets at temperature 0 after these texts."""
    prefix = prefix_of(texts, budget=max(budgets), entries=1)
    prefix = replace(
        prefix,
        eos=torch.tensor([list(eos) or [-1]] * len(texts)),
        budgets=torch.tensor([budgets[row % len(budgets)] for row in range(len(texts))]),
    )
    params = [SamplingParams(temperature=0.0)] * len(texts)
    warp = Warper.of(params, vocab, torch.device("cpu")).at(prefix)
    return warp, Noise(torch.zeros(len(texts), dtype=torch.int64), prefix.num_new)


def greedy_value(p: Law, text: Text, length: int, eos: Text) -> float:
    """Log-probability of greedy's next tokens, as many as there are before it ends."""
    total = 0.0
    for _ in range(length):
        probs = p(text)
        best = max(range(len(probs)), key=lambda token: (probs[token], -token))
        total, text = total + math.log(probs[best]), (*text, best)
        if best in eos:
            break
    return total


def greedy_length(p: Law, text: Text, paths: set[Text], eos: Text) -> int:
    """Tokens that greedy speculative decoding commits of a tree with these paths."""
    found: Text = ()
    while True:
        probs = p(text + found)
        found += (max(range(len(probs)), key=lambda token: (probs[token], -token)),)
        if found not in paths or found[-1] in eos:
            return len(found)


def assert_as_good_as_greedy(
    p: Law, text: Text, block: Text, eos: Text, margin: float = 0.0
) -> None:
    value = sum(math.log(p(text + block[:i])[token]) for i, token in enumerate(block))
    assert value >= greedy_value(p, text, len(block), eos) - margin - SLACK
    assert not set(block[:-1]) & set(eos)


def random_laws(rows: int, vocab: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Laws of a target, sharp ones, and of a draft that agrees with it by and large."""
    torch.manual_seed(seed)
    first, second = torch.distributions.Gamma(0.3, 1.0).sample((2, rows, 53, vocab)) + 1e-3
    laws = first, first**0.7 * second**0.3
    return tuple(one / one.sum(-1, keepdim=True) for one in laws)


def law_of(table: list[list[float]]) -> Law:
    """The law of a row of a `TableLM`; the text's first token is its root."""

    def law(text: Text) -> list[float]:
        state = 0
        for token in text[1:]:
            state = (state * 7 + token + 1) % len(table)
        return table[state]

    return law


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    vocab=st.integers(2, 6),
    width=st.integers(1, 5),
    depth=st.integers(1, 4),
    margin=st.sampled_from([-0.5, 0.0, 0.0, 1.0]),
    eos=st.sampled_from([(), (1,), (0, 3)]),
    seed=st.integers(0, 10_000),
)
def test_no_block_is_less_likely_or_shorter_than_greedys(
    vocab: int, width: int, depth: int, margin: float, eos: Text, seed: int
) -> None:
    """On random laws, with ends of texts and budgets: as likely, and as long as on that tree."""
    rows = 24
    target, draft = random_laws(rows, vocab, seed)
    warp, noise = bound([(0,)] * rows, vocab, eos, budgets=(1, 2, depth, depth + 1, 16))
    method = joint_greedy(width, depth, margin)
    assert warp.prefix is not None
    tree = method.draft(TableLM(draft), warp.prefix, warp, noise)
    verdict = method.verify(tree, TableLM(target).forward(tree), warp, noise)
    budgets = warp.prefix.budgets.tolist()
    for row, table in enumerate(target.double().tolist()):
        p, count = law_of(table), int(verdict.num_accepted[row])
        nodes = verdict.path[row, :count]
        assert bool(tree.alive[row, nodes].all())
        block = (*tree.tokens[row, nodes].tolist(), int(verdict.next_token[row]))
        assert_as_good_as_greedy(p, (0,), block, eos, max(margin, 0.0))
        paths = {
            tuple(
                tree.tokens[row, tree.path_to(torch.full((rows,), node))[row][: int(at)]].tolist()
            )
            for node, at in enumerate(tree.depths)
            if bool(tree.alive[row, node])
        }
        assert budgets[row] >= len(block) >= greedy_length(p, (0,), paths, eos)


@pytest.mark.slow
@pytest.mark.parametrize("eos", [(), (2,)], ids=["endless", "ends"])
def test_every_block_of_a_text_is_as_likely_as_greedys_from_there(eos: Text) -> None:
    """Texts of a batch with budgets of their own, on models whose laws are random."""
    torch.manual_seed(3)
    weights = torch.distributions.Gamma(0.3, 1.0).sample((40, 40)) + 1e-3
    target = (weights / weights.sum(1, keepdim=True)).double().tolist()
    weights = weights**0.7 * torch.distributions.Gamma(0.3, 1.0).sample((40, 40)) ** 0.3 + 1e-6
    draft = (weights / weights.sum(1, keepdim=True)).double().tolist()
    p, left = oracles.markov(target), 0
    prompts = [(token,) for token in range(12)]
    params = [
        SamplingParams(temperature=0.0, max_new_tokens=1 + 3 * row, eos_token_ids=eos)
        for row in range(12)
    ]
    models = markov_model(target), markov_model(draft)
    texts = complete(*models, joint_greedy(4, 4), prompts, params, 40)
    plain = complete(*models, make("autoregressive"), prompts, params, 40)
    for prompt, text, other in zip(prompts, texts, plain, strict=True):
        assert_blocks(p, prompt, text, eos)
        left += text.token_ids != other.token_ids
    assert left >= 3, "texts that leave greedy's"


def assert_blocks(p: Law, prompt: Text, text: Completed, eos: Text) -> None:
    for block in text.blocks:
        assert_as_good_as_greedy(p, prompt, block.token_ids, eos)
        prompt += block.token_ids
