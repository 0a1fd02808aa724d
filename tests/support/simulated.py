"""A world without models: what a controller's choices would take and give, by rates and seconds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from mtad.api.controller import Controller
from mtad.api.costs import Costs, Curve, Shape, shapes_of
from mtad.api.experience import Experience
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.speculative.method import Method

Rates = Callable[[int, int], float]
"""Acceptance by token of the text and position in the draft."""


def pair_costs(draft: float, node: float = 0.02, reads_text: bool = False) -> Costs:
    """Seconds of a drafted token and of a further verified one, where a plain step takes one."""
    target = Curve((1, 9), (1.0, 1.0 + 8 * node))
    return Costs(target, Curve((1, 9), (draft, draft * 1.1)), reads_text)


@dataclass
class World:
    """A pair whose iterations take what `costs` say, times a factor of each length.

    Attributes:
        costs: of the forwards.
        rates: of acceptance of a single token.
        gain: how far another token to choose from helps: 1 if they are accepted independently, 0
            if it does not.
        overhead: seconds beyond `costs` of drafted iterations, as a share.
        noise: standard deviation of the logarithm of seconds.
    """

    costs: Costs
    rates: Rates
    overhead: float = 0.0
    noise: float = 0.0
    seed: int = 0
    gain: float = 1.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def seconds(self, shape: Shape, num_rows: int = 1) -> float:
        factor = 1 + self.overhead if shape.length else 1.0
        slow = 3.0 if self.noise and self.random.random() < 0.05 else 1.0
        drawn = self.random.lognormvariate(0.0, self.noise) if self.noise else 1.0
        return self.costs.of(shape, num_rows) * factor * drawn * slow

    def accepted(self, shape: Shape, place: int) -> int:
        """Tokens of a draft that are accepted."""
        return self.block(shape, place)[0]

    def block(self, shape: Shape, place: int) -> tuple[int, int]:
        """The same, and how many of them a chain would have had accepted."""
        num_first: int | None = None
        for count, width in enumerate(shape.widths):
            single, drawn = self.rates(place, count), self.random.random()
            if drawn >= single and num_first is None:
                num_first = count
            if drawn >= 1 - (1 - single) ** (1 + self.gain * (width - 1)):
                return count, num_first or 0
        return shape.length, shape.length if num_first is None else num_first

    def decode(self, controller: Controller, num_tokens: int) -> tuple[float, list[int]]:
        """Seconds of a text, catching up included, and the lengths that were chosen."""
        seconds, made, missed, lengths = 0.0, 0, 0, []
        while made < num_tokens:
            shape = controller.choose(1, missed)
            taken = self.seconds(shape)
            accepted, num_first = self.block(shape, made)
            tokens = 1 + accepted
            goes_on = [tokens] if made + tokens < num_tokens else []
            controller.add(goes_on, taken, firsts=[num_first] * len(goes_on))
            if shape.length:
                taken += self.costs.of_catching_up(missed, 1)
            missed = 0 if shape.length else missed + 1
            seconds, made = seconds + taken, made + min(tokens, num_tokens - made)
            lengths.append(shape.length)
        return seconds, lengths


def controller(
    costs: Costs, drafts: int | Method = 8, experience: Experience | None = None
) -> Controller:
    """That of a method, or of chains of so many tokens."""
    if isinstance(drafts, int):
        drafts = SpeculativeSampling(num_draft_tokens=drafts)
    shapes = shapes_of(drafts, 100, has_narrower=True)
    return Controller(shapes, experience or Experience(costs))
