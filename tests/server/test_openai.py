"""The official client of OpenAI against a running server: every parameter, streamed and not."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from support.serving import (
    FakeScheduler,
    Served,
    client_of,
    demo,
    fake_server,
    load_demo,
    real_server,
    serving,
)
from support.tiny import heat_of

import mtad
from mtad.server.app import create_app
from mtad.server.http.keys import Keys
from mtad.server.scheduler.errors import (
    ClosingError,
    DeadlineError,
    ModelFailedError,
    QueueFullError,
)
from mtad.server.settings import ServerSettings

CHAT: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A cat?"}]
PROMPT = "def area(r):"
SHORT = {"max_tokens": 8, "seed": 3}
SHORTER = {"max_tokens": 5, "seed": 3}


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


@functools.cache
def reference() -> mtad.ModelPair:
    """The pair once more: the scheduler's own is for its thread alone."""
    return load_demo()


def expected(prompt: Any, method: Any = None, **sampling: Any) -> list[mtad.Completion]:
    """What `generate` makes of it; a text depends on its own seed alone."""
    options = {"guard": False, "max_new_tokens": 8, "seed": 3} | sampling
    return reference().generate(prompt, method, **options)


def expected_shorter(prompt: Any, method: Any = None, **sampling: Any) -> list[mtad.Completion]:
    """As `expected`, for requests with `SHORTER`."""
    return expected(prompt, method, max_new_tokens=5, **sampling)


