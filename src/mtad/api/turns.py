"""Methods side by side on the same prompts, without a guard.

They are timed in turns: what slows a machine down slows all of them down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mtad.api.pair import Completion, ModelPair
from mtad.core.prompt import Prompt
from mtad.speculative.method import Method


@dataclass(frozen=True)
class Timed:
    """What a method made, and what it took.

    Attributes:
        num_tokens: of the text.
        seconds: of its iterations, without the prompt's.
        num_steps: iterations.
        token_ids: of the text; () where several are summed.
    """

    num_tokens: int
    seconds: float
    num_steps: int
    token_ids: tuple[int, ...] = ()

    def __add__(self, other: Timed) -> Timed:
        """Both together."""
        return Timed(
            self.num_tokens + other.num_tokens,
            self.seconds + other.seconds,
            self.num_steps + other.num_steps,
        )

    @property
    def tokens_per_s(self) -> float:
        """Decode only."""
        return self.num_tokens / self.seconds

    @property
    def tokens_per_step(self) -> float:
        """The mean acceptance length."""
        return self.num_tokens / self.num_steps


def completed(
    pair: ModelPair,
    method: Method,
    prompts: Sequence[Prompt],
    on_text: Callable[[], None],
    **settings: Any,
) -> list[Completion]:
    """The completions of the prompts in their order, with seed 0; `on_text` is called after each.

    Settings as `ModelPair.generate` takes them, among them how many are decoded at once.
    """
    found = dict[int, Completion]()
    for chunk in pair.stream_all(prompts, method, seed=0, guard=False, **settings):
        if chunk.completion is not None:
            found[chunk.index] = chunk.completion
            on_text()
    return [found[index] for index in range(len(prompts))]


def decode_timed(
    pair: ModelPair, method: Method, prompt: Prompt, seed: int, **settings: Any
) -> Timed:
    """One text, alone and without a guard; settings as `ModelPair.generate` takes them."""
    [done] = pair.generate([prompt], method, seed=seed, guard=False, **settings)
    stats = done.stats
    return Timed(len(done.token_ids), stats.decode_s, stats.num_spec_steps, tuple(done.token_ids))


def in_turns(
    pair: ModelPair,
    methods: Sequence[Method],
    prompts: Sequence[Prompt],
    num_rounds: int,
    on_text: Callable[[], None] = lambda: None,
    **settings: Any,
) -> list[list[list[Timed]]]:
    """The texts of each method, by round and prompt.

    Each method's first text comes once more before: it waits for memory and kernels that are new.

    Args:
        pair: decodes.
        methods: each decodes a prompt before the next prompt comes.
        prompts: one after the other; the place of each is its seed.
        num_rounds: how often all of it is done.
        on_text: called after each text, `num_texts` times.
        settings: of sampling.
    """
    for method in methods:
        decode_timed(pair, method, prompts[0], 0, **settings)
        on_text()
    found: list[list[list[Timed]]] = [[] for _ in methods]
    for _ in range(num_rounds):
        for rounds in found:
            rounds.append([])
        for seed, prompt in enumerate(prompts):
            for method, rounds in zip(methods, found, strict=True):
                rounds[-1].append(decode_timed(pair, method, prompt, seed, **settings))
                on_text()
    return found


def num_texts(num_methods: int, num_prompts: int, num_rounds: int) -> int:
    """How many texts `in_turns` decodes."""
    return num_methods * (1 + num_prompts * num_rounds)
