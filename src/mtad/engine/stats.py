"""Counts and times of a text: a fold over its blocks.

The engine keeps no counters. Names and formulas are those that the field's engines print; S is the
number of verification steps, D of drafted, A of accepted draft tokens. Rates without a denominator
are None, never 0. Knows no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from mtad.engine.session import Block

Drafted: TypeAlias = Literal["method", "plain", "forced"]
"""What an iteration drafted: as its method does; nothing, as a guard left it out; or what grammars
force."""
LARGEST = "largest_"
"""How names of what is not added up over several texts begin."""


@dataclass
class Stats:
    """Counts and times of one request, or the sum of several.

    Attributes:
        num_spec_steps: S, iterations. Each verifies with one target forward; drafts that the target
            makes itself take more, which are not counted.
        num_draft_tokens: D, draft tokens verified (all nodes of a tree).
        num_accepted_draft_tokens: A, those of them that are in the text.
        num_forced_tokens: those of A that a grammar forced and no model drafted.
        num_spec_tokens: sum over steps of the longest path that could be accepted.
        num_output_tokens: tokens of the text.
        num_plain_steps: those of the S iterations that the guard made without a draft.
        num_empty_steps: those that committed nothing, E, as a search was not sure of any token.
        num_cached_tokens: tokens of the prompt that the target did not read again, since a text
            before began with them.
        acceptance_histogram: steps by number of accepted draft tokens.
        prefill_s: seconds until the first iteration began.
        decode_s: seconds of its iterations, without what the caller did between two of them.
        kept: what the method has kept of the text, by the names of `Method.kept`; of several texts
            the sum, or the largest where the name begins with "largest_".
        fallback: why the guard drafted nothing last, None if it did; see `mtad.api.controller`.
    """

    num_spec_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_draft_tokens: int = 0
    num_forced_tokens: int = 0
    num_spec_tokens: int = 0
    num_output_tokens: int = 0
    num_plain_steps: int = 0
    num_empty_steps: int = 0
    num_cached_tokens: int = 0
    acceptance_histogram: Counter[int] = field(default_factory=Counter)
    prefill_s: float = 0.0
    decode_s: float = 0.0
    kept: dict[str, float] = field(default_factory=dict)
    fallback: str | None = None

    def add(self, block: Block, drafted: Drafted = "method") -> None:
        """Count one block, whose draft is as `drafted` says."""
        self.num_spec_steps += 1
        self.num_draft_tokens += block.num_drafted
        self.num_accepted_draft_tokens += block.num_accepted
        self.num_forced_tokens += block.num_accepted * (drafted == "forced")
        self.num_spec_tokens += block.depth
        self.num_output_tokens += len(block.token_ids)
        self.num_plain_steps += drafted == "plain"
        self.acceptance_histogram[block.num_accepted] += 1
        self.num_empty_steps += not (block.token_ids or block.finish_reason)
        self.kept = {**self.kept, **block.receipt}

    @property
    def receipt(self) -> dict[str, float]:
        """What is `kept` without a search's own state, whose names begin with "_"."""
        return {name: value for name, value in self.kept.items() if name[0] != "_"}

    @property
    def num_block_tokens(self) -> int:
        """S - E + A, tokens of all blocks before the text's end cut the last one."""
        return self.num_spec_steps - self.num_empty_steps + self.num_accepted_draft_tokens

    @property
    def mean_acceptance_length(self) -> float | None:
        """1 + A/S, also called block efficiency; (S - E + A)/S where a search commits nothing."""
        return _ratio(self.num_block_tokens, self.num_spec_steps)

    @property
    def draft_acceptance_rate(self) -> float | None:
        """A/D."""
        return _ratio(self.num_accepted_draft_tokens, self.num_draft_tokens)

    @property
    def path_acceptance_rate(self) -> float | None:
        """Accepted tokens over the longest paths; equals A/D for chains."""
        return _ratio(self.num_accepted_draft_tokens, self.num_spec_tokens)

    @property
    def acceptance_rate_per_position(self) -> list[float]:
        """a_j/S for j = 0, 1, …: the share of steps that accept at least j + 1 draft tokens."""
        deepest = max(self.acceptance_histogram, default=0)
        at_least = [
            sum(n for a, n in self.acceptance_histogram.items() if a > j) for j in range(deepest)
        ]
        return [count / self.num_spec_steps for count in at_least]

    @property
    def conditional_acceptance_rate_per_position(self) -> list[float]:
        """a_j/a_(j-1): the share of steps accepting a position among those that got to it."""
        rates = self.acceptance_rate_per_position
        return [r / before for r, before in zip(rates, [1.0, *rates], strict=False)]

    @property
    def output_tokens_per_second(self) -> float | None:
        """Output tokens over `decode_s`."""
        return _ratio(self.num_output_tokens, self.decode_s)

    @property
    def end_to_end_tokens_per_second(self) -> float | None:
        """Output tokens over `prefill_s` and `decode_s` together."""
        return _ratio(self.num_output_tokens, self.prefill_s + self.decode_s)

    def counts(self) -> dict[str, Any]:
        """Counts and seconds under their names, for JSON; the rates follow from them."""
        histogram = {
            str(a): self.acceptance_histogram[a] for a in sorted(self.acceptance_histogram)
        }
        counts = {name: getattr(self, name) for name in _COUNTS}
        rest = {"receipt": self.receipt, "fallback": self.fallback}
        return counts | {"acceptance_histogram": histogram} | rest

    @classmethod
    def of(cls, counts: Mapping[str, Any]) -> Stats:
        """The stats that have these `counts`, read back from JSON.

        Rows that were written before there was a guard, a prefix cache, a receipt or a grammar
        have none.
        """
        histogram = {int(a): int(n) for a, n in counts["acceptance_histogram"].items()}
        absent = dict.fromkeys(
            ("num_plain_steps", "num_empty_steps", "num_cached_tokens", "num_forced_tokens"), 0
        )
        given = absent | {"fallback": None} | dict(counts)
        numbers = {name: given[name] for name in (*_COUNTS, "fallback")}
        receipt = dict(counts.get("receipt", {}))
        return cls(**numbers, acceptance_histogram=Counter(histogram), kept=receipt)

    def as_dict(self) -> dict[str, Any]:
        """All of it under its names, for JSON."""
        return self.counts() | {name: getattr(self, name) for name in _RATES}


