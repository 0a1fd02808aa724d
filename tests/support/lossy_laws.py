"""Exact laws of rules that give up some of the target's law: mixtures, cactus, FLy.

Plain Python from the definitions, as `support.oracles`. p = target, q = draft; judging laws are
p and q themselves, as at temperatures above 0.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product

from support.oracles import Blocks, Law, Probs, Text, excess, log, norm, residual, text_law

# --- distances -------------------------------------------------------------------------------


def total_variation(p: Probs, q: Probs) -> float:
    return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


def divergence(p: Probs, q: Probs) -> float:
    """KL(p | q)."""
    terms = [(a, b) for a, b in zip(p, q, strict=True) if a > 0]
    return sum(a * math.log(a / b) if b > 0 else math.inf for a, b in terms)


def jensen_shannon(p: Probs, q: Probs) -> float:
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (divergence(p, middle) + divergence(q, middle)) / 2


# --- mixtures --------------------------------------------------------------------------------

USES_TARGET: dict[str, Callable[[Probs, Probs, float], bool]] = {
    "chow": lambda p, q, a: max(q) < 1 - a,
    "diff": lambda p, q, a: max(q) < max(p) - a,
    "opt": lambda p, q, a: max(q) < max(p) - a * total_variation(p, q),
    "js": lambda p, q, a: jensen_shannon(p, q) > a,
    "kl": lambda p, q, a: divergence(q, p) > a,
    "tv": lambda p, q, a: total_variation(p, q) > a,
}


def mixture(rule: str, a: float, p: Probs, q: Probs) -> list[float]:
    """π of one context."""
    if rule == "ensemble":
        return [a * y + (1 - a) * x for x, y in zip(p, q, strict=True)]
    if rule == "token":
        weak = [x < (1 - a) * max(p) for x in p]
        moved = sum(y for y, r in zip(q, weak, strict=True) if r)
        return [(0 if r else y) + x * moved for x, y, r in zip(p, q, weak, strict=True)]
    return list(p if USES_TARGET[rule](p, q, a) else q)


def mixed_law(rule: str, a: float, p: Law, q: Law) -> Law:
    return lambda text: mixture(rule, a, p(text), q(text))


def greedy_mixture(rule: str, a: float, p: Probs, q: Probs) -> int:
    """The token of temperature 0, p and q the laws before temperature."""
    best_p, best_q = p.index(max(p)), q.index(max(q))
    if rule == "ensemble":
        mixed = mixture(rule, a, p, q)
        return mixed.index(max(mixed))
    if rule == "token":
        return best_p if p[best_q] < (1 - a) * max(p) else best_q
    return best_p if USES_TARGET[rule](p, q, a) else best_q


# --- chains with one coin per token ------------------------------------------------------------


def chain_blocks(
    q: Law, text: Text, depth: int, target: Callable[[Text, int], Probs], bonus: Law
) -> Blocks:
    """A chain whose token n is tested against `target(context, n)`, which its residual is of."""
    blocks: dict[Text, float] = defaultdict(float)

    def go(path: Text, weight: float) -> None:
        if len(path) == depth:
            for token, chance in enumerate(bonus(text + path)):
                blocks[(*path, token)] += weight * chance
            return
        b = q(text + path)
        for n, drawn in enumerate(b):
            if drawn == 0:
                continue
            h = target(text + path, n)
            kept = min(1.0, h[n] / drawn)
            if kept > 0:
                go((*path, n), weight * drawn * kept)
            for token, chance in enumerate(residual(h, b) if kept < 1 else []):
                blocks[(*path, token)] += weight * drawn * (1 - kept) * chance

    go((), 1.0)
    return dict(blocks)


def raised(p: float, delta: float, step: str) -> float:
    """Cactus: what a token's probability is raised to."""
    if step == "quadratic":
        return min(1.0, p + math.sqrt(2 * delta * p * (1 - p)))
    if p in (0, 1) or -math.log(p) <= delta:
        return math.ceil(p)
    low, high = p, 1.0
    for _ in range(100):
        h = (low + high) / 2
        is_near = divergence((h, 1 - h), (p, 1 - p)) <= delta
        low, high = (h, high) if is_near else (low, h)
    return low


def cactus_target(p: Probs, n: int, delta: float, step: str = "quadratic") -> list[float]:
    h = raised(p[n], delta, step)
    share = (1 - h) / (1 - p[n]) if p[n] < 1 else 0.0
    return [h if v == n else x * share for v, x in enumerate(p)]


