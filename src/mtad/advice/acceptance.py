"""How many drafts of a method are accepted on some prompts: by position, and by kind of prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mtad.api.costs import tokens_by_length
from mtad.engine.step import Block


@dataclass
class Counts:
    """Draft tokens by position, from the first on.

    Attributes:
        length: positions of a draft.
        reached: how often all tokens before a position were accepted.
        accepted: how often the one there was, too.
    """

    length: int
    reached: list[int] = field(init=False)
    accepted: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.reached, self.accepted = [0] * self.length, [0] * self.length

    def add(self, blocks: Iterable[Block]) -> None:
        """Count the blocks of a text.

        A draft that was too short, or not there, counts as one that is refused; only what the end
        of the text cut off does not count.
        """
        for block in blocks:
            for place in range(min(block.num_accepted, self.length)):
                self.reached[place] += 1
                self.accepted[place] += 1
            is_cut = block.finish_reason is not None and (
                len(block.token_ids) == block.num_accepted or block.num_accepted == block.depth
            )
            if block.num_accepted < self.length and not is_cut:
                self.reached[block.num_accepted] += 1

    @property
    def rates(self) -> tuple[float, ...]:
        """The conditional acceptance by position, as far as any draft got."""
        pairs = zip(self.accepted, self.reached, strict=True)
        return tuple(hits / tries for hits, tries in pairs if tries)

    @property
    def tokens(self) -> list[float]:
        """Expected tokens of an iteration by the draft's length, from 0 on."""
        rates = self.rates
        return tokens_by_length([*rates, *[0.0] * (self.length - len(rates))])


def counts_by_kind(
    kinds: Sequence[str], texts: Sequence[Iterable[Block]], length: int
) -> dict[str, Counts]:
    """The counts of each kind, in the order in which they come first.

    Args:
        kinds: of the prompts.
        texts: the blocks of each prompt's text.
        length: positions of a draft.
    """
    found: dict[str, Counts] = {}
    for kind, blocks in zip(kinds, texts, strict=True):
        found.setdefault(kind, Counts(length)).add(blocks)
    return found


def total(parts: Iterable[Counts], length: int) -> Counts:
    """All of them together."""
    whole = Counts(length)
    for part in parts:
        for place in range(length):
            whole.reached[place] += part.reached[place]
            whole.accepted[place] += part.accepted[place]
    return whole
