"""Drafts by a head: one vector per node, from the target's hidden state before the root.

The first level reads that state and the root; a node further down reads the state that the head
predicted at its parent. There is no cache: what the head knows of a text is the target's state.
Knows no method and no loop.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from mtad.core.tree import TokenTree
from mtad.errors import UnsupportedModelError, VocabularyMismatchError
from mtad.model.context import embedding_rows
from mtad.model.drafter import Drafter
from mtad.model.finite import first_bad
from mtad.model.forward import output_head
from mtad.model.lm import LM, Model
from mtad.model.parallel import num_parts
from mtad.model.recurrent_head import RecurrentHead


class HeadDrafter(Drafter):
    """A head that drafts for one session's target.

    Args:
        head: the network.
        name, vocab: as for `Drafter`.
        target: where the committed texts' hidden states are; it must keep them.
    """

    def __init__(self, head: RecurrentHead, name: str, vocab: int, target: LM) -> None:
        super().__init__(head, name, vocab, head.device)
        self.head, self.target = head, target
        self._num_drafted = bisect_left(head.drafted_ids, vocab)
        if self._num_drafted < vocab:
            self.token_ids = head.d2t[: self._num_drafted]
        self._levels: list[Tensor] = []

    def forward_level(self, tree: TokenTree) -> Float[Tensor, "rows width tokens"]:
        """Logits after the deepest level."""
        above = self._states_above(tree)
        embedded = self.head.embed(tree.tokens[:, tree.last_level].to(self.device))
        states = self.head(embedded, above)
        self._levels = [*self._levels[: tree.depth], states]
        logits = self.head.logits(states)[..., : self._num_drafted].float()
        positions = (self.target.lengths + tree.depth).to(self.device)
        bad = first_bad(logits, positions[:, None].expand(logits.shape[:2]))
        self.bad_position = self.bad_position.minimum(bad)
        return logits.to(tree.tokens.device)

    def _states_above(self, tree: TokenTree) -> Float[Tensor, "rows width hidden"]:
        """The state before each node of the deepest level."""
        if tree.depth == 0:
            return self.head.enter(self.target.hidden.to(self.device))[:, None]
        parents = tree.parents[:, tree.last_level] - tree.levels[-2].start
        above = self._levels[tree.depth - 1]
        index = parents.to(self.device)[:, :, None].expand(-1, -1, above.shape[2])
        return above.gather(1, index)

    def commit(self, nodes: Int[Tensor, "rows depth"] | None, num_accepted: Tensor) -> None:
        """Forget the tree: what follows from the accepted tokens is in the target's state."""
        self._levels = []

    def clear(self) -> None:
        """Forget all rows."""
        super().clear()
        self._levels = []


def attach(head: RecurrentHead, target: Model) -> None:
    """Let the head read this target's embedding, once it is known that it can.

    Raises:
        UnsupportedModelError: of the target, only a part is in this process, or its output head is
            not one that can be read.
        ValueError: the head has another size, type or device than the target.
    """
    if (parts := num_parts(target)) > 1:
        raise UnsupportedModelError(
            f"the target is spread over {parts} processes, and a head needs all of it in one; "
            "leave tp_plan out, or take a model as the draft"
        )
    embedding: Any = target.get_input_embeddings()
    sizes = (int(embedding.weight.shape[1]), output_head(target).in_features)
    ours, theirs = head.config.hidden_size, max(sizes)
    if {*sizes} != {ours}:
        raise UnsupportedModelError(
            f"the head reads hidden states of {ours} numbers, and the target's have {theirs}; take "
            "a head that was made for this target"
        )
    if (rows := embedding_rows(target)) != head.config.vocab_size:
        raise VocabularyMismatchError(
            f"the head was made for {head.config.vocab_size} token ids, and the target has {rows}; "
            "take a head that was made for this target"
        )
    for what in ("dtype", "device"):
        ours, theirs = getattr(head, what), getattr(embedding.weight, what)
        if ours != theirs:
            raise ValueError(
                f"the head's {what} is {ours}, and that of the target's embedding is {theirs}; "
                f"move it there: head.to(target.{what})"
            )
    head.attach(embedding)
