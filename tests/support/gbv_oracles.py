"""Exact laws of `gbv` in plain Python, over all tuples of paths."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from itertools import product

from support.oracles import Blocks, Law, Probs, Text, text_law


def is_above(p: Law, q: Law, text: Text, a: Text, b: Text) -> bool:
    """Whether path a is above path b, another one."""
    i = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    laws = p(text + a[:i]), q(text + a[:i])
    return _rank(*laws, a[i]) > _rank(*laws, b[i])


def _rank(p: Probs, q: Probs, token: int) -> tuple[float, int]:
    return p[token] / q[token], token


def highest_law(p: Law, q: Law, text: Text, num_paths: int, depth: int) -> Blocks:
    """The law of the highest of K independent paths, over all K-tuples of them."""
    paths = text_law(q, text, depth)
    found: Counter[Text] = Counter()
    for drawn in product(paths.items(), repeat=num_paths):
        best = drawn[0][0]
        for path, _ in drawn[1:]:
            if path != best and is_above(p, q, text, path, best):
                best = path
        found[best] += math.prod(weight for _, weight in drawn)
    return dict(found)


def law_of_highest(p: Law, q: Law, text: Text, num_paths: int, depth: int) -> Law:
    """q^K: the law of the highest path's next token, given its tokens so far."""
    whole = highest_law(p, q, text, num_paths, depth)

    @cache
    def mass(path: Text) -> float:
        return sum(w for full, w in whole.items() if full[: len(path)] == path)

    def law(longer: Text) -> Probs:
        path = longer[len(text) :]
        return [mass((*path, v)) / mass(path) for v in range(len(q(longer)))]

    return law


def num_used(p: Law, q: Law, text: Text, num_paths: int, depth: int) -> int:
    """k of the adaptive rule."""
    overlaps = [
        sum(map(min, p(text), law_of_highest(p, q, text, k, depth)(text)))
        for k in range(1, num_paths + 1)
    ]
    return 1 + max(range(num_paths), key=lambda i: (round(overlaps[i], 12), -i))
