"""Two tokenizers that differ: the tokens that both have, and a text of one for the other.

Token-level intersection (Timor et al., ICML 2025, "Accelerating LLM Inference with Lossless
Speculative Decoding Algorithms for Heterogeneous Vocabularies"): the draft's distribution is
restricted to the tokens that both have, and renormalised. Tokens are the same where they stand for
the same bytes, however the vocabularies write them: "Ġthe" and "▁the", "Ã¤" and "<0xC3><0xA4>".
Knows no model, no cache and no loop.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mtad.errors import VocabularyMismatchError
from mtad.model.vocabulary import Tokenizer

FEWEST = 2
"""Common tokens, besides special ones, without which a draft is refused."""


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
        ours = _spellings(tokenizer, vocab)
        theirs = _spellings(draft_tokenizer, draft_vocab)
        common = {ours[s]: theirs[s] for s in ours.keys() & theirs.keys()}
        plain = sum(1 for s in ours.keys() & theirs.keys() if isinstance(s, bytes))
        if plain < FEWEST:
            raise VocabularyMismatchError(
                f"of the {len(ours)} tokens of the target and the {len(theirs)} of the draft "
                f"{plain} are the same, special ones apart; {FEWEST} are the least that can be "
                "drafted: take a draft whose tokenizer has more in common with the target's"
            )
        common |= _ends(tokenizer, draft_tokenizer, vocab, draft_vocab)
        sizes = _num_tokens(tokenizer, vocab), _num_tokens(draft_tokenizer, draft_vocab)
        shares = len(common) / sizes[0], len(common) / sizes[1]
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
            "fewer drafts are accepted, and every iteration encodes the text again for the draft"
        )

    @cached_property
    def _special(self) -> dict[int, int | None]:
        """The target's special tokens, and the draft's id of each that it has."""
        common = dict(self.pairs)
        return {t: common.get(t) for t in _special_ids(self.tokenizer)}

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

    def encode(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """The draft's tokens for a text of the target's, one at least.

        Common special tokens are mapped, others are left out; all that lies between them is decoded
        and encoded.
        """
        ids: list[int] = []
        run: list[int] = []
        for token in token_ids:
            if token not in self._special:
                run.append(token)
                continue
            ids += self._recoded(run)
            run = []
            if (mapped := self._special[token]) is not None:
                ids.append(mapped)
        ids += self._recoded(run)
        if ids[: len(self._opening)] != self._opening:
            ids = [*self._opening, *ids]
        return tuple(ids) or (self._filler,)

    def _recoded(self, run: list[int]) -> list[int]:
        if not run:
            return []
        text = self.tokenizer.decode(
            run, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return self._encoded(str(text))

    def _encoded(self, text: str) -> list[int]:
        return list(self.draft_tokenizer(text, add_special_tokens=False)["input_ids"])


def _spellings(tokenizer: Tokenizer, vocab: int) -> dict[bytes | str, int]:
    """The id of each token, by its bytes, or by its name where it is a special one."""
    special, as_bytes = _special_ids(tokenizer), _is_byte_level(tokenizer)
    found: dict[bytes | str, int] = {}
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: -item[1]):
        if index < vocab:
            found[token if index in special else _bytes_of(token, as_bytes)] = index
    return found


def _num_tokens(tokenizer: Tokenizer, vocab: int) -> int:
    return sum(index < vocab for index in tokenizer.get_vocab().values())


def _special_ids(tokenizer: Tokenizer) -> set[int]:
    added = tokenizer.added_tokens_decoder.items()
    return {index for index, token in added if token.special} | set(tokenizer.all_special_ids)


def _ends(
    tokenizer: Tokenizer, draft_tokenizer: Tokenizer, vocab: int, draft_vocab: int
) -> dict[int, int]:
    """The ends of a text, which are the same whatever they are called."""
    ours, theirs = tokenizer.eos_token_id, draft_tokenizer.eos_token_id
    is_known = ours is not None and theirs is not None and ours < vocab and theirs < draft_vocab
    return {ours: theirs} if is_known else {}


def _bytes_of(token: str, byte_level: bool) -> bytes:
    """The bytes that a token stands for."""
    if byte_level and all(sign in _BYTES for sign in token):
        return bytes(_BYTES[sign] for sign in token)
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether signs of its tokens stand for bytes, as in GPT-2's."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hasattr(tokenizer, "byte_decoder")
    form = json.loads(backend.to_str())
    return "ByteLevel" in json.dumps([form.get("decoder"), form.get("pre_tokenizer")])


def _byte_signs() -> dict[str, int]:
    """The byte of each sign of GPT-2's alphabet: printable ones are themselves, others above."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    signs = {chr(byte): byte for byte in printable}
    return signs | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_signs()
