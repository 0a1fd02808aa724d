"""Files that are there whole or not at all, whenever a run is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its place once it is written."""
    fresh = path.with_suffix(".partial")
    yield fresh
    fresh.replace(path)


def save(value: Any, path: Path) -> None:
    """Write what `torch.load` reads, so that a half-written file is never seen."""
    with whole(path) as fresh:
        torch.save(value, fresh)
