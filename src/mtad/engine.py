"""The decoding loop: draft, score, verify, commit; one `Step` per iteration.

    prefix ─draft(drafter)─▶ tree ─target.forward─▶ logits ─verify─▶ verdict ─commit─▶ Step

The loop never asks which method it runs. An iteration is a tensor program, `_iterate`, and one read
of what it accepted. Clipping at EOS, stop and budget happens in one place, `_clip`. Knows no
tokenizer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mtad.capture import OnPhase as OnPhase
from mtad.errors import NonFiniteLogitsError
from mtad.graphs import Graphs, State
from mtad.lm import LM, NOWHERE, Model, bucket_of
from mtad.method import Method, Verdict
from mtad.noise import Noise
from mtad.prefix import select_rows
from mtad.requests import Request as Request
from mtad.requests import check_requests as check_requests
from mtad.requests import prefix_of, seeds_of
from mtad.sampling import Warper
from mtad.tapes import Tapes
from mtad.tree import TokenTree


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
        finish_reason: "stop" or "length" where this block is the last one, else None.
    """

    request: int
    token_ids: tuple[int, ...]
    num_accepted: int
    num_drafted: int
    depth: int
    finish_reason: str | None


@dataclass(frozen=True)
class Step:
    """One iteration of the loop: a block for every request that was still running."""

    blocks: tuple[Block, ...]


