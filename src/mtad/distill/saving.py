"""Files of tensors that are there whole or not at all, whenever a run is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def save(value: Any, path: Path) -> None:
    """Write what `torch.load` reads, so that a half-written file is never seen."""
    fresh = path.with_suffix(".partial")
    torch.save(value, fresh)
    fresh.replace(path)