def cactus_blocks(
    p: Law, q: Law, text: Text, depth: int, delta: float, step: str = "quadratic"
) -> Blocks:
    return chain_blocks(q, text, depth, lambda t, n: cactus_target(p(t), n, delta, step), p)


def cactus_bias(p: Probs, q: Probs, delta: float, step: str = "quadratic") -> float:
    """The total variation between a drafted token's law and p."""
    return sum(max(min(y, raised(x, delta, step)) - x, 0.0) for x, y in zip(p, q, strict=True))


def first_token(q: Probs, target: Callable[[int], Probs]) -> list[float]:
    """The law of a chain's first token."""
    blocks = chain_blocks(lambda t: q, (), 1, lambda t, n: target(n), lambda t: [1.0])
    law = [0.0] * len(q)
    for block, chance in blocks.items():
        law[block[0]] += chance
    return law


def texts_and_cost(
    blocks: Callable[[Text], Blocks], cost: Callable[[Text], float], start: Text, depth: int
) -> tuple[Blocks, float]:
    """The law of four tokens after `start`, and the mean sum of what the drafted ones cost.

    Args:
        blocks: the law of the block after a context.
        cost: of a drafted token in its context.
        start: the prompt.
        depth: tokens drafted per block.
    """
    mean, done = 0.0, {(): 1.0}
    texts: dict[Text, float] = defaultdict(float)
    while done:
        text, weight = done.popitem()
        if len(text) == 4:
            texts[text] += weight
            continue
        for block, chance in blocks(start + text).items():
            kept = block[: 4 - len(text)]
            drafted = [start + text + kept[:i] for i in range(min(len(kept), depth))]
            mean += weight * chance * sum(map(cost, drafted))
            done[text + kept] = done.get(text + kept, 0.0) + weight * chance
    return texts, mean


# --- FLy ---------------------------------------------------------------------------------------


def top_entropy(p: Probs) -> float:
    return -sum(x * log(x) for x in sorted(p)[-3:] if x > 0)


def fly_length(native: Sequence[bool], deferrable: Sequence[bool], window: int) -> int:
    """Leading tokens that are native, or deferrable with a full window of native ones after."""
    for i, is_native in enumerate(native):
        after = native[i + 1 : i + 1 + window]
        if not (is_native or (deferrable[i] and len(after) == window and all(after))):
            return i
    return len(native)


def fly_deferrable(p: Probs, token: int, threshold: float, max_gap: float) -> bool:
    return p[token] > 0 and top_entropy(p) >= threshold and log(max(p)) - log(p[token]) < max_gap


def fly_blocks(
    p: Law,
    q: Law,
    text: Text,
    depth: int,
    window: int,
    threshold: float,
    max_gap: float = math.inf,
) -> Blocks:
    """Every draft and every outcome of its coins."""
    blocks: dict[Text, float] = defaultdict(float)
    for draft, drawn in text_law(q, text, depth).items():
        laws = [(p(text + draft[:i]), q(text + draft[:i])) for i in range(depth)]
        keeps = [min(1.0, a[d] / b[d]) for d, (a, b) in zip(draft, laws, strict=True)]
        may = [
            fly_deferrable(a, d, threshold, max_gap) for d, (a, _) in zip(draft, laws, strict=True)
        ]
        for native in product((True, False), repeat=depth):
            coins = math.prod(k if n else 1 - k for k, n in zip(keeps, native, strict=True))
            if coins == 0:
                continue
            length = fly_length(native, may, window)
            end = p(text + draft) if length == depth else norm(excess(*laws[length]))
            for token, chance in enumerate(end):
                blocks[(*draft[:length], token)] += drawn * coins * chance
    return dict(blocks)


def fly_greedy(
    p: Law, q: Law, prompt: Text, budget: int, depth: int, window: int, threshold: float
) -> tuple[Text, int]:
    """The text of temperature 0, and the target's calls."""
    text, calls = prompt, 0
    while len(text) < len(prompt) + budget:
        left = len(prompt) + budget - len(text)
        draft: Text = ()
        for _ in range(min(depth, left - 1)):
            b = q(text + draft)
            draft += (b.index(max(b)),)
        laws = [p(text + draft[:i]) for i in range(len(draft))]
        native = [d == a.index(max(a)) for d, a in zip(draft, laws, strict=True)]
        may = [fly_deferrable(a, d, threshold, math.inf) for d, a in zip(draft, laws, strict=True)]
        length = fly_length(native, may, window)
        end = p(text + draft[:length])
        text, calls = (*text, *draft[:length], end.index(max(end))), calls + 1
    return text[len(prompt) :], calls
