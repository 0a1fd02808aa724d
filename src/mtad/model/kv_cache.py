"""The KV cache: fixed buffers addressed by slot, behind transformers' cache interface.

The only file that knows that interface. Knows nothing of trees: which slot a token goes to is the
caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from mtad.errors import CacheMemoryError


def _nothing() -> None:
    """No idle memory to give up."""


@dataclass
class Address:
    """Where the forward in progress writes its keys and values, and how much of them it reads.

    Attributes:
        num_rows, capacity, num_layers: the size of the buffers.
        first: the row that the forward's first row is.
        slots: (b, n) where the new keys and values go.
        bucket: number of slots to attend over.
        is_whole: whether slots may be written beyond these, as a prefill's padding is.
        fits: whether the memory was checked.
        before_allocation: called before memory is asked for, to give up what is idle.
        when_short: called where that is not enough, to give up what can be made again.
    """

    num_rows: int
    capacity: int
    num_layers: int
    first: int = 0
    slots: Tensor | None = None
    bucket: int = 0
    is_whole: bool = True
    fits: bool = False
    before_allocation: Callable[[], object] = _nothing
    when_short: Callable[[], object] = _nothing


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (rows, heads, capacity, head size), addressed by slot.

    Both are views of flat memory, which stays where it is while rows and capacity change, as long
    as it is large enough.

    Attributes:
        memory: flat, of the keys and of the values.
        window: the first slots of the keys and of the values, all that an iteration reads and
            writes: a program that gets these does not depend on how many slots there are.
    """

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, address: Address) -> None:
        super().__init__()
        self.address = address
        self.memory: list[Tensor] = []
        self.window: list[Tensor] = []
        self._heads: list[tuple[int, int]] = []  # number and size, of the keys and of the values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers, or say how much memory they need."""
        self._heads = [(s.shape[1], s.shape[3]) for s in (key_states, value_states)]
        at = self.address
        if not at.fits:
            at.before_allocation()
        self.memory = self.allocated(key_states, at.num_rows, at.capacity, at.fits)
        at.fits = True
        self.lay_out(self.views(self.memory, at.num_rows, at.capacity))
        self.is_initialized = True

    def lay_out(self, views: Sequence[Tensor]) -> None:
        """Take these keys and values; the window is all of them."""
        self.keys, self.values = views
        self.window = list(views)

    def look_at(self, num_slots: int) -> None:
        """Let the window be so many slots."""
        self.window = [kind[:, :, :num_slots] for kind in (self.keys, self.values)]

    def allocated(self, like: Tensor, num_rows: int, capacity: int, fits: bool) -> list[Tensor]:
        """Flat zeroed memory of the keys and the values for so many rows and slots.

        Args:
            like: of the same type and device.
            num_rows, capacity: the size.
            fits: whether it is known that the memory of all layers is there.

        Raises:
            CacheMemoryError: there is no memory for it.
        """
        sizes = [num_rows * heads * capacity * size for heads, size in self._heads]
        needed = sum(sizes) * like.element_size() * self.address.num_layers
        if not fits and needed > free_bytes(like.device):
            self.address.when_short()
            if needed > free_bytes(like.device):
                raise _memory_error(needed, num_rows, capacity, like)
        try:
            return [like.new_zeros((size,)) for size in sizes]
        except (RuntimeError, MemoryError) as error:
            raise _memory_error(needed, num_rows, capacity, like) from error

    def views(self, memory: Sequence[Tensor], num_rows: int, capacity: int) -> list[Tensor]:
        """Keys and values of so many rows and slots in flat memory."""
        shapes = [(num_rows, heads, capacity, size) for heads, size in self._heads]
        return [m[: math.prod(s)].view(s) for m, s in zip(memory, shapes, strict=True)]

    def holds(self, num_slots: int) -> bool:
        """Whether the memory is enough for so many slots over all rows."""
        needed = [num_slots * heads * size for heads, size in self._heads]
        return all(n <= m.numel() for n, m in zip(needed, self.memory, strict=True))

    def drop(self) -> None:
        """Free the memory; rows and capacity are 0."""
        self.memory = [memory.new_empty((0,)) for memory in self.memory]
        self.lay_out(self.views(self.memory, 0, 0))

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values to their slots and return the rows' bucket."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = self.address
        assert at.slots is not None
        rows = slice(at.first, at.first + at.slots.shape[0])
        keys, values = [self.keys, self.values] if at.is_whole else self.window
        keys, values = keys[rows], values[rows]
        _write([keys, values], at.slots, [key_states, value_states])
        return keys[:, :, : at.bucket], values[:, :, : at.bucket]

    def move(self, num_rows: int, source: Tensor, target: Tensor) -> None:
        """Copy the slots `source` of every row to the slots `target`."""
        kinds, source = [kind[:num_rows] for kind in self.window], source.to(self.keys.device)
        _write(kinds, target, [_read(kind, source) for kind in kinds])

    def move_rows(self, source: list[int], target: list[int]) -> None:
        """Copy whole rows; used when finished rows leave the batch."""
        if self.is_initialized:
            self.keys[target], self.values[target] = self.keys[source], self.values[source]

    def wipe_rows(self, rows: slice) -> None:
        """Set whole rows to 0."""
        if self.is_initialized:
            self.keys[rows], self.values[rows] = 0, 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a forward reads."""
        return self.address.bucket, 0

    def get_seq_length(self) -> int:
        """0: positions and masks are always given explicitly."""
        return 0

    def get_max_length(self) -> int:
        """Slots per row."""
        return self.address.capacity


def _is_one_text(slots: Tensor) -> bool:
    """Whether the slots are of one row on a CPU, where one index takes half the time of two."""
    return slots.shape[0] == 1 and slots.device.type == "cpu"


def _read(kind: Tensor, slots: Tensor) -> Tensor:
    """What the slots (b, n) of keys or values of b rows hold, (b, heads, n, size)."""
    if _is_one_text(slots):
        return kind.index_select(2, slots[0])
    row = torch.arange(slots.shape[0], device=slots.device)[:, None]
    return kind.transpose(1, 2)[row, slots].transpose(1, 2)


def _write(kinds: Sequence[Tensor], slots: Tensor, new: Sequence[Tensor]) -> None:
    """Store (b, heads, n, size) tensors in the slots (b, n) of keys and values of b rows."""
    slots = slots.to(kinds[0].device)
    for kind, states in zip(kinds, new, strict=True):
        if _is_one_text(slots):
            kind.index_copy_(2, slots[0], states)
        else:
            row = torch.arange(slots.shape[0], device=slots.device)[:, None]
            kind.transpose(1, 2)[row, slots] = states.transpose(1, 2)


@dataclass(frozen=True)
class Resized:
    """A cache of another size, for which all memory is there; nothing has changed yet.

    Attributes:
        layers: of the cache.
        num_rows, capacity: the new size.
        memory: new memory of each layer, None where that which it has is enough.
        scratch: for what a layer holds, while it is laid out anew in place.
    """

    layers: Sequence[SlotLayer]
    num_rows: int
    capacity: int
    memory: Sequence[Sequence[Tensor] | None]
    scratch: Tensor | None

    def install(self) -> None:
        """Take the size; what the cache held stays. Can't fail."""
        for layer, memory in zip(self.layers, self.memory, strict=True):
            if not layer.is_initialized:
                continue
            views = layer.views(memory or layer.memory, self.num_rows, self.capacity)
            for held, new in zip((layer.keys, layer.values), views, strict=True):
                if held.numel():
                    self._copy(held, new, in_place=memory is None)
            layer.lay_out(views)
            layer.memory = list(memory or layer.memory)
        address = self.layers[0].address
        address.num_rows, address.capacity = self.num_rows, self.capacity
        address.fits = False

    def _copy(self, held: Tensor, new: Tensor, in_place: bool) -> None:
        if in_place:
            assert self.scratch is not None
            held = self.scratch[: held.numel()].view(held.shape).copy_(held)
            new.zero_()  # whatever was there before: NaN would reach texts, masked or not
        new[: held.shape[0], :, : held.shape[2]] = held


