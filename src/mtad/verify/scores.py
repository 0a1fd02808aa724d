"""The target's logits after every path below one text, each computed once.

Logits depend on the text alone. So the paths of all trees that are drafted below a text are put
together into few large trees of one row, which the target scores as it scores any tree; a path that
comes again is looked up. Thousands of draws need no more forwards than there are different paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtad.api.pair import ModelPair
from mtad.core.noise import Noise
from mtad.core.tree import TokenTree
from mtad.engine.request import Request, prefix_of
from mtad.model.finite import failure
from mtad.sampling.warper import Warper
from mtad.speculative.judging import judge, judges_few
from mtad.speculative.method import Method, Verdict

MOST_NODES = 256
"""Nodes that one forward scores."""
MOST_NUMBERS = 2**27
"""Logits or candidates that are kept, 512 MiB in float32."""


@dataclass(frozen=True)
class _Looked(Warper):
    """A warper whose candidates were looked up."""

    found: tuple[Tensor, Tensor] | None = None

    def compact(
        self, logits: Tensor, tree: TokenTree, nodes: slice | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What was found."""
        assert self.found is not None and nodes is None
        return self.found


class _Table:
    """Tensors of one row per path; rows are added at the end."""

    def __init__(self) -> None:
        self._buffer, self.num_rows = torch.empty(0, dtype=torch.float32), 0

    def add(self, rows: Tensor) -> None:
        """Add rows of equal shape and type."""
        stop = self.num_rows + len(rows)
        if stop > len(self._buffer):
            grown = rows.new_empty(2 * stop, *rows.shape[1:])
            if self.num_rows:
                grown[: self.num_rows] = self._buffer[: self.num_rows]
            self._buffer = grown
        self._buffer[self.num_rows : stop] = rows
        self.num_rows = stop

    def __getitem__(self, places: Tensor) -> Tensor:
        return self._buffer[places]


