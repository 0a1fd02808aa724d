"""The requests of Open WebUI's server to a provider, with answers read as it reads them.

Open WebUI itself is too large to be installed for a test; what it sends was seen on version 0.12.4.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from calling import MODEL, QUESTION, call, main

URL = os.environ["OPENAI_BASE_URL"]
HEADERS = {
    "Content-Type": "application/json",
    "Authorization": "Bearer none",
    "X-OpenWebUI-User-Name": "Ann%20Example",
    "X-OpenWebUI-User-Id": "3f1c5a52-4c1d-4d0f-9d5c-7a8b6c1d2e3f",
    "X-OpenWebUI-User-Email": "ann@example.org",
    "X-OpenWebUI-User-Role": "admin",
    "X-OpenWebUI-Chat-Id": "5d0b3f7e-1111-4a22-8b33-0123456789ab",
}
ASKED = {"role": "user", "content": QUESTION}
SHORT: Any = {"model": MODEL, "temperature": 0, "max_tokens": 16}
STREAM: Any = {"stream": True, "stream_options": {"include_usage": True}}
CITY: Any = {"type": "string", "enum": ["Oslo", "Rome"], "description": "The city."}
DAYS: Any = {"type": "integer", "minimum": 1, "maximum": 7, "description": "How many days."}
PARAMETERS: Any = {"properties": {"city": CITY, "days": DAYS}, "required": ["city", "days"]}
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", **PARAMETERS, "additionalProperties": False},
}
TOOLS: Any = [{"type": "function", "function": WEATHER}]


async def get(path: str) -> Any:
    """The JSON of an answer."""
    async with (
        aiohttp.ClientSession(trust_env=True) as session,
        session.get(URL + path, headers=HEADERS) as answer,
    ):
        answer.raise_for_status()
        return await answer.json()


async def post(path: str, body: Any) -> Any:
    """The JSON of an answer that comes in one piece, whatever its status."""
    async with aiohttp.ClientSession(trust_env=True) as session:
        data = json.dumps(body)
        async with session.request("POST", URL + path, data=data, headers=HEADERS) as answer:
            assert "text/event-stream" not in answer.headers["Content-Type"]
            return [answer.status, await answer.json()]


async def events(path: str, body: Any) -> AsyncIterator[Any]:
    """What comes after `data:` in each line of a stream."""
    async with aiohttp.ClientSession(trust_env=True) as session:
        data = json.dumps(body)
        async with session.request("POST", URL + path, data=data, headers=HEADERS) as answer:
            assert "text/event-stream" in answer.headers["Content-Type"], await answer.text()
            async for line in answer.content:
                text = line.decode().strip()
                if text.startswith("data:") and text != "data: [DONE]":
                    yield json.loads(text.removeprefix("data:"))


async def streamed(**body: Any) -> Any:
    """The text, the calls, the reason of the end and the usage of a streamed chat."""
    text, calls, reason, usage = "", list[Any](), None, {}
    async for data in events("/chat/completions", STREAM | body):
        assert "error" not in data, data
        assert not str(data.get("type", "")).startswith("response.")
        usage |= data.get("usage", {}) or {}
        for choice in data.get("choices", [])[:1]:
            reason = choice.get("finish_reason") or reason
            delta = choice.get("delta", {})
            text += delta.get("content") or ""
            for piece in delta.get("tool_calls") or []:
                if piece["index"] == len(calls):
                    calls.append([piece["id"], piece["function"]["name"], ""])
                calls[piece["index"]][2] += piece["function"].get("arguments") or ""
    return [text, calls, reason, usage]


async def whole(content: str, **more: Any) -> Any:
    """The text of a task: one message, in one piece."""
    messages = [{"role": "user", "content": content}]
    status, answer = await post(
        "/chat/completions", SHORT | {"messages": messages, "stream": False} | more
    )
    assert status == 200, answer
    return answer["choices"][0]["message"]["content"]


@call("list of models")
async def models() -> Any:
    return [[one["id"], one.get("name", one["id"])] for one in (await get("/models"))["data"]]


@call("chat")
async def chat() -> Any:
    return await streamed(messages=[{"role": "system", "content": "Be brief."}, ASKED], **SHORT)


@call("chat with parameters of the panel")
async def parameters() -> Any:
    """What a user may set that OpenAI's API, or vLLM's, has a name for."""
    panel = {"top_p": 0.9, "top_k": 1, "min_p": 0.05, "seed": 7, "stop": ["Sat"]}
    panel |= {"frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {"5": -100}}
    panel |= {"reasoning_effort": "low", "repetition_penalty": 1}
    return await streamed(messages=[ASKED], **SHORT, **panel)


@call("chat in one piece")
async def in_one_piece() -> Any:
    status, answer = await post("/chat/completions", SHORT | {"messages": [ASKED]})
    return [status, answer["choices"][0]["message"]["content"], answer["usage"]]


@call("second turn")
async def second_turn() -> Any:
    first, *_ = await streamed(messages=[ASKED], **SHORT)
    said = [ASKED, {"role": "assistant", "content": first}, {"role": "user", "content": "Why?"}]
    second, *_ = await streamed(messages=said, **SHORT)
    return [first, second]


@call("title of a chat")
async def title() -> Any:
    asked = f'Give this chat a title, as {{"title": "…"}}.\nUSER: {QUESTION}\nASSISTANT: None.'
    return [asked, await whole(asked)]


@call("tags of a chat")
async def tags() -> Any:
    asked = f'Name three topics of this chat, as {{"tags": ["…"]}}.\nUSER: {QUESTION}'
    return [asked, await whole(asked)]


@call("questions that may follow")
async def follow_ups() -> Any:
    asked = f'Suggest what USER may ask next, as {{"follow_ups": ["…"]}}.\nUSER: {QUESTION}'
    return [asked, await whole(asked)]


@call("emoji of a message")
async def emoji() -> Any:
    asked = "Answer with an emoji for this: " + QUESTION
    return [asked, await whole(asked, max_tokens=4)]


@call("native tools")
async def tools() -> Any:
    """A chat that may call; whether it does is the model's choice."""
    return await streamed(messages=[ASKED], tools=TOOLS, **SHORT)


