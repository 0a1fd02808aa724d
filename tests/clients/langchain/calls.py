"""Everyday calls of LangChain: models, structured output, tools, agents."""

from __future__ import annotations

from typing import Any

from asking import Event, Weather, weather
from calling import MODEL, QUESTION, call, main
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI

GREEDY: Any = {"model": MODEL, "temperature": 0, "max_tokens": 16, "max_retries": 0}
greedy = ChatOpenAI(**GREEDY)
seeded: Any = ChatOpenAI(model=MODEL, seed=7, max_tokens=200, max_retries=0)

rain = tool(args_schema=Weather.model_json_schema())(weather)


def made(message: Any) -> Any:
    return [[one["name"], one["args"]] for one in message.tool_calls]


@call("chat (invoke)")
def invoke() -> Any:
    return greedy.invoke(QUESTION).content


@call("streamed chat (stream)")
def stream() -> Any:
    return "".join(str(part.content) for part in greedy.stream(QUESTION))


@call("asynchronous chat (ainvoke)")
async def ainvoke() -> Any:
    return (await greedy.ainvoke(QUESTION)).content


@call("several at once (batch)")
def batch() -> Any:
    first, second = greedy.batch([QUESTION, QUESTION])
    assert first.content == second.content
    return first.content


@call("completion (OpenAI)")
def completion() -> Any:
    return OpenAI(**GREEDY).invoke("def area(r):")


@call("Responses (use_responses_api)")
def responses() -> Any:
    return ChatOpenAI(use_responses_api=True, **GREEDY).invoke(QUESTION).text


@call("streamed Responses")
def streamed_responses() -> Any:
    model = ChatOpenAI(use_responses_api=True, **GREEDY)
    return "".join(str(part.text) for part in model.stream(QUESTION))


@call("with_structured_output, json_schema")
def json_schema() -> Any:
    model = seeded.with_structured_output(Event, method="json_schema")
    return model.invoke(QUESTION).model_dump()


@call("with_structured_output, function_calling")
def function_calling() -> Any:
    model = seeded.with_structured_output(Event, method="function_calling")
    return model.invoke(QUESTION).model_dump()


@call("with_structured_output, json_mode")
def json_mode() -> Any:
    return seeded.with_structured_output(None, method="json_mode").invoke(QUESTION)


@call("streamed with_structured_output")
def streamed_form() -> Any:
    [*_, last] = seeded.with_structured_output(Event).stream(QUESTION)
    return last.model_dump()


@call("tools (bind_tools)")
def bind_tools() -> Any:
    return made(seeded.bind_tools([rain], tool_choice="any").invoke(QUESTION))


@call("strict tools (bind_tools)")
def strict_tools() -> Any:
    return made(seeded.bind_tools([rain], tool_choice="weather", strict=True).invoke(QUESTION))


@call("streamed tool calls")
def streamed_tools() -> Any:
    first, *rest = seeded.bind_tools([rain], tool_choice="any").stream(QUESTION)
    for part in rest:
        first = first + part
    return made(first)


@call("tools in Responses")
def tools_in_responses() -> Any:
    model: Any = ChatOpenAI(
        model=MODEL, max_tokens=200, use_responses_api=True, extra_body={"seed": 7}
    )
    return made(model.bind_tools([rain], tool_choice="any").invoke(QUESTION))


@wrap_model_call
def once(request: Any, handler: Any) -> Any:
    """One call of a tool, then words: a model this small does not choose."""
    is_answered = isinstance(request.messages[-1], ToolMessage)
    return handler(request.override(tool_choice="none" if is_answered else "any"))


@call("agent (create_agent)")
def agent() -> Any:
    one = create_agent(seeded, [rain], middleware=[once])
    found = one.invoke({"messages": [HumanMessage(QUESTION)]}, {"recursion_limit": 8})["messages"]
    results = [one.content for one in found if isinstance(one, ToolMessage)]
    return {"calls": made(found[1]), "results": results, "text": found[-1].content}


@call("agent with response_format")
def agent_with_form() -> Any:
    one = create_agent(seeded, response_format=Event)
    found = one.invoke({"messages": [HumanMessage(QUESTION)]}, {"recursion_limit": 8})
    return found["structured_response"].model_dump()


main()
