"""Block verification: a chain of draft tokens accepted by its joint likelihood.

p = target, q = the law that the chain was drawn from. Nothing here knows a model or reads a tensor
back to the host.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.core.logs import exp_of
from mtad.core.noise import Noise
from mtad.speculative.acceptance import at_node, endpoint, last_true, residual_weights, value_at


def accept_block(
    p: Float[Tensor, "rows nodes vocab"],
    q: Float[Tensor, "rows depth vocab"],
    log_ratio: Float[Tensor, "rows depth"],
    alive: Bool[Tensor, "rows depth"],
    noise: Noise,
) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """The length of the longest block whose test passes, and the token after it.

    Exact for any law q; the rule is that of `mtad.methods.block_verification`.

    Args:
        p: log-probabilities at the root and after each token of the chain.
        q: probabilities that each token was drawn from.
        log_ratio: log p/q of each token.
        alive: which tokens were drafted.
        noise: randomness.
    """
    log_w = _log_weights(log_ratio)
    excess = exp_of(p[:, :-1] + log_w[:, :-1, None]) - q
    left = excess.clamp(min=0).sum(-1)
    room = left + 1 - log_w[:, :-1].exp()
    partial = torch.where(room > 0, left / room.clamp(min=1e-30), 1.0)
    goes_on = torch.nn.functional.pad(alive, (0, 1))
    h = torch.where(goes_on, torch.nn.functional.pad(partial, (0, 1)), log_w.exp())[:, 1:]
    length = last_true((noise.uniform("accept", alive.shape[1]) <= h) & alive)
    bonus = at_node(p, length)
    scaled = bonus + value_at(log_w, length)[:, None]
    taken = at_node(q, length.clamp(max=q.shape[1] - 1))
    rejected = residual_weights(scaled, taken)
    end = torch.where(value_at(goes_on, length)[:, None], rejected, bonus)
    return length, endpoint(end, noise)


def _log_weights(log_ratio: Float[Tensor, "rows depth"]) -> Float[Tensor, "rows nodes"]:
    """The running log w_i, from w_0 = 1 on."""
    weights = [torch.zeros_like(log_ratio[:, 0])]
    for ratio in log_ratio.unbind(1):
        weights.append((weights[-1] + ratio).clamp(max=0))
    return torch.stack(weights, dim=1)
