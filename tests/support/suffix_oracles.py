"""Drafts and laws of `suffix` in plain Python, from their definitions alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from support.oracles import Blocks, Law, Probs, Text, joint

Place = tuple[int, int]
"""A text, the corpus first, and where a match of the suffix ends in it."""


def places(
    texts: Sequence[Text], max_match: int, min_match: int, most: int
) -> tuple[int, list[Place]]:
    """The length of the longest suffix of the last text that occurs, and its last occurrences."""
    own = texts[-1]
    for n in range(min(max_match, len(own)), min_match - 1, -1):
        found = [
            (which, end)
            for which, text in enumerate(texts)
            for end in range(n, len(text))
            if text[end - n : end] == own[len(own) - n :]
        ]
        if found:
            return n, found[-most:]
    return 0, []


def suffix_chain(
    text: Text,
    depth: int,
    corpus: Text = (),
    max_match: int = 16,
    min_match: int = 1,
    min_share: float = 0.0,
    length_factor: float = math.inf,
    max_places: int = 64,
    eos: Iterable[int] = (),
) -> list[tuple[int, float]]:
    """The drafted tokens and the shares of their paths."""
    texts, stops = (corpus, text), set(eos)
    n, left = places(texts, max_match, min_match, max_places)
    chain, share = list[tuple[int, float]](), 1.0
    for step in range(depth):
        said = [(p, texts[p[0]][p[1] + step]) for p in left if p[1] + step < len(texts[p[0]])]
        if not said or step + 1 > length_factor * n:
            break
        votes = Counter(token for _, token in said)
        latest = {token: place for place, token in said}
        best = max(votes, key=lambda token: (votes[token], latest[token]))
        share = share * votes[best] / len(said)
        if best in stops or share < min_share:
            break
        left = [place for place, token in said if token == best]
        chain.append((best, share))
    return chain


def suffix_tree(
    text: Text,
    depth: int,
    num_nodes: int,
    corpus: Text = (),
    max_match: int = 16,
    max_places: int = 64,
    eos: Iterable[int] = (),
) -> set[Text]:
    """The paths of all nodes of the tree."""
    texts, stops = (corpus, text), set(eos)
    _, start = places(texts, max_match, 1, max_places)
    found: list[tuple[float, int, tuple[int, int], Text]] = []
    groups: list[tuple[Text, list[Place], float]] = [((), start, 1.0)]
    for step in range(depth):
        longer = []
        for path, left, share in groups:
            said = [(p, texts[p[0]][p[1] + step]) for p in left if p[1] + step < len(texts[p[0]])]
            for token in {token for _, token in said} - stops:
                kept = [place for place, other in said if other == token]
                longer.append(((*path, token), kept, share * len(kept) / len(said)))
        found += [(-share, len(path), _before(max(left)), path) for path, left, share in longer]
        groups = longer
    return {path for *_, path in sorted(found)[:num_nodes]}


def _before(place: Place) -> tuple[int, int]:
    """Sorts the more recent place first."""
    return -place[0], -place[1]


def matching_blocks(p: Law, text: Text, draft: Text) -> Blocks:
    """A fixed chain that is followed while draws from p equal it."""
    blocks = {(*draft, token): joint(p, text, draft) * c for token, c in enumerate(p(text + draft))}
    for length, wanted in enumerate(draft):
        path = draft[:length]
        for token, chance in enumerate(p(text + path)):
            if token != wanted:
                blocks[(*path, token)] = joint(p, text, path) * chance
    return blocks


def with_chain(q: Law, text: Text, chain: Text) -> Law:
    """The draft law after `text`: one-hot along the chain, q where that has ended."""

    def law(longer: Text) -> Probs:
        drafted = longer[len(text) :]
        if len(drafted) < len(chain) and drafted == chain[: len(drafted)]:
            return [float(i == chain[len(drafted)]) for i in range(len(q(longer)))]
        return q(longer)

    return law
