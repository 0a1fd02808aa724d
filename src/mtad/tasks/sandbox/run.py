"""Starting an isolated program, and its outcome."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from typing import Any

from mtad.errors import IsolationError
from mtad.tasks.sandbox.isolation import Isolation, environment
from mtad.tasks.sandbox.limits import Limits, Outcome, Status

# for a busy machine to start an interpreter, and to end what a program left behind
_PATIENCE_S = 40.0
_LAST_S = 5.0
"""How long the output of a supervisor that was killed may take."""


def run_python(source: str, limits: Limits, isolation: Isolation) -> Outcome:
    """The outcome of the program; nothing of it is left when this returns.

    It knows the standard library alone. Safe to call from several threads.

    Raises:
        IsolationError: the isolation could not be set up.
    """
    with tempfile.TemporaryDirectory(prefix="mtad-", ignore_cleanup_errors=True) as folder:
        command, job = isolation.prepare(source, limits, folder)
        process = _start(isolation, command, folder)
        timeout_s = limits.time_s + _PATIENCE_S
        stdout, stderr, is_late = _communicate(process, json.dumps(job).encode(), timeout_s)
    started, _, result = stdout.partition(b"\n")
    if started != b"started":
        problem = stderr.decode(errors="replace").strip()
        problem = problem or f"it did not start within {timeout_s:g} s"
        raise IsolationError(f"{isolation.name}: {problem}")
    return _outcome({"is_late": is_late, **json.loads(result or b"{}")}, limits, isolation)


def _start(isolation: Isolation, command: list[str], folder: str) -> subprocess.Popen[bytes]:
    """The supervisor, about to read its job."""
    pipe = subprocess.PIPE
    environ = environment(folder) | {"PATH": os.environ.get("PATH", os.defpath)}
    try:
        return subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=environ,
            cwd=folder,
            start_new_session=True,
        )
    except OSError as error:
        raise IsolationError(f"{isolation.name} cannot be started: {error}") from error


def _communicate(
    process: subprocess.Popen[bytes], job: bytes, timeout_s: float
) -> tuple[bytes, bytes, bool]:
    """All that the supervisor wrote to standard output and error, and whether it was too late.

    It ends its program in time, unless the machine is too busy or the program stopped it.
    """
    with process:
        try:
            return *process.communicate(job, timeout_s), False
        except subprocess.TimeoutExpired:
            _kill(process)
            return *_rest(process), True
        finally:
            # a supervisor that was killed has left its program behind
            if process.returncode != 0:
                _kill(process)


def _rest(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """What a supervisor that was killed had written; who else holds its pipes is not waited for."""
    try:
        return process.communicate(timeout=_LAST_S)
    except subprocess.TimeoutExpired as late:
        return late.stdout or b"", late.stderr or b""


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _outcome(result: dict[str, Any], limits: Limits, isolation: Isolation) -> Outcome:
    """The outcome from the supervisor's result, which says little if it was killed."""
    code = result.get("exit_code")
    status: Status = "killed"
    if result.get("is_flood"):
        reason = f"wrote more than {limits.output_bytes} bytes"
    elif result["is_late"] or code == -signal.SIGXCPU:
        status, reason = "timed out", f"{limits.time_s:g} s"
    elif code is None:
        reason = "ended with its surroundings"
    elif code < 0:
        reason = _signal_name(-code)
    elif result["verdict"] == "finished":
        status, reason = "finished", ""
    else:
        status, reason = "failed", result["verdict"] or "left before its end"
    texts = result.get("stdout", ""), result.get("stderr", "")
    return Outcome(status, reason, code, *texts, isolation.name)


def _signal_name(number: int) -> str:
    """A signal's name, for one without a name its number."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
