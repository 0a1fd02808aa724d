"""What an iteration costs: what is drafted, and seconds of forwards by the tokens that they read.

A forward of the target takes about as long for b texts of n tokens as for one text of b·n, so that
one curve says what lengths cost at every size of a batch. Knows no clock and no model.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul
from typing import Any, TypeAlias

from mtad.methods.autoregressive import Autoregressive
from mtad.speculative.method import Method

PLAIN = Autoregressive()
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Draft lengths that are chosen from, besides the method's own: few, as each is captured apart."""
WIDTHS = ("k_config", "num_drafts", "num_paths")
"""Options of methods that say how many draft tokens there are to choose from at a place."""

Widths: TypeAlias = tuple[int, ...]
"""Draft tokens to choose from at each level of a draft; () for a plain step."""


@dataclass(frozen=True)
class Shape:
    """What an iteration drafts.

    Attributes:
        method: drafts it.
        fed: tokens that the draft reads, level by level; () for a plain step.
        num_nodes: tokens that the target reads, the last committed one included.
        first: draft tokens to choose from at the first levels; one at those that it leaves out.
    """

    method: Method
    fed: tuple[int, ...]
    num_nodes: int
    first: Widths = ()

    @property
    def length(self) -> int:
        """Levels of the draft, 0 for a plain step."""
        return len(self.fed)

    @property
    def widths(self) -> Widths:
        """Draft tokens to choose from at each level."""
        return *self.first, *[1] * (self.length - len(self.first))


def shapes_of(method: Method, vocab: int, has_narrower: bool = False) -> tuple[Shape, ...]:
    """The shapes that stand for a method: a plain step, shorter drafts, and its own, the largest.

    Args:
        method: shorter ones of it have fewer `num_draft_tokens`, or fewer levels of `k_config`;
            lengths that it refuses are left out.
        vocab: number of token ids in use.
        has_narrower: whether there are narrower trees, too: each has half of the width, down to a
            chain. They are in the order of their nodes.
    """
    kinds = [method, *(_narrower(method) if has_narrower else [])]
    smaller = [*kinds[1:], *(shorter for kind in kinds for shorter in _shorter(kind))]
    shapes = sorted((_shape(kind, vocab) for kind in smaller), key=lambda shape: shape.num_nodes)
    return (Shape(PLAIN, (), 1), *shapes, _shape(method, vocab))


def _shorter(method: Method) -> list[Method]:
    options: list[dict[str, Any]] = []
    if isinstance(longest := getattr(method, "num_draft_tokens", None), int):
        options = [{"num_draft_tokens": n} for n in LENGTHS if n < longest]
    elif tree := getattr(method, "k_config", None):
        options = [{"k_config": tree[:n]} for n in range(1, len(tree))]
    return _variants(method, options)


def _narrower(method: Method) -> list[Method]:
    """Those of half the width, of half of that, and so on until one token is drafted at a time."""
    options: list[dict[str, Any]] = []
    for name in WIDTHS:
        width = getattr(method, name, 1)
        while width != (narrower := _halved(width)):
            options.append({name: narrower})
            width = narrower
    return _variants(method, options)


def _halved(width: int | Widths) -> int | Widths:
    if isinstance(width, int):
        return max(1, width // 2)
    return tuple(max(1, one // 2) for one in width)


def _variants(method: Method, options: Sequence[dict[str, Any]]) -> list[Method]:
    """The method with other options, where it takes these."""
    found = []
    for option in options:
        try:
            found.append(dataclasses.replace(method, **option))
        except ValueError:
            continue
    return found


def _shape(method: Method, vocab: int) -> Shape:
    length = getattr(method, "num_draft_tokens", None)
    most = method.num_nodes(vocab, 1)
    if tree := getattr(method, "k_config", None):
        return Shape(method, (1, *accumulate(tree[:-1], mul)), most, tuple(tree))
    if not isinstance(length, int):
        length = most - 1
    width = max(1, (most - 1) // length)
    is_one_path = method.reads is not None and method.reads.tree in ("chain", "beam")
    first = next((getattr(method, name) for name in WIDTHS if hasattr(method, name)), 1)
    fed, num_nodes = (1, *[width] * (length - 1)), length + 1 if is_one_path else most
    return Shape(method, fed, num_nodes, (first,))


@dataclass(frozen=True)
class Curve:
    """Seconds of a forward by the number of tokens that it reads, those of all rows together.

    Attributes:
        num_tokens: ascending, two or more.
        seconds: measured at these; where fewer were quicker, that was noise, and is smoothed away.
    """

    num_tokens: tuple[int, ...]
    seconds: tuple[float, ...]

    def __call__(self, num_tokens: float) -> float:
        """Seconds, interpolated; beyond what was measured they grow as they did before."""
        x, y = self.num_tokens, tuple(accumulate(self.seconds, max))
        at = min(max(bisect_left(x, num_tokens), 1), len(x) - 1)
        slope = (y[at] - y[at - 1]) / (x[at] - x[at - 1])
        return y[at - 1] + slope * (num_tokens - x[at - 1])

    def __post_init__(self) -> None:
        """Refuse what is no curve."""
        rises = all(left < right for left, right in pairwise(self.num_tokens))
        if len(self.num_tokens) < 2 or len(self.seconds) != len(self.num_tokens) or not rises:
            raise ValueError(
                f"a curve goes through {self.num_tokens} tokens and {self.seconds} seconds; give "
                "two or more ascending numbers of tokens, with seconds above 0 for each"
            )
        if min(self.seconds) <= 0:
            raise ValueError(f"a curve has {self.seconds} seconds; all must be above 0")


@dataclass(frozen=True)
class Costs:
    """Seconds of the forwards of a pair.

    Attributes:
        target: its forwards.
        draft: those of the draft, level by level; None where no model drafts.
        reads_text: whether the draft has a cache, and must read what it missed.
    """

    target: Curve
    draft: Curve | None = None
    reads_text: bool = False

    @property
    def draft_s(self) -> float:
        """Seconds of one drafted token; 0 where no model drafts."""
        return self.draft(1) if self.draft else 0.0

    def of(self, shape: Shape, num_rows: int) -> float:
        """Seconds of an iteration."""
        drafting = sum(self.draft(num_rows * n) for n in shape.fed) if self.draft else 0.0
        return drafting + self.target(num_rows * shape.num_nodes)

    def of_catching_up(self, num_tokens: int, num_rows: int) -> float:
        """Seconds in which the draft reads so many tokens of each row that it missed."""
        if self.draft is None or not self.reads_text or not num_tokens:
            return 0.0
        return self.draft(num_rows * num_tokens)


def tokens_by_length(rates: Sequence[float]) -> list[float]:
    """Expected tokens of an iteration by its draft's length, from 0 on.

    Args:
        rates: chance that a draft token is accepted if all before it are, by position.
    """
    return [*accumulate(accumulate(rates, mul), initial=1.0)]
