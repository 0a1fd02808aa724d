"""The routes of the API.

Knows neither keys nor limits of bodies: those guards stand in front of it.
"""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from mtad import __version__
from mtad.errors import PromptError
from mtad.server.api.bodies import json_of, read_body
from mtad.server.api.checks import check_model, template_variables
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
from mtad.server.api.request_models import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from mtad.server.api.responses import ResponseBuilder
from mtad.server.api.responses_api.input_items import InputItemList
from mtad.server.api.responses_api.objects import Deleted, ResponseObject
from mtad.server.api.responses_api.requests import ResponsesRequest
from mtad.server.api.responses_api.routes import ResponsesApi
from mtad.server.api.running import finished, parsed_off_loop, submit
from mtad.server.api.service import Service
from mtad.server.api.streaming import ChunkEvents, EventStream
from mtad.server.http.errors import ApiError


class Api:
    """The routes' functions.

    Args:
        service: what all routes share.
    """

    def __init__(self, service: Service) -> None:
        self.service, self.responses = service, ResponsesApi(service)

    @property
    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(redirect_slashes=False)
        post, get, delete = (partial(documented, router, one) for one in ("POST", "GET", "DELETE"))
        post("/v1/chat/completions", self.chat, body=ChatRequest)
        post("/v1/completions", self.completions, body=CompletionRequest)
        post("/v1/responses", self.responses.create, body=ResponsesRequest)
        get("/v1/responses/{response_id}", self.responses.retrieve, response=ResponseObject)
        path = "/v1/responses/{response_id}/input_items"
        get(path, self.responses.input_items, response=InputItemList)
        delete("/v1/responses/{response_id}", self.responses.delete, response=Deleted)
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
        parsed = await parsed_off_loop(self.service, body, request)
        submission = submit(self.service.scheduler, parsed, request)
        builder = ResponseBuilder(self.service, parsed)
        if body.stream:
            return EventStream(ChunkEvents(builder), submission)
        chunks = await finished(submission, request)
        return json_of(builder.whole(chunks))

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
            work = partial(texts.ids, given or "", variables, bare=bare, tools=body.tools or [])
            ids = await texts.off_loop(work, len(await request.body()))
        except PromptError as error:
            raise ApiError(400, str(error), param) from error
        context = self.service.context()
        return json_of(Tokens(tokens=ids, count=len(ids), max_model_len=context))

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
        return json_of(info)

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
        size = len(await request.body())
        text = await texts.off_loop(partial(texts.text, body.tokens), size)
        return json_of(Detokenized(prompt=text))

    async def models(self) -> Response:
        """The served pair, under each of its names."""
        cards = [self._card(name) for name in self.service.names]
        return json_of(ModelList(object="list", data=cards))

    async def model(self, model: str) -> Response:
        """The served pair by its name."""
        check_model(self.service, model)
        return json_of(self._card(model))

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
        service = self.service
        return json_of(method_list(service.settings.method, known, service.sampling))

    async def ready(self) -> Response:
        """Whether requests are taken: 200, or 503."""
        if not self.service.scheduler.load.is_ready:
            raise ApiError(503, "no requests are taken now", None, "not_ready")
        return json_of(Health(status="ready"))

    async def live(self) -> Response:
        """Whether the server works at all: 200, or 503 where it is to be started anew."""
        if not self.service.scheduler.load.is_alive:
            raise ApiError(503, "the scheduler does not move", None, "not_alive")
        return json_of(Health(status="alive"))

    async def version(self) -> Response:
        """The version of mtad."""
        return json_of(Version(version=__version__))
