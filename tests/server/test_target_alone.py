"""A server of a target alone, of few tokens: what its requests may not ask for is explained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.serving import real_server

from mtad.api.pair import ModelPair
from mtad.testing import random_llama

VOCAB = 31
IDS = {"model": "demo", "prompt": [1, 2], "max_tokens": 4, "method": "autoregressive"}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    pair = ModelPair(random_llama(vocab=VOCAB))
    with real_server(pair, served_model_name="demo") as served, served.client() as client:
        yield client


def ask(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/completions", json=IDS | fields)


@pytest.mark.parametrize("method", ["mtad", "speculative_sampling"])
def test_a_method_that_needs_a_draft_names_those_that_need_none(
    http: httpx.Client, method: str
) -> None:
    answer = ask(http, method=method)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "method")
    assert error["message"] == (
        f"{method} needs a draft model, and this server has none; methods that need none: "
        "autoregressive, beam_search, mtjd, prompt_lookup, suffix"
    )
    assert ask(http).status_code == 200


def test_settings_that_together_leave_no_token_name_the_one_at_fault(http: httpx.Client) -> None:
    every = list(range(VOCAB))
    answer = ask(http, stop_token_ids=every, min_tokens=3)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "min_tokens")
    assert f"all {VOCAB} tokens" in error["message"]
    assert "set min_tokens to 0" in error["message"]
    assert ask(http, stop_token_ids=every).json()["choices"][0]["finish_reason"] == "stop"
    assert ask(http, stop_token_ids=every[1:], min_tokens=3).status_code == 200
