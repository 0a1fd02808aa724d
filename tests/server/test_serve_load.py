"""The load script: a real server, a few requests, figures that add up, texts that stay the same."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.benchmarks import program
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def script() -> Any:
    return program("serve_load")


def test_percentiles_are_those_of_the_sorted_values(script):
    found = script.percentiles([float(n) for n in range(100, 0, -1)])
    assert found == {"mean": 50.5, "p50": 51.0, "p90": 91.0, "p99": 100.0}
    assert script.percentiles([2.0]) == {"mean": 2.0, "p50": 2.0, "p90": 2.0, "p99": 2.0}


def test_time_per_token_counts_the_tokens_after_the_first(script):
    assert script.Answer(1.0, 3.0, 5, "").tpot_s == 0.5
    assert script.Answer(1.0, 1.0, 1, "").tpot_s is None


def test_requests_are_the_same_in_every_run(script):
    first, again = (script.bodies(400, 8, "demo", {"top_k": 3}) for _ in range(2))
    assert first == again
    assert [body["seed"] for body in first] == list(range(400))
    assert len({body["prompt"] for body in first}) > 300


def test_another_pair_gets_chats(script):
    bodies = script.bodies(6, 8, "m", {}, "smollm2")
    assert all(body["messages"][-1]["role"] == "user" for body in bodies)
    assert len({json.dumps(body["messages"]) for body in bodies}) == 6


def test_texts_that_depend_on_the_number_of_clients_are_an_error_or_counted(script, capsys):
    texts = [["a", "b"], ["a", "c"]]
    with pytest.raises(RuntimeError, match="depends on the number of clients"):
        script._compare(texts, is_exact=True)
    script._compare(texts, is_exact=False)
    assert "1 of 2 texts depend" in capsys.readouterr().err


@pytest.mark.slow
def test_a_little_load_on_a_real_server(script, tmp_path):
    words = ["load", "--clients", "1,3", "--requests", "6", "--max-tokens", "5"]
    result = CliRunner().invoke(script.app, [*words, "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "load.jsonl").read_text().splitlines()]
    assert [row["clients"] for row in rows] == [1, 3]
    for row in rows:
        assert row["requests"] == 6 and 6 <= row["output_tokens"] <= 30
        assert row["tokens_per_s"] == pytest.approx(row["output_tokens"] / row["wall_s"])
        assert 0 < row["ttft_s"]["p50"] <= row["e2e_s"]["p50"] <= row["wall_s"]
    assert rows[0]["output_tokens"] == rows[1]["output_tokens"]
    assert (tmp_path / "load.png").stat().st_size > 1000


@pytest.mark.slow
def test_soak_and_disconnect_end_with_nothing_held(script):
    for words in (
        ["soak", "--requests", "60", "--clients", "8", "--growth-mib", "300"],
        ["disconnect", "--clients", "20"],
    ):
        result = CliRunner().invoke(script.app, words)
        assert result.exit_code == 0, result.output
        assert "'mtad:num_requests_running': 0.0" in result.output


@pytest.mark.slow
def test_a_refused_request_is_an_error(script):
    with script.mtad_server("--max-new-tokens", "4") as (url, _):
        work = script.bodies(2, 64, script._model(url), {})
        with pytest.raises(RuntimeError, match=r"400: .*max_tokens is 64"):
            asyncio.run(script.level(url, work, 1))
