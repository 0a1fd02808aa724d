"""One iteration of one text as a JSON record: its nodes with both log-probabilities, its decision.

Made from the `Observation` of a session, for texts that are traced. Knows no model, no file and no
HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.prefix import select_rows
from mtad.core.tree import TokenTree
from mtad.engine.step import Block, Observation
from mtad.speculative.acceptance import at_node, value_at
from mtad.speculative.method import Method, Verdict

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
    logprobs = seen.logits[row, nodes].log_softmax(-1)
    tokens = torch.tensor(block.token_ids, device=logprobs.device)
    best = logprobs.topk(min(top, logprobs.shape[1]), dim=1)
    columns = [logprobs.gather(1, tokens[:, None]), best.values, best.indices]
    read = torch.cat([column.double() for column in columns], dim=1).tolist()
    width = best.values.shape[1]
    return tuple(
        TokenLogprobs(token, own, tuple(zip(map(int, rest[width:]), rest[:width], strict=True)))
        for token, (own, *rest) in zip(block.token_ids, read, strict=True)
    )


def record_of(
    seen: Observation, row: int, block: Block, text_of: TokenText, method: Method
) -> dict[str, Any]:
    """An iteration of one row as JSON can hold it; `docs/traces.md` says what its fields mean.

    Args:
        seen: the iteration.
        row: of the batch at that time.
        block: what remained of the row's tokens.
        text_of: makes the text of a token.
        method: what drafted and judged.
    """
    one = _Row.of(row_of(seen, row), method)
    by_target = method.drafter == "target"  # it makes the block itself, and accepts all of it
    num_nodes = len(block.token_ids) if by_target else block.num_accepted
    path = one.path_to(one.path[num_nodes - 1]) if num_nodes else []
    tokens: list[dict[str, Any]] = []
    for i, token in enumerate(block.token_ids):
        where: dict[str, Any] = {"origin": "target" if by_target else "draft"}
        if i < num_nodes:
            where["node"] = path[i]
        else:
            where = {"origin": "endpoint", "node": None, "target_logprob": one.endpoint}
        tokens.append({"token": token, "text": text_of(token), **where})
    root = one.tokens[0]
    return {
        "position": one.position,
        "method": method.name,
        "law": method.ratio_on,
        "root": {"token": root, "text": text_of(root)},
        "nodes": one.nodes({*path}, text_of),
        "tokens": tokens,
        "num_accepted": block.num_accepted,
        "num_drafted": block.num_drafted,
        "finish_reason": block.finish_reason,
    }


def row_of(seen: Observation, row: int) -> Observation:
    """The observation of one row alone."""
    index = torch.tensor([row], device=seen.logits.device)
    warp, prefix = select_rows(seen.warp, index), select_rows(seen.prefix, index)
    verdict = seen.verdict
    return Observation(
        _tree_row(seen.tree, index),
        seen.logits[index],
        Verdict(verdict.path[index], verdict.num_accepted[index], verdict.next_token[index]),
        replace(warp, prefix=None if warp.prefix is None else prefix),
        Noise(seen.noise.seeds[index], seen.noise.positions[index]),
        prefix,
    )


def _tree_row(tree: TokenTree, index: Tensor) -> TokenTree:
    drafts = tuple(level[index] for level in tree.draft_logprobs)
    whole = None if tree.whole is None else _tree_row(tree.whole, index)
    bare = select_rows(replace(tree, draft_logprobs=(), whole=None), index)
    return replace(bare, draft_logprobs=drafts, whole=whole)


def judged_logprobs(one: Observation, method: Method) -> Float[Tensor, "rows nodes vocab"]:
    """The target's log-probabilities that the method compares, see `Method.ratio_on`."""
    warped = one.warp(one.logits, one.tree)
    return one.warp.ratio_logprobs(method.ratio_on, warped, one.logits, one.tree)


