"""Bodies that clients send of their own accord, each with what must come of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

import httpx
import pytest
import torch
from support.serving import Served, demo, load_demo, real_server

from mtad.server.settings import ServerSettings, read_settings

HOURS = [{"role": "user", "content": "Convert 3 hours to minutes."}]
PLAIN: dict[str, Any] = {"model": "demo", "temperature": 0, "seed": 1, "method": "autoregressive"}
RULER = {"prompt": [[49, 366]], "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with real_server(load_demo(), served_model_name=("demo", "twin")) as server:
        yield server


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with served.client(verify=False) as client:
        yield client


def post(http: httpx.Client, **body: Any) -> Any:
    """The answer to a completion or, with messages, a chat."""
    route = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    answer = http.post(route, json=PLAIN | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(http: httpx.Client, **body: Any) -> list[Any]:
    """The chunks of a stream."""
    route = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    answer = http.post(route, json=PLAIN | body | {"stream": True})
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


# --- stops within min_tokens


@pytest.mark.parametrize("method", ["autoregressive", "mtad", "mcss"])
@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"stop": ["hours"]}, "3 hours are 180 minutes."),
        ({"stop": "3"}, "3 hours are 180 minutes."),
        ({"stop": ["zzz", " ", "180"]}, "3 hours are 180 minutes."),
        ({"stop": "<|user|>", "logit_bias": {"4": 100}}, "3 hours are 180 minutes"),
        ({"stop": ["<|eos|>", "hours"], "logit_bias": {"2": 100}}, "3 hours are 180 minutes"),
        ({"stop_token_ids": [617]}, None),
    ],
    ids=str,
)
def test_no_stop_counts_within_min_tokens(
    http: httpx.Client, more: dict[str, Any], text: str | None, method: str
) -> None:
    given = {"messages": HOURS, "max_tokens": 16, "min_tokens": 8, "method": method, **more}
    answer = post(http, return_token_ids=True, **given)
    assert answer["usage"]["completion_tokens"] >= 8
    ids = answer["choices"][0]["token_ids"]
    assert text is None or answer["choices"][0]["message"]["content"] == text
    assert not {4, *more.get("stop_token_ids", [])} & set(ids[:8])
    parts = events(http, **given)
    joined = "".join(p["choices"][0]["delta"].get("content", "") for p in parts)
    assert joined == answer["choices"][0]["message"]["content"]


def test_python_knows_the_same_rule() -> None:
    options: Any = {"temperature": 0.0, "seed": 1, "max_new_tokens": 16, "stop": ["hours"]}
    early, late = (
        demo().generate([HOURS], "autoregressive", min_new_tokens=least, **options)[0]
        for least in (0, 8)
    )
    assert (early.text, late.text) == ("3 ", "3 hours are 180 minutes.")
    assert len(early.token_ids) == 2


def test_a_stop_counts_once_min_tokens_are_there(http: httpx.Client) -> None:
    for least, text in ((1, "3 "), (2, "3 hours are 180 minutes."), (7, "3 hours are 180 ")):
        stop = ["hours"] if least < 3 else ["hours", "minutes"]
        answer = post(http, messages=HOURS, max_tokens=16, min_tokens=least, stop=stop)
        assert answer["choices"][0]["message"]["content"] == text, least


# --- offsets


OFFSETS: list[tuple[dict[str, Any], list[int] | None]] = [
    ({"logit_bias": {"178": 100}, "max_tokens": 3}, [0, 1, 2]),
    ({"logit_bias": {"4": 100}, "max_tokens": 4}, [0, 0, 0, 0]),
    ({"logit_bias": {"4": 100}, "max_tokens": 3, "skip_special_tokens": False}, [0, 8, 16]),
    ({"logit_bias": {"178": 100}, "max_tokens": 2, "echo": True}, [0, 0, 1, 2]),
    ({"logit_bias": {"4": 100}, "max_tokens": 2, "stop": ["x"]}, [0, 0]),
    ({"max_tokens": 12, "prompt": "def area(r):"}, None),
    ({"max_tokens": 12, "prompt": "def area(r):", "stop": ["r"], "method": "mtad"}, None),
]


@pytest.mark.parametrize(("body", "wanted"), OFFSETS, ids=lambda v: str(v)[:60])
def test_offsets_are_places_in_the_text(
    http: httpx.Client, body: dict[str, Any], wanted: list[int] | None
) -> None:
    given = {"prompt": "x", "logprobs": 1, **body}
    [choice] = post(http, **given)["choices"]
    said = choice["logprobs"]
    assert wanted is None or said["text_offset"] == wanted
    for token, at in zip(said["tokens"], said["text_offset"], strict=True):
        rest = choice["text"][at:]
        plain = not token.startswith(("bytes:", "<|"))
        assert not plain or rest.startswith(token) or token.startswith(rest)
    parts = [e["choices"][0]["logprobs"] for e in events(http, **given) if e["choices"]]
    for name in ("text_offset", "tokens"):
        assert list(chain.from_iterable(p[name] for p in parts if p)) == said[name]


# --- usage in every chunk


@pytest.mark.parametrize(
    "more",
    [{"messages": HOURS}, {"prompt": "x"}, {"prompt": ["x", "y"]}, {"messages": HOURS, "n": 2}],
    ids=str,
)
def test_every_chunk_has_the_usage_so_far(http: httpx.Client, more: dict[str, Any]) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    got = events(http, max_tokens=6, ignore_eos=True, stream_options=options, **more)
    counts = [event["usage"]["completion_tokens"] for event in got]
    assert (counts == sorted(counts) and counts[0] == 0) or "prompt" in more
    whole = post(http, max_tokens=6, ignore_eos=True, **more)
    assert got[-1]["usage"] == got[-2]["usage"] == whole["usage"]
    assert all(e["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"] for e in got)


# --- log-probabilities of the prompt


def of_transformers(ids: list[int]) -> torch.Tensor:
    """The log-probabilities after every token."""
    with torch.inference_mode():
        logits = demo().models.target(torch.tensor([ids])).logits
    return logits[0].float().log_softmax(-1)


PROMPTS: list[list[list[int]]] = [
    [[49, 366]],
    [[7]],
    [[1, 500, 3, 10, 617, 24], [49, 366], [9, 9, 9]],
    [list(range(100, 700))],
]


@pytest.mark.parametrize("prompts", PROMPTS, ids=lambda p: "-".join(str(len(one)) for one in p))
@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_log_probabilities_of_prompts(
    http: httpx.Client, prompts: list[list[int]], max_tokens: int
) -> None:
    more = {"prompt": prompts, "max_tokens": max_tokens, "return_token_ids": True}
    answer = post(http, **RULER | more)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert answer["usage"]["completion_tokens"] <= max_tokens * len(prompts)
    for ids, choice in zip(prompts, answer["choices"], strict=True):
        said, whole = choice["logprobs"], ids + choice["token_ids"]
        assert said["token_logprobs"][0] is said["top_logprobs"][0] is None
        logprobs = of_transformers(whole)
        own = logprobs[range(len(whole) - 1), whole[1:]].tolist()
        assert said["token_logprobs"][1:] == pytest.approx(own, abs=1e-4)
        tops = [max(top.values()) for top in said["top_logprobs"][1:]]
        assert tops == pytest.approx(logprobs[:-1].amax(-1).tolist(), abs=1e-4)
        assert len(said["tokens"]) == len(said["text_offset"]) == len(whole)


def test_a_stream_begins_with_the_prompt_and_its_log_probabilities(http: httpx.Client) -> None:
    for body in (RULER, RULER | {"max_tokens": 0}, RULER | {"prompt": "def f(x):", "n": 2}):
        for choice in post(http, **body)["choices"]:
            got = [e["choices"][0] for e in events(http, **body) if e["choices"]]
            mine = [one for one in got if one["index"] == choice["index"]]
            assert "".join(one["text"] for one in mine) == choice["text"]
            for name in ("tokens", "token_logprobs", "text_offset"):
                parts = [one["logprobs"][name] for one in mine if one["logprobs"]]
                assert list(chain.from_iterable(parts)) == pytest.approx(choice["logprobs"][name])


def test_details_of_prompts_count(http: httpx.Client) -> None:
    body = RULER | {"prompt": [[7] * 1000] * 16, "logprobs": 20}
    answer = http.post("/v1/completions", json=PLAIN | body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "logprobs"


def test_what_lm_eval_asks_of_a_tokenizer(http: httpx.Client) -> None:
    tokenizer: Any = demo().tokenizer
    info = http.get("/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"]) == (tokenizer.bos_token, tokenizer.eos_token)
    assert info["chat_template"] == tokenizer.chat_template
    body = {"prompt": "A cat", "add_special_tokens": False}
    bare = http.post("/tokenize", json=body).json()["tokens"]
    assert bare == tokenizer("A cat", add_special_tokens=False).input_ids
    assert http.post("/tokenize", json=body | {"add_special_tokens": True}).json()["tokens"] != bare
    assert http.post("/detokenize", json={"tokens": bare}).json() == {"prompt": "A cat"}


# --- fields


NO_EFFECT: list[tuple[dict[str, Any], list[str]]] = [
    ({"metadata": {}}, []),
    ({"metadata": {"a": "b"}, "user": "ann", "safety_identifier": "s"}, []),
    ({"prompt_cache_key": "k", "parallel_tool_calls": True, "logit_bias": {}}, []),
    ({"store": True, "service_tier": "flex"}, ["store", "service_tier"]),
    ({"store": False, "service_tier": "auto", "verbosity": "medium"}, []),
    ({"verbosity": "low", "reasoning_effort": "high"}, ["verbosity", "reasoning_effort"]),
    ({"n": 1.0, "max_tokens": 8.0, "top_k": 0.0, "min_tokens": 0.0, "seed": 1.0}, []),
    ({"top_k": -1, "stop": "", "skip_special_tokens": True, "stop_token_ids": []}, []),
    ({"stop": ["", "zz1", "zz2", "zz3", "zz4", "zz5"], "add_generation_prompt": True}, []),
    ({"chat_template_kwargs": {"enable_thinking": False}, "top_k": -1.0}, []),
    ({"include_stop_str_in_output": False}, []),
]


@pytest.mark.parametrize(("fields", "ignored"), NO_EFFECT, ids=lambda v: str(v)[:60])
def test_fields_that_change_nothing_are_taken(
    http: httpx.Client, fields: dict[str, Any], ignored: list[str]
) -> None:
    given = {"messages": HOURS, "max_tokens": 8}
    answer, plain = post(http, **given | fields), post(http, **given)
    assert answer["choices"] == plain["choices"]
    assert answer["metrics"].get("ignored", []) == ignored
    assert "ignored" not in plain["metrics"]
    last = events(http, **given | fields)[-1]
    assert last["metrics"].get("ignored", []) == ignored


def text_of(http: httpx.Client, **fields: Any) -> str:
    """A short answer to `HOURS`."""
    answer = post(http, **{"messages": HOURS, "max_tokens": 16} | fields)
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.slow
def test_fields_that_change_the_text_are_honoured(http: httpx.Client) -> None:
    assert text_of(http, stop_token_ids=[617]) == "3"
    assert text_of(http, stop_token_ids=[617], include_stop_str_in_output=True) == "3 hours"
    assert text_of(http, stop=["our"]) == "3 h"
    assert text_of(http, stop=["our"], include_stop_str_in_output=True) == "3 hour"
    assert text_of(http, stop=["our", "zz"], stop_token_ids=[617], min_tokens=2) != "3"
    assert text_of(http, stop=[*"vwxyz", "180"]) == "3 hours are "
    plain = text_of(http, skip_special_tokens=False)
    assert plain == text_of(http)  # what ended the text is not in it
    more: Any = {"skip_special_tokens": False, "include_stop_str_in_output": True}
    assert text_of(http, **more) == f"{plain}<|eos|>"
    assert text_of(http, stop=["zzz"], **more) == f"{plain}<|eos|>"


def test_the_template_gets_its_variables(http: httpx.Client) -> None:
    tokenizer: Any = demo().tokenizer
    for given in ({}, {"add_generation_prompt": False}):
        ids = http.post("/tokenize", json={"messages": HOURS, **given}).json()["tokens"]
        want = {"add_generation_prompt": True} | given
        assert ids == tokenizer.apply_chat_template(HOURS, return_dict=False, **want)
        used = post(http, messages=HOURS, max_tokens=1, **given)["usage"]
        assert used["prompt_tokens"] == len(ids)


@pytest.mark.slow
def test_a_template_that_reads_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = load_demo()
    template = (
        "{% for m in messages %}{{ m.name }}:{{ m.content }}{% endfor %}"
        "{{ reasoning_effort }}{{ colour }}"
    )
    monkeypatch.setattr(pair.tokenizer, "chat_template", template)
    with real_server(pair) as served, served.client() as http:
        chat = [{"role": "user", "content": "x", "name": "ann"}]
        more: Any = {"reasoning_effort": "high", "chat_template_kwargs": {"colour": "red"}}
        answer = post(http, messages=chat, max_tokens=1, **more)
    assert "ignored" not in answer["metrics"]
    want = pair.tokenizer("ann:xhighred", add_special_tokens=False).input_ids  # type: ignore[misc]
    assert answer["usage"]["prompt_tokens"] == len(want)


# --- what a client adds to an answer and sends back


def with_parsed(value: Any, parsed: Any) -> Any:
    """An answer, or a part of one, as official clients' `.parse` leaves it."""
    if isinstance(value, list):
        return [with_parsed(one, parsed) for one in value]
    if not isinstance(value, dict):
        return value
    more = {name: with_parsed(one, parsed) for name, one in value.items()}
    if "arguments" in value:
        return more | {"parsed_arguments": parsed}
    kind = value.get("type", value.get("role"))
    return more | ({"parsed": parsed} if kind in ("assistant", "output_text") else {})


