"""Cactus: golden numbers, laws of whole texts by enumeration, and where it is exact."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import pytest
import torch
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
GOLDENS = [
    ("G", 0.05, "quadratic", (2.800907, 3.557475)),
    ("H", 0.05, "quadratic", (2.851845, 3.725953)),
    ("G", 0.05, "exact", (2.824894, 3.610233)),
    ("H", 0.05, "exact", (2.884297, 3.786545)),
    ("G", 0.2, "exact", (2.982500, 3.938136)),
]


def toys(name: str) -> tuple[MarkovPair, oracles.Law, oracles.Law, Text]:
    """A pair, its laws and its empty text."""
    target, draft = PAIRS[name]
    laws = oracles.markov(target), oracles.markov(draft)
    return MarkovPair.of(target, draft), *laws, (len(target) - 1,)


@pytest.mark.parametrize(("name", "delta", "step", "tokens"), GOLDENS)
def test_golden_tokens_and_the_law_of_one_iteration(
    name: str, delta: float, step: str, tokens: tuple[float, float]
) -> None:
    pair, p, q, start = toys(name)
    exact = [lossy_laws.cactus_blocks(p, q, start, depth, delta, step) for depth in (2, 3)]
    assert [*map(oracles.mean_length, exact)] == pytest.approx(tokens, abs=1e-6)
    method = make("cactus", num_draft_tokens=2, delta=delta, step=step)
    assert_law(iterate(pair, method, [start] * 4_000).blocks, exact[0])


@pytest.mark.parametrize(
    ("name", "law"),
    [("G", (0.255086, 0.444914, 0.3)), ("H", (0.293474, 0.35, 0.161658, 0.194868))],
)
def test_golden_law_of_the_first_token(name: str, law: tuple[float, ...]) -> None:
    pair, p, q, start = toys(name)
    target = partial(lossy_laws.cactus_target, p(start), delta=0.05)
    assert lossy_laws.first_token(q(start), target) == pytest.approx(law, abs=1e-6)
    blocks = iterate(pair, make("cactus", num_draft_tokens=1, delta=0.05), [start] * 6_000).blocks
    assert_law((block[0] for block in blocks), dict(enumerate(law)) | {0: 1 - sum(law[1:])})


def test_the_token_after_a_rejection_is_of_the_residual_of_h() -> None:
    """Token 3 is raised from .1 to .4, which leaves less to 1 than q has; of p that has more."""
    pair = MarkovPair.everywhere((0.45, 0.35, 0.1, 0.1), (0.1, 0.3, 0.1, 0.5))
    blocks = iterate(pair, make("cactus", num_draft_tokens=1, delta=0.5), [(0,)] * 3_000).blocks
    rejected = [block for block in blocks if len(block) == 1]
    assert len(rejected) > 200 and {*rejected} == {(0,)}


@pytest.mark.parametrize(("p", "delta"), [(0.5, 0.2), (0.01, 0.05), (0.9, 0.02), (0.6, 0.6)])
def test_how_far_a_probability_is_raised(p: float, delta: float) -> None:
    log_p = torch.tensor([[p, 1.0, 0.0]], dtype=torch.float64).log()
    for step in ("quadratic", "exact"):
        found = make("cactus", delta=delta, step=step)._raised(log_p)[0].exp().tolist()
        assert found == pytest.approx([lossy_laws.raised(p, delta, step), 1, 0], abs=1e-9)


def test_golden_raised_probability() -> None:
    """The quadratic step is δ nats from p to second order only, the exact one is δ nats."""
    assert lossy_laws.raised(0.5, 0.2, "quadratic") == pytest.approx(0.816228, abs=1e-6)
    assert lossy_laws.divergence((0.816228, 0.183772), (0.5, 0.5)) == pytest.approx(
        0.216082, abs=1e-5
    )
    assert lossy_laws.raised(0.5, 0.2, "exact") == pytest.approx(0.805173, abs=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_no_token_is_favoured_by_more_than_its_own_raise(name: str) -> None:
    target, draft = PAIRS[name]
    found = []
    for p, q in zip(target, draft, strict=True):
        law = lossy_laws.first_token(q, partial(lossy_laws.cactus_target, p, delta=0.05))
        top = [max(x, lossy_laws.raised(x, 0.05, "quadratic")) for x in p]
        assert all(o <= most + 1e-12 for o, most in zip(law, top, strict=True))
        most = max(h / x for h, x in zip(top, p, strict=True))
        found.append(lossy_laws.divergence(law, p))
        assert found[-1] <= math.log(most)
    if name == "G":  # δ does not bound it
        assert found == pytest.approx([0.040699, 0.046811, 0.094268, 0.125304], abs=1e-6)


# --- whole texts -------------------------------------------------------------------------------


def text_law(
    name: str, length: int, budgeted: bool, depth: int, delta: float, step: str, **warp: Any
) -> Blocks:
    _, p, q, start = toys(name)

    def warped(law: oracles.Law) -> oracles.Law:
        return lambda text: oracles.warp([oracles.log(x) for x in law(text)], **warp)

    @cache
    def blocks(text: Text, left: int) -> Blocks:
        most = min(depth, left - 1) if budgeted else depth
        return lossy_laws.cactus_blocks(warped(p), warped(q), text, most, delta, step)

    return oracles.compose(blocks, start, length)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "step", "length", "warp"),
    [
        ("G", "quadratic", 4, {}),
        ("G", "exact", 4, {"temperature": 1.4, "top_k": 2}),
        ("H", "exact", 3, {}),
        ("H", "quadratic", 3, {"top_p": 0.65}),
    ],
)
def test_texts_have_their_law(name: str, step: str, length: int, warp: dict[str, Any]) -> None:
    pair, *_, start = toys(name)
    method = make("cactus", num_draft_tokens=2, delta=0.05, step=step)
    for budget in (length + 2, length):
        requests = requests_of([start] * 1_200, max_new_tokens=budget, **warp)
        texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
        law = text_law(name, length, budget == length, 2, 0.05, step, **warp)
        assert_law((tuple(text[:length]) for text in texts), law)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"top_k": 2, "temperature": 1.3},
    {"eos_token_ids": (2,), "min_new_tokens": 2},
    {"suppress_tokens": (1,)},
]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["quadratic", "exact"])
def test_nothing_raised_is_speculative_sampling(step: str) -> None:
    """Token by token: the same noise meets the same laws."""
    pair, *_, start = toys("H")
    requests = [r for s in SETTINGS for r in requests_of([start] * 60, max_new_tokens=9, **s)]
    neutral, exact = make("cactus", delta=0.0, step=step), make("speculative_sampling")
    assert neutral.is_lossless and not make("cactus").is_lossless
    texts = [decode_all(pair.target, pair.draft, m, requests, pair.vocab) for m in (neutral, exact)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("step", ["quadratic", "exact"])
def test_temperature_0_is_greedy(step: str) -> None:
    pair, *_, start = toys("H")
    method = make("cactus", delta=1.0, step=step)
    requests = requests_of([start, (2,)], max_new_tokens=12, temperature=0.0)
    texts = decode_all(pair.target, pair.draft, method, requests, pair.vocab)
    assert texts == [[0, *[1, 3, 0] * 4][:12], [1, 3, 0] * 4]


@pytest.mark.parametrize("step", ["quadratic", "exact"])
def test_what_the_target_cannot_say_is_never_accepted(step: str) -> None:
    """Whatever δ: h is p there, and the token after it is drawn from p without q."""
    p, q = (0.5, 0.3, 0.0, 0.2), (0.1, 0.1, 0.8, 0.0)
    pair = MarkovPair.everywhere(p, q)
    method = make("cactus", num_draft_tokens=1, delta=5.0, step=step)
    blocks = iterate(pair, method, [(0,)] * 3_000, top_k=3).blocks
    assert {block[0] for block in blocks} == {0, 1, 3}
    kept = [oracles.warp([oracles.log(x) for x in law], top_k=3) for law in (p, q)]
    exact = lossy_laws.cactus_blocks(*(lambda t, law=law: law for law in kept), (0,), 1, 5.0, step)
    assert_law(blocks, {block: chance for block, chance in exact.items() if chance > 1e-9})


# --- the receipt -------------------------------------------------------------------------------


def test_golden_bound_of_whole_texts() -> None:
    """The mean receipt bounds the total variation between texts of four tokens and the target's."""
    _, p, q, start = toys("G")
    texts, mean = lossy_laws.texts_and_cost(
        lambda text: lossy_laws.cactus_blocks(p, q, text, 2, 0.05),
        lambda text: lossy_laws.cactus_bias(p(text), q(text), 0.05),
        start,
        2,
    )
    exact = oracles.text_law(p, start, 4)
    assert oracles.total_variation(texts, exact) == pytest.approx(0.280852, abs=1e-6)
    assert mean == pytest.approx(0.537093, abs=1e-6)


