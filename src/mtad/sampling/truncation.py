"""Removing unlikely tokens: top-k, top-p and min-p, and the few tokens that can survive top-k.

Works on the last dimension of any scores, a vocabulary or a few candidates of it in ascending order
of their ids. Knows no request, no model and no method.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

NEVER = float("-inf")


def candidates(scores: Float[Tensor, "*lead vocab"], width: int) -> Int[Tensor, "*lead candidates"]:
    """The ids of the `width` largest scores, ascending."""
    return scores.topk(width, dim=-1, sorted=False).indices.sort(-1).values


def spread(
    logprobs: Float[Tensor, "*lead candidates"], ids: Int[Tensor, "*lead candidates"], vocab: int
) -> Float[Tensor, "*lead vocab"]:
    """Log-probabilities of some candidates over the whole vocabulary, -inf elsewhere."""
    return logprobs.new_full((*logprobs.shape[:-1], vocab), NEVER).scatter(-1, ids, logprobs)


def keep_top_k(logits: Float[Tensor, "*lead vocab"], k: Tensor, largest: int) -> Tensor:
    """Logits below the k-th largest set to -inf; ties with it stay. k = 0 keeps all."""
    top = logits.topk(min(largest, logits.shape[-1]), dim=-1).values
    index = (k.clamp(1, top.shape[-1]) - 1).expand(*logits.shape[:-1], 1)
    floor = top.gather(-1, index).masked_fill(k <= 0, NEVER)
    return logits.masked_fill(logits < floor, NEVER)


def keep_top_p(logits: Float[Tensor, "*lead vocab"], p: Tensor) -> Tensor:
    """Tokens before which a mass of at most p lies, in order of likelihood; p = 1 keeps all."""
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1) - probs
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, index, before > p)
    return logits.masked_fill(dropped & (p < 1), NEVER)


def keep_min_p(logits: Float[Tensor, "*lead vocab"], min_p: Tensor) -> Tensor:
    """Tokens at least `min_p` times as likely as the most likely one."""
    floor = logits.amax(-1, keepdim=True) + min_p.log()
    return logits.masked_fill(logits < floor, NEVER)
