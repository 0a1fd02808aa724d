"""A draft with a tokenizer of its own: its cache holds the committed text in its own tokens.

Between two iterations the text is encoded for the draft; what it has read of the same tokens stays
in its cache, and the rest is fed. All but the last two tokens, which the first level of a draft
feeds, so that mostly nothing is left to feed here. Within a block every token is one that both
vocabularies have. The draft's logits are a function of the committed text alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from mtad.core.buckets import bucket_of
from mtad.core.tree import TokenTree
from mtad.model.lm import LM, Model
from mtad.model.translation import Translation
from mtad.model.trimmed import TokenMap

_NAME = "_translation_of_target"


def translated(model: Model, translation: Translation) -> Model:
    """The model with a tokenizer of its own, as a draft; its weights are shared."""
    other = copy.copy(model)
    other.__dict__[_NAME] = translation
    return other


def translation_of(model: Model) -> Translation | None:
    """The translation that a draft needs, None if its tokens are the target's."""
    found: Translation | None = model.__dict__.get(_NAME)
    return found


def lm_of(model: Model, name: str, vocab: int, keeps_hidden: bool = False) -> LM:
    """An empty cache of a model, one that translates where the model needs it."""
    if translation_of(model) is None:
        return LM(model, name, vocab, keeps_hidden=keeps_hidden)
    return TranslatedLM(model, name, vocab)


@dataclass(frozen=True)
class Row:
    """A text in both vocabularies.

    Attributes:
        text: the target's tokens.
        ids: the draft's, as they were encoded last, and accepted draft tokens since.
        num_held: how many of `ids` are in the cache.
    """

    text: tuple[int, ...]
    ids: tuple[int, ...]
    num_held: int