@pytest.mark.parametrize("step", ["quadratic", "exact"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_receipt_adds_up_the_bias_of_drafted_tokens(name: str, step: str) -> None:
    """None where the target alone spoke, after a whole draft and at the end of the budget."""
    pair, p, q, start = toys(name)
    method = make("cactus", num_draft_tokens=2, delta=0.05, step=step)
    requests = requests_of([start] * 12, max_new_tokens=8)
    requests += requests_of([start], max_new_tokens=8, temperature=0.0)
    texts, sums = [start] * 13, [0.0] * 13
    for step_ in decode(pair.target, pair.draft, method, requests, pair.vocab):
        for block in step_.blocks:
            for i, token in enumerate(block.token_ids):
                context = texts[block.request]
                if i < block.depth and block.request < 12:
                    sums[block.request] += lossy_laws.cactus_bias(
                        p(context), q(context), 0.05, step
                    )
                texts[block.request] = (*context, token)
            assert block.receipt["total_variation"] == pytest.approx(sums[block.request], abs=1e-5)
    assert min(sums[:12]) > 0


def test_what_a_receipt_costs_does_not_depend_on_unlikely_tokens() -> None:
    """Probabilities that float32 does not hold are raised as those that it does."""
    method = make("cactus", delta=0.05, step="exact")
    found = method._raised(torch.tensor([[-150.0, -80.0, -torch.inf]])).exp()
    wide = method._raised(torch.tensor([[-150.0, -80.0, -torch.inf]], dtype=torch.float64)).exp()
    assert found[0].tolist() == pytest.approx(wide[0].tolist(), rel=1e-4)
    assert wide[0, 0] > 1e-4 and wide[0, 2] == 0
