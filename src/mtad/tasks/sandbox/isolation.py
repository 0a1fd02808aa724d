"""The ways to isolate a program, and the commands that each takes."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mtad.tasks.sandbox import files
from mtad.tasks.sandbox.limits import Limits

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
# -P and -S: no folder of the program's choice and no installed package is imported from
_FLAGS = ("-s", "-P", "-S")
_NOBODY = "65534"
_BUBBLEWRAP = (
    *("bwrap", "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc"),
    *("--unshare-uts", "--disable-userns", "--uid", _NOBODY, "--gid", _NOBODY),
    *("--cap-drop", "ALL", "--die-with-parent", "--as-pid-1", "--new-session"),
)
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child")
_MOUNT = ("sh", "-c", 'mount --all --fstab "$0" && exec "$@"')
# ids that systemd hands out for a moment too; a container has them as well
_FIRST_UID, _LAST_UID = 61184, 65519


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

    def prepare(self, source: str, limits: Limits, folder: str) -> tuple[list[str], dict[str, Any]]:
        """The command that starts `supervisor.py`, and its job; makes their files in the folder."""
        user = random.SystemRandom().randint(_FIRST_UID, _LAST_UID) if self.other_user else None
        command = [files.interpreter(), *_FLAGS, "-c", _SUPERVISOR.read_text(encoding="utf-8")]
        if self.mode == "bubblewrap":
            command = [*_BUBBLEWRAP, *files.bubblewrap_options(limits.file_bytes), *command]
        elif self.mode == "unshare":
            command = [*self._unshare(folder, limits.file_bytes), *command]
        elif user:
            os.chown(folder, user, user)
        return command, {
            "source": source,
            "is_weak": not self.is_strong,
            "user": user,
            "env": environment(folder if self.mode == "limits" else "/tmp"),
            "time_s": limits.time_s,
            "output_bytes": limits.output_bytes,
            "limits": self._limits(limits),
        }

    def _unshare(self, folder: str, file_bytes: int) -> list[str]:
        """What runs a command in namespaces and in a root of its own.

        The kernel makes no user namespace for a process whose root is not that of its mount
        namespace, so that a program can't get the rights to mount what it likes.
        """
        table = files.build_root(Path(folder), file_bytes)
        # root's supervisor gives up its rights later, for those of the program's user
        rights = [] if self.other_user else ["--map-root-user"]
        mapping = ["--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}"]
        entry = [
            "unshare",
            *(mapping if rights else []),
            f"--root={folder}/root",
            "--wd=/tmp",
            "--",
        ]
        return ["unshare", *rights, *_NAMESPACES, "--", *_MOUNT, table, *entry]

    def _limits(self, limits: Limits) -> dict[str, int]:
        """The limits of resources, by their names in the module `resource`."""
        return {
            "RLIMIT_CPU": int(limits.time_s) + 2,
            "RLIMIT_FSIZE": limits.file_bytes,
            "RLIMIT_CORE": 0,
            "RLIMIT_NOFILE": 64,
            # inside a user namespace the supervisor has the program's user
            "RLIMIT_NPROC": limits.processes + (self.is_strong and not self.other_user),
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
