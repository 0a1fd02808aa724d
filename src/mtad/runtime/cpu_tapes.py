"""Iterations on a CPU as tapes: recorded once per form of the state, played in every session.

A tape takes all that changes as its input, caches included, so that it outlives the session it was
recorded in. What can't be recorded runs eagerly, and the reason is kept. Knows no model, no method
and no loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import chain
from operator import is_
from threading import RLock
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mtad.errors import first_line
from mtad.runtime.backend import OnPhase, Pace, Program
from mtad.runtime.cuda_graphs import State, are_same, form_of, keep, mapped, tensors_of
from mtad.runtime.linear.packed import SCRIPTED
from mtad.runtime.tape import Tape

PATIENCE = 24
"""Iterations of a form that run eagerly before it is recorded, which takes as long as some 50."""
TRIALS = 4
"""Iterations that a new tape and the program both run, before the tape is believed."""
LIMIT = 32
"""Most tapes that are kept, the least recently used leaving first."""


_Key: TypeAlias = tuple[Hashable, ...]


@dataclass(frozen=True)
class _Last:
    """What the last play left behind.

    Attributes:
        key: of its tape.
        values: of the state.
        tensors: in them.
        sizes: how many tensors are in each of them.
    """

    key: _Key
    values: tuple[Any, ...]
    tensors: list[Tensor]
    sizes: list[int]


class Tapes:
    """The recorded iterations of one pair of models.

    Args:
        patience: see `PATIENCE`.
        limit: see `LIMIT`.

    Attributes:
        pace: how the last run went: "eager", "captured" if it was played, or "capturing" if a tape
            was made or tried, which takes its time.
    """

    def __init__(self, patience: int = PATIENCE, limit: int = LIMIT) -> None:
        self.patience, self.limit = patience, limit
        self._reasons: dict[Hashable, str] = {}
        self._uses: OrderedDict[Hashable, int] = OrderedDict()
        self._tapes: OrderedDict[_Key, Tape] = OrderedDict()
        self._trials: dict[_Key, int] = {}
        self._lock = RLock()
        self._last: _Last | None = None
        self.pace: Pace = "eager"

    @property
    def num_captured(self) -> int:
        """Tapes that are kept."""
        return len(self._tapes)

    def reason(self, name: Hashable) -> str | None:
        """Why the iterations of that name run eagerly; None where they may be recorded."""
        return self._reasons.get(name)

    @property
    def is_settled(self) -> bool:
        """Whether the last run took as long as those to come, as far as is known."""
        return self.pace == "captured" or (self.pace == "eager" and bool(self._reasons))

    def run(
        self, name: Hashable, state: State, program: Program, begin: OnPhase, split: bool
    ) -> Tensor:
        """The output of `program`, played where it is recorded, eager otherwise; as `Graphs.run`.

        A tape tells its phases whether or not that is asked for by `split`.
        """
        with self._lock:
            return self._run(name, state, program, begin)

    def _run(self, name: Hashable, state: State, program: Program, begin: OnPhase) -> Tensor:
        self.pace = "eager"
        if name in self._reasons:
            return program(begin)
        key = self._key(name, state)
        if key not in self._tapes:
            uses = self._uses.pop(key, 0)
            if uses >= self.patience:
                self.pace = "capturing"
                self._record(key, name, state, program)
            else:
                keep(self._uses, key, uses + 1, 16 * self.limit)
            return program(begin)
        if self._trials[key] < TRIALS:
            self.pace = "capturing"
            return self._try(key, name, state, program, begin)
        self._tapes.move_to_end(key)
        self.pace = "captured"
        return self._play(key, state, begin)

    def _key(self, name: Hashable, state: State) -> _Key:
        """What a tape is kept under: that of the last play, if nothing has changed since."""
        last, casts = self._last, torch.is_autocast_enabled("cpu")
        if (
            last is not None
            and last.key[:2] == (name, casts)
            and are_same(state.values, last.values)
        ):
            return last.key
        buffers = tuple(form_of(buffer) for buffer in state.buffers)
        return name, casts, form_of(state.values), buffers

    def _play(self, key: _Key, state: State, begin: OnPhase) -> Tensor:
        last, before = self._last, state.values
        if last is None or not are_same(before, last.values):
            parts = [[*tensors_of(value)] for value in before]
            last = _Last(key, before, [*chain(*parts)], [*map(len, parts)])
        output, *after = self._tapes[key].play([*last.tensors, *state.buffers], begin)
        state.bind(_filled(before, last.sizes, last.tensors, after))
        self._last = _Last(key, state.values, after, last.sizes)
        return output

    def _try(
        self, key: _Key, name: Hashable, state: State, program: Program, begin: OnPhase
    ) -> Tensor:
        """The output of the program, once more, and proof that the tape says the same.

        It finds what the recording can't see: values that were read past torch's dispatcher.
        """
        before, agrees = state.values, False
        try:
            played = [self._play(key, state, _ignore), *tensors_of(state.values)]
            played += _sums(state)
        except Exception as error:
            reason = f"the recorded iteration can't be played: {first_line(error)}"
        else:
            reason = "the iteration depends on more than the recording shows"
            agrees = True
        state.bind(before)
        output = program(begin)
        found = [output, *tensors_of(state.values), *_sums(state)]
        if agrees and all(map(torch.equal, played, found)):
            self._trials[key] += 1
        else:
            del self._tapes[key], self._trials[key]
            self._reasons[name] = reason
        return output

    def _record(self, key: _Key, name: Hashable, state: State, program: Program) -> None:
        """Record the program, or note why that is impossible; the state is left as it was.

        What a run writes to the buffers is written again by the next one.
        """
        before = state.values
        state.bind(mapped(torch.clone, before))  # so that no two inputs are one tensor
        inputs = [*tensors_of(state.values), *state.buffers]
        try:
            tape = Tape(
                lambda begin: [program(begin), *tensors_of(state.values)], inputs, [SCRIPTED]
            )
        except Exception as error:
            self._reasons[name] = f"the iteration can't be recorded: {first_line(error)}"
        else:
            keep(self._tapes, key, tape, self.limit)
            self._trials = {k: self._trials.get(k, 0) for k in self._tapes}
        finally:
            state.bind(before)


def _sums(state: State) -> list[Tensor]:
    """Fingerprints of the buffers; copies would take as much memory again."""
    return [buffer.sum(dtype=torch.float64) for buffer in state.buffers]


def _ignore(phase: str) -> None:
    """Told phases that nobody times."""


def _filled(
    values: tuple[Any, ...], sizes: list[int], old: list[Tensor], new: list[Tensor]
) -> tuple[Any, ...]:
    """The values, which hold `sizes` tensors each, with `new` for `old`; unchanged ones stay."""
    filled, start = [], 0
    for value, size in zip(values, sizes, strict=True):
        olds, news = old[start : start + size], new[start : start + size]
        start += size
        filled.append(value if all(map(is_, olds, news)) else _replaced(value, iter(news)))
    return tuple(filled)


def _replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    return mapped(lambda _: next(tensors), value)
