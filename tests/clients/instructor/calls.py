"""Everyday calls of instructor, in its modes for OpenAI."""

from __future__ import annotations

from typing import Any

import instructor
import openai
from asking import Event
from calling import CHAT, MODEL, call, main

ASKED: Any = {"messages": CHAT, "seed": 7, "max_tokens": 200, "max_retries": 1}
SEEDED: Any = {"model": MODEL, **ASKED}


def client_of(mode: instructor.Mode) -> Any:
    return instructor.from_openai(openai.OpenAI(max_retries=0), mode=mode)


@call("mode TOOLS")
def tools() -> Any:
    return client_of(instructor.Mode.TOOLS).create(response_model=Event, **SEEDED).model_dump()


@call("mode TOOLS_STRICT")
def strict_tools() -> Any:
    one = client_of(instructor.Mode.TOOLS_STRICT)
    return one.create(response_model=Event, **SEEDED).model_dump()


@call("mode JSON_SCHEMA")
def json_schema() -> Any:
    one = client_of(instructor.Mode.JSON_SCHEMA)
    return one.create(response_model=Event, **SEEDED).model_dump()


@call("mode RESPONSES_TOOLS")
def responses() -> Any:
    asked: Any = {"model": MODEL, "messages": CHAT, "max_output_tokens": 200, "max_retries": 1}
    one = client_of(instructor.Mode.RESPONSES_TOOLS)
    return one.create(response_model=Event, extra_body={"seed": 7}, **asked).model_dump()


@call("from_provider")
def from_provider() -> Any:
    one: Any = instructor.from_provider(f"openai/{MODEL}")
    return one.create(response_model=Event, **ASKED).model_dump()


@call("asynchronous")
async def asynchronous() -> Any:
    async with openai.AsyncOpenAI(max_retries=0) as client:
        one: Any = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
        return (await one.create(response_model=Event, **SEEDED)).model_dump()


@call("with the completion (create_with_completion)")
def with_completion() -> Any:
    one = client_of(instructor.Mode.TOOLS)
    event, answer = one.create_with_completion(response_model=Event, **SEEDED)
    assert answer.usage.completion_tokens > 0
    return event.model_dump()


@call("partial objects, streamed (create_partial)")
def partial() -> Any:
    [*parts] = client_of(instructor.Mode.TOOLS).create_partial(response_model=Event, **SEEDED)
    assert len(parts) > 1
    return parts[-1].model_dump()


@call("several objects, streamed (create_iterable)")
def iterable() -> Any:
    one = client_of(instructor.Mode.TOOLS_STRICT)
    return [event.model_dump() for event in one.create_iterable(response_model=Event, **SEEDED)]


main()
