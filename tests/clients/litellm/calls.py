"""Everyday calls of LiteLLM, and of Anthropic's and OpenAI's libraries through its proxy."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import litellm
import openai
from asking import Event, Weather
from calling import CHAT, MODEL, call, main

GREEDY: Any = {"messages": CHAT, "temperature": 0, "max_tokens": 16}
SEEDED: Any = {"messages": CHAT, "seed": 7, "max_tokens": 200}
FORM = Weather.model_json_schema()
WEATHER = {"name": "weather", "description": "The weather of a city.", "parameters": FORM}
TOOLS = [{"type": "function", "function": WEATHER}]
KEY = f"sk-{secrets.token_hex(32)}"
OPENAI, VLLM = f"openai/{MODEL}", f"hosted_vllm/{MODEL}"
os.environ["HOSTED_VLLM_API_BASE"] = os.environ["OPENAI_BASE_URL"]


def made(message: Any) -> Any:
    return [[one.function.name, one.function.arguments] for one in message.tool_calls]


@call("completion, openai/")
def openai_chat() -> Any:
    return litellm.completion(OPENAI, **GREEDY).choices[0].message.content


@call("completion, hosted_vllm/")
def vllm_chat() -> Any:
    return litellm.completion(VLLM, **GREEDY).choices[0].message.content


@call("streamed completion")
def streamed() -> Any:
    parts = litellm.completion(OPENAI, stream=True, **GREEDY)
    return "".join(part.choices[0].delta.content or "" for part in parts)


@call("asynchronous completion (acompletion)")
async def asynchronous() -> Any:
    return (await litellm.acompletion(OPENAI, **GREEDY)).choices[0].message.content


@call("text_completion")
def text_completion() -> Any:
    asked: Any = {"prompt": "def area(r):", "temperature": 0, "max_tokens": 16}
    return litellm.text_completion(model=f"text-completion-{OPENAI}", **asked).choices[0].text


@call("response_format from pydantic")
def form() -> Any:
    answer = litellm.completion(OPENAI, response_format=Event, **SEEDED)
    return Event.model_validate_json(answer.choices[0].message.content).model_dump()


@call("tools")
def tools() -> Any:
    answer = litellm.completion(OPENAI, tools=TOOLS, tool_choice="required", **SEEDED)
    message = answer.choices[0].message
    results = [{"role": "tool", "tool_call_id": c.id, "content": "4"} for c in message.tool_calls]
    asked = GREEDY | {"messages": [*CHAT, message, *results]}
    text = litellm.completion(OPENAI, tools=TOOLS, **asked).choices[0].message.content
    return {"calls": made(message), "results": [one["content"] for one in results], "text": text}


@call("streamed tool calls")
def streamed_tools() -> Any:
    asked: Any = {"tools": TOOLS, "tool_choice": "required", "stream": True, **SEEDED}
    parts = list(litellm.completion(OPENAI, **asked))
    return made(litellm.stream_chunk_builder(parts, messages=CHAT).choices[0].message)


def text_of(answer: Any) -> str:
    return "".join(c.text for one in answer.output if one.type == "message" for c in one.content)


@call("responses")
def responses() -> Any:
    asked: Any = {"input": CHAT, "temperature": 0, "max_output_tokens": 16}
    return text_of(litellm.responses(model=OPENAI, **asked))


@call("streamed responses")
def streamed_responses() -> Any:
    asked: Any = {"input": CHAT, "temperature": 0, "max_output_tokens": 16, "stream": True}
    events = litellm.responses(model=OPENAI, **asked)
    return "".join(one.delta for one in events if one.type == "response.output_text.delta")


@contextmanager
def proxy() -> Iterator[str]:
    """The address of LiteLLM's proxy, set up as docs/server.md says."""
    page = (Path(__file__).parents[3] / "docs" / "server.md").read_text(encoding="utf-8")
    [config] = re.findall(r"^model_list:\n(?:[ -].*\n)+", page, re.MULTILINE)
    assert "http://127.0.0.1:8000" in config
    config = config.replace("http://127.0.0.1:8000", os.environ["MTAD_URL"])
    Path("litellm.yaml").write_text(config, encoding="utf-8")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    command = ["litellm", "--config", "litellm.yaml", "--host", "127.0.0.1", "--port", port]
    with open("proxy.txt", "w") as log:
        named = {**os.environ, "LITELLM_MASTER_KEY": KEY}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=named)
    try:
        wait_for(f"http://127.0.0.1:{port}/health/liveliness", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when the proxy answers."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError("the proxy does not start: " + Path("proxy.txt").read_text()[-500:])


def through_the_proxy() -> None:
    """Make the calls that need the proxy, which stands as long as they last."""
    asked_for: Any = {"model": MODEL, "messages": CHAT, "max_tokens": 16}
    asked_for["extra_body"] = {"temperature": 0}

    @call("proxy: OpenAI's library")
    def openai_through() -> Any:
        answer = ours.chat.completions.create(**asked_for)
        return answer.choices[0].message.content

    @call("proxy: Anthropic's messages.create")
    def messages() -> Any:
        answer: Any = theirs.messages.create(**asked_for)
        return answer.content[0].text

    @call("proxy: Anthropic's messages.stream")
    def streamed_messages() -> Any:
        with theirs.messages.stream(**asked_for) as parts:
            return "".join(parts.text_stream)

    @call("proxy: Anthropic's tools")
    def anthropic_tools() -> Any:
        tool = {"name": "weather", "description": "The weather of a city.", "input_schema": FORM}
        asked: Any = {"model": MODEL, "max_tokens": 200, "tools": [tool], "extra_body": {"seed": 7}}
        first = theirs.messages.create(messages=CHAT, tool_choice={"type": "any"}, **asked)
        uses = [one for one in first.content if one.type == "tool_use"]
        back = [{"type": "tool_result", "tool_use_id": one.id, "content": "4"} for one in uses]
        said: Any = [*CHAT, {"role": "assistant", "content": first.content}]
        second = theirs.messages.create(
            messages=[*said, {"role": "user", "content": back}], **asked
        )
        text = "".join(one.text for one in second.content if one.type == "text")
        calls = [[one.name, one.input] for one in uses]
        return {"calls": calls, "results": [one["content"] for one in back], "text": text}

    with proxy() as address:
        ours = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0)
        theirs = anthropic.Anthropic(base_url=address, api_key=KEY, max_retries=0)
        main()


through_the_proxy()
