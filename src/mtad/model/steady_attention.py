"""Attention whose output for a token does not depend on how many tokens are read with it, on a CPU.

A product of a few rows is not rounded as that of one row is. Where inputs are made integers, that
one rounding lets another integer be the nearest, and from layer to layer more of them, until the
logits differ by about as much as 8 bits changed them. So each token's query is multiplied on its
own here, and a target of 8-bit weights says the same of a token alone and in a tree, to the bit.
Knows no cache and no tree.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from mtad.model.attention import FEW, grouped_attention, head_size_of, is_plain
from mtad.runtime.attention import attend, prepare

NAME = "mtad_steady"
"""What transformers calls this attention."""


def use_steady_attention(model: PreTrainedModel) -> bool:
    """Whether the model, so far one with SDPA attention, has been switched to this attention."""
    if not model._can_set_attn_implementation():
        return False
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    prepare(model.dtype, groups, heads // groups, head_size_of(config))
    model.set_attn_implementation(NAME)
    return True


def steady_attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads nodes size"],
    key: Float[Tensor, "rows groups slots size"],
    value: Float[Tensor, "rows groups slots value_size"],
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Float[Tensor, "rows nodes heads value_size"], None]:
    """The attention's output, and None for its weights; that of "sdpa" but for rounding.

    Prompts, which are read many tokens at a time, and what is no plain attention go elsewhere.
    """
    is_tree = query.shape[2] <= FEW and query.device.type == "cpu" and attention_mask is not None
    if not (is_tree and is_plain(attention_mask, options)):
        return grouped_attention(module, query, key, value, attention_mask, **options)
    scale, (rows, _, nodes, size) = options.get("scaling"), query.shape
    mask: Any = attention_mask
    tokens, masks = query.transpose(1, 2), mask[:, 0]
    if rows < nodes and size == value.shape[-1]:  # with other sizes the keys would be copied
        attended = [
            _of_each(
                tokens[i], _for_each(key[i], nodes), _for_each(value[i], nodes), masks[i], scale
            )
            for i in range(rows)
        ]
        return attended[0][None] if rows == 1 else torch.stack(attended), None
    attended = [_of_each(tokens[:, i], key, value, masks[:, i], scale) for i in range(nodes)]
    return torch.stack(attended, dim=1), None


def _for_each(cached: Tensor, count: int) -> Float[Tensor, "tokens groups slots size"]:
    """Keys or values (groups, slots, size) of a text for each of its tokens, not copied."""
    return cached.expand(count, -1, -1, -1)


def _of_each(
    query: Float[Tensor, "tokens heads size"],
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scale: float | None,
) -> Float[Tensor, "tokens heads value_size"]:
    """The attention of each token on its own; the heads of a group are queries of one head.

    Args:
        query: of the tokens, each with its own entry of `key` and `value`.
        key, value: (tokens, groups, slots, size).
        mask: (tokens, slots).
        scale: of the products.
    """
    tokens, heads, size = query.shape
    queries = query.reshape(tokens, key.shape[1], heads // key.shape[1], size)
    attended = attend(queries, key, value, mask, scale)
    return attended.reshape(tokens, heads, value.shape[-1])


AttentionInterface.register(NAME, steady_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
