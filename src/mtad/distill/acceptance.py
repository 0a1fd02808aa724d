"""How many of a head's tokens the target would accept, measured on its own texts.

Along a text that the target wrote, a chain of drafted tokens is accepted up to its first
difference. So the conditional acceptance at draft position k is a mean over the places of a text,
weighted by the probability that a chain gets there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mtad.distill.beginning import entered, inputs
from mtad.distill.states import States
from mtad.model.recurrent_head import RecurrentHead
from mtad.sampling.truncation import keep_top_k, keep_top_p


@dataclass(frozen=True)
class Acceptance:
    """What a chain of drafted tokens meets.

    Attributes:
        by_position: conditional acceptance at each draft position, from the first on.
    """

    by_position: tuple[float, ...]

    @property
    def expected(self) -> float:
        """Accepted tokens of a chain that is as long as there are positions."""
        return sum(
            math.prod(self.by_position[: place + 1]) for place in range(len(self.by_position))
        )

    def __str__(self) -> str:
        shares = " ".join(f"{share:.2f}" for share in self.by_position)
        return f"{shares} ({self.expected:.2f} of {len(self.by_position)})"


@torch.inference_mode()
def acceptance_of(
    head: RecurrentHead,
    states: States,
    target: Callable[[Tensor], Tensor],
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    depth: int = 4,
    most_places: int = 2048,
) -> Acceptance:
    """The head's acceptance on texts of the target, drawn at the same settings.

    Args:
        head: what drafts.
        states: of held-out answers; those of another temperature are left out.
        target: its logits, of all tokens, after states: what the head cannot say is not accepted.
        temperature, top_k, top_p: of target and draft; 0 is greedy.
        depth: draft positions.
        most_places: a bound on the work.

    Raises:
        ValueError: no answer was drawn at this temperature.
    """
    places = states.starts(depth)
    places = places[(states.temperatures[places] - temperature).abs() < 1e-6]
    if not len(places):
        raise ValueError(f"no answer of {depth + 1} tokens or more was drawn at {temperature}")
    places = places[:: max(1, -(-len(places) // most_places))]
    got, of = torch.zeros(2, depth, dtype=torch.float32, device=head.device)
    for chunk in torch.split(places, 512):
        weight = torch.ones(len(chunk), dtype=torch.float32, device=head.device)
        state = entered(head, states, chunk)
        for step in range(depth):
            embedded, _ = inputs(head, states, chunk + step)
            state = head(embedded, state)
            settings = temperature, top_k, top_p
            p = warped(target(states.hidden[chunk + step + 1]), *settings)[:, head.d2t]
            q = warped(head.logits(state), *settings)
            got[step] += (weight * torch.minimum(p, q).sum(1)).sum()
            of[step] += weight.sum()
            drafted = _places_of(head, states.tokens[chunk + step + 1].to(head.device))
            p_said, q_said = (_of(law, drafted) for law in (p, q))
            weight = weight * (q_said / p_said.clamp(min=1e-9)).clamp(max=1.0)
    return Acceptance(tuple((got / of.clamp(min=1e-9)).tolist()))


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


def _places_of(head: RecurrentHead, tokens: Tensor) -> Tensor:
    """Where tokens stand in `d2t`; -1 for those that the head cannot draft."""
    place = torch.searchsorted(head.d2t, tokens).clamp(max=len(head.d2t) - 1)
    return torch.where(head.d2t[place] == tokens, place, -1)


def _of(law: Tensor, place: Tensor) -> Tensor:
    """The probability at each row's place, 0 where that is -1."""
    picked = law.gather(1, place.clamp(min=0)[:, None])[:, 0]
    return torch.where(place >= 0, picked, 0.0)
