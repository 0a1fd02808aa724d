"""The decoding loop: draft, score, verify, commit; one `Step` per iteration.

    prefix ─draft(drafter)─▶ tree ─target.forward─▶ logits ─verify─▶ verdict ─commit─▶ Step

The loop never asks which method it runs, and reads one tensor back to the host per iteration: what
was accepted. Clipping at EOS, stop and budget happens in one place, `_clip`. Knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from mtad.errors import ContextLengthError, NonFiniteLogitsError, PromptError
from mtad.lm import LM, NOWHERE, Model, context_of
from mtad.method import Method, Verdict
from mtad.noise import Noise
from mtad.prefix import Prefix, select_rows
from mtad.sampling import SamplingParams, Warper
from mtad.tree import TokenTree

OnPhase = Callable[[str], None]
"""Told "draft", "target", "verify" and "commit" as they begin, and "end" after each iteration."""


@dataclass(frozen=True)
class Request:
    """One text to complete.

    Attributes:
        prompt_ids: at least one token id.
        sampling: how to sample and when to end.
        stop: called with every new token in order; true ends the text after that token.
    """

    prompt_ids: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: Callable[[int], bool] | None = None


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
    """

    def __init__(
        self,
        target: Model,
        draft: Model | None,
        method: Method,
        requests: Sequence[Request],
        vocab: int,
        on_phase: OnPhase | None = None,
    ) -> None:
        check_requests(target, draft, method, requests, vocab)
        self.method, self.requests = method, list(requests)
        self._begin: OnPhase = on_phase or (lambda phase: None)
        self.rows = [i for i, r in enumerate(requests) if r.sampling.max_new_tokens > 0]
        self.lms: list[LM] = []
        if self.rows:
            self._open(target, draft, [requests[i] for i in self.rows], vocab)

    def _open(self, target: Model, draft: Model | None, live: list[Request], vocab: int) -> None:
        """Allocate the caches and read the prompts."""
        horizon = max(r.sampling.max_new_tokens for r in live)
        longest = max(len(r.prompt_ids) + r.sampling.max_new_tokens for r in live)
        size = (len(live), longest + self.method.num_nodes(vocab, horizon))
        self.target = LM(target, "target", vocab, *size)
        self.drafter: LM | None = self.target if self.method.drafter == "target" else None
        if draft is not None and self.method.drafter == "draft":
            self.drafter = LM(draft, "draft", vocab, *size)
        self.lms = list({id(lm): lm for lm in (self.target, self.drafter) if lm}.values())
        device = self.target.device
        self.prefix = _prefix(live, horizon, longest, device)
        self.warper = Warper.of([r.sampling for r in live], vocab, device)
        self.seeds = torch.tensor([_int64(r.sampling.seed) for r in live], device=device)
        self.lengths = [len(r.prompt_ids) for r in live]
        for lm in self.lms:
            lm.prefill([r.prompt_ids for r in live])
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
        self._begin("draft")
        warp = self.warper.at(self.prefix)
        noise = Noise(self.seeds, self.prefix.num_new)
        tree = self.method.draft(self.drafter, self.prefix, warp, noise)
        self._begin("target")
        logits = self.target.forward(tree)
        self._begin("verify")
        verdict = self.method.verify(tree, logits, warp, noise)
        self._begin("commit")
        step = self._commit(tree, verdict)
        self._begin("end")
        return step

    def _commit(self, tree: TokenTree, verdict: Verdict) -> Step:
        block = _block_tokens(tree, verdict)
        self.prefix = self.prefix.append(block, verdict.num_accepted + 1)
        blocks = self._read(block, tree, verdict)
        for lm in self.lms:
            path = _where(tree, verdict.path, drafter=lm is not self.target)
            lm.commit(path, verdict.num_accepted, max(self.lengths) - 1)
        self._leave([row for row, b in enumerate(blocks) if b.finish_reason])
        return Step(tuple(blocks))

    def _read(self, block: Tensor, tree: TokenTree, verdict: Verdict) -> list[Block]:
        """The one read of the iteration: what every row got."""
        alive = tree.alive[:, 1:]
        depth = torch.where(alive, tree.depths[1:], 0).amax(1) if tree.depth else alive.sum(1)
        bad = [lm.bad_position.to(block.device) for lm in self.lms]
        columns = [verdict.num_accepted, alive.sum(1), depth, *bad]
        host = torch.cat([torch.stack(columns, dim=1), block], dim=1).tolist()
        return [self._clip(row, values) for row, values in enumerate(host)]

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


