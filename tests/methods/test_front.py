"""What a lossy rule can buy: for each point of acceptance at least a point of bias.

With o the law of a position's token and α the probability that its draft token is kept,
(1 - α) + TV(o, p) >= TV(p, q) for every rule. By enumeration, without the program.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest
from support import lossy_laws, oracles
from support.lossy_laws import cactus_bias, cactus_target, first_token, mixture, total_variation
from support.oracles import Blocks, Probs, Text
from support.toys import H_DRAFT, H_TARGET

from mtad.testing import TOY_DRAFT, TOY_TARGET

CONTEXTS = {
    "G": [*zip(TOY_TARGET, TOY_DRAFT, strict=True)],
    "H": [*zip(H_TARGET, H_DRAFT, strict=True)],
}
ON_THE_FRONT = [
    ("ensemble", 0.3),
    ("ensemble", 0.8),
    ("chow", 0.53),
    ("diff", 0.12),
    ("opt", 0.3),
    ("js", 0.02),
    ("tv", 0.22),
]


def distance(p: Probs, q: Probs, target: Callable[[int], Probs]) -> float:
    """How much more than it has to a rule with this acceptance target gives up."""
    kept = sum(min(x, target(n)[n]) for n, x in enumerate(q))
    return 1 - kept + total_variation(first_token(q, target), p) - total_variation(p, q)


@pytest.mark.parametrize(("rule", "a"), ON_THE_FRONT)
@pytest.mark.parametrize("name", CONTEXTS)
def test_mixtures_on_the_front(name: str, rule: str, a: float) -> None:
    for p, q in CONTEXTS[name]:
        pi = mixture(rule, a, p, q)
        assert first_token(q, lambda n, pi=pi: pi) == pytest.approx(pi, abs=1e-12)
        assert distance(p, q, lambda n, pi=pi: pi) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["quadratic", "exact"])
def test_cactus_is_on_the_front(step: str) -> None:
    """Also for random laws, and its bias is the sum that a receipt adds up."""
    draw = random.Random(1)
    pairs = [pair for found in CONTEXTS.values() for pair in found]
    for _ in range(300):
        weights = [[draw.gammavariate(0.7, 1) + 1e-4 for _ in range(5)] for _ in range(2)]
        pairs.append(tuple(map(oracles.norm, weights)))
    for p, q in pairs:
        delta = draw.choice((0.01, 0.05, 0.3))
        target = partial(cactus_target, p, delta=delta, step=step)
        assert distance(p, q, target) == pytest.approx(0, abs=1e-9)
        bias = total_variation(first_token(q, target), p)
        assert bias == pytest.approx(cactus_bias(p, q, delta, step), abs=1e-9)


def test_the_token_rule_is_off_the_front() -> None:
    wanted = {"G": (0.20, 0.26), "H": (0.21, 0.36)}
    for name, (least, most) in wanted.items():
        pis = [(p, q, mixture("token", 0.45, p, q)) for p, q in CONTEXTS[name]]
        found = [distance(p, q, lambda n, pi=pi: pi) for p, q, pi in pis]
        assert min(x for x in found if x > 1e-9) == pytest.approx(least, abs=0.006)
        assert max(found) == pytest.approx(most, abs=0.006)


def fuzzy_blocks(threshold: float, text: Text, depth: int) -> Blocks:
    """FSD as published, with TV: a token is kept where the laws are near, else drawn from p."""
    p, q = oracles.markov(H_TARGET), oracles.markov(H_DRAFT)
    law = lossy_laws.mixed_law("tv", threshold, p, q)
    found: dict[Text, float] = {}

    def go(path: Text, weight: float) -> None:
        a, b = p(text + path), q(text + path)
        goes_on = len(path) < depth and total_variation(a, b) <= threshold
        for token, chance in enumerate(b if goes_on else law(text + path)):
            if goes_on:
                go((*path, token), weight * chance)
            else:
                found[(*path, token)] = found.get((*path, token), 0.0) + weight * chance

    go((), 1.0)
    return found


def test_fuzzy_speculative_decoding_has_the_law_of_its_mixture_and_fewer_tokens() -> None:
    p, q = oracles.markov(H_TARGET), oracles.markov(H_DRAFT)
    law, start = lossy_laws.mixed_law("tv", 0.22, p, q), (4,)
    blocks = fuzzy_blocks(0.22, start, 2)
    assert oracles.mean_length(blocks) == pytest.approx(2.4, abs=1e-6)
    exact = oracles.speculative_blocks(law, q, start, 2)
    assert oracles.mean_length(exact) == pytest.approx(2.85, abs=1e-6)
    texts = oracles.compose(lambda text, left: fuzzy_blocks(0.22, text, 2), start, 4)
    assert texts == pytest.approx(oracles.text_law(law, start, 4), abs=1e-12)
