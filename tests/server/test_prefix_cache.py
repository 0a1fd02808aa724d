"""Prompts that begin alike on a server: usage, metrics, and who shares with whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.serving import Served, load_demo, serving

from mtad.server.http.keys import Keys
from mtad.server.run import assemble
from mtad.server.settings import ServerSettings

SMALL = {"method": "mtad", "method_options": {"num_draft_tokens": 2, "beam_width": 2}}
PROMPT = [(11 * i) % 200 + 20 for i in range(300)]  # more than a chunk
OWNERS = {b"the key of ann": "ann", b"another of ann": "ann", b"the key of bob": "bob"}


@contextmanager
def server(**settings: Any) -> Iterator[Served]:
    chosen = ServerSettings(**settings)
    made = assemble(load_demo(), chosen, keys=Keys(OWNERS))
    made.start()
    try:
        with serving(made.app, made.scheduler, chosen) as served:
            yield served
    finally:
        made.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with server() as running:
        yield running


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    served.scheduler.pair.workspace.prefixes.clear()
    with client(served) as one:
        yield one


def client(served: Served, key: str = "the key of ann") -> httpx.Client:
    return served.client(headers={"Authorization": f"Bearer {key}"})


def ask(http: httpx.Client, prompt: Any = PROMPT, **fields: Any) -> dict[str, Any]:
    body = {"model": "demo", "prompt": prompt, "seed": 1, "max_tokens": 6, "ignore_eos": True}
    answer = http.post("/v1/completions", json=body | SMALL | fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def stream(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    more = {"stream": True, "stream_options": {"include_usage": True}}
    with http.stream("POST", path, json=body | more) as answer:
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: {")]
    return dict(json.loads(lines[-1]))


def series(http: httpx.Client) -> dict[str, float]:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {s.name.removeprefix("mtad:"): s.value for one in families for s in one.samples}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 1.0}], ids=str)
def test_a_prompt_that_comes_again_is_found_and_its_text_is_the_same(
    http: httpx.Client, settings: dict[str, Any]
) -> None:
    first, again = ask(http, **settings), ask(http, **settings)
    assert (cached(first), cached(again)) == (0, 288)
    assert first["choices"][0]["text"] == again["choices"][0]["text"]
    usage = again["usage"]
    assert (usage["prompt_tokens"], usage["total_tokens"]) == (300, 306)
    longer = ask(http, [*PROMPT[:100], *PROMPT[:50]], **settings)
    assert cached(longer) == 96


@pytest.mark.slow
def test_the_usage_of_streams_and_chats_says_it_too(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "one two three four five six seven eight " * 4}]
    chat = {"model": "demo", "messages": messages, "max_tokens": 4} | SMALL
    assert cached(stream(http, "/v1/chat/completions", chat)) == 0
    answer = http.post("/v1/chat/completions", json=chat).json()
    assert 0 < cached(answer) < answer["usage"]["prompt_tokens"]
    assert cached(stream(http, "/v1/chat/completions", chat)) == cached(answer)
    text = {"model": "demo", "prompt": PROMPT, "max_tokens": 4} | SMALL
    assert [cached(stream(http, "/v1/completions", text)) for _ in range(2)] == [0, 288]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mtad", "speculative_sampling", "prompt_lookup", "mtjd"])
def test_the_second_turn_of_a_chat_reads_only_what_is_new(http: httpx.Client, method: str) -> None:
    """Prompt and answer are found up to their last whole block, whoever drafts."""
    said = [
        {"role": "user", "content": "The day after Tuesday is Wednesday. " * 3 + "Say it again."}
    ]
    chat = {"model": "demo", "seed": 1, "max_tokens": 40, "method": method, "temperature": 0.0}
    known, gains = 0, []
    for question in ("Say it in the past tense.", "And now in the future tense?", "Why?"):
        answer = http.post("/v1/chat/completions", json=chat | {"messages": said}).json()
        assert cached(answer) == known // 16 * 16
        usage, text = answer["usage"], answer["choices"][0]["message"]["content"]
        said += [{"role": "assistant", "content": text}, {"role": "user", "content": question}]
        known = usage["total_tokens"] - 2  # of which the last one is EOS
        gains.append(known // 16 - (usage["prompt_tokens"] - 2) // 16)
    assert any(gains), "answers end blocks"


@pytest.mark.slow
def test_each_prompt_counts_once_as_its_first_choice_found_it(http: httpx.Client) -> None:
    assert cached(ask(http, n=3)) == 0
    other = [9] * 40
    answer = ask(http, [PROMPT, other], n=2)
    assert (answer["usage"]["prompt_tokens"], cached(answer)) == (340, 288)


@pytest.mark.slow
def test_prefixes_are_shared_by_the_keys_of_one_owner_alone(
    served: Served, http: httpx.Client
) -> None:
    ask(http)
    with client(served, "another of ann") as ann, client(served, "the key of bob") as bob:
        assert [cached(ask(ann)), cached(ask(bob)), cached(ask(bob))] == [288, 0, 288]
    assert cached(ask(http, cache_salt="mine")) == 0
    assert cached(ask(http, cache_salt="mine")) == 288


@pytest.mark.slow
def test_metrics_count_what_was_looked_up_and_found(http: httpx.Client) -> None:
    before = series(http)
    ask(http)
    ask(http)
    after = series(http)
    names = ("prefix_cache_queries_total", "prefix_cache_hits_total")
    assert [after[name] - before[name] for name in names] == [600, 288]
    assert before["prefix_cache_bytes"] == 0 < after["prefix_cache_bytes"]


@pytest.mark.slow
def test_a_prompt_that_is_scored_is_read_whole(http: httpx.Client) -> None:
    prompt = PROMPT[:40]
    ask(http, prompt)
    before = series(http)["prefix_cache_queries_total"]
    scored = [ask(http, prompt, echo=True, logprobs=0, max_tokens=0) for _ in range(2)]
    for one in scored:
        values = one["choices"][0]["logprobs"]["token_logprobs"]
        assert len(values) == 40 and None not in values[1:]
        assert cached(one) == 0
    assert scored[0]["choices"] == scored[1]["choices"]
    assert series(http)["prefix_cache_queries_total"] == before


@pytest.mark.slow
def test_without_the_cache_nothing_is_kept_and_texts_are_the_same(http: httpx.Client) -> None:
    expected = [ask(http)["choices"][0]["text"] for _ in range(2)]
    with server(prefix_cache_mib=0) as bare, client(bare) as other:
        answers = [ask(other) for _ in range(2)]
        assert [cached(one) for one in answers] == [0, 0]
        assert [one["choices"][0]["text"] for one in answers] == expected
        assert series(other)["prefix_cache_bytes"] == 0
