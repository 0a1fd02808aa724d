"""Training a draft: full KL to the target, along texts that the target said.

Late in the training, what is lost of acceptance itself (the total variation) gets a weight that
grows with the acceptance (Samarin et al., 2026: λ = e^(-3α)). A head learns one step ahead at first
and then several, where it reads its own states, as it will when it drafts. The last part of the
time is a second pass over the states that verification leaves behind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mtad.distill.saving import save
from mtad.distill.states import States
from mtad.distill.student import Step, Student


@dataclass(frozen=True)
class Schedule:
    """How a draft is trained.

    Attributes:
        seconds: of training, over all runs that it takes.
        learning_rate: the highest; it rises over the first twentieth and falls with a cosine.
        batch_size: places of a step.
        depth: steps ahead that a head learns in the end.
        deepens_at: share of the time after which that begins; one step ahead before it.
        mixes_at: share of the time from which on the total variation counts.
        returns_at: share of the time from which on only places count where blocks begin.
        save_every_s: seconds between two saves.
        seed: of the order of places.
    """

    seconds: float
    learning_rate: float = 3e-4
    batch_size: int = 1536
    depth: int = 3
    deepens_at: float = 0.4
    mixes_at: float = 0.5
    returns_at: float = 0.8
    save_every_s: float = 60.0
    seed: int = 0

    def rate(self, share: float) -> float:
        """The learning rate once `share` of the time is over."""
        return self.learning_rate * min(1.0, share * 20) * (0.02 + 0.98 * _cosine(share))

    def depth_at(self, share: float) -> int:
        """Steps ahead that are learnt."""
        return 1 if share < self.deepens_at else self.depth


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        seconds: spent.
        steps: of the optimiser.
        loss: of late, a running mean.
        acceptance: of late, the mean of 1 - total variation at temperature 1.
    """

    seconds: float = 0.0
    steps: int = 0
    loss: float = math.nan
    acceptance: float = math.nan

    def take(self, loss: float, acceptance: float, seconds: float) -> None:
        """Count one more step."""
        old = 0.98 if self.steps else 0.0
        kept = (self.loss, self.acceptance) if self.steps else (0.0, 0.0)
        self.loss = old * kept[0] + (1 - old) * loss
        self.acceptance = old * kept[1] + (1 - old) * acceptance
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds


def train(
    student: Student,
    states: States,
    schedule: Schedule,
    checkpoint: Path,
    on_step: Callable[[Progress], bool] | None = None,
    starts: Callable[[], Tensor] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """Train a draft in place; goes on from the checkpoint if there is one.

    Args:
        student: the draft.
        states: of the target's answers.
        schedule: how.
        checkpoint: where draft and optimiser are saved now and then.
        on_step: called after every step; false ends the training early.
        starts: called once for the second pass; gives the probability (N,) that a block begins at
            each place. None leaves the second pass out.
        clock: seconds.
    """
    learnt = student.learnt()
    optimizer = torch.optim.AdamW(learnt, betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress()
    if checkpoint.exists():
        progress = _resume(student, optimizer, checkpoint)
    saved, weights = progress.seconds, None
    while progress.seconds < schedule.seconds:
        began, share = clock(), progress.seconds / schedule.seconds
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(share)
        order = torch.Generator().manual_seed(schedule.seed * 1_000_003 + progress.steps)
        mix = progress.acceptance if share >= schedule.mixes_at else None
        depth = schedule.depth_at(share)
        if weights is None and starts and share >= schedule.returns_at:
            weights = starts()
        step = Step(schedule.batch_size, depth, order, mix, weights)
        loss, acceptance = student.loss(states, step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        progress.take(loss.item(), acceptance, clock() - began)
        if progress.seconds - saved > schedule.save_every_s:
            _save(student, optimizer, progress, checkpoint)
            saved = progress.seconds
        if on_step and not on_step(progress):
            break
    _save(student, optimizer, progress, checkpoint)
    return progress


def divergence(
    logits: Float[Tensor, "places draft_vocab"],
    teacher: Float[Tensor, "places draft_vocab"],
    mix: float | None,
    weights: Float[Tensor, " places"] | None = None,
) -> tuple[Tensor, float]:
    """What a draft is to lessen, and the mean of 1 - total variation at temperature 1.

    Args:
        logits: the draft's.
        teacher: the target's, of the same tokens.
        mix: the acceptance α that gives the total variation its weight; None for KL alone.
        weights: how much each place counts; None where all count alike.
    """
    p = teacher.float().softmax(1)
    log_q = logits.float().log_softmax(1)
    counts = p.new_ones(len(p)) if weights is None else weights.to(p)
    counts = counts / counts.sum()
    kl = torch.nn.functional.kl_div(log_q, p, reduction="none").sum(1) @ counts
    overlap = torch.minimum(p, log_q.exp()).sum(1) @ counts
    weight = 1.0 if mix is None else math.exp(-3 * mix)
    return weight * kl + (1 - weight) * (1 - overlap), float(overlap.detach())


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def _save(student: Student, optimizer: Any, progress: Progress, path: Path) -> None:
    kept = {"draft": student.kept(), "optimizer": optimizer.state_dict()}
    save({**kept, "progress": vars(progress)}, path)


def _resume(student: Student, optimizer: Any, path: Path) -> Progress:
    kept = torch.load(path, weights_only=True, map_location=student.d2t.device)
    student.take(kept["draft"] if "draft" in kept else kept["head"])  # as it was called once
    optimizer.load_state_dict(kept["optimizer"])
    return Progress(**kept["progress"])
