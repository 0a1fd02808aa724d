"""The vocabulary of two models: its size, its ends, and whether both mean the same by an id.

Loads nothing; knows no method and no loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from mtad.errors import VocabularyMismatchError
from mtad.model.lm import Model

Tokenizer = PreTrainedTokenizerBase


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest token id; ids may have gaps, so their number is less."""
    return int(max(tokenizer.get_vocab().values())) + 1


def has_text(tokenizer: Tokenizer) -> bool:
    """Whether there are tokens besides those that were added, such as special ones.

    Of many families transformers makes a tokenizer of these alone where the files are missing.
    """
    return bool(set(tokenizer.get_vocab().values()) - tokenizer.added_tokens_decoder.keys())


def is_contained(inner: Tokenizer | None, outer: Tokenizer | None) -> bool:
    """Whether all token ids of one tokenizer mean the same to another, which may have more."""
    return None not in (inner, outer) and _tokens(inner).items() <= _tokens(outer).items()


def _tokens(tokenizer: Tokenizer | None) -> dict[int, str]:
    """The token of each id."""
    return {} if tokenizer is None else {i: t for t, i in tokenizer.get_vocab().items()}


def require_same_vocabulary(
    tokenizer: Tokenizer | None, draft_tokenizer: Tokenizer | None, rows: Sequence[int]
) -> None:
    """Compare two tokenizers token by token; padded embedding rows are fine.

    One may have tokens that the other lacks: the draft never drafts those that it lacks, and those
    that the target lacks are never looked at.

    Raises:
        VocabularyMismatchError: with the first ids that differ.
    """
    if tokenizer is None or draft_tokenizer is None:
        if len(set(rows)) == 1:
            return
        raise VocabularyMismatchError(
            f"target and draft have {rows[0]} and {rows[1]} embedding rows and not both have a "
            "tokenizer to compare; give trust_vocabulary=True (--trust-vocabulary) if their ids "
            "mean the same"
        )
    ours, theirs = _tokens(tokenizer), _tokens(draft_tokenizer)
    if ours.items() <= theirs.items() or theirs.items() <= ours.items():
        return
    every = sorted(ours.keys() | theirs.keys())
    if different := [i for i in every if ours.get(i) != theirs.get(i)]:
        shown = "; ".join(f"{i}: {ours.get(i)!r} and {theirs.get(i)!r}" for i in different[:5])
        raise VocabularyMismatchError(
            f"{len(different)} of {len(every)} token ids differ between target and draft: {shown}; "
            "take a draft trained with the target's tokenizer, or give trust_vocabulary=True "
            "(--trust-vocabulary) if their ids mean the same all the same"
        )


def eos_token_ids(target: Model, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """The token ids that end a text, from the generation config or the tokenizer."""
    config = getattr(target, "generation_config", None)
    eos = getattr(config, "eos_token_id", None)
    if eos is None:
        eos = getattr(tokenizer, "eos_token_id", None)
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list | tuple) else (int(eos),)
