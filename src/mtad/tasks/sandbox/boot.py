"""The process around a program: it mounts the program's files, sets its limits and ends with it.

Inside namespaces this is process 1, so that its end is the end of all that the program started.
Standard input has a job, one line of JSON; at the end of standard input the program is killed.
Reports `exit CODE` to the job's `status_fd` when the program has ended.

Runs as a script of its own interpreter, so it knows the standard library only.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import Any

# from linux/prctl.h and linux/seccomp.h
DUMPABLE, SECCOMP, SUBREAPER, NO_NEW_PRIVS = 4, 22, 36, 38
FILTER = 2

Job = dict[str, Any]


def prctl(option: int, *values: int | bytes) -> None:
    """Change an attribute of this process; nothing where the system is not Linux.

    Raises:
        OSError: the kernel refused.
    """
    if sys.platform == "linux":
        given = [ctypes.c_ulong(v) if isinstance(v, int) else v for v in (*values, 0, 0, 0, 0)]
        if ctypes.CDLL(None, use_errno=True).prctl(option, *given[:4]):
            number = ctypes.get_errno()
            raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def main() -> None:
    """Run the job that standard input describes."""
    job = json.loads(sys.stdin.buffer.readline())
    # the program may have this process' user and must not look into it
    prctl(DUMPABLE, 0)
    if job["is_weak"]:
        prctl(SUBREAPER, 1)
    if job["mounts"]:
        subprocess.run(["mount", "--all", "--fstab", job["mounts"]], check=True)
    program = start(job)
    threading.Thread(target=kill_at_end_of_input, args=(program,), daemon=True).start()
    os.write(job["status_fd"], f"\n{job['token']} exit {program.wait()}\n".encode())
    if job["is_weak"]:
        kill_rest()
    os._exit(0)


def start(job: Job) -> subprocess.Popen[bytes]:
    """Start the program's interpreter and hand it the source."""
    program = subprocess.Popen(
        job["command"],
        stdin=subprocess.PIPE,
        env=job["env"],
        pass_fds=(job["status_fd"],),
        start_new_session=not job["is_weak"],
        preexec_fn=lambda: restrict(job),
    )
    assert program.stdin is not None
    header = f"{job['token']} {job['status_fd']}\n"
    with contextlib.suppress(BrokenPipeError), program.stdin as stdin:
        stdin.write((header + job["source"]).encode(errors="replace"))
    return program


def restrict(job: Job) -> None:
    """Limit this process and its children, and what the kernel does for them."""
    # some systems know a limit and refuse to set it, or have no filters
    allowed = (ValueError, OSError) if job["is_weak"] else ()
    prctl(NO_NEW_PRIVS, 1)
    for name, value in job["limits"].items():
        with contextlib.suppress(*allowed):
            resource.setrlimit(getattr(resource, name), (value, value))
    if code := bytes.fromhex(job["call_filter"]):
        steps = ctypes.create_string_buffer(code, len(code))
        with contextlib.suppress(*allowed):
            prctl(SECCOMP, FILTER, struct.pack("HP", len(code) // 8, ctypes.addressof(steps)))


def kill_at_end_of_input(program: subprocess.Popen[bytes]) -> None:
    """Wait for the end of standard input, then kill the program."""
    sys.stdin.buffer.read()
    program.kill()


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
