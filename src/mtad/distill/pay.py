"""Whether a draft pays: what its steps cost beside a forward of the target, and what follows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mtad.distill.acceptance import Acceptance
from mtad.distill.student import Student
from mtad.measure.device import synchronize
from mtad.model.drafter import Draft
from mtad.model.lm import Model
from mtad.model.weights import take_form


@dataclass(frozen=True)
class Costs:
    """Seconds of the two models, batch 1.

    Attributes:
        draft_s: one drafted token.
        target_s: a target forward of 1, 2, … tokens.
    """

    draft_s: float
    target_s: tuple[float, ...]

    @property
    def most_draft_tokens(self) -> int:
        """The longest chain whose verification was measured."""
        return len(self.target_s) - 1

    def speed_up(self, acceptance: Acceptance, num_draft_tokens: int) -> float:
        """Expected tokens per second with a chain of that length, over those without a draft."""
        tokens = acceptance.tokens_per_call[num_draft_tokens - 1]
        iteration_s = num_draft_tokens * self.draft_s + self.target_s[num_draft_tokens]
        return tokens * self.target_s[0] / iteration_s

    def best(self, acceptance: Acceptance) -> tuple[int, float]:
        """The chain that is fastest, and its speed-up."""
        lengths = range(1, min(self.most_draft_tokens, len(acceptance.tokens_per_call)) + 1)
        found = max(lengths, key=lambda n: self.speed_up(acceptance, n))
        return found, self.speed_up(acceptance, found)

    @property
    def break_even(self) -> float:
        """The acceptance of the first token from which on a draft of one token pays."""
        return (self.draft_s + self.target_s[1]) / self.target_s[0] - 1


@torch.inference_mode()
def costs_of(model: Model, student: Student, most_draft_tokens: int = 5) -> Costs:
    """Medians of timed forwards, in turns.

    Args:
        model: the target.
        student: a draft that is to learn nothing more: it gets the dtype and the layout that it
            decodes in.
        most_draft_tokens: of a chain.
    """
    device = model.device
    student.cast(model.dtype)
    lay_out(student.model)

    def target(count: int) -> Callable[[], object]:
        ids = torch.ones(1, count, dtype=torch.int64, device=device)
        return lambda: model(input_ids=ids, use_cache=False)

    works = [student.step(), *(target(count) for count in range(1, most_draft_tokens + 2))]
    draft_s, *target_s = _medians(works, device)
    return Costs(draft_s, tuple(target_s))


def lay_out(draft: Draft) -> None:
    """Give a draft's weights the layout that they have where models are loaded."""
    take_form(draft, "draft")


def _medians(
    works: Sequence[Callable[[], object]], device: torch.device, rounds: int = 15
) -> list[float]:
    """Median seconds of each, measured in turns after a first round."""
    seconds: list[list[float]] = [[] for _ in works]
    for turn in range(rounds + 1):
        for work, times in zip(works, seconds, strict=True):
            synchronize(device)
            began = time.perf_counter()
            work()
            synchronize(device)
            if turn:
                times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in seconds]
