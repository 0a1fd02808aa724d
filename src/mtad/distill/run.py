"""Makes a draft for a target: answers, states, what learns from them, and what it is worth.

All that is done is kept in `work` below the output folder; a run that was killed goes on from
there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Protocol

import torch

from mtad.api.pair import ModelPair
from mtad.api.paying import Prospect
from mtad.atomic import write_text
from mtad.distill.acceptance import acceptance_of
from mtad.distill.beginning import frequent_tokens, logits_after
from mtad.distill.blocks import Target, Walk
from mtad.distill.copying import counted_rates
from mtad.distill.corpus import Answer, num_tokens_of, read_answers, write_answers
from mtad.distill.curve import Judged, read_curve, write_curve
from mtad.distill.kinds import student_for
from mtad.distill.pay import costs_of
from mtad.distill.plan import Plan
from mtad.distill.prompts import Chat
from mtad.distill.states import States, write_states
from mtad.distill.student import Student
from mtad.distill.training import Progress, train
from mtad.errors import DataError, MtadError
from mtad.model.copy_rates import set_copy_rates
from mtad.model.lm import Model

HELD_OUT = 15
"""One answer in so many is never learnt from, but measured on; odd, so that batches of all
temperatures have some."""

HOPELESS = 0.25
"""Of the training, after which one that will not pay is ended."""


class Observer(Protocol):
    """Hears how far the work is."""

    def begin(self, phase: str, total: float) -> None:
        """A phase begins, and how much there is to do in it."""

    def advance(self, done: float, status: str) -> None:
        """How much of the phase is done."""

    def say(self, text: str) -> None:
        """A line to be kept."""


def steps(observer: Observer, phase: str, total: int) -> Callable[[], None]:
    """Begin a phase of so many steps; what is returned is to be called after each of them."""
    observer.begin(phase, total)
    done = count(1)
    return lambda: observer.advance(next(done), "")


@dataclass(frozen=True)
class Distilled:
    """What came of it.

    Attributes:
        student: the draft.
        prospect: what chains of it cost.
        curve: the draft before, while and after it was trained.
        num_answers, num_tokens: of the target, that it learnt from.
        stopped: why the training was ended early, empty if it was not.
    """

    student: Student
    prospect: Prospect
    curve: tuple[Judged, ...]
    num_answers: int
    num_tokens: int
    stopped: str = ""


class CannotPayError(MtadError):
    """The draft would slow the target down however well it learnt."""


def distill(
    pair: ModelPair,
    plan: Plan,
    work: Path,
    observer: Observer,
    chats: Sequence[Chat] | None = None,
    clock: Callable[[], float] = time.monotonic,
    measure: Callable[[Model, Student], Prospect] = costs_of,
) -> Distilled:
    """Make a draft for the pair's target.

    Args:
        pair: its target; a draft of it is not used.
        plan: what was asked for.
        work: the folder of what is done.
        observer: hears how far it is.
        chats: the user's prompts; None for bundled ones.
        clock: seconds.
        measure: times target and draft.

    Raises:
        CannotPayError: even a perfect draft of this form would slow the target down.
        DataError: the folder has the work of another plan, or is damaged.
    """
    plan.keep(work / "plan.json")
    target = pair.models.target
    prospect = _prospect(pair, plan, observer, measure)
    answers = _answers(pair, plan, work, observer, chats, clock)
    observer.begin("reading the answers", len(answers))
    states = write_states(target, answers, work / "states", lambda done: observer.advance(done, ""))
    held_out = held_out_places(states)
    learnt, kept = states.where(~held_out), states.where(held_out)
    d2t = frequent_tokens(learnt.tokens.tolist(), plan.draft_vocab_size, pair.models.vocab)
    student = student_for(plan, target, d2t)
    beginning = student.start(learnt)
    rates = counted_rates(learnt)
    set_copy_rates(student.model, rates)
    covered = torch.isin(kept.tokens, d2t).float().mean()
    observer.say(
        f"the draft can say {len(d2t)} tokens, {covered:.1%} of the held-out answers'; "
        f"{beginning}; after a match of 1, 2, … tokens it copies with rates {rates[1:]}"
    )
    logits = logits_after(target)
    judge = _Judge(student, kept, logits, plan, prospect, observer, work / "curve.json")
    if not judge.curve:
        judge.take(0.0)
    observer.begin("training", plan.schedule.seconds)
    walk = Walk(plan.sampling.params, plan.schedule.depth, plan.schedule.seconds / 20, clock)
    starts = partial(walk.block_starts, work / "starts.pt", student, learnt, logits)
    checkpoint = work / "training.pt"
    progress = train(student, learnt, plan.schedule, checkpoint, judge.on_step, starts, clock)
    if progress.seconds > judge.curve[-1].seconds:
        judge.take(progress.seconds)
    return Distilled(
        student, prospect, tuple(judge.curve), len(answers), num_tokens_of(answers), judge.stopped
    )


def held_out_places(states: States) -> torch.Tensor:
    """A mask over places: those of the answers that are not learnt from."""
    return states.texts % HELD_OUT == 0


def _prospect(
    pair: ModelPair,
    plan: Plan,
    observer: Observer,
    measure: Callable[[Model, Student], Prospect],
) -> Prospect:
    """What the models cost here, and the word that no draft of this form can pay."""
    target = pair.models.target
    size = min(plan.draft_vocab_size, pair.models.vocab)
    prospect = measure(target, student_for(plan, target, torch.arange(size)))
    costs, best = prospect.costs, prospect.best_at(1.0)
    if prospect.break_even is None:
        raise CannotPayError(
            f"a draft cannot pay here: {best.shape.length} drafted tokens and their verification "
            f"take {1 / best.speed_up:.2f} times as long as the target takes without; use "
            f"{plan.cheaper}a larger target, or another machine"
        )
    observer.say(
        f"a target forward takes {costs.target(1) * 1e3:.1f} ms here, a drafted token "
        f"{costs.draft_s * 1e3:.2f} ms; a draft pays from an acceptance of "
        f"{prospect.break_even:.2f} on, and {best.speed_up:.1f} times the speed is the most"
    )
    return prospect


def _answers(
    pair: ModelPair,
    plan: Plan,
    work: Path,
    observer: Observer,
    chats: Sequence[Chat] | None,
    clock: Callable[[], float],
) -> list[Answer]:
    """The target's answers; those of earlier runs count with the time that they took."""
    path, spent = work / "answers.jsonl", _Spent(work / "answers.seconds", clock)
    if spent.seconds >= plan.answering_s:
        return read_answers(path)
    observer.begin("the target answers", plan.answering_s)

    def on_answers(answers: list[Answer]) -> bool:
        seconds = spent.add()
        observer.advance(seconds, f"{num_tokens_of(answers):,} tokens")
        return seconds < plan.answering_s

    answers = write_answers(pair, path, plan.sampling, chats, on_answers, plan.also_bundled)
    if len(answers) < 2:
        raise ValueError("there are fewer than 2 prompts; give more, or leave --prompts out")
    return answers


