"""Files that are there whole or not at all, whenever a run is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file, which takes its place once it is written."""
    part = path.with_name(path.name + ".part")
    yield part
    part.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 text, its newlines as they are; a half-written one is never seen."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; a half-written one is never seen."""
    with replacing(path) as part:
        part.write_bytes(content)
