"""What tests that need a GPU do where there is none."""

from __future__ import annotations

import pytest


def require_device(is_there: bool, is_required: bool) -> None:
    """Skip a test that needs a CUDA device which is not there, or fail it where one must be."""
    if is_there:
        return
    if is_required:
        pytest.fail("MTAD_REQUIRE_GPU is 1, and torch finds no CUDA device", pytrace=False)
    pytest.skip("needs a CUDA device")