_COUNTS = (
    "num_spec_steps",
    "num_draft_tokens",
    "num_accepted_draft_tokens",
    "num_forced_tokens",
    "num_spec_tokens",
    "num_output_tokens",
    "num_plain_steps",
    "num_empty_steps",
    "num_cached_tokens",
    "prefill_s",
    "decode_s",
)
_RATES = (
    "mean_acceptance_length",
    "draft_acceptance_rate",
    "path_acceptance_rate",
    "acceptance_rate_per_position",
    "conditional_acceptance_rate_per_position",
    "output_tokens_per_second",
    "end_to_end_tokens_per_second",
)


def total(parts: Iterable[Stats], wall_s: float | None = None) -> Stats:
    """The sum of several requests' stats.

    Args:
        parts: one per request.
        wall_s: seconds that the requests took together, where they shared a batch; it becomes
            `decode_s`, prefill and all, and `prefill_s` 0. Without it their own seconds are
            added up.
    """
    result, parts = Stats(), list(parts)
    for part in parts:
        for name in _COUNTS:
            setattr(result, name, getattr(result, name) + getattr(part, name))
        result.acceptance_histogram.update(part.acceptance_histogram)
        for name, value in part.receipt.items():
            so_far = result.kept.get(name, 0.0)
            is_largest = name.startswith(LARGEST)
            result.kept[name] = max(so_far, value) if is_largest else so_far + value
    result.fallback = _fallback([part.fallback for part in parts])
    if wall_s is not None:
        result.prefill_s, result.decode_s = 0.0, wall_s
    return result


def _fallback(reasons: Sequence[str | None]) -> str | None:
    """The reason that all texts share, or how many have one and the first of them."""
    given = [reason for reason in reasons if reason]
    if not given or given == [given[0]] * len(reasons):
        return given[0] if given else None
    return f"{given[0]} (in {len(given)} of {len(reasons)} texts, the first one's reason)"


def _ratio(part: int | float, whole: int | float) -> float | None:
    return part / whole if whole else None
