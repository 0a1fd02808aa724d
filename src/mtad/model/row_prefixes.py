"""Prefixes of texts, copied from the rows of a KV cache into the prefix cache and back.

A position's keys and values follow from the tokens up to it alone: every model that has been found
to score trees stores plain keys and values by slot, a sliding window is a mask over them, and ropes
that change with the length are not read that far. Knows no text's end and no method.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain

import torch
from jaxtyping import Int
from torch import Tensor

from mtad.model.drafter import Model
from mtad.model.finite import NOWHERE
from mtad.model.kv_cache import SlotLayer, free_bytes
from mtad.model.prefix_cache import BLOCK, PrefixCache

AT_ONCE = 16
"""Blocks that are copied together, so that what lies between takes little memory."""


class RowPrefixes:
    """The prefix cache as one model's KV cache uses it.

    Args:
        cache: of all models and sessions.
        model: whose keys and values these are.
        layers: its KV cache.
    """

    def __init__(self, cache: PrefixCache, model: Model, layers: Sequence[SlotLayer]) -> None:
        self._cache, self._model, self._layers = cache, model, layers
        self._joining: list[tuple[Hashable | None, Sequence[int]]] = []

    def num_found(
        self, texts: Sequence[Sequence[int]], salts: Sequence[Hashable | None]
    ) -> list[int]:
        """How many tokens of each text `restore` would find; for `salts` see there."""
        kept = zip(self._roots(salts), texts, strict=True)
        return [
            0 if root is None else self._cache.num_found(root, text[:-2]) for root, text in kept
        ]

    def _roots(self, salts: Sequence[Hashable | None]) -> list[Hashable | None]:
        """What the prefixes of texts with these salts are kept under; None where they are not."""
        if not self._cache.max_bytes or all(salt is None for salt in salts):
            return [None] * len(salts)
        mark = weights_mark(self._model)
        return [None if salt is None else (self._model, mark, salt) for salt in salts]

    def restore(
        self, first: int, texts: Sequence[Sequence[int]], salts: Sequence[Hashable | None]
    ) -> list[int]:
        """How many tokens of each text were found, and copied to the first slots of its row.

        At least one of those that the cache is to have, the last but one of the text, is left to
        be fed: the hidden state there is not kept, and the numbers are checked there.

        Args:
            first: the row of the first text; the others follow.
            texts: all of each.
            salts: as in `Drafter.begin_prefill`.
        """
        roots = self._roots(salts)
        self._joining = [*zip(roots, texts, strict=True)] if any(roots) else []
        if not self._joining:
            return [0] * len(texts)
        return [self._restore(row, *one) for row, one in enumerate(self._joining, first)]

    def _restore(self, row: int, root: Hashable | None, text: Sequence[int]) -> int:
        blocks = [] if root is None else self._cache.find(root, text[:-2])
        for place in range(0, len(blocks), AT_ONCE):
            some = blocks[place : place + AT_ONCE]
            data = torch.stack([block.data for block in some])
            self._write(row, place * BLOCK, data, some[0].like)
        return len(blocks) * BLOCK

    def keep(self, first: int, bad: Int[Tensor, " joining"]) -> None:
        """Keep the prefixes of the texts last given to `restore`, all but the last token of each.

        Args:
            first: the row of the first text.
            bad: (J,) `NOWHERE` of the texts without NaN and infinity; others are not kept.
        """
        if self._joining:
            read = [(root, text[:-1]) for root, text in self._joining]
            self._add({first + i: one for i, one in enumerate(read)}, bad)
        self._joining = []

    def keep_read(
        self,
        texts: Mapping[int, tuple[Sequence[int], Hashable | None]],
        bad: Int[Tensor, " rows"],
    ) -> None:
        """Keep what rows have read.

        Args:
            texts: by row, tokens whose keys and values are in its first slots, and their salt as
                in `Drafter.begin_prefill`.
            bad: (B,) as in `keep`, of all rows.
        """
        roots = self._roots([salt for _, salt in texts.values()])
        if any(roots):
            pairs = zip(texts.items(), roots, strict=True)
            found = {row: (root, text) for (row, (text, _)), root in pairs}
            self._add(found, bad[torch.tensor([*texts], device=bad.device, dtype=torch.int64)])

    def _add(
        self,
        texts: Mapping[int, tuple[Hashable | None, Sequence[int]]],
        bad: Int[Tensor, " texts"],
    ) -> None:
        if not all(layer.is_initialized for layer in self._layers):
            return  # a model that stores nothing here has nothing to be kept
        like = [kind.new_empty((1, kind.shape[1], 0, kind.shape[3])) for kind in self._kinds()]
        sound = (bad == NOWHERE).tolist()
        for (row, (root, text)), is_sound in zip(texts.items(), sound, strict=True):
            if root is not None and is_sound:
                self._cache.add(root, text, partial(self._read, row), like)

    def _kinds(self) -> Iterator[Tensor]:
        """Keys and values of every layer."""
        return (kind for layer in self._layers for kind in (layer.keys, layer.values))

    def _read(self, row: int, first: int, stop: int) -> list[Tensor]:
        """The blocks between two slots of a row, none where memory is short."""
        kinds = [kind[row, :, first:stop] for kind in self._kinds()]
        device = kinds[0].device
        if 4 * sum(kind.nbytes for kind in kinds) > free_bytes(device):
            return []
        found: list[Tensor] = []
        for some in zip(*(torch.split(k, AT_ONCE * BLOCK, 1) for k in kinds), strict=True):
            cut = [
                k.view(k.shape[0], -1, BLOCK, k.shape[2]).transpose(0, 1).flatten(1) for k in some
            ]
            found += [block.clone() for block in torch.cat([b.to(device) for b in cut], dim=1)]
        return found

    def _write(self, row: int, first: int, data: Tensor, like: Sequence[Tensor]) -> None:
        """Write blocks (num_blocks, numbers) to the slots of a row from the first one on."""
        for layer, (keys, values) in zip(self._layers, _pairs(like), strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys, values)
        num_blocks, start = len(data), 0
        for kind in self._kinds():
            heads, size = kind.shape[1], kind.shape[3]
            stop = start + heads * BLOCK * size
            part = data[:, start:stop].view(num_blocks, heads, BLOCK, size).transpose(0, 1)
            slots = kind[row, :, first : first + num_blocks * BLOCK]
            slots.view(heads, num_blocks, BLOCK, size).copy_(part)
            start = stop


def _pairs(kinds: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(kinds[::2], kinds[1::2], strict=True)


def weights_mark(model: Model) -> int:
    """A number that changes when weights are replaced, or changed in place as optimizers do."""
    return hash(tuple(map(_mark, chain(model.parameters(), model.buffers()))))


def _mark(weight: Tensor) -> tuple[int, int]:
    is_packed = weight.layout != torch.strided  # without an address
    version = 0 if weight.is_inference() else weight._version
    return id(weight) if is_packed else weight.data_ptr(), version
