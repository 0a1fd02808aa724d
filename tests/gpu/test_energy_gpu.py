"""NVML's energy counter on a real device."""

from __future__ import annotations

import time

import pytest
import torch

from mtad.measure.energy import Energy
from mtad.measure.meter import find_meter, idle_power_w

pytestmark = pytest.mark.gpu


def work(seconds: float) -> None:
    """Multiply matrices for so long."""
    factor = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        factor = (factor @ factor).clamp(-1, 1)
        torch.cuda.synchronize()


def test_work_uses_more_than_rest_and_less_than_the_limit() -> None:
    meter = find_meter([torch.device("cuda", 0)])
    if meter.counters is None:
        pytest.skip(meter.reason)
    idle_w = idle_power_w(meter, 2.0)
    begun = meter.start()
    work(2.0)
    energy = meter.stop(begun)
    assert isinstance(energy, Energy)
    assert idle_w is not None
    assert idle_w["cuda:0"] < energy.power_w["cuda:0"] < 2000


def test_a_window_without_an_update_has_no_value() -> None:
    meter = find_meter([torch.device("cuda", 0)])
    if meter.counters is None:
        pytest.skip(meter.reason)
    windows = [meter.stop(meter.start()) for _ in range(20)]
    assert None in windows
