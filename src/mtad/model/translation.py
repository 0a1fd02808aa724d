"""Two tokenizers that differ: the tokens that both have, and a text of one for the other.

Token-level intersection (Timor et al., ICML 2025, "Accelerating LLM Inference with Lossless
Speculative Decoding Algorithms for Heterogeneous Vocabularies"): the draft's distribution is
restricted to the tokens that both have, and renormalised. Tokens are the same where they stand for
the same bytes, however the vocabularies write them: "Ġthe" and "▁the", "Ã¤" and "<0xC3><0xA4>".
Knows no model, no cache and no loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from mtad.errors import VocabularyMismatchError
from mtad.model.pieces import Cuts, Piece
from mtad.model.spelling import special_ids, spelled
from mtad.model.vocabulary import Tokenizer

FEWEST = 2
"""Common tokens, besides special ones, without which a draft is refused."""
NUM_REMEMBERED = 4096
"""Pieces of texts whose encoding is remembered."""


@dataclass(frozen=True, eq=False)
class Translation:
    """The common tokens of a target and a draft with another tokenizer.

    Attributes:
        tokenizer, draft_tokenizer: of target and draft.
        pairs: (the target's id, the draft's id) of every common token, ascending.
        share_of_target, share_of_draft: of their tokens, how many are common, 0 to 1.
    """

    tokenizer: Tokenizer
    draft_tokenizer: Tokenizer
    pairs: tuple[tuple[int, int], ...]
    share_of_target: float
    share_of_draft: float

    @classmethod
    def between(
        cls, tokenizer: Tokenizer, draft_tokenizer: Tokenizer, vocab: int, draft_vocab: int
    ) -> Translation:
        """The translation of two tokenizers; ids from `vocab` and `draft_vocab` on don't count.

        Raises:
            VocabularyMismatchError: there is next to nothing that both have.
        """
        ours, num_ours = _ids_by_spelling(tokenizer, vocab)
        theirs, num_theirs = _ids_by_spelling(draft_tokenizer, draft_vocab)
        common = {ours[s]: theirs[s] for s in ours.keys() & theirs.keys()}
        plain = sum(1 for s in ours.keys() & theirs.keys() if isinstance(s, bytes))
        if plain < FEWEST:
            raise VocabularyMismatchError(
                f"of the {len(ours)} tokens of the target and the {len(theirs)} of the draft "
                f"{plain} are the same, special ones apart; {FEWEST} are the least that can be "
                "drafted: take a draft whose tokenizer has more in common with the target's"
            )
        common |= _ends(tokenizer, draft_tokenizer, vocab, draft_vocab)
        shares = len(common) / num_ours, len(common) / num_theirs
        return cls(tokenizer, draft_tokenizer, tuple(sorted(common.items())), *shares)

    @property
    def num_common(self) -> int:
        """Tokens that both have."""
        return len(self.pairs)

    def __str__(self) -> str:
        """The overlap and what it costs, for users."""
        return (
            f"target and draft have different tokenizers: the draft drafts the {self.num_common:,} "
            f"tokens that both have, {self.share_of_target:.0%} of the target's and "
            f"{self.share_of_draft:.0%} of the draft's; texts follow the target all the same, but "
            "fewer drafts are accepted, and every iteration encodes a part of the text again"
        )

    @cached_property
    def _special(self) -> dict[int, int | None]:
        """The target's special tokens, and the draft's id of each that it has."""
        common = dict(self.pairs)
        return {t: common.get(t) for t in special_ids(self.tokenizer)}

    @cached_property
    def _opening(self) -> list[int]:
        """What the draft's tokenizer puts before every text, such as a BOS."""
        bare = self._encoded("a")
        whole = self.draft_tokenizer("a")["input_ids"]
        starts = range(len(whole) - len(bare) + 1)
        start = next((i for i in starts if whole[i : i + len(bare)] == bare), 0)
        return list(whole[:start])

    @cached_property
    def _filler(self) -> int:
        """What a draft reads that has nothing to read."""
        found = (self.draft_tokenizer.bos_token_id, self.draft_tokenizer.eos_token_id)
        return next((token for token in found if token is not None), 0)

    @cached_property
    def _cuts(self) -> Cuts:
        return Cuts.between(self.tokenizer, self.draft_tokenizer)

    @cached_property
    def _remembered(self) -> Callable[[Piece], tuple[int, ...]]:
        return lru_cache(NUM_REMEMBERED)(self._recoded)

    def encode(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """The draft's tokens for a text of the target's, one at least.

        Common special tokens are mapped, others are left out; all that lies between them is decoded
        and encoded, in pieces, of which those that are complete are remembered.
        """
        ids: list[int] = []
        for run in self._runs(token_ids):
            if isinstance(run, int):
                ids.append(run)
                continue
            *complete, last = self._cuts.pieces(run)
            for piece in complete:
                ids += self._remembered(piece)
            ids += self._recoded(last)
        if ids[: len(self._opening)] != self._opening:
            ids = [*self._opening, *ids]
        return tuple(ids) or (self._filler,)

    def _runs(self, token_ids: Sequence[int]) -> Iterator[list[int] | int]:
        """The text between special tokens, as the target's tokens, and the draft's special ones."""
        run: list[int] = []
        for token in token_ids:
            if token not in self._special:
                run.append(token)
                continue
            if run:
                yield run
            run = []
            if (mapped := self._special[token]) is not None:
                yield mapped
        if run:
            yield run

    def _recoded(self, piece: Piece) -> tuple[int, ...]:
        text = str(
            self.tokenizer.decode(
                list(piece.token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
        return tuple(self._encoded(self._cuts.restored(text) if piece.goes_on else text))

    def _encoded(self, text: str) -> list[int]:
        found = self.draft_tokenizer(text, add_special_tokens=False, verbose=False)
        return list(found["input_ids"])


def _ids_by_spelling(tokenizer: Tokenizer, vocab: int) -> tuple[dict[bytes | str, int], int]:
    """The id of what each token stands for, the lowest of several, and the number of tokens."""
    found = {index: what for index, what in spelled(tokenizer).items() if index < vocab}
    return {found[index]: index for index in sorted(found, reverse=True)}, len(found)


def _ends(
    tokenizer: Tokenizer, draft_tokenizer: Tokenizer, vocab: int, draft_vocab: int
) -> dict[int, int]:
    """The ends of a text, which are the same whatever they are called."""
    ours, theirs = tokenizer.eos_token_id, draft_tokenizer.eos_token_id
    is_known = ours is not None and theirs is not None and ours < vocab and theirs < draft_vocab
    return {ours: theirs} if is_known else {}
