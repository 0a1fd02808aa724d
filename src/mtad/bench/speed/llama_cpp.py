"""llama.cpp on the same model, plain and with its own speculation, timed like the methods of mtad.

The target is written as a GGUF file in several quantisations. llama.cpp gets the token ids of the
prompts, so that its tokenizer has no part. It speculates with a draft model, where the pair's draft
is one, or with what came in the prompt after the tokens that it has just written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mtad.bench.speed.baseline import NUM_ASSISTANT_TOKENS
from mtad.bench.speed.llama_engine import LlamaEngine
from mtad.bench.speed.rows import Measured
from mtad.bench.speed.runs import Batch, Decoder, Sampling, shortened
from mtad.errors import MtadError
from mtad.model.gguf_writing import WEIGHTS

LLAMA_CPP = "llama.cpp"
SPECULATIONS = ("", "lookup", "draft")
"""None; tokens from the prompt; a draft model, in the target's quantisation."""
PAUSE_S = 0.2
"""Before a turn, so that the threads of the turn before, which wait for more work by spinning, have
given the processor back."""


@dataclass(frozen=True)
class Variant:
    """A way to decode with llama.cpp.

    Attributes:
        weights: the quantisation.
        speculation: one of `SPECULATIONS`.
    """

    weights: str
    speculation: str

    @property
    def needs_draft(self) -> bool:
        """Whether it is for pairs whose draft is a model."""
        return self.speculation == "draft"

    @property
    def label(self) -> str:
        """Its name in tables."""
        return " ".join(filter(None, (LLAMA_CPP, self.weights, self.speculation)))


VARIANTS = {v.label: v for v in (Variant(w, s) for s in SPECULATIONS for w in WEIGHTS)}
"""All variants by label, the plain ones first."""


@dataclass(frozen=True)
class LlamaCpp(Decoder):
    """A variant of llama.cpp.

    Attributes:
        variant: which.
        engine: decodes.
    """

    variant: Variant
    engine: LlamaEngine

    @property
    def method(self) -> Mapping[str, Any] | None:
        """None: it is not a method of mtad."""
        return None

    def warm_up(self, batches: Sequence[Batch], seeds: Sequence[int], sampling: Sampling) -> None:
        """Write the files, load them, and decode a few tokens of each prompt's length."""
        with suppress(MtadError):  # a row will say so
            for batch, seed in zip(batches, seeds, strict=True):
                self.measure(batch, seed, shortened(sampling, self.loaded.device))

    def measure(self, batch: Batch, seed: int, sampling: Sampling) -> Measured:
        """Decode the one prompt; its first token comes with the prefill."""
        [prompt] = batch
        request = self._request(prompt, seed, sampling)
        time.sleep(PAUSE_S)
        begun = self.meter.start()
        found = self.engine.decode(request)
        energy = self.meter.stop(begun)
        num_decoded = len(found["tokens"]) - 1
        steps = num_decoded - found["num_accepted"]
        return Measured(
            num_rows=1,
            num_prompt_tokens=len(prompt),
            num_output_tokens=len(found["tokens"]),
            num_iterations=steps,
            num_row_steps=steps,
            num_accepted=found["num_accepted"],
            prefill_s=found["prefill_s"],
            decode_s=found["decode_s"],
            num_decoded=num_decoded,
            wall_s=found["prefill_s"] + found["decode_s"],
            forward_s=found["forward_s"],
            energy=energy,
            texts=[found["tokens"]] if sampling.temperature == 0 else [],
        )

    def _request(self, prompt: Sequence[int], seed: int, sampling: Sampling) -> dict[str, Any]:
        """What llama_cpp.mjs takes."""
        ends = [] if sampling.ignore_eos else list(self.loaded.pair.models.eos_token_ids)
        return {
            "model": self._file("target"),
            "draft": self._file("draft") if self.variant.needs_draft else None,
            "speculation": self.variant.speculation,
            "num_draft_tokens": NUM_ASSISTANT_TOKENS,
            "prompt": list(prompt),
            "max_new_tokens": sampling.max_new_tokens,
            "ends": ends,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "seed": seed,
        }

    def _file(self, name: str) -> str:
        return str(self.engine.file(self.loaded.plain, name, self.variant.weights))
