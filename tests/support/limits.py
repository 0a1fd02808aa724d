"""Limits of the hardware that are measured in no time."""

from __future__ import annotations

import pytest

from mtad.bench.speed import limits


def measure_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small buffers and matrices, and a single try."""
    monkeypatch.setitem(limits.MEMORY_BYTES, "cpu", 2**23)
    monkeypatch.setitem(limits.MATRIX_SIZE, "cpu", 64)
    monkeypatch.setattr(limits, "NUM_TRIES", 1)
