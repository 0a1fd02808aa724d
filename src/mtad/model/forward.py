"""One forward of a model over its KV cache: what goes in, and what of the result is kept.

Cuts logits to the vocabulary, and notes what enters the output head where somebody reads it. Knows
no tree and no row's length.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from mtad.errors import UnsupportedModelError
from mtad.model.context import context_of
from mtad.model.drafter import Model
from mtad.model.kv_cache import SlotLayer
from mtad.model.masks import AttentionPattern
from mtad.model.trimmed import TokenMap


class Forward:
    """Calls a model with a cache.

    Args:
        model: a causal language model.
        vocab: logits are cut to this many token ids.
        layers: its cache.
        token_map: which tokens its rows and logits are of; None where these are its ids.

    Attributes:
        keeps_hidden: whether `hidden` is set.
        hidden: (b, n, H) what entered the model's output head in the last forward.
    """

    def __init__(
        self,
        model: Model,
        vocab: int,
        layers: Sequence[SlotLayer],
        token_map: TokenMap | None = None,
    ) -> None:
        self.model, self.vocab = model, vocab
        self.context = context_of(model)
        self._map = token_map
        self._cache_argument = {_cache_name(model): Cache(layers=list(layers))}
        self._pattern = AttentionPattern.of(model.config.get_text_config())
        self.keeps_hidden = False
        self.hidden: Tensor | None = None

    def __call__(
        self,
        tokens: Int[Tensor, "rows nodes"],
        positions: Int[Tensor, "rows nodes"],
        visible: Bool[Tensor, "rows nodes slots"],
        keys: Int[Tensor, "rows slots"],
        num_logits: int,
        ends: Int[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, "rows logits tokens"]:
        """Logits after the last `num_logits` tokens, float32.

        Args:
            tokens: what is fed, in the model's own ids.
            positions: of each token in its text.
            visible: which slots each token sees.
            keys: the position of the token in each slot.
            num_logits: of how many tokens logits are wanted.
            ends: the one of these, in each row, that logits are wanted of; only where `hidden` is
                kept, which then is of this one alone.
        """
        if self.context is not None:
            positions = positions.clamp(max=self.context - 1)
        with self._noting_hidden(ends):
            output = self.model(
                input_ids=tokens,
                attention_mask=self._pattern.masks(visible, positions, keys),
                position_ids=positions,
                use_cache=True,
                logits_to_keep=num_logits,
                **self._cache_argument,
            )
        logits: Tensor = output.logits
        return (self._map.select(logits) if self._map else logits[..., : self.vocab]).float()

    @contextmanager
    def _noting_hidden(self, ends: Tensor | None) -> Iterator[None]:
        """Sets `hidden` to what enters the output head meanwhile, where it is kept."""
        if not self.keeps_hidden:
            yield
            return
        thread = get_ident()

        def note(head: Any, arguments: tuple[Any, ...]) -> Any:
            if get_ident() != thread:  # another one may be in a forward of this model, too
                return None
            entering = arguments[0]
            self.hidden = entering if ends is None else at_places(entering, ends)[:, None]
            return (self.hidden, *arguments[1:])

        handle = output_head(self.model).register_forward_pre_hook(note)
        try:
            yield
        finally:
            handle.remove()


def at_places(
    values: Float[Tensor, "rows nodes hidden"], places: Int[Tensor, " rows"]
) -> Float[Tensor, "rows hidden"]:
    """The entry of each row at its own place."""
    index = places.to(values.device)[:, None, None].expand(-1, -1, values.shape[2])
    entries: Tensor = values.gather(1, index)[:, 0]
    return entries


def output_head(model: Model) -> Any:
    """The layer that makes logits of hidden states.

    Raises:
        UnsupportedModelError: the model does not say which that is.
    """
    whole: Any = model  # transformers leaves this call untyped
    head = whole.get_output_embeddings()
    if not hasattr(head, "in_features"):
        kind = model.config.get_text_config().model_type
        raise UnsupportedModelError(
            f"the target is of architecture {kind!r}, whose output head is "
            f"{type(head).__name__} and no linear layer; a draft that reads the target's hidden "
            "state needs one: take a model as the draft"
        )
    return head


def _cache_name(model: Model) -> str:
    """What the model calls its cache: transformers 5.24 has a new name for it."""
    known = inspect.signature(type(model).forward).parameters
    return "cache" if "cache" in known else "past_key_values"