def decode(
    target: Model, draft: Model | None, method: Method, requests: Sequence[Request], vocab: int
) -> Iterator[Step]:
    """The steps that complete `requests`; requests with a budget of 0 get no block."""
    with torch.inference_mode():
        session = Session(target, draft, method, requests, vocab)
    yield from session.run()


def check_requests(
    target: Model, draft: Model | None, method: Method, requests: Sequence[Request], vocab: int
) -> None:
    """Refuse requests that cannot be decoded, naming the first one and why; as for `Session`.

    Raises:
        ValueError: the draft is missing, or a sampling setting that the method can't honour.
        PromptError, ContextLengthError: see `mtad.errors`.
    """
    contexts = {"target": context_of(target)}
    if method.drafter == "draft":
        if draft is None:
            raise ValueError(f"{method.name} needs a draft model and none was given")
        contexts["draft"] = context_of(draft)
    for index, request in enumerate(requests):
        method.check(request.sampling)
        _check_prompt(index, request, vocab)
        for name, context in contexts.items():
            _check_context(index, request, name, context)


def _check_prompt(index: int, request: Request, vocab: int) -> None:
    if not request.prompt_ids:
        raise PromptError(
            f"request {index}: the prompt is empty; give at least one token (the tokenizer may "
            "have no BOS token)"
        )
    for token in (*request.prompt_ids, *request.sampling.eos_token_ids):
        if not 0 <= token < vocab:
            raise PromptError(
                f"request {index}: token id {token} is not in the vocabulary of {vocab} tokens"
            )


def _check_context(index: int, request: Request, name: str, context: int | None) -> None:
    prompt, new = len(request.prompt_ids), request.sampling.max_new_tokens
    if context is not None and prompt + new > context:
        raise ContextLengthError(
            f"request {index}: the prompt has {prompt} tokens and max_new_tokens is {new}, "
            f"together {prompt + new}; the {name} model's context is {context} tokens: shorten "
            f"the prompt or set max_new_tokens to at most {max(0, context - prompt)}"
        )


def _prefix(requests: Sequence[Request], horizon: int, width: int, device: torch.device) -> Prefix:
    def column(values: list[int]) -> Tensor:
        return torch.tensor(values, device=device, dtype=torch.int64)

    def table(rows: list[list[int]], width: int, fill: int) -> Tensor:
        padded = [[*row, *[fill] * (width - len(row))] for row in rows]
        return torch.tensor(padded, device=device, dtype=torch.int64)

    eos = [list(r.sampling.eos_token_ids) for r in requests]
    lengths = column([len(r.prompt_ids) for r in requests])
    return Prefix(
        tokens=table([list(r.prompt_ids) for r in requests], width, 0),
        lengths=lengths,
        prompt_lengths=lengths,
        budgets=column([r.sampling.max_new_tokens for r in requests]),
        eos=table(eos, max(1, *map(len, eos)), -1) if eos else table([], 1, -1),
        horizon=horizon,
    )


def _block_tokens(tree: TokenTree, verdict: Verdict) -> Int[Tensor, "rows width"]:
    """The accepted tokens of each row, then the one that follows them; the rest is padding."""
    path = torch.nn.functional.pad(tree.tokens.gather(1, verdict.path), (0, 1))
    return path.scatter(1, verdict.num_accepted[:, None], verdict.next_token[:, None])


def _where(tree: TokenTree, path: Tensor, drafter: bool) -> Int[Tensor, "rows depth"] | None:
    """The cache places of the accepted path, None where they already are in order."""
    if drafter and tree.draft_slots is not None:
        return tree.draft_slots.gather(1, path)
    return None if tree.is_chain else path


def _int64(seed: int) -> int:
    """A seed as a signed 64-bit number."""
    return (seed + 2**63) % 2**64 - 2**63