class PathScores:
    """Logits of a pair's target after the paths below one text.

    Args:
        pair: its target scores, with a cache from the pair's workspace.
        request: the text, whose last token is the root, and the sampling settings.

    Attributes:
        num_scored: nodes that the target has scored so far.
    """

    def __init__(self, pair: ModelPair, request: Request) -> None:
        models, self._text = pair.models, request.text_ids
        self._pair, self._vocab, self.num_scored = pair, models.vocab, 0
        self._lm, _ = pair.workspace.take(models.target, None, models.vocab, "none")
        with torch.inference_mode():
            pair.workspace.reserve([self._lm], 1, len(self._text) + MOST_NODES)
            self._lm.prefill([self._text], [request.cache_salt])
        prefix = prefix_of([request], self._lm.device)
        self._warp = Warper.of([request.sampling], models.vocab, self._lm.device).at(prefix)
        self._ids: dict[tuple[int, int], int] = {}
        self._nodes: list[tuple[int, int]] = [(-1, self._text[-1])]  # parent and token of each path
        self._num_asked = self._num_known = 0
        self._logits, self._values, self._places = _Table(), _Table(), _Table()
        self._keeps_logits = True

    def close(self) -> None:
        """Give the cache back."""
        self._pair.workspace.give_back([self._lm])

    def after(self, path: Sequence[int]) -> Float[Tensor, " vocab"]:
        """The logits after the tokens of a path; to be asked for before the first tree is judged.

        These are the same ones that trees are judged by.
        """
        assert self._keeps_logits, "a tree was judged already"
        node = 0
        for token in path:
            node = self._id(node, token)
        self._score()
        self._num_asked = len(self._nodes)
        return self._logits[torch.tensor(node, dtype=torch.int64)]

    def judge(self, method: Method, tree: TokenTree, warp: Warper, noise: Noise) -> Verdict:
        """What a method accepts of trees below the text; as `mtad.speculative.judging.judge`."""
        is_few = judges_few(method, tree, self._vocab, warp)
        self._keeps_logits = not is_few
        per_path = 2 * warp.width if is_few else self._vocab
        if (len(self._nodes) + tree.tokens.numel()) * per_path > MOST_NUMBERS:
            self._forget()
        ids = self._paths(tree)
        self._score()
        if not is_few:
            return judge(method, tree, self._logits[ids], warp, noise)
        unread = torch.empty(1, 1, 1, dtype=torch.float32, device=ids.device)
        unread = unread.expand(*ids.shape, self._vocab)
        found = self._values[ids], self._places[ids]
        return judge(method, tree, unread, _Looked(**vars(warp), found=found), noise)

    def _forget(self) -> None:
        """Drop the paths behind those that were asked for."""
        kept = max(1, self._num_asked)
        self._nodes, self._num_known = self._nodes[:kept], min(kept, self._num_known)
        self._ids = {key: node for key, node in self._ids.items() if node < kept}
        for table in (self._logits, self._values, self._places):
            table.num_rows = min(table.num_rows, kept)

    def _id(self, parent: int, token: int) -> int:
        """The number of a path; parents have lower ones."""
        found = self._ids.setdefault((parent, token), len(self._nodes))
        if found == len(self._nodes):
            self._nodes.append((parent, token))
        return found

    def _paths(self, tree: TokenTree) -> Int[Tensor, "rows nodes"]:
        """The number of each node's path; that of the node above where it is not alive."""
        ids = torch.zeros_like(tree.tokens[:, :1])
        for level in tree.levels[1:]:
            above, alive = ids.gather(1, tree.parents[:, level]), tree.alive[:, level]
            keys = above * self._vocab + tree.tokens[:, level]
            distinct, place = torch.unique(keys[alive], return_inverse=True)
            numbers = [self._id(*divmod(key, self._vocab)) for key in distinct.tolist()]
            named = above.clone()
            named[alive] = torch.tensor(numbers, dtype=torch.int64, device=ids.device)[place]
            ids = torch.cat([ids, named], dim=1)
        return ids

    @torch.inference_mode()
    def _score(self) -> None:
        """Score the paths that were not scored yet."""
        while (start := self._num_known) < len(self._nodes):
            shown, stop = set[int](), start
            while stop < len(self._nodes):
                line = {*self._line(stop)}
                if len(shown | line) > MOST_NODES:
                    break
                shown, stop = shown | line, stop + 1
            order = sorted(shown, key=lambda node: (len(self._line(node)), node))
            tree = self._tree(order)
            logits = self._lm.forward(tree)
            if error := failure("target", int(self._lm.bad_position[0]), 0):
                raise error
            fresh = [order.index(node) for node in range(start, stop)]
            self._keep(logits, tree, torch.tensor(fresh, dtype=torch.int64, device=logits.device))
            self._num_known, self.num_scored = stop, self.num_scored + len(order)

    def _keep(self, logits: Tensor, tree: TokenTree, fresh: Int[Tensor, " fresh"]) -> None:
        """Keep what was scored: the candidates where there are few, the logits where asked for."""
        values, places = self._warp.compact(logits, tree)
        if places is not None:
            self._values.add(values[0, fresh])
            self._places.add(places[0, fresh])
        if self._keeps_logits:
            self._logits.add(logits[0, fresh])

    def _line(self, node: int) -> list[int]:
        """A path's nodes, from its own up to the root."""
        line = [node]
        while (node := self._nodes[node][0]) >= 0:
            line.append(node)
        return line

    def _tree(self, order: Sequence[int]) -> TokenTree:
        """The tree of these nodes, whose parents are among them; level by level."""
        place, device = {node: index for index, node in enumerate(order)}, self._lm.device
        ancestors = torch.zeros(1, len(order), len(order), dtype=torch.bool)
        depths = [len(self._line(node)) - 1 for node in order]
        for index, node in enumerate(order):
            ancestors[0, index, [place[above] for above in self._line(node)]] = True
        said = [[self._nodes[node][1] for node in order]]
        tokens = torch.tensor(said, dtype=torch.int64, device=device)
        parents = [[place.get(self._nodes[node][0], -1) for node in order]]
        return TokenTree(
            tokens=tokens,
            parents=torch.tensor(parents, dtype=torch.int64, device=device),
            alive=torch.ones_like(tokens, dtype=torch.bool),
            ancestors=ancestors.to(device),
            node_logprobs=torch.zeros_like(tokens, dtype=torch.float32),
            widths=tuple(depths.count(depth) for depth in range(max(depths) + 1)),
            draft_laws=(),
            previous=torch.tensor([self._text[-2:][0]], dtype=torch.int64, device=device),
        )
