"""Runs one job: the answers to a batch of items, their times and their energy.

All methods share this code: none has prompts, a loop or a token counter of its own. The
likelihood of the outputs is measured after the clock and the meter have stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mtad.api.pair import Completion, ModelPair
from mtad.bench.jobs import Job
from mtad.bench.likelihood import negative_log_likelihoods
from mtad.bench.reasoning import text_with_tags
from mtad.bench.sample import Sample
from mtad.measure.energy import Energy, NoEnergy, total
from mtad.measure.meter import Meter
from mtad.measure.phases import PhaseClock
from mtad.methods import describe
from mtad.model.tokenizer import encode
from mtad.tasks import Item, Task


@dataclass
class _Dialog:
    """An item in progress: of each turn the prompt as token ids, the completion and its text."""

    item: Item
    prompt_ids: list[list[int]] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return len(self.completions) == len(self.item.turns)


@dataclass
class _Usage:
    """Time and energy of a job, summed over its turns."""

    prefill_s: float = 0.0
    decode_s: float = 0.0
    wall_s: float = 0.0
    energy: list[Energy | NoEnergy] = field(default_factory=list)
    clock: PhaseClock | None = None

    def add(self, done: Sequence[Completion], wall_s: float) -> None:
        self.prefill_s += max(c.stats.prefill_s for c in done)
        self.decode_s += max(c.stats.decode_s for c in done)
        self.wall_s += wall_s

    def as_dict(self, num_rows: int) -> dict[str, Any]:
        """The equal share of each row, as fields of `Sample`."""
        energy, clock = total(self.energy), self.clock
        split = {} if clock is None else {phase: clock.energy(phase) for phase in clock.seconds}
        return {
            "prefill_s": self.prefill_s / num_rows,
            "decode_s": self.decode_s / num_rows,
            "wall_s": self.wall_s / num_rows,
            "energy": None
            if isinstance(energy, NoEnergy)
            else energy.shared_by(num_rows).as_dict(),
            "phases_s": clock and {name: s / num_rows for name, s in clock.seconds.items()},
            "phases_j": {
                name: part.total_j / num_rows
                for name, part in split.items()
                if isinstance(part, Energy)
            }
            or None,
        }


@dataclass(frozen=True)
class JobRunner:
    """Decodes jobs on one pair.

    Attributes:
        pair: the models.
        draft_alone: the draft as a target of its own; None if no run asks for it.
        meter: measures the energy of timed jobs.
        with_phases: whether draft, target, verify and commit are timed apart.
        with_perplexity: whether the likelihood of the outputs is measured.
        conditions: the id that the rows carry.
    """

    pair: ModelPair
    draft_alone: ModelPair | None
    meter: Meter
    with_phases: bool
    with_perplexity: bool
    conditions: str

    def samples(self, job: Job, task: Task, max_new_tokens: int) -> list[Sample]:
        """The rows of a job; raises what `ModelPair.generate` raises."""
        dialogs, usage = [_Dialog(item) for item in job.items], _Usage(clock=self._clock(job))
        sampling = {**job.run.sampling, "max_new_tokens": max_new_tokens}
        while live := [dialog for dialog in dialogs if not dialog.is_over]:
            self._turn(job, task, live, sampling, usage)
        nlls, times = self._nlls(dialogs), usage.as_dict(len(dialogs))
        return [
            self._sample(job, dialog, nll, sampling, times)
            for dialog, nll in zip(dialogs, nlls, strict=True)
        ]

    def _clock(self, job: Job) -> PhaseClock | None:
        if not (self.with_phases and job.is_timed):
            return None
        models = self.pair.models
        devices = [model.device for model in (models.target, models.draft) if model is not None]
        return PhaseClock.of(*devices, meter=self.meter)

    def _models(self, job: Job) -> ModelPair:
        if job.run.models == "pair":
            return self.pair
        assert self.draft_alone is not None, "made when a run asks for it"
        return self.draft_alone

    def _turn(
        self,
        job: Job,
        task: Task,
        live: Sequence[_Dialog],
        sampling: dict[str, Any],
        usage: _Usage,
    ) -> None:
        """Generate the next turn of every dialog that is not over."""
        number = len(live[0].completions)
        prompts = [task.prompt(dialog.item, dialog.answers) for dialog in live]
        seeds = [seed_of(job.seed, job.task, dialog.item.id, number) for dialog in live]
        begun = self.meter.start() if job.is_timed else None
        started = time.perf_counter()
        done = self._models(job).generate(
            prompts,
            job.point.method,
            seed=seeds,
            max_batch_size=job.num_rows,
            stop=list(task.stops),
            on_phase=usage.clock,
            guard=False,
            **sampling,
        )
        usage.add(done, time.perf_counter() - started)
        if begun is not None:
            usage.energy.append(self.meter.between(begun, self.meter.start()))
        for dialog, prompt, completion in zip(live, prompts, done, strict=True):
            dialog.prompt_ids.append(encode(self.pair.tokenizer, prompt))
            dialog.completions.append(completion)
            dialog.answers.append(text_with_tags(completion, self.pair.tokenizer, task.stops))

    def _nlls(self, dialogs: Sequence[_Dialog]) -> list[float | None]:
        """The sum of −log p over the answers of each dialog."""
        if not self.with_perplexity:
            return [None] * len(dialogs)
        turns = [
            (ids, completion.token_ids)
            for dialog in dialogs
            for ids, completion in zip(dialog.prompt_ids, dialog.completions, strict=True)
        ]
        prompts, outputs = zip(*turns, strict=True)
        sums = iter(negative_log_likelihoods(self.pair, prompts, outputs))
        return [sum(next(sums) for _ in dialog.completions) for dialog in dialogs]

    def _sample(
        self,
        job: Job,
        dialog: _Dialog,
        nll: float | None,
        sampling: dict[str, Any],
        times: dict[str, Any],
    ) -> Sample:
        done = dialog.completions
        return Sample(
            stage=job.stage,
            task=job.task,
            item=dialog.item.id,
            run=job.label,
            seed=job.seed,
            method=describe(job.point.method),
            sampling=sampling,
            models=job.run.models,
            answers=dialog.answers,
            token_ids=[completion.token_ids for completion in done],
            finish_reasons=[completion.finish_reason for completion in done],
            num_prompt_tokens=[len(ids) for ids in dialog.prompt_ids],
            stats=[completion.stats.counts() for completion in done],
            nll=nll,
            batch_size=min(job.num_rows, len(job.items)),
            is_timed=job.is_timed,
            **times,
            conditions=self.conditions,
        )


def seed_of(seed: int, task: str, item: str, turn: int) -> int:
    """The seed of one answer: the same for every method, another for every item, turn and seed."""
    text = f"{seed}/{task}/{item}/{turn}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
