"""The kind `head`: a recurrent head that reads the target's last hidden state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtad.distill.beginning import embedded, entered, fit_linear, head_for
from mtad.distill.states import States
from mtad.distill.student import Step
from mtad.distill.training import divergence
from mtad.model.head_files import load_head, save_head
from mtad.model.lm import Model
from mtad.model.recurrent_head import RecurrentHead


class HeadStudent:
    """A head that learns; see `Student`. Its output rows and its norm are the target's and stay.

    Args:
        model: begun by `beginning`.
    """

    def __init__(self, model: RecurrentHead) -> None:
        self.model = model

    @classmethod
    def of(cls, target: Model, d2t: Int[Tensor, " draft_vocab"]) -> HeadStudent:
        """An untrained one for a target, that can say the tokens of `d2t`."""
        return cls(head_for(target, d2t).float().to(target.device))

    @property
    def d2t(self) -> Int[Tensor, " draft_vocab"]:
        """The target's token id of each token that it can say."""
        return self.model.d2t

    @property
    def about(self) -> str:
        """What it is."""
        return (
            "A recurrent head that reads the target's last hidden state, made by `mtad distill`. "
            f"It has no\nattention and no cache, and says {len(self.d2t):,} of the target's tokens."
        )

    def start(self, states: States) -> str:
        """Begin in closed form."""
        explained = fit_linear(self.model, states)
        return f"the linear start explains {explained:.0%} of the next state"

    def learnt(self) -> list[Tensor]:
        """What training changes."""
        head = self.model
        return [head.fc.weight, head.fc.bias, head.gate_up.weight, head.down.weight, head.mlp_norm]

    def kept(self) -> dict[str, Any]:
        """All tensors."""
        return self.model.state_dict()

    def take(self, kept: dict[str, Any]) -> None:
        """Go on from these."""
        self.model.load_state_dict(kept)

    def loss(self, states: States, step: Step) -> tuple[Tensor, float]:
        """The mean loss of one step's places, and the mean acceptance one step ahead."""
        chosen = drawn(states.starts(step.depth), step.size, step.starts, step.order)
        return head_loss(self.model, states, chosen, step.depth, step.mix)

    def logits_along(self, answer: States) -> Iterator[Float[Tensor, "places draft_vocab"]]:
        """Logits drafted 1, 2, … tokens ahead, on the head's own states."""
        every = torch.arange(len(answer), device=answer.tokens.device)
        state = entered(self.model, answer, every)
        for ahead in range(1, len(answer)):
            rows = len(answer) - ahead  # chains that get so far within the answer
            read = embedded(self.model, answer, every[ahead - 1 : -1])
            state = self.model(read, state[:rows])
            yield self.model.logits(state)

    def cast(self, dtype: torch.dtype) -> None:
        """Give the weights this dtype."""
        self.model.to(dtype)

    def step(self) -> Callable[[], object]:
        """What drafts one token."""
        head = self.model
        token = torch.zeros(1, dtype=torch.int64, device=head.device)
        state = torch.ones(1, head.config.hidden_size, dtype=head.dtype, device=head.device)
        return lambda: head.logits(head(head.embed(token).to(head.dtype), state)).argmax()

    def save(self, folder: Path, target: Model) -> None:
        """Write the head."""
        self.cast(target.dtype)
        save_head(self.model, folder, target)

    def load(self, folder: Path, target: Model) -> RecurrentHead:
        """The head of a folder."""
        return load_head(folder, target)


def drawn(places: Tensor, count: int, weights: Tensor | None, generator: torch.Generator) -> Tensor:
    """So many of the places, with replacement; in proportion to `weights` (N,) if there are any."""
    if weights is None:
        return places[torch.randint(len(places), (count,), generator=generator)]
    sums = weights[places].double().cumsum(0)
    spots = torch.rand(count, generator=generator, dtype=torch.float64) * sums[-1]
    return places[torch.searchsorted(sums, spots, right=True).clamp(max=len(places) - 1)]


def head_loss(
    head: RecurrentHead, states: States, places: Tensor, depth: int, mix: float | None
) -> tuple[Tensor, float]:
    """The mean loss of a head at some places, and the mean acceptance one step ahead."""
    state = entered(head, states, places)
    total, acceptance = state.new_zeros(()), 0.0
    for step in range(depth):
        read = embedded(head, states, places + step)
        with torch.autocast(state.device.type, torch.bfloat16):
            state = head(read, state)
            logits = head.logits(state)
            with torch.no_grad():
                teacher = head.logits(entered(head, states, places + step + 1))
        loss, overlap = divergence(logits, teacher, mix)
        if step == 0:
            acceptance = overlap
        total = total + loss
    return total / depth, acceptance
