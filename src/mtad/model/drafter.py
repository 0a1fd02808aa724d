"""What a session feeds and commits: the common surface of all that drafts or scores.

`LM` has a KV cache, which most of this is about; `HeadDrafter` reads the target's hidden state and
has none, so that the defaults here do for it. Knows no method and no loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from mtad.core.buckets import bucket_of
from mtad.core.tree import TokenTree
from mtad.model.copy_rates import copy_rates_of
from mtad.model.finite import NOWHERE
from mtad.model.recurrent_head import RecurrentHead
from mtad.runtime.state import State

Model = PreTrainedModel
Draft: TypeAlias = PreTrainedModel | RecurrentHead
"""What a pair may have as its draft."""


class Drafter(ABC):
    """A network and what it keeps of each row of a batch; the defaults keep no more than errors.

    Args:
        model: the network.
        name: "target" or "draft", for messages.
        vocab: number of token ids in use.
        device: where it wants its tokens.

    Attributes:
        longest: a bound on the committed tokens of a row that the host knows.
        token_ids: (D,) the tokens that logits are of, ascending; None where they are all.
        copy_rates: (M + 1,) with which rates drafts copy from the text, see
            `mtad.speculative.copying`; None where they do not.
        bad_position: (B,) text position of the first NaN or infinity seen, `NOWHERE` if none.
    """

    token_ids: Int[Tensor, " tokens"] | None = None
    copy_rates: Float[Tensor, " matches"] | None = None
    STATE: ClassVar[tuple[str, ...]] = ("bad_position",)
    """Attributes that change from one iteration to the next, besides contents of the buffers."""

    def __init__(self, model: Draft, name: str, vocab: int, device: torch.device) -> None:
        self.model, self.name, self.vocab, self.device = model, name, vocab, device
        rates = copy_rates_of(model) if name == "draft" else ()
        if rates:
            self.copy_rates = torch.tensor(rates, dtype=torch.float32, device=device)
        self._num_joining = 0
        self.longest = 0
        self.bad_position: Int[Tensor, " rows"] = self._no_rows()

    def _no_rows(self) -> Tensor:
        return torch.zeros(0, dtype=torch.int64, device=self.device)

    @abstractmethod
    def forward_level(self, tree: TokenTree) -> Float[Tensor, "rows width tokens"]:
        """Logits after the deepest level, float32; the levels above must have been fed before."""

    @abstractmethod
    def commit(self, nodes: Int[Tensor, "rows depth"] | None, num_accepted: Tensor) -> None:
        """Keep the root and the first `num_accepted` of `nodes`; forget the rest of the tree.

        Args:
            nodes: (B, D) where the accepted path lies, counted from the root; None where it lies
                in order already (a chain).
            num_accepted: (B,) -1 keeps not even the root, which is then fed again.
        """

    def extend(self, blocks: Sequence[Sequence[int]]) -> None:
        """Take note of what was committed: of each row accepted draft tokens and one more."""
        return None

    def look_ahead(self, longest: int, num_nodes: int) -> None:
        """Bound how far the next iteration may reach.

        Args:
            longest: tokens of the longest text.
            num_nodes: of the largest tree.
        """
        self.longest = bucket_of(longest - 1 + num_nodes) - num_nodes

    def rest(self) -> None:
        """Read nothing of what is committed from now on, before the next `catch_up`."""
        return None

    def catch_up(self, missed: Int[Tensor, "rows missed"]) -> None:
        """Read what was committed while this rested, before it drafts again.

        Args:
            missed: (B, M) the tokens before the last committed one, the first token of a text where
                it is shorter; more than were missed do no harm.
        """
        return None

    @property
    def num_rows(self) -> int:
        """Rows in use, B."""
        return self.bad_position.shape[0]

    @property
    def devices(self) -> set[torch.device]:
        """Where the weights are."""
        return {weight.device for weight in self.model.parameters()}

    @property
    def buffers(self) -> list[Tensor]:
        """Tensors that are changed in place."""
        return []

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers from which the shapes of the buffers follow."""
        return ()

    @property
    def memory_bytes(self) -> int:
        """Memory of the buffers, in use or not."""
        return 0

    @property
    def addresses(self) -> set[int]:
        """Where the memory of the buffers is."""
        return set()

    def before_allocation(self, call: Callable[[], object]) -> None:
        """Set what is called before memory is asked for."""
        return None

    def resized(self, num_rows: int, capacity: int) -> Any:
        """What `resize` takes to have at least so many rows of so many tokens.

        Raises:
            CacheMemoryError: there is no memory for it; nothing has changed.
        """
        return None

    def resize(self, size: Any) -> None:
        """Take a size that `resized` found memory for."""
        return None

    def clear(self) -> None:
        """Forget all rows; the memory stays for those who come next."""
        self._num_joining, self.longest, self.bad_position = 0, 0, self._no_rows()

    def begin_prefill(
        self, texts: Sequence[Sequence[int]], salts: Sequence[Hashable | None] = ()
    ) -> None:
        """Begin to feed texts, all but the last token of each.

        Args:
            texts: of the target's tokens.
            salts: of each text, to share prefixes with texts of the same; None, or none at all,
                shares nothing.
        """
        self._num_joining = len(texts)

    def prefill_chunk(self) -> bool:
        """Feed one chunk of the texts that are being prefilled; whether there is more."""
        return False

    def end_prefill(self) -> None:
        """Take the rows that have been prefilled into use."""
        fresh = self.bad_position.new_full((self._num_joining,), NOWHERE)
        self.bad_position = torch.cat([self.bad_position, fresh])
        self._num_joining = 0

    def cancel_prefill(self) -> None:
        """Feed no further; what has been fed is forgotten."""
        self._num_joining = 0

    def keep_read(self, texts: Mapping[int, tuple[Sequence[int], Hashable | None]]) -> None:
        """Let later texts that begin with one of these find what was read of it.

        Args:
            texts: by row, all that is committed or the beginning of it, and its salt as in
                `begin_prefill`.
        """
        return None

    def release(self, order: list[int]) -> None:
        """Keep only the rows of `order`, old row order[i] becoming row i; those in prefill follow.

        A row may be there more than once.
        """
        kept = torch.tensor(order, device=self.device, dtype=torch.int64)
        self.bad_position = self.bad_position[kept]


def begin_prefill(
    lms: Sequence[Drafter],
    texts: Sequence[Sequence[int]],
    salts: Sequence[Hashable | None] = (),
) -> None:
    """Begin to feed texts to all of these, or to none; arguments as in `Drafter.begin_prefill`.

    Raises:
        CacheMemoryError: one needs more slots for them, in tokens of its own, than there are.
    """
    try:
        for lm in lms:
            lm.begin_prefill(texts, salts)
    except BaseException:
        for lm in lms:
            lm.cancel_prefill()
        raise


def state_of(own: Sequence[tuple[object, str]], lms: Sequence[Drafter]) -> State:
    """The state of an iteration: attributes of its own, and what it reads and changes of these."""
    parts = [(lm, name) for lm in lms for name in lm.STATE]
    buffers = [buffer for lm in lms for buffer in lm.buffers]
    return State([*own, *parts], buffers, tuple(n for lm in lms for n in lm.sizes))
