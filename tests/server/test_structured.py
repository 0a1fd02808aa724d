"""Answers of a given form: OpenAI's `response_format` and vLLM's names, by their clients' calls."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel
from support.serving import Served, client_of, load_demo, real_server

CHAT: Any = [{"role": "user", "content": "A cat?"}]


class Person(BaseModel):
    name: str
    kind: Literal["cat", "dog"]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with real_server(load_demo()) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with client_of(served) as one:
        yield one


def ask(served: Served, **body: Any) -> httpx.Response:
    chat = {"model": "demo", "messages": CHAT, "max_tokens": 200, "seed": 3} | body
    return httpx.post(f"{served.url}/v1/chat/completions", json=chat, timeout=60)


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "kind": {"enum": ["cat", "dog"]}},
    "required": ["name", "kind"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA}}


def is_pet(text: str) -> bool:
    value = json.loads(text)
    return {*value} == {*SCHEMA["required"]} and value["kind"] in ("cat", "dog")  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mtad", "specinfer", "prompt_lookup", "mtjd"])
def test_a_schema_is_kept_whole_and_streamed(client, method):
    options: Any = {"model": "demo", "messages": CHAT, "max_tokens": 200, "seed": 3}
    options |= {"response_format": FORMAT, "extra_body": {"method": method}}
    answer = client.chat.completions.create(**options)
    text = answer.choices[0].message.content or ""
    assert answer.choices[0].finish_reason == "stop" and is_pet(text)
    assert answer.mtad["grammar"] == "json_schema"  # type: ignore[attr-defined]
    stream = client.chat.completions.create(**options, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == text


@pytest.mark.slow
def test_parse_makes_what_was_asked_for(client):
    answer = client.chat.completions.parse(
        model="demo", messages=CHAT, max_tokens=250, seed=1, response_format=Person
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


@pytest.mark.parametrize(
    ("field", "pattern"),
    [
        ({"guided_regex": "[a-c]{2,4}!"}, "[a-c]{2,4}!"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_grammar": 'start: "x" | "y" "x"'}, "y?x"),
        ({"guided_grammar": 'root ::= "x" | "y" "x"'}, "y?x"),
        ({"guided_json": {"enum": [1, 22]}}, "1|22"),
        ({"guided_json": '{"enum": [1, 22]}'}, "1|22"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"structured_outputs": {"json": {"enum": [1, 22]}}}, "1|22"),
        ({"structured_outputs": {"regex": "ab*c"}}, "ab*c"),
        ({"response_format": {"type": "json_object"}}, r"(?s)\{.*\}"),
    ],
)
def test_each_name_of_a_form_is_kept(served, field, pattern):
    answer = ask(served, **field).json()["choices"][0]
    if answer["finish_reason"] == "stop":
        assert re.fullmatch(pattern, answer["message"]["content"])
    else:
        assert field.get("response_format")  # an object may have more than its budget takes
    assert answer["message"]["content"]


def test_prompts_are_completed_in_the_form_too(served):
    body = {"model": "demo", "prompt": ["def a", "class"], "n": 2, "guided_choice": ["p", "qq"]}
    answer = httpx.post(f"{served.url}/v1/completions", json=body, timeout=60).json()
    assert {choice["text"] for choice in answer["choices"]} <= {"p", "qq"}
    assert len(answer["choices"]) == 4


def test_without_a_form_the_contract_says_none(served):
    assert "grammar" not in ask(served, max_tokens=2).json()["mtad"]
    text = ask(served, max_tokens=2, response_format={"type": "text"})
    assert "grammar" not in text.json()["mtad"]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"guided_regex": "(a"}, "guided_regex", "unclosed group"),
        ({"guided_json": {"type": "strin"}}, "guided_json", "strin"),
        ({"guided_json": "{"}, "guided_json", "is not JSON"),
        ({"guided_json": '{"not":' * 4000}, "guided_json", "is not JSON"),
        ({"guided_json": {"dependencies": {"a": ["b"]}}}, "guided_json", "dependencies is not"),
        ({"guided_json": {"x-guidance": {"lenient": True}}}, "guided_json", "x-guidance"),
        ({"guided_grammar": "start: foo"}, "guided_grammar", "foo"),
        ({"guided_choice": []}, "guided_choice", "at least 1"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
        (
            {"guided_regex": "a", "guided_choice": ["a"]},
            "guided_choice",
            "guided_regex and guided_choice both say",
        ),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs.regex",
            "both say",
        ),
        ({"guided_regex": "a+", "min_tokens": 3}, "min_tokens", "bans tokens"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(served, body, param, message):
    answer = ask(served, **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"].startswith(param)
    assert message in error["message"]


def test_log_probabilities_are_those_of_the_masked_target(served):
    body = {"guided_choice": ["yes", "no"], "logprobs": True, "top_logprobs": 5}
    for one in ask(served, **body).json()["choices"][0]["logprobs"]["content"]:
        assert one["logprob"] > -1000
        assert {t["token"] for t in one["top_logprobs"] if t["logprob"] > -1000} <= {
            *("y", "ye", "yes", "e", "es", "s", "n", "no", "o")
        }
