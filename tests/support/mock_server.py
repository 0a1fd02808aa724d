"""A server without models for the tests of the page: it says what a test tells it to say.

The page, the registry and the formats are the real ones; texts, traces and failures are made up.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from mtad import methods
from mtad.methods.mtad import MTAD
from mtad.server import page
from mtad.server.api.methods_info import known_methods, method_list

Body: TypeAlias = dict[str, Any]
Record: TypeAlias = dict[str, Any]
Event: TypeAlias = dict[str, Any] | str | bytes | float
"""A chunk, something raw, or seconds to wait."""

WORDS = (
    " SELECT",
    " name",
    ",",
    " level",
    " FROM",
    " clients",
    " WHERE",
    " cost",
    " =",
    " 13",
    "\n",
)


def record(
    position: int, accepted: Iterable[str], endpoint: str | None, rejected: Iterable[str] = ()
) -> Record:
    """An iteration of a chain of drafts: some accepted, the others rejected after them."""
    good, bad = list(accepted), list(rejected)
    nodes = [
        {
            "index": i + 1,
            "token": i + 5,
            "text": text,
            "parent": i,
            "depth": i + 1,
            "alive": True,
            "accepted": i < len(good),
            "draft_logprob": -0.5,
            "target_logprob": -0.25 if i < len(good) else -4.0,
            "joint_log_ratio": 0.25 * (i + 1),
            "proposed": True,
        }
        for i, text in enumerate([*good, *bad])
    ]
    tokens: list[dict[str, Any]] = [
        {"token": i + 5, "text": text, "origin": "draft", "node": i + 1}
        for i, text in enumerate(good)
    ]
    if endpoint is not None:
        last = {"token": 9, "text": endpoint, "origin": "endpoint", "node": None}
        tokens.append({**last, "target_logprob": -0.7})
    return {
        "position": position,
        "method": "speculative_sampling",
        "law": "warped",
        "root": {"token": 1, "text": ":"},
        "nodes": nodes,
        "tokens": tokens,
        "num_accepted": len(good),
        "num_drafted": len(nodes),
        "finish_reason": None,
    }


def story(num_tokens: int, seed: int = 0) -> list[Record]:
    """Iterations that make a text of so many tokens."""
    rng, records, position = random.Random(seed), [], 0
    while position < num_tokens:
        count = min(rng.randint(0, 4), num_tokens - position - 1)
        texts = rng.choices(WORDS, k=5)
        records.append(
            record(position, texts[:count], texts[count], rng.choices(WORDS, k=4 - count))
        )
        position += count + 1
    return records


def chunk(body: Body, text: str, **more: Any) -> Body:
    """A chunk of either route."""
    said = {"delta": {"content": text}} if "messages" in body else {"text": text}
    return {"choices": [{"index": 0, **said, "finish_reason": None}], "usage": None, **more}


CALLS = {
    "response_format": {"anyOf": [{"$ref": "#/components/schemas/Shaped"}, {"type": "null"}]},
    "tools": {"anyOf": [{"type": "array", "items": {}}, {"type": "null"}]},
    "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "null"}]},
}
"""Fields of chats in the description of a server that knows schemas and tools."""

NO_CALLS = {
    "response_format": {"anyOf": [{"$ref": "#/components/schemas/Text"}, {"type": "null"}]},
    "tools": {"anyOf": [{"type": "array", "items": {}, "maxItems": 0}, {"type": "null"}]},
}
"""The same of a server that knows neither."""


def described(fields: dict[str, Any], *, takes_thoughts: bool) -> dict[str, Any]:
    """A server's description of itself: chats with these fields, and what they refer to."""
    kinds = {"Shaped": "json_schema", "Text": "text"}
    schemas: dict[str, Any] = {
        name: {"type": "object", "properties": {"type": {"const": kind}}}
        for name, kind in kinds.items()
    }
    schemas["ChatRequest"] = {"properties": fields}
    schemas["AssistantMessage"] = {
        "properties": {"reasoning_content": {}} if takes_thoughts else {}
    }
    return {"components": {"schemas": schemas}}


def told(body: Body, records: Iterable[Record], pause: float = 0.0) -> Iterator[Event]:
    """The whole stream of an answer."""
    records = list(records)
    for one in records:
        yield chunk(body, "".join(t["text"] for t in one["tokens"]), mtad={"trace": one})
        yield pause
    accepted = sum(one["num_accepted"] for one in records)
    drafted = sum(one["num_drafted"] for one in records)
    name = body["method"]["name"]
    yield {
        "choices": [{"index": 0, "text": "", "delta": {}, "finish_reason": "stop"}],
        "metrics": {
            "speculative_decoding": {
                "mean_acceptance_length": 1 + accepted / len(records),
                "num_accepted_draft_tokens": accepted,
                "num_draft_tokens": drafted,
            }
        },
        "mtad": {
            "method": name,
            "lossless": methods.find(name).lossless,
            "target_weights": "plain",
            "rule": f"the rule of {name}",
            "accept_threshold": 0.5 if name == "mtad" else None,
            "queue_s": 0.001,
            "prefill_s": 0.012,
            "decode_s": 0.3,
            "energy_joules": 12.25 if name == "mtad" else None,
            "energy_reason": None if name == "mtad" else "no meter",
        },
    }
    num_tokens = sum(len(one["tokens"]) for one in records)
    yield {"choices": [], "usage": {"completion_tokens": num_tokens}}
    yield "data: [DONE]\n\n"


def refusal(status: int, message: str, param: str | None = None, **headers: str) -> Response:
    """An error in OpenAI's shape."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return JSONResponse({"error": error}, status, headers)


def streamed(events: Iterable[Event]) -> Response:
    """A stream of these."""

    def lines() -> Iterator[str | bytes]:
        for event in events:
            if isinstance(event, float):
                time.sleep(event)
            else:
                is_raw = isinstance(event, (str, bytes))
                yield event if is_raw else f"data: {json.dumps(event)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


@dataclass
class MockServer:
    """The server; `answer` makes the response to a request for a text.

    Attributes:
        bodies: the requests so far.
        fields: those of chats that the server describes.
        takes_thoughts: whether messages may have thinking, as it describes them.
        key: what requests must bring, None for nothing.
        url: where it listens.
    """

    answer: Callable[[Body], Response] = lambda body: streamed(told(body, story(40)))
    bodies: list[Body] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=lambda: NO_CALLS)
    takes_thoughts: bool = False
    key: str | None = None
    url: str = ""

    def app(self) -> FastAPI:
        """The application."""
        app, default = FastAPI(openapi_url=None), MTAD()
        page.mount(app)

        @app.middleware("http")
        async def check(request: Request, call_next: Any) -> Response:
            given = request.headers.get("authorization")
            if request.url.path.startswith("/v1/") and self.key and given != f"Bearer {self.key}":
                return refusal(401, "a wrong or no API key")
            response: Response = await call_next(request)
            return response

        @app.get("/v1/models")
        def models() -> Any:
            return {"object": "list", "data": [{"id": "mock-pair"}]}

        @app.get("/openapi.json")
        def description() -> Any:
            return described(self.fields, takes_thoughts=self.takes_thoughts)

        @app.get("/v1/methods")
        def registry() -> Any:
            return method_list(default, list(known_methods(default, ()).values()))

        @app.post("/v1/completions")
        @app.post("/v1/chat/completions")
        async def complete(request: Request) -> Response:
            self.bodies.append(await request.json())
            return self.answer(self.bodies[-1])

        return app


def serve(app: Any) -> Iterator[str]:
    """The address of a running server."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # whoever comes before the server has started waits
        config = uvicorn.Config(app, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
