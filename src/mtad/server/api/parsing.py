"""From a request's body to sequences; what cannot be honoured is refused by name.

Knows no HTTP beyond the errors that clients get, and decodes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

from mtad.api.completion import with_text
from mtad.api.guard import wants_guard
from mtad.engine.request import Request
from mtad.errors import PromptError
from mtad.model.tokenizer import stop_ids
from mtad.sampling.params import SamplingParams
from mtad.server.api.checks import (
    budget_of,
    check_count,
    check_details,
    check_draft,
    check_flags,
    check_model,
    prompt_param,
    template_variables,
)
from mtad.server.api.choosing import check_tree, chosen_method
from mtad.server.api.errors import refusal
from mtad.server.api.guided import grammar_in
from mtad.server.api.messages import Message, Tool
from mtad.server.api.request_models import (
    ChatRequest,
    CompletionRequest,
    Decoding,
)
from mtad.server.api.sampling import given_settings
from mtad.server.api.service import Service
from mtad.server.api.tool_parsers.reading import Reading
from mtad.server.api.tooling import (
    HeldForm,
    check_size,
    held_form,
    marks,
    offer_of,
    reading_of,
)
from mtad.server.http.errors import ApiError
from mtad.server.scheduler.admission import DEFAULT_CONTEXT
from mtad.server.scheduler.sequence import Sequence
from mtad.speculative.method import Method


@dataclass(frozen=True)
class Echo:
    """The prompt as a choice begins with it.

    Attributes:
        text: empty where it is not echoed.
        token_ids: of the prompt, where its log-probabilities are wanted.
        places: where in the text each of them begins.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class ParsedRequest:
    """What a request asks for.

    Attributes:
        body: the request.
        sequences: one per choice.
        prompt_tokens: of all prompts, each counted once.
        echoes: what the text of each choice begins with.
        reading: what is separated from a chat's content; None where nothing is.
        form: what holds the texts to a form; None where nothing does.
    """

    body: ChatRequest | CompletionRequest
    sequences: tuple[Sequence, ...]
    prompt_tokens: int
    echoes: tuple[Echo, ...]
    reading: Reading | None = None
    form: HeldForm | None = None

    def hold(self, service: Service) -> None:
        """Hold the texts to the form that they are to have; may take long, as it is compiled.

        Raises:
            ApiError: the form cannot be honoured.
        """
        if self.form is not None:
            state = self.form.begin(service, self.sequences[0].request.sampling.eos_token_ids)
            for index, sequence in enumerate(self.sequences):
                sequence.hold(state.restarted() if index else state)

    @property
    def method(self) -> Method:
        """How all choices are decoded."""
        return self.sequences[0].method

    @property
    def budget_param(self) -> str:
        """What the client calls the limit of new tokens."""
        return budget_of(self.body)[0]

    @property
    def prompt_param(self) -> str:
        """The parameter that holds the prompt."""
        return prompt_param(self.body)


