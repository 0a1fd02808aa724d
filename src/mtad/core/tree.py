"""The token tree: what a draft proposes, laid out level by level below the last committed token.

Knows no model, no cache and no method. Node 0 is the root, the last committed token; level d holds
the nodes of depth d, so a node's position in the text is the root's position plus d. B rows share
the shape of the tree but not its tokens, parents or the nodes that are alive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.core.sparse import DraftLaw, dense_of


@dataclass(frozen=True)
class TokenTree:
    """A batch of token trees of one shape; a value, never changed in place.

    Attributes:
        tokens: (B, N) token ids; node 0 is the root.
        parents: (B, N) node index of the parent, -1 for the root.
        alive: (B, N) false for nodes that do not exist in this row: below an EOS, beyond the
            budget, outside the draft's support. Dead nodes are never accepted.
        ancestors: (B, N, N) true at [b, i, j] where j is i or an ancestor of i.
        node_logprobs: (B, N) log q(node | its path) under what it was drawn from, 0 at the root and
            at dead nodes; -inf at places of a beam level that hold no beam.
        widths: number of nodes of each level; static.
        draft_laws: for each expanded level d, the draft's log-probabilities after its nodes, dense
            (B, widths[d], V) or of few tokens; for rules that ask for it also after the last level.
            Empty for drafts without any (prompt lookup) and for rules that need none (beams).
        previous: (B,) the token before the root (the root itself where there is none).
        draft_slots: (B, N) where each node lies in the drafter's cache, counted from the root;
            None where that is the node's own index.
        whole: the tree that this one was selected from, for those who want to see what was not
            proposed; None where nothing was left out.
    """

    tokens: Int[Tensor, "rows nodes"]
    parents: Int[Tensor, "rows nodes"]
    alive: Bool[Tensor, "rows nodes"]
    ancestors: Bool[Tensor, "rows nodes nodes"]
    node_logprobs: Float[Tensor, "rows nodes"]
    widths: tuple[int, ...]
    draft_laws: tuple[DraftLaw, ...]
    previous: Int[Tensor, " rows"]
    draft_slots: Int[Tensor, "rows nodes"] | None = None
    whole: TokenTree | None = None

    @classmethod
    def root(cls, tokens: Int[Tensor, " rows"], previous: Int[Tensor, " rows"]) -> TokenTree:
        """The tree of the last committed tokens alone."""
        return cls.chain(tokens[:, None], previous)

    @classmethod
    def chain(cls, tokens: Int[Tensor, "rows nodes"], previous: Int[Tensor, " rows"]) -> TokenTree:
        """The tree of the last committed tokens and one path below them, all of it alive."""
        length, device = tokens.shape[1], tokens.device
        lower = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        return cls(
            tokens=tokens,
            parents=torch.arange(-1, length - 1, device=device).expand_as(tokens),
            alive=torch.ones_like(tokens, dtype=torch.bool),
            ancestors=lower.expand(len(tokens), -1, -1),
            node_logprobs=torch.zeros_like(tokens, dtype=torch.float32),
            widths=(1,) * length,
            draft_laws=(),
            previous=previous,
        )

    @property
    def num_rows(self) -> int:
        """B."""
        return self.tokens.shape[0]

    @property
    def num_nodes(self) -> int:
        """N, the root included."""
        return sum(self.widths)

    @property
    def depth(self) -> int:
        """Number of levels below the root."""
        return len(self.widths) - 1

    @property
    def is_chain(self) -> bool:
        """Whether no level holds more than one node."""
        return all(width == 1 for width in self.widths)

    @cached_property
    def levels(self) -> tuple[slice, ...]:
        """The slice of node indices of each level."""
        ends = tuple(accumulate(self.widths))
        return tuple(slice(end - w, end) for end, w in zip(ends, self.widths, strict=True))

    @property
    def last_level(self) -> slice:
        """The slice of the deepest level."""
        return slice(self.num_nodes - self.widths[-1], self.num_nodes)

    @cached_property
    def depths(self) -> Int[Tensor, " nodes"]:
        """Depth of every node.

        Made once per tree, on its device and from no host value, so that it may be made within a
        capture; a cache for all trees would have to outlive the programs that read its addresses.
        """
        width, device = self.widths[-1], self.tokens.device
        if all(w == width for w in self.widths[1:]):
            order = torch.arange(self.num_nodes, device=device)
            return order if self.is_chain else (order + (width - 1)) // width
        levels = enumerate(self.widths)
        return torch.cat([torch.full((w,), d, dtype=torch.int64, device=device) for d, w in levels])

    @property
    def num_drafted(self) -> Int[Tensor, " rows"]:
        """Nodes below the root that are alive."""
        return self.alive[:, 1:].sum(1)

    @property
    def depth_drafted(self) -> Int[Tensor, " rows"]:
        """Depth of the deepest node that is alive."""
        return torch.where(self.alive, self.depths, 0).amax(1)

    def grow(
        self,
        tokens: Int[Tensor, "rows width"],
        parents: Int[Tensor, "rows width"],
        alive: Bool[Tensor, "rows width"],
        node_logprobs: Float[Tensor, "rows width"],
        logprobs: DraftLaw | None = None,
    ) -> TokenTree:
        """The tree with one more level; `logprobs` is the draft's after the level above it."""
        width = tokens.shape[1]
        above = self.ancestors.gather(1, parents[:, :, None].expand(-1, -1, self.num_nodes))
        own = torch.eye(width, dtype=torch.bool, device=tokens.device)
        below = torch.cat([above, own.expand(self.num_rows, -1, -1)], dim=2)
        kept = torch.nn.functional.pad(self.ancestors, (0, width))
        return replace(
            self,
            tokens=torch.cat([self.tokens, tokens], dim=1),
            parents=torch.cat([self.parents, parents], dim=1),
            alive=torch.cat([self.alive, alive], dim=1),
            ancestors=torch.cat([kept, below], dim=1),
            node_logprobs=torch.cat([self.node_logprobs, node_logprobs], dim=1),
            widths=(*self.widths, width),
            draft_laws=self.draft_laws if logprobs is None else (*self.draft_laws, logprobs),
        )

    @cached_property
    def draft_logprobs(self) -> tuple[Float[Tensor, "rows _ vocab"], ...]:
        """`draft_laws` over the whole vocabulary."""
        return tuple(map(dense_of, self.draft_laws))

    def accumulate(self, values: Float[Tensor, "rows nodes"]) -> Float[Tensor, "rows nodes"]:
        """Sums of `values` from the first level down to each node, without the root's own."""
        if self.is_chain:
            return torch.nn.functional.pad(values[:, 1:].cumsum(1), (1, 0))
        sums = torch.zeros_like(values[:, :1])
        for level in self.levels[1:]:
            above = sums.gather(1, self.parents[:, level])
            sums = torch.cat([sums, above + values[:, level]], dim=1)
        return sums

    @property
    def joint_logprobs(self) -> Float[Tensor, "rows nodes"]:
        """The log-probability of each node's whole path under the draft."""
        return self.accumulate(self.node_logprobs)

    def token_values(
        self, values: Float[Tensor, "rows nodes vocab"]
    ) -> Float[Tensor, "rows nodes"]:
        """What `values` (per node) has for each node's token at its parent; 0 at the root."""
        places = self.parents[:, 1:] * values.shape[2] + self.tokens[:, 1:]
        return torch.nn.functional.pad(values.flatten(1).gather(1, places), (1, 0))

    def path_to(self, nodes: Int[Tensor, " rows"]) -> Int[Tensor, "rows depth"]:
        """Node indices from level 1 down to `nodes`, 0 below them."""
        rows = torch.arange(self.num_rows, device=nodes.device)
        line = self.ancestors[rows, nodes] * torch.arange(self.num_nodes, device=nodes.device)
        levels = torch.arange(1, self.depth + 1, device=nodes.device)[:, None]
        on_level = (self.depths == levels).double()  # integers up to 2^53 stay what they are
        return (line.double() @ on_level.T).long()

    def select(self, path: Int[Tensor, "rows depth"]) -> TokenTree:
        """The chain of the root and the nodes of `path`, which stay where the drafter put them."""
        nodes = torch.nn.functional.pad(path, (1, 0))
        return replace(
            TokenTree.chain(self.tokens.gather(1, nodes), self.previous),
            alive=self.alive.gather(1, nodes),
            node_logprobs=self.node_logprobs.gather(1, nodes),
            draft_slots=nodes,
            whole=self,
        )
