"""Starting an isolated program, reading what it writes, and ending it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any

from mtad.errors import IsolationError
from mtad.tasks.sandbox.isolation import Isolation, environment
from mtad.tasks.sandbox.limits import Limits, Outcome, Status

_TAIL = 4096
# for a busy machine to start an interpreter, and for the clock inside to strike first
_PATIENCE_S = 20.0


def run_python(source: str, limits: Limits, isolation: Isolation) -> Outcome:
    """What became of the program; nothing of it is left when this returns.

    It knows the standard library alone. Safe to call from several threads.

    Raises:
        IsolationError: the isolation could not be set up.
    """
    with tempfile.TemporaryDirectory(prefix="mtad-", ignore_cleanup_errors=True) as folder:
        watched = _Watched(isolation, limits, folder)
        try:
            watched.send(source)
            status = watched.watch(time.monotonic() + limits.time_s + _PATIENCE_S)
        finally:
            watched.end()
    return _outcome(status, watched, isolation)


class _Watched:
    """A started program and what it has written so far."""

    def __init__(self, isolation: Isolation, limits: Limits, folder: str) -> None:
        self.isolation, self.limits, self.folder = isolation, limits, folder
        self.status, self.num_bytes = b"", 0
        self.is_flooding, self.is_over = False, False
        self.tails = {"stdout": b"", "stderr": b""}
        self.status_read, self.status_write = os.pipe()
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                isolation.command(shutil.which("bwrap"), limits),
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                pass_fds=(self.status_write,),
                env=environment(folder),
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            os.close(self.status_read)
            raise IsolationError(f"{isolation.name} cannot be started: {error}") from error
        finally:
            os.close(self.status_write)

    def send(self, source: str) -> None:
        """Hand the job over; the program finds nothing more to read."""
        assert self.process.stdin is not None
        job = self.isolation.job(source, self.limits, self.folder, self.status_write)
        # where the isolation does not start, its words on standard error say why
        with contextlib.suppress(BrokenPipeError), self.process.stdin as stdin:
            stdin.write(json.dumps(job).encode())

    def watch(self, until: float) -> dict[str, Any] | None:
        """The line on the program's end, None if there is none to come."""
        with selectors.DefaultSelector() as selector:
            streams = [self.process.stdout, self.process.stderr]
            for stream, name in zip(streams, self.tails, strict=True):
                assert stream is not None
                os.set_blocking(stream.fileno(), False)
                selector.register(stream.fileno(), selectors.EVENT_READ, name)
            selector.register(self.status_read, selectors.EVENT_READ, "status")
            while time.monotonic() < until and not self.is_flooding:
                # what the program wrote before its end is read before the end is
                ready = selector.select(until - time.monotonic())
                for key, _ in sorted(ready, key=lambda found: str(found[0].data), reverse=True):
                    if not self._take(key.fd, key.data):
                        selector.unregister(key.fd)
                self.is_over = self.status_read not in selector.get_map()
                if self.is_over or self.status.endswith(b"\n"):
                    break
        return json.loads(self.status) if self.status.endswith(b"\n") else None

    def _take(self, fd: int, name: str) -> bool:
        """Read what is there; whether there may be more."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(fd, 1 << 16)
            if name == "status":
                self.status += data
            else:
                self.num_bytes += len(data)
                self.tails[name] = (self.tails[name] + data)[-_TAIL:]
                self.is_flooding = self.num_bytes > self.limits.output_bytes
            return bool(data)
        return True

    def end(self) -> None:
        """Kill what is left, read the rest of the output and give everything back."""
        if not (self.is_over or self.status.endswith(b"\n")):
            self.process.terminate()
        # asked to, it ends when all that the program left behind has ended
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_PATIENCE_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream, name in zip(
            (self.process.stdout, self.process.stderr), self.tails, strict=True
        ):
            assert stream is not None
            while not self.is_flooding and self._more(stream.fileno(), name):
                pass
            stream.close()
        os.close(self.status_read)

    def _more(self, fd: int, name: str) -> bool:
        """Whether something was there to be read."""
        before = self.num_bytes
        os.set_blocking(fd, False)
        self._take(fd, name)
        return self.num_bytes > before

    def text(self, name: str) -> str:
        """The end of what the program wrote to a stream."""
        return self.tails[name].decode("utf-8", errors="replace")


def _outcome(status: dict[str, Any] | None, watched: _Watched, isolation: Isolation) -> Outcome:
    """The outcome for the line that `boot.py` wrote."""
    if status and "problem" in status:
        raise IsolationError(f"{isolation.name}: {status['problem']}")
    if status is None and not watched.is_flooding and watched.num_bytes and _never_began(watched):
        raise IsolationError(f"{isolation.name}: {watched.text('stderr').strip()}")
    ending, reason = _judge(status, watched)
    code = status["exit_code"] if status else None
    return Outcome(
        ending, reason, code, watched.text("stdout"), watched.text("stderr"), isolation.name
    )


def _never_began(watched: _Watched) -> bool:
    """Whether the command ended by itself with an error before there was a program."""
    return watched.process.returncode > 0


def _judge(status: dict[str, Any] | None, watched: _Watched) -> tuple[Status, str]:
    """The status and the reason of an outcome."""
    if watched.is_flooding:
        return "killed", f"wrote more than {watched.limits.output_bytes} bytes"
    if status is None:
        return "killed", "ended with its surroundings"
    code = status["exit_code"]
    if status["is_timed_out"] or code == -signal.SIGXCPU:
        return "timed out", f"{watched.limits.time_s:g} s"
    if code < 0:
        return "killed", _signal_name(-code)
    if status["report"] == "finished":
        return "finished", ""
    return "failed", status["report"] or "left before its end"


def _signal_name(number: int) -> str:
    """A signal's name, for one without a name its number."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