def parse(service: Service, body: ChatRequest | CompletionRequest) -> ParsedRequest:
    """What a request asks for, its texts not yet held to their form.

    May take long, as it tokenizes.

    Raises:
        ApiError: a parameter that cannot be honoured.
    """
    check_model(service, body.model)
    check_flags(service, body)
    given, count = _prompts(body), body.n or 1
    check_count(service, body, len(given))
    method = chosen_method(body, service.methods, service.settings.method)
    check_draft(service, method)
    offer, guided = offer_of(body), grammar_in(body)
    if guided is not None:
        check_size(service, *guided)
    prompts = [_ids(service, body, prompt, offer.tools) for prompt in given]
    reading = reading_of(service, body, offer, guided, prompts[0])
    form = held_form(service, offer, reading, guided)
    seed = secrets.randbits(52) if body.seed is None else body.seed  # exact in a browser, too
    shown = frozenset(marks(service, reading).values())
    sequences = [
        _sequence(service, body, method, prompts[i // count], i, seed, shown)
        for i in range(len(prompts) * count)
    ]
    check_details(service, body, sequences)
    pairs = zip(given, prompts, strict=True)
    echoes = [one for pair in pairs for one in [_echo(service, body, *pair)] * count]
    num_tokens = sum(map(len, prompts))
    return ParsedRequest(body, tuple(sequences), num_tokens, tuple(echoes), reading, form)


def _prompts(body: ChatRequest | CompletionRequest) -> list[Any]:
    """The prompts, each a text, token ids or a chat."""
    if isinstance(body, ChatRequest):
        return [body.messages]
    prompt: Any = body.prompt
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


def _ids(
    service: Service, body: Decoding, prompt: str | list[int] | list[Message], tools: Items[Tool]
) -> list[int]:
    """The token ids of a prompt that is not too long."""
    param, most = prompt_param(body), service.settings.max_prompt_tokens
    try:
        ids = service.texts.ids(prompt, template_variables(body), tools=tools)
    except PromptError as error:
        raise ApiError(400, str(error), param) from error
    if most is not None and len(ids) > most:
        raise ApiError(
            400,
            f"the prompt has {len(ids)} tokens; this server takes at most {most}: shorten it",
            param,
            "context_length_exceeded",
        )
    return ids


def _echo(service: Service, body: Decoding, prompt: Any, ids: list[int]) -> Echo:
    """What a choice begins with."""
    if not isinstance(body, CompletionRequest) or not body.echo:
        return Echo()
    is_text = isinstance(prompt, str)
    text = prompt if is_text else service.texts.text(prompt)
    if body.logprobs is None:
        return Echo(text)
    places = service.texts.places(ids, skips_special=is_text)
    return Echo(text, tuple(ids), tuple(min(place, len(text)) for place in places))


def _sequence(
    service: Service,
    body: Decoding,
    method: Method,
    ids: list[int],
    index: int,
    seed: int,
    shown: frozenset[int],
) -> Sequence:
    """One choice."""
    budget = _checked_budget(service, body, method, len(ids))
    check_tree(method, method.num_nodes(service.models.vocab, budget), service.settings.max_nodes)
    stops = _stops(body)
    tokenizer = service.texts.tokenizer
    if stops and tokenizer is None:
        raise ApiError(400, "stop needs a tokenizer, and this model has none", "stop")
    logprobs = body.logprobs if isinstance(body, CompletionRequest) else _chat_logprobs(body)
    scores = isinstance(body, CompletionRequest) and bool(body.echo) and logprobs is not None
    made = max(budget, 1) if scores else budget  # a text without a budget is not prefilled
    sampling = _sampling(service, body, stops, made, seed + index)
    request = Request(ids, sampling)
    text_options = {
        "keeps_stop": bool(body.include_stop_str_in_output),
        "skips_special": body.skip_special_tokens is not False,
        "shown": shown,
        "locates": isinstance(body, CompletionRequest) and logprobs is not None,
    }
    return Sequence(
        *with_text(request, tokenizer, stops, **text_options),
        method=method,
        guarded=_is_guarded(service, method, body.seed is not None, request),
        num_logprobs=logprobs,
        scores_prompt=scores,
        ends_with_prompt=scores and budget == 0,
        traced=bool(body.trace),
        timeout_s=body.timeout_s or service.settings.timeout_s,
        index=index,
        cache_salt=body.cache_salt or "",
    )


def _is_guarded(service: Service, method: Method, has_seed: bool, request: Request) -> bool:
    """Whether a guard may choose how many tokens are drafted."""
    is_greedy, guard = request.sampling.temperature == 0, None if service.settings.guard else False
    return wants_guard(method, guard, has_seed, is_greedy)


def _stops(body: Decoding) -> list[str]:
    """The stop strings."""
    given = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return [stop for stop in given if stop]


def _chat_logprobs(body: Decoding) -> int | None:
    wanted = isinstance(body, ChatRequest) and body.logprobs
    return getattr(body, "top_logprobs", None) or 0 if wanted else None


def _checked_budget(service: Service, body: Decoding, method: Method, num_prompt: int) -> int:
    """How many tokens may be made: as were named, else the default, as far as there is room."""
    (param, named), most = budget_of(body), service.settings.max_new_tokens
    usual = service.sampling.get("max_new_tokens", most)
    if named is not None and most is not None and named > most:
        raise ApiError(400, f"{param} is {named}; this server makes at most {most} tokens", param)
    context = service.context(method)
    if context is None:
        return named if named is not None else usual or DEFAULT_CONTEXT
    room, least = context - num_prompt, 1 if named is None else named
    if room < least:
        wanted = f" and {param} is {named}" if named else ""
        is_set = context == service.settings.max_model_len
        whose = "this server's max_model_len" if is_set else "the models' context"
        raise ApiError(
            400,
            f"the prompt has {num_prompt} tokens{wanted}; {whose} is {context} tokens "
            f"for both: shorten the prompt{' or lower ' + param if named and room > 0 else ''}",
            param if room > 0 else prompt_param(body),
            "context_length_exceeded",
        )
    return named if named is not None else min(usual or room, room)


def _sampling(
    service: Service, body: Decoding, stops: list[str], budget: int, seed: int
) -> SamplingParams:
    """The sampling parameters; a special token among the stops ends the text like an EOS."""
    models = service.models
    ends = () if body.ignore_eos else models.eos_token_ids
    own = [*stop_ids(stops, service.texts.special, models.vocab), *(body.stop_token_ids or ())]
    chosen = service.sampling | given_settings(body) | {"max_new_tokens": budget, "seed": seed}
    chosen["eos_token_ids"] = (*ends, *own)
    named = {"logit_bias": [*map(int, body.logit_bias or {})], "stop_token_ids": own}
    for param, token in ((param, token) for param, ids in named.items() for token in ids):
        if token >= models.vocab:
            message = f"token id {token} is not in the vocabulary of {models.vocab} tokens"
            raise ApiError(400, f"{param}: {message}", param)
    chosen["logit_bias"] = {int(t): bias for t, bias in (body.logit_bias or {}).items()}
    try:
        return SamplingParams(**chosen)
    except ValueError as error:
        raise refusal(error, prompt_param(body), budget_of(body)[0]) from error
