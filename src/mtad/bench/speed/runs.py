"""One way to decode a batch of prompts, timed, and the methods of mtad as such ways."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from mtad.api.pair import Completion, ModelPair
from mtad.bench.speed.marks import ForwardClock, marked_forwards
from mtad.bench.speed.models import Loaded
from mtad.bench.speed.observe import MemoryWatch, repeated_energy
from mtad.bench.speed.rows import Measured, Observed
from mtad.engine.workspace import CapturedPrograms
from mtad.errors import MtadError
from mtad.measure.meter import Meter
from mtad.methods import describe
from mtad.runtime.cpu_tapes import NUM_VALIDATIONS
from mtad.runtime.cuda_graphs import Graphs
from mtad.speculative.method import Method, method_key

Batch = Sequence[list[int]]
RECORDED, EAGER = "recorded", "eager"
NUM_WARM_UPS = NUM_VALIDATIONS + 1
"""So often at most is a batch decoded before it is timed: after them, a form of iteration that
occurs once in its text is recorded and validated."""
WARM_UP_TOKENS = {"cpu": 8, "cuda": 128}
"""A GPU is prepared for every shape that it has seen some times."""


@dataclass(frozen=True)
class Sampling:
    """How every run draws.

    Attributes:
        temperature, top_k, top_p: as in `SamplingParams`.
        max_new_tokens: budget of every text.
        ignore_eos: whether texts go on to the end of their budget.
    """

    temperature: float = 1.0
    top_k: int = 10
    top_p: float = 0.9
    max_new_tokens: int = 128
    ignore_eos: bool = False


@dataclass(frozen=True)
class Decoder(ABC):
    """A way to decode.

    Attributes:
        label: its name in tables.
        loaded: the models.
        meter: for energy.
        watches_memory: whether the peak is measured, before which free memory is given back.
    """

    label: str
    loaded: Loaded
    meter: Meter
    watches_memory: bool = field(default=False, kw_only=True)

    @property
    @abstractmethod
    def method(self) -> Mapping[str, Any] | None:
        """Name and options of the method; None if it is not one of mtad's."""

    @abstractmethod
    def warm_up(self, batches: Sequence[Batch], seeds: Sequence[int], sampling: Sampling) -> None:
        """Decode what has to be decoded before the batches are timed."""

    @abstractmethod
    def measure(self, batch: Batch, seed: int, sampling: Sampling) -> Measured:
        """Decode the prompts; text i gets the seed `seed` + i where texts have their own."""


@dataclass(frozen=True)
class Ours(Decoder):
    """A method on the engine of mtad; `chosen` is the method."""

    chosen: Method

    @property
    def method(self) -> Mapping[str, Any] | None:
        """Name and options."""
        return describe(self.chosen)

    def warm_up(self, batches: Sequence[Batch], seeds: Sequence[int], sampling: Sampling) -> None:
        """Decode all batches until their iterations are recorded, so that no timed one has to be.

        On a GPU a few tokens do.
        """
        if self.loaded.device.type != "cpu":
            with suppress(MtadError):  # a row will say so
                self.measure(batches[0], seeds[0], shortened(sampling, self.loaded.device))
            return
        todo = [*zip(batches, seeds, strict=True)]
        for _ in range(NUM_WARM_UPS):
            todo = [one for one in todo if self._is_unsettled(*one, sampling)]

    def _is_unsettled(self, batch: Batch, seed: int, sampling: Sampling) -> bool:
        """Decode, and say whether something was still being recorded."""
        with suppress(MtadError):  # a row will say so
            return self._observed(batch, seed, sampling).num_unsettled > 0
        return False

    def measure(self, batch: Batch, seed: int, sampling: Sampling) -> Measured:
        """Decode the prompts; on a GPU a second time for the phases, which cost speed there."""
        if self.loaded.device.type == "cpu":
            found = self._observed(batch, seed, sampling)
        else:
            found = self._timed(batch, seed, sampling)
            found = replace(found, observed=self._observed(batch, seed, sampling).observed)
        if found.energy is not None:
            return found
        again = partial(self._timed, batch, seed, sampling)
        return replace(found, energy=repeated_energy(self.meter, again, found.wall_s))

    def _observed(self, batch: Batch, seed: int, sampling: Sampling) -> Measured:
        """Eager on a GPU: a CUDA graph holds the work of its phases, but not their marks."""
        pair = self.loaded.pair
        is_on_cpu = self.loaded.device.type == "cpu"
        graphs = pair.graphs if is_on_cpu else Graphs(None, "they are observed")
        clock = ForwardClock(self.loaded.device, lambda: graphs.is_warm)
        with _recorded_by(pair, graphs):
            timed = self._timed(batch, seed, sampling, clock)
        seen = Observed(
            decode_s=timed.decode_s,
            num_iterations=timed.num_iterations,
            phases=dict(clock.phases.seconds),
            forward_s=clock.seconds,
            forwards=clock.forwards,
        )
        return replace(timed, observed=seen, num_unsettled=clock.num_unsettled)

    def _timed(
        self, batch: Batch, seed: int, sampling: Sampling, clock: ForwardClock | None = None
    ) -> Measured:
        options: dict[str, Any] = {"max_batch_size": len(batch), "on_phase": clock}
        options |= {"guard": False, **vars(sampling)}  # a guard would change the method
        options["seed"] = [seed + i for i in range(len(batch))]
        graphs = self.loaded.pair.graphs
        memory = MemoryWatch.start(self.loaded.device) if self.watches_memory else None
        begun, started = self.meter.start(), time.perf_counter()
        with marked_forwards(clock):
            texts = self.loaded.pair.generate(list(batch), self.chosen, **options)
        wall_s, energy = time.perf_counter() - started, self.meter.stop(begun)
        peak = None if memory is None else memory.peak()
        reason = graphs.reason(method_key(self.chosen))
        found = _of_texts(texts, sum(map(len, batch)), wall_s)
        return replace(
            found,
            texts=[text.token_ids for text in texts] if sampling.temperature == 0 else [],
            energy=energy,
            memory_bytes=peak,
            iterations=RECORDED if reason is None else EAGER,
            eager_reason=reason or "",
        )


def shortened(sampling: Sampling, device: torch.device) -> Sampling:
    """The same with a budget that is enough to warm a device up."""
    budget = WARM_UP_TOKENS.get(device.type, WARM_UP_TOKENS["cpu"])
    return replace(sampling, max_new_tokens=min(budget, sampling.max_new_tokens))


@contextmanager
def _recorded_by(pair: ModelPair, graphs: CapturedPrograms) -> Iterator[None]:
    """Within the block sessions of the pair use these graphs."""
    before = pair.graphs
    pair.graphs = graphs
    try:
        yield
    finally:
        pair.graphs = before


def _of_texts(texts: Sequence[Completion], num_prompt_tokens: int, wall_s: float) -> Measured:
    stats = [text.stats for text in texts]
    tokens = sum(s.num_output_tokens for s in stats)
    return Measured(
        num_rows=len(texts),
        num_prompt_tokens=num_prompt_tokens,
        num_output_tokens=tokens,
        num_iterations=max(s.num_spec_steps for s in stats),
        num_row_steps=sum(s.num_spec_steps for s in stats),
        num_accepted=sum(s.num_block_tokens - s.num_spec_steps for s in stats),
        prefill_s=max(s.prefill_s for s in stats),
        decode_s=max(s.decode_s for s in stats),  # of the text that took longest
        num_decoded=tokens,
        wall_s=wall_s,
    )
