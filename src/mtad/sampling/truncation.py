"""Removing unlikely tokens: top-k, top-p and min-p, and the few tokens that can survive top-k.

Works on the last dimension of any scores, a vocabulary or a few candidates of it in ascending order
of their ids. Knows no request, no model and no method.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

NEVER = float("-inf")
SORTED = 1_024
"""Up to so many tokens sorting all takes less time than searching."""
SMALL = 8_192
"""Among so few scores the largest are found at once."""
LEAST = (2.0**-10, 2.0**-13, 2.0**-16, 0.0)
"""How likely tokens are sorted for top-p, in shares of the most likely one: the first that will do.
"""
BLOCK = 64
"""Scores of which the largest is found first."""
BINS = 2**13
ONE = 2**50
"""A probability of 1, as an integer."""


def candidates(scores: Float[Tensor, "*lead vocab"], width: int) -> Int[Tensor, "*lead candidates"]:
    """The ids of the `width` largest scores, ascending; of equal ones the first if it is one."""
    if scores.shape[-1] <= SMALL or scores.shape[-1] <= width * BLOCK:
        return _largest(scores, width).sort(-1).values
    in_blocks = scores.shape[-1] - scores.shape[-1] % BLOCK
    blocks = scores[..., :in_blocks].reshape(*scores.shape[:-1], -1, BLOCK)
    best = _largest(blocks.amax(-1), width)
    every = torch.arange(scores.shape[-1], device=scores.device)
    inside = (best[..., None] * BLOCK + every[:BLOCK]).flatten(-2)
    ids = torch.cat([inside, every[in_blocks:].expand(*inside.shape[:-1], -1)], dim=-1)
    return ids.gather(-1, _largest(scores.gather(-1, ids), width)).sort(-1).values


def _largest(scores: Tensor, width: int) -> Int[Tensor, "*lead candidates"]:
    """The places of the `width` largest scores."""
    if width == 1:
        return scores.argmax(-1, keepdim=True)
    return scores.topk(width, dim=-1, sorted=False).indices


def spread(
    logprobs: Float[Tensor, "*lead candidates"], ids: Int[Tensor, "*lead candidates"], vocab: int
) -> Float[Tensor, "*lead vocab"]:
    """Log-probabilities of some candidates over the whole vocabulary, -inf elsewhere."""
    return logprobs.new_full((*logprobs.shape[:-1], vocab), NEVER).scatter(-1, ids, logprobs)


def keep_top_k(logits: Float[Tensor, "*lead vocab"], k: Tensor, largest: int) -> Tensor:
    """Logits, -inf where below the k-th largest; ties with it stay. k = 0 keeps all.

    `largest` is the largest k of the batch.
    """
    top = logits.topk(min(largest, logits.shape[-1]), dim=-1).values
    index = (k.clamp(1, top.shape[-1]) - 1).expand(*logits.shape[:-1], 1)
    floor = top.gather(-1, index).masked_fill(k <= 0, NEVER)
    return logits.masked_fill(logits < floor, NEVER)


def keep_top_p(logits: Float[Tensor, "*lead vocab"], p: Tensor) -> Tensor:
    """Logits, -inf for tokens with a mass of more than p before them; p = 1 keeps all.

    The order is that of likelihood, so the token at which the mass passes p stays.
    Of equally likely tokens the one with the lower id comes first.
    """
    if logits.shape[-1] > SORTED:
        kept: Tensor = _top_p(logits, p)
        return kept
    return logits.masked_fill(_beyond_by_sorting(logits, p) & (p < 1), NEVER)


def _beyond_by_sorting(logits: Tensor, p: Tensor) -> Tensor:
    """Which tokens have a mass of more than p before them."""
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1) - probs
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, index, before > p)


def _beyond_by_searching(logits: Tensor, p: Tensor) -> Tensor:
    """The same without sorting, in integers, whose sums are exact in any order.

    The mass of the last token that stays is found by four histograms, each of which looks into one
    bin of the one before. Tokens whose probabilities differ by less than 1 / ONE count as equal.
    """
    masses = logits.softmax(-1, dtype=torch.float64).mul_(ONE).long()
    limit = p.double().mul(ONE).long()
    floor = torch.zeros_like(masses[..., :1])
    above = floor
    for shift in (39, 26, 13, 0):
        place = (masses - floor).bitwise_right_shift_(shift).clamp_(-1, BINS).add_(1)
        sums = masses.new_zeros(*masses.shape[:-1], BINS + 2).scatter_add_(-1, place, masses)
        sums = sums[..., 1:-1]  # without what lies below and above
        higher = above + sums.sum(-1, keepdim=True) - sums.cumsum(-1)
        chosen = (higher > limit).sum(-1, keepdim=True)
        above, floor = higher.gather(-1, chosen), floor + (chosen << shift)
    tied = masses == floor
    room = 1 + ((limit - above) // floor.clamp(min=1)).clamp(max=masses.shape[-1])
    return (masses < floor) | (tied & (tied.cumsum(-1, dtype=torch.int32) > room.int()))


def _top_p_anywhere(logits: Tensor, p: Tensor) -> Tensor:
    return logits.masked_fill(_beyond_by_searching(logits, p) & (p < 1), NEVER)


def _top_p_on_cpu(logits: Tensor, p: Tensor) -> Tensor:
    """The same where looking at values costs nothing: only tokens that may stay are sorted."""
    shares = (logits - logits.amax(-1, keepdim=True)).exp()
    limits = p.double() * shares.sum(-1, keepdim=True, dtype=torch.float64)
    limits = limits.masked_fill(p >= 1, math.nan)
    kept = torch.full_like(logits, NEVER)
    rows = (t.flatten(0, -2).numpy() for t in (shares, logits, kept))
    for share, scores, left, limit in zip(*rows, limits.flatten().tolist(), strict=True):
        staying = slice(None) if math.isnan(limit) else _first_of(share, limit)
        left[staying] = scores[staying]
    return kept


def _first_of(shares: npt.NDArray[np.float32], limit: float) -> npt.NDArray[np.int64]:
    """The ids of the tokens with a mass of at most `limit` before them, most likely first.

    The likely tokens are sorted, and if they do not have that mass less likely ones as well.
    """
    for least in LEAST:
        ids = np.flatnonzero(shares >= least)
        found = shares[ids]
        order = np.argsort(-found, kind="stable")
        sums = found[order].cumsum(dtype=np.float64)
        if sums[-1] > limit:
            break
    return ids[order[: 1 + np.searchsorted(sums, limit, side="right")]]


_library = torch.library.Library("mtad", "FRAGMENT")
# An operation of its own: a recorded iteration has it whole, whatever values it looks at.
_library.define("top_p(Tensor logits, Tensor p) -> Tensor")
_library.impl("top_p", _top_p_anywhere, "CompositeExplicitAutograd")
_library.impl("top_p", _top_p_on_cpu, "CPU")
_library.impl("top_p", lambda logits, p: torch.empty_like(logits), "Meta")
_top_p: Any = torch.ops.mtad.top_p.default


def keep_min_p(logits: Float[Tensor, "*lead vocab"], min_p: Tensor) -> Tensor:
    """Logits, -inf for tokens less than `min_p` times as likely as the most likely one."""
    floor = logits.amax(-1, keepdim=True) + min_p.log()
    return logits.masked_fill(logits < floor, NEVER)
