"""`/v1/responses` through the official client of OpenAI, and what is kept between responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from support.serving import (
    FakeScheduler,
    Served,
    client_of,
    fake_server,
    load_demo,
    real_server,
    wait_for,
)

from mtad.server.api.call_models import FunctionDelta, ToolCallDelta
from mtad.server.api.response_models import ChatDelta, Delta
from mtad.server.api.responses_api.chats import messages_of
from mtad.server.api.responses_api.events import Event
from mtad.server.api.responses_api.objects import OutputMessage, OutputTextPart, ResponseObject
from mtad.server.api.responses_api.output import Output
from mtad.server.api.responses_api.requests import (
    CallItem,
    CallOutputItem,
    MessageItem,
    ReasoningItem,
    ReasoningText,
)
from mtad.server.api.responses_api.stored import StoredResponse, StoredResponses
from mtad.server.http.errors import ApiError
from mtad.server.scheduler.errors import ModelFailedError

CAT = "Which cats are old?"
SHORT: dict[str, Any] = {"model": "demo", "max_output_tokens": 8, "extra_body": {"seed": 3}}
WHOLE: dict[str, Any] = {"model": "demo", "input": "Convert 3 hours to minutes.", "temperature": 0}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with real_server(load_demo()) as server:
        yield server


@pytest.fixture(scope="module")
def fake() -> Iterator[Served]:
    with fake_server() as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with client_of(served) as one:
        yield one


def chat(client: openai.OpenAI, messages: list[dict[str, str]], **more: Any) -> Any:
    """What a chat says to the same messages."""
    given: dict[str, Any] = {"model": "demo", "max_tokens": 8, "seed": 3} | more
    return client.chat.completions.create(messages=messages, **given)  # type: ignore[arg-type]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def posted(served: Served, **body: Any) -> Any:
    """The JSON of an answer, whatever its status."""
    with served.client(verify=False) as http:
        return http.post("/v1/responses", json={"model": "demo"} | body).json()


# --- one response


@pytest.mark.slow
def test_the_text_is_that_of_the_chat(client: openai.OpenAI) -> None:
    got = client.responses.create(input=CAT, instructions="Be brief.", **SHORT)
    said = chat(client, [{"role": "system", "content": "Be brief."}, user(CAT)])
    assert got.output_text == said.choices[0].message.content
    assert said.choices[0].finish_reason == "length"
    assert (got.status, got.incomplete_details.reason) == ("incomplete", "max_output_tokens")  # type: ignore[union-attr]
    assert got.usage and got.usage.input_tokens == said.usage.prompt_tokens
    assert (got.usage.output_tokens, got.usage.total_tokens) == (8, got.usage.input_tokens + 8)


@pytest.mark.slow
def test_a_whole_text_is_completed(client: openai.OpenAI) -> None:
    got = client.responses.create(**WHOLE)
    assert (got.status, got.incomplete_details) == ("completed", None)
    assert got.output_text == "3 hours are 180 minutes."
    assert got.output[0].status == "completed"  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_object_is_as_the_client_declares_it(served: Served) -> None:
    given = {
        "metadata": {"a": "b"},
        "max_output_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.75,
        "user": "ann",
        "instructions": "Be brief.",
        "prompt_cache_key": "key",
    }
    got = posted(served, input=CAT, seed=3, method={"name": "mtad", "num_draft_tokens": 2}, **given)
    Response.model_validate(got, strict=False)
    assert given.items() <= got.items()
    assert got["text"] == {"format": {"type": "text"}}
    assert (got["tool_choice"], got["tools"], got["parallel_tool_calls"]) == ("auto", [], True)
    assert (got["object"], got["error"], got["previous_response_id"]) == ("response", None, None)
    assert got["id"].startswith("resp_") and got["output"][0]["id"].startswith("msg_")
    assert got["completed_at"] >= got["created_at"] and got["store"] is True
    assert got["mtad"]["method"] == "mtad" and got["mtad"]["seeds"] == [3]
    assert got["metrics"]["speculative_decoding"]["num_spec_steps"] > 0
    assert "ignored" not in got["metrics"]


def test_what_had_no_effect_is_named(served: Served) -> None:
    got = posted(
        served,
        input=CAT,
        max_output_tokens=2,
        truncation="auto",
        reasoning={"effort": "low", "summary": "auto"},
        text={"verbosity": "low"},
        include=["reasoning.encrypted_content"],
        store=True,
    )
    assert sorted(got["metrics"]["ignored"]) == [
        "include",
        "reasoning",
        "text.verbosity",
        "truncation",
    ]
    assert got["truncation"] == "disabled"
    assert got["reasoning"] == {"effort": "low", "summary": "auto", "generate_summary": None}


def test_items_are_messages(client: openai.OpenAI) -> None:
    items: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "A "}] * 2},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "Yes", "annotations": []},
                {"type": "refusal", "refusal": " no"},
            ],
        },
        {"type": "message", "role": "user", "content": CAT},
    ]
    got = client.responses.create(input=items, **SHORT)
    said = chat(
        client,
        [
            {"role": "system", "content": "Be brief."},
            user("A A "),
            {"role": "assistant", "content": "Yes no"},
            user(CAT),
        ],
    )
    assert got.output_text == said.choices[0].message.content
    assert got.usage and got.usage.input_tokens == said.usage.prompt_tokens


@pytest.mark.slow
def test_logprobs(client: openai.OpenAI) -> None:
    got = client.responses.create(input=CAT, top_logprobs=2, **SHORT)
    said = chat(client, [user(CAT)], logprobs=True, top_logprobs=2)
    want = [(one.token, one.logprob) for one in said.choices[0].logprobs.content]
    found = got.output[0].content[0].logprobs  # type: ignore[union-attr]
    assert [(one.token, one.logprob) for one in found] == want  # type: ignore[union-attr]
    assert all(len(one.top_logprobs) == 2 for one in found)  # type: ignore[union-attr]
    included: Any = {"include": ["message.output_text.logprobs"], "stream": True}
    events = list(client.responses.create(input=CAT, **included, **SHORT))
    streamed = [
        (one.token, one.logprob)
        for event in events
        if event.type == "response.output_text.delta"
        for one in event.logprobs
    ]
    assert streamed == want


@pytest.mark.slow
def test_mtads_own_fields(client: openai.OpenAI) -> None:
    own = {"seed": 3, "method": "specinfer", "return_token_ids": True, "trace": True}
    given: Any = SHORT | {"extra_body": own}
    got = client.responses.create(input=CAT, **given)
    extra: Any = got.model_extra
    assert extra["mtad"]["method"] == "specinfer"
    traced = [one["token"] for step in extra["mtad"]["trace"][0] for one in step["tokens"]]
    assert traced == extra["token_ids"] and len(traced) == 8
    *_, last = client.responses.create(input=CAT, stream=True, **given)
    assert last.response.model_extra["token_ids"] == traced  # type: ignore[union-attr]
    again = last.response.model_extra["mtad"]["trace"]  # type: ignore[union-attr]
    assert [step["tokens"] for step in again[0]] == [s["tokens"] for s in extra["mtad"]["trace"][0]]


# --- structured text


class Pet(BaseModel):
    """What a text is to be."""

    name: Literal["Tom", "Rex"]
    is_old: bool


@pytest.mark.slow
def test_a_text_of_a_schema_is_parsed(client: openai.OpenAI) -> None:
    given: Any = {"model": "demo", "input": CAT, "text_format": Pet}
    got = client.responses.parse(**given)
    assert isinstance(got.output_parsed, Pet)
    assert got.text and got.text.format and got.text.format.type == "json_schema"
    assert got.text.format.name == "Pet" and got.text.format.schema_["required"]
    assert got.model_extra and got.model_extra["mtad"]["grammar"] == "json_schema"
    with client.responses.stream(**given) as stream:
        parsed = [one.parsed for one in stream if one.type == "response.output_text.done"]
        final = stream.get_final_response()
    assert isinstance(parsed[0], Pet) and final.output_parsed == parsed[0]


def test_a_schema_means_what_it_means_to_chats(client: openai.OpenAI) -> None:
    schema = {"enum": [None, "cat"], "title": "t"}
    named: Any = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    got = client.responses.create(input=CAT, text={"format": named}, **SHORT)
    flat = {name: value for name, value in named.items() if name != "type"}
    said = chat(client, [user(CAT)], response_format={"type": "json_schema", "json_schema": flat})
    assert got.output_text == said.choices[0].message.content
    assert got.model_extra and got.to_dict()["text"]["format"]["schema"] == schema  # type: ignore[index]


def test_any_object(client: openai.OpenAI) -> None:
    plain: Any = {"format": {"type": "json_object"}}
    given: Any = SHORT | {"max_output_tokens": 64, "temperature": 0}
    got = client.responses.create(input=CAT, text=plain, **given)
    assert got.output_text.startswith("{")
    if got.status == "completed":
        assert isinstance(json.loads(got.output_text), dict)


def test_what_schemas_cannot_be_is_refused_as_text_format(served: Served) -> None:
    named = {"type": "json_schema", "name": "n", "schema": {"type": "nonsense"}}
    error = posted(served, input=CAT, text={"format": named})["error"]
    assert error["param"] == "text.format" and "response_format" not in error["message"]


# --- tools

TOOLS: Any = [
    {
        "type": "function",
        "name": name,
        "description": f"To {name}.",
        "parameters": {
            "type": "object",
            "properties": {"on": {"type": "boolean"}},
            "required": ["on"],
            "additionalProperties": False,
        },
        "strict": True,
    }
    for name in ("switch", "turn")
]
CALLING: dict[str, Any] = {
    "model": "demo",
    "tools": TOOLS,
    "tool_choice": "required",
    "max_output_tokens": 200,
    "extra_body": {"seed": 1},
}


def as_chat(tools: Any) -> Any:
    """Tools as chats have them."""
    return [
        {"type": "function", "function": {n: v for n, v in one.items() if n != "type"}}
        for one in tools
    ]


@pytest.mark.slow
def test_calls_are_those_of_the_chat(client: openai.OpenAI) -> None:
    got = client.responses.create(input=CAT, **CALLING)
    said = chat(
        client,
        [user(CAT)],
        tools=as_chat(TOOLS),
        tool_choice="required",
        seed=1,
        max_tokens=200,
    )
    want = [
        (one.function.name, one.function.arguments) for one in said.choices[0].message.tool_calls
    ]
    calls: list[Any] = [item for item in got.output if item.type == "function_call"]
    assert [(one.name, one.arguments) for one in calls] == want and want
    assert calls == got.output and got.status == "completed"
    assert {json.loads(one.arguments)["on"] for one in calls} <= {True, False}
    assert len({one.call_id for one in calls}) == len(calls)
    assert got.usage and got.usage.input_tokens == said.usage.prompt_tokens
    assert [tool.to_dict() for tool in got.tools] == TOOLS and got.tool_choice == "required"


@pytest.mark.slow
def test_one_tool_by_name(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "name": "turn"}
    given: Any = CALLING | {"tool_choice": named}
    got = client.responses.create(input=CAT, parallel_tool_calls=False, **given)
    [call] = got.output
    assert call.type == "function_call" and call.name == "turn"
    assert got.tool_choice.to_dict() == named and got.parallel_tool_calls is False  # type: ignore[union-attr]


def test_some_of_the_tools(client: openai.OpenAI) -> None:
    named: Any = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "turn"}],
    }
    given: Any = CALLING | {"tool_choice": named}
    got = client.responses.create(input=CAT, parallel_tool_calls=False, **given)
    [call] = got.output
    assert call.type == "function_call" and call.name == "turn"
    assert got.tool_choice.to_dict() == named  # type: ignore[union-attr]
    with pytest.raises(openai.BadRequestError, match="no tool 'x'") as failed:
        named["tools"][0]["name"] = "x"
        client.responses.create(input=CAT, **given)
    assert failed.value.param == "tool_choice"


def test_a_format_beside_tools(client: openai.OpenAI) -> None:
    schema: Any = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    form: Any = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    given: Any = CALLING | {"tool_choice": "auto", "parallel_tool_calls": False}
    got = client.responses.create(input=CAT, text=form, **given)
    [item] = got.output
    if item.type == "function_call":
        assert set(json.loads(item.arguments)) == {"on"}
    else:
        assert json.loads(got.output_text)["n"] in (1, 2)


@pytest.mark.slow
def test_calls_are_streamed(client: openai.OpenAI) -> None:
    whole = client.responses.create(input=CAT, **CALLING)
    events: list[Any] = list(client.responses.create(input=CAT, stream=True, **CALLING))
    assert [one.sequence_number for one in events] == list(range(len(events)))
    for index, call in enumerate(whole.output):
        own = [one for one in events if getattr(one, "output_index", None) == index]
        added, *deltas, arguments, done = own
        assert call.type == "function_call"
        assert (added.item.name, added.item.arguments) == (call.name, "")
        kind = "response.function_call_arguments"
        assert {one.type for one in deltas} == {f"{kind}.delta"}
        assert "".join(one.delta for one in deltas) == call.arguments
        assert (arguments.type, arguments.arguments) == (f"{kind}.done", call.arguments)
        assert (done.type, done.item.arguments) == ("response.output_item.done", call.arguments)
        assert added.item.id == done.item.id == arguments.item_id
    assert [one.arguments for one in events[-1].response.output] == [
        one.arguments
        for one in whole.output  # type: ignore[union-attr]
    ]
    with client.responses.stream(input=CAT, **CALLING) as stream:
        assert stream.get_final_response().output[0].type == "function_call"


@pytest.mark.slow
def test_what_a_function_returned_goes_on(client: openai.OpenAI) -> None:
    given: Any = CALLING | {"tool_choice": {"type": "function", "name": "turn"}}
    first = client.responses.create(input=CAT, **given, parallel_tool_calls=False)
    [call] = first.output
    assert call.type == "function_call"
    returned: Any = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": [{"type": "input_text", "text": "It is on."}],
    }
    spoken: Any = [
        user(CAT),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.call_id, "content": "It is on."},
    ]
    said = chat(client, spoken, tools=as_chat(TOOLS))
    items: Any = [user(CAT), call.to_dict(), returned]
    for more in ({"input": [returned], "previous_response_id": first.id}, {"input": items}):
        got = client.responses.create(tools=TOOLS, **more, **SHORT)
        assert got.output_text == said.choices[0].message.content
        assert got.usage and got.usage.input_tokens == said.usage.prompt_tokens


def test_thinking_text_and_calls_are_items_of_their_own() -> None:
    call = ToolCallDelta(
        index=0, id="call_1", type="function", function=FunctionDelta(name="turn", arguments="{")
    )
    rest = ToolCallDelta(index=0, function=FunctionDelta(arguments="}"))
    deltas = [
        Delta(reasoning_content="Hm"),
        Delta(reasoning_content="."),
        Delta(content="Yes."),
        Delta(tool_calls=[call]),
        Delta(tool_calls=[rest]),
    ]
    output, events = Output("0"), list[Event]()
    for delta in deltas:
        told = ChatDelta(index=0, delta=delta, logprobs=None, finish_reason=None)
        events += output.take(told)
    events += output.end("incomplete")
    assert [item.id for item in output.items] == ["rs_0_0", "msg_0_1", "fc_0_2"]
    assert [item.status for item in output.items] == ["completed", "completed", "incomplete"]
    thought, message, called = output.items
    assert thought.type == "reasoning" and thought.content[0].text == "Hm."
    assert message.type == "message" and message.content[0].text == "Yes."
    assert called.type == "function_call" and called.arguments == "{}"
    kinds = [event.type.removeprefix("response.") for event in events if event.output_index == 0]  # type: ignore[attr-defined]
    assert kinds == [
        *("output_item.added", "content_part.added"),
        *("reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done"),
    ]
    for event in events:
        EVENT.validate_json(event.as_json())


# --- events


def test_events_have_their_order_and_make_the_whole(client: openai.OpenAI, served: Served) -> None:
    events = list(client.responses.create(stream=True, **WHOLE))
    kinds = [event.type.removeprefix("response.") for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 1
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta" for _ in deltas),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(deltas) == "3 hours are 180 minutes."
    last = events[-1].response  # type: ignore[union-attr]
    assert last.output_text == "".join(deltas)
    assert events[-2].item == last.output[0]  # type: ignore[union-attr]
    assert events[0].response.output == [] and events[0].response.id == last.id  # type: ignore[union-attr]


def test_events_are_as_the_client_declares_them(served: Served) -> None:
    with served.client(verify=False) as http:
        body = WHOLE | {"stream": True, "max_output_tokens": 3}
        answer = http.post("/v1/responses", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    pieces = [one.split("\n") for one in answer.text.split("\n\n") if one]
    for kind, data in pieces:
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        assert EVENT.validate_python(event).type == event["type"]
    assert pieces[-1][0] == "event: response.incomplete"


@pytest.mark.slow
def test_the_clients_stream_helper(client: openai.OpenAI) -> None:
    with client.responses.stream(**WHOLE) as stream:
        snapshots = [one.snapshot for one in stream if one.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text == "3 hours are 180 minutes."
    assert client.responses.retrieve(final.id).output_text == final.output_text


def test_a_text_without_tokens_is_an_empty_message(client: openai.OpenAI) -> None:
    first = client.responses.create(input=CAT, **SHORT).output_text[0]
    given: Any = SHORT | {"extra_body": {"seed": 3, "stop": first}}
    got = client.responses.create(input=CAT, **given)
    assert (got.status, got.output_text, len(got.output)) == ("completed", "", 1)


@pytest.mark.parametrize("pieces", [0, 1])
def test_failures(fake: Served, pieces: int) -> None:
    scheduler: FakeScheduler = fake.scheduler
    scheduler.failure = (pieces, ModelFailedError("a model failed"))
    try:
        with client_of(fake) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                client.responses.create(input=CAT, **SHORT)
            assert caught.value.code == "model_failed"
            events = []
            with pytest.raises(openai.APIError, match="a model failed") as late:
                for event in client.responses.create(input=CAT, stream=True, **SHORT):
                    events.append(event)
            assert late.value.code == "model_failed"
    finally:
        scheduler.failure = None
    failed: Any = events[-1]
    assert (failed.type, failed.response.status) == ("response.failed", "failed")
    assert failed.response.error.message == "a model failed"
    assert len(failed.response.output) == pieces
    with client_of(fake) as client, pytest.raises(openai.NotFoundError):
        client.responses.retrieve(failed.response.id)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_text(fake: Served, stream: bool) -> None:
    scheduler: FakeScheduler = fake.scheduler
    num_before = len(scheduler.submitted)
    scheduler.gate.clear()
    try:
        with client_of(fake) as client, pytest.raises(openai.APITimeoutError):
            list(client.responses.create(input=CAT, stream=stream, timeout=0.5, **SHORT))
        wait_for(lambda: [one.is_cancelled for one in scheduler.submitted[num_before:]] == [True])
    finally:
        scheduler.gate.set()


# --- conversations


@pytest.mark.slow
def test_a_conversation_goes_on(client: openai.OpenAI) -> None:
    first = client.responses.create(input=CAT, instructions="Be brief.", **SHORT)
    second = client.responses.create(input="Why?", previous_response_id=first.id, **SHORT)
    third = client.responses.create(input="So?", previous_response_id=second.id, **SHORT)
    spoken = [
        user(CAT),
        {"role": "assistant", "content": first.output_text},
        user("Why?"),
        {"role": "assistant", "content": second.output_text},
        user("So?"),
    ]
    for got, messages in ((second, spoken[:3]), (third, spoken)):
        said = chat(client, messages)  # without the instructions, which are each response's own
        assert got.output_text == said.choices[0].message.content
        assert got.usage and got.usage.input_tokens == said.usage.prompt_tokens
    assert third.previous_response_id == second.id
    streamed = client.responses.create(
        input="So?", previous_response_id=second.id, stream=True, **SHORT
    )
    *_, last = streamed
    assert last.response.output_text == third.output_text  # type: ignore[union-attr]


@pytest.mark.slow
def test_items_by_reference(client: openai.OpenAI) -> None:
    first = client.responses.create(input=CAT, **SHORT)
    items: Any = [user(CAT), {"type": "item_reference", "id": first.output[0].id}, user("Why?")]
    got = client.responses.create(input=items, **SHORT)
    want = client.responses.create(input="Why?", previous_response_id=first.id, **SHORT)
    assert got.output_text == want.output_text
    assert got.usage and want.usage and got.usage.input_tokens == want.usage.input_tokens
    items[1]["id"] = f"{first.output[0].id}1"
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(input=items, **SHORT)
    assert caught.value.param == "input[1].id"


def test_what_is_stored_is_found_and_forgotten(client: openai.OpenAI) -> None:
    got = client.responses.create(input=CAT, **SHORT)
    assert client.responses.retrieve(got.id) == got
    client.responses.delete(got.id)
    for ask in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="send the whole conversation as input"):
            ask(got.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(input="Why?", previous_response_id=got.id, **SHORT)
    assert caught.value.code == "previous_response_not_found"
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError, match="one piece"):
        list(client.responses.retrieve(got.id, stream=True))


@pytest.mark.slow
def test_what_led_to_a_response_is_listed(client: openai.OpenAI) -> None:
    first = client.responses.create(input=CAT, instructions="Be brief.", **SHORT)
    given: Any = [
        {"type": "function_call", "call_id": "a", "name": "switch", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "lit"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "user", "content": [{"type": "input_text", "text": "And now?"}]},
    ]
    more: Any = SHORT | {"previous_response_id": first.id}
    second = client.responses.create(input=given, **more)
    items = client.responses.input_items
    whole: list[Any] = [*items.list(second.id, order="asc")]
    kinds = ["message", "message", "function_call", "function_call_output", "reasoning", "message"]
    assert [one.type for one in whole] == kinds
    assert [part.text for part in (*whole[0].content, *whole[5].content)] == [CAT, "And now?"]
    assert whole[1].id == first.output[0].id and whole[1].content[0].text == first.output_text
    assert whole[3].output == "lit" and whole[4].id == "rs_1"
    assert len({one.id for one in whole}) == 6
    assert [one.id for one in items.list(second.id)] == [one.id for one in reversed(whole)]
    page = items.list(second.id, limit=2)
    assert (len(page.data), page.has_more, page.first_id) == (2, True, whole[5].id)
    assert len([*page]) == 6
    for wrong in ({"limit": 0}, {"order": "up"}, {"after": "x"}):
        with pytest.raises(openai.BadRequestError) as failed:
            items.list(second.id, extra_query=wrong)
        assert failed.value.param == next(iter(wrong))
    with pytest.raises(openai.NotFoundError):
        items.list("resp_x")


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    got = client.responses.create(input=CAT, store=False, **SHORT)
    assert got.model_extra and got.model_extra["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(got.id)


@pytest.mark.slow
def test_each_key_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTAD_API_KEYS", "ann:right-key-of-ann,bob:right-key-of-bob")
    with fake_server() as served:
        with client_of(served, "right-key-of-ann") as ann:
            name = ann.responses.create(input=CAT, **SHORT)
            assert ann.responses.retrieve(name.id).id == name.id
        with client_of(served, "right-key-of-bob") as bob:
            items: Any = [{"type": "item_reference", "id": name.output[0].id}]
            for ask in (
                lambda: bob.responses.retrieve(name.id),
                lambda: bob.responses.delete(name.id),
                lambda: bob.responses.create(input="x", previous_response_id=name.id, **SHORT),
                lambda: bob.responses.create(input=items, **SHORT),
            ):
                with pytest.raises(openai.NotFoundError):
                    ask()


@pytest.mark.slow
def test_a_server_may_store_none() -> None:
    with fake_server(max_stored_responses=0) as served, client_of(served) as client:
        got: Any = client.responses.create(input=CAT, store=True, **SHORT)
        assert got.model_extra["store"] is False
        assert got.model_extra["metrics"]["ignored"] == ["store"]
        with pytest.raises(openai.NotFoundError, match="this server keeps no responses"):
            client.responses.retrieve(got.id)


# --- what is kept


def test_items_that_belong_together_are_one_message() -> None:
    def call(name: str) -> CallItem:
        return CallItem(type="function_call", call_id=name, name="turn", arguments="{}")

    thought = ReasoningItem(
        type="reasoning", content=[ReasoningText(type="reasoning_text", text="Hm.")]
    )
    said = MessageItem(role="assistant", content="Yes.")
    back = CallOutputItem(type="function_call_output", call_id="a", output="1")
    got = messages_of(None, [thought, said, call("a"), call("b"), back, thought, call("c")])
    assert [message["role"] for message in got] == ["assistant", "tool", "assistant"]
    assert (got[0]["content"], got[0]["reasoning_content"]) == ("Yes.", "Hm.")
    assert [one["id"] for one in got[0]["tool_calls"]] == ["a", "b"]
    assert (got[2]["content"], got[2]["reasoning_content"]) == (None, "Hm.")
    assert messages_of("Be brief.", [thought, MessageItem(role="user", content="A?")]) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A?"},
    ]


def stored(name: str, text: str = "A cat.", said: str = "") -> StoredResponse:
    """A response of one message, after `said` if there is any."""
    parts = [OutputTextPart(type="output_text", text=text, annotations=[], logprobs=[])]
    message = OutputMessage(
        type="message", id=f"msg_{name}_0", role="assistant", status="completed", content=parts
    )
    response = ResponseObject.model_construct(id=f"resp_{name}", output=[message])
    before = (MessageItem(role="user", content=said),) if said else ()
    return StoredResponse(response, before)


def kept(store: StoredResponses, *names: str) -> list[str]:
    """Those of the names that are still there; asking is no use of them."""
    return [name for name in names if ("ann", f"resp_{name}") in store]


def test_those_used_last_are_kept() -> None:
    store = StoredResponses(max_responses=2)
    assert all(store.keep("ann", stored(name)) for name in "ab")
    store.get("ann", "resp_a", "response_id")
    store.keep("ann", stored("c"))
    assert kept(store, "a", "b", "c") == ["a", "c"]
    store.drop("ann", "resp_a", "response_id")
    store.keep("ann", stored("d"))
    assert kept(store, "a", "c", "d") == ["c", "d"]


def test_bytes_are_bounded() -> None:
    small, large = stored("a").num_bytes, stored("b", said="ä" * 500).num_bytes
    assert large > small + 1000  # as UTF-8
    store = StoredResponses(max_responses=9, max_bytes=large)
    assert store.keep("ann", stored("a")) and store.keep("ann", stored("b", said="ä" * 500))
    assert kept(store, "a", "b") == ["b"]
    assert not store.keep("ann", stored("c", said="ä" * 501))
    assert kept(store, "b", "c") == ["b"]
    store.drop("ann", "resp_b", "response_id")
    names = [str(number) for number in range(large // small)]
    assert all(store.keep("ann", stored(name)) for name in names)
    assert kept(store, *names) == names  # what was dropped does not count
    store.keep("ann", stored("x", said="ä" * 500))
    assert kept(store, *names, "x") == ["x"]


def test_a_conversation_is_what_was_said_before_and_then_the_answer() -> None:
    store, name = StoredResponses(max_responses=2), "0" * 32
    store.keep("ann", stored(name, "Yes.", said="A cat?"))
    asked, answered = store.get("ann", f"resp_{name}", "response_id").items
    assert isinstance(asked, MessageItem) and asked.content == "A cat?"
    assert answered == store.item("ann", f"msg_{name}_0", "input[0].id")
    for client, item in (("bob", f"msg_{name}_0"), ("ann", f"msg_{name}_1"), ("ann", "msg_1")):
        with pytest.raises(ApiError, match="there is no"):
            store.item(client, item, "input[0].id")


# --- refusals

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"max_output_token": 5}, "max_output_token", "max_output_tokens"),
    ({"max_tokens": 5}, "max_tokens", "cannot be honoured"),
    ({"temperature": 3}, "temperature", "less than or equal to 2"),
    ({"response_format": {"type": "text"}}, "response_format", "cannot be honoured"),
    ({"n": 2}, "n", "cannot be honoured"),
    ({"background": True}, "background", "only false"),
    ({"conversation": "conv_1"}, "conversation", "cannot be honoured"),
    ({"input": []}, "input", "at least 1 item"),
    ({"input": [{"type": "computer_call"}]}, "input[0]", "an item's type may be message"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content[0]",
        "input_text",
    ),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "function"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "x"),
    ({"max_output_tokens": 10**6}, "max_output_tokens", "max_output_tokens is 1000000"),
    ({"input": "a cat " * 3000}, "input", "the prompt has"),
    ({"logit_bias": {"999999": 1}}, "logit_bias", "not in the vocabulary"),
    ({"method": "mtat"}, "method", "mtad"),
    ({"model": "gpt-4"}, "model", "not served"),
    ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs", "leave it out"),
]


@pytest.mark.parametrize(("body", "param", "message"), REFUSED, ids=[p for _, p, _ in REFUSED])
def test_refusals_are_in_the_words_of_the_request(
    served: Served, body: dict[str, Any], param: str, message: str
) -> None:
    error = posted(served, **{"input": CAT} | body)["error"]
    assert error["param"] == param
    assert message in error["message"]
