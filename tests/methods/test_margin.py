"""margin: its golden numbers, its law, and a budget that no text exceeds."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import lossy_laws, oracles
from support.oracles import Blocks, Law, Probs, Text
from support.tiny import PROMPTS, complete, similar, tiny_model, token_ids
from support.toys import H_DRAFT, H_TARGET, MarkovPair, assert_law, iterate, make

from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.testing import TOY_DRAFT, TOY_TARGET, markov_model

TOYS = {"G": (TOY_TARGET, TOY_DRAFT), "H": (H_TARGET, H_DRAFT)}


def margin(gap: float, rank: int, budget: float = math.inf, depth: int = 4) -> Method:
    return make("margin", num_draft_tokens=depth, max_gap=gap, max_rank=rank, regret_budget=budget)


# --- sampling ----------------------------------------------------------------------------------


def near(p: Probs, gap: float, rank: int) -> set[int]:
    """Tokens other than the best one that are kept without the coin."""
    order = sorted(range(len(p)), key=lambda token: (-p[token], token))[:rank]
    return {x for x in order[1:] if p[x] > 0 and math.log(p[order[0]] / p[x]) < gap}


def margin_blocks(p: Law, q: Law, text: Text, depth: int, gap: float, rank: int) -> Blocks:
    """One iteration: near tokens stay whole, of the others what the coin leaves."""
    blocks: dict[Text, float] = Counter()

    def go(path: Text, weight: float) -> None:
        a = p(text + path)
        if len(path) == depth:
            for token, chance in enumerate(a):
                blocks[(*path, token)] += weight * chance
            return
        b, kept = q(text + path), near(a, gap, rank)
        stays = [y if x in kept else min(a[x], y) for x, y in enumerate(b)]
        left = oracles.residual(a, b)
        for token, mass in enumerate(stays):
            blocks[(*path, token)] += weight * (1 - sum(stays)) * left[token]
            if mass > 0:
                go((*path, token), weight * mass)

    go((), 1.0)
    return dict(blocks)


@pytest.mark.parametrize(
    ("toy", "gap", "rank", "short", "long"),
    [
        ("G", 0.5, 2, 2.231000, 2.630870),
        ("H", 0.5, 2, 2.535000, 3.090250),
        ("G", 1.0, 2, 2.601000, 3.132570),
        ("H", 1.0, 2, 2.547500, 3.121625),
        ("G", 1.0, 3, 2.846000, 3.524280),
        ("H", 1.0, 3, 2.547500, 3.121625),
    ],
)
def test_tokens_of_an_iteration(toy: str, gap: float, rank: int, short: float, long: float) -> None:
    """What the text of the rule says; the method is compared with the same oracle below."""
    target, draft = TOYS[toy]
    p, q, start = oracles.markov(target), oracles.markov(draft), (len(target) - 1,)
    for depth, tokens in ((2, short), (3, long)):
        blocks = margin_blocks(p, q, start, depth, gap, rank)
        assert oracles.mean_length(blocks) == pytest.approx(tokens, abs=1e-6)


@pytest.mark.parametrize(
    ("toy", "rank", "law"),
    [("G", 2, (0.3, 0.5, 0.2)), ("H", 2, (0.3625, 0.35, 0.1875, 0.1)), ("G", 3, None)],
)
def test_law_of_a_block(toy: str, rank: int, law: Text | None) -> None:
    target, draft = TOYS[toy]
    pair, start = MarkovPair.of(target, draft), (len(target) - 1,)
    blocks = margin_blocks(oracles.markov(target), oracles.markov(draft), start, 2, 1.0, rank)
    if law is not None:
        first = [sum(w for b, w in blocks.items() if b[0] == x) for x in range(len(law))]
        assert first == pytest.approx(law, abs=1e-9)
    seen = iterate(pair, margin(1.0, rank, depth=2), [start] * 6_000)
    assert_law(seen.blocks, blocks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [margin(0.0, 9), margin(9.0, 1), margin(9.0, 9, budget=0.0)], ids=["M", "k", "R"]
)
def test_neutral_options_are_speculative_sampling(method: Method) -> None:
    """To the token: also at temperature 0, in one batch with others, and where logits tie."""
    exact = make("speculative_sampling", num_draft_tokens=4)
    target = tiny_model("llama")
    params = [
        SamplingParams(temperature=heat, top_k=k, max_new_tokens=20, seed=seed)
        for seed, (heat, k) in enumerate([(1.0, 0), (0.8, 5), (0.0, 0)])
    ]
    pair = target, similar(target, 0.3)
    wanted = token_ids(*pair, exact, PROMPTS, params)
    assert token_ids(*pair, method, PROMPTS, params) == wanted
    assert method.is_lossless
    tied = markov_model([[0.4, 0.4, 0.2]] * 3), markov_model([[0.3, 0.5, 0.2]] * 3)
    assert token_ids(*tied, method, [[0]], params[2:], 3) == [[0] * 20]


def test_ties_are_near_by_any_margin() -> None:
    tied = markov_model([[0.4, 0.4, 0.2]] * 3), markov_model([[0.3, 0.5, 0.2]] * 3)
    params = SamplingParams(temperature=0.0, max_new_tokens=5)
    (text,) = complete(*tied, margin(1e-6, 2), [[0]], params, 3)
    assert text.token_ids == [1, 1, 1, 1, 0]
    assert text.blocks[-1].receipt == {"regret": 0.0, "total_variation": 4.0}


def test_an_end_that_is_not_the_best_token_is_never_near() -> None:
    pair = markov_model([[0.5, 0.45, 0.05]] * 3), markov_model([[0.2, 0.7, 0.1]] * 3)
    params = SamplingParams(temperature=0.0, max_new_tokens=6)
    ends = replace(params, eos_token_ids=(1,))
    texts = token_ids(*pair, margin(1.0, 3), [[0]] * 2, [params, ends], 3)
    assert texts == [[1, 1, 1, 1, 0, 0], [0] * 6]


def test_what_truncation_removed_is_never_near() -> None:
    """Token 2 is the third; the draft, with another top 2, proposes it most of the time."""
    pair = markov_model([[0.4, 0.35, 0.25]] * 3), markov_model([[0.1, 0.15, 0.75]] * 3)
    params = [SamplingParams(top_k=2, max_new_tokens=9, seed=seed) for seed in range(20)]
    texts = token_ids(*pair, margin(9.0, 9), [[0]] * 20, params, 3)
    assert {token for text in texts for token in text} == {0, 1}


# --- the receipt -------------------------------------------------------------------------------


def greedy(p: Probs) -> list[float]:
    return [float(x == p.index(max(p))) for x in range(len(p))]


def excess(p: Probs, q: Probs, kept: set[int]) -> float:
    """How far the law of a drafted token is from p if `kept` need no coin."""
    return sum(max(q[x] - p[x], 0.0) for x in kept)


@pytest.mark.parametrize(
    ("toy", "bound", "mean"), [("G", 0.300560, 0.417960), ("H", 0.067088, 0.106519)]
)
def test_golden_bound_of_whole_texts(toy: str, bound: float, mean: float) -> None:
    """The mean receipt bounds the total variation between texts of four tokens and the target's."""
    p, q = map(oracles.markov, TOYS[toy])
    start = (len(TOYS[toy][0]) - 1,)
    texts, found = lossy_laws.texts_and_cost(
        lambda text: margin_blocks(p, q, text, 2, 1.0, 3),
        lambda text: excess(p(text), q(text), near(p(text), 1.0, 3)),
        start,
        2,
    )
    exact = oracles.text_law(p, start, 4)
    assert oracles.total_variation(texts, exact) == pytest.approx(bound, abs=1e-6)
    assert found == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("budget", [math.inf, 1.2])
