"""Iterations on a CPU as tapes: recorded once per form of the state, replayed in every session.

A tape takes all that changes as its input, caches included, so that it outlives the session it was
recorded in. Knows no model, no method and no loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import chain
from operator import is_
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mtad.errors import first_line
from mtad.runtime.backend import OnPhase, Program, ignore_phase
from mtad.runtime.linear.formats import REWRITES
from mtad.runtime.programs import Programs, keep, label_of, message_of
from mtad.runtime.state import State, are_same, form_of, mapped, tensors_of
from mtad.runtime.tape import Tape

PATIENCE = 24
"""Iterations of a form that run eagerly before it is recorded, which takes as long as some 50."""
NUM_VALIDATIONS = 4
"""Iterations that a new tape and the program both run, before the tape alone is used."""
LIMIT_BYTES = 3 * 2**28
"""Memory that tapes may take; one of the embedded pair takes some 24 MiB."""
MOST_LAST = 8
"""Names whose last replay is remembered."""


_Key: TypeAlias = tuple[Hashable, ...]


@dataclass(frozen=True)
class _Last:
    """What the last replay left behind.

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


@dataclass
class _Recorded:
    """A tape, and how often it was compared with the program."""

    tape: Tape
    num_validations: int = 0


class Tapes(Programs[_Recorded]):
    """The recorded iterations of one pair of models.

    Args:
        patience: see `PATIENCE`.
        limit_bytes: see `LIMIT_BYTES`.
    """

    def __init__(self, patience: int = PATIENCE, limit_bytes: int = LIMIT_BYTES) -> None:
        super().__init__(patience, limit_bytes)
        self._last: OrderedDict[Hashable, _Last] = OrderedDict()

    def _run(
        self, name: Hashable, state: State, program: Program, begin: OnPhase, split: bool
    ) -> Tensor:
        """As `run`; a tape calls `begin` whether or not `split` asks for that."""
        key = self._key(name, state)
        if key not in self._captured:
            if not self._is_due(key):
                return self.run_eagerly(program, begin, "warming_up")
            return self._record(key, name, state, program, begin)
        recorded = self._use(key)
        self.is_warm = recorded.num_validations >= NUM_VALIDATIONS
        self.last_mode = "captured" if self.is_warm else "capturing"
        if self.is_warm:
            return self._replay(recorded.tape, key, state, begin)
        return self._validate(recorded, key, state, program, begin)

    def _key(self, name: Hashable, state: State) -> _Key:
        """What a tape is kept under: that of the last replay, if nothing has changed since."""
        last, casts = self._last.get(name), torch.is_autocast_enabled("cpu")
        if last is not None and last.key[1] == casts and are_same(state.values, last.values):
            return last.key
        buffers = tuple(form_of(buffer) for buffer in state.buffers)
        return name, casts, form_of(state.values), buffers

    def _replay(self, tape: Tape, key: _Key, state: State, begin: OnPhase) -> Tensor:
        last, before = self._last.get(key[0]), state.values
        if last is None or not are_same(before, last.values):
            parts = [[*tensors_of(value)] for value in before]
            last = _Last(key, before, [*chain(*parts)], [*map(len, parts)])
        output, *after = tape.replay([*last.tensors, *state.buffers], begin)
        state.bind(_filled(before, last.sizes, last.tensors, after))
        keep(self._last, key[0], _Last(key, state.values, after, last.sizes), MOST_LAST)
        return output

    def _validate(
        self, recorded: _Recorded, key: _Key, state: State, program: Program, begin: OnPhase
    ) -> Tensor:
        """The output of the program, and proof that the tape gives the same.

        It finds what the recording can't see: values that were read past torch's dispatcher.
        """
        before, error = state.values, None
        try:
            replayed = [self._replay(recorded.tape, key, state, ignore_phase)]
            replayed += [*tensors_of(state.values), *_sums(state)]
        except Exception as caught:  # whatever an operation of the tape raises
            error = caught
        state.bind(before)
        output = program(begin)
        found = [output, *tensors_of(state.values), *_sums(state)]
        if error is None and all(map(torch.equal, replayed, found)):
            recorded.num_validations += 1
            return output
        self._drop([key])
        if error is None:
            message = "the iteration depends on more than the recording shows"
            self._fall_back(key[0], "mismatch", message)
        else:
            message = f"the recorded iteration can't be replayed: {first_line(error)}"
            label = label_of(error)
            self._fall_back(key[0], label if label == "out_of_memory" else "mismatch", message)
        return output

    def _record(
        self, key: _Key, name: Hashable, state: State, program: Program, begin: OnPhase
    ) -> Tensor:
        """The output of the program, once it is recorded or the reason against that is noted.

        What the recorded run writes to the buffers is written again by the eager one.
        """
        tape = self._recorded(state, program)
        output = self.run_eagerly(program, begin, "warming_up")  # may raise on its own
        self.last_mode = "capturing"
        if isinstance(tape, Tape):
            self._keep(key, _Recorded(tape), tape.num_bytes)
        else:
            self._fall_back(name, label_of(tape), message_of("recorded", tape))
        return output

    def _recorded(self, state: State, program: Program) -> Tape | Exception:
        """A tape of the program, or what is wrong with it; the state is left as it was."""
        before = state.values
        state.bind(mapped(torch.clone, before))  # so that no two inputs are one tensor
        inputs = [*tensors_of(state.values), *state.buffers]
        try:
            return Tape(lambda begin: [program(begin), *tensors_of(state.values)], inputs, REWRITES)
        except Exception as error:  # whatever a method does that no tape can hold
            return error
        finally:
            state.bind(before)


def _sums(state: State) -> list[Tensor]:
    """Fingerprints of the buffers; copies would take as much memory again."""
    return [buffer.sum(dtype=torch.float64) for buffer in state.buffers]


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
