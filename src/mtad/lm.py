"""A model and its KV cache: the one mutable thing of the engine.

Row b of the cache holds its committed tokens in slots 0 … length_b - 1, all but the last committed
one, which is the root of the next tree. Tree nodes are written to the slots right after, node i to
slot length_b + i, and see the committed slots and their own ancestors. Samples nothing, knows no
method and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from mtad.cache import Address, SlotLayer
from mtad.tree import TokenTree

Model = PreTrainedModel
BUCKET = 256
"""Attention reads a prefix of the buffer whose length is a multiple of this, once it is as long."""
SMALLEST = 64
"""Shorter prefixes are powers of two, from this on."""
PREFILL_TOKENS = {"cpu": 256, "cuda": 2048}
"""Most prompt tokens, over all rows, that one forward of the prefill feeds, by kind of device."""
NOWHERE = 2**62
"""Position that stands for 'no bad logits seen'."""


def bucket_of(length: int) -> int:
    """`length` rounded up, so that few shapes occur."""
    if length > BUCKET:
        return -(-length // BUCKET) * BUCKET
    return min(BUCKET, max(SMALLEST, 1 << (length - 1).bit_length()))


class LM:
    """A causal language model with a cache of `num_rows` rows of `capacity` slots.

    Attributes:
        name: "target" or "draft", for messages.
        vocab: logits are cut to this many token ids (padded embedding rows are dropped).
        lengths: (B,) committed tokens in the cache, one less than the text has.
        longest: a bound on `lengths` that the host knows; how much a forward attends over, hence
            every shape, follows from it.
        bad_position: (B,) text position of the first NaN or infinity seen, `NOWHERE` if none.
    """

    STATE = ("lengths", "bad_position", "longest")
    """What changes from one iteration to the next, besides the contents of the buffers."""

    def __init__(self, model: Model, name: str, vocab: int, num_rows: int, capacity: int) -> None:
        config = model.config.get_text_config()
        self.model, self.name, self.vocab = model, name, vocab
        self.context = context_of(model)
        embeddings: Any = model.get_input_embeddings()
        self.device: torch.device = embeddings.weight.device
        self._address = Address(num_rows, capacity, config.num_hidden_layers)
        layers = [SlotLayer(self._address) for _ in range(config.num_hidden_layers)]
        self._layers = layers
        self._cache = Cache(layers=list(layers))
        self._window, self._layer_types = _attention_pattern(config)
        self.longest = 0
        self.lengths = torch.zeros(0, dtype=torch.int64, device=self.device)
        self.bad_position = torch.zeros(0, dtype=torch.int64, device=self.device)

    @property
    def num_rows(self) -> int:
        """Rows in use, B."""
        return self.lengths.shape[0]

    @property
    def buffers(self) -> list[Tensor]:
        """All keys and values; they stay where they are once the first forward has been run."""
        ready = [layer for layer in self._layers if layer.is_initialized]
        return [buffer for layer in ready for buffer in (layer.keys, layer.values)]

    @property
    def devices(self) -> set[torch.device]:
        """Where the model's weights are."""
        return {weight.device for weight in self.model.parameters()}

    def prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        """Add one row per prompt and read all but its last token, a chunk at a time."""
        first = self.num_rows
        longest = max(1, *(len(p) - 1 for p in prompts))  # one token at least: it makes the buffers
        padded = [[*p[:-1], *[0] * (longest - len(p) + 1)] for p in prompts]
        tokens = torch.tensor(padded, device=self.device, dtype=torch.int64)
        fresh = torch.tensor([len(p) - 1 for p in prompts], device=self.device)
        self.lengths = torch.cat([self.lengths, fresh])
        self.bad_position = torch.cat([self.bad_position, torch.full_like(fresh, NOWHERE)])
        self.longest = max(self.longest, longest)
        chunk = max(1, PREFILL_TOKENS.get(self.device.type, 256) // len(prompts))
        for start in range(0, longest, chunk):
            self._read(tokens[:, start : start + chunk], start, first)

    def _read(self, tokens: Tensor, start: int, first: int) -> None:
        """Feed one chunk of the prompts of the rows from `first` on."""
        slots = torch.arange(start, start + tokens.shape[1], device=self.device)
        slots = slots.expand(tokens.shape[0], -1)
        self._address.first = first
        bucket = self._open(slots, start + tokens.shape[1])
        keys = torch.arange(bucket, device=self.device)
        self._run(tokens, slots, keys <= slots[:, :, None], keys.expand(len(slots), -1), 1)
        self._address.first = 0

    def forward(self, tree: TokenTree) -> Float[Tensor, "rows nodes vocab"]:
        """Logits after every node of the tree, float32."""
        return self._score(tree, slice(0, tree.num_nodes))

    def forward_level(self, tree: TokenTree) -> Float[Tensor, "rows width vocab"]:
        """Logits after the deepest level; the levels above must have been fed before.

        The root is fed together with the token before it: after a fully accepted block the last
        draft token was never read, and writing a slot a second time is harmless.
        """
        if tree.depth > 0:
            return self._score(tree, tree.last_level)
        positions = torch.stack([(self.lengths - 1).clamp(min=0), self.lengths], dim=1)
        tokens = torch.stack([tree.previous, tree.tokens[:, 0]], dim=1).to(self.device)
        keys = torch.arange(self._open(positions, self.longest + 1), device=self.device)
        visible = keys <= positions[:, :, None]
        logits = self._run(tokens, positions, visible, keys.expand(self.num_rows, -1), 1)
        return logits.to(tree.tokens.device)

    def _score(self, tree: TokenTree, nodes: slice) -> Tensor:
        offsets = torch.arange(tree.num_nodes, device=self.device)
        slots = self.lengths[:, None] + offsets
        bucket = self._open(slots[:, nodes], self.longest + tree.num_nodes)
        depths = tree.depths.to(self.device)
        positions = self.lengths[:, None] + depths
        ancestors = tree.ancestors[:, nodes].to(self.device)
        visible, keys = _tree_mask(self.lengths, slots, positions, ancestors, bucket)
        tokens = tree.tokens[:, nodes].to(self.device)
        logits = self._run(tokens, positions[:, nodes], visible, keys, nodes.stop - nodes.start)
        return logits.to(tree.tokens.device)

    def _open(self, slots: Tensor, used: int) -> int:
        """Point the cache at `slots`; the number of slots to attend over, `used` rounded up."""
        self._address.slots = slots
        self._address.bucket = min(bucket_of(used), self._address.capacity)
        return self._address.bucket

    def _run(
        self,
        tokens: Int[Tensor, "rows nodes"],
        positions: Int[Tensor, "rows nodes"],
        visible: Bool[Tensor, "rows nodes slots"],
        keys: Int[Tensor, "rows slots"],
        num_logits: int,
    ) -> Float[Tensor, "rows logits vocab"]:
        if self.context is not None:
            positions = positions.clamp(max=self.context - 1)
        output = self.model(
            input_ids=tokens,
            attention_mask=self._masks(visible, positions, keys),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=num_logits,
        )
        logits: Tensor = output.logits[..., : self.vocab].to(torch.float32)
        self._note_bad(logits, positions[:, -num_logits:])
        return logits

    def _masks(self, visible: Tensor, positions: Tensor, keys: Tensor) -> Any:
        """The 4-D mask, or one per layer type where full and sliding layers are mixed."""
        if self._window is None:
            return visible[:, None]
        near = (positions[:, :, None] - keys[:, None, :]) < self._window
        local = (visible & near)[:, None]
        if self._layer_types is None:
            return local
        return {t: local if "sliding" in t else visible[:, None] for t in self._layer_types}

    def _note_bad(self, logits: Tensor, positions: Tensor) -> None:
        rows = slice(self._address.first, self._address.first + len(logits))
        fine = logits.amax(-1).isfinite()
        found = torch.where(fine, NOWHERE, positions).amin(1).to(self.bad_position.device)
        self.bad_position[rows] = self.bad_position[rows].minimum(found)

    def commit(self, nodes: Int[Tensor, "rows depth"] | None, num_accepted: Tensor) -> None:
        """Keep the root and the first `num_accepted` of `nodes`; forget the rest of the tree.

        Args:
            nodes: (B, D) where the accepted path lies, counted from the root; None where it lies
                in order already (a chain).
            num_accepted: (B,).
        """
        if nodes is not None and nodes.shape[1]:
            source = self.lengths[:, None] + nodes.to(self.device)
            order = torch.arange(1, nodes.shape[1] + 1, device=self.device)
            for layer in self._layers:
                layer.move(self.num_rows, source, self.lengths[:, None] + order)
        self.lengths = self.lengths + 1 + num_accepted.to(self.device)

    def release(self, order: list[int]) -> None:
        """Keep only the rows of `order`, old row order[i] becoming row i.

        Rows that already are where they belong are not copied.
        """
        moves = [(old, new) for new, old in enumerate(order) if old != new]
        if moves:
            source, target = (list(side) for side in zip(*moves, strict=True))
            for layer in self._layers:
                layer.move_rows(source, target)
        kept = torch.tensor(order, device=self.device, dtype=torch.int64)
        self.lengths, self.bad_position = self.lengths[kept], self.bad_position[kept]


def context_of(model: Model) -> int | None:
    """Positions that a model can read, None if it sets no limit.

    Models with "longrope" change all their rotations once any position of a call passes the
    original length; texts would depend on their neighbours and drafts, so that length is the limit.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    longest: int | None = getattr(config, "max_position_embeddings", None)
    if rope.get("rope_type") != "longrope":
        return longest
    original = rope.get("original_max_position_embeddings")
    return original or getattr(config, "original_max_position_embeddings", None) or longest


def _tree_mask(
    lengths: Tensor, slots: Tensor, positions: Tensor, ancestors: Tensor, bucket: int
) -> tuple[Tensor, Tensor]:
    """Which slots each node sees, (B, n, bucket), and the text position of every slot."""
    places = torch.arange(bucket, device=lengths.device).expand(len(lengths), -1)
    committed = (places < lengths[:, None])[:, None].expand(-1, ancestors.shape[1], -1)
    index = slots[:, None].expand(-1, ancestors.shape[1], -1)
    return committed.scatter(2, index, ancestors), places.scatter(1, slots, positions)


def _attention_pattern(config: Any) -> tuple[int | None, tuple[str, ...] | None]:
    """The sliding window, if any layer has one, and the layer types where they are mixed."""
    window = getattr(config, "sliding_window", None)
    types = tuple(sorted(set(getattr(config, "layer_types", None) or ())))
    if types and not any("sliding" in t for t in types):
        return None, None
    return window, types if len(types) > 1 else None
