"""Mixed laws: golden numbers, whole texts against π by enumeration, temperature 0, and limits."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from support import lossy_laws, oracles
from support.lossy_laws import mixed_law, mixture
from support.oracles import Blocks, Law, Text
from support.toy_texts import PENALTIES, PROMPT, SCALED_DRAFT, SCALED_TARGET
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
from support.trimmed import trimmed

from mtad.engine.decode import decode
from mtad.errors import OptionError
from mtad.testing import TOY_DRAFT, TOY_TARGET, Table

PAIRS: dict[str, tuple[Table, Table]] = {
    "G": (TOY_TARGET, TOY_DRAFT),
    "H": (H_TARGET, H_DRAFT),
}
RULES = {
    "chow": 0.53,
    "diff": 0.12,
    "opt": 0.3,
    "js": 0.02,
    "kl": 0.1,
    "tv": 0.22,
    "token": 0.45,
    "ensemble": 0.3,
}
"""Rules with thresholds at which the target's law is taken in some contexts and not in others."""


def toys(name: str) -> tuple[MarkovPair, Law, Law, Text]:
    """A pair, its laws and its empty text."""
    target, draft = PAIRS[name]
    laws = oracles.markov(target), oracles.markov(draft)
    return MarkovPair.of(target, draft), *laws, (len(target) - 1,)


@pytest.mark.parametrize(
    ("name", "rule", "threshold", "tokens"),
    [
        ("G", "opt", 0.3, (2.771, 3.352530)),
        ("H", "opt", 0.3, (2.812500, 3.492875)),
        ("G", "js", 0.02, (2.276, 2.737520)),
        ("H", "js", 0.02, (2.5, 3.111250)),
        ("G", "tv", 0.22, (2.276, 2.737520)),
        ("H", "tv", 0.22, (2.85, 3.6)),
        ("G", "token", 0.45, (2.272, 2.609556)),
        ("H", "token", 0.45, (2.2005, 2.526212)),
        ("G", "ensemble", 0.3, (2.4491, 2.993338)),
        ("H", "ensemble", 0.3, (2.5975, 3.231325)),
    ],
)
def test_golden_tokens_and_the_law_of_one_iteration(
    name: str, rule: str, threshold: float, tokens: tuple[float, float]
) -> None:
    pair, p, q, start = toys(name)
    law = mixed_law(rule, threshold, p, q)
    exact = [oracles.speculative_blocks(law, q, start, depth) for depth in (2, 3)]
    assert [*map(oracles.mean_length, exact)] == pytest.approx(tokens, abs=1e-6)
    method = make("cascade", num_draft_tokens=2, rule=rule, threshold=threshold)
    assert_law(iterate(pair, method, [start] * 3_000).blocks, exact[0])


def test_golden_mixtures() -> None:
    wanted = {
        ("G", "token", 0.45): (0.35, 0.59, 0.06),
        ("H", "token", 0.45): (0.41, 0.47, 0.08, 0.04),
        ("G", "ensemble", 0.3): (0.41, 0.36, 0.23),
        ("H", "ensemble", 0.3): (0.355, 0.315, 0.185, 0.145),
    }
    for (name, rule, a), law in wanted.items():
        target, draft = PAIRS[name]
        assert mixture(rule, a, target[-1], draft[-1]) == pytest.approx(law, abs=1e-9)


def test_every_rule_takes_either_law_somewhere() -> None:
    """Else the tests below would say little of them."""
    for name, (target, draft) in PAIRS.items():
        for rule in lossy_laws.USES_TARGET:
            laws = [mixture(rule, RULES[rule], p, q) for p, q in zip(target, draft, strict=True)]
            taken = {law == p for law, p in zip(laws, map(list, target), strict=True)}
            assert taken == {True, False}, (name, rule)


# --- whole texts -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("name", "length"), [("G", 4), ("H", 3)])
def test_texts_have_the_law_of_the_mixture(name: str, length: int, rule: str) -> None:
    """Wherever blocks and budgets end: the law is exact after the last token of a draft, too."""
    pair, p, q, start = toys(name)
    exact = oracles.text_law(mixed_law(rule, RULES[rule], p, q), start, length)
    method = make("cascade", num_draft_tokens=2, rule=rule, threshold=RULES[rule])
    for budget in (length + 2, length):
        requests = requests_of([start] * 800, max_new_tokens=budget)
        texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
        assert_law((tuple(text[:length]) for text in texts), exact)


