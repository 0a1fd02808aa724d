"""guidellm against `mtad serve`: no request fails, and both count the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clients import run_client
from support.program import Program, program

from mtad.demo import TARGET_PATH

pytestmark = pytest.mark.clients
NUM_REQUESTS = 24
DATA = "kind=synthetic_text,prompt_tokens=64,output_tokens=32"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Program]:
    with program("--log-file", str(tmp_path / "log.jsonl")) as one:  # a pipe would fill up
        yield one


def benchmark(server: Program, folder: Path, *flags: str, more: str = "") -> dict[str, Any]:
    """The only benchmark of a run."""
    target = str(server.client.base_url).rstrip("/")
    run_client(
        "guidellm", "run", "--backend", f"kind=openai_http,target={target},model=demo{more}",
        "--tokenizer", f"kind=huggingface_auto,model={TARGET_PATH}", "--data", DATA,
        "--output", f"kind=json,path={folder / 'out.json'}", "--disable-console", *flags,
        folder=folder,
    )  # fmt: skip
    [found] = json.loads((folder / "out.json").read_text())["benchmarks"]
    return dict(found["metrics"])


def counters(server: Program) -> dict[str, float]:
    """The server's own counters, over all methods."""
    found: dict[str, float] = {}
    for line in server.client.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = name.split("{")[0].removeprefix("mtad:")
            found[name] = found.get(name, 0.0) + float(value)
    return found


@pytest.mark.call("chats and completions, streamed, one by one and eight at once")
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("profile", ["throughput,max_concurrency=8", "synchronous"])
def test_both_count_the_same(server: Program, tmp_path: Path, profile: str, route: str) -> None:
    metrics = benchmark(
        server, tmp_path, "--profile", f"kind={profile}",
        "--constraint", f"kind=max_requests,count={NUM_REQUESTS}", more=f",request_format={route}",
    )  # fmt: skip
    totals, own = metrics["request_totals"], counters(server)
    assert (totals["successful"], totals["errored"], totals["incomplete"]) == (NUM_REQUESTS, 0, 0)
    ours = {
        "prompt_token_count": own["prompt_tokens_total"],
        "output_token_count": own["generation_tokens_total"],
    }
    assert {name: metrics[name]["successful"]["total_sum"] for name in ours} == ours
    assert own["request_success_total"] == NUM_REQUESTS
    assert "requests_failed_total" not in own
    for theirs, name, unit in (
        ("time_to_first_token_ms", "time_to_first_token_seconds", 1e3),
        ("request_latency", "e2e_request_latency_seconds", 1.0),
    ):  # the client's clock has the way there and back, too
        mean = own[f"{name}_sum"] / own[f"{name}_count"] * unit
        assert 0 < mean <= metrics[theirs]["successful"]["mean"]


@pytest.mark.call("20 seconds of load")
def test_twenty_seconds_of_load(server: Program, tmp_path: Path) -> None:
    metrics = benchmark(
        server, tmp_path, "--profile", "kind=concurrent,streams=[4]",
        "--constraint", "kind=max_duration,seconds=20",
    )  # fmt: skip
    totals, own = metrics["request_totals"], counters(server)
    assert totals["errored"] == 0
    assert totals["successful"] >= 4
    assert totals["incomplete"] <= 4
    assert own["request_success_total"] >= totals["successful"]
    assert own["generation_tokens_total"] >= metrics["output_token_count"]["total"]["total_sum"]
    assert own.get("requests_failed_total", 0.0) <= totals["incomplete"]
    assert own["num_requests_running"] == 0