@asynccontextmanager
async def async_client_of(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    http = httpx.AsyncClient(verify=False, trust_env=False)
    url = f"{served.url}/v1"
    async with openai.AsyncOpenAI(
        base_url=url, api_key="none", max_retries=0, timeout=60, http_client=http
    ) as client:
        yield client


PARAMETERS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({}, {}, {}),
    ({"temperature": 0}, {}, {"temperature": 0.0}),
    ({"temperature": 0.5, "top_p": 0.7}, {}, {"temperature": 0.5, "top_p": 0.7}),
    ({}, {"top_k": 5}, {"top_k": 5}),
    ({}, {"min_p": 0.1}, {"min_p": 0.1}),
    ({"presence_penalty": 1.5}, {}, {"presence_penalty": 1.5}),
    ({"frequency_penalty": -1.5}, {}, {"frequency_penalty": -1.5}),
    ({}, {"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
    ({"logit_bias": {"276": -100, "310": 5}}, {}, {"logit_bias": {276: -100.0, 310: 5.0}}),
    ({"stop": "e"}, {}, {"stop": "e"}),
    ({"stop": ["zzz", " a", "\n"]}, {}, {"stop": ["zzz", " a", "\n"]}),
    ({"max_tokens": 1}, {}, {"max_new_tokens": 1}),
    ({}, {"min_tokens": 6}, {"min_new_tokens": 6}),
    ({"max_tokens": 12}, {"ignore_eos": True}, {"max_new_tokens": 12, "ignore_eos": True}),
    ({"seed": -7}, {}, {"seed": -7}),
]
IDS = ["plain", *(" ".join(p | e) for p, e, _ in PARAMETERS[1:])]


@pytest.fixture(scope="module")
def answers(served: Served) -> list[tuple[Any, list[Any]]]:
    """A completion, and the parts of a chat, for each of `PARAMETERS`.

    All are sent at once: sampling settings are each text's own, within one batch.
    """

    async def ask(client: openai.AsyncOpenAI, known: Any, extra: Any) -> tuple[Any, list[Any]]:
        given = {"model": "demo", **SHORT, **known, "extra_body": extra}
        whole, stream = await asyncio.gather(
            client.completions.create(prompt=PROMPT, **given),
            client.chat.completions.create(messages=CHAT, stream=True, **given),
        )
        return whole, [part async for part in stream]

    async def ask_all() -> list[tuple[Any, list[Any]]]:
        async with async_client_of(served) as client:
            asked = [ask(client, known, extra) for known, extra, _ in PARAMETERS]
            return await asyncio.gather(*asked)

    return asyncio.run(ask_all())


@pytest.mark.parametrize("index", range(len(PARAMETERS)), ids=IDS)
def test_parameters_mean_what_generate_means(
    answers: list[tuple[Any, list[Any]]], index: int
) -> None:
    sampling = PARAMETERS[index][2]
    want, said = expected([PROMPT, CHAT], **sampling | {"seed": [sampling.get("seed", 3)] * 2})
    got, parts = answers[index]
    assert (got.choices[0].text, got.choices[0].finish_reason) == (want.text, want.finish_reason)
    assert got.usage and got.usage.completion_tokens == len(want.token_ids)
    assert "".join(p.choices[0].delta.content or "" for p in parts) == said.text
    assert parts[-1].choices[0].finish_reason == said.finish_reason


@pytest.mark.parametrize("name", mtad.methods.names())
def test_every_method_by_name(client: openai.OpenAI, name: str) -> None:
    heat = heat_of(name)
    [want] = expected_shorter(PROMPT, name, temperature=heat)
    got = client.completions.create(
        model="demo",
        prompt=PROMPT,
        temperature=heat,
        **SHORTER,
        extra_body={"method": name, "return_token_ids": True},
    )
    assert got.model_extra is not None
    assert got.choices[0].text == want.text
    assert got.choices[0].model_extra == {"token_ids": want.token_ids}
    contract = got.model_extra["mtad"]
    assert contract["method"] == name
    assert contract["lossless"] is mtad.methods.find(name)().is_lossless
    given = got.model_extra["metrics"]["speculative_decoding"]
    stats = want.stats.as_dict()
    assert given == {key: stats[key] for key in given}


def test_options_of_methods(client: openai.OpenAI) -> None:
    bodies: list[dict[str, Any]] = [
        {"method": {"name": "mtad", "accept_threshold": 0, "num_draft_tokens": 2}},
        {"method": "mtad", "method_options": {"accept_threshold": 0.0, "num_draft_tokens": 2}},
        {"method_options": {"accept_threshold": 0, "num_draft_tokens": 2}},
        {
            "method": {"name": "mtad", "accept_threshold": 0},
            "method_options": {"num_draft_tokens": 2},
        },
    ]
    [want] = expected_shorter(PROMPT, mtad.MTAD(accept_threshold=0.0, num_draft_tokens=2))
    for extra in bodies:
        got = client.completions.create(model="demo", prompt=PROMPT, **SHORTER, extra_body=extra)
        assert got.model_extra is not None
        assert got.choices[0].text == want.text
        contract = got.model_extra["mtad"]
        assert contract["accept_threshold"] == 0.0
        assert contract["options"]["num_draft_tokens"] == 2
        assert contract["seeds"] == [3]
        assert (contract["energy_joules"] is None) == bool(contract["energy_reason"])


@pytest.mark.slow
def test_the_receipt_of_each_choice(client: openai.OpenAI) -> None:
    """What a method keeps of a text comes with the answer; nothing where it keeps nothing."""
    options = {"max_gap": 2.0, "regret_budget": 4.0}
    wanted = expected([PROMPT] * 2, mtad.Margin(**options), seed=[3, 4])
    receipts = [one.stats.receipt for one in wanted]
    assert max(one["regret"] for one in receipts) > 0
    for method, receipt in (
        ({"name": "margin", **options}, receipts),
        ("speculative_sampling", None),
    ):
        got = client.completions.create(
            model="demo", prompt=PROMPT, n=2, **SHORT, extra_body={"method": method}
        )
        assert got.model_extra is not None
        assert got.model_extra["mtad"].get("receipt") == receipt


@pytest.mark.slow
def test_the_choices_of_a_request(client: openai.OpenAI) -> None:
    wanted = expected([CHAT] * 3, seed=[3, 4, 5], temperature=2.0)
    texts = [one.text for one in wanted]
    assert len(set(texts)) == 3
    reply = client.chat.completions.create(model="demo", messages=CHAT, n=3, temperature=2, **SHORT)
    assert [c.message.content for c in reply.choices] == texts
    assert [c.index for c in reply.choices] == [0, 1, 2]
    assert reply.model_extra is not None and reply.model_extra["mtad"]["seeds"] == [3, 4, 5]
    assert reply.usage is not None
    tokens = sum(len(one.token_ids) for one in wanted)
    assert reply.usage.completion_tokens == tokens
    prompt = len(
        demo().tokenizer.apply_chat_template(  # type: ignore[union-attr]
            CHAT, add_generation_prompt=True, return_dict=False
        )
    )
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (prompt, prompt + tokens)

    streamed = ["", "", ""]
    for part in client.chat.completions.create(
        model="demo", messages=CHAT, n=3, stream=True, temperature=2, **SHORT
    ):
        streamed[part.choices[0].index] += part.choices[0].delta.content or ""
    assert streamed == texts


@pytest.mark.slow
def test_forms_of_prompts(client: openai.OpenAI) -> None:
    tokenizer: Any = demo().tokenizer
    prompts = [PROMPT, "SELECT name"]
    ids = [tokenizer(prompt).input_ids for prompt in prompts]
    wanted = expected_shorter(prompts, seed=[3, 4])
    for given, count in ((prompts, 2), (ids, 2), (PROMPT, 1), (ids[0], 1)):
        got = client.completions.create(model="demo", prompt=given, **SHORTER)
        assert [c.text for c in got.choices] == [w.text for w in wanted[:count]]
        assert got.usage and got.usage.prompt_tokens == sum(map(len, ids[:count]))
    two = client.completions.create(model="demo", prompt=prompts, n=2, **SHORTER)
    made = expected_shorter([*prompts[:1] * 2, *prompts[1:] * 2], seed=[3, 4, 5, 6])
    assert [c.text for c in two.choices] == [one.text for one in made]


@pytest.mark.slow
def test_echo(client: openai.OpenAI) -> None:
    [want] = expected_shorter(PROMPT)
    given: Any = {"model": "demo", "prompt": PROMPT, "echo": True, **SHORTER}
    assert client.completions.create(**given).choices[0].text == PROMPT + want.text
    chunks = client.completions.create(stream=True, **given)
    assert "".join(c.choices[0].text for c in chunks) == PROMPT + want.text


@pytest.mark.slow
def test_a_stream_has_a_beginning_and_an_end(client: openai.OpenAI) -> None:
    given: Any = {"model": "demo", "messages": CHAT, "stream": True, **SHORT}
    parts = list(client.chat.completions.create(stream_options={"include_usage": True}, **given))
    assert parts[0].choices[0].delta.role == "assistant"
    assert all(p.usage is None and "usage" in p.model_fields_set for p in parts[:-1])
    assert len({p.id for p in parts}) == 1
    last, end = parts[-1], parts[-2]
    whole = client.chat.completions.create(model="demo", messages=CHAT, **SHORT)
    assert last.choices == [] and last.usage == whole.usage
    assert last.model_extra is not None and whole.model_extra is not None
    assert last.model_extra["metrics"] == whole.model_extra["metrics"]
    assert end.choices[0].finish_reason == whole.choices[0].finish_reason
    assert [p.choices[0].finish_reason for p in parts[:-2]] == [None] * (len(parts) - 2)
    without = list(client.chat.completions.create(**given))
    assert not any("usage" in p.model_fields_set for p in without)
    assert without[-1].choices and without[-1].model_extra is not None
    assert without[-1].model_extra["metrics"] == whole.model_extra["metrics"]
    assert without[-1].model_extra["mtad"]["seeds"] == [3]


def _logprobs(ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits = reference().models.target(torch.tensor([ids])).logits
    return logits[0].float().log_softmax(-1)


@pytest.mark.slow
def test_logprobs_are_those_of_the_raw_target(client: openai.OpenAI) -> None:
    tokenizer: Any = demo().tokenizer
    prompt = tokenizer(PROMPT).input_ids
    given: Any = {"model": "demo", "prompt": PROMPT, "temperature": 0.3, **SHORT}
    given["extra_body"] = {"return_token_ids": True, "top_k": 4}
    got = client.completions.create(logprobs=2, **given)
    ids = got.choices[0].model_extra["token_ids"]  # type: ignore[index]
    logprobs = _logprobs(prompt + ids)[len(prompt) - 1 : -1]
    said = got.choices[0].logprobs
    assert said and said.token_logprobs and said.top_logprobs and said.tokens and said.text_offset
    own = logprobs[range(len(ids)), ids].tolist()
    assert said.token_logprobs == pytest.approx(own, abs=2e-4)
    assert [max(top.values()) for top in said.top_logprobs] == pytest.approx(
        logprobs.amax(-1).tolist(), abs=2e-4
    )
    assert all(len(top) == 2 for top in said.top_logprobs)
    assert "".join(said.tokens).startswith(got.choices[0].text)
    assert said.text_offset == [len("".join(said.tokens[:i])) for i in range(len(ids))]

    chunks = client.completions.create(logprobs=2, stream=True, **given)
    given_parts = [c.choices[0].logprobs for c in chunks]
    parts = [p for p in given_parts if p]
    assert list(chain.from_iterable(p.tokens or [] for p in parts)) == said.tokens
    assert list(chain.from_iterable(p.token_logprobs or [] for p in parts)) == pytest.approx(
        own, abs=2e-4
    )
    assert list(chain.from_iterable(p.text_offset or [] for p in parts)) == said.text_offset


@pytest.mark.slow
def test_logprobs_of_chats(client: openai.OpenAI) -> None:
    given: Any = {"model": "demo", "messages": CHAT, "logprobs": True, **SHORT}
    reply = client.chat.completions.create(top_logprobs=3, **given)
    assert reply.choices[0].logprobs and reply.choices[0].logprobs.content
    content = reply.choices[0].logprobs.content
    assert all(len(one.top_logprobs) == 3 for one in content)
    assert all(one.top_logprobs[0].logprob >= one.logprob - 1e-6 for one in content)
    raw = b"".join(bytes(one.bytes or []) for one in content)
    assert raw.startswith((reply.choices[0].message.content or "").encode())
    plain = client.chat.completions.create(**given)
    assert plain.choices[0].logprobs and plain.choices[0].logprobs.content
    assert [one.top_logprobs for one in plain.choices[0].logprobs.content] == [[]] * len(content)
    streamed = [
        one.token
        for part in client.chat.completions.create(top_logprobs=3, stream=True, **given)
        if part.choices[0].logprobs
        for one in part.choices[0].logprobs.content or []
    ]
    assert streamed == [one.token for one in content]


@pytest.mark.slow
def test_traces(client: openai.OpenAI) -> None:
    given: Any = {"model": "demo", "prompt": PROMPT, "n": 2, **SHORT}
    given["extra_body"] = {"trace": True, "return_token_ids": True}
    got = client.completions.create(**given)
    traces = got.model_extra["mtad"]["trace"]  # type: ignore[index]
    for choice, records in zip(got.choices, traces, strict=True):
        tokens = [one["token"] for record in records for one in record["tokens"]]
        assert tokens == choice.model_extra["token_ids"]  # type: ignore[index]
    streamed: list[list[Any]] = [[], []]
    for chunk in client.completions.create(stream=True, **given):
        record = (chunk.model_extra or {}).get("mtad", {}).get("trace")
        if record is not None:
            streamed[chunk.choices[0].index].append(record["tokens"])
    assert streamed == [[record["tokens"] for record in records] for records in traces]


def test_models(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt="x")


def test_bad_requests(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo", messages=CHAT, temperature=3)
    assert caught.value.param == "temperature"
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="demo", prompt="x", max_tokens=1024, stream=True)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_tokens")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="demo", prompt="a cat " * 900)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize(
    ("error", "kind", "status", "code"),
    [
        (QueueFullError("full", 2.1), openai.RateLimitError, 429, "queue_full"),
        (ClosingError("closing"), openai.InternalServerError, 503, "closing"),
    ],
)
def test_refusals(fake: Served, error: Exception, kind: Any, status: int, code: str) -> None:
    scheduler: FakeScheduler = fake.scheduler
    scheduler.refusal = error
    try:
        with client_of(fake) as client, pytest.raises(kind) as caught:
            client.completions.create(model="demo", prompt="x", stream=True)
    finally:
        scheduler.refusal = None
    assert (caught.value.status_code, caught.value.code) == (status, code)
    if status == 429:
        assert caught.value.response.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        (DeadlineError("too late"), 504, "deadline_exceeded", "too late"),
        (ClosingError("closing"), 503, "closing", "closing"),
        (ModelFailedError("a model failed"), 500, "model_failed", "a model failed"),
        (RuntimeError("secret"), 500, "internal_error", "internal error"),
    ],
)
@pytest.mark.parametrize("pieces", [0, 1])
def test_failures(
    fake: Served, error: Exception, status: int, code: str, message: str, pieces: int
) -> None:
    scheduler: FakeScheduler = fake.scheduler
    scheduler.failure = (pieces, error)
    given: Any = {"model": "demo", "prompt": PROMPT, **SHORT}
    try:
        with client_of(fake) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(**given)
            assert (caught.value.status_code, caught.value.code) == (status, code)
            assert message in str(caught.value) and "secret" not in str(caught.value)
            with pytest.raises(openai.APIError) as late:
                list(client.completions.create(stream=True, **given))
            assert late.value.code == code
    finally:
        scheduler.failure = None


