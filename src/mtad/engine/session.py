"""The decoding loop: draft, score, verify, commit; one `Step` per iteration.

    prefix ─draft(drafter)─▶ tree ─target.forward─▶ logits ─verify─▶ verdict ─commit─▶ Step

The loop never asks which method it runs. An iteration is a tensor program, `_iterate`, and one read
of what it accepted. Blocks are cut at EOS, stop and budget in `_clip` alone. Knows no tokenizer.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Num
from torch import Tensor

from mtad.core.buckets import bucket_of, rows_of
from mtad.core.noise import Noise
from mtad.core.prefix import Prefix, places_without, select_rows
from mtad.core.tree import TokenTree
from mtad.engine.request import Request as Request
from mtad.engine.request import check_requests, grammars_of, prefix_of, seeds_of, size_of
from mtad.engine.step import Block as Block
from mtad.engine.step import (
    Observation,
    Step,
    block_of,
    block_tokens,
    cache_places,
    row_values,
    tokens_of,
)
from mtad.engine.workspace import Workspace
from mtad.grammar.masks import exclude
from mtad.measure.device import synchronize
from mtad.model.drafter import Draft, Drafter, begin_prefill, state_of
from mtad.model.lm import Model
from mtad.runtime.backend import OnPhase, ignore_phase
from mtad.runtime.programs import EagerReason
from mtad.runtime.state import State
from mtad.sampling.warper import Warper
from mtad.speculative.judging import judge
from mtad.speculative.method import Method, Verdict, method_key


class Session:
    """A batch of requests being decoded by one method; others may join while it runs.

    A request is known by its index among all that ever were in the session.

    Args:
        target: the target model.
        draft: the draft model or head, None for methods that need none.
        method: the decoding method; the attribute may become one of fewer nodes, not `largest`.
        requests: one row each; their prompts are prefilled at once.
        vocab: number of token ids in use; logits beyond are padding.
        on_phase: called at the borders of an iteration's phases, to time them.
        workspace: has the caches and the captured programs; None for one of its own, which
            captures CUDA graphs where the models are on one GPU, and nothing elsewhere.
        pads: fill the batch up with copies of its first row to one of few numbers of rows.
        most_captured: iterations of more rows run eagerly; None for no such bound.

    Attributes:
        rows: the running requests, in the order of the batch.
        requests: those that run or are about to.
        cached: of those that joined last, the tokens that the target found in the prefix cache.
        may_capture: whether iterations count as those before a capture.
        observe: called with every iteration, if it is set; such iterations run eagerly.
        observe_prefill: called with the target's logits after every token of a chunk of the
            prefill and the chunk's place in the texts without what is `cached`, if it is set.
        graphs: captures the iterations.
    """

    def __init__(
        self,
        target: Model,
        draft: Draft | None,
        method: Method,
        requests: Sequence[Request],
        vocab: int,
        on_phase: OnPhase | None = None,
        workspace: Workspace | None = None,
        pads: bool = False,
        most_captured: int | None = None,
    ) -> None:
        check_requests(target, draft, method, requests, vocab)
        self.method, self.largest, self.vocab, self.pads = method, method, vocab, pads
        self.most_captured = math.inf if most_captured is None else most_captured
        self._begin: OnPhase = on_phase or ignore_phase
        self.observe: Callable[[Observation], None] | None = None
        self.observe_prefill: Callable[[Tensor, slice], None] | None = None
        self._take_caches(target, draft, workspace)
        self.prefix: Prefix
        self.seeds: Tensor
        self.rows, self.lengths, self._prefilling = list[int](), list[int](), list[int]()
        self.requests: dict[int, Request] = {}
        self._num_seen, self.may_capture = 0, True
        try:
            self.join(requests)
            while self.prefill_chunk():
                pass
        except BaseException:
            self.close()
            raise
        synchronize(self.target.device)  # else decode would be charged for prefill

    def _take_caches(self, target: Model, draft: Draft | None, workspace: Workspace | None) -> None:
        self.workspace = workspace = workspace or Workspace.alone(target)
        self.target, self.drafter = workspace.take(
            target, draft, self.vocab, self.method.drafted_by
        )
        found: list[Drafter | None] = [self.target, self.drafter]
        self.lms = [lm for lm in dict.fromkeys(found) if lm is not None]
        self._give_back = weakref.finalize(self, workspace.give_back, self.lms)
        self.graphs = workspace.programs_for({d for lm in self.lms for d in lm.devices})

    def close(self) -> None:
        """Give the caches back; there are no more steps. Happens by itself where it is dropped."""
        self.rows, self.requests, self._prefilling = [], {}, []
        self._give_back()

    def join(self, requests: Sequence[Request]) -> list[int]:
        """The indices of new requests, which `prefill_chunk` is to prefill before they run.

        Requests with a budget of 0 never run. No others may join before these are prefilled.

        Raises:
            CacheMemoryError: the caches cannot grow as they must; nothing has changed.
        """
        assert not self._prefilling, "others are in prefill"
        indices = list(range(self._num_seen, self._num_seen + len(requests)))
        live = {i: r for i, r in zip(indices, requests, strict=True) if r.num_left > 0}
        if live:
            self.workspace.reserve(self.lms, *self._size_with(live.values()))
        if self.target.num_rows + len(live) > self.target.max_rows:
            self._arrange(range(len(self.rows)))  # copies are in the way
        if live:
            texts, salts = zip(*[(r.text_ids, r.cache_salt) for r in live.values()], strict=True)
            begin_prefill(self.lms, texts, salts)
        self.cached = dict(zip(live, self.target.num_cached, strict=True))
        self.requests |= live
        self._prefilling, self._num_seen = list(live), self._num_seen + len(requests)
        if self.rows:
            self._look_ahead()  # the caches may have moved
        return indices

    def slots_with(self, requests: Sequence[Request]) -> int:
        """Slots that each cache would have, over all its rows, had these requests joined."""
        rows, capacity = self.target.grown(*self._size_with(requests))
        return rows * capacity

    def _size_with(self, requests: Collection[Request]) -> tuple[int, int]:
        """Rows and slots per row that the caches need with these requests."""
        return size_of(self.largest, [*self.requests.values(), *requests], self.vocab, self.pads)

    def prefill_chunk(self) -> bool:
        """Feed a chunk of the texts that are joining; false once there is nothing to be fed."""
        if not self._prefilling:
            return False
        self.target.on_prefill = self.observe_prefill
        try:
            more = [lm.prefill_chunk() for lm in self.lms]
        finally:
            self.target.on_prefill = None  # another session may get this cache
        if not any(more):
            self._start([self.requests[i] for i in self._prefilling])
        return any(more)

    def _start(self, requests: list[Request]) -> None:
        """Let the requests that are prefilled run along with the others."""
        self._arrange(range(len(self.rows)))
        for lm in self.lms:
            lm.end_prefill()
        device, running = self.target.device, [self.requests[i] for i in self.rows] + requests
        fresh = prefix_of(requests, device, self.largest.kept)
        seeds = seeds_of(requests, device)
        self.prefix = self.prefix.join(fresh) if self.rows else fresh
        self.seeds = torch.cat([self.seeds, seeds]) if self.rows else seeds
        self.warper = Warper.of([r.sampling for r in running], self.vocab, device)
        self.lengths += [len(r.text_ids) for r in requests]
        self.rows, self._prefilling = self.rows + self._prefilling, []
        horizon = max(r.sampling.max_new_tokens for r in running)
        self.max_nodes = self.largest.num_nodes(self.vocab, horizon)
        bound = horizon if self.method.drafted_by == "target" else bucket_of(horizon)
        self.prefix = replace(self.prefix.within(bound), grammars=grammars_of(running, device))
        self._fill(range(len(self.rows)))
        self._look_ahead()

    def run(self) -> Iterator[Step]:
        """Steps until every request is finished; raises where one fails."""
        while self.rows:
            with torch.inference_mode():
                step = self.step()
            yield step.require_sound()

    def step(self) -> Step:
        """One iteration of the method for every running row."""
        committed = self._iterated().tolist()
        for lm in self.lms:
            lm.extend([tokens_of(values, len(self.lms)) for values in committed])
        if any(copy != committed[0] for copy in committed[len(self.rows) :]):
            self._fill(range(len(self.rows)))  # another place in a batch may round otherwise
        blocks = [self._clip(row, committed[row]) for row in range(len(self.rows))]
        self._leave([row for row, b in enumerate(blocks) if b.finish_reason])
        self._look_ahead()
        self._begin("end")
        return Step(tuple(blocks))

    @property
    def graph_reason(self) -> str | None:
        """Why the iterations run eagerly; None where they are captured, or will be."""
        return self.graphs.reason(method_key(self.method))

    def _iterated(self) -> Tensor:
        """What `_iterate` returns, from its captured graph where there is one."""
        key, begin, splits = method_key(self.method), self._begin, self._begin is not ignore_phase
        if reason := self._eager_reason:
            return self.graphs.run_eagerly(self._iterate, begin, reason)
        return self.graphs.run(key, self._state, self._iterate, begin, splits, self.may_capture)

    @property
    def _eager_reason(self) -> EagerReason | None:
        """Why the next iteration is not to be captured, if that does not lie in its program."""
        if self.observe is not None:
            return "observed"
        if self.prefix.grammars is not None and self.target.device.type == "cuda":
            return "grammar"
        return "large_batch" if len(self.rows) > self.most_captured else None

    @property
    def _state(self) -> State:
        """All that changes from one iteration to the next."""
        return state_of([(self, name) for name in ("prefix", "warper", "seeds")], self.lms)

    def _iterate(self, begin: OnPhase) -> Num[Tensor, "rows columns"]:
        """The `row_values` of an iteration; a tensor program that reads nothing back."""
        begin("draft")
        warp = self.warper.at(self.prefix)
        noise = Noise(self.seeds, self.prefix.num_new)
        narrow = warp.over(self.drafter.token_ids) if self.drafter else warp
        tree = self.method.draft(self.drafter, self.prefix, narrow, noise)
        begin("target")
        logits = self.target.forward(tree)
        exclude(logits, tree, self.prefix)
        begin("verify")
        verdict = judge(self.method, tree, logits, warp, noise)
        begin("commit")
        if self.observe is not None:
            self.observe(Observation(tree, logits, verdict, warp, noise, self.prefix))
        return self._commit(tree, verdict)

    def _commit(self, tree: TokenTree, verdict: Verdict) -> Tensor:
        """Lengthen the text and the caches by the block; its `row_values`."""
        block = block_tokens(tree, verdict)
        self.prefix = self.prefix.append(block, verdict.num_accepted + 1, verdict.ledger)
        for lm in self.lms:
            lm.commit(cache_places(tree, verdict.path, lm is not self.target), verdict.num_accepted)
        bad = [lm.bad_position.to(block.device) for lm in self.lms]
        return row_values(tree, verdict, bad, block, self.prefix.ledger)

    def _look_ahead(self) -> None:
        """Bound how far the next iteration may reach, in steps; its shapes follow."""
        for lm in self.lms:
            lm.look_ahead(max(self.lengths, default=1), self.max_nodes)

    def _clip(self, row: int, values: list[float]) -> Block:
        """The block of a row, cut at the first EOS, stop or end of the budget."""
        index, names = self.rows[row], [lm.name for lm in self.lms]
        request, entries = self.requests[index], self.largest.kept
        block = block_of(index, request, self.lengths[row], names, values, entries)
        self.lengths[row] += len(block.token_ids)
        return block.as_own() if self.method.drafted_by == "target" else block

    def leave(self, indices: Collection[int]) -> None:
        """Take requests out before they are finished; those in prefill only all together."""
        if self._prefilling and all(index in indices for index in self._prefilling):
            for lm in self.lms:
                lm.cancel_prefill()
            self.requests = {i: r for i, r in self.requests.items() if i not in self._prefilling}
            self._prefilling = []
        if rows := [row for row, index in enumerate(self.rows) if index in indices]:
            self._leave(rows)
            self._look_ahead()

    def _leave(self, finished: list[int]) -> None:
        """Take finished rows out of the batch; the last rows move into their places."""
        if not finished:
            return
        self._keep_read(finished)
        order = places_without(finished, len(self.rows))
        for row in finished:
            del self.requests[self.rows[row]]
        self.rows, self.lengths = [[of[row] for row in order] for of in (self.rows, self.lengths)]
        if not any(self.requests[index].grammar for index in self.rows):
            self.prefix = replace(self.prefix, grammars=None)
        self._fill(order)

    def _keep_read(self, finished: Sequence[int]) -> None:
        """Let prompts that begin with these texts, such as a chat's next turn, find them."""
        salts = {row: self.requests[self.rows[row]].cache_salt for row in finished}
        if not self.workspace.prefixes.max_bytes or not any(s is not None for s in salts.values()):
            return
        tokens = self.prefix.tokens[list(salts)].tolist()
        pairs = zip(salts.items(), tokens, strict=True)
        texts = {row: (ids[: self.lengths[row]], salt) for (row, salt), ids in pairs}
        for lm in self.lms:
            lm.keep_read(texts)

    def _fill(self, order: Sequence[int]) -> None:
        """Make row order[i] row i; copies of the first one fill the batch up."""
        num_rows = len(order)
        if self.pads and num_rows:
            num_rows = min(rows_of(num_rows), self.target.max_rows - len(self._prefilling))
        self._arrange([*order, *[*order[:1]] * (num_rows - len(order))])

    def _arrange(self, order: Sequence[int]) -> None:
        """Make row order[i] row i, in all that an iteration reads."""
        if list(order) == [*range(self.target.num_rows)]:
            return
        index = torch.tensor(order, dtype=torch.int64, device=self.seeds.device)
        self.prefix, self.warper = select_rows(self.prefix, index), select_rows(self.warper, index)
        self.seeds = self.seeds[index]
        for lm in self.lms:
            lm.release(list(order))
