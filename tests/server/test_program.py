"""`mtad serve` as a program: signals, addresses, refusals, and the files of deploy/."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from support.command import refused
from support.program import Program, program
from support.serving import demo, serving, wait_for
from support.site import SECRET, error, log_to

from mtad.measure.meter import Meter
from mtad.server import run
from mtad.server.http.keys import Keys
from mtad.server.ops.logs import RequestLog
from mtad.server.settings import ServerSettings


def test_the_program_runs_the_loop_that_these_tests_run() -> None:
    assert run.config_of(FastAPI(), ServerSettings()).loop == "asyncio"


SBIN = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
SMALL = ("-o", "num_draft_tokens=1", "-o", "beam_width=1")
"""A draft that is recorded in a moment."""
LONG = {"max_tokens": 200, "ignore_eos": True, "seed": 1}


def num_cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system has no wait4")
def test_a_hangup_opens_files_anew_and_a_signal_ends_an_idle_server_at_once(tmp_path: Path) -> None:
    log, trace = tmp_path / "requests.log", tmp_path / "trace.jsonl"
    with program(*SMALL, "--log-file", str(log), "--trace", str(trace)) as server:
        assert server.ask(prompt="SELECT", max_tokens=2).status_code == 200
        with server.stream(max_tokens=40, ignore_eos=True, seed=1) as events:
            for path in (log, trace):
                path.rename(path.with_suffix(".old"))
            for _ in range(3):
                server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: log.exists() and trace.exists())
            assert list(events)[-1] == {"done": True}
        assert server.ask(prompt="SELECT", max_tokens=2).status_code == 200
        wait_for(lambda: len(log.read_text().splitlines()) == 2)
        [before] = map(json.loads, log.with_suffix(".old").read_text().splitlines())
        assert (before["status"], before["output_tokens"]) == (200, 2)
        types = [
            [json.loads(line).get("type", "header") for line in path.read_text().splitlines()]
            for path in (trace.with_suffix(".old"), trace)
        ]
        assert [kinds.count("request") for kinds in types] == [2, 1]
        assert [kinds.count("end") for kinds in types] == [2, 1], "each text is whole"
        used = num_cpu_seconds(server.process.pid) if Path("/proc/self/stat").exists() else math.inf
        server.process.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(server.process.pid, 0)
        server.process.returncode = os.waitstatus_to_exitcode(status)
        assert server.process.returncode == 0
        assert usage.ru_utime + usage.ru_stime - used < 0.7, "an idle server ends at once"
        assert server.end() == "shutting down; a second signal stops at once\n"


def unzipped(path: str) -> str:
    return gzip.decompress(Path(path).read_bytes()).decode()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("logrotate", path=SBIN) is None, reason="no logrotate here")
def test_logrotate_moves_log_and_trace_of_a_running_server(tmp_path: Path) -> None:
    log, trace = tmp_path / "requests.log", tmp_path / "trace.jsonl"
    text = (Path(__file__).parents[2] / "deploy" / "logrotate.conf").read_text()
    with program(*SMALL, "--log-file", str(log), "--trace", str(trace)) as server:
        reload = f"kill -HUP {server.process.pid}"
        for there, here in (("systemctl reload mtad", reload), ("/var/lib/mtad", str(tmp_path))):
            assert there in text
            text = text.replace(there, here)
        config = tmp_path / "logrotate.conf"
        config.write_text(text)
        config.chmod(0o644)
        rotate = [shutil.which("logrotate", path=SBIN), "-f", "-s", str(tmp_path / "state"), config]
        for number in range(3):
            assert server.ask(prompt="SELECT", max_tokens=2).status_code == 200
            with server.stream(max_tokens=40, ignore_eos=True, seed=1) as events:
                if number < 2:
                    done = subprocess.run(rotate, capture_output=True, text=True, check=False)
                    assert (done.returncode, done.stderr) == (0, "")
                assert list(events)[-1] == {"done": True}
        wait_for(lambda: len(log.read_text().splitlines()) == 3)
        server.process.send_signal(signal.SIGTERM)
        server.end()
    logs = [unzipped(f"{log}.2.gz"), Path(f"{log}.1").read_text(), log.read_text()]
    assert [len(one.splitlines()) for one in logs] == [1, 2, 3], "the first lines are of requests"
    traces = [unzipped(f"{trace}.2.gz"), Path(f"{trace}.1").read_text()]
    for one in [*traces, trace.read_text()]:
        types = [json.loads(line).get("type", "header") for line in one.splitlines()]
        assert types.count("header") == 1
        assert types.count("request") == types.count("end") == 2, "each text is whole"


def test_eager_iterations_of_the_served_pair_are_metrics() -> None:
    pair = demo()
    served = run.assemble(pair, ServerSettings(), Meter(None, "not metered here"), Keys())
    assert served.metrics.eager_iterations is not None
    assert served.metrics.eager_iterations() is pair.workspace.programs.eager_iterations
    served.close()


@pytest.mark.slow
def test_a_signal_lets_running_requests_end_and_takes_no_others() -> None:
    with program("--max-header-bytes", "4000", *SMALL, MTAD_API_KEYS="ann:right-key-1") as server:
        assert server.client.get("/health/ready").status_code == 200
        assert server.ask(prompt=SECRET).status_code == 401
        server.client.headers["Authorization"] = "Bearer right-key-1"
        answer = server.ask(prompt=SECRET, max_tokens=4, ignore_eos=True, user="me")
        assert answer.status_code == 200 and "server" not in answer.headers
        assert server.ask(prompt=SECRET, temperature=SECRET).status_code == 400
        long_head = {"X": "x" * 5000}
        assert server.client.get("/health", headers=long_head).status_code == 431
        with server.stream(**LONG) as events:
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: server.client.get("/health/ready").status_code == 503)
            late = server.ask(prompt="x")
            assert error(late, 503)["type"] == "server_error"
            told = list(events)
        assert told[-1] == {"done": True}
        assert told[-2]["choices"][0]["finish_reason"] == "length"
        errors = server.end()
    assert SECRET not in errors and "right-key" not in errors
    lines = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    [first] = [line for line in lines if line.get("output_tokens") == 4]
    assert (first["client"], first["user"], first["status"]) == ("ann", "me", 200)
    assert (first["finish_reasons"], first["method"]) == (["length"], "mtad")
    asked = [line for line in lines if line["http"] == "POST"]
    assert [line["status"] for line in asked] == [401, 200, 400, 503, 200]
    assert [line["route"] for line in asked] == ["unknown"] + ["/v1/completions"] * 4


@contextlib.contextmanager
def signalled(
    **settings: Any,
) -> Iterator[tuple[run._Server, run.Served, Iterator[dict[str, Any]]]]:
    """A server in this process for signals, and the events of a text that it has begun."""
    chosen = ServerSettings(dtype="float32", **settings)
    served = run.assemble(demo(), chosen, Meter(None, "not metered here"), Keys())
    served.start()
    body = {"model": "demo", "prompt": "SELECT", "stream": True, **LONG}
    with (
        socket.socket() as sock,
        serving(served.app, served.scheduler, chosen) as listening,
        listening.client() as client,
        client.stream("POST", "/v1/completions", json=body) as answer,
    ):
        events = Program._events(answer)
        next(events)
        yield run._Server(run.config_of(served.app, chosen), served, chosen, sock), served, events
    served.close()


@pytest.mark.slow
def test_the_time_to_end_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    make = partial(RequestLog, log=log_to(lines, "text"))
    monkeypatch.setattr(run, "RequestLog", make)
    with signalled(shutdown_s=0.05) as (server, _, events):
        server.handle_exit(signal.SIGINT, None)
        *_, last = events
        assert last["error"]["type"] == "server_error"
        wait_for(lambda: server.should_exit)
    assert 'finish_reasons=["closing"]' in lines[0]


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[Any] = []
    timer = SimpleNamespace(start=lambda: ends.append("started"))
    with signalled(shutdown_s=600.0) as (server, served, events):
        server.handle_exit(signal.SIGINT, None)
        wait_for(lambda: not served.scheduler.load.is_ready)
        assert not server.should_exit and not ends
        monkeypatch.setattr(run.threading, "Timer", lambda *given: ends.append(given) or timer)
        server.handle_exit(signal.SIGINT, None)
        monkeypatch.undo()
        *_, last = events
        assert last["error"]["type"] == "server_error"
        wait_for(lambda: server.should_exit)
    assert ends == [(run.LAST_S, os._exit, (0,)), "started"], "even within an iteration"


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = refused("serve", "--port", port, code=1)
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in message
    assert "choose another --port" in message
    assert "Warning" not in message


def test_a_host_that_is_none() -> None:
    assert "cannot listen on 192.0.2.1, port 0" in refused(
        "serve", "--host", "192.0.2.1", "--port", "0", code=1
    )


def test_a_server_for_all_without_keys_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("right-key-1\n")
    keys.chmod(0o644)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        words = ("serve", "--host", "0.0.0.0", "--port", str(taken.getsockname()[1]))
        assert "Warning: everyone who can reach 0.0.0.0 may use this server" in refused(
            *words, code=1
        )
        message = refused(*words, "--api-key-file", str(keys), code=1)
        assert "everyone" not in message
        assert f"Warning: the key file {keys} can be read by others" in message
        monkeypatch.setenv("MTAD_API_KEYS", "right-key-2")
        assert "everyone" not in refused(*words, code=1)


@pytest.mark.slow
def test_a_default_method_that_cannot_be_served() -> None:
    words = ("serve", "--port", "0", "--method", "mtad")
    message = refused(*words, "--target-model", "nowhere")
    assert "mtad needs a draft model; give --draft-model" in message
    message = refused(*words, "-o", "num_draft_tokens=9", "-o", "beam_width=9", "--max-nodes", "20")
    assert "mtad, the default method, has a tree of 82 nodes; max_nodes is 20" in message


@pytest.mark.parametrize("name", ["mtad.service"])
def test_the_unit_is_one(name: str, tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    text = (Path(__file__).parents[2] / "deploy" / name).read_text()
    unit = tmp_path / name
    unit.write_text(text.replace("/opt/mtad/bin/mtad", "/bin/true"))
    done = subprocess.run([tool, "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if name in line]
    assert not complaints, done.stderr


def test_the_proxys_configuration_is_valid(tmp_path: Path) -> None:
    tool = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if tool is None:
        pytest.skip("nginx is not installed")
    text = (Path(__file__).parents[2] / "deploy" / "nginx.conf").read_text()
    # a certificate is what the operator has
    lines = [line for line in text.splitlines() if "ssl_certificate" not in line]
    site = "\n".join(lines).replace(" ssl;", ";")
    main = tmp_path / "nginx.conf"
    main.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{site}\n}}\n")
    words = [tool, "-t", "-q", "-e", str(tmp_path / "log"), "-c", str(main)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
