"""What an iteration commits: a block per request, and what of a tree goes into it.

Knows no model and no loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.errors import NonFiniteLogitsError
from mtad.model.lm import NOWHERE
from mtad.sampling.warper import Warper
from mtad.speculative.method import Verdict


@dataclass(frozen=True)
class Block:
    """What one iteration committed for one request.

    Attributes:
        request: index of the request.
        token_ids: the new tokens, clipped at EOS, stop and budget.
        num_accepted: how many of them, from the first on, are accepted draft tokens; the one after
            them, if any, is the endpoint token. 0 where the target made the whole block itself.
        num_drafted: draft tokens that were verified (all nodes of a tree).
        depth: draft tokens on the longest path.
        finish_reason: "stop" or "length" where this block is the last one, "error" where the
            request failed, else None.
        error: why it failed; a block with an error has no tokens.
    """

    request: int
    token_ids: tuple[int, ...]
    num_accepted: int
    num_drafted: int
    depth: int
    finish_reason: str | None
    error: NonFiniteLogitsError | None = None


@dataclass(frozen=True)
class Step:
    """One iteration of the loop: a block for every request that was still running."""

    blocks: tuple[Block, ...]

    def require_sound(self) -> Step:
        """The step itself; raises the error of the first request that failed."""
        for block in self.blocks:
            if block.error is not None:
                raise block.error
        return self


@dataclass(frozen=True)
class Observation:
    """An iteration as the method saw it, before its blocks are clipped; B rows, N nodes.

    Attributes:
        tree: what was drafted; node 0 is the last committed token.
        logits: the target's raw logits after every node.
        verdict: what the method accepted.
        warp: turns the logits into the law they are judged by.
        noise: the random numbers of the iteration.
        prefix: the text before the iteration.
    """

    tree: TokenTree
    logits: Float[Tensor, "rows nodes vocab"]
    verdict: Verdict
    warp: Warper
    noise: Noise
    prefix: Prefix


def clipped(
    tokens: Sequence[int],
    eos: Collection[int],
    stop: Callable[[int], bool] | None,
    room: int,
) -> tuple[tuple[int, ...], str | None]:
    """The tokens up to the first that ends the text, and the reason if one does.

    Args:
        tokens: what an iteration committed.
        eos: tokens that end the text.
        stop: told every token in order; true ends the text after it.
        room: tokens that the budget has left.
    """
    for count, token in enumerate(tokens, 1):
        if token in eos or (stop and stop(token)):
            return tuple(tokens[:count]), "stop"
        if count >= room:
            return tuple(tokens[:count]), "length"
    return tuple(tokens), None


def block_tokens(tree: TokenTree, verdict: Verdict) -> Int[Tensor, "rows width"]:
    """The accepted tokens of each row, then the one that follows them; the rest is padding."""
    path = torch.nn.functional.pad(tree.tokens.gather(1, verdict.path), (0, 1))
    return path.scatter(1, verdict.num_accepted[:, None], verdict.next_token[:, None])


def cache_places(
    tree: TokenTree, path: Int[Tensor, "rows depth"], of_drafter: bool
) -> Int[Tensor, "rows depth"] | None:
    """The cache places of the accepted path, None where they already are in order."""
    if of_drafter and tree.draft_slots is not None:
        return tree.draft_slots.gather(1, path)
    return None if tree.is_chain else path


def failure(model: str, position: int, request: int) -> NonFiniteLogitsError | None:
    """What is wrong with a request whose first bad logits of a model are there, if any are."""
    if position == NOWHERE:
        return None
    return NonFiniteLogitsError(
        f"the {model} model returned NaN or infinite logits after position {position} of request "
        f"{request}; check its weights, or load it in float32 or bfloat16 if it is in float16"
    )
