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


def penalized(
    logits: Float[Tensor, "rows nodes tokens"],
    text: Int[Tensor, "rows text"],
    tree: TokenTree,
    nodes: slice,
    counts: tuple[Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"]],
    strengths: tuple[Float[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, " rows"]],
    token_ids: Int[Tensor, " tokens"] | None = None,
) -> Float[Tensor, "rows nodes tokens"]:
    """Logits after `nodes` with each row's penalties; only tokens of text and tree have any.

    Args:
        logits: of `token_ids`, or of the vocabulary.
        text: the tokens that were counted, and any others.
        tree: below the text.
        nodes: of the tree.
        counts: occurrences in prompt and output, and in the output.
        strengths: repetition, frequency and presence penalties.
        token_ids: ascending.
    """
    tokens = torch.cat([text, tree.tokens[:, 1:]], dim=1)
    is_there = torch.ones_like(tokens, dtype=torch.bool)
    if token_ids is not None:
        tokens, is_there = places_of(tokens, token_ids)
    drafted = slice(text.shape[1], None)
    is_same = (tokens[:, None] == tokens[:, drafted, None]) & is_there[:, drafted, None]
    on_path = tree.ancestors[:, nodes, 1:].float() @ is_same.float()
    seen, output = (count.gather(1, tokens)[:, None] + on_path for count in counts)
    every = tokens[:, None].expand(-1, logits.shape[1], -1)
    return logits.scatter(2, every, penalize(logits.gather(2, every), seen, output, *strengths))


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
