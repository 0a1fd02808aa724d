"""Where a text can be cut into pieces that a draft's tokenizer encodes one by one.

Between a letter and a space with a letter behind it: no token of the draft's may reach across. What
follows never moves a cut, so that the pieces of a growing text stay the same, all but the last.
Knows no model and no cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtad.model.spelling import spelled
from mtad.model.vocabulary import Tokenizer

LEAST = 64
"""Tokens of the target's that a complete piece has at least."""
_SAMPLE = ("The cat", "sat on", "a mat", "and slept")
"""Pieces of a text that tell how a tokenizer encodes what follows a cut."""
_BEGINS, _ENDS = re.compile(rb" [A-Za-z]"), re.compile(rb"[A-Za-z]\Z")
_ACROSS = re.compile(rb"[A-Za-z] ")


@dataclass(frozen=True)
class Piece:
    """A part of a text.

    Attributes:
        token_ids: the target's.
        goes_on: whether it follows a cut, and so begins with a space.
    """

    token_ids: tuple[int, ...]
    goes_on: bool


@dataclass(frozen=True)
class Cuts:
    """Where texts of two tokenizers are cut.

    Attributes:
        begins: ids of the target's tokens that begin with a space and a letter.
        ends: those that end with a letter.
        keeps_space: whether a piece behind a cut is encoded with the space that it begins with; a
            tokenizer that puts one before every text needs it without.
    """

    begins: frozenset[int]
    ends: frozenset[int]
    keeps_space: bool = True

    @classmethod
    def between(cls, tokenizer: Tokenizer, draft_tokenizer: Tokenizer) -> Cuts:
        """The cuts of a target's texts for a draft; none where its tokens may reach across."""
        form = _form_after_cut(draft_tokenizer)
        if form is None:
            return cls(frozenset(), frozenset())
        ours = _texts(tokenizer)
        begins, ends = (
            frozenset(index for index, text in ours if pattern.search(text) is not None)
            for pattern in (re.compile(rb"\A" + _BEGINS.pattern), _ENDS)
        )
        return cls(begins, ends, keeps_space=form == " ")

    def pieces(self, token_ids: Sequence[int]) -> Iterator[Piece]:
        """The pieces of a text without special tokens, which has one token at least."""
        start = 0
        for place in range(LEAST, len(token_ids)):
            fits = token_ids[place] in self.begins and token_ids[place - 1] in self.ends
            if fits and place - start >= LEAST:
                yield Piece(tuple(token_ids[start:place]), start > 0)
                start = place
        yield Piece(tuple(token_ids[start:]), start > 0)

    def restored(self, text: str) -> str:
        """What to encode of a piece behind a cut, whose space a decoder may have dropped."""
        bare = text.removeprefix(" ")
        return f" {bare}" if self.keeps_space else bare


def _texts(tokenizer: Tokenizer) -> list[tuple[int, bytes]]:
    """All tokens that are no special ones."""
    found = spelled(tokenizer)
    return [(index, text) for index, text in found.items() if isinstance(text, bytes)]


def _form_after_cut(tokenizer: Tokenizer) -> str | None:
    """What stands between a cut and the next word, a space or nothing; None if nothing will do."""
    if any(_ACROSS.search(text) for _, text in _texts(tokenizer)):
        return None

    def ids_of(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    first, *others = _SAMPLE
    whole = ids_of(" ".join(_SAMPLE))
    for form in (" ", ""):
        if [*ids_of(first), *(i for part in others for i in ids_of(form + part))] == whole:
            return form
    return None
