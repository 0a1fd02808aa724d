"""The ways to isolate a program, and the commands that each takes."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mtad.tasks.sandbox import files
from mtad.tasks.sandbox.limits import Limits
from mtad.tasks.sandbox.seccomp import call_filter

_HERE = Path(__file__).parent
# -P and -S: no folder of the program's choice and no installed package is imported from
_FLAGS = ("-s", "-P", "-S")
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child")
_NOBODY = "65534"
_BUBBLEWRAP = (
    *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
    *("--disable-userns", "--uid", _NOBODY, "--gid", _NOBODY, "--cap-drop", "ALL"),
    *("--die-with-parent", "--as-pid-1", "--new-session"),
)
# ids that systemd hands out for a moment too; a container has them as well
_FIRST_UID, _LAST_UID = 61184, 65519
# processes and threads around a program that count as the program's where they have its user
_NUM_AROUND = {"unshare": 3, "bubblewrap": 2, "limits": 0}


@dataclass(frozen=True)
class Isolation:
    """A way to run a program.

    Attributes:
        name: for results.
        mode: "unshare" (of util-linux), "bubblewrap", or "limits" of resources alone.
        is_strong: no network, no files but the interpreter's, no process but its own.
        other_user: the program runs as a user who owns nothing; needs root.
    """

    name: str
    mode: Literal["unshare", "bubblewrap", "limits"]
    is_strong: bool
    other_user: bool

    def command(self, limits: Limits) -> list[str]:
        """The command that reads a job from its standard input."""
        boot = _python("boot.py")
        if self.mode == "bubblewrap":
            return ["bwrap", *_BUBBLEWRAP, *files.bubblewrap_options(limits.file_bytes), *boot]
        if self.mode == "unshare":
            root = () if self.other_user else ("--map-root-user",)
            return ["unshare", *root, *_NAMESPACES, "--", *boot]
        return boot

    def job(self, source: str, limits: Limits, folder: str) -> dict[str, Any]:
        """The job for `boot.py`, with the files that it takes made in the folder."""
        user = random.SystemRandom().randint(_FIRST_UID, _LAST_UID) if self.other_user else None
        mounts = ""
        if self.mode == "unshare":
            mounts = files.build_root(Path(folder), limits.file_bytes)
        elif user:
            os.chown(folder, user, user)
        return {
            "source": source,
            "is_weak": not self.is_strong,
            "mounts": mounts,
            "command": [*self._entry(folder, user), *_python("runner.py")],
            "env": environment(folder if self.mode == "limits" else "/tmp"),
            "limits": self._limits(limits),
            "call_filter": call_filter().hex(),
        }

    def _entry(self, folder: str, user: int | None) -> list[str]:
        """The command that starts a program's interpreter as the right user in the right root.

        The kernel makes no user namespace for a process whose root is not that of its mount
        namespace, so that a program can't get the rights to mount what it likes.
        """
        unshare = shutil.which("unshare") or "unshare"
        root = [f"--root={folder}/root", "--wd=/tmp"] if self.mode == "unshare" else []
        if user:
            return [unshare, *root, f"--setgid={user}", f"--setuid={user}", "--"]
        mapped = ["--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}"]
        return [unshare, *mapped, *root, "--"] if root else []

    def _limits(self, limits: Limits) -> dict[str, int]:
        """The limits of resources, by their names in the module `resource`."""
        num_around = 0 if self.other_user else _NUM_AROUND[self.mode]
        return {
            "RLIMIT_CPU": int(limits.time_s) + 2,
            "RLIMIT_FSIZE": limits.file_bytes,
            "RLIMIT_CORE": 0,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_NPROC": limits.processes + num_around,
            "RLIMIT_AS": limits.memory_bytes,
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


def _python(script: str) -> list[str]:
    """The command that runs a script of this folder, whether or not the program sees its file."""
    return [files.interpreter(), *_FLAGS, "-c", (_HERE / script).read_text(encoding="utf-8")]
