"""One iteration of a trace, read back: the tree as it was judged, and what came of it.

Knows no file and no rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtad import methods
from mtad.core.schema import options_of
from mtad.core.tree import TokenTree
from mtad.engine.step import Block
from mtad.sampling.params import SamplingParams
from mtad.sampling.truncation import NEVER
from mtad.speculative.method import Method, Verdict
from mtad.trace.format import unpack


@dataclass(frozen=True)
class Iteration:
    """An iteration as it was recorded; one row.

    Attributes:
        number: which of its text, from 1 on.
        position: output tokens before.
        method: what drafted and judged.
        sampling: temperature, truncation and seed of the text.
        tree: what was judged.
        target_logprobs: (1, N) the target's log-probability of each node's token.
        ratio_on: what these and the draft's are, "warped" or "raw"; see `Method.ratio_on`.
        is_selected: whether more was drafted than was judged.
        logits: (1, N, V) the target's, after biases and penalties; None if they were not kept.
        width: number of candidates that truncation looked at.
        was: what was accepted, not clipped by a stop.
    """

    number: int
    position: int
    method: Method
    sampling: SamplingParams
    tree: TokenTree
    target_logprobs: Float[Tensor, "rows nodes"]
    ratio_on: Literal["warped", "raw"]
    is_selected: bool
    logits: Float[Tensor, "rows nodes vocab"] | None
    width: int
    was: Block

    @classmethod
    def of(cls, line: Mapping[str, Any], sampling: SamplingParams, vocab: int) -> Iteration:
        """The iteration in an `iteration` line of a trace.

        Raises:
            KeyError, TypeError, ValueError: the line does not fit together.
        """
        nodes, dense, record = line["tree"], line.get("laws"), line["record"]
        drafts = [] if dense is None else [unpack(level)[None] for level in dense["draft"]]
        tree, method = _tree(nodes, drafts, vocab), read_method(line["method"])
        logits = None if dense is None else unpack(dense["logits"])[None]
        if logits is not None and logits.shape != (1, tree.num_nodes, vocab):
            raise ValueError(f"the logits are of shape {[*logits.shape[1:]]}")
        if record["law"] not in ("warped", "raw"):
            raise ValueError(f"log-probabilities are warped or raw, not {record['law']!r}")
        path, last = line["decision"]["path"], line["decision"]["next_token"]
        return cls(
            number=int(line["number"]),
            position=int(record["position"]),
            method=method,
            sampling=sampling,
            tree=tree,
            target_logprobs=_row(nodes["target_logprobs"], tree.num_nodes),
            ratio_on=record["law"],
            is_selected=bool(nodes["is_selected"]),
            logits=logits,
            width=vocab if dense is None else int(dense["width"]),
            was=accepted_block(
                method,
                tree,
                torch.tensor(path, dtype=torch.int64),
                None if last is None else int(last),
                {name: float(value) for name, value in record.get("receipt", {}).items()},
            ),
        )


def decided(verdict: Verdict) -> tuple[Int[Tensor, " depth"], int | None]:
    """The accepted nodes of one row, and the token after them; none where nothing is committed."""
    count = int(verdict.num_accepted)
    return verdict.path[0, : max(0, count)], int(verdict.next_token) if count >= 0 else None


def accepted_block(
    method: Method,
    tree: TokenTree,
    path: Int[Tensor, " depth"],
    next_token: int | None,
    receipt: Mapping[str, float] | None = None,
) -> Block:
    """The accepted tokens and the one after them, as the statistics count them.

    No `next_token` where the iteration committed nothing.
    """
    tokens = () if next_token is None else (*tree.tokens[0, path].tolist(), next_token)
    if method.drafted_by == "target":  # nothing was drafted for it
        return Block(0, tokens, 0, 0, 0, None, receipt=dict(receipt or {}))
    counts = max(0, len(tokens) - 1), int(tree.num_drafted), int(tree.depth_drafted)
    return Block(0, tokens, *counts, None, receipt=dict(receipt or {}))


def read_method(line: Mapping[str, Any]) -> Method:
    """The method of a line.

    Raises:
        ValueError: there is none, or it has no such options.
    """
    if not isinstance(name := line["name"], str):
        raise ValueError(f"the method's name is {name!r}; it must be a text")
    cls = methods.find(name)
    known = options_of(cls)
    options = {
        name: known[name].parsed(value) if isinstance(value, str) and name in known else value
        for name, value in line["options"].items()  # a text also stands for infinity
    }
    return methods.make_of(cls, options)


def read_sampling(line: Mapping[str, Any]) -> SamplingParams:
    """Those settings of a `request` line that rules ask for: all but biases and penalties."""
    truncation = ("temperature", "top_k", "top_p", "min_p")
    names = (*truncation, "max_new_tokens", "seed", "eos_token_ids")
    return SamplingParams(**{name: line[name] for name in names})


def _tree(nodes: Mapping[str, Any], drafts: Sequence[Tensor], vocab: int) -> TokenTree:
    """The tree, level by level, each node below one of the level above it."""
    widths = [int(width) for width in nodes["widths"]]
    size = sum(widths)
    columns = {name: nodes[name] for name in ("tokens", "parents", "alive", "draft_logprobs")}
    if widths[:1] != [1] or min(widths) < 1 or {len(c) for c in columns.values()} != {size}:
        raise ValueError("the tree's levels and nodes do not fit together")
    tokens = torch.tensor([columns["tokens"]], dtype=torch.int64)
    parents = torch.tensor([columns["parents"]], dtype=torch.int64)
    alive = torch.tensor([columns["alive"]], dtype=torch.bool)
    values = _row(columns["draft_logprobs"], size)
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab:
        raise ValueError(f"a token is not in the vocabulary of {vocab} tokens")
    shapes = [(width, vocab) for width in widths]
    if drafts and [level.shape[1:] for level in drafts] not in (shapes[:-1], shapes):
        raise ValueError("the draft's log-probabilities do not fit the tree")
    tree = TokenTree.root(tokens[:, 0], torch.tensor([int(nodes["previous"])], dtype=torch.int64))
    for width in widths[1:]:
        level, above = slice(tree.num_nodes, tree.num_nodes + width), tree.last_level
        below = parents[:, level]
        if not above.start <= int(below.min()) <= int(below.max()) < above.stop:
            raise ValueError("a node's parent is not on the level above it")
        tree = tree.grow(tokens[:, level], below, alive[:, level], values[:, level])
    return replace(tree, draft_laws=tuple(drafts))


def _row(values: Sequence[float | None], size: int) -> Float[Tensor, "rows nodes"]:
    """One row of numbers, in which None is minus infinity."""
    if len(values) != size:
        raise ValueError(f"{len(values)} numbers for {size} nodes")
    numbers = [NEVER if value is None else float(value) for value in values]
    return torch.tensor([numbers], dtype=torch.float32)
