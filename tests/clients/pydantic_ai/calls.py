"""Everyday calls of pydantic-ai, over chats and over Responses."""

from __future__ import annotations

from typing import Any

from asking import Event, weather
from calling import MODEL, QUESTION, call, main
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.usage import UsageLimits

GREEDY: Any = {"temperature": 0, "max_tokens": 16}
SEEDED: Any = {"max_tokens": 200, "extra_body": {"seed": 7}}
LIMITS = UsageLimits(request_limit=4)
chats, responses = OpenAIChatModel(MODEL), OpenAIResponsesModel(MODEL)


def event_of(model: Any, form: Any) -> Any:
    agent: Any = Agent(model, output_type=form, model_settings=SEEDED)
    return agent.run_sync(QUESTION, usage_limits=LIMITS).output.model_dump()


async def streamed(model: Any) -> Any:
    async with Agent(model, model_settings=GREEDY).run_stream(QUESTION) as found:
        return "".join([part async for part in found.stream_text(delta=True)])


def with_tools(model: Any) -> Any:
    """One call of the tool, then words: a model this small does not choose."""

    def settings(context: Any) -> Any:
        return SEEDED | {"tool_choice": "none" if len(context.messages) > 1 else "required"}

    agent: Any = Agent(model, tools=[weather], model_settings=settings)
    found = agent.run_sync(QUESTION, usage_limits=LIMITS)
    parts = [part for message in found.all_messages() for part in message.parts]
    calls = [[p.tool_name, p.args_as_dict()] for p in parts if isinstance(p, ToolCallPart)]
    results = [p.content for p in parts if p.part_kind == "tool-return"]
    return {"calls": calls, "results": results, "text": found.output}


@call("chat (run_sync)")
def chat() -> Any:
    return Agent(chats, model_settings=GREEDY).run_sync(QUESTION).output


@call("streamed chat (run_stream)")
async def streamed_chat() -> Any:
    return await streamed(chats)


@call("conversation (message_history)")
def history() -> Any:
    agent = Agent(chats, model_settings=GREEDY)
    first = agent.run_sync(QUESTION)
    second = agent.run_sync("Why?", message_history=first.all_messages())
    return [first.output, second.output]


@call("output_type, by a tool")
def output_type() -> Any:
    return event_of(chats, Event)


@call("output_type, NativeOutput")
def native_output() -> Any:
    return event_of(chats, NativeOutput(Event))


@call("streamed output_type")
async def streamed_output() -> Any:
    agent = Agent(chats, output_type=Event, model_settings=SEEDED)
    async with agent.run_stream(QUESTION) as found:
        [*_, last] = [part async for part in found.stream_output()]
        return last.model_dump()


@call("agent with tools")
def tools() -> Any:
    return with_tools(chats)


@call("Responses")
def plain_responses() -> Any:
    return Agent(responses, model_settings=GREEDY).run_sync(QUESTION).output


@call("streamed Responses")
async def streamed_responses() -> Any:
    return await streamed(responses)


@call("output_type in Responses, by a tool")
def output_in_responses() -> Any:
    return event_of(responses, Event)


@call("output_type in Responses, NativeOutput")
def native_in_responses() -> Any:
    return event_of(responses, NativeOutput(Event))


@call("agent with tools in Responses")
def tools_in_responses() -> Any:
    return with_tools(responses)


main()
