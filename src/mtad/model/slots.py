"""The slots of a model's KV cache: how many there are, and in which memory.

Knows no text and no forward.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mtad.core.buckets import power_of_two
from mtad.model.drafter import Drafter, Model
from mtad.model.kv_cache import Address, Resized, SlotLayer, resized
from mtad.model.prefix_cache import PrefixCache
from mtad.model.row_prefixes import RowPrefixes


class Slots(Drafter):
    """A model with a KV cache of `num_rows` rows of `capacity` slots.

    Args:
        model, name, vocab, device: as for `Drafter`.
        num_rows, capacity: the size to begin with.

    Attributes:
        num_slots: of all rows; where it changes, the buffers have moved.
    """

    model: Model

    def __init__(
        self,
        model: Model,
        name: str,
        vocab: int,
        device: torch.device,
        num_rows: int,
        capacity: int,
    ) -> None:
        super().__init__(model, name, vocab, device)
        num_layers = model.config.get_text_config().num_hidden_layers
        self._address = Address(num_rows, capacity, num_layers)
        self._layers = [SlotLayer(self._address) for _ in range(num_layers)]
        self._prefixes = RowPrefixes(PrefixCache(), model, self._layers)
        self.num_slots = num_rows * capacity

    def before_allocation(self, call: Callable[[], object]) -> None:
        """Set what is called before the cache asks for memory."""
        self._address.before_allocation = call

    def share_prefixes(self, cache: PrefixCache) -> None:
        """Look texts up in this cache, and keep theirs there; emptied where memory is short."""
        self._prefixes = RowPrefixes(cache, self.model, self._layers)
        self._address.when_short = cache.clear

    @property
    def max_rows(self) -> int:
        """Rows that the cache can hold."""
        return self._address.num_rows

    @property
    def buffers(self) -> list[Tensor]:
        """All keys and values; they stay where they are once the first forward has been run."""
        ready = [layer for layer in self._layers if layer.is_initialized]
        return [buffer for layer in ready for buffer in (layer.keys, layer.values)]

    def grown(self, num_rows: int, capacity: int) -> tuple[int, int]:
        """The size that the cache takes to have this many rows and slots; it never shrinks.

        One that is there grows to a power of two, so that it seldom has to.
        """
        at = self._address
        if at.num_rows and num_rows > at.num_rows:
            num_rows = power_of_two(num_rows)
        return max(at.num_rows, num_rows), max(at.capacity, capacity)

    def resized(self, num_rows: int, capacity: int) -> Resized:
        """The cache with at least so many rows and slots, see `kv_cache.resized`."""
        return resized(self._layers, *self.grown(num_rows, capacity))

    def resize(self, size: Resized) -> None:
        """Take a size that `resized` found memory for."""
        if (size.num_rows, size.capacity) != (self._address.num_rows, self._address.capacity):
            size.install()
            self.num_slots = size.num_rows * size.capacity

    @property
    def memory_bytes(self) -> int:
        """Memory that the cache has, in use or not."""
        return sum(memory.nbytes for layer in self._layers for memory in layer.memory)

    @property
    def addresses(self) -> set[int]:
        """Where the memory of the cache is."""
        return {memory.data_ptr() for layer in self._layers for memory in layer.memory}
