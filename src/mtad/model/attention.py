"""Attention of grouped heads that reads keys and values where they are.

transformers repeats the keys and values for every head of a group wherever there is a mask, and so
copies the cache in every forward of a tree. Knows no cache and no tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "mtad"
"""What transformers calls this attention."""
FEW = 32
"""Most tokens of a forward whose mask is repeated rather than the keys and values."""

_LEFT = ("dropout", "softcap", "output_attentions", "position_bias", "cache")
"""Options that this attention leaves to "sdpa"."""


def head_size_of(config: Any) -> int:
    """The size of an attention head, by the model's text config."""
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def use_grouped_attention(model: PreTrainedModel) -> bool:
    """Whether the model, so far one with SDPA attention, has been switched to this attention.

    It is if its heads are grouped and its attention goes through transformers' interface. Its own
    `generate` works as before.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    groups = getattr(config, "num_key_value_heads", None)
    if not isinstance(heads, int) or not isinstance(groups, int) or groups >= heads:
        return False
    if not model._can_set_attn_implementation():
        return False
    model.set_attn_implementation(NAME)
    return True


def grouped_attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads nodes size"],
    key: Float[Tensor, "rows groups slots size"],
    value: Float[Tensor, "rows groups slots value_size"],
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Float[Tensor, "rows nodes heads value_size"], None]:
    """The attention's output, and None for its weights; that of "sdpa" but for rounding.

    What it has nothing to gain from is left to "sdpa".
    """
    few, is_cpu = query.shape[2] <= FEW, query.device.type == "cpu"
    grouped = query.shape[1] > key.shape[1]
    if not (grouped and is_plain(attention_mask, options) and (few or is_cpu)):
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return output
    attend = _folded if few else _by_group
    attended = attend(query, key, value, attention_mask, options.get("scaling"))
    return attended.transpose(1, 2).contiguous(), None


def is_plain(mask: Tensor | None, options: Mapping[str, Any]) -> bool:
    """Whether one mask is all that the attention has, and no option asks for more."""
    has_mask = mask is not None and mask.shape[1] == 1
    return has_mask and not any(_is_on(options.get(name)) for name in _LEFT)


def _is_on(option: Any) -> bool:
    """Whether an option asks for something; tensors have no truth of their own."""
    return option is not None and (not isinstance(option, float | bool) or bool(option))


def _by_group(
    query: Tensor, key: Tensor, value: Tensor, mask: Any, scale: float | None
) -> Float[Tensor, "rows heads nodes value_size"]:
    """Attention by torch's own means; for CUDA it has no kernel with both groups and a mask."""
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=True)


def _folded(
    query: Tensor, key: Tensor, value: Tensor, mask: Any, scale: float | None
) -> Float[Tensor, "rows heads nodes value_size"]:
    """Attention where the heads of a group are further queries of one head."""
    rows, heads, nodes, size = query.shape
    share = heads // key.shape[1]
    queries = query.reshape(rows, key.shape[1], share * nodes, size)
    mask = mask if nodes == 1 else mask.repeat(1, 1, share, 1)
    attended = F.scaled_dot_product_attention(queries, key, value, mask, scale=scale)
    return attended.reshape(rows, heads, nodes, value.shape[-1])


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
