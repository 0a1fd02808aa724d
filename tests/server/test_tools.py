"""Tools in chats: calls that satisfy their schemas, streams, the official client, refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from support.serving import Served, client_of, load_demo, real_server

ASK = [{"role": "user", "content": "Convert 3 hours to minutes."}]
PLAIN: dict[str, Any] = {"model": "demo", "seed": 1, "max_tokens": 200}
UNITS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "unit": {"$ref": "#/$defs/unit"},
        "count": {"type": "integer", "minimum": 0, "maximum": 999},
    },
    "required": ["unit", "count"],
    "additionalProperties": False,
    "$defs": {"unit": {"enum": ["hours", "minutes"]}},
}
FLAG: dict[str, Any] = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}


def tool(name: str, parameters: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


TOOLS = [tool("convert", UNITS, description="Convert a time."), tool("switch", FLAG)]
SCHEMAS = {"convert": UNITS, "switch": FLAG}
NAMED = {"type": "function", "function": {"name": "switch"}}


@pytest.fixture(scope="module", params=["hermes", "llama3", "mistral", "json"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with real_server(load_demo(), tool_call_parser=request.param) as server:
        yield server


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with served.client(verify=False) as client:
        yield client


@pytest.fixture(scope="module")
def one() -> Iterator[httpx.Client]:
    with real_server(load_demo()) as server, server.client(verify=False) as client:
        yield client


def post(http: httpx.Client, **fields: Any) -> Any:
    answer = http.post("/v1/chat/completions", json=PLAIN | {"messages": ASK} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def streamed(http: httpx.Client, **fields: Any) -> tuple[dict[str, Any], list[Any]]:
    """What the deltas of a stream add up to, and the deltas."""
    body = PLAIN | {"messages": ASK, "stream": True} | fields
    answer = http.post("/v1/chat/completions", json=body)
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]", answer.text
    choices = [choice for line in lines for choice in json.loads(line)["choices"]]
    deltas = [choice["delta"] for choice in choices]
    said: dict[str, Any] = {"content": "", "calls": [], "reason": choices[-1]["finish_reason"]}
    for delta in deltas:
        said["content"] += delta.get("content", "")
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert (call["index"], call["type"]) == (len(said["calls"]), "function")
                assert call["id"].startswith("call_")
                assert call["function"]["arguments"] == ""
                said["calls"].append([call["function"]["name"], ""])
            else:
                said["calls"][call["index"]][1] += call["function"]["arguments"]
    return said, deltas


def whole(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """An answer in the same form."""
    [choice] = post(http, **fields)["choices"]
    message = choice["message"]
    calls = [
        [call["function"]["name"], call["function"]["arguments"]]
        for call in message.get("tool_calls", [])
    ]
    assert message["content"] is not None or calls
    return {
        "content": message["content"] or "",
        "calls": calls,
        "reason": choice["finish_reason"],
    }


def check_calls(calls: list[list[str]]) -> None:
    assert calls
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "method"), [("required", "mtad"), (NAMED, "specinfer"), ("required", "mcss")]
)
def test_what_must_be_called_is_called_as_its_schema_says(
    http: httpx.Client, choice: Any, method: str
) -> None:
    for seed in range(2):
        given: Any = {"tools": TOOLS, "tool_choice": choice, "method": method, "seed": seed}
        said = whole(http, parallel_tool_calls=False, **given)
        assert (len(said["calls"]), said["content"], said["reason"]) == (1, "", "tool_calls")
        check_calls(said["calls"])
        assert choice != NAMED or said["calls"][0][0] == "switch"
        parts, _ = streamed(http, parallel_tool_calls=False, **given)
        assert parts == said


ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {"number": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["number"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER}}


JSON = r'\{\s*"number"\s*:\s*\d{1,2}\s*\}'
OWN = 'start: call\ncall: "x" answer\nanswer: /[ab]{3}/'
BESIDE = [
    ("mtad", {"response_format": FORMAT}, "{", JSON),
    pytest.param("mtad", {"guided_regex": "[a-z]{2,5}!"}, "x", "x.{1,4}!", marks=pytest.mark.slow),
    ("mcss", {"structured_outputs": {"choice": ["yes", "xno"]}}, "x", "xno"),
    pytest.param("mtad", {"guided_grammar": OWN}, "x", "x.{3}", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("method", "form", "begin", "pattern"), BESIDE, ids=range(len(BESIDE)))
def test_a_form_beside_tools_is_of_the_answer_without_calls(
    one: httpx.Client, method: str, form: dict[str, Any], begin: str, pattern: str
) -> None:
    given: Any = {"tools": TOOLS, "parallel_tool_calls": False, "method": method} | form

    def beginning(text: str) -> dict[str, Any]:
        asked = {"prompt": text, "add_special_tokens": False}
        first = one.post("/tokenize", json=asked).json()["tokens"][0]
        return given | {"logit_bias": {str(first): 100}}

    says, calls = beginning(begin), beginning("<")
    said = whole(one, **says)
    assert re.fullmatch(pattern, said["content"])
    assert (said["calls"], said["reason"]) == ([], "stop")
    assert streamed(one, **says)[0] == said
    for fields in ({}, {"tool_choice": "required"}):
        called = whole(one, **calls, **fields)
        assert (len(called["calls"]), called["content"]) == (1, "")
        check_calls(called["calls"])
    assert streamed(one, **calls)[0]["calls"]
    none = whole(one, **says, tool_choice="none")
    assert (none["calls"], none["content"][:1]) == ([], begin)


NEWER = {"mistral": "[ARGS] {{ messages[-1].content }}", "qwen3_coder": None}


@pytest.mark.slow
@pytest.mark.parametrize("parser", NEWER)
def test_newer_forms_of_calls(parser: Any) -> None:
    given: Any = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    more = {"tool_call_parser": parser, "chat_template": NEWER[parser]}
    with real_server(load_demo(), **more) as server, server.client(verify=False) as client:
        said = whole(client, **given)
        assert (len(said["calls"]), said["content"], said["reason"]) == (1, "", "tool_calls")
        check_calls(said["calls"])
        assert streamed(client, **given)[0] == said


def some(mode: str, *names: str) -> dict[str, Any]:
    chosen = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": chosen}}


def test_arguments_have_no_names_that_no_schema_has(one: httpx.Client) -> None:
    point = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}
    line = {"properties": {"to": {"$ref": "#/$defs/point"}}, "$defs": {"point": point}}
    given: Any = {"tools": [tool("line", line), tool("now", None)], "tool_choice": "required"}
    given |= {"parallel_tool_calls": False}
    for seed in range(3):
        for name, arguments in whole(one, **given, seed=seed)["calls"]:
            value = json.loads(arguments)
            assert value in ({}, {"to": {"x": True}}, {"to": {"x": False}}), arguments
            assert value == {} or name == "line"


@pytest.mark.slow
def test_some_of_the_tools_may_be_called(one: httpx.Client) -> None:
    given: Any = {"tools": TOOLS, "parallel_tool_calls": False}
    said = whole(one, **given, tool_choice=some("required", "switch"))
    assert [name for name, _ in said["calls"]] == ["switch"]
    check_calls(said["calls"])
    free, all_of = (some("auto", *names) for names in (["switch"], ["switch", "convert"]))
    bodies = [given | {"tool_choice": choice, "max_tokens": 4} for choice in (free, all_of, "auto")]
    answers = [post(one, **body) for body in bodies]
    assert len({answer["usage"]["prompt_tokens"] for answer in answers}) == 1
    assert [answer["mtad"].get("grammar") for answer in answers] == ["tools", None, None]


@pytest.mark.slow
def test_several_calls(http: httpx.Client) -> None:
    given: Any = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 150}
    said = whole(http, **given)
    check_calls(said["calls"] if said["reason"] == "tool_calls" else said["calls"][:-1])
    assert streamed(http, **given)[0] == said


@pytest.mark.slow
def test_arguments_come_in_pieces(one: httpx.Client) -> None:
    given: Any = {"tools": TOOLS, "tool_choice": "required", "method": "autoregressive"}
    said, deltas = streamed(one, parallel_tool_calls=False, **given)
    pieces = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
    assert len(pieces) > 2
    check_calls(said["calls"])


@pytest.mark.slow
def test_a_call_that_its_budget_cuts_off_says_so(one: httpx.Client) -> None:
    given: Any = {"tools": TOOLS, "tool_choice": NAMED, "return_token_ids": True}
    [choice] = post(one, **given)["choices"]
    arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
    num_tokens, parts = len(choice["token_ids"]), set[str]()
    for budget in (2, num_tokens // 2, num_tokens - 12):
        said = whole(one, max_tokens=budget, **given)
        assert said["reason"] == "length"
        assert all(name == "switch" for name, _ in said["calls"])
        parts |= {part for _, part in said["calls"]}
    assert all(arguments.startswith(part) for part in parts)
    assert any(part != arguments for part in parts)


@pytest.mark.slow
def test_free_calls_are_texts_that_are_read(one: httpx.Client) -> None:
    free = whole(one, tools=TOOLS, temperature=0)
    none = whole(one, tools=TOOLS, temperature=0, tool_choice="none")
    plain = whole(one, temperature=0)
    assert none == plain
    assert free["calls"] == []
    assert streamed(one, tools=TOOLS, temperature=0)[0] == free


@pytest.mark.slow
def test_strict_tools_leave_text_free_and_hold_calls(http: httpx.Client) -> None:
    strict = [tool("switch", FLAG, strict=True)]
    for tools, form in ((strict, "tools"), ([tool("switch", FLAG)], None)):
        assert post(http, tools=tools, max_tokens=1)["mtad"].get("grammar") == form
    said = whole(http, tools=strict, temperature=0)
    assert streamed(http, tools=strict, temperature=0)[0] == said
    if said["calls"]:
        check_calls(said["calls"])
    else:
        assert said["content"]


# --- the official client


@pytest.mark.slow
def test_the_official_client(served: Served) -> None:
    given: Any = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    given |= PLAIN | {"messages": ASK}
    with client_of(served) as client:
        [choice] = client.chat.completions.create(**given).choices
        [call] = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls"
        check_calls([[call.function.name, call.function.arguments]])
        with client.chat.completions.stream(**given) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion().choices[0].message
        assert "tool_calls.function.arguments.done" in kinds
        [again] = final.tool_calls
        assert again.function.arguments == call.function.arguments
        turns: Any = [
            *ASK,
            choice.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "done"},
        ]
        answer = client.chat.completions.create(
            **given | {"messages": turns, "tool_choice": "auto"}
        )
    assert answer.usage.prompt_tokens > 0


# --- what is refused


BAD = tool(
    "convert", {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)"}}}
)
PASSED_OVER = tool("convert", {"type": "object", "x-guidance": {"lenient": True}, "not": {}})
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"tool_choice": "required"}, "tool_choice", "needs tools"),
    ({"tool_choice": NAMED}, "tool_choice", "needs tools"),
    ({"tools": [], "tool_choice": NAMED}, "tool_choice", "needs tools"),
    ({"tools": TOOLS[:1], "tool_choice": NAMED}, "tool_choice", "no tool 'switch'"),
    (
        {
            "tools": TOOLS,
            "tool_choice": {"type": "function", "function": {"name": "swich"}},
        },
        "tool_choice",
        "did you mean",
    ),
    ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1].function.name", "another tool"),
    (
        {"tools": [TOOLS[1], BAD], "tool_choice": "required"},
        "tools[1].function.parameters",
        "cannot be honoured",
    ),
    (
        {"tools": [TOOLS[1], PASSED_OVER], "tool_choice": "required"},
        "tools[1].function.parameters",
        "x-guidance",
    ),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "function"),
    ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", "required"),
    ({"tools": TOOLS, "tool_choice": "required", "min_tokens": 3}, "min_tokens", "grammar"),
    ({"tools": TOOLS, "guided_regex": "(a"}, "guided_regex", "unclosed group"),
    ({"tools": TOOLS, "guided_grammar": "start: /(.|\\n)*/"}, "guided_grammar", "as calls do"),
    (
        {"tools": [TOOLS[1], BAD], "tool_choice": "auto", "guided_regex": "a"},
        "tools[1].function.parameters",
        "cannot be honoured",
    ),
    (
        {"tools": TOOLS, "guided_json": {"type": "string", "pattern": "(?=x)"}},
        "guided_json",
        "cannot be honoured",
    ),
    ({"tools": TOOLS, "tool_choice": some("required", "x")}, "tool_choice", "no tool 'x'"),
    (
        {"tools": TOOLS, "tool_choice": some("required")},
        "tool_choice.allowed_tools.tools",
        "at least 1",
    ),
    ({"functions": [{"name": "f"}]}, "functions", "send tools"),
    ({"function_call": {"name": "f"}}, "function_call", "send tool_choice"),
    ({"messages": [*ASK, {"role": "assistant"}]}, "messages[1]", "needs content"),
]


@pytest.mark.parametrize(("fields", "param", "word"), WRONG, ids=lambda v: str(v)[-50:])
def test_what_cannot_be_honoured_names_its_parameter(
    one: httpx.Client, fields: dict[str, Any], param: str, word: str
) -> None:
    answer = one.post("/v1/chat/completions", json=PLAIN | {"messages": ASK} | fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert word in error["message"]


def test_a_schema_that_is_only_shown_is_not_compiled(one: httpx.Client) -> None:
    assert post(one, tools=[BAD], max_tokens=4)
