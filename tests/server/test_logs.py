"""The log: one line per request, errors without what was asked."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.site import KEYS, SECRET, Site, error, listening, log_to, site

import mtad
from mtad.engine.session import Block
from mtad.engine.session import Request as Text
from mtad.errors import DataError
from mtad.server.ops.logs import REQUESTS, LineFormatter, RequestLog, configure, reopen_log
from mtad.server.scheduler.sequence import Sequence


@pytest.fixture
def plain() -> Site:
    return site()


@pytest.fixture
def locked() -> Site:
    return site(KEYS)


def test_a_line_per_request(locked: Site) -> None:
    headers = {"Authorization": "Bearer right-key-1", "X-Request-Id": "mine"}
    locked.ask("POST", "/v1/echo", headers=headers, content=SECRET)
    locked.ask("GET", f"/{SECRET}?{SECRET}", headers={"Authorization": "Bearer right-key-1"})
    locked.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {SECRET}"})
    first, second, third = map(json.loads, locked.lines)
    assert first["request_id"] == "mine" and first["client"] == "ann"
    assert (first["http"], first["route"], first["status"]) == ("POST", "/v1/echo", 200)
    assert first["total_s"] >= 0 and first["time"].endswith("+00:00")
    assert (second["route"], second["status"]) == ("unknown", 404)
    assert (third["status"], third["client"]) == (401, None)
    text = "".join(locked.lines)
    assert SECRET not in text and "right-key-1" not in text


@pytest.fixture
def configured() -> Iterator[None]:
    """The server's logging, to be configured; as it was afterwards."""
    names = ("mtad", "mtad.requests", "uvicorn", "asyncio", "concurrent")
    loggers = [logging.getLogger(name) for name in names]
    kept = [(one.handlers, one.propagate, one.level) for one in loggers]
    yield
    for handler in loggers[0].handlers:
        handler.close()
    for logger, (handlers, propagate, level) in zip(loggers, kept, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.usefixtures("configured")
def test_errors_are_logged_without_what_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    with listening(site()) as place:
        answer = place.ask("POST", "/v1/fail", content=SECRET)
    assert error(answer, 500)["code"] == "internal_error"
    written = capsys.readouterr().err
    assert SECRET not in answer.text and SECRET not in written
    [record] = [json.loads(line) for line in written.splitlines()]
    assert (record["error"], record["level"]) == ("RuntimeError", "error")
    assert any("fail" in place for place in record["at"])


@pytest.mark.usefixtures("configured")
def test_the_servers_own_log_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text")
    REQUESTS.info("request", extra={"fields": {"status": 200}})
    logging.getLogger("uvicorn.error").info("not a warning")
    logging.getLogger("mtad.server").warning("careful")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(" status=200") and first.startswith('time="20')
    assert 'level="warning"' in second and 'message="careful"' in second


@pytest.mark.usefixtures("configured")
def test_a_log_file_that_was_moved_away_is_opened_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, moved = tmp_path / "requests.log", tmp_path / "requests.log.1"
    path.write_text("before\n")
    configure("json", file=path)
    REQUESTS.info("request", extra={"fields": {"status": 200}})
    reopen_log()
    REQUESTS.info("request", extra={"fields": {"status": 201}})
    path.rename(moved)
    REQUESTS.info("request", extra={"fields": {"status": 202}})
    path.unlink()
    reopen_log()
    assert path.read_text() == "", "it is there at once"
    logging.getLogger("mtad.server").warning("careful")
    before, *lines = moved.read_text().splitlines()
    assert before == "before" and [json.loads(line)["status"] for line in lines] == [200, 201]
    assert json.loads(path.read_text())["message"] == "careful"
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("configured")
def test_a_log_that_cannot_be_opened_again_fails_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "requests.log"
    configure("json", file=path)
    folder.rename(tmp_path / "away")
    for status in (200, 201):
        reopen_log()
        REQUESTS.info("request", extra={"fields": {"status": status}})
    folder.mkdir()
    REQUESTS.info("request", extra={"fields": {"status": 202}})
    assert json.loads(path.read_text())["status"] == 202


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "requests.log"):
        with pytest.raises(DataError, match=r"cannot be written to .* give another --log-file"):
            configure("json", file=path)


