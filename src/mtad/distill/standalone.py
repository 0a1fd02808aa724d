"""The kind `standalone`: a model of its own, that begins with some of the target's layers.

It reads whole texts and learns what the target's head made of its states along the answers. It is
read after the true text everywhere, as it is when it drafts the token after that; further ahead it
reads what it drafted, of which verification keeps only what is the text's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mtad.distill.beginning import as_logits
from mtad.distill.states import States
from mtad.distill.student import Step
from mtad.distill.training import divergence
from mtad.model.context import embedding_rows
from mtad.model.forward import output_head
from mtad.model.lm import Model
from mtad.model.loading import load_model
from mtad.model.shallow import layer_list, shallow, spread
from mtad.model.trimmed import stood_for
from mtad.model.trimmed_folder import save_trimmed

NUM_LAYERS = 3
"""That a draft has by default."""
_POOL = 4
"""Times as many texts are drawn as a step reads: those that are about as long as each other."""


class StandaloneStudent:
    """A model that learns; see `Student`. Its embedding is the target's and stays.

    Args:
        target: the model that it learns from.
        d2t: the tokens that it can say.
        num_layers: of the target, that it begins with; None for `NUM_LAYERS`.

    Raises:
        ValueError: the target has not so many.
        UnsupportedModelError: layers of the target cannot be taken.
    """

    def __init__(
        self, target: Model, d2t: Int[Tensor, " draft_vocab"], num_layers: int | None = None
    ) -> None:
        layer_list(target)
        self._of = target.config.num_hidden_layers
        self._layers = spread(NUM_LAYERS if num_layers is None else num_layers, self._of)
        model: Any = shallow(target, self._layers, d2t)
        self.model: Model = model.to(target.device)
        self.model.get_input_embeddings().requires_grad_(False)
        self._rows: Tensor = output_head(self.model).weight.detach().clone()
        self._vocab = embedding_rows(target)

    @property
    def d2t(self) -> Int[Tensor, " draft_vocab"]:
        """The target's token id of each token that it can say."""
        ids = stood_for(self.model)
        assert ids is not None
        return ids

    @property
    def about(self) -> str:
        """What it is."""
        return (
            f"A model of its own, made by `mtad distill`: it began with {self._which}. It has "
            f"the target's embedding, and\nsays {len(self.d2t):,} of the target's tokens, whose "
            "ids are in `d2t`."
        )

    @property
    def _which(self) -> str:
        numbers = ", ".join(str(layer + 1) for layer in self._layers)
        return f"{len(self._layers)} of the target's {self._of} layers ({numbers})"

    def start(self, states: States) -> str:
        """Nothing is left to do: the layers are copies already."""
        return f"it begins with {self._which}"

    def learnt(self) -> list[Tensor]:
        """All but the embedding."""
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def kept(self) -> dict[str, Any]:
        """What is learnt, by its name."""
        named = self.model.named_parameters()
        return {name: weight.detach() for name, weight in named if weight.requires_grad}

    def take(self, kept: dict[str, Any]) -> None:
        """Go on from these."""
        self.model.load_state_dict(self.model.state_dict() | kept)

    def loss(self, states: States, step: Step) -> tuple[Tensor, float]:
        """The mean loss of some texts of about so many places, and the mean acceptance there.

        A block that begins at a place drafts the tokens at the `depth` places after it.
        """
        texts = drawn_texts(states, step.size, step.order, step.starts)
        weights = None if step.starts is None else drafted_from(step.starts, texts, step.depth)
        places = torch.cat([torch.arange(start, stop) for start, stop in texts])
        with torch.autocast(self.d2t.device.type, torch.bfloat16):
            logits = self._logits(self._entering(states, texts))
            with torch.no_grad():
                entered = states.hidden[places].to(self._rows)
                teacher = as_logits(self.model.config, entered @ self._rows.T)
        return divergence(logits, teacher, step.mix, weights)

    def logits_along(self, answer: States) -> Iterator[Float[Tensor, "places draft_vocab"]]:
        """What it says after the true text: the same, however many tokens ahead."""
        logits = self._logits(self._entering(answer, [(0, len(answer))]))
        for ahead in range(1, len(answer)):
            yield logits[ahead:]

    def _entering(
        self, states: States, texts: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "places hidden"]:
        """What enters the draft's head before each token of some answers, one after another."""
        prompts = [states.prompt_at(start) for start, _ in texts]
        ids = [
            torch.cat([torch.tensor(prompt, dtype=torch.int64), states.tokens[start : stop - 1]])
            for prompt, (start, stop) in zip(prompts, texts, strict=True)
        ]
        base: Any = self.model.base_model
        padded = pad_sequence(ids, batch_first=True).to(self.model.device)
        hidden = base(input_ids=padded, use_cache=False).last_hidden_state
        rows = zip(hidden, prompts, ids, strict=True)
        return torch.cat([row[len(prompt) - 1 : len(text)] for row, prompt, text in rows])

    def _logits(self, entering: Float[Tensor, "places hidden"]) -> Tensor:
        scored: Tensor = output_head(self.model)(entering)
        return as_logits(self.model.config, scored.float())

    def cast(self, dtype: torch.dtype) -> None:
        """Give the weights this dtype; what is computed from the config keeps its own."""
        for weight in self.model.parameters():
            weight.data = weight.data.to(dtype)

    def step(self) -> Callable[[], object]:
        """What drafts one token."""
        model: Any = self.model
        token = torch.ones(1, 1, dtype=torch.int64, device=model.device)
        return lambda: model(input_ids=token, use_cache=False).logits.argmax()

    def save(self, folder: Path, target: Model) -> None:
        """Write the model."""
        self.cast(target.dtype)
        save_trimmed(self.model, folder, self._vocab)

    def load(self, folder: Path, target: Model) -> Model:
        """The model of a folder."""
        return load_model(folder, "draft", target.dtype, target.device)


def drawn_texts(
    states: States, size: int, order: torch.Generator, starts: Tensor | None = None
) -> list[tuple[int, int]]:
    """Where some answers begin and end, that have about `size` places together.

    Every answer, or every one of two tokens or more in which blocks begin, is as likely as any
    other. They are of a like length, prompts included, so that little is read in vain.

    Args:
        states: of all answers.
        size: places that are wanted.
        order: draws the answers.
        starts: (N,) the probability that a block begins at each place, if that is known.
    """
    spans = states.spans()
    if starts is not None:
        first, stop = spans.unbind(1)
        spans = spans[(starts[first] > 0) & (stop - first > 1)]
    count = max(1, round(size * len(spans) / int((spans[:, 1] - spans[:, 0]).sum())))
    pool = torch.randint(len(spans), (_POOL * count,), generator=order)
    found = [(start, stop) for start, stop in spans[pool].tolist()]
    found.sort(key=lambda span: span[1] - span[0] + len(states.prompt_at(span[0])))
    part = int(torch.randint(_POOL, (1,), generator=order)) * count
    return found[part : part + count]


def drafted_from(
    starts: Float[Tensor, " places"], texts: Sequence[tuple[int, int]], depth: int
) -> Float[Tensor, " chosen"]:
    """How often each place of some answers is among the first `depth` that a block drafts."""
    parts = []
    for start, stop in texts:
        begins = torch.nn.functional.pad(starts[start : stop - 1], (depth, 0))
        parts.append(begins.unfold(0, depth, 1).sum(1))
    return torch.cat(parts)