@pytest.mark.parametrize("toy", TOYS)
def test_the_receipt_adds_up_the_bias_of_drafted_tokens(
    toy: str, budget: float, temperature: float
) -> None:
    """Of those that the budget has room for, no end of the text among them; of equal ones all."""
    start, eos = len(TOYS[toy][0]) - 1, (1,)
    params = [
        SamplingParams(temperature, max_new_tokens=9, seed=seed, eos_token_ids=eos * (seed % 2))
        for seed in range(12)
    ]
    method = margin(2.0, 3, budget, depth=2 if budget == math.inf else 1)
    models = map(markov_model, TOYS[toy])
    spent = []
    for text, setting in zip(
        complete(*models, method, [[start]] * 12, params, start + 1), params, strict=True
    ):
        path, sums, regret = start, 0.0, 0.0
        for block in text.blocks:
            for i, token in enumerate(block.token_ids):
                (p, q), left = (table[path] for table in TOYS[toy]), min(2.0, budget - regret)
                equal = [near((*p[:x], p[x] + 1e-9, *p[x + 1 :]), left, 3) for x in range(len(p))]
                kept = set().union(*equal) - {*setting.eos_token_ids, p.index(max(p))}
                if temperature == 0:
                    p, q = greedy(p), greedy(q)
                sums += excess(p, q, kept) if i < block.depth else 0.0
                path = token
            regret = block.receipt["regret"]
            assert block.receipt["total_variation"] == pytest.approx(sums, abs=1e-5)
        spent.append(sums)
    assert max(spent) > 0