@call("native tools (with tool_choice as a custom parameter)")
async def called() -> Any:
    """A call, its result, and the answer after it."""
    more: Any = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    _, calls, reason, _ = await streamed(messages=[ASKED], **SHORT | {"max_tokens": 200}, **more)
    [[call_id, name, arguments]] = calls
    function = {"name": name, "arguments": arguments}
    said = [
        ASKED,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": call_id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call_id, "content": '{"millimetres": 4}'},
    ]
    _, _, end, usage = await streamed(messages=said, tools=TOOLS, **SHORT)
    return [reason, name, arguments, end, usage]


@call("a request that is refused")
async def refused() -> Any:
    status, answer = await post("/chat/completions", SHORT | {"model": "no", "messages": [ASKED]})
    return [status, answer["error"]["message"]]


@call("Responses (if a connection is set to them)")
async def responses() -> Any:
    """The same chat as items; its stream is read by the types of its events."""
    items = [{"type": "message", "role": "user"}]
    items[0]["content"] = [{"type": "input_text", "text": QUESTION}]  # type: ignore[assignment]
    body: Any = {"model": MODEL, "temperature": 0, "max_output_tokens": 16, "stream": True}
    body |= {"input": items, "instructions": "Be brief."}
    text, done, usage = "", None, None
    async for data in events("/responses", body):
        if data["type"] == "response.output_text.delta":
            text += data["delta"]
        if data["type"] in {"response.completed", "response.incomplete"}:
            done, usage = (
                data["response"]["output"][0]["content"][0]["text"],
                data["response"]["usage"],
            )
    return [text, done, usage]


main()