class TranslatedLM(LM):
    """An `LM` that gets texts in the target's tokens and reads them in its own.

    Attributes:
        tail: (B, 2) the last two tokens of every text, which the first level of a draft feeds.
        on_growth: called with the slots that a row needs, where there are fewer.
    """

    STATE: ClassVar[tuple[str, ...]] = (*LM.STATE, "tail")

    def __init__(self, model: Model, name: str, vocab: int) -> None:
        translation = translation_of(model)
        assert translation is not None
        self.translation, self._own = translation, dict(translation.pairs)
        super().__init__(model, name, vocab)
        self.copy_rates = None  # what is copied need not be a token of its own
        self.on_growth: Callable[[int], object] = self._grow

    def _token_map(self) -> TokenMap | None:
        return TokenMap.among(self.translation.pairs, self.vocab, self.device)

    def _forget(self, keeps_hidden: bool) -> None:
        super()._forget(keeps_hidden)
        self._texts: list[Row] = []
        self._joining: list[Row] = []
        self._ahead = 1, 1
        self.tail = torch.zeros(0, 2, dtype=torch.int64, device=self.device)

    def begin_prefill(
        self, texts: Sequence[Sequence[int]], salts: Sequence[Hashable | None] = ()
    ) -> None:
        """Begin to feed texts of the target's tokens, in the draft's own."""
        encoded = [(tuple(text), self.translation.encode(text)) for text in texts]
        self._require(max(len(ids) for _, ids in encoded))
        self._joining = [Row(text, ids, len(ids) - 1) for text, ids in encoded]
        self._begin([row.ids for row in self._joining], salts)

    def end_prefill(self) -> None:
        """Take the rows that have been prefilled into use."""
        super().end_prefill()
        self._texts, self._joining = [*self._texts, *self._joining], []
        self._set_tail()

    def cancel_prefill(self) -> None:
        """Feed no further; what has been fed is forgotten."""
        super().cancel_prefill()
        self._joining = []

    def release(self, order: list[int]) -> None:
        """Keep only the rows of `order`, old row order[i] becoming row i."""
        super().release(order)
        self._texts = [self._texts[row] for row in order]
        self._set_tail()

    def extend(self, blocks: Sequence[Sequence[int]]) -> None:
        """Take note of what was committed: of each row accepted draft tokens and one more.

        Of the accepted ones the draft has read all but perhaps the last, and the token before them.
        """
        rows = []
        if self._is_resting:
            pairs = zip(self._texts, blocks, strict=True)
            self._texts = [replace(row, text=(*row.text, *block)) for row, block in pairs]
            return
        for row, block in zip(self._texts, blocks, strict=True):
            accepted = tuple(self._own.get(token, 0) for token in block[:-1])
            held = len(row.ids) + len(accepted) - 1
            rows.append(Row((*row.text, *block), (*row.ids, *accepted), held))
        self._texts = rows

    def keep_read(self, texts: Mapping[int, tuple[Sequence[int], Hashable | None]]) -> None:
        """As `Drafter.keep_read`, of what is held in the draft's own tokens."""
        held = {row: self._texts[row].ids[: self._texts[row].num_held] for row in texts}
        read = {row: (held[row], salt) for row, (_, salt) in texts.items()}
        self._prefixes.keep_read(read, self.bad_position)

    def rest(self) -> None:
        """Encode and feed no text before the next `catch_up`."""
        if not self._is_resting:
            self._is_resting = True  # and the last two tokens were not fed
            self._texts = [replace(r, num_held=max(0, len(r.ids) - 2)) for r in self._texts]

    def catch_up(self, missed: Int[Tensor, "rows missed"]) -> None:
        """Encode and feed what was committed; these tokens are the target's, and not looked at."""
        if self._is_resting:
            self._is_resting = False
            self.look_ahead(*self._ahead)

    def look_ahead(self, longest: int, num_nodes: int) -> None:
        """Encode and feed what was committed, and make room for the next iteration."""
        self._ahead = longest, num_nodes
        if self._is_resting:
            return super().look_ahead(longest, num_nodes)
        known: dict[tuple[int, ...], tuple[int, ...]] = {}
        for row in self._texts:
            if row.text not in known:
                known[row.text] = self.translation.encode(row.text)
        texts = [known[row.text] for row in self._texts]
        longest = max(map(len, texts), default=1)
        self._require(longest + num_nodes)
        held = [_kept(row, ids) for row, ids in zip(self._texts, texts, strict=True)]
        self._texts = [
            replace(row, ids=ids, num_held=len(ids) - 1)
            for row, ids in zip(self._texts, texts, strict=True)
        ]
        super().look_ahead(longest, num_nodes)
        self._feed_rest(held)
        lengths = [len(ids) - 1 for ids in texts]
        self.lengths = torch.tensor(lengths, dtype=torch.int64, device=self.device)
        self._set_tail()

    def _root_tokens(self, tree: TokenTree) -> Int[Tensor, "rows two"]:
        return self.tail

    @torch.inference_mode()
    def _feed_rest(self, held: Sequence[int]) -> None:
        """Feed every text from what is held on to where the first level of a draft begins."""
        rests = [row.ids[n:-2] for row, n in zip(self._texts, held, strict=True)]
        width = max(map(len, rests), default=0)
        if not width:
            return
        padded = [[*rest, *[0] * (width - len(rest))] for rest in rests]
        tokens = torch.tensor(padded, dtype=torch.int64, device=self.device)
        first = torch.tensor(held, dtype=torch.int64, device=self.device)[:, None]
        places = first + torch.arange(width, device=self.device)
        places = places.clamp(max=self._address.capacity - 1)  # padding; no text reads it
        keys = torch.arange(self._open(places, self.longest + width), device=self.device)
        every = keys.expand(len(rests), -1)
        self._run(tokens, places, keys <= places[:, :, None], every, 1)

    def _set_tail(self) -> None:
        pairs = [(row.ids[max(0, len(row.ids) - 2)], row.ids[-1]) for row in self._texts]
        tail = torch.tensor(pairs, dtype=torch.int64, device=self.device)
        self.tail = tail.view(-1, 2)

    def _require(self, num_slots: int) -> None:
        """Have so many slots in every row."""
        if num_slots > self._address.capacity:
            self.on_growth(bucket_of(num_slots))

    def _grow(self, capacity: int) -> Any:
        self.resize(self.resized(self.max_rows, capacity))


def _kept(row: Row, ids: tuple[int, ...]) -> int:
    """How many of a text's tokens the cache holds already; the last one is fed with a draft."""
    most = min(row.num_held, len(ids) - 1)
    same = zip(row.ids[:most], ids[:most], strict=True)
    return next((i for i, (old, new) in enumerate(same) if old != new), most)
