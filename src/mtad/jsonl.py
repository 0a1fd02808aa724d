"""Files of JSON lines that one program appends to, may be killed at, and goes on with.

A line ends at a newline byte and nowhere else. A last line without one is what a kill left of it:
readers skip it, and the next writer cuts it off. A complete file may be packed with xz and is then
read only. Knows nothing of what the lines say.
"""

from __future__ import annotations

import json
import lzma
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from mtad.atomic import replacing
from mtad.errors import DataError, first_line

_BLOCK = 65536


class JsonLines(AbstractContextManager["JsonLines"]):
    """A file that this program alone appends to, from any thread; every line is whole or absent.

    Args:
        path: the file, made if it is not there.
        advice: what the user can do if another program has the file.
        synced: whether lines are on the disk, and not only with the system, when they are added.
        overwrite: drop the lines that are there.

    Raises:
        DataError: another program writes to the file, or it is packed.
    """

    def __init__(
        self,
        path: Path,
        *,
        advice: str = "wait for it",
        synced: bool = False,
        overwrite: bool = False,
    ) -> None:
        if packed(path).exists():
            raise DataError(f"{path.name} is packed; unpack it first: xz -d {path}.xz")
        self.path, self._synced, self._advice = path, synced, advice
        self._thread_lock = threading.Lock()
        self._stream, self._size = _opened(path, advice, overwrite)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add lines, all of them or none.

        Raises:
            ValueError: a value that JSON cannot hold, or the file is closed.
            OSError: the disk is full or gone.
        """
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        data = "".join(lines).encode()
        with self._thread_lock:
            try:
                if self._stream.write(data) != len(data):
                    raise OSError(f"only part of a line fits on the disk of {self.path}")
                if self._synced:
                    os.fsync(self._stream.fileno())
            except BaseException:
                with suppress(OSError, ValueError):
                    self._stream.truncate(self._size)
                raise
            self._size += len(data)

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write these lines in place of all others; a kill on the way leaves the others."""
        with replacing(self.path) as part:
            other = JsonLines(part, advice=self._advice, synced=self._synced, overwrite=True)
            other.append(rows)
        self.close()
        self._stream, self._size = other._stream, other._size

    @property
    def is_moved(self) -> bool:
        """Whether its path leads to another file by now, or to none."""
        with self._thread_lock:
            own = os.fstat(self._stream.fileno())
        try:
            return not os.path.samestat(own, os.stat(self.path))
        except OSError:
            return True

    def close(self) -> None:
        """Close the file and let others write to it."""
        with self._thread_lock:
            self._stream.close()

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


def read_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The lines and where each is, for messages; a last line that was cut off is left out.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object.
    """
    for number, line in enumerate(_raw_lines(path), start=1):
        if not line.endswith(b"\n"):
            return
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise damaged(place, error) from error
        if not isinstance(row, dict):
            raise DataError(f"{place} is not a JSON object; mend or delete the line")
        yield row, place


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text that people wrote, with their numbers; those without text are left out.

    Only a newline ends a line, with or without a carriage return before it: others that Unicode
    has, such as U+2028, may stand within a JSON string. A byte order mark is dropped.

    Raises:
        DataError: it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def cut_off_end(path: Path) -> bytes:
    """What stands after the last newline: nothing, or what a kill left of a line."""
    if not path.exists():  # it is packed, so it is complete
        return b""
    with path.open("rb") as stream:
        stream.seek(_end_of_lines(stream))
        return stream.read()


def damaged(place: str, error: Exception) -> DataError:
    """The error about a line that does not hold what it should."""
    what = f"there is no {error}" if isinstance(error, KeyError) else first_line(error)
    return DataError(f"{place} is damaged: {what}; mend or delete the line")


def packed(path: Path) -> Path:
    """Where the file is once it is packed."""
    return path.with_name(path.name + ".xz")


def _raw_lines(path: Path) -> Iterator[bytes]:
    xz = packed(path)
    if path.exists() and xz.exists():
        raise DataError(f"there are both {path} and {xz.name}; delete the one that is stale")
    try:
        with lzma.open(xz) if xz.exists() else path.open("rb") as stream:
            yield from stream
    except (lzma.LZMAError, EOFError) as error:
        raise DataError(f"{xz} is damaged or cut off: {error}; unpack it again") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; if there is no such file yet, run the step "
            "that writes it"
        ) from error


def _opened(path: Path, advice: str, overwrite: bool) -> tuple[BinaryIO, int]:
    """The file, locked and without a cut-off line, and its size in bytes."""
    stream = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by the caller
    try:
        _lock(stream, path, advice)
        size = 0 if overwrite else _end_of_lines(stream)
        if stream.seek(0, os.SEEK_END) > size:
            stream.truncate(size)
    except BaseException:
        stream.close()
        raise
    return stream, size


def _lock(stream: IO[bytes], path: Path, advice: str) -> None:
    """Keep other programs from writing; Windows has no such lock."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DataError(f"another program is writing to {path}; {advice}") from error


def _end_of_lines(stream: IO[bytes]) -> int:
    """Bytes up to and with the last newline."""
    end = stream.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        stream.seek(start)
        at = stream.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
