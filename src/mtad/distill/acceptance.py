"""How many of a draft's tokens the target would accept, measured on its own texts.

The conditional acceptance at draft position k is a mean over the places of a text, weighted by the
probability that a chain gets there. Tokens per target call follow from where blocks begin; they are
less than the first suggests, as blocks begin where drafts fail, and there the next one is harder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mtad.distill.blocks import Target, chains_of
from mtad.distill.states import States
from mtad.distill.student import Student
from mtad.sampling.params import SamplingParams


@dataclass(frozen=True)
class Acceptance:
    """What chains of drafted tokens meet.

    Attributes:
        by_position: conditional acceptance at each draft position, from the first on.
        tokens_per_call: of target calls that verify chains of 1, 2, … tokens.
    """

    by_position: tuple[float, ...]
    tokens_per_call: tuple[float, ...]

    @property
    def tokens(self) -> tuple[float, ...]:
        """Tokens of an iteration by the draft's length, from 0 on."""
        return (1.0, *self.tokens_per_call)

    def __str__(self) -> str:
        shares = " ".join(f"{share:.2f}" for share in self.by_position)
        return f"{shares}, tokens per call {self.tokens_per_call[-1]:.2f}"


def acceptance_of(
    student: Student,
    states: States,
    target: Target,
    params: SamplingParams,
    *,
    depth: int = 4,
    most_places: int = 4096,
) -> Acceptance:
    """The draft's acceptance on texts of the target, drawn with the same settings.

    Args:
        student: what drafts.
        states: of held-out answers; those of another temperature are left out.
        target: its logits: what the draft cannot say is not accepted.
        params: temperature, top-k and top-p of both.
        depth: draft positions.
        most_places: a bound on the work; whole answers are measured, one at least.

    Raises:
        ValueError: no answer of more than `depth` tokens was drawn at this temperature.
    """
    drawn = states.where((states.temperatures - params.temperature).abs() < 1e-6)
    answers = [answer for _, answer in drawn.answers() if len(answer) > depth]
    if not answers:
        raise ValueError(
            f"no answer of {depth + 1} tokens or more was drawn at {params.temperature:g}"
        )
    got, of = torch.zeros(2, depth, dtype=torch.float64)
    num_tokens, num_calls, num_places = 0, [0.0] * depth, 0
    for answer in answers:
        chains = chains_of(student, answer, target, params, depth)
        whole = len(answer) - depth  # chains that end with the answer at the latest
        arrived = chains.reached[:whole, :-1]
        got += (arrived * chains.overlap[:whole]).sum(0).cpu()
        of += arrived.sum(0).cpu()
        num_tokens += len(answer) - 1
        for longest in range(1, depth + 1):
            num_calls[longest - 1] += sum(chains.begins(longest)[:-1])
        num_places += len(answer)
        if num_places >= most_places:
            break
    shares = (got / of.clamp(min=1e-9)).tolist()
    return Acceptance(tuple(shares), tuple(num_tokens / calls for calls in num_calls))
