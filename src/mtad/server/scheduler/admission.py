"""Which of the waiting sequences may join a batch now: rows and the KV budget.

Knows no thread and no queue.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from mtad.api.pair import ModelPair
from mtad.core.buckets import bucket_of, power_of_two
from mtad.engine.request import check_requests, size_of
from mtad.errors import CacheMemoryError
from mtad.model.kv_cache import free_bytes
from mtad.model.lm import PREFILL_TOKENS, context_of
from mtad.model.memory import slot_bytes
from mtad.server.scheduler.batch import Batch, pads_batches
from mtad.server.scheduler.sequence import Sequence

MEMORY_SHARE = 0.8
"""Of the free memory, for caches, where no limit is set."""
DEFAULT_CONTEXT = 4096
"""Slots of a text of models that set no limit to theirs."""

Batches: TypeAlias = Mapping[Hashable, Batch]


@dataclass(frozen=True)
class Limits:
    """How much is decoded at once.

    Attributes:
        max_rows: sequences, over all batches.
        cache_slots: sum over batches of rows times slots per row; None for what `max_rows`
            sequences of the longest length need, as far as there is memory.
        max_queue: sequences that may wait.
        max_length: tokens of a prompt and its text; None for the models' context.
    """

    max_rows: int = 32
    cache_slots: int | None = None
    max_queue: int = 256
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Refuse impossible limits."""
        for name in ("max_rows", "cache_slots", "max_queue", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class Admission:
    """Rows and cache slots, and who gets them.

    Attributes:
        pair: the models.
        max_rows: sequences over all batches.
        slots: sum over batches of rows times slots per row.
    """

    pair: ModelPair
    max_rows: int
    slots: int

    @classmethod
    def of(cls, pair: ModelPair, limits: Limits) -> Admission:
        """Admission as far as the limits and the memory allow."""
        slots = limits.cache_slots or _default_slots(pair, limits)
        return cls(pair, limits.max_rows, slots)

    def check(self, sequence: Sequence) -> None:
        """Refuse a sequence that can never be decoded.

        Raises:
            ValueError, MtadError: what is wrong with it.
        """
        m, method, requests = self.pair.models, sequence.method, [sequence.request]
        check_requests(m.target, m.draft, method, requests, m.vocab)
        rows, capacity = size_of(method, requests, m.vocab)
        if rows * capacity > self.slots:
            raise CacheMemoryError(
                f"the prompt, max_tokens and the method's tree need {capacity} cache slots; this "
                f"server has {self.slots}: lower max_tokens, or shorten the prompt"
            )

    def choose(self, waiting: Iterable[Sequence], batches: Batches) -> list[list[Sequence]]:
        """The first of the waiting sequences that fit, in groups of one batch.

        A group is as large as one chunk of the prefill. A sequence may pass those that wait for
        the next chunk, or for a batch in its prefill; none may pass one that lacks rows or slots.
        """
        groups: dict[Hashable, list[Sequence]] = {}
        num_free = self.max_rows - num_rows(batches)
        for sequence in waiting:
            key = sequence.batch_key
            batch, group = batches.get(key), [*groups.get(key, []), sequence]
            if (batch and batch.prefilling) or not self._is_one_chunk(group):
                continue
            wider = groups | {key: group}
            too_many = sum(map(len, wider.values())) > num_free
            if too_many or self._slots_with(wider, batches) > self.slots:
                break
            groups = wider
        return list(groups.values())

    def _is_one_chunk(self, group: list[Sequence]) -> bool:
        longest = max(len(sequence.request.text_ids) for sequence in group)
        most = PREFILL_TOKENS.get(self.pair.models.target.device.type, 256)
        return len(group) == 1 or len(group) * longest <= most

    def _slots_with(self, groups: Mapping[Hashable, list[Sequence]], batches: Batches) -> int:
        """Slots of all batches, had these groups joined."""
        total = 0
        for key in batches.keys() | groups.keys():
            requests = [sequence.request for sequence in groups.get(key, [])]
            if batch := batches.get(key):
                total += batch.session.slots_with(requests)
            else:
                method, vocab = groups[key][0].method, self.pair.models.vocab
                rows, capacity = size_of(method, requests, vocab, pads_batches(self.pair))
                total += rows * capacity
        return total


def num_rows(batches: Batches) -> int:
    """Sequences in the batches."""
    return sum(len(batch.sequences) for batch in list(batches.values()))


def _default_slots(pair: ModelPair, limits: Limits) -> int:
    """Slots for `max_rows` texts of the longest length, or as many as memory allows."""
    models = [model for model in (pair.models.target, pair.models.draft) if model is not None]
    lengths = (*map(context_of, models), limits.max_length)
    longest = min((one for one in lengths if one is not None), default=DEFAULT_CONTEXT)
    wanted = power_of_two(limits.max_rows) * bucket_of(longest + 1)
    free = min(free_bytes(model.device) for model in models)
    return max(1, int(min(wanted, MEMORY_SHARE * free / sum(map(slot_bytes, models)))))
