"""How a device captures a program and replays it: CUDA graphs.

Knows nothing of what the programs do.
"""

from __future__ import annotations

import gc
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor

OnPhase = Callable[[str], None]
"""Called with "draft", "target", "verify" and "commit" as they begin, and "end" after each
iteration."""
Program = Callable[[OnPhase], Tensor]
"""An iteration: calls back as its phases begin and returns what the host will read."""


def ignore_phase(phase: str) -> None:
    """No-op phase callback."""


GRAPH_BYTES = 2**24
"""What a CUDA graph takes besides the memory pool of its tensors: thousands of kernels, some kB
each."""


class Recording(ABC):
    """A captured program.

    Attributes:
        output: holds what the host will read, after a replay.
        num_bytes: memory that it keeps, as estimated.
    """

    output: Tensor
    num_bytes: int = 0

    @abstractmethod
    def replay(self, begin: OnPhase) -> None:
        """Run it, calling back as its phases begin."""


class Backend(ABC):
    """How a device captures programs."""

    @abstractmethod
    def warm_up(self, program: Program, begin: OnPhase) -> Tensor:
        """The output of one eager run, after which the program may be captured.

        Raises:
            RuntimeError: the program reads a tensor back to the host.
        """

    @abstractmethod
    def capture(self, program: Program, split: bool) -> Recording:
        """The program, recorded without taking effect; `split` keeps its phases apart.

        Raises:
            RuntimeError: the program can't be captured, or there is no memory for it.
        """


class CudaBackend(Backend):
    """CUDA graphs that share one memory pool.

    Args:
        device: where all tensors of the programs are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = _side_stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, program: Program, begin: OnPhase) -> Tensor:
        """The output of one eager run on the stream that will capture, host reads refused."""
        with self._aside(), reads_refused() as allowed:
            return program(allowed(begin))

    def capture(self, program: Program, split: bool) -> Recording:
        """The program as one CUDA graph, or one per phase."""
        recording = _CudaRecording(self._pool, split)
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_reserved(self.device)
        with self._aside(), _nothing_collected():
            try:
                recording.output = program(recording.mark)
            except BaseException:
                with suppress(RuntimeError):  # what broke the capture says more
                    recording.close()
                raise
            recording.close()
        recording.num_bytes = GRAPH_BYTES + max(0, torch.cuda.memory_reserved(self.device) - before)
        return recording

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On the side stream, in order with what runs outside."""
        outside = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            outside.wait_stream(self._stream)


class _CudaRecording(Recording):
    """CUDA graphs in the order of the phases that they begin with."""

    def __init__(self, pool: Any, split: bool) -> None:
        self._pool, self._split = pool, split
        self._graphs: list[tuple[str, torch.cuda.CUDAGraph]] = []
        self._is_open = False

    def mark(self, phase: str) -> None:
        """Begin a graph, where a phase needs its own."""
        if self._graphs and not self._split:
            return
        self.close()
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate or wait meanwhile: what they do is none of this capture.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        self._graphs.append((phase, graph))
        self._is_open = True

    def close(self) -> None:
        """End the graph that was begun last."""
        if self._is_open:
            self._is_open = False
            self._graphs[-1][1].capture_end()

    def replay(self, begin: OnPhase) -> None:
        """Launch the graphs, calling back as the phases begin."""
        for phase, graph in self._graphs:
            begin(phase)
            graph.replay()


@cache
def _side_stream(device: torch.device) -> Any:
    """One stream for all captures: every further one would get its own workspace of cuBLAS."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """No garbage collection: what it frees, such as graphs, may break a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def reads_refused() -> Iterator[Callable[[OnPhase], OnPhase]]:
    """While inside, CUDA operations that make the host wait raise `RuntimeError`.

    Yields a wrapper for callbacks that may wait all the same, in order to read a clock.
    """
    before = torch.cuda.get_sync_debug_mode()

    def allowed(begin: OnPhase) -> OnPhase:
        def call(phase: str) -> None:
            _set_mode(before)
            begin(phase)
            _set_mode("error")

        return call

    _set_mode("error")
    try:
        yield allowed
    finally:
        _set_mode(before)


def _set_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode does not see every synchronisation
        torch.cuda.set_sync_debug_mode(mode)
