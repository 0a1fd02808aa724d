"""The routes as plain HTTP: what is refused and how, bodies of all kinds, clients that leave."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from pydantic import ValidationError
from support.saved_pair import pair as byte_pair
from support.serving import FakeScheduler, Served, demo, fake_server, wait_for

import mtad
import mtad.server.api.errors as errors_module
from mtad.server.api.errors import _place
from mtad.server.api.request_models import CompletionRequest
from mtad.server.api.tokenizing import Texts

PROMPT = "def area(r):"
CHAT = [{"role": "user", "content": "A cat?"}]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with fake_server(max_n=4, max_queue=16, body_timeout_s=1.0, max_nodes=64) as server:
        yield server


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with served.client(verify=False) as client:  # there is no TLS; it saves reading certificates
        yield client


def ask(http: httpx.Client, **more: Any) -> httpx.Response:
    """A completion or, with messages, a chat."""
    base: dict[str, Any] = {"model": "demo", "max_tokens": 4, "seed": 1}
    if "messages" in more:
        return http.post("/v1/chat/completions", json=base | more)
    return http.post("/v1/completions", json=base | {"prompt": PROMPT} | more)


def refused(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of a refused request."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    assert list(answer.json()) == ["error"]
    error: dict[str, Any] = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    assert "Traceback" not in error["message"]
    return error


NEUTRAL: list[dict[str, Any]] = [
    {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
    {"tools": None, "tool_choice": "auto", "functions": [], "function_call": "none"},
    {"response_format": {"type": "text"}, "modalities": ["text"], "service_tier": "auto"},
    {"store": False, "metadata": None, "audio": None, "prediction": None, "verbosity": None},
    {"user": "ann", "reasoning_effort": "none", "logprobs": False, "logit_bias": {}},
    {"temperature": None, "top_p": None, "n": None, "stop": None, "seed": None, "stream": None},
    {"stop": [], "max_completion_tokens": 4, "stream_options": None, "web_search_options": None},
]


@pytest.mark.parametrize("fields", NEUTRAL, ids=lambda f: " ".join(f))
def test_neutral_values_are_taken(http: httpx.Client, fields: dict[str, Any]) -> None:
    assert ask(http, messages=CHAT, **fields).status_code == 200


def test_an_assistant_message_may_be_sent_back(http: httpx.Client) -> None:
    said = {"role": "assistant", "content": "Yes.", "refusal": None, "tool_calls": None}
    more = {"annotations": [], "function_call": None, "audio": None}
    assert ask(http, messages=[*CHAT, said | more, *CHAT]).status_code == 200


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"store": 0}, "store"),
    ({"metadata": "a"}, "metadata"),
    ({"service_tier": 5}, "service_tier"),
    ({"reasoning_effort": "x" * 513}, "reasoning_effort"),
    ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs"),
    ({"stop_token_ids": [2048]}, "stop_token_ids"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 1e-7}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 2.5}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": [1]}, "frequency_penalty"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"01": 1}}, "logit_bias"),
    ({"logit_bias": {"2048": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    ({"n": 0}, "n"),
    ({"n": 5}, "n"),
    ({"n": True}, "n"),
    ({"n": 1.5}, "n"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "1"}, "seed"),
    ({"stop": ["a"] * 129}, "stop"),
    ({"stop": "x" * 300}, "stop"),
    ({"stop": 5}, "stop"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1025}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"min_tokens": 5}, "min_tokens"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"other": 1}}, "stream_options.other"),
    ({"timeout_s": 4000}, "timeout_s"),
    ({"timeout_s": 0}, "timeout_s"),
    ({"method": "magic"}, "method"),
    ({"method": "os.path"}, "method"),
    ({"method": {"accept_threshold": 1}}, "method.name"),
    ({"method": {"name": "mtad", "other": 1}}, "method"),
    ({"method": {"name": "mtad", "beam_width": 2}, "method_options": {"beam_width": 2}}, "method"),
    ({"method_options": {"accept_threshold": -1}}, "method_options"),
    ({"method_options": {"accept_threshold": "0.5"}}, "method_options"),
    ({"method_options": {"accept_threshold": 10**400}}, "method_options"),
    ({"method_options": {"num_draft_tokens": 1000}}, "method"),
    ({"method": "specinfer", "method_options": {"k_config": [9] * 1000}}, "method_options"),
    ({"method": "specinfer", "method_options": {"k_config": [9] * 60}}, "method"),
    ({"method": "specinfer", "method_options": {"k_config": []}}, "method_options"),
    ({"method": "beam_search", "top_k": 5}, "top_k"),
    ({"user": 5}, "user"),
    ({"unheard_of": None}, "unheard_of"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda v: str(v)[:50])
def test_what_cannot_be_honoured_is_named(
    http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    error = refused(ask(http, messages=CHAT, **fields))
    head = param if "." in param else error["param"].split("[")[0].split(".")[0]
    assert head == param
    assert error["param"].startswith(param)
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) <= 600


TEXT = {"type": "text", "text": "x"}
SLIPS: list[tuple[dict[str, Any], str | None]] = [
    ({"max_token": 5}, "max_tokens"),
    ({"presence_penality": 1}, "presence_penalty"),
    ({"stream": True, "stream_options": {"include_usages": True}}, "include_usage"),
    ({"messages": [{"role": "user", "content": "x", "nam": "ann"}]}, "name"),
    ({"messages": [{"role": "user", "content": [TEXT | {"typ": "x"}]}]}, "type"),
    ({"length_penalty": 1.0}, None),
    ({"messages": [{"role": "user", "content": "x", "max_token": 1}]}, None),
]


@pytest.mark.parametrize(("fields", "meant"), SLIPS, ids=lambda v: str(v)[:50])
def test_a_slip_in_the_name_of_a_field_gets_a_suggestion(
    http: httpx.Client, fields: dict[str, Any], meant: str | None
) -> None:
    message = refused(ask(http, **{"messages": CHAT} | fields))["message"]
    assert "there is no such parameter" in message
    assert message.endswith(f" (did you mean {meant!r}?)" if meant else "honoured here")


CHATS: list[tuple[Any, str]] = [
    ([], "messages"),
    ("hi", "messages"),
    ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
    ([{"role": "user"}], "messages[0].content"),
    ([{"role": "user", "content": None}], "messages[0].content"),
    ([{"role": "user", "content": []}], "messages[0].content"),
    ([*CHAT, {"role": "user", "content": [{"type": "image_url"}]}], "messages[1].content[0].type"),
    ([{"role": "user", "content": "x", "name": 5}], "messages[0].name"),
    ([{"role": "assistant", "content": None, "tool_calls": []}], "messages[0]"),
    ([{"role": "assistant", "function_call": {"name": "f"}}], "messages[0].function_call"),
    ([*CHAT, {"role": "function", "name": "f", "content": "1"}], "messages[1]"),
    ([{"role": "assistant", "content": "", "tool_calls": [{}]}], "messages[0].tool_calls[0].id"),
    ([{"content": "x"}], "messages[0]"),
]


@pytest.mark.parametrize(("messages", "param"), CHATS, ids=lambda v: str(v)[:40])
def test_messages(http: httpx.Client, messages: Any, param: str) -> None:
    assert refused(ask(http, messages=messages))["param"] == param


def test_details_of_a_response_are_limited(http: httpx.Client) -> None:
    long = {"prompt": ["a"] * 16, "max_tokens": 1000}
    assert refused(ask(http, **long, logprobs=20))["param"] == "logprobs"
    error = refused(ask(http, **long, trace=True))
    assert error["param"] == "trace"
    assert "272000 nodes; at most 262144 are sent: lower max_tokens or n" in error["message"]


@pytest.mark.slow
def test_of_many_errors_the_first_ones_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"model": "demo", "prompt": 5} | {f"x{i}": 1 for i in range(5000)}
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate(given)
    monkeypatch.setattr("mtad.server.api.errors._place", Mock(wraps=_place))
    assert errors_module.invalid(caught.value, given, CompletionRequest).param == "prompt"
    assert errors_module._place.call_count <= 100  # type: ignore[attr-defined]


def test_parameters_that_contradict(http: httpx.Client) -> None:
    chat = {"messages": CHAT}
    assert refused(ask(http, **chat, max_completion_tokens=3))["param"] == "max_tokens"
    assert refused(ask(http, **chat, top_logprobs=2))["param"] == "top_logprobs"
    assert refused(ask(http, **chat, max_tokens=None, max_completion_tokens=2000))["param"] == (
        "max_completion_tokens"
    )
    assert refused(ask(http, best_of=2))["param"] == "best_of"
    assert ask(http, best_of=2, n=2).status_code == 200
    assert refused(ask(http, suffix="x"))["param"] == "suffix"
    assert refused(ask(http, messages=None))["param"] == "messages"


PROMPTS: list[tuple[Any, str]] = [
    (None, "prompt"),
    ([], "prompt"),
    (5, "prompt"),
    ([[]], "prompt[0]"),
    (["a", 5], "prompt[1]"),
    ([5, "a"], "prompt[0]"),
    ([-1], "prompt[0]"),
    ([2**40], "prompt[0]"),
    ([2048], "prompt"),
    ([True], "prompt[0]"),
    ([[1, 2], [1.5]], "prompt[1][0]"),
    (["a"] * 17, "prompt"),
    ([7] * 1024, "prompt"),
]


@pytest.mark.parametrize(("prompt", "param"), PROMPTS, ids=lambda v: str(v)[:40])
def test_prompts(http: httpx.Client, served: Served, prompt: Any, param: str) -> None:
    scheduler: FakeScheduler = served.scheduler
    scheduler.refusal = mtad.errors.PromptError("request 0: out of the vocabulary")
    try:
        error = refused(ask(http, prompt=prompt))
    finally:
        scheduler.refusal = None
    assert error["param"] == param


BODIES: list[bytes] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"model": "demo", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"model": "demo", "prompt": "\xff\xfe"}',
    b'{"model": "demo", "prompt": "\\ud800"}',
    b'{"model": "demo", "prompt": "x", "temperature": NaN}',
    b'{"model": "demo", "prompt": "x", "temperature": -Infinity}',
    b'{"model": "demo", "prompt": "x", "temperature": 1e999}',
    b'{"model": "demo", "prompt": "x", "temperature": 1' + b"0" * 400 + b"}",
    b'{"model": "demo", "prompt": "x", "seed": ' + b"9" * 100_000 + b"}",
    b'{"model": "demo", "prompt": "x", "method_options": {"beam_width": 1' + b"0" * 4000 + b"}}",
    b'{"model": "demo", "prompt": "x", "method_options": {"accept_threshold": NaN}}',
    b'{"model": "demo", "prompt": "x"} x',
    b'{"model": "demo", "prompt": "x", "' + b"k" * 100_000 + b'": 1}',
    b'{"model": "demo", "prompt": [' + b'"x", ' * 100_000 + b"5]}",
    b'{"model": "demo", "prompt": [' + b"1, " * 100_000 + b'"x"]}',
    b"\x00\x01\x02",
    "{'model': 'demö'}".encode("utf-16"),
]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
@pytest.mark.parametrize("body", BODIES, ids=lambda b: f"{b[:40]!r}({len(b)})")
def test_broken_bodies(http: httpx.Client, path: str, body: bytes) -> None:
    error = refused(http.post(path, content=body, headers=JSON))
    assert len(error["message"]) <= 600
    assert len(error["param"] or "") <= 100


def test_big_bodies(http: httpx.Client) -> None:
    body = b'{"model": "demo", "prompt": "' + b"x" * 10_000_000 + b'"}'
    refused(http.post("/v1/completions", content=body, headers=JSON), 413)
    parts = (body[i : i + 65_536] for i in range(0, len(body), 65_536))
    refused(http.post("/v1/completions", content=parts, headers=JSON), 413)


@pytest.mark.slow
def test_slow_bodies(served: Served) -> None:
    port = int(served.url.rsplit(":", 1)[1])
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(head + b"Content-Length: 100\r\n\r\n" + b'{"model"')
        assert b" 408 " in sock.recv(4096).splitlines()[0]


def test_other_content_types(http: httpx.Client) -> None:
    body = json.dumps({"model": "demo", "prompt": "x", "max_tokens": 2})
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {"Content-Type": kind} if kind else {}
        answer = http.post("/v1/completions", content=body.encode(), headers=headers)
        assert refused(answer, 415)["code"] == "unsupported_media_type"
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = http.post("/v1/completions", content=body.encode(), headers=headers)
    assert answer.status_code == 200


def test_routes_that_are_not_there(http: httpx.Client) -> None:
    for path in ("/nothing", "/v1", "/v1/completions//", "/v1/../etc/passwd", "/%00", "/docs"):
        assert refused(http.get(path), 404)["code"] == "not_found"
    for path in ("/v1/completions", "/v1/completions/"):
        answer = http.get(path)
        assert refused(answer, 405)["code"] == "method_not_allowed"
        assert answer.headers["allow"] == "POST"
    assert refused(http.get("/metrics"), 404)


@pytest.mark.slow
def test_without_the_page_its_place_says_where_the_api_is() -> None:
    with fake_server(playground=False) as server, server.client() as http:
        answer = http.get("/")
        assert answer.status_code == 200
        assert answer.json()["description"] == "/openapi.json"
        for path in ("/v1/models", "/openapi.json", "/health"):
            assert path in answer.json().values()
            assert http.get(path).status_code == 200
        assert http.head("/").status_code == 200
        assert http.get("/page/page.js").status_code == 404


def test_health_follows_the_scheduler(http: httpx.Client, served: Served) -> None:
    paths = ("/health", "/health/ready", "/health/live")
    assert [http.get(path).status_code for path in paths] == [200, 200, 200]
    scheduler: FakeScheduler = served.scheduler
    try:
        scheduler.is_ready = False
        assert [http.get(path).status_code for path in paths] == [503, 503, 200]
        scheduler.is_alive = False
        assert refused(http.get("/health/live"), 503)["type"] == "server_error"
    finally:
        scheduler.is_ready = scheduler.is_alive = True
    assert http.get("/version").json() == {"version": mtad.__version__}


def test_methods(http: httpx.Client) -> None:
    answer = http.get("/v1/methods").json()
    assert [sheet["name"] for sheet in answer["data"]] == mtad.methods.names()
    sheets = {sheet["name"]: sheet for sheet in answer["data"]}
    assert answer["default"]["name"] == "mtad"
    assert answer["default"]["options"]["accept_threshold"] == 0.5
    options = {option["name"]: option for option in sheets["mtad"]["options"]}
    assert options["endpoint"]["choices"] == ["sample", "greedy"]
    assert (options["num_draft_tokens"]["type"], options["num_draft_tokens"]["default"]) == (
        "integer",
        4,
    )
    assert sheets["specinfer"]["options"][0] == {
        "name": "k_config",
        "type": "list",
        "default": [4, 2, 2],
        "choices": None,
        "nullable": False,
    }
    nullable = {o["name"]: o for o in sheets["speculative_sampling"]["options"]}
    assert nullable["accept_threshold"]["type"] == "number"
    assert nullable["accept_threshold"]["nullable"]
    assert sheets["mtad"]["rule"].startswith("MTAD, multi-token assisted decoding")


@pytest.mark.slow
def test_allowed_methods() -> None:
    with fake_server(allowed_methods=("mtad", "autoregressive")) as served, served.client() as http:
        known = [sheet["name"] for sheet in http.get("/v1/methods").json()["data"]]
        assert known == ["autoregressive", "mtad"]
        assert refused(ask(http, method="spectr"))["param"] == "method"
        message = refused(ask(http, method="autoregresive"))["message"]
        assert "no method 'autoregresive' here (did you mean 'autoregressive'?); known" in message
        assert ask(http, method="Autoregressive").status_code == 200
        assert ask(http, method="autoregressive").status_code == 200


@pytest.mark.parametrize("asked", ["Toy", "toys", "to"])
def test_a_model_s_name_that_is_nearly_right(asked: str) -> None:
    with fake_server(served_model_name="toy") as served, served.client() as http:
        message = refused(ask(http, model=asked), 404)["message"]
        assert f"the model {asked!r} is not served here (did you mean 'toy'?)" in message
        assert "did you mean" not in refused(ask(http, model="gpt-4o"), 404)["message"]


@pytest.mark.slow
def test_limits_of_the_server() -> None:
    limits = {"max_new_tokens": 8, "max_prompt_tokens": 10, "allow_trace": False, "timeout_s": 5.0}
    with fake_server(served_model_name="toy", **limits) as served, served.client() as http:
        assert http.get("/v1/models").json()["data"][0]["id"] == "toy"
        assert refused(ask(http), 404)["param"] == "model"
        assert refused(ask(http, model="toy", max_tokens=9))["param"] == "max_tokens"
        assert refused(ask(http, model="toy", trace=True))["param"] == "trace"
        error = refused(ask(http, model="toy", prompt=[7] * 11))
        assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
        assert "lower" not in error["message"]
        free = {"max_tokens": None, "ignore_eos": True}
        usage = ask(http, model="toy", prompt=[7] * 10, **free).json()["usage"]
        details = {"prompt_tokens_details": {"cached_tokens": 0}}
        assert usage == {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18} | details
        assert served.scheduler.submitted[-1].timeout_s == 5.0
        schema = http.get("/openapi.json").json()["components"]["schemas"]["ChatRequest"]
        assert schema["properties"]["max_tokens"]["anyOf"][0]["maximum"] == 8
        assert schema["properties"]["model"]["enum"] == ["toy"]


def test_a_budget_that_is_not_named_is_what_the_context_leaves(
    http: httpx.Client, served: Served
) -> None:
    assert ask(http, prompt=[7] * 1020, max_tokens=None, ignore_eos=True).status_code == 200
    request = served.scheduler.submitted[-1].request
    assert request.sampling.max_new_tokens == 4


def test_the_newer_name_of_the_budget_is_honoured(http: httpx.Client, served: Served) -> None:
    given = {"max_tokens": None, "max_completion_tokens": 3}
    assert ask(http, messages=CHAT, **given).status_code == 200
    assert served.scheduler.submitted[-1].request.sampling.max_new_tokens == 3


@pytest.mark.slow
def test_a_seed_is_drawn_if_none_is_given(http: httpx.Client) -> None:
    first, second = (ask(http, seed=None, max_tokens=12).json() for _ in range(2))
    [seed] = first["mtad"]["seeds"]
    assert seed != second["mtad"]["seeds"][0]
    assert 0 <= seed < 2**53
    again = ask(http, seed=seed, max_tokens=12).json()
    assert again["choices"] == first["choices"]


def test_the_scheduler_knows_who_asks(http: httpx.Client, served: Served) -> None:
    body = {"model": "demo", "prompt": "x", "max_tokens": 2}
    answer = http.post("/v1/completions", json=body, headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    sequence = served.scheduler.submitted[-1]
    assert (sequence.request_id, sequence.client) == ("mine-1", None)


def test_special_tokens_among_the_stops_end_the_text(http: httpx.Client, served: Served) -> None:
    special = demo().tokenizer.eos_token  # type: ignore[union-attr]
    ask(http, stop=["<|user|>", str(special)], ignore_eos=True)
    vocabulary = demo().tokenizer.get_added_vocab()  # type: ignore[union-attr]
    ends = served.scheduler.submitted[-1].request.sampling.eos_token_ids
    assert set(ends) == {vocabulary[s] for s in ("<|user|>", str(special)) if s in vocabulary}
    assert ends


def test_tokenizing_there_and_back(http: httpx.Client) -> None:
    tokenizer: Any = demo().tokenizer
    answer = http.post("/tokenize", json={"prompt": PROMPT}).json()
    ids = tokenizer(PROMPT).input_ids
    assert answer == {"tokens": ids, "count": len(ids), "max_model_len": 1024}
    text = http.post("/detokenize", json={"model": "demo", "tokens": ids}).json()["prompt"]
    assert text == tokenizer.decode(ids)
    chat = http.post("/tokenize", json={"messages": CHAT}).json()["tokens"]
    wanted = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert chat == wanted
    developer = [{"role": "developer", "content": [{"type": "text", "text": t} for t in "ab"]}]
    system = [{"role": "system", "content": "ab"}]
    first, second = (
        http.post("/tokenize", json={"messages": m}).json()["tokens"] for m in (developer, system)
    )
    assert first == second
    assert refused(http.post("/tokenize", json={}))["param"] == "prompt"
    assert refused(http.post("/detokenize", json={"tokens": [2048]}))["param"] == "tokens"
    assert http.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}
    assert refused(http.post("/tokenize", json={"prompt": "x", "model": "y"}), 404)


def events_of(answer: httpx.Response) -> list[str]:
    """The data of a stream's events."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    parts = answer.text.split("\n\n")
    assert parts[-1] == ""
    assert all(part.startswith("data: ") and "\n" not in part for part in parts[:-1])
    return [part.removeprefix("data: ") for part in parts[:-1]]