def target_bonus_law(name: str, rule: str, length: int, budgeted: bool, depth: int) -> Blocks:
    _, p, q, start = toys(name)
    law = mixed_law(rule, RULES[rule], p, q)

    @cache
    def blocks(text: Text, left: int) -> Blocks:
        most = min(depth, left - 1) if budgeted else depth
        return lossy_laws.chain_blocks(q, text, most, lambda t, n: law(t), p)

    return oracles.compose(blocks, start, length)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["js", "ensemble"])
def test_a_bonus_from_the_target(rule: str) -> None:
    """The draft reads one token less; wherever nothing was drafted the token is the target's."""
    pair, *_, start = toys("G")
    options = {"num_draft_tokens": 2, "rule": rule, "threshold": RULES[rule]}
    method = make("cascade", **options, bonus="target")
    for budget in (6, 4):
        requests = requests_of([start] * 1_500, max_new_tokens=budget)
        texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
        law = target_bonus_law("G", rule, 4, budget == 4, 2)
        assert_law((tuple(text[:4]) for text in texts), law)
    seen = [iterate(pair, m, [start]).tree for m in (method, make("cascade", **options))]
    assert [len(tree.draft_laws) for tree in seen] == [2, 3]


def test_golden_error_of_a_bonus_from_the_target() -> None:
    _, p, q, start = toys("G")
    exact = oracles.text_law(mixed_law("js", 0.02, p, q), start, 4)
    other = target_bonus_law("G", "js", 4, False, 2)
    assert max(abs(exact[t] - other[t]) for t in exact) == pytest.approx(0.012150, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "threshold"), [("opt", 0.3), ("token", 0.45), ("ensemble", 0.4)])
def test_warps_and_penalties_act_on_both_laws(rule: str, threshold: float) -> None:
    """Rows of several settings in one batch; banned tokens and early ends stay out."""
    pair = MarkovPair.of(SCALED_TARGET, SCALED_DRAFT)
    tables = SCALED_TARGET, SCALED_DRAFT
    method = make("cascade", num_draft_tokens=2, rule=rule, threshold=threshold)
    settings = [{"top_k": 2}, *PENALTIES[3:8]]
    requests = [r for s in settings for r in requests_of([PROMPT] * 200, max_new_tokens=5, **s)]
    texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
    for number, given in enumerate(settings):
        laws = [penalized(table, given) for table in tables]
        exact = oracles.text_law(
            mixed_law(rule, threshold, *laws), PROMPT, 3, given.get("eos_token_ids", ())
        )
        rows = texts[200 * number : 200 * (number + 1)]
        assert_law((tuple(text[:3]) for text in rows), exact)


def penalized(table: Table, settings: dict[str, Any]) -> Law:
    """A token law after PROMPT under sampling settings."""
    warps = {k: v for k, v in settings.items() if k in ("temperature", "top_k", "top_p", "min_p")}
    rules = {k: v for k, v in settings.items() if k not in warps and k != "eos_token_ids"}

    def law(text: Text) -> list[float]:
        logits, output = [oracles.log(x) for x in table[text[-1]]], text[len(PROMPT) :]
        seen = tuple(t for t in PROMPT if t < len(logits))
        eos = settings.get("eos_token_ids", ())
        return oracles.warp(oracles.penalized(logits, seen, output, eos=eos, **rules), **warps)

    return law


def test_the_text_may_leave_the_targets_nucleus() -> None:
    """Where the draft's law is taken, so are tokens that top-k took from the target."""
    pair = MarkovPair.everywhere((0.5, 0.3, 0.2), (0.1, 0.1, 0.8))
    method = make("cascade", num_draft_tokens=2, rule="chow", threshold=1.0)
    requests = requests_of([(0,)] * 20, max_new_tokens=9, top_k=1)
    texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
    assert texts == [[2] * 9] * 20


