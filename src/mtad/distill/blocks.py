"""Chains of drafted tokens along the target's own texts, and where the next ones begin.

Along a text that the target wrote, a drafted token is the text's own with probability min(1, q/p)
of it. From that follow, without decoding anything, how far a chain gets from each place, and the
probability that a block begins there: blocks begin where drafts fail.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtad.distill.copying import copies_along
from mtad.distill.saving import save
from mtad.distill.states import States
from mtad.distill.student import Student
from mtad.model.copy_rates import copy_rates_of
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper
from mtad.speculative.drafting import LevelLogprobs

Target: TypeAlias = Callable[[Tensor], Tensor]
"""The target's logits (n, V), of all tokens, after states (n, H)."""


@dataclass(frozen=True)
class Chains:
    """A chain of drafted tokens after each place of an answer.

    Attributes:
        overlap: (n, depth) the sum of min(p, q) at each position, 0 beyond the end of the answer.
        reached: (n, depth + 1) P(at least that many are accepted); 1 for none, 0 beyond the end.
    """

    overlap: Float[Tensor, "places depth"]
    reached: Float[Tensor, "places depth_and_one"]

    def begins(self, depth: int) -> list[float]:
        """The probability that a block of `depth` drafted tokens begins at each place.

        The first one begins at place 0, and each leaves the state before its last token.
        """
        chances = self.reached[:, : depth + 1].tolist()
        begins = [1.0] + [0.0] * (len(chances) - 1)
        for place, at_least in enumerate(chances[:-1]):
            for accepted, chance in enumerate(at_least):
                after = at_least[accepted + 1] if accepted + 1 < len(at_least) else 0.0
                following = place + accepted + 1
                if following < len(begins):
                    begins[following] += begins[place] * (chance - after)
        return begins


@torch.inference_mode()
def chains_of(
    student: Student, answer: States, target: Target, params: SamplingParams, depth: int
) -> Chains:
    """The chains of a draft along an answer that the target drew with the same settings.

    Args:
        student: what drafts.
        answer: the states of one answer.
        target: what the draft cannot say is not accepted.
        params: temperature, top-k and top-p of target and draft.
        depth: draft positions.
    """
    count, d2t = len(answer), student.d2t
    p = law_of(target(answer.hidden), params).to(d2t.device)
    tokens = answer.tokens.to(d2t.device)
    p_said = p.gather(1, tokens[:, None])[:, 0]
    overlap = p.new_zeros(count, depth)
    reached = p.new_zeros(count, depth + 1)
    reached[:, 0] = 1.0
    for step, logits in enumerate(itertools.islice(student.logits_along(answer), depth)):
        rows = count - 1 - step  # chains that get so far within the answer
        beyond = slice(step + 1, step + 1 + rows)
        ids, q = _drafted(student, answer, step, logits, params)
        overlap[:rows, step] = torch.minimum(p[beyond].gather(1, ids), q).sum(1)
        q_said = torch.where(ids == tokens[beyond][:, None], q, 0.0).sum(1)
        ratio = (q_said / p_said[beyond].clamp(min=1e-9)).clamp(max=1.0)
        reached[:rows, step + 1] = reached[:rows, step] * ratio
    return Chains(overlap, reached)


@dataclass(frozen=True)
class Walk:
    """How answers are walked for the places where blocks begin.

    Attributes:
        settings: of answers of a temperature.
        depth: drafted tokens of a block.
        seconds: after which no further answer is walked; one is, at least.
        clock: seconds.
        seed: of the order in which answers are walked.
    """

    settings: Callable[[float], SamplingParams]
    depth: int
    seconds: float
    clock: Callable[[], float]
    seed: int = 0

    def block_starts(
        self, path: Path, student: Student, states: States, target: Target
    ) -> Float[Tensor, " places"]:
        """The probability that a block begins at each place; 0 in answers that were not walked.

        Args:
            path: where it is kept, or was by an earlier run.
            student: what drafts.
            states: of many answers.
            target: its logits.
        """
        if path.exists():
            kept: Tensor = torch.load(path, weights_only=True)
            return kept
        found = torch.zeros(len(states), dtype=torch.float32)
        until = self.clock() + self.seconds
        for start, answer in self._shuffled(states.answers()):
            params = self.settings(float(answer.temperatures[0]))
            chains = chains_of(student, answer, target, params, self.depth)
            begins = torch.tensor(chains.begins(self.depth), dtype=torch.float32)
            found[start : start + len(answer)] = begins
            if self.clock() >= until:
                break
        save(found, path)
        return found

    def _shuffled(self, answers: list[tuple[int, States]]) -> Iterator[tuple[int, States]]:
        order = torch.Generator().manual_seed(self.seed)
        for index in torch.randperm(len(answers), generator=order).tolist():
            yield answers[index]


def law_of(
    logits: Float[Tensor, "chunk tokens"], params: SamplingParams
) -> Float[Tensor, "chunk tokens"]:
    """Probabilities after temperature, top-k and top-p."""
    warp = Warper.of([params], logits.shape[1], logits.device)
    return warp.truncate(logits[None])[0].exp()


def _drafted(
    student: Student,
    answer: States,
    ahead: int,
    logits: Float[Tensor, "places draft_vocab"],
    params: SamplingParams,
) -> tuple[Int[Tensor, "places candidates"], Float[Tensor, "places candidates"]]:
    """Tokens and their probabilities after `ahead` drafted ones, with what the draft copies."""
    d2t, rates = student.d2t, copy_rates_of(student.model)
    warp = Warper.of([params], len(d2t), logits.device)
    level = LevelLogprobs(warp.truncate(logits[None]), None, d2t, warp.vocab)
    if rates:
        by_length = torch.tensor(rates, dtype=torch.float32, device=d2t.device)
        copies = copies_along(answer, ahead, by_length)
        if warp.greedy:
            raw = replace(level, values=logits.log_softmax(1)[None]).with_copies(copies)
            copies = copies.decided(warp.is_greedy, raw.values)
        level = level.with_copies(copies)
    assert level.ids is not None
    return level.ids[0], level.values[0].exp()
