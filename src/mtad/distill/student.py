"""What a draft of any kind offers while it learns from its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtad.distill.states import States
from mtad.model.drafter import Draft
from mtad.model.lm import Model


@dataclass(frozen=True)
class Step:
    """One step of the optimiser.

    Attributes:
        size: places that it learns from.
        depth: steps ahead that are learnt, where a draft reads what it said itself.
        order: draws the places.
        mix: as for `training.divergence`.
        starts: (N,) the probability that a block begins at each place, so much it counts; None
            where all count alike.
    """

    size: int
    depth: int
    order: torch.Generator
    mix: float | None = None
    starts: Float[Tensor, " places"] | None = None


class Student(Protocol):
    """A draft in the making."""

    @property
    def model(self) -> Draft:
        """The draft itself, float32 while it learns."""

    @property
    def d2t(self) -> Int[Tensor, " draft_vocab"]:
        """The target's token id of each token that it can say, ascending; on its device."""

    @property
    def about(self) -> str:
        """What it is, in sentences for its card."""

    def start(self, states: States) -> str:
        """Begin as well as can be without training; what came of it, in a few words."""

    def learnt(self) -> list[Tensor]:
        """What training changes."""

    def kept(self) -> dict[str, Any]:
        """What a checkpoint has to hold of it."""

    def take(self, kept: dict[str, Any]) -> None:
        """Go on from what a checkpoint held."""

    def loss(self, states: States, step: Step) -> tuple[Tensor, float]:
        """The mean loss of one step's places, of these answers, and the mean acceptance there."""

    def logits_along(self, answer: States) -> Iterator[Float[Tensor, "places draft_vocab"]]:
        """Logits of the tokens in `d2t` along one answer, drafted 1, 2, … tokens ahead.

        The first are of the tokens at places 1, 2, …, drafted after the true text; the second of
        those at 2, 3, …, and so on: each of the second token of a block, after its first was that
        of the text. Of every answer, as many as it has tokens to draft.
        """

    def cast(self, dtype: torch.dtype) -> None:
        """Give the model's weights this dtype; it learns no more from then on."""

    def step(self) -> Callable[[], object]:
        """What drafts one token of one text, to be timed; in the dtype that the model has."""

    def save(self, folder: Path, target: Model) -> None:
        """Write the draft to a folder, in the target's dtype, which it has from then on."""

    def load(self, folder: Path, target: Model) -> Draft:
        """The draft as whoever gives that folder gets it, on the target's device."""
