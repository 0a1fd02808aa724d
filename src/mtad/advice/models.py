"""What two models have in common and what they take: vocabularies, chat templates, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mtad.model.kv_cache import free_bytes
from mtad.model.loading import Models
from mtad.model.memory import slot_bytes, weights_bytes
from mtad.model.recurrent_head import RecurrentHead
from mtad.model.trimmed import stood_for


@dataclass(frozen=True)
class Memory:
    """Bytes that a pair needs.

    Attributes:
        target_bytes, draft_bytes: of the weights as they are loaded; 0 without a draft.
        token_bytes: of both caches by token of one text.
        free_bytes: what the target's device has left.
    """

    target_bytes: int
    draft_bytes: int
    token_bytes: int
    free_bytes: float


def memory_of(models: Models) -> Memory:
    """The memory of models that are loaded."""
    draft = models.draft
    drafted = (0, 0) if draft is None else (weights_bytes(draft), slot_bytes(draft))
    return Memory(
        weights_bytes(models.target),
        drafted[0],
        slot_bytes(models.target) + drafted[1],
        free_bytes(models.target.device),
    )


def vocabularies(models: Models) -> str:
    """How the vocabularies compare, in words."""
    draft, vocab = models.draft, models.vocab
    if draft is None:
        return f"{vocab:,} tokens of the target; there is no draft"
    if models.translation is not None:
        return str(models.translation)
    if isinstance(draft, RecurrentHead):
        size = draft.config.draft_vocab_size
        return f"the draft is a head on the target, and can say {size:,} of its {vocab:,} tokens"
    if (ids := stood_for(draft)) is not None:
        return f"the draft can say {len(ids):,} of the target's {vocab:,} tokens"
    return f"the same {vocab:,} tokens"


def templates(models: Models, draft_tokenizer: Any) -> str:
    """How the chat templates compare, in words.

    Args:
        models: target and draft.
        draft_tokenizer: the draft's own; None where it has none.
    """
    own = getattr(models.tokenizer, "chat_template", None)
    if own is None:
        return "the target has none: prompts are plain text"
    if models.draft is None or isinstance(models.draft, RecurrentHead):
        return "the target's"
    theirs = getattr(draft_tokenizer, "chat_template", None)
    if theirs is None:
        return "the target's; the draft comes without one, and may never have learnt to chat"
    if theirs == own:
        return "the same"
    return (
        "they differ: both models read the target's, which the draft did not learn, so that fewer "
        "drafts are accepted in chats"
    )
