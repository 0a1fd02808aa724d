"""Captured programs and what becomes of those that can't be captured.

A program is kept under its form, up to a limit in bytes; the least recently used leaves first.
A program that can't be captured runs eagerly: the reason is logged once and its runs are counted.
Knows no device, no model and no loop.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from threading import RLock
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from mtad.errors import first_line
from mtad.runtime.backend import OnPhase, Program
from mtad.runtime.state import State

logger = logging.getLogger(__name__)

Mode = Literal["eager", "captured", "capturing"]
"""How a run went: by Python, as a replay, or while a program was being made or validated."""
EagerReason = Literal[
    "off",
    "warming_up",
    "observed",
    "grammar",
    "large_batch",
    "unsupported",
    "mismatch",
    "out_of_memory",
]
"""Why a run was eager: no capture here; not yet captured; a callback reads the whole iteration; a
GPU's iteration asks a grammar; too many rows; the program can't be captured; its replay differed;
no memory for the capture."""
RETRY_AFTER = 512
"""Eager runs after which a capture that found no memory is tried again."""
MOST_REASONS = 256
"""Programs whose reason for running eagerly is remembered, the least recently noted leaving first:
their names hold options that clients choose."""
MOST_FORMS = 512
"""Forms whose eager runs are counted before they are captured."""

P = TypeVar("P")


@dataclass
class Fallback:
    """Why a program runs eagerly.

    Attributes:
        label: the kind of reason.
        message: the whole reason.
        num_runs: eager runs so far.
    """

    label: EagerReason
    message: str
    num_runs: int = 0

    @property
    def is_over(self) -> bool:
        """Whether it is time to try again."""
        return self.label == "out_of_memory" and self.num_runs >= RETRY_AFTER


class Programs(ABC, Generic[P]):
    """Runs programs, captured where that is possible.

    Several threads may run programs; they take turns.

    Args:
        patience: eager runs of a form before it is captured.
        limit_bytes: what all captured programs may take together; the newest one always stays.

    Attributes:
        last_mode: how the last run went.
        is_warm: whether the next runs will take as long as the last one, as far as is known.
        eager_iterations: number of eager runs by reason, see `EagerReason`.
    """

    CAPTURE_COST: ClassVar[float] = 0.0
    """Runs that a capture takes as long as, the eager ones before it included, if it is long."""

    def __init__(self, patience: int, limit_bytes: int) -> None:
        self.patience, self.limit_bytes = patience, limit_bytes
        self.last_mode: Mode = "eager"
        self.is_warm, self._may_capture = False, True
        self.eager_iterations: Counter[str] = Counter()
        self._fallbacks: OrderedDict[Hashable, Fallback] = OrderedDict()
        self._uses: OrderedDict[Hashable, int] = OrderedDict()
        self._captured: OrderedDict[Any, tuple[P, int]] = OrderedDict()
        self._lock = RLock()

    @property
    def num_captured(self) -> int:
        """Programs that are kept."""
        return len(self._captured)

    @property
    def captured_bytes(self) -> int:
        """What the captured programs take, as estimated."""
        return sum(size for _, size in self._captured.values())

    def reason(self, name: Hashable) -> str | None:
        """Why the programs of that name run eagerly; None where they may be captured."""
        fallback = self._fallback(name)
        return fallback.message if fallback else None

    def run(
        self,
        name: Hashable,
        state: State,
        program: Program,
        begin: OnPhase,
        split: bool,
        may_capture: bool = True,
    ) -> Tensor:
        """The output of `program`, replayed where it is captured, eager otherwise.

        Args:
            name: equal names, forms of the state and `split` mean equal programs.
            state: all that changes from one run to the next.
            program: one iteration, free of effects but those on `state`.
            begin: called as phases begin; a warm-up that breaks off calls it once more.
            split: whether `begin` needs the phases apart.
            may_capture: whether the run counts as one before a capture.
        """
        with self._lock:
            self._may_capture = may_capture
            fallback = self._fallback(name)
            if fallback is None:
                return self._run(name, state, program, begin, split)
            fallback.num_runs += 1
            return self.run_eagerly(program, begin, fallback.label)

    def run_eagerly(self, program: Program, begin: OnPhase, reason: EagerReason) -> Tensor:
        """The output of `program`, which is not to be captured; counted under `reason`."""
        self.last_mode, self.is_warm = "eager", reason != "warming_up"
        self.eager_iterations[reason] += 1
        return program(begin)

    def on_devices(self, devices: Collection[torch.device]) -> Programs[Any]:
        """What runs programs on these devices: itself, where it can."""
        return self

    def forget(self, addresses: Collection[int]) -> None:
        """Drop the programs that are bound to buffers at these addresses, which are freed."""

    @abstractmethod
    def _run(
        self, name: Hashable, state: State, program: Program, begin: OnPhase, split: bool
    ) -> Tensor:
        """As `run`, for a name without a known reason to run eagerly."""

    def _fallback(self, name: Hashable) -> Fallback | None:
        fallback = self._fallbacks.get(name)
        if fallback is not None and fallback.is_over:
            del self._fallbacks[name]
            return None
        return fallback

    def _fall_back(self, name: Hashable, label: EagerReason, message: str) -> None:
        """Run the programs of that name eagerly from now on; the log gets each reason once."""
        if message not in {known.message for known in self._fallbacks.values()}:
            level = logging.INFO if label == "unsupported" else logging.WARNING
            logger.log(level, "iterations run eagerly (%s): %s", _shown(name), message)
        keep(self._fallbacks, name, Fallback(label, message), MOST_REASONS)

    def _is_due(self, form: Hashable) -> bool:
        """Whether a form was run `patience` times; else this run is counted."""
        if not self._may_capture:
            return False
        uses = self._uses.pop(form, 0)
        if uses >= self.patience:
            return True
        keep(self._uses, form, uses + 1, MOST_FORMS)
        return False

    def _keep(self, key: Hashable, program: P, num_bytes: int) -> None:
        """Add a captured program; those that are too much leave."""
        self._captured[key] = (program, num_bytes)
        while self.captured_bytes > self.limit_bytes and len(self._captured) > 1:
            self._captured.popitem(last=False)

    def _use(self, key: Hashable) -> P:
        """A captured program, now the most recently used one."""
        self._captured.move_to_end(key)
        return self._captured[key][0]

    def _drop(self, keys: Iterable[Hashable]) -> None:
        for key in keys:
            del self._captured[key]


def keep(kept: OrderedDict[Any, Any], key: Hashable, value: Any, limit: int) -> None:
    """Add a value as the most recently used one, and drop those that are too many."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > limit:
        kept.popitem(last=False)


def label_of(error: Exception) -> EagerReason:
    """The kind of reason that an error in a capture is."""
    no_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    text = str(error)
    if no_memory or "can't allocate memory" in text or "out of memory" in text:
        return "out_of_memory"
    return "unsupported"


def message_of(what: str, error: Exception) -> str:
    """A reason: what can't be done, and the first line of the error."""
    return f"the iteration can't be {what}: {first_line(error)}"


def _shown(name: Hashable) -> str:
    """The name of a program for the log."""
    return str(name[-1]) if isinstance(name, tuple) else str(name)
