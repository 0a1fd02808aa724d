"""The ways to isolate a program, and the command that starts each."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtad.tasks.sandbox.calls import call_filter
from mtad.tasks.sandbox.limits import Limits

_HERE = Path(__file__).parent
# -P and -S: no folder of the program's choice and no installed package is imported from
_FLAGS = ["-s", "-P", "-S"]
_NIX = "/nix/store"
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", _NIX, "/etc/ld.so.cache")
_PACKAGES = ("site-packages", "dist-packages")
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
            "hidden": hidden(),
            "call_filter": call_filter().hex(),
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
    # those of the interpreter below: a virtual environment has packages alone in their place
    bases = {"installed_base": sys.base_prefix, "base": sys.base_prefix}
    bases |= {"installed_platbase": sys.base_exec_prefix, "platbase": sys.base_exec_prefix}
    found = [sysconfig.get_path(name, vars=bases) for name in ("stdlib", "platstdlib")]
    libraries = [os.path.realpath(path) for path in found]
    shared = sysconfig.get_config_var("LIBDIR") or ""
    wanted = [*_SYSTEM, os.path.realpath(shared) if shared else "", *libraries, python]
    kept: list[str] = []
    for path in wanted:
        if path and os.path.exists(path) and not any(_is_below(path, k) for k in kept):
            kept.append(path)
    return kept


def hidden() -> list[str]:
    """The folders of installed packages in what is readable; a program sees them empty.

    They may hold the answers of a benchmark, and a program is to find the same packages everywhere.
    """
    return _packages(tuple(path for path in readable() if not os.path.islink(path)))


@functools.cache
def _packages(shown: tuple[str, ...]) -> list[str]:
    """The folders with the names that installers use, at or below those that are shown."""
    found: set[str] = set()
    for top in shown:
        # looking through it would take minutes, and each of its packages has a folder of its own
        for folder, below, _ in os.walk(top) if top != _NIX else ():
            at = [name for name in below if name in _PACKAGES]
            found.update(os.path.realpath(os.path.join(folder, name)) for name in at)
            below[:] = [name for name in below if name not in _PACKAGES]
    return sorted(place for place in found if any(_is_below(place, path) for path in shown))


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
    for path in hidden():
        yield from ("--tmpfs", path, "--remount-ro", path)
    for path in _DEVICES:
        yield from ("--dev-bind", path, path)
    yield from ("--size", str(limits.file_bytes), "--tmpfs", "/tmp")
    yield from ("--remount-ro", "/", "--chdir", "/tmp")
