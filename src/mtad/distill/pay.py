"""What a draft's steps cost beside a forward of the target, before there is a pair of the two."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from mtad.api.paying import Prospect, chains
from mtad.distill.student import Student
from mtad.measure.device import synchronize
from mtad.model.drafter import Draft
from mtad.model.lm import Model
from mtad.model.weights import take_form


@torch.inference_mode()
def costs_of(model: Model, student: Student, most_draft_tokens: int = 5) -> Prospect:
    """What chains cost: medians of timed forwards, in turns.

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
    return chains(draft_s, target_s)


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