# --- temperature 0 -----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", PAIRS)
def test_temperature_0_is_judged_by_laws_before_temperature(name: str, rule: str) -> None:
    """Greedy rows beside sampled ones, blocks of three tokens against one token at a time."""
    pair, p, q, start = toys(name)
    prompts = [start, *((token,) for token in range(start[0]))]
    greedy = requests_of(prompts, max_new_tokens=9, temperature=0.0)
    method = make("cascade", num_draft_tokens=3, rule=rule, threshold=RULES[rule])
    for others in ([], requests_of(prompts, max_new_tokens=9)):
        requests = [*greedy, *others]
        texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
        for prompt, text in zip(prompts, texts, strict=False):
            wanted = prompt
            for _ in range(9):
                laws = p(wanted), q(wanted)
                wanted = (*wanted, lossy_laws.greedy_mixture(rule, RULES[rule], *laws))
            assert tuple(text) == wanted[1:]


def test_an_ensemble_of_temperature_0_is_the_best_of_the_mixed_laws() -> None:
    """Neither favourite: the token that both find likely, without a coin."""
    pair = MarkovPair.everywhere((0.5, 0.1, 0.4), (0.1, 0.5, 0.4))
    method = make("cascade", rule="ensemble", threshold=0.5)
    requests = requests_of([(0,)] * 8, max_new_tokens=9, temperature=0.0)
    assert decode_all(pair.target, pair.draft, method, requests, 3) == [[2] * 9] * 8


def test_the_tree_keeps_laws_before_temperature_in_greedy_rows_alone() -> None:
    pair, _, q, start = toys("H")
    for temperature, wanted in ((0.0, q(start)), (0.5, oracles.warp(logs(q(start)), 0.5))):
        tree = iterate(pair, make("cascade"), [start], temperature=temperature).tree
        assert tree.draft_logprobs[0][0, 0].exp().tolist()[:4] == pytest.approx(wanted, abs=1e-6)
    assert len(tree.draft_laws) == tree.depth + 1


def logs(law: oracles.Probs) -> list[float]:
    return [oracles.log(x) for x in law]


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_ensemble_without_the_draft_is_speculative_sampling() -> None:
    """Token by token: the same noise meets the same laws."""
    pair, *_, start = toys("H")
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"top_k": 2, "temperature": 1.3},
        {"eos_token_ids": (2,), "min_new_tokens": 2},
    ]
    requests = [r for s in settings for r in requests_of([start] * 60, max_new_tokens=9, **s)]
    neutral, exact = make("cascade", rule="ensemble", threshold=0.0), make("speculative_sampling")
    assert neutral.is_lossless and not make("cascade").is_lossless
    assert not make("cascade", rule="chow", threshold=0.0).is_lossless
    texts = [decode_all(pair.target, pair.draft, m, requests, pair.vocab) for m in (neutral, exact)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("rule", "threshold"), [("chow", 0.0), ("js", 0.0), ("tv", 0.0)])
def test_the_target_everywhere(rule: str, threshold: float) -> None:
    pair, p, _, start = toys("G")
    method = make("cascade", num_draft_tokens=2, rule=rule, threshold=threshold)
    requests = requests_of([start] * 1_000, max_new_tokens=5)
    texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
    assert_law((tuple(text[:3]) for text in texts), oracles.text_law(p, start, 3))


@pytest.mark.parametrize("rule", ["chow", "diff", "token", "ensemble"])
def test_the_draft_alone(rule: str) -> None:
    """Everything is kept, and the token after the block is the draft's as well."""
    pair, _, q, start = toys("G")
    method = make("cascade", num_draft_tokens=2, rule=rule, threshold=1.0)
    seen = iterate(pair, method, [start] * 1_500)
    assert (seen.verdict.num_accepted == 2).all()
    assert_law(seen.blocks, oracles.text_law(q, start, 3))


def test_thresholds_are_strict() -> None:
    """At the border the draft is trusted; every number here has few binary digits."""
    p, q = (0.5, 0.25, 0.25, 0.0), (0.25, 0.5, 0.25, 0.0)
    cases = [("chow", 0.5), ("diff", 0.0), ("opt", 0.0), ("tv", 0.25), ("token", 0.5)]
    tokens = {}
    for rule, a in cases:
        method = make("cascade", num_draft_tokens=1, rule=rule, threshold=a)
        seen = iterate(MarkovPair.everywhere(p, q), method, [(0,)] * 300)
        tokens[rule] = float(seen.verdict.num_accepted.double().mean())
        assert mixture(rule, a, p, q) == list(q)
    assert tokens == dict.fromkeys(tokens, 1.0)


