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


def count_on_paths(tree: TokenTree, nodes: slice, vocab: int) -> Float[Tensor, "rows nodes vocab"]:
    """Occurrences of every token on the way from below the root to each of `nodes`."""
    on_path = tree.ancestors[:, nodes, 1:].float()
    tokens = tree.tokens[:, None, 1:].expand(-1, on_path.shape[1], -1)
    zeros = on_path.new_zeros(*on_path.shape[:2], vocab)
    return zeros.scatter_add(2, tokens, on_path)


def penalize(
    logits: Float[Tensor, "rows nodes vocab"],
    seen: Float[Tensor, "rows nodes vocab"],
    output: Float[Tensor, "rows nodes vocab"],
    repetition: Float[Tensor, " rows"],
    frequency: Float[Tensor, " rows"],
    presence: Float[Tensor, " rows"],
) -> Float[Tensor, "rows nodes vocab"]:
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
