"""The forwards of a decoding, counted and timed, in eager and in recorded iterations alike.

Every forward begins with a mark such as "+target 1 5" (model, rows, tokens per row) and ends with
"-". A tape that is being recorded keeps the marks as segments of its own and emits them at every
replay, when `LM` is no longer called; otherwise they are emitted at once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mtad.bench.speed.cost import Forwards
from mtad.core.tree import TokenTree
from mtad.measure.device import synchronize
from mtad.measure.phases import PhaseClock
from mtad.model.drafter import Drafter
from mtad.model.head_drafter import HeadDrafter
from mtad.model.lm import LM
from mtad.runtime.backend import OnPhase
from mtad.runtime.tape import mark

_BEGIN, _END = "+", "-"


class ForwardClock:
    """Adds up the forwards and the phases of a decoding; what `generate` takes as `on_phase`.

    Args:
        device: where the models are; its work is waited for at every border.
        is_warm: says after each iteration whether it ran as the following ones will.

    Attributes:
        phases: the clock of the phases.
        counts: forwards by model, rows and tokens per row.
        seconds: that they took.
        num_unsettled: iterations that were recorded, or compared with their recording.
    """

    def __init__(self, device: torch.device, is_warm: Callable[[], bool] = lambda: True) -> None:
        self.phases = PhaseClock.of(device)
        self.counts: Counter[tuple[str, int, int]] = Counter()
        self.seconds, self.num_unsettled = 0.0, 0
        self._device, self._is_warm = device, is_warm
        self._begun = 0.0

    @property
    def forwards(self) -> tuple[Forwards, ...]:
        """The counts as values."""
        return tuple(Forwards(*shape, count) for shape, count in sorted(self.counts.items()))

    def __call__(self, phase: str) -> None:
        """Count a mark; pass everything else on to the clock of the phases."""
        if phase.startswith(_BEGIN):
            model, rows, tokens = phase.removeprefix(_BEGIN).split()
            self.counts[model, int(rows), int(tokens)] += 1
            self._begun = self._now()
        elif phase == _END:
            self.seconds += self._now() - self._begun
        else:
            self.phases(phase)
            self.num_unsettled += phase == "end" and not self._is_warm()

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()


@contextmanager
def marked_forwards(listener: OnPhase | None) -> Iterator[None]:
    """Marks the forwards of every model and head within the block.

    What is recorded within keeps its marks: use one set of tapes either inside of such blocks or
    outside.

    Args:
        listener: gets the marks of eager forwards; those of recorded ones go to `on_phase`.
    """
    plain = [(cls, name, getattr(cls, name)) for cls, name in _tokens_of]
    for cls, name, function in plain:
        setattr(cls, name, _marked(function, _tokens_of[cls, name], listener or _ignore))
    try:
        yield
    finally:
        for cls, name, function in plain:
            setattr(cls, name, function)


def _marked(
    function: Any, tokens_of: Callable[[TokenTree], int], listener: OnPhase
) -> Callable[..., Any]:
    def emit(phase: str) -> None:
        if not mark(phase):
            listener(phase)

    def marked(self: Drafter, tree: TokenTree, *arguments: Any, **options: Any) -> Any:
        emit(f"{_BEGIN}{self.name} {self.num_rows} {tokens_of(tree)}")
        logits = function(self, tree, *arguments, **options)
        emit(_END)
        return logits

    return marked


def _ignore(phase: str) -> None:
    """No-op phase callback."""


def _level_tokens(tree: TokenTree) -> int:
    """Tokens per row that `LM.forward_level` feeds: the root comes with the token before it."""
    return _width(tree) if tree.depth else 2


def _width(tree: TokenTree) -> int:
    """Nodes of the deepest level, which is all that a head reads."""
    level = tree.last_level
    return int(level.stop - level.start)


_tokens_of: dict[tuple[type[Drafter], str], Callable[[TokenTree], int]] = {
    (LM, "forward"): lambda tree: tree.num_nodes,
    (LM, "forward_level"): _level_tokens,
    (HeadDrafter, "forward_level"): _width,
}
