"""Guards that follow a script, and a clock that forwards of the models move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.tiny import PROMPTS

import mtad.api.guard
from mtad.api.guard import PLAIN, Guard, iterations
from mtad.api.pair import Completion, ModelPair
from mtad.engine.session import Session
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.drafter import Draft, Drafter
from mtad.model.head_drafter import HeadDrafter
from mtad.model.lm import LM, Model
from mtad.speculative.method import Method

CHAIN = SpeculativeSampling(num_draft_tokens=4)


class Meter:
    """A clock that forwards of the models move: seconds by model, and per node of the target's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, draft: float, node: float = 0.0) -> None:
        self.now, self._draft, self._node = 0.0, draft, node
        for kind, name in ((LM, "forward"), (LM, "forward_level"), (HeadDrafter, "forward_level")):
            monkeypatch.setattr(kind, name, self._paid(getattr(kind, name)))

    def __call__(self) -> float:
        return self.now

    def _paid(self, original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def paid(lm: Drafter, tree, *args, **kwargs) -> torch.Tensor:
            beyond_root = self._node * (tree.num_nodes - 1)
            self.now += 1.0 + beyond_root if lm.name == "target" else self._draft
            return original(lm, tree, *args, **kwargs)

        return paid


def watched(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch, meter: Meter, **options
) -> list[Completion]:
    """Completions by the meter's clock, of 40 tokens, greedy by default."""
    monkeypatch.setattr("mtad.api.pair.time", SimpleNamespace(perf_counter=meter))
    pair.graphs = None  # the meter sees no forwards in what is replayed from a tape
    settings = {"temperature": 0.0, "max_new_tokens": 40, "method": CHAIN, "ignore_eos": True}
    return pair.generate(PROMPTS[:1], **(settings | options))


class Scripted(Guard):
    """Takes its choices from a script: "d" drafts, "s" drafts less, "p" is a plain step.

    "." gives drafting up. The script begins anew at its end.
    """

    def __init__(self, method: Method, script: str) -> None:
        super().__init__(method)
        self.script, self.place = script, 0

    def choose(self) -> Method:
        letter = self.script[self.place % len(self.script)]
        self.place += 1
        self.has_given_up = self.has_given_up or letter == "."
        if self.has_given_up or letter == "p":
            return PLAIN
        if letter == "s" and hasattr(self.method, "num_draft_tokens"):
            return replace(self.method, num_draft_tokens=1)
        return self.method

    def add_drafted(self, seconds: float, tokens: Sequence[int], mode: str = "eager") -> None:
        """The script goes on whatever happens."""

    def add_plain(self, seconds: float, aside: float = 0.0, mode: str = "eager") -> None:
        """The script goes on whatever happens."""


def scripted(
    target: Model, draft: Draft, method: Method, requests: list, vocab: int, script: str
) -> Iterator[tuple[Session, Scripted, mtad.api.guard.Iteration]]:
    with torch.inference_mode():
        session = Session(target, draft, method, requests, vocab)
    guard = Scripted(method, script)
    for iteration in iterations(session, guard, clock=lambda: 0.0):
        yield session, guard, iteration
