"""The routes of the API.

Knows neither keys nor limits of bodies: those guards stand in front of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from mtad import __version__
from mtad.core.prompt import require_characters
from mtad.errors import MtadError, PromptError
from mtad.server.api.checks import check_model
from mtad.server.api.errors import as_api_error, invalid, refusal
from mtad.server.api.info_models import (
    Detokenized,
    Health,
    ModelCard,
    ModelList,
    TokenizerInfo,
    Tokens,
    Version,
)
from mtad.server.api.methods_info import MethodList, method_list
from mtad.server.api.openapi import documented
from mtad.server.api.parsing import ParsedRequest, parse, template_variables
from mtad.server.api.request_models import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from mtad.server.api.response_models import ResponseModel
from mtad.server.api.responses import ResponseBuilder
from mtad.server.api.service import Service
from mtad.server.api.streaming import EventStream
from mtad.server.api.submission import Submission
from mtad.server.http.errors import ApiError
from mtad.server.scheduler.sequence import Chunk

Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")


class Api:
    """The routes' functions.

    Args:
        service: what all routes share.
    """

    def __init__(self, service: Service) -> None:
        self.service = service

    @property
    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(redirect_slashes=False)
        post, get = partial(documented, router, "POST"), partial(documented, router, "GET")
        post("/v1/chat/completions", self.chat, body=ChatRequest)
        post("/v1/completions", self.completions, body=CompletionRequest)
        post("/tokenize", self.tokenize, body=TokenizeRequest, response=Tokens)
        get("/tokenizer_info", self.tokenizer_info, response=TokenizerInfo)
        post("/detokenize", self.detokenize, body=DetokenizeRequest, response=Detokenized)
        get("/v1/models", self.models, response=ModelList)
        get("/v1/models/{model:path}", self.model, response=ModelCard)
        get("/v1/methods", self.methods, response=MethodList)
        get("/health", self.ready, response=Health)
        get("/health/ready", self.ready, response=Health)
        get("/health/live", self.live, response=Health)
        get("/version", self.version, response=Version)
        return router

    async def chat(self, request: Request) -> Response:
        """Answer a chat; as server-sent events with `stream`."""
        return await self._generate(request, await read_body(request, ChatRequest))

    async def completions(self, request: Request) -> Response:
        """Complete one or many prompts; as server-sent events with `stream`."""
        return await self._generate(request, await read_body(request, CompletionRequest))

    async def _generate(self, request: Request, body: ChatRequest | CompletionRequest) -> Response:
        parsed = await self.service.texts.off_loop(partial(parse, self.service, body))
        submission = self._submit(parsed, request)
        builder = ResponseBuilder(self.service, parsed)
        if body.stream:
            return EventStream(builder, submission)
        try:
            chunks = await unless_gone(request, _collected(submission))
        except ClientDisconnect:
            raise
        except Exception as error:
            raise as_api_error(error) from error
        finally:
            submission.cancel()
        return _json(builder.whole(chunks))

    def _submit(self, parsed: ParsedRequest, request: Request) -> Submission:
        """Submit a request's sequences; the log finds them in the request's state."""
        for sequence in parsed.sequences:
            sequence.request_id = getattr(request.state, "request_id", "")
            sequence.client = getattr(request.state, "client", None)
        try:
            submission = Submission(self.service.scheduler, parsed.sequences)
        except (ValueError, MtadError) as error:
            raise refusal(error, parsed.prompt_param, parsed.budget_param) from error
        request.state.user, request.state.sequences = parsed.body.user, parsed.sequences
        return submission

    async def tokenize(self, request: Request) -> Response:
        """The token ids of a prompt, or of a chat as the model reads it."""
        body = await read_body(request, TokenizeRequest)
        check_model(self.service, body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either prompt or messages", "prompt")
        given, param = (
            (body.prompt, "prompt") if body.messages is None else (body.messages, "messages")
        )
        texts = self.service.texts
        variables, bare = template_variables(body), body.add_special_tokens is False
        try:
            ids = await texts.off_loop(lambda: texts.ids(given or "", variables, bare=bare))
        except PromptError as error:
            raise ApiError(400, str(error), param) from error
        context = self.service.context()
        return _json(Tokens(tokens=ids, count=len(ids), max_model_len=context))

    async def tokenizer_info(self) -> Response:
        """The tokenizer's special tokens and chat template."""
        tokenizer = self.service.texts.tokenizer
        if tokenizer is None:
            raise ApiError(404, "this model has no tokenizer", None, "not_found")
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        info = TokenizerInfo(
            tokenizer_class=type(tokenizer).__name__,
            chat_template=self.service.texts.template or None,
            model_max_length=self.service.context(),
            **{name: getattr(tokenizer, name, None) for name in names},
        )
        return _json(info)

    async def detokenize(self, request: Request) -> Response:
        """The text of token ids."""
        body = await read_body(request, DetokenizeRequest)
        check_model(self.service, body.model)
        vocab, texts = self.service.models.vocab, self.service.texts
        if texts.tokenizer is None:
            raise ApiError(400, "this model has no tokenizer", "tokens")
        for token in body.tokens:
            if token >= vocab:
                message = f"token id {token} is not in the vocabulary of {vocab} tokens"
                raise ApiError(400, message, "tokens")
        return _json(Detokenized(prompt=await texts.off_loop(lambda: texts.text(body.tokens))))

    async def models(self) -> Response:
        """The served pair, under each of its names."""
        cards = [self._card(name) for name in self.service.names]
        return _json(ModelList(object="list", data=cards))

    async def model(self, model: str) -> Response:
        """The served pair by its name."""
        check_model(self.service, model)
        return _json(self._card(model))

    def _card(self, name: str) -> ModelCard:
        return ModelCard(
            id=name,
            object="model",
            created=self.service.created,
            owned_by="mtad",
            max_model_len=self.service.context(),
        )

    async def methods(self) -> Response:
        """The methods that requests may name, with their options."""
        known = list(self.service.methods.values())
        return _json(method_list(self.service.settings.method, known))

    async def ready(self) -> Response:
        """Whether requests are taken: 200, or 503."""
        if not self.service.scheduler.load.is_ready:
            raise ApiError(503, "no requests are taken now", None, "not_ready")
        return _json(Health(status="ready"))

    async def live(self) -> Response:
        """Whether the server works at all: 200, or 503 where it is to be started anew."""
        if not self.service.scheduler.load.is_alive:
            raise ApiError(503, "the scheduler does not move", None, "not_alive")
        return _json(Health(status="alive"))

    async def version(self) -> Response:
        """The version of mtad."""
        return _json(Version(version=__version__))


