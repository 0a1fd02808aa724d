"""The Python interface: a target and a draft that complete prompts together.

pair = mtad.load_pair("demo")
pair.generate(["def area(r):"], method=mtad.MTAD(accept_threshold=0.5), seed=0)[0].text
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from mtad.api.completion import Chunk as Chunk
from mtad.api.completion import Completion as Completion
from mtad.api.completion import Generation, with_text
from mtad.api.ends import ends_of
from mtad.api.guard import Guards, iterations, wants_guard
from mtad.api.options import Seed, method_of, seeds_for
from mtad.api.waiting import Waiting
from mtad.core.names import did_you_mean
from mtad.core.prompt import Prompt
from mtad.engine.request import check_requests
from mtad.engine.session import Request, Session
from mtad.engine.workspace import CapturedPrograms, Workspace
from mtad.grammar.grammar import Grammar, TextForm
from mtad.methods import require_draft
from mtad.model.drafter import Draft
from mtad.model.lm import Model
from mtad.model.loading import Models, Tokenizer, join, load_models, quiet
from mtad.model.parallel import agreed
from mtad.model.tokenizer import encode, prompt_list
from mtad.pairs import DEMO, PAIRS
from mtad.runtime.backend import OnPhase
from mtad.runtime.cuda_graphs import Graphs
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.trace.writer import SessionTrace, TraceWriter

_Way: TypeAlias = tuple[Method, OnPhase | None, bool, TraceWriter | None]
"""How a call decodes: the method, the callback for phases, whether there is a guard, the trace."""


class ModelPair:
    """A target model, a draft model and their tokenizer.

    Args:
        target: a causal language model of transformers.
        draft: a smaller one with the same tokenizer, or a head; None for methods that need none.
        tokenizer: the tokenizer; None if prompts are given as token ids.
        assistant_model: transformers' name for `draft`.
        trust_vocabulary: skip the comparison of the tokenizers.
        prefix_cache_mib: for keys and values of prompts, which others that begin alike copy; or 0.

    Attributes:
        models: both models and what they share.
        workspace: their KV caches and captured iterations, which all calls share.
    """

    def __init__(
        self,
        target: Model,
        draft: Draft | None = None,
        tokenizer: Tokenizer | None = None,
        *,
        draft_tokenizer: Tokenizer | None = None,
        assistant_model: Draft | None = None,
        trust_vocabulary: bool = False,
        prefix_cache_mib: int | None = None,
    ) -> None:
        draft = draft if draft is not None else assistant_model
        models = join(target, draft, tokenizer, draft_tokenizer, trust_vocabulary=trust_vocabulary)
        self._take(models, prefix_cache_mib)

    @classmethod
    def of(cls, models: Models, prefix_cache_mib: int | None = None) -> ModelPair:
        """A pair of models that were loaded and checked already."""
        pair = cls.__new__(cls)
        pair._take(models, prefix_cache_mib)
        return pair

    def _take(self, models: Models, prefix_cache_mib: int | None) -> None:
        self.models = models
        self.workspace = Workspace.of(models, prefix_cache_mib)
        self.guards = Guards(models, self.workspace)
        self._texts: dict[int, str] = {}

    @property
    def graphs(self) -> CapturedPrograms:
        """What captures iterations: tapes on a CPU, CUDA graphs on a GPU.

        Setting it begins anew, with None eagerly; sessions that run already keep theirs.
        """
        return self.workspace.programs

    @graphs.setter
    def graphs(self, programs: CapturedPrograms | None) -> None:
        self.workspace.programs = programs or Graphs(None)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that target and draft share."""
        return self.models.tokenizer

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        method: Method | str | None = None,
        *,
        seed: Seed = None,
        max_batch_size: int = 16,
        on_phase: OnPhase | None = None,
        guard: bool | None = None,
        trace: TraceWriter | None = None,
        grammar: TextForm = None,
        **sampling: Any,
    ) -> list[Completion]:
        """Completions of the prompts, in their order.

        Args:
            prompts: strings, chats or token ids (lists or arrays); one or many.
            method: how to decode, or the name of a method; MTAD with its defaults if None.
            seed: one for all prompts or one per prompt; random if None.
            max_batch_size: prompts decoded at once; the next one begins where a text ends.
            on_phase: called at the borders of an iteration's phases; see `OnPhase`.
            guard: whether each iteration drafts as many tokens as are expected to pay, up to the
                method's own number; `stats.fallback` says why if none do. A seed's text then
                depends on the clock, so None is yes only for a lossless method that is greedy or
                got no seed. Of lossy methods, plain steps follow the target's distribution.
            trace: every iteration is written there; see `docs/traces.md`.
            grammar: the form that every text must have: a `Grammar`, a JSON schema as a mapping, or
                a pydantic model. Lossless methods then follow the target without the tokens that
                it excludes, see `docs/structured-output.md`.
            sampling: fields of `SamplingParams` (temperature, top_k, top_p, max_new_tokens, …),
                `stop` (a string or several; a special token ends the text like EOS) and
                `ignore_eos`.

        Raises:
            ValueError: an option has an impossible value or the method can't honour it.
            MtadError: see `mtad.errors`.
        """
        sampling |= {"max_batch_size": max_batch_size, "on_phase": on_phase, "guard": guard}
        sampling |= {"seed": seed, "trace": trace, "grammar": grammar}
        chunks = self.stream_all(prompts, method, **sampling)
        done = {chunk.index: chunk.completion for chunk in chunks if chunk.completion}
        return [done[i] for i in sorted(done)]

    def stream(
        self, prompt: Prompt, method: Method | str | None = None, **options: Any
    ) -> Iterator[Chunk]:
        """The completion of one prompt as its blocks are committed; options as in `generate`."""
        prompts = prompt_list(prompt)
        if len(prompts) != 1:
            raise ValueError(f"stream takes one prompt, not {len(prompts)}; use stream_all")
        return self.stream_all(prompts, method, **options)

    def stream_all(
        self,
        prompts: Prompt | Sequence[Prompt],
        method: Method | str | None = None,
        *,
        seed: Seed = None,
        max_batch_size: int = 16,
        on_phase: OnPhase | None = None,
        guard: bool | None = None,
        trace: TraceWriter | None = None,
        grammar: TextForm = None,
        **sampling: Any,
    ) -> Iterator[Chunk]:
        """Chunks of all prompts as they come; arguments as in `generate`, judged at once."""
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size is {max_batch_size}; it must be at least 1")
        chosen, guard = method_of(method), self._guard(guard)
        stops, params = ends_of(sampling, self.models)
        guarded = wants_guard(chosen, guard, seed is not None, params.temperature == 0)
        requests = self._requests(prompt_list(prompts), seed, params, Grammar.of(grammar))
        models = self.models
        require_draft(chosen, models.draft is not None, "load the pair with draft=…")
        check_requests(models.target, models.draft, chosen, requests, models.vocab)
        texts = [Generation(*with_text(request, self.tokenizer, stops)) for request in requests]
        return self._decode(texts, max_batch_size, (chosen, on_phase, guarded, trace))

    def _decode(self, texts: Sequence[Generation], size: int, way: _Way) -> Iterator[Chunk]:
        (method, on_phase, guarded, trace), m, clock = way, self.models, time.perf_counter
        requests = [one.request for one in texts]
        control = self.guards.controller(method, requests[:size], clock) if guarded else None
        method = control.shapes[-1].method if control else method
        with torch.inference_mode():
            session = Session(m.target, m.draft, method, [], m.vocab, on_phase, self.workspace)
        with closing(session):
            tracing = SessionTrace(trace, session, self.text_of) if trace else None
            waiting = Waiting(session, requests, size, clock)

            def fill(decode_s: float) -> None:
                for one in waiting.fill(decode_s):
                    if tracing:
                        tracing.begin(f"prompt {one.index}", requests[one.index])

            fill(0.0)
            for iteration in iterations(session, control, clock):
                if tracing:
                    tracing.take(iteration.step)
                for block in iteration.step.blocks:
                    joined = waiting.joined[block.request]
                    one = texts[joined.index]
                    one.append(block, iteration.drafted)
                    one.stats.prefill_s = joined.prefill_s
                    one.stats.decode_s = iteration.decode_s - joined.decode_s
                    one.stats.num_cached_tokens = joined.num_cached
                    one.stats.fallback = iteration.reason
                    yield one.chunk(joined.index)
                fill(iteration.decode_s)
        for index, one in enumerate(texts):
            if not one.blocks:
                yield Chunk(index, "", None, one.completion())

    def text_of(self, token: int) -> str:
        """The text of a token on its own, decoded once; empty where there is no tokenizer."""
        if token not in self._texts:
            self._texts[token] = str(self.tokenizer.decode([token])) if self.tokenizer else ""
        return self._texts[token]

    def _guard(self, guard: bool | None) -> bool | None:
        """No guard over a target in parts: each process would judge by times of its own."""
        parts = self.models.num_parts
        if parts > 1 and guard:
            raise ValueError(
                f"guard is True, and the target is spread over {parts} processes, whose clocks "
                "would not agree on when drafting pays; leave guard out"
            )
        return False if parts > 1 else guard

    def _requests(
        self, prompts: list[Prompt], seed: Seed, params: SamplingParams, grammar: Grammar | None
    ) -> list[Request]:
        seeds, reason = seeds_for(seed, len(prompts)), self.models.tokenizer_error
        if self.models.num_parts > 1:
            seeds = agreed(seeds)  # else each process draws its own, and they wait for ever
        texts = [encode(self.tokenizer, prompt, reason) for prompt in prompts]
        pairs = zip(texts, seeds, strict=True)
        requests = [Request(ids, replace(params, seed=one_seed)) for ids, one_seed in pairs]
        if grammar is None:
            return requests
        begin = self.models.grammars.begin
        return [replace(r, grammar=begin(grammar, r.sampling.eos_token_ids)) for r in requests]


