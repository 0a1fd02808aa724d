"""Finds the isolation that works here by running a program that tries to get out."""

from __future__ import annotations

import functools
import os
import socket
import tempfile
from pathlib import Path

from mtad.errors import IsolationError
from mtad.tasks.sandbox.isolation import Isolation
from mtad.tasks.sandbox.limits import Limits
from mtad.tasks.sandbox.run import run_python

_LIMITS = Limits(time_s=20.0)
# that `socket` can be imported shows that the program may read the standard library
_ESCAPES = """
import os, socket
escapes = {{
    "reads files of others": lambda: open({secret!r}).read(),
    "writes outside of its folder": lambda: open({target!r}, "w").write("x"),
    "reaches the network": lambda: socket.create_connection(("127.0.0.1", {port}), timeout=1),
    "sees processes": lambda: os.stat("/proc/self"),
}}
leaks = []
for leak, attempt in escapes.items():
    try:
        attempt()
        leaks.append(leak)
    except OSError:
        pass
open("own", "w").write("x")
print(";".join(leaks) or "isolated")
"""
_ADVICE = (
    "install bubblewrap (for root: util-linux), let ordinary users make user namespaces, or run "
    "the container with --security-opt seccomp=unconfined --cap-add SYS_ADMIN; to do with limits "
    "of time, memory and processes alone, where a program can read your files and reach the "
    "network, pass allow_weak_isolation"
)


def candidates() -> list[Isolation]:
    """The ways to isolate, the strongest first.

    Root is not offered bubblewrap, which would leave it root, for whom the limit of processes does
    not hold.
    """
    is_root = os.name == "posix" and os.geteuid() == 0
    strong = [Isolation("Linux namespaces", "unshare", True, is_root)]
    weak = [Isolation("resource limits only (weak)", "limits", False, False)]
    if is_root:
        named = "resource limits and another user (weak)"
        return [*strong, Isolation(named, "limits", False, True), *weak]
    return [Isolation("bubblewrap", "bubblewrap", True, False), *strong, *weak]


def find_isolation(allow_weak: bool = False) -> Isolation:
    """The strongest isolation that was seen to work here.

    Args:
        allow_weak: take limits of resources alone if there is nothing better.

    Raises:
        IsolationError: there is none; says what was tried and what to do.
    """
    problems = []
    for isolation in candidates():
        if not (isolation.is_strong or allow_weak):
            continue
        problem = probe(isolation)
        if not problem:
            return isolation
        problems.append(f"{isolation.name}: {problem}")
    raise IsolationError(f"nothing here isolates a program ({'; '.join(problems)}); {_ADVICE}")


@functools.cache
def probe(isolation: Isolation) -> str:
    """What a program got at, or why none could be run; an empty text if the isolation works."""
    if os.name != "posix":
        return "needs Linux or another Unix"
    server = socket.create_server(("127.0.0.1", 0))
    with server, tempfile.TemporaryDirectory(prefix="mtad-probe-") as folder:
        secret, target = Path(folder) / "secret", Path(folder) / "written"
        secret.write_text("secret", encoding="utf-8")
        port = server.getsockname()[1]
        source = _ESCAPES.format(secret=str(secret), target=str(target), port=port)
        try:
            outcome = run_python(source, _LIMITS, isolation)
        except IsolationError as error:
            return str(error).removeprefix(f"{isolation.name}: ")
    if outcome.status != "finished":
        return f"{outcome.status}: {outcome.reason} {outcome.stderr[-300:]}".strip()
    found = outcome.stdout.strip()
    return found if isolation.is_strong and found != "isolated" else ""
