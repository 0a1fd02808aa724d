"""The Python interface: a target and a draft that complete prompts together.

pair = mtad.load_pair("demo")
pair.generate(["def area(r):"], method=mtad.MTAD(accept_threshold=0.5), seed=0)[0].text
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mtad import demo
from mtad.arguments import Seed, method_of, sampling_params, seeds_for
from mtad.engine import Block, OnPhase, Request, Session, Step, check_requests
from mtad.errors import PromptError
from mtad.lm import Model
from mtad.load import Models, Tokenizer, join, load_models, quiet
from mtad.method import Method
from mtad.sampling import SamplingParams
from mtad.stats import Stats
from mtad.text import Prompt, TextStream, encode, prompt_list, special_tokens


@dataclass(frozen=True)
class Completion:
    """What came of one prompt.

    Attributes:
        text: the new text, cut before a stop string; empty where there is no tokenizer.
        token_ids: the new tokens only, an EOS that ended them included.
        finish_reason: "stop" (EOS or stop string) or "length" (budget).
        stats: counts, rates and times.
        seed: the seed that gives this text again.
        blocks: the tokens iteration by iteration, with what was accepted.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    stats: Stats
    seed: int
    blocks: list[Block]

    def as_dict(self) -> dict[str, Any]:
        """The completion for JSON."""
        names = ("text", "token_ids", "finish_reason", "seed")
        return {n: getattr(self, n) for n in names} | {"stats": self.stats.as_dict()}


@dataclass(frozen=True)
class Chunk:
    """What one iteration added to one prompt's text.

    Attributes:
        index: which prompt.
        text: new text; a stop string, or a character that is not complete yet, is held back.
        block: the tokens and what was accepted.
        completion: the whole, in the last chunk of a prompt.
    """

    index: int
    text: str
    block: Block | None
    completion: Completion | None = None


@dataclass
class _Running:
    """A prompt in progress."""

    request: Request
    stream: TextStream | None
    blocks: list[Block] = field(default_factory=list)
    stats: Stats = field(default_factory=Stats)

    def take(self, block: Block, prefill_s: float, decode_s: float) -> None:
        self.blocks.append(block)
        self.stats.add(block)
        self.stats.prefill_s, self.stats.decode_s = prefill_s, decode_s

    def completion(self) -> Completion:
        ids = [token for block in self.blocks for token in block.token_ids]
        reason = self.blocks[-1].finish_reason if self.blocks else "length"
        return Completion(
            text=self.stream.text if self.stream else "",
            token_ids=ids,
            finish_reason=reason or "length",
            stats=self.stats,
            seed=self.request.sampling.seed,
            blocks=self.blocks,
        )