@pytest.mark.parametrize("parsed", [None, {"city": "Oslo"}])
def test_what_a_client_has_parsed_may_be_sent_back(http: httpx.Client, parsed: Any) -> None:
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    chat: list[Any] = [
        *HOURS,
        {"role": "assistant", "content": '{"city": "Oslo"}'},
        *HOURS,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
    ]
    given: Any = {"max_tokens": 8}
    answer = post(http, messages=with_parsed(chat, parsed), **given)
    assert answer["choices"] == post(http, messages=chat, **given)["choices"]
    output = {"type": "output_text", "text": '{"city": "Oslo"}', "annotations": []}
    items: list[Any] = [
        *HOURS,
        {"type": "message", "role": "assistant", "content": [output]},
        *HOURS,
        {"type": "function_call", "call_id": "call_1", **function},
        {"type": "function_call_output", "call_id": "call_1", "output": "Rain."},
    ]
    body = PLAIN | {"input": with_parsed(items, parsed), "max_output_tokens": 8}
    response = http.post("/v1/responses", json=body)
    assert response.status_code == 200, response.text
    [message] = response.json()["output"]
    assert message["content"][0]["text"] == answer["choices"][0]["message"]["content"]


# --- functions, which became tools


FUNCTIONS: list[tuple[dict[str, Any], str]] = [
    ({"functions": [{"name": "f"}], "n": 0}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
    (
        {"messages": [*HOURS, {"role": "function", "content": "5", "name": "f"}]},
        "messages[1]",
    ),
    (
        {"messages": [{"role": "assistant", "content": "", "function_call": {"name": "f"}}]},
        "messages[0].function_call",
    ),
]


@pytest.mark.parametrize(("fields", "param"), FUNCTIONS, ids=lambda v: str(v)[-60:])
def test_functions_are_told_to_be_tools(
    http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    answer = http.post("/v1/chat/completions", json=PLAIN | {"messages": HOURS} | fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, "legacy_functions")
    assert "tool" in error["message"]


# --- limits and names


def test_the_context_is_the_limit_unless_a_flag_lowers_it(http: httpx.Client) -> None:
    room = 1024 - len(demo().tokenizer("x").input_ids)  # type: ignore[misc]
    assert post(http, prompt="x", max_tokens=room, stop_token_ids=list(range(6, 70)))
    answer = http.post("/v1/completions", json=PLAIN | {"prompt": "x", "max_tokens": room + 1})
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["ChatRequest"]["properties"]["max_tokens"]["anyOf"][0]["maximum"] == 1024
    assert ServerSettings().max_new_tokens is None


def test_every_served_name_is_served(http: httpx.Client, tmp_path: Any) -> None:
    names = [card["id"] for card in http.get("/v1/models").json()["data"]]
    assert names == ["demo", "twin"]
    for name in names:
        assert http.get(f"/v1/models/{name}").json()["id"] == name
        assert post(http, model=name, prompt="x", max_tokens=1)["model"] == "demo"
    wrong = http.post("/v1/completions", json=PLAIN | {"model": "other", "prompt": "x"})
    assert wrong.status_code == 404
    assert "'demo' or 'twin'" in wrong.json()["error"]["message"]
    path = tmp_path / "server.toml"
    for text, given in (('"a"', ("a",)), ('["a", "b"]', ("a", "b"))):
        path.write_text(f"[server]\nserved_model_name = {text}\n")
        assert read_settings(path) == {"served_model_name": given}