def test_a_failed_choice_ends_the_others(fake: Served) -> None:
    scheduler: FakeScheduler = fake.scheduler
    scheduler.failure = (1, ModelFailedError("broken"))
    try:
        with client_of(fake) as client, pytest.raises(openai.InternalServerError):
            client.completions.create(model="demo", prompt=PROMPT, n=3, **SHORT)
    finally:
        scheduler.failure = None
    assert all(job.is_cancelled for job in scheduler.submitted[-3:])


@pytest.mark.slow
def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTAD_API_KEYS", "ann:right-key-of-ann")
    with fake_server() as served:
        with client_of(served, "wrong-key-of-ann") as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                client.models.list()
            assert caught.value.code == "invalid_api_key"
        with client_of(served, "right-key-of-ann") as client:
            assert client.completions.create(model="demo", prompt="x", max_tokens=2).choices
        assert served.scheduler.submitted[-1].client == "ann"


@pytest.mark.slow
def test_keys_that_are_handed_over_are_the_only_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTAD_API_KEYS", "ann:right-key-of-ann")
    chosen = ServerSettings(api_key_file=Path("gone"))
    keys = Keys({b"right-key-of-ann": "bob"})
    scheduler = FakeScheduler(demo())
    with serving(create_app(scheduler, chosen, None, keys), scheduler, chosen) as served:
        with client_of(served, "right-key-of-ann") as client:
            assert client.completions.create(model="demo", prompt="x", max_tokens=2).choices
        assert scheduler.submitted[-1].client == "bob"
    scheduler.pool.shutdown()


