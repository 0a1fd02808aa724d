"""Everyday calls of simonw's llm: its command line, and its Python interface for tools."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

os.environ["LLM_USER_PATH"] = str(Path.cwd())
Path("extra-openai-models.yaml").write_text(
    f"""
- model_id: chat
  model_name: demo
  api_base: {os.environ["OPENAI_BASE_URL"]}
  supports_schema: true
  supports_tools: true
- model_id: completion
  model_name: demo
  api_base: {os.environ["OPENAI_BASE_URL"]}
  completion: true
- model_id: responses
  model_name: demo
  api_base: {os.environ["OPENAI_BASE_URL"]}
  responses: true
  supports_schema: true
  supports_tools: true
""",
    encoding="utf-8",
)

import llm  # noqa: E402
from asking import Event, weather  # noqa: E402
from calling import QUESTION, call, main  # noqa: E402
from llm.parts import ToolCallPart  # noqa: E402

GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "16")
SEEDED = ("-o", "seed", "7", "-o", "max_tokens", "200")


def printed(*arguments: str) -> str:
    """What the command line prints."""
    done = subprocess.run(["llm", *arguments], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    return done.stdout.removesuffix("\n")


@call("prompt, streamed")
def streamed() -> Any:
    return printed("-m", "chat", QUESTION, *GREEDY)


@call("prompt (--no-stream)")
def prompt() -> Any:
    return printed("-m", "chat", "--no-stream", QUESTION, *GREEDY)


@call("completion")
def completion() -> Any:
    return printed("-m", "completion", "def area(r):", *GREEDY)


@call("Responses")
def responses() -> Any:
    return printed("-m", "responses", QUESTION, "-o", "temperature", "0")


@call("conversation (-c)")
def conversation() -> Any:
    first = printed("-m", "chat", QUESTION, *GREEDY)
    return [first, printed("-c", "Why?", *GREEDY)]


@call("schema (--schema)")
def schema() -> Any:
    form = json.dumps(Event.model_json_schema())
    return json.loads(printed("-m", "chat", "--schema", form, QUESTION, *SEEDED))


@call("schema from pydantic")
def schema_of_pydantic() -> Any:
    answer = llm.get_model("chat").prompt(QUESTION, schema=Event, seed=7, max_tokens=200)
    return json.loads(answer.text())


@call("tools offered (--functions)")
def functions() -> Any:
    code = 'def rain(city: str) -> str:\n    "The rain in a city."\n    return "4 mm"\n'
    return printed("-m", "chat", "--functions", code, QUESTION, *GREEDY)


@call("results of tools, sent back")
def results() -> Any:
    """A model this small does not call by itself: the chain begins after its call."""
    made = ToolCallPart(name="weather", arguments={"city": "Oslo"}, tool_call_id="call_1")
    said = [llm.user(QUESTION), llm.assistant(made)]
    ran: list[str] = []

    def keep(tool: Any, tool_call: Any, tool_result: Any) -> None:
        ran.append(tool_result.output)

    model: Any = llm.get_model("chat")
    options = {"seed": 7, "max_tokens": 16}
    found = model.chain(messages=said, tools=[weather], options=options, after_call=keep)
    return [ran, found.text()]


main()
