"""The public data sets beside the project, which it does not contain: Spider, GSM8K, and others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"


def real_data(name: str) -> Path:
    """The folder of a real data set; skips the test where there is none."""
    folder = Path(os.environ.get("MTAD_DATA") or BESIDE) / name
    if not folder.exists():
        pytest.skip(f"no real data at {folder}; MTAD_DATA names the folder that holds them")
    return folder
