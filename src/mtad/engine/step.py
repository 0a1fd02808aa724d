"""What an iteration commits: a block per request, and what of a tree goes into it.

Knows no model and no loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Float64, Int, Num
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.engine.request import Request
from mtad.errors import GrammarError, NonFiniteLogitsError
from mtad.model.finite import failure
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
        receipt: what the method has kept of the text so far, by the names of `Method.kept`; for
            the whole block, also where a stop has cut it. No part of what makes blocks equal, as
            kernels may round it differently in another batch.
        num_first: how many of the accepted tokens, from the first on, are the first child of the
            one before; a chain of the same draft would have had these. No part of equality, too.
    """

    request: int
    token_ids: tuple[int, ...]
    num_accepted: int
    num_drafted: int
    depth: int
    finish_reason: str | None
    error: NonFiniteLogitsError | GrammarError | None = None
    receipt: Mapping[str, float] = field(default_factory=dict, compare=False)
    num_first: int = field(default=0, compare=False)

    def as_own(self) -> Block:
        """The same of a target that searched alone: nothing was drafted for it."""
        return replace(self, num_accepted=0, num_drafted=0, depth=0, num_first=0)


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
        warp: turns logits into the log-probabilities that the method compared.
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
    num_left: int,
) -> tuple[tuple[int, ...], str | None]:
    """The tokens up to the first that ends the text, and the reason if one does.

    Args:
        tokens: what an iteration committed.
        eos: tokens that end the text.
        stop: called with every token in order; true ends the text after it.
        num_left: tokens that the budget still allows.
    """
    for count, token in enumerate(tokens, 1):
        if token in eos or (stop and stop(token)):
            return tuple(tokens[:count]), "stop"
        if count >= num_left:
            return tuple(tokens[:count]), "length"
    return tuple(tokens), None


def row_values(
    tree: TokenTree,
    verdict: Verdict,
    bad: Sequence[Int[Tensor, " rows"]],
    block: Int[Tensor, "rows width"],
    ledger: Float64[Tensor, "rows entries"] | None = None,
) -> Num[Tensor, "rows columns"]:
    """All that the host reads of an iteration, one row of numbers per request, for `block_of`.

    Integers, unless there is a ledger; float64, with which they then go, holds them exactly.

    Args:
        tree, verdict: of the iteration.
        bad: the first bad position of every model.
        block: `block_tokens` of them.
        ledger: what the method keeps of the texts.
    """
    columns = [verdict.num_accepted, tree.num_drafted, tree.depth_drafted]
    columns += [num_first(tree, verdict), *bad]
    integers = torch.cat([torch.stack(columns, dim=1), block], dim=1)
    return integers if ledger is None else torch.cat([integers.double(), ledger], dim=1)


def tokens_of(values: Sequence[float], num_models: int) -> Sequence[int]:
    """The tokens of a row of `row_values`: the accepted ones, then the one that follows them."""
    return [int(token) for token in values[4 + num_models :][: int(values[0]) + 1]]


def block_of(
    index: int,
    request: Request,
    length: int,
    models: Sequence[str],
    values: Sequence[float],
    entries: Sequence[str] = (),
) -> Block:
    """The block of a request, cut at the first EOS, stop or end of the budget.

    Args:
        index: of the request.
        request: what is decoded.
        length: tokens of its text before the block.
        models: names of the models, in the order of their bad positions.
        values: its row of `row_values`.
        entries: names of what the method keeps of it.
    """
    accepted, drafted, depth, first, *bad = map(int, values[: 4 + len(models)])
    tokens = tokens_of(values, len(models))
    errors = (failure(name, at, index) for name, at in zip(models, bad, strict=True))
    if error := next(filter(None, errors), None):
        return Block(index, (), 0, 0, 0, "error", error)
    num_left = len(request.prompt_ids) + request.sampling.max_new_tokens - length
    try:
        kept, reason = clipped(tokens, request.sampling.eos_token_ids, request.stop, num_left)
    except GrammarError as cause:
        return Block(index, (), 0, 0, 0, "error", cause)
    receipt = dict(zip(entries, values[len(values) - len(entries) :], strict=True))
    accepted, first = (max(0, min(count, len(kept))) for count in (accepted, first))
    return Block(index, kept, accepted, drafted, depth, reason, None, receipt, first)


def num_first(tree: TokenTree, verdict: Verdict) -> Int[Tensor, " rows"]:
    """How many accepted nodes of each row, from the first on, are first children."""
    if tree.is_chain:
        return verdict.num_accepted
    is_first = tree.parents[:, 1:] != tree.parents[:, :-1]  # siblings lie side by side
    on_path = is_first.gather(1, (verdict.path - 1).clamp(min=0)).cumprod(1).sum(1)
    return torch.minimum(on_path, verdict.num_accepted)


def block_tokens(tree: TokenTree, verdict: Verdict) -> Int[Tensor, "rows width"]:
    """The accepted tokens of each row, then the one that follows them; the rest is padding."""
    path = torch.nn.functional.pad(tree.tokens.gather(1, verdict.path), (0, 1))
    end = verdict.num_accepted.clamp(min=0)  # an empty block has none of it
    return path.scatter(1, end[:, None], verdict.next_token[:, None])


def cache_places(
    tree: TokenTree, path: Int[Tensor, "rows depth"], of_drafter: bool
) -> Int[Tensor, "rows depth"] | None:
    """The cache places of the accepted path, None where they already are in order."""
    if of_drafter and tree.draft_slots is not None:
        return tree.draft_slots.gather(1, path)
    return None if tree.is_chain else path