def _json(model: ResponseModel) -> Response:
    return Response(model.as_json(), media_type="application/json")


async def read_body(request: Request, model: type[Body]) -> Body:
    """The request's body as one of `model`.

    Raises:
        ApiError: it is no JSON, or does not fit; the first parameter at fault is named.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415,
            f"the body's content type is {kind or 'not given'}; it must be application/json",
            code="unsupported_media_type",
        )
    text = await request.body()
    try:
        data: Any = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise _unreadable(text, error) from None
    data = with_integers(data)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid(error, data, model) from None


def _unreadable(body: bytes, error: ValueError) -> ApiError:
    """The response to a body that is no JSON, or has halves of characters where it has texts."""
    with suppress(ValueError, RecursionError):
        try:
            require_characters(json.loads(body), "")
        except PromptError as lone:
            return ApiError(400, str(lone), code="invalid_json")
    return ApiError(400, f"the body is no JSON: {error}", code="invalid_json")


def with_integers(data: Any) -> Any:
    """JSON with every number that has no fraction as an integer: 1.0 and 1 are the same there."""
    if isinstance(data, float):
        return int(data) if data.is_integer() and abs(data) < 2**63 else data
    if isinstance(data, list):
        return [with_integers(one) for one in data]
    if isinstance(data, dict):
        return {name: with_integers(value) for name, value in data.items()}
    return data


async def _collected(submission: Submission) -> list[list[Chunk]]:
    """The chunks of each sequence, once all have ended."""
    chunks: list[list[Chunk]] = [[] for _ in submission.sequences]
    async for chunk in submission.chunks():
        if chunk is not None:
            chunks[chunk.sequence.index].append(chunk)
    return chunks


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is given up as soon as the client goes away.

    Raises:
        ClientDisconnect: the client has gone.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()


async def _gone(request: Request) -> None:
    """Return once the client has gone; to be used after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        continue
