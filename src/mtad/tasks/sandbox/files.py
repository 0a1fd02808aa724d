"""The files that a program sees: those of its interpreter, read-only, and a /tmp of its own."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_NIX: Final = "/nix/store"
_SYSTEM: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", _NIX, "/etc/ld.so.cache")
_PACKAGES: Final = ("site-packages", "dist-packages")
_DEVICES: Final = ("/dev/null", "/dev/urandom")
# flags that a user namespace may not remove from a mount
_KEPT: Final = ("nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime")


def interpreter() -> str:
    """The interpreter below the virtual environment, which needs no file of the environment."""
    base: str = getattr(sys, "_base_executable", "") or sys.executable
    return os.path.realpath(base)


def readable() -> tuple[str, ...]:
    """The files and folders that an interpreter needs, those of the system first."""
    # those of the interpreter below: a virtual environment has packages alone in their place
    below = {"platbase": sys.base_exec_prefix}
    found = [sysconfig.get_path(name, vars=below) for name in ("stdlib", "platstdlib")]
    shared = sysconfig.get_config_var("LIBDIR") or ""
    libraries = [os.path.realpath(path) for path in (shared, *found) if path]
    kept: list[str] = []
    for path in (*_SYSTEM, *libraries, interpreter()):
        if os.path.exists(path) and not _is_inside(path, kept):
            kept.append(path)
    return tuple(kept)


@functools.cache
def hidden(shown: tuple[str, ...]) -> list[str]:
    """The folders of installed packages in what is shown; a program sees them empty.

    They may hold the answers of a benchmark, and a program is to find the same packages everywhere.
    """
    found: set[str] = set()
    folders = [path for path in shown if not os.path.islink(path)]
    for top in folders:
        # looking through it would take minutes, and each of its packages has a folder of its own
        for folder, below, _ in os.walk(top) if top != _NIX else ():
            at = [name for name in below if name in _PACKAGES]
            found.update(os.path.realpath(os.path.join(folder, name)) for name in at)
            below[:] = [name for name in below if name not in _PACKAGES]
    return sorted(place for place in found if _is_inside(place, folders))


def _is_inside(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is one of the folders or below one."""
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def bubblewrap_options(file_bytes: int) -> Iterator[str]:
    """The options of bubblewrap that show a program its files."""
    shown = readable()
    for path in shown:
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        else:
            yield from ("--ro-bind", path, path)
    for path in hidden(shown):
        yield from ("--tmpfs", path, "--remount-ro", path)
    for path in _DEVICES:
        yield from ("--dev-bind", path, path)
    yield from ("--size", str(file_bytes), "--tmpfs", "/tmp", "--remount-ro", "/")
    yield from ("--chdir", "/tmp")


def build_root(folder: Path, file_bytes: int) -> str:
    """Make `folder/root`, and the table of what `mount` puts there; the table's path."""
    root, empty = folder / "root", folder / "empty"
    (root / "tmp").mkdir(parents=True)
    empty.mkdir()
    shown = readable()
    mounted = [path for path in (*shown, *_DEVICES) if _make_place(path, root)]
    # an option of `mount` holds for the topmost of the mounts that a recursive one brings along
    mounted += [path for path in _mount_points() if _is_inside(path, mounted)]
    lines = [_line(str(root), str(root)), *(_line(path, f"{root}{path}") for path in mounted)]
    lines += [_line(str(empty), f"{root}{path}") for path in hidden(shown)]
    size = f"nosuid,nodev,mode=1777,nr_inodes=1024,size={file_bytes}"
    table = folder / "mounts"
    table.write_text("".join([*lines, f"none {_quoted(f'{root}/tmp')} tmpfs {size} 0 0\n"]))
    return str(table)


def _make_place(path: str, root: Path) -> bool:
    """Make the place of a file or folder below `root`; whether something is to be mounted there."""
    target = Path(f"{root}{path}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.islink(path):
        target.symlink_to(os.readlink(path))
        return False
    if os.path.isdir(path):
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    return True


def _mount_points() -> list[str]:
    """The mount points of this machine."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [line.split()[4].encode().decode("unicode_escape") for line in file]


def _line(source: str, target: str) -> str:
    """The line of a table that mounts a file or folder of ours read-only in another place."""
    flags = os.statvfs(source).f_flag
    kept = [name for name in _KEPT if flags & getattr(os, f"ST_{name.upper()}")]
    options = ",".join(dict.fromkeys(["rbind", "ro", "nosuid", *kept]))
    return f"{_quoted(source)} {_quoted(target)} none {options} 0 0\n"


def _quoted(path: str) -> str:
    """A path as a word of the table."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\#" else c for c in path)
