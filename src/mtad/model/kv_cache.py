"""The KV cache: fixed buffers addressed by slot, behind transformers' cache interface.

The only file that knows that interface. Knows nothing of trees: which slot a token goes to is the
caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from mtad.errors import CacheMemoryError


@dataclass
class Address:
    """Where the forward in progress writes its keys and values, and how much of them it reads.

    Attributes:
        num_rows, capacity, num_layers: the size of the buffers.
        first: the row that the forward's first row is.
        slots: (b, n) where the new keys and values go.
        bucket: number of slots to attend over.
        fits: whether the memory was checked.
    """

    num_rows: int
    capacity: int
    num_layers: int
    first: int = 0
    slots: Tensor | None = None
    bucket: int = 0
    fits: bool = False


@dataclass
class Reading:
    """Texts on their way into the cache, in the rows that follow those in use.

    Attributes:
        tokens: (J, L) all but the last token of each, right-padded.
        lengths: (J,) how many that are.
        bad: (J,) as `mtad.model.lm.LM.bad_position`.
        start: tokens read so far.
    """

    tokens: Int[Tensor, "joining text"]
    lengths: Int[Tensor, " joining"]
    bad: Int[Tensor, " joining"]
    start: int = 0


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (rows, heads, capacity, head size), addressed by slot."""

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, address: Address) -> None:
        super().__init__()
        self.address = address

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers, or say how much memory they need."""
        shapes = [
            (self.address.num_rows, s.shape[1], self.address.capacity, s.shape[3])
            for s in (key_states, value_states)
        ]
        if not self.address.fits:
            _require_memory(shapes, key_states, self.address)
        try:
            self.keys, self.values = (key_states.new_zeros(shape) for shape in shapes)
        except (RuntimeError, MemoryError) as error:
            raise _memory_error(shapes, key_states, self.address) from error
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values to their slots and return the rows' bucket."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = self.address
        assert at.slots is not None
        rows = slice(at.first, at.first + at.slots.shape[0])
        self.write(rows, at.slots, key_states.transpose(1, 2), value_states.transpose(1, 2))
        return self.keys[rows, :, : at.bucket], self.values[rows, :, : at.bucket]

    def write(self, rows: slice, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store (b, n, heads, size) tensors in the slots (b, n) of `rows`."""
        slots = slots.to(self.keys.device)
        row = torch.arange(slots.shape[0], device=slots.device)[:, None]
        self.keys[rows].transpose(1, 2)[row, slots] = keys
        self.values[rows].transpose(1, 2)[row, slots] = values

    def move(self, num_rows: int, source: Tensor, target: Tensor) -> None:
        """Copy the slots `source` of every row to the slots `target`."""
        source = source.to(self.keys.device)
        row = torch.arange(num_rows, device=source.device)[:, None]
        keys = self.keys.transpose(1, 2)[row, source]
        values = self.values.transpose(1, 2)[row, source]
        self.write(slice(0, num_rows), target, keys, values)

    def move_rows(self, source: list[int], target: list[int]) -> None:
        """Copy whole rows; used when finished rows leave the batch."""
        if self.is_initialized:
            self.keys[target], self.values[target] = self.keys[source], self.values[source]

    def wipe_rows(self, rows: slice) -> None:
        """Set whole rows to 0."""
        if self.is_initialized:
            self.keys[rows], self.values[rows] = 0, 0

    def resize(self) -> None:
        """Take the size of the address, which must not be smaller; what is there stays."""
        if self.is_initialized:
            old = self.keys, self.values
            like = [b[:, :, 0].unsqueeze(2) for b in old]
            self.lazy_initialization(like[0], like[1])
            for new, held in zip((self.keys, self.values), old, strict=True):
                new[: held.shape[0], :, : held.shape[2]] = held

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a forward reads."""
        return self.address.bucket, 0

    def get_seq_length(self) -> int:
        """0: positions and masks are always given explicitly."""
        return 0

    def get_max_length(self) -> int:
        """Slots per row."""
        return self.address.capacity


def resize(layers: Sequence[SlotLayer], num_rows: int, capacity: int) -> None:
    """Give the layers of a cache more rows and slots.

    Raises:
        CacheMemoryError: there is no memory for them; the layers are as they were.
    """
    address = layers[0].address
    old, before = (address.num_rows, address.capacity), [(y.keys, y.values) for y in layers]
    address.num_rows, address.capacity, address.fits = num_rows, capacity, False
    try:
        for layer in layers:
            layer.resize()
    except CacheMemoryError:
        address.num_rows, address.capacity = old
        for layer, (keys, values) in zip(layers, before, strict=True):
            layer.keys, layer.values = keys, values
        raise


def free_bytes(device: torch.device) -> float:
    """Memory of a device that can be had, what torch keeps for itself included."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + held)
    return float(psutil.virtual_memory().available) if device.type == "cpu" else math.inf


def _needed_bytes(shapes: Sequence[tuple[int, ...]], like: Tensor, address: Address) -> int:
    return sum(map(math.prod, shapes)) * like.element_size() * address.num_layers


def _require_memory(shapes: Sequence[tuple[int, ...]], like: Tensor, address: Address) -> None:
    """Refuse buffers that cannot fit before the first of them is allocated."""
    if _needed_bytes(shapes, like, address) > free_bytes(like.device):
        raise _memory_error(shapes, like, address)
    address.fits = True


def _memory_error(
    shapes: Sequence[tuple[int, ...]], like: Tensor, address: Address
) -> CacheMemoryError:
    needed, free = _needed_bytes(shapes, like, address), free_bytes(like.device)
    return CacheMemoryError(
        f"the KV cache needs {needed / 2**30:.2f} GiB ({address.num_rows} rows of "
        f"{address.capacity} tokens in {like.dtype}) and {free / 2**30:.2f} GiB are free; lower "
        "max_batch_size, max_new_tokens or the prompt's length, or load the models in a smaller "
        "dtype"
    )
