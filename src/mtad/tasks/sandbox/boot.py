"""The process around a program: namespaces, a root of its own, limits and a clock.

Reads a job as JSON from standard input, runs the job's program and writes one line of JSON to the
job's `status_fd`: `exit_code`, `is_timed_out` and `report`, or a `problem` if it did not come to
running the program.

Runs as a script of its own interpreter, so it knows the standard library only.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import random
import resource
import secrets
import signal
import struct
import sys
import time
from typing import Any, NoReturn

NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, NOATIME, NODIRATIME = 1, 2, 4, 8, 32, 1024, 2048
BIND, REC, PRIVATE, RELATIME = 4096, 16384, 1 << 18, 1 << 21
KEPT = NOSUID | NODEV | NOEXEC | NOATIME | NODIRATIME
ST_RELATIME = 4096
DETACH = 2
PDEATHSIG, DUMPABLE, SECCOMP, SUBREAPER, NO_NEW_PRIVS = 1, 4, 22, 36, 38
FILTER = 2
# libc has no function for this call, and its number differs
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
NOBODY = 65534
# ids that systemd hands out for a moment too; a container has them as well
FIRST_UID, LAST_UID = 61184, 65519
# processes of this script that count as the program's where they have its user
NUM_AROUND = {"namespaces": 2, "bubblewrap": 1, "limits": 0}

Job = dict[str, Any]


def call(name: str, *arguments: int | bytes | None) -> None:
    """Call a function of libc.

    Raises:
        OSError: it failed.
    """
    library = ctypes.CDLL(None, use_errno=True)
    values = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    if getattr(library, name)(*values) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount a file system, or change how it is mounted."""
    encoded = source.encode() if source else None
    try:
        call("mount", encoded, target.encode(), kind.encode(), flags, data.encode())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({target})") from error


def write(path: str, text: str) -> None:
    """Write to a file of the kernel."""
    with open(path, "w") as file:
        file.write(text)


