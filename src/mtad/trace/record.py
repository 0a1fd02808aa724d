"""One iteration of one text as a JSON record: its nodes with both log-probabilities, its decision.

Made from the `Observation` of a session, for texts that are traced. Knows no model, no file and no
HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtad.core.tree import TokenTree
from mtad.engine.step import Block, Observation
from mtad.speculative.acceptance import value_at
from mtad.speculative.method import Method

TokenText: TypeAlias = Callable[[int], str]
"""The text of a token on its own."""


@dataclass(frozen=True)
class TokenLogprobs:
    """The target's log-probabilities at one token, before penalties, temperature and truncation.

    Attributes:
        token: its id.
        logprob: its log-probability.
        top: the most likely tokens there with theirs, best first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprobs(
    seen: Observation, row: int, block: Block, top: int
) -> tuple[TokenLogprobs, ...]:
    """The target's log-probabilities at each token of a row's block, after clipping.

    Args:
        seen: the iteration.
        row: of the batch at that time.
        block: what remained of the row's tokens.
        top: number of most likely tokens beside each; all, if there are fewer.
    """
    count = len(block.token_ids)
    if not count:
        return ()
    nodes = torch.nn.functional.pad(seen.verdict.path[row], (1, 0))[:count]
    return logprobs_of(seen.logits[row, nodes], block.token_ids, top)


def logprobs_of(
    logits: Float[Tensor, "tokens vocab"], token_ids: Sequence[int], top: int
) -> tuple[TokenLogprobs, ...]:
    """The log-probabilities of tokens, given the logits at the place of each.

    Args:
        logits: of the target.
        token_ids: one per row.
        top: number of most likely tokens beside each; all, if there are fewer.
    """
    logprobs = logits.log_softmax(-1)
    tokens = torch.tensor(token_ids, dtype=torch.int64, device=logprobs.device)
    best = logprobs.topk(min(top, logprobs.shape[1]), dim=1)
    columns = [logprobs.gather(1, tokens[:, None]), best.values, best.indices]
    read = torch.cat([column.double() for column in columns], dim=1).tolist()
    width = best.values.shape[1]
    return tuple(
        TokenLogprobs(token, own, tuple(zip(map(int, rest[width:]), rest[:width], strict=True)))
        for token, (own, *rest) in zip(token_ids, read, strict=True)
    )


@dataclass(frozen=True)
class TracedRow:
    """One row of an iteration, and the method that drafted and judged it.

    Attributes:
        seen: the observation of this row alone.
        method: the method.
    """

    seen: Observation
    method: Method

    @classmethod
    def of(cls, seen: Observation, row: int, method: Method) -> TracedRow:
        """The row of an iteration; `row` counts in the batch at that time."""
        return cls(
            _rows(seen, torch.tensor([row], dtype=torch.int64, device=seen.logits.device)), method
        )

    @cached_property
    def target_logprobs(self) -> Float[Tensor, "rows nodes vocab"]:
        """The target's log-probabilities that the method compares, see `Method.ratio_on`."""
        one = self.seen
        warped = one.warp(one.logits, one.tree)
        return one.warp.ratio_logprobs(self.method.ratio_on, warped, one.logits, one.tree)

    @property
    def whole(self) -> TokenTree:
        """The tree of all that was drafted."""
        return self.seen.tree.whole or self.seen.tree

    @cached_property
    def slots(self) -> Int[Tensor, " nodes"]:
        """The index in `whole` of each node that was verified."""
        tree = self.seen.tree
        in_order = torch.arange(tree.num_nodes, device=tree.tokens.device)
        return in_order if tree.draft_slots is None else tree.draft_slots[0]

    def path(self, length: int) -> list[int]:
        """Indices in `whole` of the first `length` accepted nodes.

        A method may go over to a node's twin on the way, which follows the same tokens.
        """
        if not length:
            return []
        last = self.slots[self.seen.verdict.path[0, length - 1]]
        return self.whole.path_to(last[None])[0, :length].tolist()

    @property
    def endpoint_logprob(self) -> float | None:
        """The target's log-probability of the token after the accepted path."""
        verdict = self.seen.verdict
        last = value_at(torch.nn.functional.pad(verdict.path, (1, 0)), verdict.num_accepted)
        return finite(self.target_logprobs[0, last, verdict.next_token])[0]

    def draft_values(self) -> Float[Tensor, "rows nodes"]:
        """The draft's log-probability of every node of `whole`; NaN where there is none."""
        tree, values = self.whole, self.whole.node_logprobs
        if self.method.drafted_by == "none":
            return torch.full_like(values, math.nan)
        if tree.draft_laws:  # they know the tokens that were drafted at a probability of 0
            rows = [values[:, :1]]
            levels = zip(tree.draft_logprobs, tree.levels, tree.levels[1:], strict=False)
            for dense, above, below in levels:
                parents = tree.parents[:, below] - above.start
                places = parents * dense.shape[2] + tree.tokens[:, below]
                rows.append(dense.flatten(1).gather(1, places))
            values = torch.cat(rows, dim=1)
        return values.where(tree.alive, math.nan)

    def target_values(self) -> Float[Tensor, "rows nodes"]:
        """The target's log-probability of every node of `whole`; NaN where there is none."""
        tree = self.seen.tree
        values = tree.token_values(self.target_logprobs).where(tree.alive, math.nan)
        return values.new_full(self.whole.tokens.shape, math.nan).index_copy(1, self.slots, values)


