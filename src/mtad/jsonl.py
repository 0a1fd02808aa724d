"""Files of lines that one program appends to: the lock, and a last line that was cut off.

Knows nothing of what the lines say.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

from mtad.errors import DataError


def open_lines(path: Path, otherwise: str = "wait for it", buffering: int = -1) -> BinaryIO:
    """The file at the end of its last whole line, for this program alone until it is closed.

    Args:
        path: the file, made if it is not there.
        otherwise: what the user can do if another program has it.
        buffering: as for `open`.

    Raises:
        DataError: another program writes to it.
    """
    stream = open(path, "a+b", buffering=buffering)  # noqa: SIM115 - closed by the caller
    try:
        _lock(stream, path, otherwise)
        _cut_half_line(stream)
    except BaseException:
        stream.close()
        raise
    return stream


def _lock(stream: BinaryIO, path: Path, otherwise: str) -> None:
    """Keep others from writing; Windows has no such lock."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DataError(f"another program is writing to {path}; {otherwise}") from error


def _cut_half_line(stream: BinaryIO) -> None:
    """Take away what comes after the last line end."""
    size = stream.seek(0, os.SEEK_END)
    end = size
    while end > 0:
        start = max(0, end - 65536)
        stream.seek(start)
        at = stream.read(end - start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        stream.truncate(end)