def enter_namespaces(job: Job) -> None:
    """Return in the first process of new namespaces, which sees only the job's files.

    Root needs no user namespace and gives the program another user's id later. Anybody else is
    root of a user namespace; the program loses that by its exec, as its id there is not 0.
    """
    user, group = os.geteuid(), os.getegid()
    call("unshare", NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET | (NEWUSER if user else 0))
    call("prctl", PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if user:
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"{NOBODY} {user} 1")
        write("/proc/self/gid_map", f"{NOBODY} {group} 1")
    if first := os.fork():
        # its end is seen when all in the namespace have ended, so that nothing outlives this
        signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGKILL))
        os.waitpid(first, 0)
        os._exit(0)
    call("prctl", PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    build_root(job)


def build_root(job: Job) -> None:
    """Make the job's folder the root: its files read-only, /tmp writable, and nothing else.

    The root is a folder inside of the root of the mount namespace, because the kernel lets nobody
    in such a place make user namespaces, where a program could mount what it likes.
    """
    stage, root = job["folder"], f"{job['folder']}/root"
    mount(None, "/", "none", REC | PRIVATE)
    mount("none", stage, "tmpfs", NOSUID | NODEV, "mode=755,size=1m")
    for path in job["readonly"]:
        show(path, root + path)
    for path in job["hidden"]:
        mount("none", root + path, "tmpfs", NOSUID | NODEV, "mode=755,size=4k")
    os.makedirs(f"{root}/tmp", exist_ok=True)
    size = f"mode=1777,nr_inodes=1024,size={job['file_bytes']}"
    seal(stage)
    mount("none", f"{root}/tmp", "tmpfs", NOSUID | NODEV, size)
    os.chdir(stage)
    call("syscall", PIVOT_ROOT[os.uname().machine], b".", b".")
    call("umount2", b".", DETACH)
    os.chroot("/root")
    os.chdir("/tmp")


def show(path: str, target: str) -> None:
    """Let the file, folder or link be seen as `target`."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT, 0o644))
    mount(path, target, "none", BIND | REC)


def seal(stage: str) -> None:
    """Make everything that is mounted at or below `stage` read-only.

    The other flags stay, as a user namespace may not take them away.
    """
    with open("/proc/self/mountinfo") as file:
        points = [line.split()[4].encode().decode("unicode_escape") for line in file]
    for point in points:
        if point == stage or point.startswith(f"{stage}/"):
            found = os.statvfs(point).f_flag
            flags = found & KEPT | (RELATIME if found & ST_RELATIME else 0)
            mount(None, point, "none", REMOUNT | BIND | RDONLY | NOSUID | flags)


def supervise(job: Job) -> dict[str, Any]:
    """How the program ended."""
    token = secrets.token_hex(16)
    token_fd, given = os.pipe()
    found, report_fd = os.pipe()
    os.write(given, token.encode())
    program = os.fork()
    if not program:
        become_program(job, token_fd, report_fd, token)
    for fd in (given, token_fd, report_fd):
        os.close(fd)
    ending = await_end(program, job["time_s"])
    os.set_blocking(found, False)
    with contextlib.suppress(BlockingIOError):
        first, _, report = os.read(found, 1000).decode(errors="replace").partition(" ")
        if first == token:
            return told(ending, report)
    return {**ending, "report": ""}


def told(ending: dict[str, Any], report: str) -> dict[str, Any]:
    """The ending with what the program's process said about it."""
    word, _, rest = report.partition(": ")
    return {"problem": rest} if word == "not started" else {**ending, "report": report}


def await_end(program: int, time_s: float) -> dict[str, Any]:
    """The program's exit code, None if its time was over or this process is told to end."""

    def expire(*_: object) -> NoReturn:
        raise TimeoutError

    signal.signal(signal.SIGALRM, expire)
    signal.signal(signal.SIGTERM, expire)
    try:
        signal.setitimer(signal.ITIMER_REAL, time_s)
        _, status = os.waitpid(program, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except TimeoutError:
        return {"is_timed_out": True, "exit_code": None}
    return {"is_timed_out": False, "exit_code": os.waitstatus_to_exitcode(status)}


def become_program(job: Job, token_fd: int, report_fd: int, token: str) -> NoReturn:
    """Give up every right and become the program's interpreter."""
    try:
        with open("program.py", "w", encoding="utf-8", errors="replace") as file:
            file.write(job["source"])
        os.chmod("program.py", 0o644)
        # so that neither descriptor is in the way of the other
        kept = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (token_fd, report_fd)]
        os.dup2(kept[0], 3)
        os.dup2(kept[1], 4)
        os.closerange(5, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        if not job["is_weak"]:
            os.setsid()
        if job["other_user"]:
            change_user()
        limit(job)
        os.execve(job["python"], [job["python"], *job["flags"], "-c", job["runner"]], job["env"])
    except BaseException as error:
        os.write(4, f"{token} not started: {type(error).__name__}: {error}".encode())
    os._exit(127)


def change_user() -> None:
    """Become a user that owns nothing; root may do everything and has no limit of processes."""
    user = random.SystemRandom().randint(FIRST_UID, LAST_UID)
    os.chown(".", user, user)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def limit(job: Job) -> None:
    """Set the limits of this process and its children, and what the kernel refuses them."""
    if sys.platform == "linux":
        call("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)
    seconds = int(job["time_s"]) + 2
    num_around = 0 if job["other_user"] else NUM_AROUND[job["mode"]]
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: job["file_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: job["processes"] + num_around,
        resource.RLIMIT_AS: job["memory_bytes"],
    }
    for kind, value in limits.items():
        # some systems know a limit and refuse to set it
        with contextlib.suppress(ValueError) if job["is_weak"] else contextlib.nullcontext():
            resource.setrlimit(kind, (value, value))
    if code := bytes.fromhex(job["call_filter"]):
        steps = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HP", len(code) // 8, ctypes.addressof(steps))
        with contextlib.suppress(OSError) if job["is_weak"] else contextlib.nullcontext():
            call("prctl", SECCOMP, FILTER, program, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of whatever the program leaves behind, where the system can do that."""
    if sys.platform == "linux":
        call("prctl", SUBREAPER, 1, 0, 0, 0)


def kill_children() -> None:
    """Kill the program's processes, and theirs as they become ours.

    Without /proc the group of processes has to do, which the caller of this one kills.
    """
    with contextlib.suppress(ChildProcessError):
        while os.path.isdir("/proc/self"):
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


def run(job: Job) -> dict[str, Any]:
    """Run the job; the line for `status_fd`."""
    try:
        if job["mode"] == "namespaces":
            enter_namespaces(job)
        if job["is_weak"]:
            adopt_orphans()
        if sys.platform == "linux":
            # the program may have this process' user and must not look into it
            call("prctl", DUMPABLE, 0, 0, 0, 0)
        return supervise(job)
    except (OSError, ImportError, KeyError, AttributeError) as error:
        return {"problem": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Run the job that standard input describes."""
    job = json.load(sys.stdin)
    status = run(job)
    if job["is_weak"]:
        kill_children()
    os.write(job["status_fd"], json.dumps(status).encode() + b"\n")
    os._exit(0)


main()
