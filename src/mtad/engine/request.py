"""One text to complete, what is refused before decoding begins, and a batch of texts as tensors.

Knows no loop and no cache.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from mtad.core.buckets import bucket_of, rows_of, width_of
from mtad.core.noise import signed
from mtad.core.prefix import NO_GRAMMAR, Prefix
from mtad.errors import ContextLengthError, OptionError, PromptError
from mtad.grammar.matcher import GrammarState
from mtad.model.context import changes_with_length, context_of, embedding_rows
from mtad.model.drafter import Draft
from mtad.model.lm import Model
from mtad.sampling.params import SamplingParams, require_some_token
from mtad.speculative.method import Method


@dataclass(frozen=True)
class Request:
    """One text to complete.

    Attributes:
        prompt_ids: at least one token id.
        sampling: how to sample and when to end.
        stop: called with every new token in order; true ends the text after that token.
        output_ids: tokens of the text that are there already, where it is taken up again.
        receipt: what the method had kept of them, see `Block.receipt`.
        grammar: what the text must be, at its beginning or after `output_ids`; `stop` has to push
            every new token to it.
        cache_salt: prefixes of prompts are shared with requests that have the same one; None
            shares nothing, so that every token of the prompt is fed.
    """

    prompt_ids: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: Callable[[int], bool] | None = None
    output_ids: Sequence[int] = ()
    receipt: Mapping[str, float] = field(default_factory=dict)
    grammar: GrammarState | None = None
    cache_salt: Hashable | None = ""

    @property
    def text_ids(self) -> list[int]:
        """Prompt and output."""
        return [*self.prompt_ids, *self.output_ids]

    @property
    def num_left(self) -> int:
        """New tokens that the budget still allows."""
        return self.sampling.max_new_tokens - len(self.output_ids)


def check_requests(
    target: Model, draft: Draft | None, method: Method, requests: Sequence[Request], vocab: int
) -> None:
    """Refuse requests that cannot be decoded, naming the first one and why; as for `Session`.

    Raises:
        ValueError: the draft is missing, or a sampling setting that the method can't honour.
        PromptError, ContextLengthError: see `mtad.errors`.
    """
    models: dict[str, Draft] = {"target": target}
    if method.drafted_by == "draft":
        if draft is None:
            raise ValueError(f"{method.name} needs a draft model and none was given")
        models["draft"] = draft
    reaches = [(name, model, context_of(model)) for name, model in models.items()]
    known = min(vocab, embedding_rows(target))
    for index, request in enumerate(requests):
        method.check(request.sampling)
        _check_prompt(index, request, vocab)
        _check_receipt(index, request, method)
        _check_grammar(index, request)
        require_some_token(request.sampling, vocab, known, "target")
        for name, model, context in reaches:
            _check_context(index, request, name, model, context)


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


def _check_receipt(index: int, request: Request, method: Method) -> None:
    if unknown := [name for name in request.receipt if name not in method.kept]:
        known = ", ".join(method.kept) or "nothing"
        raise ValueError(
            f"request {index}: its receipt has {', '.join(unknown)}, and {method.name} keeps "
            f"{known} of a text; give the receipt of a text that {method.name} began"
        )


def _check_grammar(index: int, request: Request) -> None:
    """What bans tokens whatever the text could leave none that its grammar allows."""
    params = request.sampling
    if request.grammar is None:
        return
    bias = [value for value in params.logit_bias.values() if value == float("-inf")]
    for name, given in (
        ("min_new_tokens", params.min_new_tokens),
        ("suppress_tokens", params.suppress_tokens),
        ("logit_bias", bias),
    ):
        if given:
            raise OptionError(
                f"request {index}: {name} bans tokens and the text has a grammar; where that "
                f"allows no others, nothing would be left: leave {name} out, or write the ban into "
                "the grammar",
                name,
            )


def _check_context(
    index: int, request: Request, name: str, model: Draft, context: int | None
) -> None:
    prompt, new = len(request.prompt_ids), request.sampling.max_new_tokens
    if context is None or prompt + new <= context:
        return
    limit = f"the {name} model's context is {context} tokens"
    if changes_with_length(model):
        limit += " (beyond them its rope would rotate every position otherwise)"
    if prompt >= context:
        raise ContextLengthError(
            f"request {index}: the prompt has {prompt} tokens; {limit}, for the prompt and what is "
            f"new: shorten the prompt to at most {context - 1}"
        )
    raise ContextLengthError(
        f"request {index}: the prompt has {prompt} tokens and max_new_tokens is {new}, together "
        f"{prompt + new}; {limit}: shorten the prompt or set max_new_tokens to at most "
        f"{context - prompt}"
    )


def size_of(
    method: Method, requests: Sequence[Request], vocab: int, pads: bool = False
) -> tuple[int, int]:
    """Rows and slots per row that the caches need for these requests; `pads` as for `Session`."""
    horizon = max((r.sampling.max_new_tokens for r in requests), default=0)
    longest = max((len(r.prompt_ids) + r.sampling.max_new_tokens for r in requests), default=0)
    rows = rows_of(len(requests)) if pads and requests else len(requests)
    return rows, bucket_of(longest + method.num_nodes(vocab, horizon))


def prefix_of(
    requests: Sequence[Request], device: torch.device, entries: Sequence[str] = ()
) -> Prefix:
    """The texts of requests as committed, with room for what may still come.

    Args:
        requests: one row each.
        device: of the tensors.
        entries: names of what the method keeps of each text.
    """

    def column(values: list[int]) -> Tensor:
        return torch.tensor(values, device=device, dtype=torch.int64)

    def table(rows: list[list[int]], width: int, fill: int) -> Tensor:
        most = max(map(len, rows))
        padded = [[*row, *[fill] * (most - len(row))] for row in rows]
        known = torch.tensor(padded, device=device, dtype=torch.int64)
        return torch.nn.functional.pad(known, (0, width - most), value=fill)

    eos = [list(r.sampling.eos_token_ids) for r in requests]
    budgets = [r.sampling.max_new_tokens for r in requests]
    longest = max(len(r.prompt_ids) + r.sampling.max_new_tokens for r in requests)
    kept = [[r.receipt.get(name, 0.0) for name in entries] for r in requests]
    return Prefix(
        tokens=table([r.text_ids for r in requests], width_of(longest), 0),
        lengths=column([len(r.text_ids) for r in requests]),
        prompt_lengths=column([len(r.prompt_ids) for r in requests]),
        budgets=column(budgets),
        eos=table(eos, max(1, *map(len, eos)), -1),
        horizon=max(budgets),
        ledger=torch.tensor(kept, dtype=torch.float64, device=device) if entries else None,
    )


def grammars_of(requests: Sequence[Request], device: torch.device) -> Int[Tensor, " rows"] | None:
    """The number of each text's grammar; None where no text has one."""
    if not any(r.grammar for r in requests):
        return None
    numbers = [r.grammar.number if r.grammar else NO_GRAMMAR for r in requests]
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def seeds_of(requests: Sequence[Request], device: torch.device) -> Int[Tensor, " rows"]:
    """The seed of every row, as signed 64-bit numbers."""
    seeds = [signed(r.sampling.seed) for r in requests]
    return torch.tensor(seeds, dtype=torch.int64, device=device)
