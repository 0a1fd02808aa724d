"""What an iteration did, for people: its nodes with both log-probabilities, and its decision.

Everything is said of one row at a time, from the `Observation` that a session shows. Knows no
model, no file and no HTTP. Nothing here is on the hot path: it runs for texts that are traced.
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

TextOf: TypeAlias = Callable[[int], str]
"""The text of a token on its own."""


@dataclass(frozen=True)
class TokenLogprobs:
    """What the target thought of one token, before penalties, temperature and truncation.

    Attributes:
        token: its id.
        logprob: its log-probability under the target's raw law.
        top: the most likely tokens there with theirs, best first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprobs(
    seen: Observation, row: int, block: Block, top: int
) -> tuple[TokenLogprobs, ...]:
    """What the target thought of each token of a row's block, as it was clipped.

    Args:
        seen: the iteration.
        row: of the batch at that time.
        block: what remained of the row's tokens.
        top: how many of the most likely tokens are told beside each; all, if there are fewer.
    """
    count = len(block.token_ids)
    if not count:
        return ()
    nodes = torch.nn.functional.pad(seen.verdict.path[row], (1, 0))[:count]
    law = seen.logits[row, nodes].log_softmax(-1)
    tokens = torch.tensor(block.token_ids, device=law.device)
    best = law.topk(min(top, law.shape[1]), dim=1)
    columns = [law.gather(1, tokens[:, None]), best.values, best.indices]
    told = torch.cat([column.double() for column in columns], dim=1).tolist()
    width = best.values.shape[1]
    return tuple(
        TokenLogprobs(token, own, tuple(zip(map(int, rest[width:]), rest[:width], strict=True)))
        for token, (own, *rest) in zip(block.token_ids, told, strict=True)
    )


def record_of(
    seen: Observation, row: int, block: Block, text_of: TextOf, method: Method
) -> dict[str, Any]:
    """An iteration of one row as JSON can hold it; `docs/traces.md` says what its fields mean.

    Args:
        seen: the iteration.
        row: of the batch at that time.
        block: what remained of the row's tokens.
        text_of: makes the text of a token.
        method: what drafted and judged.
    """
    told = _Told.of(row_of(seen, row), method)
    is_own = method.drafter == "target"  # it makes the block itself, and accepts all of it
    num_nodes = len(block.token_ids) if is_own else block.num_accepted
    path = told.path_to(told.path[num_nodes - 1]) if num_nodes else []
    tokens: list[dict[str, Any]] = []
    for i, token in enumerate(block.token_ids):
        one = {"token": token, "text": text_of(token)}
        if i < num_nodes:
            one |= {"origin": "target" if is_own else "draft", "node": path[i]}
        else:
            one |= {"origin": "endpoint", "node": None, "target_logprob": told.endpoint}
        tokens.append(one)
    root = told.tokens[0]
    return {
        "position": told.position,
        "method": method.name,
        "law": method.ratio_on,
        "root": {"token": root, "text": text_of(root)},
        "nodes": told.nodes({*path}, text_of),
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
    laws = tuple(law[index] for law in tree.draft_logprobs)
    whole = None if tree.whole is None else _tree_row(tree.whole, index)
    bare = select_rows(replace(tree, draft_logprobs=(), whole=None), index)
    return replace(bare, draft_logprobs=laws, whole=whole)


def judged_logprobs(one: Observation, method: Method) -> Float[Tensor, "rows nodes vocab"]:
    """The target's log-laws that the method's ratio is formed on."""
    warped = one.warp(one.logits, one.tree)
    return one.warp.ratio_logprobs(method.ratio_on, warped, one.logits, one.tree)


@dataclass(frozen=True)
class _Told:
    """One row of an iteration on the host.

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
    def of(cls, one: Observation, method: Method) -> _Told:
        """What is to be told, in one read."""
        tree, verdict = one.tree, one.verdict
        whole = tree if tree.whole is None else tree.whole
        law = judged_logprobs(one, method)
        last = value_at(torch.nn.functional.pad(verdict.path, (1, 0)), verdict.num_accepted)
        order = torch.arange(tree.num_nodes, device=law.device)[None]
        slots = order if tree.draft_slots is None else tree.draft_slots
        parts: list[Tensor] = [
            *(whole.tokens, whole.parents, whole.alive, _draft_logprobs(whole, method)),
            *(slots, tree.token_values(law).where(tree.alive, math.nan)),
            slots.gather(1, verdict.path),
            at_node(law, last).gather(1, verdict.next_token[:, None]),
            one.prefix.num_new[:, None],
        ]
        read = iter(torch.cat([part[0].double() for part in parts]).tolist())
        rows = [[next(read) for _ in range(part.shape[1])] for part in parts]
        tokens, parents, alive, draft, places, target, path, endpoint, position = rows
        verified = dict(zip(_whole(places), _known(target), strict=True))
        return cls(
            *(_whole(tokens), _whole(parents), _whole(alive), _known(draft), verified),
            *(_whole(path), _known(endpoint)[0], int(position[0])),
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

    def nodes(self, accepted: set[int], text_of: TextOf) -> list[dict[str, Any]]:
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
                    "joint_log_ratio": _known(ratios[index:])[0],
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
        for law, above, below in zip(
            tree.draft_logprobs, tree.levels, tree.levels[1:], strict=False
        ):
            places = (tree.parents[:, below] - above.start) * law.shape[2] + tree.tokens[:, below]
            rows.append(law.flatten(1).gather(1, places))
        values = torch.cat(rows, dim=1)
    return values.where(tree.alive, math.nan)


def _whole(values: Sequence[float]) -> list[int]:
    return [int(value) for value in values]


def _known(values: Sequence[float]) -> list[float | None]:
    """None for what JSON can't hold: impossible or unknown."""
    return [value if math.isfinite(value) else None for value in values]