def record_of(row: TracedRow, block: Block, text_of: TokenText) -> dict[str, Any]:
    """An iteration of one row as JSON can hold it; `docs/traces.md` says what its fields mean.

    Args:
        row: the iteration.
        block: what remained of the row's tokens.
        text_of: makes the text of a token.
    """
    by_target = row.method.drafted_by == "target"  # it makes the block, and accepts all of it
    path = row.path(len(block.token_ids) if by_target else block.num_accepted)
    origin = "target" if by_target else "draft"
    tokens: list[dict[str, Any]] = [
        {"token": token, "text": text_of(token), "origin": origin, "node": node}
        for token, node in zip(block.token_ids, path, strict=False)
    ]
    for token in block.token_ids[len(path) :]:
        end = {"token": token, "text": text_of(token), "origin": "endpoint", "node": None}
        tokens.append(end | {"target_logprob": row.endpoint_logprob})
    root = int(row.whole.tokens[0, 0])
    kept = {"receipt": dict(block.receipt)} if row.method.kept else {}
    return kept | {
        "position": int(row.seen.prefix.num_new),
        "method": row.method.name,
        "law": row.method.ratio_on,
        "root": {"token": root, "text": text_of(root)},
        "nodes": _nodes(row, {*path}, text_of),
        "tokens": tokens,
        "num_accepted": block.num_accepted,
        "num_drafted": block.num_drafted,
        "finish_reason": block.finish_reason,
    }


def _nodes(row: TracedRow, accepted: Collection[int], text_of: TokenText) -> list[dict[str, Any]]:
    """The nodes below the root, down to the last level on which one lives.

    How many empty levels there are below it is up to the other rows.
    """
    tree, proposed = row.whole, {*row.slots.tolist()}
    draft, target = (_known(values) for values in (row.draft_values(), row.target_values()))
    columns = [tree.tokens[0], tree.parents[0], tree.depths, tree.alive[0]]
    logprobs = [draft[0], target[0], tree.accumulate(target - draft)[0]]
    table = [*(column.tolist() for column in columns), *map(finite, logprobs)]
    nodes = []
    for index in range(1, tree.levels[int(tree.depth_drafted)].stop):
        token, parent, depth, alive, q, p, ratio = (column[index] for column in table)
        nodes.append(
            {
                "index": index,
                "token": token,
                "text": text_of(token),
                "parent": parent,
                "depth": depth,
                "alive": alive,
                "accepted": index in accepted,
                "draft_logprob": q,
                "target_logprob": p,
                "joint_log_ratio": ratio,
                "proposed": index in proposed,
            }
        )
    return nodes


def _known(values: Tensor) -> Tensor:
    """In float64, with NaN for what is not finite, so that no sum hides it."""
    return values.double().where(values.isfinite(), math.nan)


def finite(values: Tensor) -> list[float | None]:
    """A row of numbers; None for what JSON can't hold: impossible or unknown."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _rows(value: Any, index: Tensor) -> Any:
    """A value with only these rows of all its tensors, however deep they are in it."""
    if isinstance(value, Tensor):
        return value[index]
    if isinstance(value, tuple):
        return tuple(_rows(part, index) for part in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    parts = {field.name: _rows(getattr(value, field.name), index) for field in fields(value)}
    return replace(value, **parts)
