"""Files of lines that one program appends to: the lock, and a last line that was cut off.

Knows nothing of what the lines say.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

from mtad.errors import DataError


def lock(stream: BinaryIO, path: Path, otherwise: str) -> None:
    """Keep a file for this program alone, until it is closed; Windows has no such lock.

    Args:
        stream: the file; it is closed if another program has it.
        path: its name.
        otherwise: what the user can do then.

    Raises:
        DataError: another program writes to it.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.close()
        raise DataError(f"another program is writing to {path}; {otherwise}") from error


def cut_half_line(stream: BinaryIO) -> None:
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
