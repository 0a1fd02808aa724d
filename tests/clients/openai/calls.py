"""Everyday calls of openai-python."""

from __future__ import annotations

from typing import Any, Literal

import openai
from calling import MODEL, QUESTION, call, main
from pydantic import BaseModel, Field

CHAT: Any = [{"role": "user", "content": QUESTION}]
GREEDY: Any = {"model": MODEL, "temperature": 0, "max_tokens": 16}
SEEDED: Any = {"model": MODEL, "seed": 5, "max_tokens": 300}
PARAMETERS: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"name": "weather", "description": "The weather.", "parameters": PARAMETERS}
TOOLS: Any = [{"type": "function", "function": WEATHER}]
FLAT: Any = [{"type": "function", **WEATHER}]
client = openai.OpenAI(max_retries=0)


class Event(BaseModel):
    name: str = Field(max_length=20)
    day: Literal["Friday", "Monday"]
    guests: list[Literal["Alice", "Bob"]] = Field(max_length=3)


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Oslo", "Rome"]


@call("models")
def models() -> Any:
    return [model.id for model in client.models.list()]


@call("chat")
def chat() -> Any:
    answer = client.chat.completions.create(messages=CHAT, **GREEDY)
    return answer.choices[0].message.content


@call("streamed chat")
def streamed_chat() -> Any:
    parts = client.chat.completions.create(messages=CHAT, stream=True, **GREEDY)
    return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)


@call("asynchronous chat")
async def asynchronous_chat() -> Any:
    async with openai.AsyncOpenAI() as one:
        answer = await one.chat.completions.create(messages=CHAT, **GREEDY)
        return answer.choices[0].message.content


@call("completion")
def completion() -> Any:
    return client.completions.create(prompt="def area(r):", **GREEDY).choices[0].text


@call("structured output (.parse)")
def parse() -> Any:
    answer = client.chat.completions.parse(messages=CHAT, response_format=Event, **SEEDED)
    event = answer.choices[0].message.parsed
    assert isinstance(event, Event)
    return [event.model_dump(), answer.choices[0].message.content]


@call("streamed structured output (.stream)")
def stream_parse() -> Any:
    asked: Any = {"messages": CHAT, "response_format": Event, **SEEDED}
    with client.chat.completions.stream(**asked) as events:
        kinds = [event.type for event in events]
        final = events.get_final_completion().choices[0].message
    assert isinstance(final.parsed, Event)
    return [kinds[-1], "content.delta" in kinds, final.parsed.model_dump(), final.content]


@call("tools")
def tools() -> Any:
    """A call, what the function returned, and the answer after it."""
    asked: Any = {"messages": CHAT, "tools": TOOLS, "tool_choice": "required", **SEEDED}
    first = client.chat.completions.create(**asked).choices[0]
    calls = first.message.tool_calls or []
    results = [{"role": "tool", "tool_call_id": one.id, "content": "4 mm"} for one in calls]
    said = [*CHAT, first.message, *results]
    second = client.chat.completions.create(messages=said, tools=TOOLS, **GREEDY).choices[0]
    made = [[one.function.name, one.function.arguments] for one in calls]
    return [first.finish_reason, made, second.message.content]


@call("streamed tool calls")
def streamed_tools() -> Any:
    named: Any = {"type": "function", "function": {"name": "weather"}}
    asked: Any = {"messages": CHAT, "tools": TOOLS, "tool_choice": named, **SEEDED}
    found = ["", ""]
    for part in client.chat.completions.create(stream=True, **asked):
        for delta in part.choices[0].delta.tool_calls or []:
            assert delta.function is not None
            found[0] += delta.function.name or ""
            found[1] += delta.function.arguments or ""
    return found


@call("tools from pydantic (.parse)")
def parsed_tools() -> Any:
    asked: Any = {"tools": [openai.pydantic_function_tool(Weather)], "tool_choice": "required"}
    answer = client.chat.completions.parse(messages=CHAT, **asked, **SEEDED)
    calls = answer.choices[0].message.tool_calls or []
    return [type(one.function.parsed_arguments).__name__ for one in calls]


RESPONSE: Any = {"model": MODEL, "input": QUESTION}


@call("Responses")
def responses() -> Any:
    first = client.responses.create(temperature=0, max_output_tokens=16, **RESPONSE)
    second = client.responses.create(
        model=MODEL, input="Why?", previous_response_id=first.id, max_output_tokens=16
    )
    return [first.output_text, second.status, client.responses.retrieve(first.id).id == first.id]


@call("streamed Responses (.stream)")
def streamed_responses() -> Any:
    with client.responses.stream(temperature=0, max_output_tokens=16, **RESPONSE) as events:
        text = "".join(one.delta for one in events if one.type == "response.output_text.delta")
        return [text, events.get_final_response().output_text]


@call("structured Responses (.parse)")
def parsed_responses() -> Any:
    body: Any = {"seed": 5}
    answer = client.responses.parse(
        text_format=Event, max_output_tokens=300, extra_body=body, **RESPONSE
    )
    assert isinstance(answer.output_parsed, Event)
    return [answer.output_parsed.model_dump(), answer.output_text]


@call("tools in Responses")
def tools_in_responses() -> Any:
    """A call, what the function returned, and the answer after it."""
    asked: Any = {
        "tools": FLAT,
        "model": MODEL,
        "max_output_tokens": 200,
        "extra_body": {"seed": 5},
    }
    first = client.responses.create(input=CHAT, tool_choice="required", **asked)
    calls = [one for one in first.output if one.type == "function_call"]
    results = [{"type": "function_call_output", "call_id": c.call_id, "output": "4"} for c in calls]
    second = client.responses.create(input=[*CHAT, *first.output, *results], **asked)
    return [[[one.name, one.arguments] for one in calls], second.status]


main()
