"""The server on a Ray cluster: the same answers, one page of metrics, and clean ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from support import clusters
from support.clusters import pull_the_plug, two_machines
from support.command import MAIN, refused
from support.tiny import heat_of

from mtad import methods
from mtad.api.pair import ModelPair, load_pair
from mtad.cluster import ClusterError
from mtad.methods.mtad import MTAD
from mtad.server.http.keys import Keys
from mtad.server.ray import deploy
from mtad.server.ray import replica as replica_module
from mtad.server.ray.deploy import Fleet, deployed
from mtad.server.ray.metrics import labelled
from mtad.server.ray.replica import Replica, UnhealthyError, own_file
from mtad.server.scheduler.events import Load
from mtad.server.settings import ServerSettings

# --- metrics -------------------------------------------------------------------------------------

ONE = """\
# HELP mtad:generation_tokens_total Tokens.
# TYPE mtad:generation_tokens_total counter
mtad:generation_tokens_total{method="mtad"} 3.0
mtad:generation_tokens_total{method="bild"} 1.0
# HELP mtad:e2e_seconds Time.
# TYPE mtad:e2e_seconds histogram
mtad:e2e_seconds_bucket{le="0.5"} 1.0
mtad:e2e_seconds_bucket{le="+Inf"} 2.0
mtad:e2e_seconds_count 2.0
mtad:e2e_seconds_sum 1.5
"""
TWO = """\
# HELP mtad:generation_tokens_total Tokens.
# TYPE mtad:generation_tokens_total counter
mtad:generation_tokens_total{method="mtad"} 10.0
# HELP mtad:kv_cache_usage_perc Share.
# TYPE mtad:kv_cache_usage_perc gauge
mtad:kv_cache_usage_perc 0.75
"""
BOTH = """\
# HELP mtad:generation_tokens_total Tokens.
# TYPE mtad:generation_tokens_total counter
mtad:generation_tokens_total{method="mtad",replica="a"} 3.0
mtad:generation_tokens_total{method="bild",replica="a"} 1.0
mtad:generation_tokens_total{method="mtad",replica="b"} 10.0
# HELP mtad:e2e_seconds Time.
# TYPE mtad:e2e_seconds histogram
mtad:e2e_seconds_bucket{le="0.5",replica="a"} 1.0
mtad:e2e_seconds_bucket{le="+Inf",replica="a"} 2.0
mtad:e2e_seconds_count{replica="a"} 2.0
mtad:e2e_seconds_sum{replica="a"} 1.5
# HELP mtad:kv_cache_usage_perc Share.
# TYPE mtad:kv_cache_usage_perc gauge
mtad:kv_cache_usage_perc{replica="b"} 0.75
# HELP mtad:replicas Replicas that answered.
# TYPE mtad:replicas gauge
mtad:replicas 2.0
"""


def values(text: bytes | str) -> dict[str, float]:
    lines = (text if isinstance(text, str) else text.decode()).splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_every_series_has_the_label_of_its_replica() -> None:
    assert labelled({"a": ONE, "b": TWO}).decode() == BOTH


# --- a replica, without Ray ----------------------------------------------------------------------


@dataclass
class FakeServed:
    """Stands for a pair behind its application."""

    settings: ServerSettings
    keys: Keys
    render: Any
    is_alive: bool = True
    calls: list[Any] = field(default_factory=list)
    drained: threading.Event = field(default_factory=threading.Event)

    @property
    def scheduler(self) -> Any:
        load = Load(0, 0, 0, 0, 0, 0, self.is_alive, True)
        return SimpleNamespace(load=load, close=self._drain)

    def _drain(self, drain_s: float) -> None:
        self.calls.append(("drain", drain_s))
        self.drained.set()

    @property
    def metrics(self) -> Any:
        return SimpleNamespace(render=lambda: ONE.encode())

    def start(self) -> None:
        self.calls.append("start")

    def close(self) -> None:
        self.calls.append("close")

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"7")]
        headers += [(b"X-Request-Id", b"r")]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": b"the ", "more_body": True})
        await send({"type": "http.response.body", "body": b"own", "more_body": False})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes replicas of a made-up pair; closes them."""
    replicas: list[Replica] = []

    def assemble(pair: Any, settings: Any, meter: Any, keys: Keys, render: Any) -> FakeServed:
        return FakeServed(settings, keys, render)

    monkeypatch.setattr(replica_module, "load", lambda settings: None)
    monkeypatch.setattr(replica_module, "assemble", assemble)
    monkeypatch.setattr(replica_module, "configure", lambda *given: None)

    def make(
        keys: Keys = Keys(),  # noqa: B008
        pages: Any = None,
        **settings: Any,
    ) -> tuple[Replica, FakeServed]:
        async def none() -> list[Any]:
            return []

        own = ServerSettings(**settings)
        replicas.append(Replica(own, keys, f"r{len(replicas)}", pages or none))
        return replicas[-1], replicas[-1].served  # type: ignore[return-value]

    yield make
    for replica in replicas:
        replica.__del__()


