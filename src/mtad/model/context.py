"""How much a model can read: positions, which its config may say unstretched, and token ids.

Knows configs of transformers, and that a head has no positions; no cache and no request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtad.model.drafter import Draft
from mtad.model.recurrent_head import RecurrentHead

_CHANGING = ("dynamic", "longrope")
"""Ropes that change all their rotations once any position of a call passes the original length."""


def context_of(model: Draft) -> int | None:
    """Positions that a model can read, None if it sets no limit.

    A scaled rope stretches the original length by its factor. Texts of models whose rotations
    change with the length of a call would depend on their neighbours and drafts, so for these the
    original length is the limit. Where layers have ropes of their own, the shortest counts.
    """
    if isinstance(model, RecurrentHead):
        return None
    config = model.config.get_text_config()
    longest: int | None = getattr(config, "max_position_embeddings", None)
    if longest is None:
        return None
    own = getattr(config, "original_max_position_embeddings", None)
    return min(_reach(rope, longest, own) for rope in _ropes(config))


def embedding_rows(model: Draft) -> int:
    """Number of token ids that the model can read."""
    if isinstance(model, RecurrentHead):
        return model.config.vocab_size
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])


def changes_with_length(model: Draft) -> bool:
    """Whether the model rotates otherwise beyond `context_of`, so that no text may pass it."""
    if isinstance(model, RecurrentHead):
        return False
    ropes = _ropes(model.config.get_text_config())
    return any(rope.get("rope_type") in _CHANGING for rope in ropes)


def _ropes(config: Any) -> list[Mapping[str, Any]]:
    """The rope's parameters; one of each kind of layer where these differ."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = set(getattr(config, "layer_types", None) or ())
    nested = [rope[kind] or {} for kind in sorted(kinds & rope.keys())]
    return nested or [rope]


def _reach(rope: Mapping[str, Any], longest: int, own: int | None) -> int:
    """Positions that a rope was made for.

    Args:
        rope: its parameters, as transformers 5 has them.
        longest: `max_position_embeddings`; that of before or of after the stretching.
        own: the original length, where the config has it outside of the rope.
    """
    kind, original = rope.get("rope_type"), rope.get("original_max_position_embeddings") or own
    if kind in _CHANGING:
        return original or longest
    if kind == "llama3" and original and original < longest:
        return longest  # the factor says where low frequencies end, not how far the model reads
    if kind not in ("linear", "yarn", "llama3"):
        return longest
    return max(longest, int((original or longest) * float(rope.get("factor") or 1)))
