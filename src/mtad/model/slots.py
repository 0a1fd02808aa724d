"""The slots of a model's KV cache: how many there are, and in which memory.

Knows no text and no forward.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

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
        places: (1, W) the numbers of the slots that an iteration attends over, the window.
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
        self._numbers = torch.arange(0, device=self.device)
        self._set_places(0)

    def _set_places(self, num_slots: int) -> None:
        """Number so many slots; the numbers stay where they are while the cache does."""
        if num_slots > len(self._numbers):
            self._numbers = torch.arange(power_of_two(num_slots), device=self.device)
        self.places = self._numbers[None, :num_slots]

    def look_at(self, num_slots: int) -> None:
        """Let iterations attend over so many slots, or as many as there are."""
        num_slots = min(num_slots, self._address.capacity)
        if num_slots == self.places.shape[1]:
            return
        self._set_places(num_slots)
        for layer in self._layers:
            if layer.is_initialized:
                layer.look_at(num_slots)

    def before_allocation(self, call: Callable[[], object]) -> None:
        """Set what is called before the cache asks for memory."""
        self._address.before_allocation = call

    def share_prefixes(self, cache: PrefixCache) -> None:
        """Look texts up in this cache, and keep theirs there; emptied where memory is short."""
        self._prefixes = RowPrefixes(cache, self.model, self._layers)
        self._address.when_short = cache.clear

    def num_found(
        self, texts: Sequence[Sequence[int]], salts: Sequence[Hashable | None]
    ) -> list[int]:
        """Of each text, the tokens whose keys and values the prefix cache has.

        Args:
            texts: all of each.
            salts: as in `Drafter.begin_prefill`.
        """
        return self._prefixes.num_found(texts, salts)

    @property
    def max_rows(self) -> int:
        """Rows that the cache can hold."""
        return self._address.num_rows

    @property
    def buffers(self) -> list[Tensor]:
        """What an iteration sees of the keys and values, and the numbers of these slots."""
        ready = [layer for layer in self._layers if layer.is_initialized]
        return [self.places, *[buffer for layer in ready for buffer in layer.window]]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Slots that an iteration sees, and that there are."""
        return self.places.shape[1], self.num_slots

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
            self._set_places(0)
            self.num_slots = size.num_rows * size.capacity

    @property
    def memory_bytes(self) -> int:
        """Memory that the cache has, in use or not."""
        return sum(memory.nbytes for layer in self._layers for memory in layer.memory)

    @property
    def addresses(self) -> set[int]:
        """Where the memory of the cache is."""
        return {memory.data_ptr() for layer in self._layers for memory in layer.memory}