async def ask(app: Any, path: str, method: str = "GET") -> tuple[dict[bytes, bytes], bytes]:
    """Headers and body of an answer."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": []}
    await app(scope, None, send)
    assert [m["type"] for m in sent].count("http.response.start") == 1
    assert not sent[-1].get("more_body")
    return dict(sent[0]["headers"]), b"".join(m.get("body", b"") for m in sent[1:])


def test_metrics_of_all_replicas_are_shown_by_each(made: Any) -> None:
    async def pages() -> list[Any]:
        return [("other", TWO), ("r0", "of a moment ago")]

    _, served = made(pages=pages)
    found = values(asyncio.run(served.render()))
    assert found['mtad:generation_tokens_total{method="mtad",replica="other"}'] == 10
    assert found['mtad:generation_tokens_total{method="mtad",replica="r0"}'] == 3
    assert found["mtad:replicas"] == 2


def test_without_the_others_a_replica_shows_its_own_metrics(made: Any) -> None:
    async def pages() -> list[Any]:
        raise ConnectionError("away")

    _, served = made(pages=pages)
    assert asyncio.run(served.render()) == labelled({"r0": ONE})


def test_answers_pass_through(made: Any) -> None:
    replica, _ = made()
    headers, body = asyncio.run(ask(replica.__serve_build_asgi_app__(), "/health"))
    assert body == b"the own"
    assert headers.keys() == {b"content-type", b"content-length"}  # the proxy adds the request id


def test_a_replica_drains_once(made: Any) -> None:
    replica, served = made(shutdown_s=7.0)
    replica.drain()
    replica.drain()
    assert served.drained.wait(10)
    replica.__del__()
    assert served.calls == ["start", ("drain", 7.0), "close"]


def test_a_scheduler_that_hangs_is_unhealthy(made: Any) -> None:
    replica, served = made()
    replica.check_health()
    served.is_alive = False
    with pytest.raises(UnhealthyError, match="replica r0 hangs"):
        replica.check_health()
    replica.drain()
    replica.check_health()  # what has ended as it was told to is not to be replaced


def test_keys_reach_a_replica(made: Any) -> None:
    for keys in (Keys({b"comma,key": "ann", b"other-key": "ben"}), Keys()):
        _, served = made(keys)
        assert served.keys is keys


def test_every_replica_has_its_own_trace_and_log(made: Any) -> None:
    _, served = made(trace=Path("/t/f.jsonl"), log_file=Path("/t/f.log"))
    assert served.settings.trace == Path("/t/f.r0.jsonl")
    assert served.settings.log_file == Path("/t/f.r0.log")
    assert own_file(None, "r0") is None


# --- how it is deployed --------------------------------------------------------------------------


def test_impossible_fleets_are_refused() -> None:
    with pytest.raises(ValueError, match="replicas is 0; it must be an integer >= 1"):
        Fleet(replicas=0)
    with pytest.raises(ValueError, match="max_replicas is 2; it must be at least replicas, which"):
        Fleet(replicas=3, max_replicas=2)
    with pytest.raises(ValueError, match="replica_gpus is -1"):
        Fleet(replica_gpus=-1.0)


def _options(fleet: Fleet, gpus: int = 0, **settings: Any) -> dict[str, Any]:
    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0, "GPU": float(gpus)})
    return deploy._options(ray, ServerSettings(**settings), fleet)


def test_replicas_are_fixed_or_follow_the_requests() -> None:
    assert _options(Fleet(replicas=3))["num_replicas"] == 3
    assert "autoscaling_config" not in _options(Fleet(replicas=3))
    grown = _options(Fleet(replicas=1, max_replicas=4), max_rows=16)
    assert grown["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": 16.0,
    }
    # the application, not Ray, refuses what is too much
    assert _options(Fleet(), max_rows=4, max_queue=8)["max_ongoing_requests"] > 12
    assert _options(Fleet(), shutdown_s=20.0)["graceful_shutdown_timeout_s"] > 20


@pytest.mark.parametrize(
    ("fleet", "gpus", "device", "given"),
    [
        (Fleet(), 0, "auto", 0),
        (Fleet(), 2, "auto", 1),
        (Fleet(), 2, "cpu", 0),
        (Fleet(replica_gpus=2.0), 2, "auto", 2),
    ],
)
def test_a_replica_gets_a_gpu_where_there_are_any(
    fleet: Fleet, gpus: int, device: str, given: int
) -> None:
    options = _options(fleet, gpus, device=device)["ray_actor_options"]
    assert options == {"num_cpus": 1.0, "num_gpus": given}


def test_another_application_on_the_cluster_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = SimpleNamespace(status=lambda: SimpleNamespace(applications={"theirs": None}))
    modules = {"ray": SimpleNamespace(), "ray.serve": serve}
    monkeypatch.setattr(deploy, "find_ray", lambda module="ray": modules[module])
    with (
        pytest.raises(ClusterError, match="Ray Serve already serves theirs on this cluster"),
        deployed(ServerSettings(), Fleet()),
    ):
        pass


def test_what_a_replica_died_of_is_shown_in_one_line() -> None:
    text = "Deploying application mtad failed: The deployment failed to start.\nTraceback:\n"
    text += '  File "x.py", line 1\nmtad.errors.CheckpointError: there is no folder /m\n\nmore'

    def run(application: Any, name: str) -> None:
        raise RuntimeError(text)

    with pytest.raises(ClusterError) as caught:
        deploy._run(SimpleNamespace(run=run), None)
    assert str(caught.value) == (
        "a replica could not be made: mtad.errors.CheckpointError: there is no folder /m"
    )


# --- on two machines -----------------------------------------------------------------------------


def with_ray(test: Any) -> Any:
    """The test, with Ray itself, on two machines within this one."""
    return pytest.mark.ray(pytest.mark.filterwarnings(*clusters.RAY_WARNINGS)(test))


KEY = "a-key-of-ann"
SETTINGS = ServerSettings(port=0, dtype="float32", max_new_tokens=96, shutdown_s=20.0)


@pytest.fixture(scope="module")
def demo_pair() -> ModelPair:
    return load_pair("demo", dtype="float32")


@contextmanager
def two_replicas(settings: ServerSettings = SETTINGS) -> Iterator[tuple[httpx.Client, Any]]:
    """A client of a server with a replica on each of two machines, and the second machine.

    The client is closed when the server has ended.
    """
    keys = Keys({KEY.encode(): "ann"})
    with (
        ExitStack() as after,
        two_machines() as (_, second),
        deployed(settings, Fleet(replicas=2), keys) as url,
    ):
        client = httpx.Client(
            base_url=url,
            timeout=120,
            trust_env=False,
            headers={"Authorization": f"Bearer {KEY}"},
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        yield after.enter_context(client), second


def body(seed: int, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": "SELECT", "seed": seed, "max_tokens": 24, **more}


def streamed(
    client: httpx.Client, seed: int, begun: threading.Semaphore | None = None, **more: Any
) -> tuple[str, list[Any], str]:
    """The text of a stream, the errors in it, and its last line; releases `begun` at its first."""
    text, errors, last = "", [], ""
    with client.stream("POST", "/v1/completions", json=body(seed, stream=True, **more)) as answer:
        answer.raise_for_status()
        for line in filter(None, answer.iter_lines()):
            assert last != "data: [DONE]", "something came after the end"
            if begun is not None and not last:
                begun.release()
            last = line
            event = {} if line == "data: [DONE]" else json.loads(line.removeprefix("data: "))
            text += "".join(choice["text"] for choice in event.get("choices", ()))
            errors += [event["error"]] if "error" in event else []
    return text, errors, last


def expected(pair: ModelPair, seed: int, num_tokens: int = 24) -> str:
    [done] = pair.generate(["SELECT"], MTAD(), seed=seed, max_new_tokens=num_tokens)
    return done.text


@with_ray
def test_the_same_answers_from_every_replica(demo_pair: ModelPair) -> None:
    with two_replicas() as (client, _):
        for seed in range(8):
            answer = client.post("/v1/completions", json=body(seed))
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["text"] == expected(demo_pair, seed)
            assert streamed(client, seed) == (expected(demo_pair, seed), [], "data: [DONE]")
        for seed, name in enumerate(methods.names()):
            heat = heat_of(name)
            options = {"seed": seed, "max_new_tokens": 24, "temperature": heat}
            [alone] = demo_pair.generate(["SELECT"], name, **options)
            answer = client.post("/v1/completions", json=body(seed, method=name, temperature=heat))
            assert answer.json()["choices"][0]["text"] == alone.text, name
        assert client.get("/health").status_code == 200
        assert client.get("/").headers["content-type"].startswith("text/html")
        given = {"X-Request-Id": "mine"}
        assert client.get("/version", headers=given).headers.get_list("x-request-id") == ["mine"]
        url = str(client.base_url).rstrip("/")
        assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401
        assert httpx.get(f"{url}/metrics", trust_env=False).status_code == 401
        refused = client.post("/v1/completions", json=body(0, no_such="x"))
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "no_such")
        found = values(client.get("/metrics").text)
        assert found["mtad:replicas"] == 2
        done = [v for k, v in found.items() if k.startswith("mtad:request_success_total")]
        assert sum(done) == 16 + len(methods.names())


@with_ray
def test_a_machine_dies_under_load(demo_pair: ModelPair) -> None:
    """Every request is answered in full, or fails; nothing is answered twice or mixed up."""
    with two_replicas() as (client, second), ThreadPoolExecutor(8) as pool:
        assert client.get("/health").status_code == 200

        def ask(seed: int) -> str | None:
            """The text; None for a clean failure."""
            try:
                if seed % 2:
                    answer = client.post("/v1/completions", json=body(seed))
                    if answer.status_code != 200:
                        assert answer.status_code >= 500
                        return None
                    [choice] = answer.json()["choices"]
                    return str(choice["text"])
                text, errors, last = streamed(client, seed)
                return text if not errors and last == "data: [DONE]" else None
            except (httpx.HTTPStatusError, httpx.RemoteProtocolError, httpx.ReadError):
                return None  # an answer that was cut off, and is seen to be

        first = [pool.submit(ask, seed) for seed in range(40)]
        while sum(one.done() for one in first) < 6:
            time.sleep(0.01)
        pull_the_plug(second)
        texts = [one.result(120) for one in first]
        assert sum(text is not None for text in texts) >= 20
        for seed, text in enumerate(texts):
            assert text in (None, expected(demo_pair, seed))
        deadline = time.monotonic() + 60  # until Ray Serve has noticed
        while time.monotonic() < deadline and None in [ask(seed) for seed in range(4)]:
            time.sleep(0.5)
        for seed in range(40, 52):
            assert ask(seed) == expected(demo_pair, seed)


@with_ray
@pytest.mark.parametrize("shutdown_s", [300.0, 0.0])
def test_at_the_end_requests_finish_or_fail_with_a_reason(shutdown_s: float) -> None:
    exact = load_pair("demo", dtype="float64")
    # in float32 a batch may round long texts otherwise; see docs/footguns.md
    settings = replace(SETTINGS, dtype="float64", max_new_tokens=480, shutdown_s=shutdown_s)
    more: dict[str, Any] = {"max_tokens": 480, "ignore_eos": True, "begun": threading.Semaphore(0)}
    with ThreadPoolExecutor(16) as pool, two_replicas(settings) as (client, _):
        long = [pool.submit(streamed, client, seed, **more) for seed in range(16)]
        for _ in long:
            assert more["begun"].acquire(timeout=60)
        # and the server ends while they are read
    answers = [one.result(300) for one in long]
    for seed, (text, errors, last) in enumerate(answers):
        if errors:
            assert not shutdown_s
            assert "the server was shut down" in errors[0]["message"]
        else:
            assert last == "data: [DONE]"
            [whole] = exact.generate(
                ["SELECT"], MTAD(), seed=seed, max_new_tokens=480, ignore_eos=True
            )
            assert text == whole.text
    assert shutdown_s or any(errors for _, errors, _ in answers)


@with_ray
def test_the_command_serves_and_ends_with_a_signal(tmp_path: Path, demo_pair: ModelPair) -> None:
    command = [*MAIN, "serve", "--ray", "--ray-address", "local", "--port", "0"]
    command += ["--dtype", "float32", "--max-replicas", "2"]
    with (tmp_path / "err").open("wb") as err:
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
    try:
        assert started.stdout is not None
        line = started.stdout.readline().strip()
        assert line.startswith("mtad serves demo on http://127.0.0.1:"), line
        url = line.rpartition(" ")[2]
        answer = httpx.post(f"{url}/v1/completions", json=body(5), timeout=60, trust_env=False)
        assert answer.json()["choices"][0]["text"] == expected(demo_pair, 5)
        started.send_signal(signal.SIGTERM)
        assert started.wait(60) == 0
        assert "shutting down" in (tmp_path / "err").read_text()
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


@pytest.mark.parametrize(
    ("flag", "given"), [("--replicas", "2"), ("--max-replicas", "2"), ("--replica-gpus", "0")]
)
def test_flags_of_replicas_need_ray(flag: str, given: str) -> None:
    assert f"{flag} is {given}" in (message := refused("serve", flag, given))
    assert "it needs --ray" in message