def test_what_an_unfetched_error_says_is_not_logged() -> None:
    record = logging.LogRecord(
        "asyncio", logging.ERROR, "", 0, f"never fetched\nfuture: {SECRET}", None, None
    )
    without, whole = LineFormatter("json").format(record), LineFormatter("json", True)
    assert json.loads(without)["message"] == "never fetched"
    assert SECRET not in without and SECRET in whole.format(record)


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_line_can_steer_a_terminal(form: Any) -> None:
    lines: list[str] = []
    name = "ä 猫\x9b31m\u202e\u2028\x1b[0m\ud800\U000e0001"
    log_to(lines, form).info("request", extra={"fields": {"user": name}})
    assert lines[0].isprintable() and "ä 猫" in lines[0]
    if form == "json":
        assert json.loads(lines[0])["user"] == name


def test_a_verb_of_no_known_kind_is_not_repeated(plain: Site) -> None:
    assert plain.ask(SECRET.upper(), "/version").status_code == 405
    assert json.loads(plain.lines[0])["http"] == "unknown"


def texts(clock: float) -> list[Sequence]:
    """The texts of a request with two choices, as a scheduler leaves them."""
    found = [Sequence(Text([7, 8, 9]), method=mtad.MTAD(), arrived_at=clock) for _ in range(2)]
    for text in found:
        text.admitted_at = clock + 0.5
        text.advance(Block(0, (1, 2, 3), 2, 4, 4, None), 0.1, clock + 0.75)
    found[0].advance(Block(0, (4,), 1, 4, 4, "stop"), 0.1, clock + 1)
    found[0].outcome, found[1].outcome = "stop", "cancelled"
    return found


def logged(with_text: bool = False, form: Any = "json", admitted: bool = True) -> list[str]:
    """The log of one request whose texts a scheduler had."""
    lines: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found = texts(time.monotonic())
        for text in found:
            text.admitted_at = text.admitted_at if admitted else None
        scope["state"]["sequences"] = found
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        pass

    text_of = (lambda ids: f"text of {list(ids)}") if with_text else None
    log = RequestLog(app, None, text_of, log_to(lines, form))
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [], "query_string": b""}
    asyncio.run(log(scope, send, send))
    assert not log.open_ids, "it is forgotten"
    return lines


def test_the_line_has_what_came_of_the_texts() -> None:
    [line] = logged()
    record = json.loads(line)
    wanted = {
        "method": "mtad",
        "prompt_tokens": 3,
        "output_tokens": 7,
        "queue_s": 0.5,
        "ttft_s": 0.75,
        "finish_reasons": ["stop", "cancelled"],
        "mean_acceptance_length": round(1 + 5 / 3, 3),
    }
    assert {name: record[name] for name in wanted} == wanted
    assert "prompts" not in record and "outputs" not in record


def test_prompts_and_outputs_are_logged_if_asked_for() -> None:
    [line] = logged(with_text=True)
    record = json.loads(line)
    assert record["prompts"] == ["text of [7, 8, 9]"] * 2
    assert record["outputs"] == ["text of [1, 2, 3, 4]", "text of [1, 2, 3]"]


def test_lines_for_people() -> None:
    [line] = logged(form="text")
    assert 'http="POST"' in line and "status=200" in line and "output_tokens=7" in line


def test_texts_that_were_not_admitted_are_not_logged() -> None:
    [line] = logged(admitted=False)
    assert "method" not in json.loads(line)


def test_two_requests_of_one_id_at_a_time_are_told_apart(plain: Site) -> None:
    same = {"X-Request-Id": "twin"}

    async def asked() -> list[str]:
        async with plain.client() as client:
            first = asyncio.create_task(client.post("/v1/wait", headers=same))
            await asyncio.sleep(0)  # it is in progress
            second = await client.get("/version", headers=same)
            plain.gate.is_open = True
            return [answer.headers["x-request-id"] for answer in (await first, second)]

    first, second = asyncio.run(asked())
    assert first == "twin"
    assert second.startswith("req-")