def test_a_draft_token_that_the_target_cannot_say_calls_for_the_target() -> None:
    """KL(q | p) is infinite there, JS is not."""
    p, q = (0.6, 0.4, 0.0), (0.5, 0.4, 0.1)
    for rule, accepts in (("kl", False), ("js", True)):
        method = make("cascade", num_draft_tokens=1, rule=rule, threshold=3.0)
        seen = iterate(MarkovPair.everywhere(p, q), method, [(0,)] * 400, top_p=0.95)
        drafted = seen.tree.tokens[:, 1] == 2
        assert drafted.any()
        assert bool(seen.verdict.num_accepted[drafted].any()) is accepts


@pytest.mark.slow
def test_where_the_draft_has_no_token_the_target_speaks() -> None:
    """All that a trimmed draft has is banned: nothing is drafted, whatever the rule."""
    pair = MarkovPair.of(TOY_TARGET, TOY_DRAFT)
    pair = MarkovPair(pair.target, trimmed(pair.draft, (2, 0)), pair.vocab)
    banned: dict[str, Any] = {"suppress_tokens": (0, 2), "max_new_tokens": 6}
    for rule in RULES:
        method = make("cascade", rule=rule, threshold=RULES[rule])
        requests = requests_of([(3,)] * 4, **banned)
        requests += requests_of([(3,)] * 2, temperature=0.0, **banned)
        texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
        assert texts == [[1] * 6] * 6


@pytest.mark.usefixtures("unchecked_types")
def test_a_share_above_one_is_refused() -> None:
    for rule in ("chow", "diff", "token", "ensemble"):
        with pytest.raises(OptionError, match=r"threshold is 1.5; it must be a number from 0 to 1"):
            make("cascade", rule=rule, threshold=1.5)
    assert make("cascade", rule="opt", threshold=1.5).threshold == 1.5


@pytest.mark.parametrize(("rule", "threshold"), [("opt", 0.3), ("diff", 0.1), ("token", 0.5)])
def test_defaults_of_the_thresholds(rule: str, threshold: float) -> None:
    pair, *_, start = toys("H")
    seen = [
        iterate(pair, make("cascade", rule=rule, threshold=a), [start] * 200).verdict
        for a in (None, threshold)
    ]
    assert torch.equal(seen[0].num_accepted, seen[1].num_accepted)
    assert torch.equal(seen[0].next_token, seen[1].next_token)


# --- the receipt -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["opt", "token", "ensemble"])
@pytest.mark.parametrize("bonus", ["mixture", "target"])
def test_the_receipt_adds_up_how_far_the_mixture_is_from_the_target(rule: str, bonus: str) -> None:
    """Of each token of the text, up to its end; none where the target's law was taken instead."""
    pair, p, q, start = toys("H")
    method = make("cascade", num_draft_tokens=2, rule=rule, threshold=RULES[rule], bonus=bonus)
    requests = requests_of([start] * 12, max_new_tokens=9, eos_token_ids=(0,))
    texts, sums = [start] * 12, [0.0] * 12
    for step in decode(pair.target, pair.draft, method, requests, pair.vocab):
        for block in step.blocks:
            for i, token in enumerate(block.token_ids):
                context = texts[block.request]
                law = mixture(rule, RULES[rule], p(context), q(context))
                if bonus == "mixture" or i < block.depth:
                    sums[block.request] += lossy_laws.total_variation(law, p(context))
                texts[block.request] = (*context, token)
            assert block.receipt["total_variation"] == pytest.approx(sums[block.request], abs=1e-5)
    assert max(sums) > 0 and any(text[-1] == 0 for text in texts)


def test_at_temperature_0_the_receipt_counts_the_tokens_that_are_not_the_targets() -> None:
    pair, p, _, start = toys("G")
    method = make("cascade", num_draft_tokens=3, rule="opt", threshold=0.3)
    [*_, last] = decode(
        pair.target,
        pair.draft,
        method,
        requests_of([start], max_new_tokens=9, temperature=0.0),
        pair.vocab,
    )
    requests = requests_of([start], max_new_tokens=9, temperature=0.0)
    text = (*start, *decode_all(pair.target, pair.draft, method, requests, pair.vocab)[0])
    contexts = [p((token,)) for token in text[:-1]]
    others = sum(c.index(max(c)) != token for c, token in zip(contexts, text[1:], strict=True))
    assert others > 0
    assert last.blocks[0].receipt == {"total_variation": others}
