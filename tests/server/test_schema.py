"""schemathesis over the OpenAPI description: no 5xx, and nothing that the description denies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.core import NOT_SET
from schemathesis.core.failures import FailureGroup
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from support.serving import Served, real_server
from support.structured_requests import REQUESTS, almost_right


def no_failure(ctx: Any, response: Any, case: Any) -> None:
    """Nothing breaks; a request may well name too short a time."""
    assert response.status_code < 500 or response.status_code == 504


def rejection(ctx: Any, response: Any, case: Any) -> Any:
    """What does not fit the description is refused.

    A body is made by breaking one of the forms that it may have; it may still have another.
    """
    raw = case.operation.schema.raw_schema
    sent = raw["paths"][case.path][case.method.lower()].get("requestBody", {}).get("content", {})
    form = sent.get("application/json", {}).get("schema", {})
    checker = Draft202012Validator({**form, "components": raw["components"]})
    is_json = case.media_type == "application/json" and case.body is not NOT_SET
    if is_json and form and checker.is_valid(case.body):
        return None
    return negative_data_rejection(ctx, response, case)


CHECKS = [
    no_failure,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    rejection,
    unsupported_method,
]
_QUIET: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": list(HealthCheck),
}

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module")  # schemathesis


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with real_server(max_new_tokens=6, max_n=2, max_nodes=64, playground=False) as server:
        yield server


@pytest.fixture(scope="module")
def description(served: Served) -> Any:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


OPERATIONS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/{response_id}"),
    ("GET", "/v1/responses/{response_id}/input_items"),
    ("DELETE", "/v1/responses/{response_id}"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/tokenizer_info"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/v1/methods"),
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/version"),
    ("GET", "/metrics"),
]


def check(description: Any, method: str, path: str, mode: GenerationMode, examples: int) -> None:
    """Send examples that fit the description, or do not, and hold the answers against it."""
    operation = description[path][method]

    @settings(max_examples=examples, **_QUIET)
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, timeout=60)

    run()


def modes_of(method: str) -> list[GenerationMode]:
    """Nothing can be wrong with a request that has nothing in it."""
    return [GenerationMode.POSITIVE, GenerationMode.NEGATIVE][: 2 if method == "POST" else 1]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_description_is_true(description: Any, method: str, path: str) -> None:
    for mode in modes_of(method):
        check(
            description, method, path, mode, 6 if method == "POST" and path not in REQUESTS else 2
        )


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_description_is_true_at_length(description: Any, method: str, path: str) -> None:
    for mode in modes_of(method):
        check(description, method, path, mode, 300 if method == "POST" else 10)


def check_structured(description: Any, path: str, examples: int) -> None:
    """Send requests for structured answers that are almost right."""

    @settings(max_examples=examples, **_QUIET)
    @given(body=almost_right(path))
    def run(body: dict[str, Any]) -> None:
        case = description[path]["POST"].Case(body=body, media_type="application/json")
        case.call_and_validate(checks=CHECKS[:4], timeout=60)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("path", REQUESTS)
def test_structured_requests_are_answered_or_refused(description: Any, path: str) -> None:
    for body in REQUESTS[path]:
        case = description[path]["POST"].Case(body=body, media_type="application/json")
        assert case.call_and_validate(checks=CHECKS[:4], timeout=60).status_code == 200
    check_structured(description, path, 6)


@pytest.mark.slow
@pytest.mark.parametrize("path", REQUESTS)
def test_structured_requests_are_answered_or_refused_at_length(description: Any, path: str) -> None:
    check_structured(description, path, 600)


STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Which dogs are old?"}]}),
    ("/v1/completions", {"prompt": "def area(r):"}),
]
MORE: list[dict[str, Any]] = [
    {},
    {"n": 2, "stream_options": {"include_usage": True}},
    {"return_token_ids": True, "trace": True, "logprobs": 2},
]


@pytest.mark.parametrize("more", MORE, ids=["plain", "usage", "details"])
@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_every_event_is_as_described(
    description: Any, path: str, body: dict[str, Any], more: dict[str, Any]
) -> None:
    if "messages" in body and "logprobs" in more:
        more = more | {"logprobs": True, "top_logprobs": 2}
    case = description[path]["POST"].Case(
        body={"model": "demo", "stream": True} | body | more, media_type="application/json"
    )
    answer = case.call()
    assert answer.status_code == 200
    assert answer.content.endswith(b"data: [DONE]\n\n")
    case.validate_response(answer, checks=[response_schema_conformance])
    for present, other in (
        (b"[DONE]", b"[DANE]"),
        (b'"choices"', b'"answers"'),
        (b'"index":0', b'"index":null'),
    ):
        assert present in answer.content
        headers, content = answer.headers, answer.content.replace(present, other)
        wrong = Response(200, headers, content, answer.request, answer.elapsed, verify=False)
        with pytest.raises(FailureGroup, match="SSE event"):
            case.validate_response(wrong, checks=[response_schema_conformance])


@pytest.mark.slow
def test_every_event_of_a_response_is_as_described(description: Any) -> None:
    named = {"type": "function", "name": "turn", "parameters": {"type": "object"}}
    for more in ({}, {"tools": [named], "tool_choice": "required"}, {"top_logprobs": 2}):
        body = {"model": "demo", "stream": True, "input": "Which dogs are old?"} | more
        body |= {"temperature": 0.0, "max_output_tokens": 6}  # which ends all of these texts
        case = description["/v1/responses"]["POST"].Case(body=body, media_type="application/json")
        answer = case.call()
        assert answer.status_code == 200
        assert b"event: response.incomplete" in answer.content
        case.validate_response(answer, checks=[response_schema_conformance])
        present, other = b'"output_index":0', b'"output_index":null'
        assert present in answer.content
        headers, content = answer.headers, answer.content.replace(present, other)
        wrong = Response(200, headers, content, answer.request, answer.elapsed, verify=False)
        with pytest.raises(FailureGroup, match="SSE event"):
            case.validate_response(wrong, checks=[response_schema_conformance])


def test_every_reference_has_its_schema(served: Served) -> None:
    with served.client() as http:
        described = http.get("/openapi.json").json()
    named = set(re.findall('"#/components/schemas/([^"]+)"', json.dumps(described)))
    assert named and named <= described["components"]["schemas"].keys()


def test_the_description_names_every_route(served: Served) -> None:
    with served.client() as http:
        described = http.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/responses/{response_id}",
        "/v1/responses/{response_id}/input_items",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/methods",
        "/tokenize",
        "/detokenize",
        "/tokenizer_info",
        "/health",
        "/health/live",
        "/health/ready",
        "/version",
        "/metrics",
    }
    for path in described["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]
            assert operation["responses"]["200"]["content"]