def resized(layers: Sequence[SlotLayer], num_rows: int, capacity: int) -> Resized:
    """A cache with these rows and slots, at least as many as it has.

    Memory that is too small and holds nothing is freed first.

    Raises:
        CacheMemoryError: there is no memory for it; what the cache holds has not changed.
    """
    at, num_slots = layers[0].address, num_rows * capacity
    if (num_rows, capacity) == (at.num_rows, at.capacity):
        return Resized(layers, num_rows, capacity, [None] * len(layers), None)
    small = [y for y in layers if y.is_initialized and not y.holds(num_slots)]
    if small and at.num_rows == 0:
        for layer in small:
            layer.drop()
    if small:
        at.before_allocation()
    memory: list[list[Tensor] | None] = []
    for layer in layers:
        is_small, fits = layer in small, any(memory)
        like = layer.memory[0] if is_small else None
        memory.append(None if like is None else layer.allocated(like, num_rows, capacity, fits))
    return Resized(layers, num_rows, capacity, memory, None if small else _scratch(layers))


def _scratch(layers: Sequence[SlotLayer]) -> Tensor | None:
    """Memory for the keys or the values of one layer."""
    held = [kind for y in layers if y.is_initialized for kind in (y.keys, y.values)]
    largest: Tensor | None = max(held, key=torch.Tensor.numel, default=None)
    if largest is None or not largest.numel():
        return None
    try:
        scratch: Tensor = largest.new_empty((largest.numel(),))
        return scratch
    except (RuntimeError, MemoryError) as error:
        at = layers[0].address
        raise _memory_error(largest.nbytes, at.num_rows, at.capacity, largest) from error


def free_bytes(device: torch.device) -> float:
    """Memory of a device that can be had, what torch keeps for itself included."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + held)
    return float(psutil.virtual_memory().available) if device.type == "cpu" else math.inf


def _memory_error(needed: int, num_rows: int, capacity: int, like: Tensor) -> CacheMemoryError:
    return CacheMemoryError(
        f"the KV cache needs {needed / 2**30:.2f} GiB ({num_rows} rows of {capacity} tokens in "
        f"{like.dtype}) and {free_bytes(like.device) / 2**30:.2f} GiB are free; lower "
        "max_batch_size, max_new_tokens or the prompt's length, or load the models in a smaller "
        "dtype"
    )
