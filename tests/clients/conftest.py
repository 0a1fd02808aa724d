"""One server for all clients, what each call of a client gave, and the record of what passed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.clients import calls_of, packages_of
from support.program import Program, program

RECORD = "MTAD_CLIENTS_RECORD"
"""The environment variable with the file in which a run keeps what passed."""
FOUND = pytest.StashKey[dict[str, dict[str, str]]]()
PASSED = "passed"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The embedded pair in float32: bfloat16 rounds differently in every shape of a batch."""
    log = tmp_path_factory.mktemp("log") / "log.jsonl"  # a pipe that is not read would fill up
    names = ("--served-model-name", "demo", "--served-model-name", "gpt-4o-mini")
    with program("--dtype", "float32", "--log-file", str(log), *names) as one:
        yield one


@pytest.fixture(scope="session")
def calls(server: Program, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each call of a client gave; its program runs once."""
    address = str(server.client.base_url).rstrip("/")
    return cache(lambda client: calls_of(client, address, tmp_path_factory.mktemp(client)))


@pytest.fixture
def got(calls: Any, request: pytest.FixtureRequest) -> Any:
    """What the call gave that the test's mark names; a call that failed fails the test."""
    [words] = request.node.get_closest_marker("call").args
    found = calls(client_of(request.node))[words]
    if "error" in found:
        pytest.fail(found["error"], pytrace=False)
    return found["got"]


def client_of(item: pytest.Item) -> str:
    return item.path.stem.removeprefix("test_")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Keep how a call went; one of several tests that fails is enough to fail it."""
    report = yield
    mark = item.get_closest_marker("call")
    if mark and (report.when == "call" or report.failed):
        found = item.config.stash.setdefault(FOUND, {}).setdefault(client_of(item), {})
        if found.get(mark.args[0], PASSED) == PASSED:
            found[mark.args[0]] = PASSED if report.passed else reason(report)
    return report


def reason(report: pytest.TestReport) -> str:
    """Why a test failed or was expected to, in a line."""
    if hasattr(report, "wasxfail"):
        return report.wasxfail.removeprefix("reason: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return " ".join((crash.message if crash else str(report.longrepr)).split())[:400]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what passed where a file is asked for; clients that did not run stay as they were."""
    if RECORD not in os.environ:
        return
    file = Path(os.environ[RECORD])
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for client, found in session.config.stash.get(FOUND, {}).items():
        kept[client] = {"packages": packages_of(client), "calls": found}
    text = json.dumps(dict(sorted(kept.items())), indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
