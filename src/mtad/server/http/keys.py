"""Who may use the server: API keys and the names of their owners.

Keys come from a file or from `MTAD_API_KEYS`. They are kept as bytes, compared in constant time and
never shown. Knows no HTTP.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mtad.server.settings import ServerSettings

VARIABLE = "MTAD_API_KEYS"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Keys:
    """The keys that open the server; with none it is open to all who can reach it.

    Attributes:
        owners: the name of each key's owner, by key; names are for logs and limits.
        warnings: what the operator should know about where they came from.
    """

    owners: Mapping[bytes, str] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.owners)

    def owner(self, given: bytes) -> str | None:
        """The name that a key belongs to; None if it is no key.

        All keys are compared, in full: the time taken says nothing about which one, or how much of
        it, was right.
        """
        found = None
        for key, name in self.owners.items():
            if hmac.compare_digest(key, given):
                found = name
        return found


def read_keys(path: Path | None, environment: Mapping[str, str] = os.environ) -> Keys:
    """The keys of a file and of the environment together.

    Raises:
        ValueError: the file cannot be read, holds no key, or a line is no key.
    """
    entries = [entry for entry in environment.get(VARIABLE, "").split(",") if entry.strip()]
    if VARIABLE in environment and not entries:
        raise ValueError(f"{VARIABLE} is set and holds no key; give keys or unset it")
    owners = _owners(((f"{VARIABLE}, entry {i}", e) for i, e in enumerate(entries, 1)), {})
    if path is None:
        return Keys(owners)
    lines = _lines(path)
    owners = _owners(((f"{path}, line {number}", line) for number, line in lines), owners)
    return Keys(owners, _warnings(path))


def find_keys(settings: ServerSettings, say: Callable[[str], None]) -> Keys:
    """The keys of a server that begins; what its operator should know of them is said.

    Raises:
        ValueError: as `read_keys`.
    """
    keys = read_keys(settings.api_key_file)
    for warning in keys.warnings:
        say(f"Warning: {warning}")
    if not settings.is_local and not keys:
        say(
            f"Warning: everyone who can reach {settings.host} may use this server; give "
            f"--api-key-file or {VARIABLE}"
        )
    return keys


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that are neither empty nor a comment, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"the key file {path} cannot be read: {error.strerror}") from error
    except UnicodeError:
        raise ValueError(f"the key file {path} is not UTF-8") from None
    numbered = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not lines:
        raise ValueError(f"the key file {path} holds no key; write one per line, name:key or key")
    return lines


def _owners(entries: Iterable[tuple[str, str]], known: Mapping[bytes, str]) -> dict[bytes, str]:
    """The owners of keys that were known and of those in `entries`; messages never have a key."""
    owners = dict(known)
    for where, entry in entries:
        name, colon, key = entry.strip().partition(":")
        if not colon:
            name, key = f"key-{len(owners) + 1}", name
        if not _NAME.fullmatch(name):
            raise ValueError(f"{where}: the name before the colon must be {_NAME.pattern}")
        if len(key) < 8 or any(c.isspace() or not c.isprintable() for c in key):
            raise ValueError(f"{where}: a key has 8 characters or more and no white space")
        if key.encode() in owners:
            raise ValueError(f"{where}: this key is there twice")
        owners[key.encode()] = name
    return owners


def _warnings(path: Path) -> tuple[str, ...]:
    mode = path.stat().st_mode
    if os.name == "posix" and mode & (stat.S_IRGRP | stat.S_IROTH):
        return (f"the key file {path} can be read by others; run: chmod 600 {path}",)
    return ()