def load_pair(
    name: str | Path | None = None,
    *,
    target: str | Path | None = None,
    draft: str | Path | None = None,
    assistant_model: str | Path | None = None,
    prefix_cache_mib: int | None = None,
    **options: Any,
) -> ModelPair:
    """A pair by its name, or from folders, hub names or GGUF files.

    Args:
        name: one of `mtad.pairs.PAIRS`: "demo" for the pair that comes with mtad, "smollm2" for one
            whose target `mtad fetch smollm2` has fetched; a folder, a GGUF file, or a hub name with
            a slash, is the target.
        target, draft: what `from_pretrained` takes, or a GGUF file.
        assistant_model: transformers' name for `draft`.
        prefix_cache_mib, options: as in `ModelPair`; as in `load_models` (dtype, device_map, …).

    Raises:
        ValueError: neither a name nor a target was given, or both, or a draft for a named pair.
        MtadError: the models cannot be loaded or do not fit together, or were not fetched.
    """
    draft, names = draft if draft is not None else assistant_model, " or ".join(map(repr, PAIRS))
    if (name is None) == (target is None):
        raise ValueError(f"give either {names} or target=…, a folder, a GGUF file or a hub name")
    if target is None and name not in PAIRS and ("/" in str(name) or Path(str(name)).exists()):
        target = name
    if target is not None:
        return ModelPair.of(load_models(target, draft, **options), prefix_cache_mib)
    if name not in PAIRS:
        raise ValueError(
            f"there is no pair called {name!r}{did_you_mean(str(name), PAIRS)}; give "
            f"{names} or target=…, a folder, a GGUF file or a hub name"
        )
    if draft is not None:
        raise ValueError(f"{name!r} has its own draft; give target=… with draft={str(draft)!r}")
    quiet()
    pair = PAIRS[str(name)]
    is_free = options.get("dtype", "auto") == "auto" and not torch.cuda.is_available()
    if pair.name == DEMO and is_free:
        options["draft_dtype"] = options.get("draft_dtype") or "float32"  # quicker where so small
    return ModelPair.of(load_models(pair.require_target(), pair.draft, **options), prefix_cache_mib)


def open_pair(
    target: str | None, draft: str | None, name: str | None = None, **placement: Any
) -> ModelPair:
    """The pair for a program of its own: that of these names, the embedded one without a name.

    Args:
        target, draft, name, placement: as in `load_pair`.
    """
    quiet()
    if target is not None:
        return load_pair(target=target, draft=draft, **placement)
    name = name or DEMO
    if name == DEMO and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # models this small lose time to the handing-over of work
    return load_pair(name, **placement)
