"""Starting an isolated program, reading what it writes, and ending it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import tempfile
import time
from typing import Literal

from mtad.errors import IsolationError
from mtad.tasks.sandbox.isolation import Isolation, environment
from mtad.tasks.sandbox.limits import Limits, Outcome, Status

_TAIL = 4096
_EARLY = "left before its end"
# for a busy machine to start an interpreter, and to end what a program left behind
_PATIENCE_S = 20.0


def run_python(source: str, limits: Limits, isolation: Isolation) -> Outcome:
    """The outcome of the program; nothing of it is left when this returns.

    It knows the standard library alone. Safe to call from several threads.

    Raises:
        IsolationError: the isolation could not be set up.
    """
    with tempfile.TemporaryDirectory(prefix="mtad-", ignore_cleanup_errors=True) as folder:
        run = _Run(isolation, limits, folder)
        try:
            run.send(source)
            run.watch()
        finally:
            run.end()
    return run.outcome()


class _Run:
    """A started program and what it has written so far.

    Standard output and error are open until all processes of the program have ended, as the
    process around them holds both.
    """

    def __init__(self, isolation: Isolation, limits: Limits, folder: str) -> None:
        self.isolation, self.limits, self.folder = isolation, limits, folder
        self.token = secrets.token_hex(16)
        self.tails = {"stdout": b"", "stderr": b"", "status": b""}
        self.num_bytes = dict.fromkeys(self.tails, 0)
        self.why: Literal["", "time", "output"] = ""  # what it was killed for
        self.has_started = False
        self.deadline = time.monotonic() + _PATIENCE_S
        self.status_read, self.status_write = os.pipe()
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                isolation.command(limits),
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                pass_fds=(self.status_write,),
                env=environment(folder) | {"PATH": os.environ.get("PATH", os.defpath)},
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            os.close(self.status_read)
            raise IsolationError(f"{isolation.name} cannot be started: {error}") from error
        finally:
            os.close(self.status_write)

    def send(self, source: str) -> None:
        """Hand the job over; the end of standard input ends the program."""
        assert self.process.stdin is not None
        job = self.isolation.job(source, self.limits, self.folder)
        job |= {"token": self.token, "status_fd": self.status_write}
        # where the isolation does not start, its standard error says why
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()

    def watch(self) -> None:
        """Read all that is written until the program and what it started have ended."""
        assert self.process.stdout is not None and self.process.stderr is not None
        pipes = (self.process.stdout.fileno(), self.process.stderr.fileno(), self.status_read)
        with selectors.DefaultSelector() as selector:
            for fd, name in zip(pipes, self.tails, strict=True):
                selector.register(fd, selectors.EVENT_READ, name)
            while selector.get_map():
                left = self.deadline - time.monotonic()
                if left <= 0 and not self._expire():
                    return
                for key, _ in selector.select(max(left, 0.0)):
                    data = os.read(key.fd, 1 << 16)
                    self._take(key.data, data)
                    if not data:
                        selector.unregister(key.fd)

    def _take(self, name: str, data: bytes) -> None:
        """Keep the end of what was written; begin to count time, or end the program."""
        self.num_bytes[name] += len(data)
        self.tails[name] = (self.tails[name] + data)[-_TAIL:]
        reports = self._reports()
        if "exit" in reports:
            self.deadline = time.monotonic() + _PATIENCE_S
        elif "started" in reports and not self.has_started:
            self.deadline = time.monotonic() + self.limits.time_s
        self.has_started |= "started" in reports
        num_output = self.num_bytes["stdout"] + self.num_bytes["stderr"]
        is_flood = num_output > self.limits.output_bytes or self.num_bytes["status"] > _TAIL
        if is_flood and not self.why:
            self._stop("output")

    def _expire(self) -> bool:
        """End the program if its time is over; False if it should have ended before."""
        is_time_over = self.has_started and not self.why and "exit" not in self._reports()
        if is_time_over:
            self._stop("time")
        return is_time_over

    def _stop(self, why: Literal["time", "output"]) -> None:
        """Have the program killed."""
        assert self.process.stdin is not None
        self.why, self.deadline = why, time.monotonic() + _PATIENCE_S
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def _reports(self) -> dict[str, str]:
        """What followed each word behind our token."""
        lines = self.tails["status"].decode(errors="replace").split("\n")[:-1]
        words = [line.split(" ", 2) for line in lines if line.startswith(f"{self.token} ")]
        return {word: " ".join(rest) for _, word, *rest in words}

    def end(self) -> None:
        """Kill what is left and give everything back."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError), self.process:
            pass  # closes the pipes and waits
        os.close(self.status_read)

    def outcome(self) -> Outcome:
        """The outcome of the program.

        Raises:
            IsolationError: it never started.
        """
        texts = {name: tail.decode(errors="replace") for name, tail in self.tails.items()}
        if not self.has_started:
            problem = texts["stderr"].strip() or f"it did not start within {_PATIENCE_S:g} s"
            raise IsolationError(f"{self.isolation.name}: {problem}")
        reports = self._reports()
        code = int(reports["exit"]) if "exit" in reports and self.why != "time" else None
        status, reason = self._judge(code, reports.get("ended", ""))
        return Outcome(status, reason, code, texts["stdout"], texts["stderr"], self.isolation.name)

    def _judge(self, code: int | None, ended: str) -> tuple[Status, str]:
        """The status and its reason, from the exit code and what the program's runner reported."""
        if self.why == "output":
            return "killed", f"wrote more than {self.limits.output_bytes} bytes"
        if self.why == "time" or code == -signal.SIGXCPU:
            return "timed out", f"{self.limits.time_s:g} s"
        if code is None:
            return "killed", "ended with its surroundings"
        if code < 0:
            return "killed", _signal_name(-code)
        return ("finished", "") if ended == "finished" else ("failed", ended or _EARLY)


def _signal_name(number: int) -> str:
    """A signal's name, for one without a name its number."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
