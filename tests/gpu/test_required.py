"""Tests that need a GPU are green only where they ran, if that is asked for."""

from __future__ import annotations

import pytest
from support.device import require_device


def test_a_device_that_must_be_there_and_is_not_fails_the_test() -> None:
    require_device(is_there=True, is_required=True)
    with pytest.raises(pytest.fail.Exception, match="MTAD_REQUIRE_GPU is 1"):
        require_device(is_there=False, is_required=True)
    with pytest.raises(pytest.skip.Exception):
        require_device(is_there=False, is_required=False)