@pytest.mark.slow
def test_the_asynchronous_client(served: Served) -> None:
    async def streamed(client: openai.AsyncOpenAI, seed: int) -> str:
        given: Any = {"model": "demo", "messages": CHAT, "max_tokens": 5, "seed": seed}
        stream = await client.chat.completions.create(stream=True, **given)
        parts = [p.choices[0].delta.content or "" async for p in stream]
        whole = await client.chat.completions.create(**given)
        assert whole.choices[0].message.content == "".join(parts)
        return "".join(parts)

    async def all_at_once() -> list[str]:
        async with async_client_of(served) as client:
            return await asyncio.gather(*(streamed(client, seed) for seed in range(4)))

    wanted = [one.text for one in expected_shorter([CHAT] * 4, seed=[0, 1, 2, 3])]
    assert asyncio.run(all_at_once()) == wanted


@pytest.mark.slow
def test_minus_infinity_is_a_number(fake: Served) -> None:
    given: Any = {"model": "demo", "messages": CHAT, "logprobs": True, "top_logprobs": 3, **SHORT}
    with client_of(fake) as client:
        reply = client.chat.completions.create(**given)
    assert reply.choices[0].logprobs and reply.choices[0].logprobs.content
    lowest = reply.choices[0].logprobs.content[0].top_logprobs[-1].logprob
    assert lowest == -9999 and math.isfinite(lowest)
