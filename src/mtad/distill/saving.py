"""Tensors in files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mtad.atomic import replacing


def save(value: Any, path: Path) -> None:
    """Write what `torch.load` reads, so that a half-written file is never seen."""
    with replacing(path) as part:
        torch.save(value, part)
