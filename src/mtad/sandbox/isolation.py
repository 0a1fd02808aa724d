"""The ways to isolate a program, and the command that starts each."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtad.sandbox.limits import Limits

_HERE = Path(__file__).parent
# -P and -S: no folder of the program's choice and no installed package is imported from
_FLAGS = ["-s", "-P", "-S"]
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/urandom")


@dataclass(frozen=True)
class Isolation:
    """A way to run a program.

    Attributes:
        name: for results.
        mode: what `boot.py` does: "namespaces", "bubblewrap" or "limits".
        is_strong: no network, no files but the interpreter's, no process but its own.
        other_user: the program runs as a user who owns nothing; needs root.
    """

    name: str
    mode: str
    is_strong: bool
    other_user: bool

    def command(self, bubblewrap: str | None, limits: Limits) -> list[str]:
        """The command that reads a job from its standard input."""
        boot = (_HERE / "boot.py").read_text(encoding="utf-8")
        python = [interpreter(), *_FLAGS, "-c", boot]
        if self.mode != "bubblewrap":
            return python
        return [bubblewrap or "bwrap", *_bubblewrap_options(limits), *python]

    def job(self, source: str, limits: Limits, folder: str, status_fd: int) -> dict[str, Any]:
        """The job for `boot.py`."""
        return {
            **vars(limits),
            "source": source,
            "mode": self.mode,
            "is_weak": not self.is_strong,
            "other_user": self.other_user,
            "folder": folder,
            "status_fd": status_fd,
            "readonly": [*readable(), *_DEVICES],
            "python": interpreter(),
            "flags": _FLAGS,
            "runner": (_HERE / "runner.py").read_text(encoding="utf-8"),
            "env": environment(folder if self.mode == "limits" else "/tmp"),
        }


def environment(folder: str) -> dict[str, str]:
    """All that a program finds in its environment; the same order of sets in every run."""
    return {
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def interpreter() -> str:
    """The interpreter below the virtual environment, which needs no file of the environment."""
    base: str = getattr(sys, "_base_executable", "") or sys.executable
    return os.path.realpath(base)


def readable() -> list[str]:
    """The files and folders that an interpreter needs, those of the system first."""
    python = interpreter()
    names = ["stdlib", "platstdlib"]
    libraries = [os.path.realpath(sysconfig.get_path(name)) for name in names]
    shared = sysconfig.get_config_var("LIBDIR") or ""
    wanted = [*_SYSTEM, os.path.realpath(shared) if shared else "", *libraries, python]
    kept: list[str] = []
    for path in wanted:
        if path and os.path.exists(path) and not any(_is_below(path, k) for k in kept):
            kept.append(path)
    return kept


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _bubblewrap_options(limits: Limits) -> Iterator[str]:
    """The options that give a program what `boot.build_root` gives it."""
    yield from ("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc")
    yield from ("--unshare-uts", "--disable-userns", "--uid", "65534", "--gid", "65534")
    yield from ("--die-with-parent", "--as-pid-1", "--new-session", "--cap-drop", "ALL")
    for path in readable():
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        else:
            yield from ("--ro-bind", path, path)
    for path in _DEVICES:
        yield from ("--dev-bind", path, path)
    yield from ("--size", str(limits.file_bytes), "--tmpfs", "/tmp")
    yield from ("--remount-ro", "/", "--chdir", "/tmp")
