"""What every generator returns: a prompt, and an answer that is made of decisions."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Decide = Callable[[str, Sequence[str]], str]
Message = dict[str, str]


@dataclass(frozen=True)
class Problem:
    """One question. `answer(decide)` writes the answer, asking `decide` at each free choice.

    `keys` names what the split is made by, for example the schema and the template; a problem with
    a held-out key never enters the training data.
    """

    task: str
    prompt: str | list[Message]
    answer: Callable[[Decide], str]
    keys: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The right answer."""
        return self.answer(right)


def right(choice: str, options: Sequence[str]) -> str:
    """The right choice, always."""
    return choice


def noisy(rng: random.Random, rate: float) -> Decide:
    """A decider that errs: with probability `rate` another option takes the right one's place."""

    def decide(choice: str, options: Sequence[str]) -> str:
        others = [option for option in options if option != choice]
        return rng.choice(others) if others and rng.random() < rate else choice

    return decide