# --- temperature 0 and the budget --------------------------------------------------------------


@pytest.mark.parametrize(
    ("toy", "start", "options", "text", "calls", "regret"),
    [
        ("H", 2, (0.2, 2), "222213013013", 3, 0.471132),
        ("H", 2, (0.2, 2, 0.5), "222213013013", 3, 0.471132),
        ("H", 2, (0.2, 2, 0.2), "213013013013", 3, 0.117783),
        ("H", 2, (0.2, 2, 0.0), "130130130130", 4, 0.0),
        ("H", 2, (0.2, 1), "130130130130", 4, 0.0),
        ("H", 2, (0.1, 2), "130130130130", 4, 0.0),
        ("G", 0, (2.0, 3), "2" * 12, 3, 1.791759),
        ("G", 0, (2.0, 3, 1.8), "2" * 12, 3, 1.791759),
        ("G", 0, (2.0, 3, 1.7), "0" * 12, 12, 0.0),
    ],
)
def test_greedy_texts(
    toy: str, start: int, options: tuple[Any, ...], text: str, calls: int, regret: float
) -> None:
    target, draft = TOYS[toy]
    models = markov_model(target), markov_model(draft)
    params = SamplingParams(temperature=0.0, max_new_tokens=12)
    (found,) = complete(*models, margin(*options), [[start]], params, len(target))
    assert found.token_ids == [int(token) for token in text]
    assert len(found.blocks) == calls
    assert found.blocks[-1].receipt["regret"] == pytest.approx(regret, abs=1e-6)


def regret_of(table: list[list[float]], text: Text) -> float:
    """What a text gives away against the target's own choices, after its first token."""
    pairs = itertools.pairwise(text)
    return sum(math.log(max(table[last]) / table[last][token]) for last, token in pairs)


def random_tables(vocab: int, seed: int) -> list[list[list[float]]]:
    """Laws of a target, sharp ones, and of a draft that agrees with it by and large."""
    torch.manual_seed(seed)
    first, second = torch.distributions.Gamma(0.5, 1.0).sample((2, vocab, vocab)) + 1e-3
    laws = first, first**0.7 * second**0.3
    return [(one / one.sum(1, keepdim=True)).double().tolist() for one in laws]


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(
    vocab=st.integers(2, 9),
    depth=st.integers(1, 6),
    rank=st.integers(1, 4),
    gap=st.sampled_from([0.3, 1.0, 3.0, math.inf]),
    budget=st.sampled_from([0.0, 0.2, 1.0, 5.0, math.inf]),
    seed=st.integers(0, 10_000),
)
def test_no_text_exceeds_the_budget(
    vocab: int, depth: int, rank: int, gap: float, budget: float, seed: int
) -> None:
    """Rows of a batch with budgets of tokens of their own; the receipt is the regret itself."""
    target, draft = random_tables(vocab, seed)
    params = [
        SamplingParams(temperature=0.0, max_new_tokens=4 + 7 * row, eos_token_ids=(1,) * (row % 2))
        for row in range(5)
    ]
    prompts = [(row % vocab,) for row in range(5)]
    method, models = margin(gap, rank, budget, depth), (markov_model(target), markov_model(draft))
    for prompt, text in zip(
        prompts, complete(*models, method, prompts, params, vocab), strict=True
    ):
        spent = regret_of(target, (*prompt, *text.token_ids))
        assert spent == pytest.approx(text.blocks[-1].receipt["regret"], abs=1e-4)
        assert spent < budget + 1e-4 * (budget > 0) + 1e-9


@pytest.mark.slow
def test_a_text_does_not_depend_on_what_others_have_spent() -> None:
    """Each of a batch has the budget for itself."""
    target, draft = random_tables(9, 4)
    models = markov_model(target), markov_model(draft)
    params = SamplingParams(temperature=0.0, max_new_tokens=16)
    prompts, method = [[token] for token in range(5)], margin(2.0, 3, 3.0)
    together = complete(*models, method, prompts, params, 9)
    alone = [complete(*models, method, [prompt], params, 9)[0] for prompt in prompts]
    assert [t.token_ids for t in together] == [t.token_ids for t in alone]
    spent = [text.blocks[-1].receipt["regret"] for text in together]
    assert spent == [text.blocks[-1].receipt["regret"] for text in alone]
    assert len({*spent}) > 2 and max(spent) > 1.5
