"""What operators set for requests that say nothing: sampling settings, and the chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.serving import Served, demo, fake_server
from support.site import error

from mtad.errors import DataError
from mtad.sampling.params import SamplingParams
from mtad.server.api.service import Service
from mtad.server.api.tokenizing import Texts, read_template
from mtad.server.settings import ServerSettings

CONFIG = {
    "temperature": 0.5,
    "top_p": 0.75,
    "top_k": 7,
    "min_p": 0.125,
    "repetition_penalty": 1.5,
    "max_new_tokens": 3,
}


def sampled(server: Served, path: str = "/v1/completions", **body: Any) -> SamplingParams:
    """The settings with which a request was decoded."""
    prompt = {} if "messages" in body else {"prompt": "SELECT"}
    asked = {"model": "demo", "seed": 1, "ignore_eos": True, **prompt, **body}
    with server.client() as client:
        answer = client.post(path, json=asked)
    assert answer.status_code == 200, answer.text
    return server.scheduler.submitted[-1].request.sampling


@pytest.mark.slow
def test_settings_that_a_request_does_not_give() -> None:
    with fake_server(override_generation_config=json.dumps(CONFIG)) as server:
        chat = {"messages": [{"role": "user", "content": "x"}]}
        for path, body in (("/v1/completions", {}), ("/v1/chat/completions", chat)):
            found = sampled(server, path, **body)
            assert {name: getattr(found, name) for name in CONFIG} == CONFIG
        null = sampled(server, temperature=None, top_k=None)
        assert (null.temperature, null.top_k) == (0.5, 7)
        given = sampled(server, temperature=1.25, top_p=1.0, min_p=0, max_tokens=5)
        assert (given.temperature, given.top_p, given.min_p) == (1.25, 1.0, 0.0)
        assert (given.max_new_tokens, given.top_k) == (5, 7), "a default is no limit"
        assert sampled(server, top_k=-1).top_k == 0, "vLLM's word for all tokens is a setting"
        assert sampled(server, top_k=0).top_k == 0


@pytest.mark.slow
def test_without_the_flag_nothing_is_truncated() -> None:
    with fake_server() as server:
        found = sampled(server, max_tokens=2)
        assert found == SamplingParams(seed=1, max_new_tokens=2, eos_token_ids=found.eos_token_ids)
        assert sampled(server, max_tokens=2, top_k=-1) == found


@pytest.mark.slow
def test_the_default_budget_is_what_there_is_room_for() -> None:
    text = '{"max_new_tokens": 100000}'
    with fake_server(override_generation_config=text, max_model_len=32) as server:
        assert sampled(server, prompt=[5] * 30).max_new_tokens == 2


@pytest.mark.slow
def test_clients_are_told_the_defaults() -> None:
    text = '{"temperature": 0.5, "max_new_tokens": 3}'
    with fake_server(override_generation_config=text) as server, server.client() as client:
        told = {one["name"]: one["default"] for one in client.get("/v1/methods").json()["sampling"]}
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert (told["temperature"], told["max_tokens"], told["top_p"]) == (0.5, 3, 1.0)
    for model in ("ChatRequest", "CompletionRequest"):
        fields = schemas[model]["properties"]
        assert fields["temperature"]["description"].endswith(" 0.5 if left out.")
        assert fields["max_tokens"]["description"].endswith(" 3 if left out.")
        assert fields["top_p"]["description"].endswith(" 1 if left out.")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("{", "override_generation_config is '{'; it must be a JSON object, such as"),
        ("[1]", "override_generation_config is '[1]'; it must be a JSON object"),
        ('{"temprature": 1}', "unknown key of override_generation_config 'temprature' (did you"),
        ('{"eos_token_id": 1}', "unknown key of override_generation_config 'eos_token_id'"),
        ('{"temperature": "hot"}', "override_generation_config: temperature is 'hot'; it must be"),
        ('{"temperature": 3}', "temperature is 3; it must be a number from 0 to 2"),
        ('{"temperature": NaN}', "temperature is nan; it must be"),
        ('{"temperature": 1e-9}', "temperature is 1e-09; it must be 0 (greedy) or at least"),
        ('{"top_p": 0}', "top_p is 0; it must be"),
        ('{"top_k": 1.5}', "top_k is 1.5; it must be an integer"),
        ('{"max_new_tokens": 0}', "max_new_tokens is 0; it must be"),
    ],
)
def test_settings_that_no_request_could_give(given: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        ServerSettings(override_generation_config=given)
    assert words in str(caught.value)


def test_a_default_budget_beyond_the_limit() -> None:
    with pytest.raises(ValueError, match="max_new_tokens is 9; it must be at most the server's"):
        ServerSettings(override_generation_config='{"max_new_tokens": 9}', max_new_tokens=8)


# --- the chat template

TEMPLATE = "{% for m in messages %}{{ m.content }}!{% endfor %}{% if loud %}?{% endif %}"


def chat_ids(server: Served, **more: Any) -> list[int]:
    with server.client() as client:
        messages = [{"role": "user", "content": "SELECT"}]
        answer = client.post("/tokenize", json={"model": "demo", "messages": messages, **more})
    return list(answer.json()["tokens"])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["file", "text"])
def test_chats_are_rendered_with_the_given_template(form: str, tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATE, encoding="utf-8")
    texts = Texts(demo().tokenizer)
    own = str(demo().tokenizer.chat_template)
    with fake_server(chat_template=str(file) if form == "file" else TEMPLATE) as server:
        assert chat_ids(server) == texts.ids("SELECT!", bare=True)
        loud = chat_ids(server, chat_template_kwargs={"loud": True})
        assert loud == texts.ids("SELECT!?", bare=True)
        with server.client() as client:
            assert client.get("/tokenizer_info").json()["chat_template"] == TEMPLATE
            body = {"model": "demo", "messages": [{"role": "user", "content": "SELECT"}]}
            answer = client.post("/v1/chat/completions", json={**body, "max_tokens": 1})
            assert answer.json()["usage"]["prompt_tokens"] == len(chat_ids(server))
            refused = {**body, "chat_template_kwargs": {"chat_template": "x"}}
            error(client.post("/v1/chat/completions", json=refused), 400)
    assert demo().tokenizer.chat_template == own, "the pair stays as it is"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("/nowhere/chat.jinja", r"/nowhere/chat.jinja cannot be read: No such file.*give a file"),
        ("{% for %}", "cannot be used: the chat template is broken"),
        ("{{ raise_exception('no') }}", "cannot be used: the chat template refuses these messages"),
        ("Hello\n", "cannot be used: it leaves out what the user says"),
    ],
)
def test_templates_that_cannot_be_used(given: str, words: str) -> None:
    scheduler: Any = type("S", (), {"pair": demo()})()
    with pytest.raises(DataError, match=words):
        Service.of(scheduler, ServerSettings(chat_template=given), None)


def test_a_template_needs_a_tokenizer() -> None:
    with pytest.raises(DataError, match="came without a tokenizer"):
        Texts(None, "", TEMPLATE)


def test_a_template_for_a_tokenizer_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo().tokenizer, "chat_template", None)
    texts = Texts(demo().tokenizer, "", read_template(TEMPLATE))
    assert texts.template == TEMPLATE
