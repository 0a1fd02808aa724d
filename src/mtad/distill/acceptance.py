"""How many of a draft's tokens the target would accept, measured on its own texts.

Along a text that the target wrote, a drafted token is the text's own with probability min(1, q/p)
of it. So two things follow without decoding anything: the conditional acceptance at draft position
k, a mean over the places of a text, weighted by the probability that a chain gets there; and the
tokens per target call, from the probability that a block begins at a place. The second is less
than the first suggests: blocks begin where drafts fail, and there the next one is harder, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mtad.distill.states import States
from mtad.distill.student import Student
from mtad.sampling.truncation import keep_top_k, keep_top_p


@dataclass(frozen=True)
class Acceptance:
    """What chains of drafted tokens meet.

    Attributes:
        by_position: conditional acceptance at each draft position, from the first on.
        tokens_per_call: of target calls that verify chains of 1, 2, … tokens.
    """

    by_position: tuple[float, ...]
    tokens_per_call: tuple[float, ...]

    def __str__(self) -> str:
        shares = " ".join(f"{share:.2f}" for share in self.by_position)
        return f"{shares}, tokens per call {self.tokens_per_call[-1]:.2f}"


@torch.inference_mode()
def acceptance_of(
    student: Student,
    states: States,
    target: Callable[[Tensor], Tensor],
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    depth: int = 4,
    most_places: int = 4096,
) -> Acceptance:
    """The draft's acceptance on texts of the target, drawn at the same settings.

    Args:
        student: what drafts.
        states: of held-out answers; those of another temperature are left out.
        target: its logits, of all tokens, after states: what the draft cannot say is not accepted.
        temperature, top_k, top_p: of target and draft; 0 is greedy.
        depth: draft positions.
        most_places: a bound on the work; whole answers are measured, one at least.

    Raises:
        ValueError: no answer of more than `depth` tokens was drawn at this temperature.
    """
    settings = temperature, top_k, top_p
    drawn = states.where((states.temperatures - temperature).abs() < 1e-6)
    ends = (drawn.left == 0).nonzero().squeeze(1) + 1
    answers = [part for part in _parted(drawn, ends.tolist()) if len(part) > depth]
    if not answers:
        raise ValueError(f"no answer of {depth + 1} tokens or more was drawn at {temperature}")
    got, of = torch.zeros(2, depth, dtype=torch.float64)
    num_tokens, num_calls, num_places = 0, [0.0] * depth, 0
    for answer in answers:
        overlap, reached = _chains(student, answer, target, settings, depth)
        whole = len(answer) - depth  # chains that end with the answer at the latest
        got += (reached[:whole, :-1] * overlap[:whole]).sum(0).cpu()
        of += reached[:whole, :-1].sum(0).cpu()
        num_tokens += len(answer) - 1
        for longest in range(1, depth + 1):
            num_calls[longest - 1] += _num_calls(reached[:, : longest + 1].tolist())
        num_places += len(answer)
        if num_places >= most_places:
            break
    shares = (got / of.clamp(min=1e-9)).tolist()
    return Acceptance(tuple(shares), tuple(num_tokens / calls for calls in num_calls))


def _parted(states: States, ends: Sequence[int]) -> Sequence[States]:
    """Answer by answer."""
    starts = [0, *ends][:-1]
    names = ("hidden", "tokens", "left", "temperatures")
    return [
        States(*(getattr(states, name)[start:end] for name in names))
        for start, end in zip(starts, ends, strict=True)
    ]


def _chains(
    student: Student,
    answer: States,
    target: Callable[[Tensor], Tensor],
    settings: tuple[float, int, float],
    depth: int,
) -> tuple[Float[Tensor, "places depth"], Float[Tensor, "places depth_and_one"]]:
    """Of a chain after each place: sum of min(p, q) at each position, and P(at least n accepted).

    Both are 0 beyond the end of the answer; that at least 0 are accepted is certain.
    """
    count = len(answer)
    d2t = student.d2t
    p = warped(target(answer.hidden), *settings).to(d2t.device)[:, d2t]
    said = _places_of(d2t, answer.tokens.to(d2t.device))
    p_said = _of(p, said)
    overlap = p.new_zeros(count, depth)
    reached = p.new_zeros(count, depth + 1)
    reached[:, 0] = 1.0
    for step, logits in enumerate(itertools.islice(student.logits_along(answer), depth)):
        rows = count - 1 - step  # chains that get so far within the answer
        q = warped(logits, *settings)
        beyond = slice(step + 1, step + 1 + rows)
        overlap[:rows, step] = torch.minimum(p[beyond], q).sum(1)
        ratio = (_of(q, said[beyond]) / p_said[beyond].clamp(min=1e-9)).clamp(max=1.0)
        reached[:rows, step + 1] = reached[:rows, step] * ratio
    return overlap, reached


def _num_calls(reached: Sequence[Sequence[float]]) -> float:
    """Expected target calls that an answer takes after its first token.

    Args:
        reached: for a block that begins at each place, P(at least n tokens are accepted).
    """
    begins = [1.0] + [0.0] * (len(reached) - 1)
    for place, chances in enumerate(reached[:-1]):
        for accepted, chance in enumerate(chances):
            after = chances[accepted + 1] if accepted + 1 < len(chances) else 0.0
            following = place + accepted + 1
            if following < len(begins):
                begins[following] += begins[place] * (chance - after)
    return sum(begins[:-1])


def warped(
    logits: Float[Tensor, "chunk draft_vocab"], temperature: float, top_k: int, top_p: float
) -> Float[Tensor, "chunk draft_vocab"]:
    """Probabilities after temperature, top-k and top-p; the most likely token alone at 0."""
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float()
    logits = logits / temperature
    if top_k:
        logits = keep_top_k(logits, torch.full_like(logits[:, :1], top_k, dtype=torch.int64), top_k)
    if top_p < 1:
        logits = keep_top_p(logits, torch.full_like(logits[:, :1], top_p))
    return logits.softmax(1)


def _places_of(d2t: Tensor, tokens: Tensor) -> Tensor:
    """Where tokens stand in `d2t`; -1 for those that the draft cannot say."""
    place = torch.searchsorted(d2t, tokens).clamp(max=len(d2t) - 1)
    return torch.where(d2t[place] == tokens, place, -1)


def _of(law: Tensor, place: Tensor) -> Tensor:
    """The probability at each row's place, 0 where that is -1."""
    picked = law.gather(1, place.clamp(min=0)[:, None])[:, 0]
    return torch.where(place >= 0, picked, 0.0)
