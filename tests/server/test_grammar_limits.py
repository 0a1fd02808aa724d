"""Schemas and grammars that cost much, or lead nowhere: refused clearly, at nobody else's cost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from support.serving import Served, demo, load_demo, real_server

import mtad
from mtad.api.completion import with_text
from mtad.engine.session import Block, Request
from mtad.errors import GrammarError
from mtad.grammar.grammar import Grammar
from mtad.grammar.matcher import GrammarState, TokenGrammars
from mtad.server.api.tokenizing import LONG_BYTES, Texts
from mtad.server.scheduler.sequence import Sequence

MANY = {"type": "object", "properties": {f"k{i}": {"type": "integer"} for i in range(520)}}
"""So many optional properties that the parser gives up, after the bracket that opens the object."""

LEAST = {"type": "integer", "minimum": 1 - 2**53}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with real_server(load_demo()) as server:
        yield server


def ask(served: Served, **more: Any) -> httpx.Response:
    body = {"model": "demo", "prompt": "x", "max_tokens": 8, "seed": 1} | more
    return httpx.post(f"{served.url}/v1/completions", json=body, timeout=60, trust_env=False)


def refusal(answer: httpx.Response) -> tuple[str, str]:
    """The message and the parameter at fault."""
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return error["message"], error["param"]


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("guided_grammar", 'start: a\na: a "x"', "followed further: nothing can follow"),
        ("guided_json", {"maximum": 2**53 - 2, "multipleOf": 9973} | LEAST, "too many expressions"),
        ("guided_json", {"enum": ["x" * 262_144]}, "has 262158 characters; this server takes"),
        ("guided_json", nested(150), "it is nested too deeply"),
    ],
    ids=["no_text", "effort", "chars", "nested"],
)
def test_what_cannot_be_kept_is_refused_at_once(served, field, value, message):
    told, param = refusal(ask(served, **{field: value}))
    assert message in told and param == field


def test_schemas_of_tools_have_the_same_limits(served):
    parameters = {"type": "object", "properties": {"a": {"enum": ["x" * 150_000]}}}
    tools = [
        {"type": "function", "function": {"name": name, "parameters": parameters}}
        for name in ("one", "two")
    ]
    chat = {"messages": [{"role": "user", "content": "x"}], "tool_choice": "required"}
    answer = httpx.post(
        f"{served.url}/v1/chat/completions",
        json={"model": "demo", "tools": tools, "max_tokens": 8} | chat,
        timeout=60,
        trust_env=False,
    )
    told, param = refusal(answer)
    assert "takes at most 262144" in told and param == "tools"


def test_a_body_that_is_nested_too_deeply(served):
    assert refusal(ask(served, guided_json=nested(250)))[0] == (
        "the body is nested more than 200 levels deep"
    )


@pytest.mark.slow
def test_a_grammar_that_fails_later_fails_its_own_text_alone(served, caplog):
    """Those in its batch are not preempted, which would cost each a prefill."""
    ask(served, guided_json=MANY)  # compiles it
    with ThreadPoolExecutor(3) as pool, caplog.at_level(logging.ERROR):
        others = [pool.submit(ask, served, max_tokens=40, ignore_eos=True) for _ in range(2)]
        failed = pool.submit(ask, served, guided_json=MANY).result()
        assert [one.result().status_code for one in others] == [200, 200]
    message, param = refusal(failed)
    assert "Current row has" in message and param == "guided_json"
    assert failed.json()["error"]["code"] == "grammar_failed"
    assert "failed" not in caplog.text


@pytest.mark.slow
def test_others_do_not_wait_while_a_grammar_is_compiled(served, monkeypatch):
    compiling, go, compile_ = threading.Event(), threading.Event(), TokenGrammars._compile

    def slowly(*args: Any) -> Any:
        compiling.set()
        assert go.wait(30)
        return compile_(*args)

    assert ask(served, guided_choice=["known"]).status_code == 200
    monkeypatch.setattr(TokenGrammars, "_compile", slowly)
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(ask, served, guided_choice=["new"]) for _ in range(2)]
        assert compiling.wait(30)
        assert ask(served).status_code == 200
        assert ask(served, guided_choice=["known"]).json()["choices"][0]["text"] == "known"
        assert not any(one.done() for one in held)
        go.set()
        assert [one.result().json()["choices"][0]["text"] for one in held] == ["new"] * 2


def test_a_short_text_does_not_wait_for_all_long_ones():
    texts, order, begun, go = Texts(None), list[str](), threading.Event(), threading.Event()

    def work(name: str) -> None:
        order.append(name)
        begun.set()
        assert go.wait(30)

    async def ask_all() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(texts.off_loop, partial(work, "long"), LONG_BYTES + 1)
            await anyio.to_thread.run_sync(begun.wait)
            group.start_soon(texts.off_loop, partial(work, "short"), LONG_BYTES)
            while not texts._limiter.borrowed_tokens:
                await anyio.sleep(0)
            go.set()

    anyio.run(ask_all)
    assert order.index("short") <= 2 and len(order) == 5


def test_a_text_that_cannot_be_resumed_has_failed(monkeypatch):
    """Its grammar's lexer was used up by another one; the scheduler goes on."""
    pair, message = demo(), "lexer error"
    one = Sequence(*with_text(Request([5]), pair.tokenizer), method=mtad.MTAD())
    one.hold(pair.models.grammars.begin(Grammar.regex("[a-z]*"), ()))
    one.advance(Block(0, (7,), 0, 0, 0, None), 0.0, 0.0)

    def push(self: GrammarState, token: int) -> bool:
        raise GrammarError(message)

    monkeypatch.setattr(GrammarState, "push", push)
    one.preempt()
    assert one.is_over(0.0) and str(one.failure) == message and one.why_over[0] == "error"
