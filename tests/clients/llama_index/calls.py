"""Everyday calls of LlamaIndex: OpenAILike, and OpenAI with a name that it knows."""

from __future__ import annotations

import os
from typing import Any

from asking import Event, Weather, weather
from calling import ALIAS, MODEL, QUESTION, call, main
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike

WHERE: Any = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": "none", "max_retries": 0}
LIKE: Any = {"model": MODEL, "is_chat_model": True, "context_window": 1024, **WHERE}
SEEDED: Any = {"max_tokens": 200, "additional_kwargs": {"seed": 7}}
greedy = OpenAILike(temperature=0, max_tokens=16, **LIKE)
seeded = OpenAILike(is_function_calling_model=True, **SEEDED, **LIKE)
known = OpenAI(model=ALIAS, temperature=0, max_tokens=16, **WHERE)
CHAT = [ChatMessage(role="user", content=QUESTION)]
TOOL = FunctionTool.from_defaults(weather, fn_schema=Weather)


@call("chat")
def chat() -> Any:
    return greedy.chat(CHAT).message.content


@call("streamed chat")
def stream_chat() -> Any:
    return "".join(part.delta or "" for part in greedy.stream_chat(CHAT))


@call("asynchronous chat")
async def achat() -> Any:
    return (await greedy.achat(CHAT)).message.content


@call("complete, as a chat")
def complete() -> Any:
    return greedy.complete(QUESTION).text


@call("streamed complete, as a chat")
def stream_complete() -> Any:
    return "".join(part.delta or "" for part in greedy.stream_complete(QUESTION))


@call("complete, as a completion")
def completion() -> Any:
    one = OpenAILike(model=MODEL, is_chat_model=False, temperature=0, max_tokens=16, **WHERE)
    return one.complete("def area(r):").text


@call("chat with the class OpenAI")
def chat_of_openai() -> Any:
    return known.chat(CHAT).message.content


@call("Responses (OpenAIResponses)")
def responses() -> Any:
    one = OpenAIResponses(model=ALIAS, temperature=0, max_output_tokens=16, **WHERE)
    return one.chat(CHAT).message.content


@call("structured_predict")
def structured_predict() -> Any:
    return seeded.structured_predict(Event, PromptTemplate(QUESTION)).model_dump()


@call("structured_predict with the class OpenAI")
def structured_predict_of_openai() -> Any:
    one = OpenAI(model=ALIAS, **SEEDED, **WHERE)
    return one.structured_predict(Event, PromptTemplate(QUESTION)).model_dump()


@call("as_structured_llm")
def as_structured_llm() -> Any:
    return seeded.as_structured_llm(Event).chat(CHAT).raw.model_dump()


@call("tools (chat_with_tools)")
def chat_with_tools() -> Any:
    answer = seeded.chat_with_tools([TOOL], chat_history=CHAT, tool_required=True)
    return [[one.tool_name, one.tool_kwargs] for one in seeded.get_tool_calls_from_response(answer)]


@call("tools that are run (predict_and_call)")
def predict_and_call() -> Any:
    answer = seeded.predict_and_call([TOOL], chat_history=CHAT, tool_required=True)
    return [[one.tool_name, one.raw_input["kwargs"]] for one in answer.sources]


@call("agent (FunctionAgent)")
async def agent() -> Any:
    """Its first turn has to call the tool, the next may."""
    one = FunctionAgent(tools=[TOOL], llm=seeded, initial_tool_choice="weather")
    found = await one.run(QUESTION, max_iterations=6)
    calls = [[c.tool_name, c.tool_kwargs] for c in found.tool_calls]
    results = [c.tool_output.content for c in found.tool_calls]
    return {"calls": calls, "results": results, "text": found.response.content}


main()
