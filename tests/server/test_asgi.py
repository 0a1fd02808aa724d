"""The server as a part of another application."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from openai import OpenAI
from starlette.testclient import TestClient
from support.serving import demo, wait_for
from support.site import error

from mtad.errors import DataError
from mtad.measure.meter import Meter
from mtad.server import asgi
from mtad.server.asgi import MtadApp
from mtad.server.settings import ServerSettings

ONE = {"model": "mine", "prompt": "SELECT", "max_tokens": 4, "ignore_eos": True, "seed": 1}
HERE = "http://127.0.0.1:8000"


@pytest.fixture(autouse=True)
def _not_metered(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, assemble = Meter(None, "not metered here"), asgi.assemble
    monkeypatch.setattr(asgi, "assemble", lambda pair, settings: assemble(pair, settings, meter))


def made(**settings: Any) -> MtadApp:
    return MtadApp(demo(), ServerSettings(served_model_name="mine", **settings))


@contextmanager
def mounted(llm: MtadApp, prefix: str = "/llm", **options: Any) -> Iterator[TestClient]:
    """A client of an application that has `/own`, and this one under a prefix."""
    app = FastAPI(lifespan=llm.lifespan, **options)
    app.mount(prefix, llm)

    @app.get("/own")
    def own(request: Request) -> str:
        return request.url.path

    with TestClient(app, base_url=HERE) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["/llm", "/a/b"])
def test_every_route_works_under_a_prefix(prefix: str) -> None:
    with mounted(made(), prefix) as client:
        assert client.get("/own").json() == "/own"
        for path in ("/v1/models", "/v1/methods", "/health/ready", "/version", "/metrics"):
            assert client.get(prefix + path).status_code == 200, path
        alone = demo().generate(["SELECT"], max_new_tokens=4, ignore_eos=True, seed=1)[0]
        for end in ("", "/"):
            answer = client.post(f"{prefix}/v1/completions{end}", json=ONE)
            assert answer.json()["choices"][0]["text"] == alone.text
        described = client.get(f"{prefix}/openapi.json").json()
        assert described["servers"] == [{"url": prefix}]
        assert f"{prefix}/v1/completions" not in client.get("/openapi.json").json()["paths"]
        page = client.get(prefix).text  # redirected to the slash, after which links are relative
        for place in re.findall(r'(?:src|href)="([^"#]+)"', page):
            assert client.get(f"{prefix}/{place}").status_code == 200
        assert error(client.get(f"{prefix}/nothing"), 404)
        assert client.get("/v1/models").status_code == 404, "nothing of it is beside the prefix"


@pytest.mark.slow
def test_streams_and_clients_work_under_a_prefix() -> None:
    with mounted(made()) as client:
        sdk = OpenAI(base_url=f"{HERE}/llm/v1", api_key="none", http_client=client)
        asked = {key: value for key, value in ONE.items() if key != "ignore_eos"}
        chunks = sdk.completions.create(**asked, stream=True, extra_body={"ignore_eos": True})
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


@pytest.mark.slow
def test_keys_hosts_and_limits_hold_under_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTAD_API_KEYS", "ann:right-key-1")
    with mounted(made(max_new_tokens=8)) as client:
        for path in ("/llm/", "/llm/health", "/llm/version", "/llm/page/main.js"):
            assert client.get(path).status_code == 200, path
        error(client.get("/llm/v1/models"), 401)
        error(client.get("/llm/metrics"), 401)
        key = {"Authorization": "Bearer right-key-1"}
        assert client.get("/llm/v1/models", headers=key).status_code == 200
        error(client.post("/llm/v1/completions", json=ONE | {"max_tokens": 9}, headers=key), 400)
        elsewhere = {**key, "Host": "a.example"}
        error(client.get("/llm/v1/models", headers=elsewhere), 403)
        assert client.get("/own", headers=elsewhere).status_code == 200
    with mounted(made(allowed_hosts=("a.example",))) as client:
        named = {**key, "Host": "a.example"}
        assert client.get("/llm/v1/models", headers=named).status_code == 200


def test_without_its_lifespan_it_says_what_is_missing() -> None:
    app = FastAPI()
    app.mount("/llm", made())
    with TestClient(app, base_url=HERE) as client:
        found = error(client.get("/llm/v1/models"), 503)
    assert "FastAPI(lifespan=llm.lifespan)" in found["message"]


@pytest.mark.slow
def test_served_itself_it_runs_its_own_lifespan() -> None:
    llm = made()
    for _ in range(2):
        with TestClient(llm, base_url=HERE) as client:
            assert client.post("/v1/completions", json=ONE).status_code == 200
    found = TestClient(llm, base_url=HERE).get("/v1/models")
    assert error(found, 503)["code"] == "not_ready", "it has ended"


def test_the_lifespan_ends_what_runs() -> None:
    async def run() -> tuple[bool, bool]:
        llm = made()
        async with llm.lifespan():
            assert llm._served is not None
            scheduler = llm._served.scheduler
            wait_for(lambda: scheduler.load.is_ready)
            begun = scheduler.load.is_alive
            with pytest.raises(RuntimeError, match="entered already"):
                async with llm.lifespan():
                    pass
            assert scheduler.load.is_ready, "the second one has not ended the first"
        return begun, scheduler.load.is_ready

    assert asyncio.run(run()) == (True, False)


def test_requests_are_logged_to_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "mtad.requests"), mounted(made()) as client:
        client.post("/llm/v1/completions", json=ONE)
    [record] = [one for one in caplog.records if one.name == "mtad.requests"]
    fields = record.fields  # type: ignore[attr-defined]
    assert (fields["route"], fields["status"], fields["output_tokens"]) == (
        "/v1/completions",
        200,
        4,
    )
    json.dumps(fields)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"uds": Path("/x")}, "uds is for mtad serve"),
        ({"root_path": "/x"}, "root_path is for mtad serve"),
        ({"ssl_certfile": Path("/x"), "ssl_keyfile": Path("/y")}, "ssl_certfile is for mtad serve"),
        ({"log_file": Path("/x")}, "log_file is for mtad serve; give the logger mtad.requests"),
        ({"served_model_name": ()}, "served_model_name is not given"),
    ],
)
def test_settings_that_would_have_no_effect(given: dict[str, Any], words: str) -> None:
    settings = dataclasses.replace(ServerSettings(served_model_name="mine"), **given)
    with pytest.raises(ValueError, match=words):
        MtadApp(demo(), settings)


def test_what_is_wrong_with_models_and_settings_is_said_at_the_start() -> None:
    with pytest.raises(DataError, match="chat template"), mounted(made(chat_template="x")):
        pass
