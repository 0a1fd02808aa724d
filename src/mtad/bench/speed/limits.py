"""What a device can do: how fast it reads memory and multiplies matrices.

Both are measured, by the best of several tries, on all threads that the run uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from mtad.measure.device import synchronize

MEMORY_BYTES = {"cpu": 2**29, "cuda": 2**32}
"""Size of the buffer that stands for main memory: many times the largest of today's caches."""
LEAST_BYTES = 2**22
"""Below this the call costs more than the reading."""
MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}
NUM_TRIES = 8
LEAST_S = 2e-3


@dataclass(frozen=True)
class Limits:
    """Rates of one device.

    Attributes:
        device: type of the device.
        dtype: of the matrices.
        num_threads: of the processor.
        memory_bytes_per_s: reading a buffer much larger than the caches.
        working_set_bytes: size of the pair's weights.
        working_bytes_per_s: reading a buffer of that size again and again; faster than main memory
            where the weights stay in a cache.
        flops_per_s: of a product of two large matrices.
    """

    device: str
    dtype: str
    num_threads: int
    memory_bytes_per_s: float
    working_set_bytes: int
    working_bytes_per_s: float
    flops_per_s: float

    @property
    def bytes_per_s(self) -> float:
        """The rate at which the pair's weights can be read."""
        return max(self.memory_bytes_per_s, self.working_bytes_per_s)

    def best(self, other: Limits) -> Limits:
        """The faster rates of two measurements: what else runs can only make them slower."""
        names = ("memory_bytes_per_s", "working_bytes_per_s", "flops_per_s")
        return replace(self, **{n: max(getattr(self, n), getattr(other, n)) for n in names})


def measure_limits(
    device: torch.device,
    dtype: torch.dtype,
    working_set_bytes: int,
    *,
    memory_bytes: int | None = None,
    matrix_size: int | None = None,
) -> Limits:
    """The limits of a device, measured now.

    Args:
        device: where the models are.
        dtype: of their weights.
        working_set_bytes: what the models read of their weights.
        memory_bytes: size of the large buffer, if not the usual one.
        matrix_size: rows of the matrices, if not the usual number.
    """
    large = memory_bytes or MEMORY_BYTES.get(device.type, 2**29)
    memory = read_rate(device, large)
    small = max(LEAST_BYTES, working_set_bytes)
    return Limits(
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        num_threads=torch.get_num_threads(),
        memory_bytes_per_s=memory,
        working_set_bytes=working_set_bytes,
        working_bytes_per_s=memory if small >= large else read_rate(device, small),
        flops_per_s=matrix_rate(device, dtype, matrix_size or MATRIX_SIZE.get(device.type, 2048)),
    )


def read_rate(device: torch.device, num_bytes: int) -> float:
    """Bytes per second of summing a buffer of integers, the fastest way to read all of it."""
    buffer = torch.ones(num_bytes // 8, dtype=torch.int64, device=device)
    return buffer.numel() * 8 / best_seconds(lambda: buffer.sum(), device)


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations per second of a product of two square matrices."""
    matrix = torch.full((size, size), 1e-3, dtype=dtype, device=device)
    return 2.0 * size**3 / best_seconds(lambda: matrix @ matrix, device)


def best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the least of several tries; short calls are repeated within a try."""
    work()
    repeats = max(1, round(LEAST_S / max(1e-6, _seconds(work, device, 1))))
    return min(_seconds(work, device, repeats) for _ in range(NUM_TRIES)) / repeats


def _seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    synchronize(device)
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronize(device)
    return max(1e-9, time.perf_counter() - started)
