"""Where the law of the next token is tested: after one text and the likeliest paths below it.

A block that ends before a context is completed by a draw of the target's own law, as the next
iteration would: a method is lossless if the text is the target's after each of its blocks, however
the lengths of blocks depend on what follows (Sun et al. 2024, arXiv 2403.10444, section 4). Knows
no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtad.verify.draws import Path
from mtad.verify.laws import Law
from mtad.verify.statistics import chi2_tail, least_shift, pearson, rare_tail

MOST_BINS = 5
"""Tokens with a bin of their own; all others share one."""
LEAST_EXPECTED = 10
"""Draws that a bin is to get."""
MOST_CERTAIN = 0.98
"""A law with a likelier token is not tested: it leaves next to nothing to a rule."""


@dataclass(frozen=True, eq=False)
class Context:
    """A path below a text, and the target's law of the token after it.

    Attributes:
        path: tokens after the text; none for the text itself.
        weight: probability of the path.
        law: of the next token.
        order: the likeliest tokens, the first one first.
    """

    path: Path
    weight: float
    law: Law
    order: Sequence[int]

    @classmethod
    def of(cls, path: Path, weight: float, law: Law) -> Context:
        """With the likeliest tokens of its law."""
        order = np.argsort(-law.probs, kind="stable")[:MOST_BINS]
        return cls(path, weight, law, [int(token) for token in order])

    @property
    def is_open(self) -> bool:
        """Whether there is something to choose."""
        return float(self.law.probs[self.order[0]]) <= MOST_CERTAIN

    def bins(self, num_draws: float) -> Bins:
        """The bins for what is expected to get here of so many draws at the text."""
        expected = num_draws * self.weight
        known = [t for t in self.order if expected * self.law.probs[t] >= LEAST_EXPECTED]
        masses = [float(self.law.probs[token]) for token in known]
        rest = max(0.0, 1.0 - sum(masses))
        if expected * rest >= LEAST_EXPECTED:
            return Bins(self, known, [*masses, rest], 0.0)
        return Bins(self, known, masses, rest if rest > 1e-9 else 0.0)


@dataclass(frozen=True, eq=False)
class Bins:
    """A context's law over few bins.

    Attributes:
        context: whose.
        tokens: each with a bin of its own.
        masses: their probabilities, and where there is one more that of all others together.
        rare: probability of the others where they are too rare for a bin; their number is judged
            by Poisson's law instead.
    """

    context: Context
    tokens: Sequence[int]
    masses: Sequence[float]
    rare: float

    @property
    def law(self) -> list[float]:
        """The probabilities of the bins among themselves."""
        total = sum(self.masses)
        return [mass / total for mass in self.masses]

    @property
    def df(self) -> int:
        """Degrees of freedom."""
        return max(0, len(self.masses) - 1)

    def shift(self, bias: float, num_draws: float) -> float:
        """The least noncentrality of a bias of the next token's law; see `least_shift`."""
        return num_draws * self.context.weight * least_shift(self.law, bias)

    def counts(self, found: Mapping[int, int]) -> tuple[list[int], int]:
        """What is in the bins, and the number of rare ones."""
        known = [found.get(token, 0) for token in self.tokens]
        rest = sum(found.values()) - sum(known)
        has_rest = len(self.masses) > len(self.tokens)
        return ([*known, rest], 0) if has_rest else (known, rest)

    def judge(self, found: Mapping[int, int]) -> Judged:
        """The counts against the law."""
        counts, rare = self.counts(found)
        x2 = pearson(counts, self.law) if self.df and sum(counts) else 0.0
        return Judged(self, counts, rare, x2, rare_tail(rare, self.rare * sum(found.values())))


@dataclass(frozen=True, eq=False)
class Judged:
    """A context after the draws.

    Attributes:
        bins: of its law.
        counts: draws in each.
        rare: draws of rare tokens.
        x2: Pearson's statistic of the counts.
        rare_p: p-value of the rare ones.
    """

    bins: Bins
    counts: Sequence[int]
    rare: int
    x2: float
    rare_p: float

    @property
    def p(self) -> float:
        """The p-value of the context: twice the smaller one of its two."""
        return min(1.0, 2 * min(chi2_tail(self.x2, self.bins.df), self.rare_p))


class Tally:
    """What was drawn after each context of one text.

    Args:
        contexts: those above others first.
        seed: of the draws that complete blocks.
    """

    def __init__(self, contexts: Sequence[Context], seed: int) -> None:
        self._contexts, self._blocks = contexts, Counter[Path]()
        self._seed, self._reach = seed, max(len(one.path) for one in contexts) + 1

    def add(self, blocks: Iterable[Path]) -> None:
        """Count blocks, as far as they matter."""
        self._blocks.update(block[: self._reach] for block in blocks)

    def after(self) -> list[Counter[int]]:
        """The next tokens after each context; blocks that end there are completed."""
        draw = np.random.default_rng(self._seed)
        passed: dict[Path, Counter[int]] = {one.path: Counter() for one in self._contexts}
        ends = Counter[Path]()
        for block, count in self._blocks.items():
            ends[block] += count
            for place, token in enumerate(block):
                if block[:place] in passed:
                    passed[block[:place]][token] += count
        for one in self._contexts:
            if not one.path or not ends[one.path]:
                continue
            drawn = draw.multinomial(ends[one.path], one.law.probs)
            for token in np.flatnonzero(drawn).tolist():
                passed[one.path][token] += int(drawn[token])
                ends[(*one.path, token)] += int(drawn[token])
        return [passed[one.path] for one in self._contexts]
