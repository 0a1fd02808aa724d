"""A server whose draft is a head, or has a tokenizer of its own: streams, neighbours, figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from support import saved_pair
from support.heads import random_head
from support.serving import Served, real_server
from support.two_tokenizers import metaspace

import mtad.methods
from mtad.api.pair import ModelPair
from mtad.testing import random_llama

PROMPTS = ["the cat sat on", "der Bär aß süße Äpfel; 猫が", " 🙂🙃 the mat " * 9, "x = x + 1\n"]
METHODS: list[dict[str, Any]] = [
    {"method": "mtad", "method_options": {"num_draft_tokens": 2, "beam_width": 2}},
    {"method": "mcss", "method_options": {"k_config": [2, 2]}},
]
WAYS = [
    pytest.param(METHODS[0], id="mtad"),
    pytest.param(METHODS[1], id="mcss", marks=pytest.mark.slow),
]


def pair_of(kind: str) -> ModelPair:
    tokenizer = saved_pair.tokenizer()
    target = random_llama(vocab=len(tokenizer), context=512)
    if kind == "head":
        pair = ModelPair(target, random_head(target, 200, scale=0.02), tokenizer)
    else:
        draft = random_llama(vocab=len(metaspace()), seed=3, context=512)
        pair = ModelPair(target, draft, tokenizer, draft_tokenizer=metaspace())
        assert pair.models.translation is not None
    pair.graphs = None  # recording takes longer than all texts
    return pair


@pytest.fixture(scope="module", params=["head", "translated"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with real_server(pair_of(request.param), served_model_name="tiny") as server:
        yield server


def body(index: int, way: dict[str, Any]) -> dict[str, Any]:
    """The request of a prompt; each has settings of its own."""
    fields = {"model": "tiny", "prompt": PROMPTS[index], "seed": index, "max_tokens": 9 + 5 * index}
    return fields | {"temperature": (1.0, 0.0, 0.7, 1.0)[index]} | way


def streamed(http: httpx.Client, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The text that a stream adds up to, and its last chunk."""
    text, last = "", {}
    more = {"stream": True, "stream_options": {"include_usage": True}}
    with http.stream("POST", "/v1/completions", json=fields | more) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                last = json.loads(line.removeprefix("data: "))
                assert "error" not in last, last
                text += "".join(choice["text"] for choice in last["choices"])
    return text, last


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_streams_at_a_time_have_the_texts_that_each_has_alone(
    served: Served, way: dict[str, Any]
) -> None:
    pair, method = served.scheduler.pair, way["method"]
    chosen = {k: tuple(v) if isinstance(v, list) else v for k, v in way["method_options"].items()}
    expected = [
        pair.generate(
            PROMPTS[index],
            mtad.methods.find(method)(**chosen),
            seed=index,
            max_new_tokens=fields["max_tokens"],
            temperature=fields["temperature"],
        )[0]
        for index in range(len(PROMPTS))
        for fields in [body(index, way)]
    ]
    with served.client() as http, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: streamed(http, body(i, way)), range(len(PROMPTS))))
        whole = http.post("/v1/completions", json=body(2, way) | {"logprobs": 2}).json()
    assert [text for text, _ in found] == [one.text for one in expected]
    assert whole["choices"][0]["text"] == expected[2].text
    assert found[2][1]["usage"]["completion_tokens"] == expected[2].stats.num_output_tokens
