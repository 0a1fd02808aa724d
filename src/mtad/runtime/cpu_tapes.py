"""Iterations on a CPU as tapes: recorded once per form of the state, replayed in every session.

A tape takes all that changes as its input, caches included, so that it outlives the session it was
recorded in. Caches of another size are tried with the same tape, which a comparison with the
program allows or refuses, so that texts of different lengths share it. Knows no model, no method
and no loop.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import is_
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from mtad.errors import first_line
from mtad.runtime.backend import OnPhase, Program, ignore_phase
from mtad.runtime.linear.formats import REWRITES
from mtad.runtime.programs import MOST_FORMS, Programs, keep, label_of, message_of
from mtad.runtime.state import State, are_same, form_of, mapped, tensors_of
from mtad.runtime.tape import Tape

PATIENCE = 8
"""Iterations of a form that run eagerly before it is recorded, which takes as long as some 10."""
NUM_VALIDATIONS = 4
"""Iterations that a new tape and the program both run, before the tape alone is used."""
NUM_TRIALS = 1
"""As many with buffers of other sizes than those that it was recorded with."""
LIMIT_BYTES = 3 * 2**28
"""Memory that tapes may take; one of the embedded pair takes some 24 MiB."""
MOST_LAST = 8
"""Names whose last replay is remembered."""
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)


_Key: TypeAlias = tuple[Hashable, ...]


@dataclass(frozen=True)
class _Last:
    """What the last replay left behind.

    Attributes:
        key: of its tape.
        values: of the state.
        tensors: in them.
        counts: how many tensors are in each of them.
        sizes: of the state.
    """

    key: _Key
    values: tuple[Any, ...]
    tensors: list[Tensor]
    counts: list[int]
    sizes: tuple[int, ...]


@dataclass
class _Recorded:
    """A tape, and how often it was compared with the program.

    Attributes:
        sizes: of the state that it was recorded with.
        num_validations: by sizes of the state.
    """

    tape: Tape
    sizes: tuple[int, ...]
    num_validations: Counter[tuple[int, ...]] = field(default_factory=Counter)

    def is_valid(self, sizes: tuple[int, ...]) -> bool:
        """Whether it was compared often enough to be used alone."""
        needed = NUM_VALIDATIONS if sizes == self.sizes else NUM_TRIALS
        return self.num_validations[sizes] >= needed


class Tapes(Programs[_Recorded]):
    """The recorded iterations of one pair of models.

    Args:
        patience: see `PATIENCE`.
        limit_bytes: see `LIMIT_BYTES`.
    """

    CAPTURE_COST: ClassVar[float] = 16.0

    def __init__(self, patience: int = PATIENCE, limit_bytes: int = LIMIT_BYTES) -> None:
        super().__init__(patience, limit_bytes)
        self._last: OrderedDict[Hashable, _Last] = OrderedDict()
        self._apart: OrderedDict[_Key, None] = OrderedDict()

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
        self.is_warm = recorded.is_valid(state.sizes)
        self.last_mode = "captured" if self.is_warm else "capturing"
        if self.is_warm:
            return self._replay(recorded.tape, key, state, begin)
        return self._validate(recorded, key, state, program, begin)

    def _key(self, name: Hashable, state: State) -> _Key:
        """What a tape is kept under: that of the last replay, if nothing has changed since."""
        last, casts = self._last.get(name), torch.is_autocast_enabled("cpu")
        now = casts, state.sizes
        if last and (last.key[1], last.sizes) == now and are_same(state.values, last.values):
            return last.key
        form = _unsized if state.sizes else form_of
        key = name, casts, form_of(state.values), tuple(map(form, state.buffers))
        return (*key, state.sizes) if (*key, state.sizes) in self._apart else key

    def _replay(self, tape: Tape, key: _Key, state: State, begin: OnPhase) -> Tensor:
        last, before = self._last.get(key[0]), state.values
        if last is None or not are_same(before, last.values):
            parts = [[*tensors_of(value)] for value in before]
            last = _Last(key, before, [*chain(*parts)], [*map(len, parts)], state.sizes)
        output, *after = tape.replay([*last.tensors, *state.buffers], begin)
        state.bind(_filled(before, last.counts, last.tensors, after))
        last = _Last(key, state.values, after, last.counts, state.sizes)
        keep(self._last, key[0], last, MOST_LAST)
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
            recorded.num_validations[state.sizes] += 1
        elif state.sizes != recorded.sizes:
            keep(self._apart, (*key, state.sizes), None, MOST_FORMS)
            self._last.pop(key[0], None)
        else:
            self._refuse(key, error)
        return output

    def _refuse(self, key: _Key, error: Exception | None) -> None:
        """Drop a tape that raised this error, or gave something else than the program."""
        self._drop([key])
        if error is None:
            message = "the iteration depends on more than the recording shows"
            return self._fall_back(key[0], "mismatch", message)
        message = f"the recorded iteration can't be replayed: {first_line(error)}"
        label = label_of(error)
        self._fall_back(key[0], label if label == "out_of_memory" else "mismatch", message)

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
            self._keep(key, _Recorded(tape, state.sizes), tape.num_bytes)
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


def _unsized(buffer: Tensor) -> Hashable:
    """The form of a buffer that may be of any size but for the first."""
    return buffer.ndim, buffer.shape[0], buffer.dtype, buffer.device


def _sums(state: State) -> list[Tensor]:
    """Fingerprints of the buffers, of their bits; copies would take as much memory again."""
    return [_bits(buffer).sum() for buffer in state.buffers]


def _bits(buffer: Tensor) -> Tensor:
    """The bits of a buffer as integers, the largest that fit: they are added up the quickest."""
    size = buffer.shape[-1] * buffer.element_size()
    whole = next(kind for kind in _INTEGERS if size % kind.itemsize == 0)
    return buffer.view(whole)


def _filled(
    values: tuple[Any, ...], counts: list[int], old: list[Tensor], new: list[Tensor]
) -> tuple[Any, ...]:
    """The values, which hold `counts` tensors each, with `new` for `old`; unchanged ones stay."""
    filled, start = [], 0
    for value, count in zip(values, counts, strict=True):
        olds, news = old[start : start + count], new[start : start + count]
        start += count
        filled.append(value if all(map(is_, olds, news)) else _replaced(value, iter(news)))
    return tuple(filled)


def _replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    return mapped(lambda _: next(tensors), value)