class Session:
    """A batch of requests being decoded by one method.

    Args:
        target: the target model.
        draft: the draft model, None for methods that need none.
        method: the decoding method.
        requests: what to decode, one row each.
        vocab: number of token ids in use; logits beyond are padding.
        on_phase: called at the borders of an iteration's phases, to time them.
        graphs: captures the iterations; None for CUDA graphs of its own where the models are on
            one GPU, and none elsewhere.
    """

    def __init__(
        self,
        target: Model,
        draft: Model | None,
        method: Method,
        requests: Sequence[Request],
        vocab: int,
        on_phase: OnPhase | None = None,
        graphs: Graphs | Tapes | None = None,
    ) -> None:
        check_requests(target, draft, method, requests, vocab)
        self.method, self.requests = method, list(requests)
        self._begin: OnPhase = on_phase or _nothing
        self.rows = [i for i, r in enumerate(requests) if r.sampling.max_new_tokens > 0]
        self.lms: list[LM] = []
        if self.rows:
            self._open(target, draft, [requests[i] for i in self.rows], vocab)
        self.graphs = graphs or Graphs.on(d for lm in self.lms for d in lm.devices)

    def _open(self, target: Model, draft: Model | None, live: list[Request], vocab: int) -> None:
        """Allocate the caches and read the prompts."""
        horizon = max(r.sampling.max_new_tokens for r in live)
        longest = max(len(r.prompt_ids) + r.sampling.max_new_tokens for r in live)
        self.room = self.method.num_nodes(vocab, horizon)
        size = (len(live), bucket_of(longest + self.room))
        self.target = LM(target, "target", vocab, *size)
        self.drafter: LM | None = self.target if self.method.drafter == "target" else None
        if draft is not None and self.method.drafter == "draft":
            self.drafter = LM(draft, "draft", vocab, *size)
        self.lms = list({id(lm): lm for lm in (self.target, self.drafter) if lm}.values())
        device = self.target.device
        bound = horizon if self.method.drafter == "target" else bucket_of(horizon)
        self.prefix = prefix_of(live, bound, bucket_of(longest), device)
        self.warper = Warper.of([r.sampling for r in live], vocab, device)
        self.seeds = seeds_of(live, device)
        self.lengths = [len(r.prompt_ids) for r in live]
        for lm in self.lms:
            lm.prefill([r.prompt_ids for r in live])
        self._look_ahead()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # so that the times of prefill and decode can be told

    def run(self) -> Iterator[Step]:
        """Steps until every request is finished."""
        while self.rows:
            with torch.inference_mode():
                step = self.step()
            yield step

    def step(self) -> Step:
        """One iteration of the method for every running row."""
        committed = self._iterated().tolist()
        blocks = [self._clip(row, values) for row, values in enumerate(committed)]
        self._leave([row for row, b in enumerate(blocks) if b.finish_reason])
        self._look_ahead()
        self._begin("end")
        return Step(tuple(blocks))

    @property
    def graph_reason(self) -> str | None:
        """Why the iterations run eagerly; None where they are captured, or will be."""
        return self.graphs.reason(name_of(self.method))

    def _iterated(self) -> Tensor:
        """What `_iterate` returns, from its captured graph where there is one."""
        split = self._begin is not _nothing
        return self.graphs.run(name_of(self.method), self._state, self._iterate, self._begin, split)

    @property
    def _state(self) -> State:
        """All that changes from one iteration to the next."""
        own: list[tuple[object, str]] = [(self, name) for name in ("prefix", "warper", "seeds")]
        caches = [(lm, name) for lm in self.lms for name in LM.STATE]
        return State([*own, *caches], [buffer for lm in self.lms for buffer in lm.buffers])

    def _iterate(self, begin: OnPhase) -> Int[Tensor, "rows columns"]:
        """What an iteration committed, for `_clip`; a tensor program that reads nothing back."""
        begin("draft")
        warp = self.warper.at(self.prefix)
        noise = Noise(self.seeds, self.prefix.num_new)
        tree = self.method.draft(self.drafter, self.prefix, warp, noise)
        begin("target")
        logits = self.target.forward(tree)
        begin("verify")
        verdict = self.method.verify(tree, logits, warp, noise)
        begin("commit")
        return self._commit(tree, verdict)

    def _commit(self, tree: TokenTree, verdict: Verdict) -> Tensor:
        """Lengthen the text and the caches by the block; per row what `_clip` takes apart."""
        block = _block_tokens(tree, verdict)
        self.prefix = self.prefix.append(block, verdict.num_accepted + 1)
        for lm in self.lms:
            lm.commit(_where(tree, verdict.path, lm is not self.target), verdict.num_accepted)
        alive = tree.alive[:, 1:]
        depth = torch.where(alive, tree.depths[1:], 0).amax(1) if tree.depth else alive.sum(1)
        bad = [lm.bad_position.to(block.device) for lm in self.lms]
        columns = [verdict.num_accepted, alive.sum(1), depth, *bad]
        return torch.cat([torch.stack(columns, dim=1), block], dim=1)

    def _look_ahead(self) -> None:
        """Tell the models how far the next iteration may reach.

        The bound grows in steps of a bucket: all shapes of an iteration follow from it, and one
        bucket of attention serves all forwards of many iterations.
        """
        reach = max(self.lengths, default=1) - 1 + self.room
        for lm in self.lms:
            lm.longest = bucket_of(reach) - self.room

    def _clip(self, row: int, values: list[int]) -> Block:
        """The block of a row, cut at the first EOS, stop or end of the budget."""
        accepted, drafted, depth, *rest = values
        bad, tokens = rest[: len(self.lms)], rest[len(self.lms) :][: accepted + 1]
        self._check_finite(row, bad)
        index = self.rows[row]
        request, kept, reason = self.requests[index], [], None
        room = len(request.prompt_ids) + request.sampling.max_new_tokens - self.lengths[row]
        for token in tokens:
            kept.append(token)
            if token in request.sampling.eos_token_ids or (request.stop and request.stop(token)):
                reason = "stop"
            elif len(kept) >= room:
                reason = "length"
            if reason:
                break
        self.lengths[row] += len(kept)
        if self.method.drafter == "target":
            accepted = drafted = depth = 0  # its own block: nothing was drafted for it
        return Block(index, tuple(kept), min(accepted, len(kept)), drafted, depth, reason)

    def _check_finite(self, row: int, bad: list[int]) -> None:
        for lm, position in zip(self.lms, bad, strict=True):
            if position != NOWHERE:
                raise NonFiniteLogitsError(
                    f"the {lm.name} model returned NaN or infinite logits after position "
                    f"{position} of request {self.rows[row]}; check its weights, or load it in "
                    "float32 or bfloat16 if it is in float16"
                )

    def _leave(self, finished: list[int]) -> None:
        """Take finished rows out of the batch; the last rows move into their places."""
        if not finished:
            return
        gone, total = set(finished), len(self.rows)
        kept = total - len(gone)
        movers = iter([row for row in range(kept, total) if row not in gone])
        order = [next(movers) if row in gone else row for row in range(kept)]
        self.rows = [self.rows[row] for row in order]
        self.lengths = [self.lengths[row] for row in order]
        index = torch.tensor(order, dtype=torch.int64, device=self.seeds.device)
        self.prefix = select_rows(self.prefix, index)
        self.warper = select_rows(self.warper, index)
        self.seeds = self.seeds[index]
        for lm in self.lms:
            lm.release(order)


def name_of(method: Method) -> Hashable:
    """What captured iterations of a method are kept under."""
    return type(method), repr(method)


def decode(
    target: Model, draft: Model | None, method: Method, requests: Sequence[Request], vocab: int
) -> Iterator[Step]:
    """The steps that complete `requests`; requests with a budget of 0 get no block."""
    with torch.inference_mode():
        session = Session(target, draft, method, requests, vocab)
    yield from session.run()


def _nothing(phase: str) -> None:
    """Nobody asked to be told."""


def _block_tokens(tree: TokenTree, verdict: Verdict) -> Int[Tensor, "rows width"]:
    """The accepted tokens of each row, then the one that follows them; the rest is padding."""
    path = torch.nn.functional.pad(tree.tokens.gather(1, verdict.path), (0, 1))
    return path.scatter(1, verdict.num_accepted[:, None], verdict.next_token[:, None])


def _where(tree: TokenTree, path: Tensor, drafter: bool) -> Int[Tensor, "rows depth"] | None:
    """The cache places of the accepted path, None where they already are in order."""
    if drafter and tree.draft_slots is not None:
        return tree.draft_slots.gather(1, path)
    return None if tree.is_chain else path
