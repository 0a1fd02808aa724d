"""Keys and values of prompts that were read, for later texts that begin with the same tokens.

Prompts are cut into blocks of `BLOCK` tokens. A block is known by its own tokens and by the block
before it, hence by every token before it, compared one by one: there is no hash that could collide.
The blocks that were used longest ago leave first, the end of a prompt before its beginning. Knows
no model: what it keeps of a block is one flat tensor.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import TypeAlias

from torch import Tensor

BLOCK = 16
"""Tokens of a block; what two prompts share is found in whole blocks."""

LEAST_SHARED = 4
"""Blocks that a text must share with one before it to be read after it."""

_Key: TypeAlias = tuple[Hashable, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Block:
    """What is kept of a block of tokens.

    Attributes:
        id: names it as the one before its followers.
        data: flat, in an order that only who made it knows.
        like: empty tensors that say so; those of one text share them.
    """

    id: int
    data: Tensor
    like: Sequence[Tensor]


class PrefixCache:
    """Blocks of prompts, at most `max_bytes` of them; with 0 it keeps none.

    Args:
        max_bytes: of all blocks together.

    Attributes:
        num_bytes: that the blocks have now.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        self._max_bytes, self.num_bytes = max_bytes, 0
        self._blocks: OrderedDict[_Key, Block] = OrderedDict()  # a block stands before its parent
        self._ids, self._lock = count(), Lock()

    @property
    def max_bytes(self) -> int:
        """Most bytes of all blocks together."""
        return self._max_bytes

    @max_bytes.setter
    def max_bytes(self, max_bytes: int) -> None:
        with self._lock:
            self._max_bytes = max_bytes
            self._evict()

    def find(self, root: Hashable, tokens: Sequence[int]) -> list[Block]:
        """The blocks that a text begins with, as far as they are there.

        Args:
            root: texts share blocks only where this is equal.
            tokens: of the text.
        """
        with self._lock:
            path = self._path(root, tokens)
            self._touch(path)
            return [self._blocks[key] for key in path]

    def num_found(self, root: Hashable, tokens: Sequence[int]) -> int:
        """How many tokens `find` would find; nothing counts as used by it."""
        with self._lock:
            return len(self._path(root, tokens)) * BLOCK

    def add(
        self,
        root: Hashable,
        tokens: Sequence[int],
        read: Callable[[int, int], Sequence[Tensor]],
        like: Sequence[Tensor] = (),
    ) -> None:
        """Keep the whole blocks of a text.

        Args:
            root, tokens: as in `find`.
            read: gives what is to be kept of the blocks between two places in the text; asked only
                for blocks that are not there yet.
            like: goes with each of them.
        """
        with self._lock:
            path, num_whole = self._path(root, tokens), len(tokens) // BLOCK
            if not self._max_bytes or len(path) == num_whole:
                return
            parent = self._blocks[path[-1]].id if path else root
            for data in read(len(path) * BLOCK, num_whole * BLOCK):
                key, block = _key(parent, tokens, len(path)), Block(next(self._ids), data, like)
                self._blocks[key], parent = block, block.id
                self.num_bytes += data.nbytes
                path.append(key)
            self._touch(path)
            self._evict()

    def clear(self) -> None:
        """Forget all blocks."""
        with self._lock:
            self._blocks.clear()
            self.num_bytes = 0

    def _path(self, root: Hashable, tokens: Sequence[int]) -> list[_Key]:
        path: list[_Key] = []
        parent = root
        for place in range(len(tokens) // BLOCK):
            key = _key(parent, tokens, place)
            if key not in self._blocks:
                break
            path.append(key)
            parent = self._blocks[key].id
        return path

    def _touch(self, path: Sequence[_Key]) -> None:
        """Note the use of blocks, so that each leaves before the one that it follows."""
        for key in reversed(path):
            self._blocks.move_to_end(key)

    def _evict(self) -> None:
        while self.num_bytes > self._max_bytes:
            _, block = self._blocks.popitem(last=False)
            self.num_bytes -= block.data.nbytes


def _key(parent: Hashable, tokens: Sequence[int], place: int) -> _Key:
    """How a text's block at this place is known; `parent` is the root, or the id before it."""
    return parent, tuple(tokens[place * BLOCK : (place + 1) * BLOCK])


def rounds(texts: Sequence[Sequence[int]], num_found: Sequence[int]) -> list[list[int]]:
    """Which texts to read at once, one round after another, so that what many share is read once.

    Args:
        texts: their tokens.
        num_found: how many of each the prefix cache has.

    Returns:
        Places of the texts. One that shares `LEAST_SHARED` blocks with another of a round, which
        neither the cache has nor an earlier round reads, comes later.
    """
    left, known, found = [*range(len(texts))], set[tuple[int, ...]](), list[list[int]]()
    while left:
        now, fresh = list[int](), set[tuple[int, ...]]()
        for place in left:
            text, ends = texts[place], range(num_found[place] + BLOCK, len(texts[place]), BLOCK)
            beginnings = {tuple(text[:end]) for end in ends} - known
            if len(beginnings & fresh) < LEAST_SHARED:
                now.append(place)
                fresh |= beginnings
        known |= fresh
        left = [place for place in left if place not in now]
        found.append(now)
    return found
