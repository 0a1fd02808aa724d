"""transformers' own `generate`, plain and assisted, timed like the methods of mtad."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtad.bench.speed.cost import Forwards
from mtad.bench.speed.observe import MemoryWatch, repeated_energy
from mtad.bench.speed.rows import Measured, Observed
from mtad.bench.speed.runs import Batch, Decoder, Sampling, shortened
from mtad.errors import MtadError
from mtad.measure.device import synchronize

TRANSFORMERS = "transformers"
PLAIN, ASSISTED = f"{TRANSFORMERS} generate", f"{TRANSFORMERS} assisted"
NUM_ASSISTANT_TOKENS = 4


@dataclass(frozen=True)
class Transformers(Decoder):
    """`generate` of transformers on plain models.

    Attributes:
        is_assisted: whether the draft helps; transformers does that for single prompts only.
    """

    is_assisted: bool

    @property
    def method(self) -> Mapping[str, Any] | None:
        """None: it is not a method of mtad."""
        return None

    def warm_up(self, batches: Sequence[Batch], seeds: Sequence[int], sampling: Sampling) -> None:
        """Decode a few tokens of one batch."""
        with suppress(MtadError):  # a row will say so
            self.measure(batches[0], seeds[0], shortened(sampling, self.loaded.device))

    def measure(self, batch: Batch, seed: int, sampling: Sampling) -> Measured:
        """Decode the prompts once for one token, which is the prefill, and once to the end."""
        self._set_ends(sampling)
        prefill_s, _ = self._generate(batch, seed, replace(sampling, max_new_tokens=1), False)
        memory = MemoryWatch.start(self.loaded.device) if self.watches_memory else None
        begun = self.meter.start()
        wall_s, new = self._generate(batch, seed, sampling, self.is_assisted)
        energy = self.meter.stop(begun)
        peak = None if memory is None else memory.peak()
        if energy is None:
            again = partial(self._generate, batch, seed, sampling, self.is_assisted)
            energy = repeated_energy(self.meter, again, wall_s)
        found = self._measured(batch, new, min(prefill_s, wall_s), wall_s)
        texts = self._texts(new) if sampling.temperature == 0 else []
        return replace(found, energy=energy, memory_bytes=peak, texts=texts)

    def _measured(self, batch: Batch, new: Tensor, prefill_s: float, wall_s: float) -> Measured:
        """The first token of every text comes with the prefill; assisted steps are not known."""
        lengths = [len(text) for text in self._texts(new)]
        num_decoded = sum(lengths) - len(batch)
        steps, decode_s = max(lengths) - 1, wall_s - prefill_s
        forwards = (Forwards("target", len(batch), 1, steps),)
        observed = Observed(decode_s, steps, {}, 0.0, forwards) if steps else None
        return Measured(
            num_rows=len(batch),
            num_prompt_tokens=sum(map(len, batch)),
            num_output_tokens=sum(lengths),
            num_iterations=0 if self.is_assisted else steps,
            num_row_steps=0 if self.is_assisted else num_decoded,
            num_accepted=0,
            prefill_s=prefill_s,
            decode_s=decode_s,
            num_decoded=num_decoded,
            wall_s=wall_s,
            observed=None if self.is_assisted else observed,
        )

    def _generate(
        self, batch: Batch, seed: int, sampling: Sampling, is_assisted: bool
    ) -> tuple[float, Tensor]:
        """Seconds, and the new tokens."""
        torch.manual_seed(seed)
        model: Any = self.loaded.plain.models.target
        synchronize(self.loaded.device)
        started = time.perf_counter()
        inputs = left_padded(batch, self.loaded.device)
        with torch.inference_mode():
            found = model.generate(**inputs, **self._options(sampling, is_assisted))
        synchronize(self.loaded.device)
        return time.perf_counter() - started, found[:, inputs["input_ids"].shape[1] :]

    def _options(self, sampling: Sampling, is_assisted: bool) -> dict[str, Any]:
        draws = sampling.temperature > 0
        options: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, "do_sample": draws}
        options["pad_token_id"] = self._padding
        if draws:
            names = ("temperature", "top_k", "top_p")
            options |= {name: getattr(sampling, name) for name in names}
        if is_assisted:
            options |= {
                "assistant_model": self.loaded.plain.models.draft,
                "num_assistant_tokens": NUM_ASSISTANT_TOKENS,
                "num_assistant_tokens_schedule": "constant",
            }
        return options

    @property
    def _padding(self) -> int:
        return next(iter(self.loaded.pair.models.eos_token_ids), 0)

    def _set_ends(self, sampling: Sampling) -> None:
        """End texts at the EOS tokens of our pair."""
        ends = None if sampling.ignore_eos else list(self.loaded.pair.models.eos_token_ids) or None
        models = self.loaded.plain.models
        for model in (models.target, models.draft):
            config: Any = getattr(model, "generation_config", None)
            if config is not None:
                config.eos_token_id = ends

    def _texts(self, new: Tensor) -> list[list[int]]:
        """The tokens of each text up to its first end."""
        config: Any = self.loaded.plain.models.target.generation_config
        ends = config.eos_token_id or []
        rows: list[list[int]] = new.tolist()
        lengths = (next((i + 1 for i, one in enumerate(r) if one in ends), len(r)) for r in rows)
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def left_padded(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """The prompts as `generate` takes them: padded at their beginning."""
    longest = max(map(len, batch))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in batch]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch]
    return {
        "input_ids": torch.tensor(ids, dtype=torch.int64, device=device),
        "attention_mask": torch.tensor(mask, dtype=torch.int64, device=device),
    }
