"""Peak memory and energy of a decoding, measured from outside of the engine."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mtad.measure.energy import Energy
from mtad.measure.meter import Meter

ENERGY_INTERVALS = 10
"""Updates of the counters that a window must have if a single decoding is too short for them."""
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class MemoryWatch:
    """Memory at the beginning of a window whose peak is measured.

    Attributes:
        device: where the models are.
        before: bytes in use then; None where the system does not say.
    """

    device: torch.device
    before: int | None

    @classmethod
    def start(cls, device: torch.device) -> MemoryWatch:
        """A window that begins now."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return cls(device, torch.cuda.memory_allocated(device))
        _give_back_free_memory()
        try:
            _RESET.write_text("5")  # the peak is what is in use now
        except OSError:
            return cls(device, None)
        return cls(device, _status_bytes("VmRSS"))

    def peak(self) -> int | None:
        """Bytes by which the peak since then exceeds what was in use; None if unknown."""
        if self.before is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        most = _status_bytes("VmHWM")
        return None if most is None else max(0, most - self.before)


def _give_back_free_memory() -> None:
    """Return free heap memory to the system, so that the peak counts what is allocated again."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries lack it
        if trim is not None:
            trim(0)


def _status_bytes(name: str) -> int | None:
    """A line of this process's status, which Linux gives in kB."""
    try:
        lines = _STATUS.read_text().split("\n")
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(found[0]) if found else None


def repeated_energy(meter: Meter, work: Callable[[], object], wall_s: float) -> Energy | None:
    """The energy of one decoding that is too short for the counters; None without a meter.

    Args:
        meter: the counters.
        work: the decoding, which is done again until the window is long enough.
        wall_s: how long it takes.
    """
    if meter.counters is None:
        return None
    window_s = ENERGY_INTERVALS * meter.counters.interval_s
    count = max(1, math.ceil(window_s / max(wall_s, 1e-6)))
    begun = meter.start()
    for _ in range(count):
        work()
    energy = meter.stop(begun)
    return None if energy is None else energy.shared_by(count)
