"""The target's hidden states along its answers, kept on disk: what a head learns from.

A state is what enters the target's output head, see `mtad.model.recurrent_head`. Texts lie one
after another; place i of a text has the state before token i of its answer, and that token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mtad.distill.corpus import Answer
from mtad.distill.saving import save
from mtad.model.lm import Model

TOKENS_PER_FORWARD = 2048


@dataclass(frozen=True)
class States:
    """States and tokens of many answers.

    Attributes:
        hidden: (N, H) bfloat16; row i is what the target's head saw before it said token i.
        tokens: (N,) the tokens that were said.
        left: (N,) how many tokens of the same answer follow.
        temperatures: (N,) what the answer was drawn at.
        texts: (N,) which of the answers the token is of.
        prompts: the token ids before each of these answers.
    """

    hidden: Float[Tensor, "places hidden"]
    tokens: Int[Tensor, " places"]
    left: Int[Tensor, " places"]
    temperatures: Float[Tensor, " places"]
    texts: Int[Tensor, " places"]
    prompts: Sequence[Sequence[int]] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def starts(self, depth: int) -> Int[Tensor, " starts"]:
        """Places whose next `depth` places are of the same answer."""
        return (self.left >= depth).nonzero().squeeze(1)

    def where(self, chosen: Tensor | slice) -> States:
        """Those of the answers at `chosen`, a mask over places that never parts an answer."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _COLUMNS})

    def prompt_at(self, place: int) -> Sequence[int]:
        """The token ids before the answer that a place is of."""
        return self.prompts[int(self.texts[place])]

    def spans(self) -> Int[Tensor, "answers 2"]:
        """Where each answer begins and ends."""
        ends = (self.left == 0).nonzero().squeeze(1) + 1
        return torch.stack([torch.cat([ends.new_zeros(1), ends])[:-1], ends], dim=1)

    def answers(self) -> list[tuple[int, States]]:
        """The first place of each answer, and its own states."""
        spans = self.spans().tolist()
        return [(start, self.where(slice(start, end))) for start, end in spans]


_STORED = ("hidden", "tokens", "left", "temperatures")
_COLUMNS = (*_STORED, "texts")


def write_states(
    model: Model,
    answers: Sequence[Answer],
    folder: Path,
    on_progress: Callable[[int], None] = lambda done: None,
) -> States:
    """Read all answers once more and keep the states; goes on where an earlier run was killed.

    Args:
        model: the target.
        answers: what it said.
        folder: one file per group of answers is written there.
        on_progress: called with the number of answers that are done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts, done = [], 0
    for group in _groups(answers):
        name = folder / f"{done:07d}-{done + len(group):07d}.pt"
        if not name.exists():
            save(_states_of(model, group), name)
        parts.append(torch.load(name, weights_only=True))
        done += len(group)
        on_progress(done)
    stored: Any = {name: torch.cat([part[name] for part in parts]) for name in _STORED}
    texts = _whole([i for i, answer in enumerate(answers) for _ in answer.token_ids])
    prompts = [answer.prompt_ids for answer in answers]
    return States(**stored, texts=texts, prompts=prompts)


def _groups(answers: Sequence[Answer], size: int = 64) -> Iterator[Sequence[Answer]]:
    for start in range(0, len(answers), size):
        yield answers[start : start + size]


@torch.inference_mode()
def _states_of(model: Model, answers: Sequence[Answer]) -> dict[str, Tensor]:
    """The columns that are stored."""
    base: Any = model.base_model
    longest_first = sorted(range(len(answers)), key=lambda i: -_length(answers[i]))
    found: dict[int, Tensor] = {}
    while longest_first:
        count = max(1, TOKENS_PER_FORWARD // _length(answers[longest_first[0]]))
        batch, longest_first = longest_first[:count], longest_first[count:]
        texts = [_whole((*answers[i].prompt_ids, *answers[i].token_ids)) for i in batch]
        ids = pad_sequence(texts, batch_first=True).to(model.device)
        hidden = base(input_ids=ids, use_cache=False).last_hidden_state
        for row, i in enumerate(batch):
            stop = _length(answers[i]) - 1
            start = len(answers[i].prompt_ids) - 1
            found[i] = hidden[row, start:stop].to("cpu", torch.bfloat16)
    counts = [len(answer.token_ids) for answer in answers]
    return {
        "hidden": torch.cat([found[i] for i in range(len(answers))]),
        "tokens": _whole([token for answer in answers for token in answer.token_ids]),
        "left": _whole([n - 1 - place for n in counts for place in range(n)]),
        "temperatures": torch.tensor(
            [a.temperature for a, n in zip(answers, counts, strict=True) for _ in range(n)],
            dtype=torch.float32,
        ),
    }


def _whole(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def _length(answer: Answer) -> int:
    return len(answer.prompt_ids) + len(answer.token_ids)
