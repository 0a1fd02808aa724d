"""Tools, calls and results as chat templates get them, and marks that are special tokens."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter
from support.serving import demo, load_demo, real_server
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mtad.api.pair import ModelPair
from mtad.errors import PromptError
from mtad.server.api.messages import Message, Tool
from mtad.server.api.tokenizing import Texts

SCHEMA = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "switch", "description": "A light.", "parameters": SCHEMA, "strict": True},
}
BARE: dict[str, Any] = {"type": "function", "function": {"name": "ping"}}
ASKED = {"role": "user", "content": "Light!"}


def call(name: str, arguments: str, given_id: str = "call_1") -> dict[str, Any]:
    return {"id": given_id, "type": "function", "function": {"name": name, "arguments": arguments}}


TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    ASKED,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [call("switch", '{"on": true}'), call("ping", "", "call_2")],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "lit"}]},
    {"role": "tool", "tool_call_id": "call_2", "content": "pong"},
]
MESSAGES: Any = TypeAdapter(list[Message])
TOOLS: Any = TypeAdapter(list[Tool])

HERMES = (
    "{% for t in tools or [] %}({{ t | tojson }}){% endfor %}{% for m in messages %}"
    "{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}="
    "{{ c.function.arguments.on }}</tool_call>{% endfor %}{{ '\\n' }}{% endfor %}"
)
MISTRAL = (
    "{% if tools %}{% endif %}{% for m in messages %}{% for c in m.tool_calls or [] %}"
    "{% if c.id | length != 9 %}{{ raise_exception('nine letters') }}{% endif %}"
    "[TOOL_CALLS]{{ c.id }}{% endfor %}{% if m.role == 'tool' %}"
    "{{ '\\n' }}{{ m.tool_call_id }} {{ m.name }}{% endif %}{% endfor %}"
)


def shown(template: str, messages: list[Any], *tools: dict[str, Any], parser: Any = "auto") -> str:
    """A chat as the model reads it."""
    tokenizer: Any = copy.copy(demo().tokenizer)
    tokenizer.chat_template = template
    texts = Texts(tokenizer, parser=parser)
    chat, given = MESSAGES.validate_python(messages), TOOLS.validate_python(list(tools))
    return texts.text(texts.ids(chat, tools=given))


def test_a_template_that_knows_tools_gets_them() -> None:
    text = shown(HERMES, TURNS, TOOL, BARE)
    tools, rest = text.split(")system:")
    first, second = (json.loads(one) for one in tools.removeprefix("(").split(")("))
    assert first["function"] == {k: v for k, v in TOOL["function"].items() if k != "strict"}
    assert second["function"]["parameters"] == {"type": "object", "properties": {}}
    assert rest == (
        "Be brief.\nuser:Light!\nassistant:<tool_call>switch=True</tool_call>"
        "<tool_call>ping=</tool_call>\ntool:lit\ntool:pong\n"
    )
    assert shown(HERMES, [ASKED]) == "user:Light!\n"


def test_mistrals_ids_have_nine_letters_and_results_their_name() -> None:
    called, lit, pong = shown(MISTRAL, TURNS, TOOL).split("\n")
    _, first, second = called.split("[TOOL_CALLS]")
    assert (len(first), len(second), first == second) == (9, 9, False)
    assert (lit, pong) == (f"{first} switch", f"{second} ping")
    own = [ASKED, {"role": "assistant", "tool_calls": [call("ping", "{}", "abcDEF123")]}]
    assert "[TOOL_CALLS]abcDEF123" in shown(MISTRAL, own, TOOL)


def test_a_template_that_knows_no_tools_gets_text() -> None:
    plain = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n\n{% endfor %}"
    text = shown(plain, TURNS, TOOL, BARE)
    system, user, said, results = text.strip().split("\n\n", 1)[1].rsplit("\n\n", 3)
    assert text.startswith("system:Be brief.\n\n")
    lines = system.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["switch", "ping"]
    assert json.loads(lines[0])["parameters"] == SCHEMA
    assert '<tool_call>\n{"name": "NAME", "arguments": {' in system
    assert user == "user:Light!"
    assert said == (
        'assistant:<tool_call>\n{"name": "switch", "arguments": {"on": true}}\n</tool_call>\n'
        '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
    )
    assert results == (
        "user:<tool_response>\nlit\n</tool_response>\n<tool_response>\npong\n</tool_response>"
    )
    assert shown(plain, [ASKED], TOOL).startswith("system:You can call")
    assert shown(plain, [ASKED]) == "user:Light!\n\n"
    mistral = shown(plain, TURNS, TOOL, parser="mistral")
    assert '[TOOL_CALLS][{"name": "switch", "arguments": {"on": true}}, {"name": "ping"' in mistral


def test_a_template_that_knows_calls_alone_gets_the_tools_as_text() -> None:
    template = "{% for m in messages %}{{ m.content }}|{{ m.tool_calls | length }}\n{% endfor %}"
    text = shown(template, TURNS, TOOL)
    assert "<tools>" in text
    assert "\n|2\n" in text


def test_tokenizers_may_have_a_template_for_tools() -> None:
    named = {"default": "plain", "tool_use": HERMES}
    tokenizer: Any = copy.copy(demo().tokenizer)
    tokenizer.chat_template = named
    texts = Texts(tokenizer)
    chat = MESSAGES.validate_python([ASKED])
    assert texts.text(texts.ids(chat)) == "plain"
    assert "switch" in texts.text(texts.ids(chat, tools=TOOLS.validate_python([TOOL])))


@pytest.mark.parametrize("arguments", ['{"on": tr', "[1]", "5"])
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    turns = [ASKED, {"role": "assistant", "tool_calls": [call("switch", arguments)]}]
    for template in (HERMES, "{{ messages[0].content }}"):
        with pytest.raises(PromptError, match=r"messages\[1\].tool_calls\[0\].function.arguments"):
            shown(template, turns)


def test_thinking_is_sent_back_to_the_template() -> None:
    template = "{% for m in messages %}{{ m.reasoning_content }}{% endfor %}{{ tools }}"
    turns = [ASKED, {"role": "assistant", "content": "on", "reasoning_content": "so"}]
    assert shown(template, turns).startswith("so")


# --- marks that are special tokens


def with_marks(template: str, **marks: str) -> ModelPair:
    """The embedded pair, some of whose special tokens have other names."""
    pair = load_demo()
    old: Any = pair.tokenizer
    text = old.backend_tokenizer.to_str()
    for name, mark in marks.items():
        text = text.replace(f"<|{name}|>", mark)
    ends = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), **ends)
    tokenizer.chat_template = template
    made = ModelPair(pair.models.target, pair.models.draft, tokenizer)
    made.graphs = None
    return made


@pytest.mark.slow
def test_marks_that_are_special_tokens_are_read() -> None:
    template = "{{ tools }} [TOOL_CALLS] {{ messages[-1].content }} <think>"
    pair = with_marks(template, system="[TOOL_CALLS]", user="</think>")
    special = {str(t): i for i, t in pair.tokenizer.added_tokens_decoder.items()}  # type: ignore[union-attr]
    body: dict[str, Any] = {
        "model": "demo",
        "messages": [ASKED],
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 80,
        "seed": 1,
        "return_token_ids": True,
        "logit_bias": {str(special["</think>"]): 8},
    }
    with real_server(pair) as served, served.client(verify=False) as http:
        answer = http.post("/v1/chat/completions", json=body).json()
        shown_too = body | {"skip_special_tokens": False}
        again = http.post("/v1/chat/completions", json=shown_too).json()
        bias = {str(special["</think>"]): 100}
        free = body | {"tool_choice": "none", "logit_bias": bias, "max_tokens": 3}
        closed = http.post("/v1/chat/completions", json=free).json()["choices"][0]["message"]
    [choice] = answer["choices"]
    assert {special["</think>"], special["[TOOL_CALLS]"]} <= set(choice["token_ids"])
    message = choice["message"]
    [made] = message["tool_calls"][:1]
    jsonschema.validate(json.loads(made["function"]["arguments"]), SCHEMA)
    assert choice["finish_reason"] == "tool_calls"
    assert message["content"] is None
    [same] = again["choices"][0]["message"]["tool_calls"][:1]
    assert same["function"] == made["function"]
    assert closed == {"role": "assistant", "content": "</think>" * 2, "refusal": None}
