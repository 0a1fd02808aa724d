"""A world without models: what a controller's choices would take and give, by rates and seconds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from mtad.api.controller import Controller
from mtad.api.costs import Costs, Curve, Shape, shapes_of
from mtad.api.experience import Experience
from mtad.methods.speculative_sampling import SpeculativeSampling

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
        rates: of acceptance.
        overhead: seconds beyond `costs` of drafted iterations, as a share.
        noise: standard deviation of the logarithm of seconds.
    """

    costs: Costs
    rates: Rates
    overhead: float = 0.0
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def seconds(self, shape: Shape, num_rows: int = 1) -> float:
        factor = 1 + self.overhead if shape.length else 1.0
        slow = 3.0 if self.noise and self.random.random() < 0.05 else 1.0
        drawn = self.random.lognormvariate(0.0, self.noise) if self.noise else 1.0
        return self.costs.of(shape, num_rows) * factor * drawn * slow

    def accepted(self, shape: Shape, place: int) -> int:
        count = 0
        while count < shape.length and self.random.random() < self.rates(place, count):
            count += 1
        return count

    def decode(self, controller: Controller, num_tokens: int) -> tuple[float, list[int]]:
        """Seconds of a text, catching up included, and the lengths that were chosen."""
        seconds, made, missed, lengths = 0.0, 0, 0, []
        while made < num_tokens:
            shape = controller.choose(1, missed)
            taken = self.seconds(shape)
            tokens = 1 + self.accepted(shape, made)
            controller.add([tokens] if made + tokens < num_tokens else [], taken)
            if shape.length:
                taken += self.costs.of_catching_up(missed, 1)
            missed = 0 if shape.length else missed + 1
            seconds, made = seconds + taken, made + min(tokens, num_tokens - made)
            lengths.append(shape.length)
        return seconds, lengths


def controller(costs: Costs, length: int = 8, experience: Experience | None = None) -> Controller:
    shapes = shapes_of(SpeculativeSampling(num_draft_tokens=length), 100)
    return Controller(shapes, experience or Experience(costs))