def test_events(http: httpx.Client) -> None:
    events = events_of(ask(http, messages=CHAT, stream=True, n=2))
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert [c["choices"][0]["delta"].get("role") for c in chunks[:2]] == ["assistant"] * 2
    assert ["mtad" in c for c in chunks] == [False] * (len(chunks) - 1) + [True]
    ends = [c["choices"][0] for c in chunks if c["choices"][0]["finish_reason"]]
    assert sorted(end["index"] for end in ends) == [0, 1]
    assert all(end["delta"] == {} for end in ends)


def test_an_error_ends_a_stream(http: httpx.Client, served: Served) -> None:
    scheduler: FakeScheduler = served.scheduler
    scheduler.failure = (1, RuntimeError("a secret"))
    try:
        answer = ask(http, stream=True, max_tokens=30)
    finally:
        scheduler.failure = None
    assert answer.status_code == 200
    events = events_of(answer)
    assert json.loads(events[-1])["error"]["code"] == "internal_error"
    assert "a secret" not in answer.text
    assert "[DONE]" not in events


@pytest.mark.parametrize("streamed", [True, False])
def test_texts_end_when_the_client_leaves(served: Served, streamed: bool) -> None:
    scheduler: FakeScheduler = served.scheduler
    before = len(scheduler.submitted)
    body = {"model": "demo", "prompt": PROMPT, "n": 2, "stream": streamed, "seed": 1}
    text = json.dumps(body).encode()
    head = f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    request = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}".encode() + text
    scheduler.gate.clear()
    try:
        port = int(served.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(request)
            wait_for(lambda: len(scheduler.submitted) == before + 2)
        wait_for(lambda: all(one.is_cancelled for one in scheduler.submitted[before:]))
    finally:
        scheduler.gate.set()


def test_a_slow_text_is_kept_alive(
    http: httpx.Client, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtad.server.api.streaming.PING_S", 0.01)
    scheduler: FakeScheduler = served.scheduler
    scheduler.gate.clear()
    body = {"model": "demo", "prompt": PROMPT, "max_tokens": 4, "stream": True}
    try:
        with http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            assert next(lines) == ": still here"
            scheduler.gate.set()
            assert [line for line in lines if line][-1] == "data: [DONE]"
    finally:
        scheduler.gate.set()


def test_pieces_of_characters() -> None:
    pair = byte_pair()
    texts = Texts(pair.tokenizer)
    ids = pair.tokenizer("süß 猫 🙂").input_ids  # type: ignore[misc]
    pieces = [texts.token(token) for token in ids]
    assert b"".join(bytes(raw or []) for _, raw in pieces).decode() == "süß 猫 🙂"
    assert any(text.startswith("bytes:\\x") for text, _ in pieces)
    assert all(text.encode() == bytes(raw or []) for text, raw in pieces if "bytes" not in text)


@pytest.mark.slow
@pytest.mark.parametrize("num_prompt", [1024, 1025, 3000])
def test_no_lower_limit_is_advised_where_the_prompt_alone_is_too_long(num_prompt: int) -> None:
    with fake_server() as served, served.client() as http:
        own: dict[str, Any] = {"prompt": [7] * num_prompt}
        error = refused(ask(http, **own))
        assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
        assert error["message"].endswith("for both: shorten the prompt")
        short = refused(ask(http, **own | {"prompt": [7] * 1022}))
        assert short["message"].endswith("shorten the prompt or lower max_tokens")
        assert ask(http, **own | {"prompt": [7] * 1022, "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (r'{"prompt":"hi \ud83d there"}', r"prompt has a lone surrogate at index 3, '\ud83d'"),
        (r'{"prompt":["ok","\ude00"]}', r"prompt[1] has a lone surrogate at index 0, '\ude00'"),
        (r'{"prompt":"a","stop":["b","c\ud83d"]}', "stop[1] has a lone surrogate at index 1"),
        (r'{"prompt":"a","\ud83d":1}', "a key has a lone surrogate at index 0"),
        (r'{"messages":[{"role":"user","content":"hi \ud83d"}]}', "messages[0].content has a lone"),
        (r'"\ud83d"', "the text has a lone surrogate"),
        (r'{"prompt":"\ud83d"', "the body is no JSON"),
        ('{"prompt":"caf\xe9"}', "the body is no JSON"),
    ],
)
def test_half_a_character_in_a_body_is_named(http: httpx.Client, body: str, message: str) -> None:
    error = refused(http.post("/v1/completions", content=body.encode("latin-1"), headers=JSON))
    assert message in error["message"]
    assert error["code"] == "invalid_json"
