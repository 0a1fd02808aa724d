"""Guards that follow a script, and a clock that forwards of the models move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.tiny import PROMPTS, suited

import mtad.api.guard
from mtad.api.controller import Controller
from mtad.api.costs import Costs, Curve, Shape, shapes_of
from mtad.api.experience import Experience
from mtad.api.guard import Guards, iterations
from mtad.api.pair import Completion, ModelPair
from mtad.engine.session import Session
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.drafter import Draft, Drafter
from mtad.model.head_drafter import HeadDrafter
from mtad.model.lm import LM, Model
from mtad.speculative.method import Method

CHAIN = SpeculativeSampling(num_draft_tokens=4)
FREE = Costs(Curve((1, 9), (1.0, 1.0)), Curve((1, 9), (0.01, 0.01)))
"""Costs of a pair whose drafts cost next to nothing."""


class Meter:
    """A clock that forwards of the models move.

    Seconds by model, and beyond 1 for each further node and row of the target's. `num_calls` counts
    forwards of the target.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, draft: float, node: float = 0.0, row: float = 0.0
    ) -> None:
        self.now, self._draft, self._node, self._row = 0.0, draft, node, row
        self.num_calls = 0
        for kind, name in ((LM, "forward"), (LM, "forward_level"), (HeadDrafter, "forward_level")):
            monkeypatch.setattr(kind, name, self._paid(getattr(kind, name)))

    def __call__(self) -> float:
        return self.now

    def _paid(self, original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def paid(lm: Drafter, tree, *args, **kwargs) -> torch.Tensor:
            num_rows, is_target = tree.num_rows, lm.name == "target"
            further = self._node * (tree.num_nodes - 1) * num_rows + self._row * (num_rows - 1)
            self.num_calls += is_target
            self.now += 1.0 + further if is_target else self._draft
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


class Scripted(Controller):
    """Takes its choices from a script: "d" drafts, "s" drafts less, "p" is a plain step.

    "n" drafts the narrowest tree of the method's length; "." gives drafting up. The script
    begins anew at its end.
    """

    def __init__(self, method: Method, script: str, vocab: int) -> None:
        super().__init__(shapes_of(method, vocab, has_narrower=True), Experience(FREE))
        self.script, self.place, self.has_given_up = script, 0, False

    def choose(self, num_rows: int, num_missed: int = 0, may_record: bool = True) -> Shape:
        letter = self.script[self.place % len(self.script)]
        self.place += 1
        self.has_given_up = self.has_given_up or letter == "."
        if self.has_given_up or letter == "p":
            return self.shapes[0]
        if letter == "n":
            return next(one for one in self.shapes if one.length == self.shapes[-1].length)
        return self.shapes[1 if letter == "s" else -1]

    def add(self, tokens: Sequence[int], *rest: object, **more: object) -> None:
        """The script goes on whatever happens."""


def scripted(
    target: Model, draft: Draft, method: Method, requests: list, vocab: int, script: str
) -> Iterator[tuple[Session, Scripted, mtad.api.guard.Iteration]]:
    requests = [replace(one, sampling=suited(method, one.sampling)) for one in requests]
    with torch.inference_mode():
        session = Session(target, draft, method, requests, vocab)
    control = Scripted(method, script, vocab)
    for iteration in iterations(session, control, clock=lambda: 0.0):
        yield session, control, iteration


def follow_script(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let guards of all pairs follow a script, so that no clock decides."""

    def scripted_one(guards: Guards, method: Method, *_: object) -> Scripted:
        return Scripted(method, script, guards._models.vocab)

    monkeypatch.setattr(Guards, "controller", scripted_one)
