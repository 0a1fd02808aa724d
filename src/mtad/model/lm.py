"""A model and its KV cache: the one mutable thing of the engine.

Row b of the cache holds its committed tokens in slots 0 … length_b - 1, all but the last committed
one, which is the root of the next tree. Tree nodes are written to the slots right after, node i to
slot length_b + i, and see the committed slots and their own ancestors. Knows no method.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from mtad.core.buckets import bucket_of
from mtad.core.tree import TokenTree
from mtad.model.context import context_of as context_of
from mtad.model.drafter import Model as Model
from mtad.model.finite import first_bad
from mtad.model.forward import Forward, at_places, output_head
from mtad.model.masks import tree_mask
from mtad.model.prefill import Prefill
from mtad.model.slots import Slots
from mtad.model.trimmed import TokenMap

PREFILL_TOKENS = {"cpu": 256, "cuda": 2048}
"""Most prompt tokens, over all rows, that one forward of the prefill feeds, by kind of device."""


class LM(Slots):
    """A causal language model with a cache of `num_rows` rows of `capacity` slots.

    Logits are cut to `vocab` token ids (padded embedding rows are dropped), or to `token_ids`, see
    `mtad.model.trimmed`.

    Args:
        model, name, vocab, num_rows, capacity: as for `Slots`.
        own_ids: tokens are the model's own ids, whatever they are to a target.
        keeps_hidden: whether `hidden` is kept.

    Attributes:
        lengths: (B,) committed tokens in the cache, one less than the text has.
        hidden: (B, H) what entered the output head at the last of these tokens, zeros where there
            is none; H is 0 where it is not kept.
        longest: a bound on `lengths`; how much a forward attends over follows from it.
        on_prefill: called with the logits after every token of a prefill's chunk and the place of
            the chunk in the texts without their `num_cached`, if it is set.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Slots.STATE, "lengths", "hidden")

    def __init__(
        self,
        model: Model,
        name: str,
        vocab: int,
        num_rows: int = 0,
        capacity: int = 0,
        own_ids: bool = False,
        keeps_hidden: bool = False,
    ) -> None:
        embeddings: Any = model.get_input_embeddings()
        super().__init__(model, name, vocab, embeddings.weight.device, num_rows, capacity)
        self._map = None if own_ids else self._token_map()
        self.token_ids = self._map.ids if self._map else None
        self._run = Forward(model, vocab, self._layers, self._map)
        self.on_prefill: Callable[[Tensor, slice], None] | None = None
        self._forget(keeps_hidden)

    def _token_map(self) -> TokenMap | None:
        return TokenMap.of(self.model, self.vocab, self.device)

    def _forget(self, keeps_hidden: bool) -> None:
        self._prefill: Prefill | None = None
        self._is_resting = False
        self.longest, self.num_slots = 0, self._address.num_rows * self._address.capacity
        self._set_places(0)
        self.lengths = self.bad_position = self._no_rows()
        self._run.keeps_hidden, self._run.hidden = keeps_hidden, None
        self.hidden = self._zeros(0)

    def _zeros(self, num_rows: int) -> Float[Tensor, "rows hidden"]:
        """The hidden states of rows without any."""
        size = output_head(self.model).in_features if self._run.keeps_hidden else 0
        return torch.zeros(num_rows, size, dtype=self.model.dtype, device=self.device)

    def clear(self, keeps_hidden: bool = False) -> None:
        """Forget all rows, and the size; the memory stays for those who come next."""
        for layer in self._layers:
            if layer.is_initialized:
                layer.lay_out(layer.views(layer.memory, 0, 0))
        at = self._address
        at.num_rows, at.capacity, at.first, at.slots, at.fits = 0, 0, 0, None, False
        self._forget(keeps_hidden)

    def prefill(
        self, texts: Sequence[Sequence[int]], salts: Sequence[Hashable | None] = ()
    ) -> None:
        """Add one row per text and feed all but its last token, a chunk at a time."""
        self.begin_prefill(texts, salts)
        while self.prefill_chunk():
            pass
        self.end_prefill()

    def begin_prefill(
        self, texts: Sequence[Sequence[int]], salts: Sequence[Hashable | None] = ()
    ) -> None:
        """As `Drafter.begin_prefill`."""
        prefill = self._begin(texts, salts)
        prefill.tokens = self._read(prefill.tokens)

    def _begin(self, texts: Sequence[Sequence[int]], salts: Sequence[Hashable | None]) -> Prefill:
        for layer in self._layers:  # of NaN, which would reach these texts, masked or not
            layer.wipe_rows(slice(self.num_rows, self.num_rows + len(texts)))
        found = self._prefixes.restore(self.num_rows, texts, salts)
        self._prefill = Prefill.of(texts, self._zeros(len(texts)), found)
        return self._prefill

    def prefill_chunk(self) -> bool:
        """Feed one chunk of the texts that are being prefilled; whether there is more."""
        texts = self._prefill
        assert texts is not None
        count, longest = texts.tokens.shape
        chunk = max(1, PREFILL_TOKENS.get(self.device.type, 256) // count)
        stop = min(texts.start + chunk, longest)
        if texts.start < stop:
            self._feed(texts, slice(texts.start, stop))
            texts.start = stop
        return stop < longest

    def _feed(self, texts: Prefill, chunk: slice) -> None:
        """Feed one chunk of the texts to the rows behind those in use."""
        slots = texts.slots(chunk, self._address.capacity)
        self._address.first = self.num_rows
        keys = torch.arange(self._open(slots, texts.reach(chunk)), device=self.device)
        tokens, every = texts.tokens[:, chunk], keys.expand(len(slots), -1)
        wants_all, last = self.on_prefill is not None, texts.last_in(chunk)
        ends = last if self._run.keeps_hidden and not wants_all else None
        num_logits = 1 if ends is None and not wants_all else tokens.shape[1]
        logits = self._run(tokens, slots, keys <= slots[:, :, None], every, num_logits, ends)
        if self.on_prefill is not None:
            self.on_prefill(logits, chunk)
            logits = logits[:, -1:]
        at = slots[:, -1:] if ends is None else slots.gather(1, ends[:, None])
        texts.bad = texts.bad.minimum(first_bad(logits, at).to(texts.bad.device))
        if (seen := self._run.hidden) is not None:
            hidden = at_places(seen, last) if ends is None else seen[:, 0]
            texts.keep(hidden.to(texts.hidden), chunk)
            self._run.hidden = None
        self._address.first = 0

    def end_prefill(self) -> None:
        """Take the rows that have been prefilled into use."""
        texts = self._prefill
        assert texts is not None
        self._prefixes.keep(self.num_rows, texts.bad)
        self.lengths = torch.cat([self.lengths, texts.lengths])
        self.bad_position = torch.cat([self.bad_position, texts.bad])
        self.hidden = torch.cat([self.hidden, texts.hidden])
        self.longest = max(self.longest, texts.longest)
        self._prefill = None

    @property
    def num_cached(self) -> list[int]:
        """Of each text that is being prefilled, the tokens that were found in the prefix cache."""
        return [] if self._prefill is None else list(self._prefill.num_cached)

    def cancel_prefill(self) -> None:
        """Feed no further; what has been fed is forgotten."""
        self._prefill = None

    def keep_read(self, texts: Mapping[int, tuple[Sequence[int], Hashable | None]]) -> None:
        """As `Drafter.keep_read`; a draft's last token may not have been read."""
        if not self._is_resting:
            read = {row: (text[:-2], salt) for row, (text, salt) in texts.items()}
            self._prefixes.keep_read(read, self.bad_position)

    def rest(self) -> None:
        """As `Drafter.rest`."""
        self._is_resting = True

    def forward(self, tree: TokenTree) -> Float[Tensor, "rows nodes tokens"]:
        """Logits after every node of the tree, float32; of `token_ids` or the vocabulary."""
        return self._score(tree, slice(0, tree.num_nodes))

    def forward_level(self, tree: TokenTree) -> Float[Tensor, "rows width tokens"]:
        """Logits after the deepest level; the levels above must have been fed before.

        The root is fed together with the token before it: after a fully accepted block the last
        draft token was never read, and writing a slot a second time is harmless.
        """
        if tree.depth > 0:
            return self._score(tree, tree.last_level)
        slots = torch.stack([(self.lengths - 1).clamp(min=0), self.lengths], dim=1)
        return self._read_text(self._root_tokens(tree), slots, self._checked).to(tree.tokens.device)

    def catch_up(self, missed: Int[Tensor, "rows missed"]) -> None:
        """Write the slots before the root's; those that were written get what they hold."""
        self._is_resting = False
        offsets = torch.arange(missed.shape[1], device=self.device) - missed.shape[1]
        slots = (self.lengths[:, None] + offsets).clamp(min=0)
        self._read_text(self._read(missed.to(self.device)), slots, self._run)

    def _read_text(self, tokens: Tensor, slots: Tensor, run: Callable[..., Tensor]) -> Tensor:
        """What `run` says after the last of these tokens of the text itself."""
        self._enter(slots, self.longest + 1)
        visible = self.places[:, None] <= slots[:, :, None]
        return run(tokens, slots, visible, self.places.expand(self.num_rows, -1), 1)

    def _root_tokens(self, tree: TokenTree) -> Int[Tensor, "rows two"]:
        return self._read(torch.stack([tree.previous, tree.tokens[:, 0]], dim=1).to(self.device))

    def _read(self, tokens: Tensor) -> Tensor:
        return tokens if self._map is None else self._map.read(tokens)

    def _score(self, tree: TokenTree, nodes: slice) -> Tensor:
        offsets = torch.arange(tree.num_nodes, device=self.device)
        slots = self.lengths[:, None] + offsets
        self._enter(slots[:, nodes], self.longest + tree.num_nodes)
        positions = self.lengths[:, None] + tree.depths.to(self.device)
        ancestors = tree.ancestors[:, nodes].to(self.device)
        visible, keys = tree_mask(self.lengths, slots, positions, ancestors, self.places)
        tokens = self._read(tree.tokens[:, nodes].to(self.device))
        logits = self._checked(tokens, positions[:, nodes], visible, keys, tokens.shape[1])
        return logits.to(tree.tokens.device)

    def _open(self, slots: Tensor, used: int) -> int:
        """Point the cache at `slots`; the number of slots to attend over, `used` rounded up."""
        self._address.slots, self._address.is_whole = slots, True
        self._address.bucket = min(bucket_of(used), self._address.capacity)
        return self._address.bucket

    def _enter(self, slots: Tensor, used: int) -> None:
        """Point the cache at `slots` of the window, which has `used` slots at least."""
        if used > self.places.shape[1]:
            self.look_at(bucket_of(used))
        at = self._address
        at.slots, at.bucket, at.is_whole = slots, self.places.shape[1], False

    def look_ahead(self, longest: int, num_nodes: int) -> None:
        """As `Drafter.look_ahead`; what is attended over follows."""
        super().look_ahead(longest, num_nodes)
        self.look_at(self.longest + num_nodes)

    def _checked(
        self, tokens: Tensor, positions: Tensor, visible: Tensor, keys: Tensor, num_logits: int
    ) -> Float[Tensor, "rows logits tokens"]:
        """The logits of `_run`, bad ones noted."""
        logits = self._run(tokens, positions, visible, keys, num_logits)
        bad = first_bad(logits, positions[:, -num_logits:])
        self.bad_position = self.bad_position.minimum(bad.to(self.bad_position.device))
        return logits

    def commit(self, nodes: Int[Tensor, "rows depth"] | None, num_accepted: Tensor) -> None:
        """As `Drafter.commit`; moves what was accepted to where the text goes on."""
        if nodes is not None and nodes.shape[1]:
            source = self.lengths[:, None] + nodes.to(self.device)
            order = torch.arange(1, nodes.shape[1] + 1, device=self.device)
            for layer in self._layers:
                layer.move(self.num_rows, source, self.lengths[:, None] + order)
        self.lengths = self.lengths + 1 + num_accepted.to(self.device)
        if (seen := self._run.hidden) is not None:
            count = num_accepted.clamp(min=0)
            last = count if nodes is None else pad(nodes, (1, 0)).gather(1, count[:, None])[:, 0]
            now = at_places(seen, last).to(self.hidden)
            is_empty = (num_accepted < 0)[:, None].to(now.device)
            self.hidden, self._run.hidden = torch.where(is_empty, self.hidden, now), None

    def release(self, order: list[int]) -> None:
        """Keep only the rows of `order`, old row order[i] becoming row i; those in prefill follow.

        A row may be there more than once. Rows that already are where they belong are not copied.
        """
        joining = len(self._prefill.lengths) if self._prefill else 0
        places = [*order, *range(self.num_rows, self.num_rows + joining)]
        moves = [(old, new) for new, old in enumerate(places) if old != new]
        if moves:
            source, target = (list(side) for side in zip(*moves, strict=True))
            for layer in self._layers:
                layer.move_rows(source, target)
        kept = torch.tensor(order, device=self.device, dtype=torch.int64)
        self.lengths, self.bad_position = self.lengths[kept], self.bad_position[kept]
        self.hidden = self.hidden[kept]