class _Spent:
    """Seconds that a phase has taken, over all runs."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self.seconds = float(path.read_text()) if path.exists() else 0.0
        self._last = clock()

    def add(self) -> float:
        """The seconds so far, written down."""
        now = self._clock()
        self.seconds, self._last = self.seconds + now - self._last, now
        write_text(self._path, f"{self.seconds:.3f}\n")
        return self.seconds


class _Judge:
    """Measures a draft now and then, while it is trained, and ends what will not pay."""

    def __init__(
        self,
        student: Student,
        kept: States,
        target: Target,
        plan: Plan,
        prospect: Prospect,
        observer: Observer,
        path: Path,
    ) -> None:
        self._student, self._kept, self._plan, self._prospect = student, kept, plan, prospect
        self._target = target
        self._observer = observer
        self._path = path
        self.curve = read_curve(path)
        self.stopped = ""

    def on_step(self, progress: Progress) -> bool:
        """Whether to go on after a step."""
        total = self._plan.schedule.seconds
        status = f"loss {progress.loss:.2f}, acceptance {progress.acceptance:.2f}"
        self._observer.advance(progress.seconds, status)
        if progress.seconds - self.curve[-1].seconds >= total / 8:
            self.take(progress.seconds)
            if progress.seconds >= total * HOPELESS:
                self.stopped = self._hopeless()
        return not self.stopped

    def take(self, seconds: float) -> None:
        """Measure the draft, and say what it would bring."""
        sampling, depth = self._plan.sampling, self._prospect.longest
        found = {}
        long_enough = self._kept.temperatures[self._kept.left >= depth]
        for temperature in sorted(set(long_enough.tolist())):
            params = sampling.params(temperature)
            found[temperature] = acceptance_of(
                self._student, self._kept, self._target, params, depth=depth
            )
        if not found:
            raise DataError(
                f"no held-out answer has more than {depth} tokens, so nothing can be measured; "
                "give more prompts, or such that are answered at more length"
            )
        self.curve.append(Judged(seconds, found))
        write_curve(self.curve, self._path)
        for temperature, acceptance in found.items():
            best = self._prospect.best(acceptance.tokens)
            self._observer.say(
                f"after {seconds:.0f} s, temperature {temperature:g}: acceptance {acceptance}; "
                f"best with {best.shape.length} draft tokens: {best.speed_up:.2f} times plain "
                "decoding"
            )

    def _hopeless(self) -> str:
        """Why a draft that got as far as this will not pay; empty if it will."""
        now, before = self.curve[-1].worst, self.curve[-2].worst
        gain = max(0.0, now.by_position[0] - before.by_position[0])
        hoped = min(1.0, now.by_position[0] + 4 * gain + 0.05)
        needed = self._prospect.break_even or 0.0
        if hoped > needed:
            return ""
        return (
            f"the acceptance is {now.by_position[0]:.2f}, and to the "
            f"{needed:.2f} from which on a draft pays it does not rise fast "
            f"enough; {self._plan.cheaper}more prompts of the kind that is served, or a larger "
            "target, would help"
        )
