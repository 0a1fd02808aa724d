"""Repetition, frequency and presence penalties, judged along the path to each node of a tree.

Knows no request, no model and no method.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.core.tree import TokenTree


def count(
    tokens: Int[Tensor, "rows text"], counted: Bool[Tensor, "rows text"], vocab: int
) -> Float[Tensor, "rows vocab"]:
    """Occurrences of every token among those `counted`."""
    zeros = torch.zeros(tokens.shape[0], vocab, dtype=torch.float32, device=tokens.device)
    return zeros.scatter_add(1, tokens, counted.float())


def count_on_paths(
    tree: TokenTree, nodes: slice, width: int, token_ids: Int[Tensor, " tokens"] | None = None
) -> Float[Tensor, "rows nodes tokens"]:
    """Occurrences of every token on the way from below the root to each of `nodes`.

    Of `width` tokens, which are `token_ids`, or the vocabulary.
    """
    on_path, tokens = tree.ancestors[:, nodes, 1:].float(), tree.tokens[:, 1:]
    if token_ids is not None:
        tokens, is_there = places_of(tokens, token_ids)
        on_path = on_path * is_there[:, None]
    zeros = on_path.new_zeros(*on_path.shape[:2], width)
    return zeros.scatter_add(2, tokens[:, None].expand(-1, on_path.shape[1], -1), on_path)


def places_of(
    tokens: Int[Tensor, "rows nodes"], token_ids: Int[Tensor, " tokens"]
) -> tuple[Int[Tensor, "rows nodes"], Bool[Tensor, "rows nodes"]]:
    """Where tokens are among ascending `token_ids`, and whether they are; if not, anywhere."""
    places = torch.searchsorted(token_ids, tokens.contiguous()).clamp(max=len(token_ids) - 1)
    return places, token_ids[places] == tokens


def penalize(
    logits: Float[Tensor, "rows nodes tokens"],
    seen: Float[Tensor, "rows nodes tokens"],
    output: Float[Tensor, "rows nodes tokens"],
    repetition: Float[Tensor, " rows"],
    frequency: Float[Tensor, " rows"],
    presence: Float[Tensor, " rows"],
) -> Float[Tensor, "rows nodes tokens"]:
    """Logits after the penalties of each row, as `SamplingParams` defines them.

    Args:
        logits: before.
        seen: occurrences in prompt, output and path.
        output: occurrences in output and path.
        repetition: divides positive and multiplies negative logits of tokens seen.
        frequency: subtracted once per occurrence in the output.
        presence: subtracted once from tokens in the output.
    """
    factor = repetition[:, None, None]
    scaled = torch.where(logits > 0, logits / factor, logits * factor)
    logits = torch.where(seen > 0, scaled, logits)
    return logits - frequency[:, None, None] * output - presence[:, None, None] * (output > 0)