class ModelPair:
    """A target model, a draft model and their tokenizer.

    Args:
        target: a causal language model of transformers.
        draft: a smaller one with the same tokenizer; None for methods that need none.
        tokenizer: the tokenizer; None if prompts are given as token ids.
        assistant_model: transformers' name for `draft`.
        trust_vocabulary: skip the comparison of the tokenizers.
    """

    def __init__(
        self,
        target: Model,
        draft: Model | None = None,
        tokenizer: Tokenizer | None = None,
        *,
        draft_tokenizer: Tokenizer | None = None,
        assistant_model: Model | None = None,
        trust_vocabulary: bool = False,
    ) -> None:
        draft = draft if draft is not None else assistant_model
        self.models = join(
            target, draft, tokenizer, draft_tokenizer, trust_vocabulary=trust_vocabulary
        )

    @classmethod
    def of(cls, models: Models) -> ModelPair:
        """A pair of models that were loaded and checked already."""
        pair = cls.__new__(cls)
        pair.models = models
        return pair

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
        **sampling: Any,
    ) -> list[Completion]:
        """Completions of the prompts, in their order.

        Args:
            prompts: strings, chats or token ids (lists or arrays); one or many.
            method: how to decode, or the name of a method; MTAD with its defaults if None.
            seed: one for all prompts or one per prompt; random if None.
            max_batch_size: prompts decoded at once.
            on_phase: called at the borders of an iteration's phases; see `mtad.engine.OnPhase`.
            sampling: fields of `SamplingParams` (temperature, top_k, top_p, max_new_tokens, …),
                `stop` (a string or several; a special token ends the text like EOS) and
                `ignore_eos`.

        Raises:
            ValueError: an option has an impossible value or the method can't honour it.
            MtadError: see `mtad.errors`.
        """
        chunks = self.stream_all(
            prompts, method, seed=seed, max_batch_size=max_batch_size, on_phase=on_phase, **sampling
        )
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
        **sampling: Any,
    ) -> Iterator[Chunk]:
        """Chunks of all prompts as they come; arguments as in `generate`, judged at once."""
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size is {max_batch_size}; it must be at least 1")
        chosen = method_of(method)
        stops, params = self._ends(sampling)
        requests = self._requests(prompt_list(prompts), seed, params)
        models = self.models
        check_requests(models.target, models.draft, chosen, requests, models.vocab)
        running = [self._running(request, stops) for request in requests]
        batches = [running[i : i + max_batch_size] for i in range(0, len(running), max_batch_size)]
        return self._chunks(batches, chosen, on_phase)

    def _chunks(
        self, batches: Sequence[Sequence[_Running]], method: Method, on_phase: OnPhase | None
    ) -> Iterator[Chunk]:
        start = 0
        for batch in batches:
            for chunk in self._decode(batch, method, on_phase):
                yield replace(chunk, index=start + chunk.index)
            start += len(batch)

    def _decode(
        self, batch: Sequence[_Running], method: Method, on_phase: OnPhase | None
    ) -> Iterator[Chunk]:
        models, started = self.models, time.perf_counter()
        requests = [r.request for r in batch]
        with torch.inference_mode():
            session = Session(models.target, models.draft, method, requests, models.vocab, on_phase)
        prefill_s = time.perf_counter() - started
        for step, decode_s in _timed(session.run()):
            for block in step.blocks:
                one = batch[block.request]
                one.take(block, prefill_s, decode_s)
                last = block.finish_reason is not None
                text = one.stream.take(last) if one.stream else ""
                yield Chunk(block.request, text, block, one.completion() if last else None)
        for index, one in enumerate(batch):
            if not one.blocks:
                yield Chunk(index, "", None, one.completion())

    def _requests(self, prompts: list[Prompt], seed: Seed, params: SamplingParams) -> list[Request]:
        seeds, reason = seeds_for(seed, len(prompts)), self.models.tokenizer_error
        texts = [encode(self.tokenizer, prompt, reason) for prompt in prompts]
        pairs = zip(texts, seeds, strict=True)
        return [Request(ids, replace(params, seed=one_seed)) for ids, one_seed in pairs]

    def _running(self, request: Request, stops: list[str]) -> _Running:
        if self.tokenizer is None:
            return _Running(request, None)
        stream = TextStream(self.tokenizer, stops, request.prompt_ids)
        return _Running(replace(request, stop=stream.push), stream)

    def _ends(self, options: dict[str, Any]) -> tuple[list[str], SamplingParams]:
        """The stop strings, and the options without them; a special token stops as an EOS."""
        options = dict(options)
        stop, ignore_eos = options.pop("stop", None) or [], options.pop("ignore_eos", False)
        stops = [stop] if isinstance(stop, str) else list(stop)
        if stops and self.tokenizer is None:
            raise PromptError("stop strings need a tokenizer, and the models came without one")
        if ignore_eos and options.get("eos_token_ids"):
            raise ValueError("ignore_eos=True and eos_token_ids contradict each other; give one")
        options.setdefault("eos_token_ids", () if ignore_eos else self.models.eos_token_ids)
        params = sampling_params(options)
        special = special_tokens(self.tokenizer) if stops else {}
        ends = [special[s] for s in stops if special.get(s, self.models.vocab) < self.models.vocab]
        return stops, replace(params, eos_token_ids=(*params.eos_token_ids, *ends))


def _timed(steps: Iterator[Step]) -> Iterator[tuple[Step, float]]:
    """Steps with the seconds they and those before took; the caller's own time is left out."""
    decode_s, began = 0.0, time.perf_counter()
    for step in steps:
        decode_s += time.perf_counter() - began
        yield step, decode_s
        began = time.perf_counter()


def load_pair(
    name: str | Path | None = None,
    *,
    target: str | Path | None = None,
    draft: str | Path | None = None,
    assistant_model: str | Path | None = None,
    **options: Any,
) -> ModelPair:
    """A pair from folders or hub names, or the embedded one.

    Args:
        name: "demo" for the pair that comes with mtad; a folder, or a hub name with a slash, is
            the target.
        target, draft: what `from_pretrained` takes.
        assistant_model: transformers' name for `draft`.
        options: as in `mtad.load.load_models` (dtype, device, device_map, …).

    Raises:
        ValueError: neither a name nor a target was given, or both, or a draft for "demo".
        MtadError: the models cannot be loaded or do not fit together.
    """
    draft = draft if draft is not None else assistant_model
    if (name is None) == (target is None):
        raise ValueError('give either "demo" or target=…, a folder or a hub name')
    if target is None and name != "demo" and ("/" in str(name) or Path(str(name)).is_dir()):
        target = name
    if target is not None:
        return ModelPair.of(load_models(target, draft, **options))
    if name != "demo":
        raise ValueError(
            f'there is no pair called {name!r}; give "demo" or target=…, a folder or a hub name'
        )
    if draft is not None:
        raise ValueError(f'"demo" has its own draft; give target=… with draft={str(draft)!r}')
    quiet()
    return ModelPair.of(load_models(demo.TARGET_PATH, demo.DRAFT_PATH, **options))