@dataclass(frozen=True)
class _Row:
    """One row of an iteration, on the host.

    Attributes:
        tokens, parents, alive, draft: of all nodes that were drafted.
        target: of those nodes that were verified, in their order, by index.
        path: verified nodes from level 1 on.
        endpoint: the target's log-probability of the token after the accepted path.
        position: output tokens before.
    """

    tokens: list[int]
    parents: list[int]
    alive: list[int]
    draft: list[float | None]
    target: dict[int, float | None]
    path: list[int]
    endpoint: float | None
    position: int

    @classmethod
    def of(cls, one: Observation, method: Method) -> _Row:
        """The row, with one read from the device."""
        tree, verdict = one.tree, one.verdict
        whole = tree if tree.whole is None else tree.whole
        target = judged_logprobs(one, method)
        last = value_at(torch.nn.functional.pad(verdict.path, (1, 0)), verdict.num_accepted)
        order = torch.arange(tree.num_nodes, device=target.device)[None]
        slots = order if tree.draft_slots is None else tree.draft_slots
        parts: list[Tensor] = [
            *(whole.tokens, whole.parents, whole.alive, _draft_logprobs(whole, method)),
            *(slots, tree.token_values(target).where(tree.alive, math.nan)),
            slots.gather(1, verdict.path),
            at_node(target, last).gather(1, verdict.next_token[:, None]),
            one.prefix.num_new[:, None],
        ]
        read = iter(torch.cat([part[0].double() for part in parts]).tolist())
        rows = [[next(read) for _ in range(part.shape[1])] for part in parts]
        tokens, parents, alive, draft, places, values, path, endpoint, position = rows
        verified = dict(zip(_ints(places), _finite(values), strict=True))
        return cls(
            *(_ints(tokens), _ints(parents), _ints(alive), _finite(draft), verified),
            *(_ints(path), _finite(endpoint)[0], int(position[0])),
        )

    def path_to(self, node: int) -> list[int]:
        """The nodes from level 1 down to `node`.

        A method may go over to a node's twin on the way, which follows the same tokens.
        """
        path = []
        while node > 0:
            path.append(node)
            node = self.parents[node]
        return path[::-1]

    def nodes(self, accepted: set[int], text_of: TokenText) -> list[dict[str, Any]]:
        """The nodes below the root, down to the last level on which one lives.

        How many empty levels there are below it is up to the other rows.
        """
        depths, ratios = [0], [0.0]
        nodes: list[dict[str, Any]] = []
        for index in range(1, len(self.tokens)):
            token, parent = self.tokens[index], self.parents[index]
            p, q = self.target.get(index), self.draft[index]
            depths.append(depths[parent] + 1)
            ratios.append(ratios[parent] + (math.nan if p is None or q is None else p - q))
            nodes.append(
                {
                    "index": index,
                    "token": token,
                    "text": text_of(token),
                    "parent": parent,
                    "depth": depths[index],
                    "alive": bool(self.alive[index]),
                    "accepted": index in accepted,
                    "draft_logprob": q,
                    "target_logprob": p,
                    "joint_log_ratio": _finite(ratios[index:])[0],
                    "proposed": index in self.target,
                }
            )
        deepest = max((node["depth"] for node in nodes if node["alive"]), default=0)
        return [node for node in nodes if node["depth"] <= deepest]


def _draft_logprobs(tree: TokenTree, method: Method) -> Float[Tensor, "rows nodes"]:
    """The draft's log-probability of every node; NaN where there is none."""
    values = tree.node_logprobs
    if method.drafter == "none":
        return torch.full_like(values, math.nan)
    if tree.draft_logprobs:  # they know the tokens that were drafted at a probability of 0
        rows = [values[:, :1]]
        levels = zip(tree.draft_logprobs, tree.levels, tree.levels[1:], strict=False)
        for dense, above, below in levels:
            places = (tree.parents[:, below] - above.start) * dense.shape[2] + tree.tokens[:, below]
            rows.append(dense.flatten(1).gather(1, places))
        values = torch.cat(rows, dim=1)
    return values.where(tree.alive, math.nan)


def _ints(values: Sequence[float]) -> list[int]:
    return [int(value) for value in values]


def _finite(values: Sequence[float]) -> list[float | None]:
    """None for what JSON can't hold: impossible or unknown."""
    return [value if math.isfinite(value) else None for value in values]
