"""Whether a draft can draft for a target, by their vocabularies, and what it takes.

Three ways: the draft's token ids are the target's, of which it may have a part; its checkpoint says
which token each of its rows is; or it has another tokenizer, and what both have is drafted.
"""

from __future__ import annotations

import logging

from mtad.errors import VocabularyMismatchError
from mtad.model.context import embedding_rows
from mtad.model.lm import Model
from mtad.model.translated import translated
from mtad.model.translation import Translation
from mtad.model.trimmed import head_rows, stood_for
from mtad.model.vocabulary import (
    Tokenizer,
    is_contained,
    require_same_vocabulary,
)

logger = logging.getLogger(__name__)


def paired(
    target: Model,
    draft: Model,
    vocab: int,
    tokenizer: Tokenizer | None,
    draft_tokenizer: Tokenizer | None,
    trust_vocabulary: bool = False,
) -> tuple[Model, Translation | None]:
    """The draft as one of this target, and the translation where their tokenizers differ.

    Args:
        target, draft: both models.
        vocab: number of token ids in use.
        tokenizer, draft_tokenizer: of each; None where there is none.
        trust_vocabulary: the draft's ids mean what the target's do.

    Raises:
        VocabularyMismatchError: the draft can't draft for this target.
    """
    if (ids := stood_for(draft)) is not None:
        if (largest := int(ids.max())) >= vocab:
            raise VocabularyMismatchError(
                f"the draft's row {int(ids.argmax())} stands for token id {largest}, and the "
                f"target has {vocab} tokens; take a draft that was trimmed for this target"
            )
        return draft, None
    if tokenizer and draft_tokenizer and not trust_vocabulary:
        same = (tokenizer, draft_tokenizer), (draft_tokenizer, tokenizer)
        if not any(is_contained(*both) for both in same):
            known = min(embedding_rows(draft), head_rows(draft))
            found = Translation.between(tokenizer, draft_tokenizer, vocab, known)
            logger.warning("%s", found)
            return translated(draft, found), found
    rows = [embedding_rows(target), embedding_rows(draft)]
    if not trust_vocabulary:
        require_same_vocabulary(tokenizer, draft_tokenizer, rows)
    if rows[1] < vocab and not is_contained(draft_tokenizer, tokenizer):
        raise VocabularyMismatchError(
            f"the draft has {rows[1]} embedding rows and the vocabulary {vocab} tokens; take a "
            "draft that can read all of them"
        )
    return draft, None
