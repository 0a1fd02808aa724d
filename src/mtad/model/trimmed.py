"""Models that know a part of a vocabulary: which tokens their rows and their logits are of.

A draft may have fewer tokens than the target. Its logits are then of these alone, whose ids in the
target's vocabulary are `TokenMap.ids`; a token that it lacks has no probability. Knows no
tokenizer, no cache and no checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from mtad.errors import VocabularyMismatchError
from mtad.model.context import embedding_rows

_NAME = "token_ids_of_target"


def head_rows(model: PreTrainedModel) -> int:
    """Number of logits that the model has after a token."""
    anything: Any = model
    head = anything.get_output_embeddings()
    return embedding_rows(model) if head is None else int(head.weight.shape[0])


def set_head(model: PreTrainedModel, head: nn.Linear) -> None:
    """Give a model this output layer in the place of its own, by whatever name it has it."""
    anything: Any = model
    own = anything.get_output_embeddings()
    name = next(name for name, part in model.named_modules() if part is own)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, head)


def stand_for(model: PreTrainedModel, token_ids: Sequence[int]) -> PreTrainedModel:
    """The model itself, whose logits are from now on those of the target's tokens `token_ids`.

    Its embedding has rows of these tokens, too, or of all tokens of the target where it has more
    rows than the head.

    Raises:
        VocabularyMismatchError: not an id per logit, or an id that is negative or there twice.
    """
    rows = head_rows(model)
    if len(token_ids) != rows:
        raise VocabularyMismatchError(
            f"{len(token_ids)} token ids are given for the {rows} rows of the draft's head; give "
            "the target's token id of every row, in their order"
        )
    if min(token_ids) < 0:
        raise VocabularyMismatchError(
            f"the draft's row {list(token_ids).index(min(token_ids))} stands for token id "
            f"{min(token_ids)}; ids are 0 or more"
        )
    first: dict[int, int] = {}
    for row, token in enumerate(token_ids):
        if first.setdefault(token, row) != row:
            raise VocabularyMismatchError(
                f"the draft's rows {first[token]} and {row} both stand for token id {token}; "
                "every row needs a token of its own"
            )
    ids = torch.tensor(list(token_ids), dtype=torch.int64, device=model.device)
    model.register_buffer(_NAME, ids, persistent=False)
    return model


def stood_for(model: PreTrainedModel) -> Int[Tensor, " rows"] | None:
    """The target's token id of each of the model's logits; None where they are its own ids."""
    ids: Tensor | None = getattr(model, _NAME, None)
    return ids


@dataclass(frozen=True)
class TokenMap:
    """What a model's rows and logits are of, in the target's vocabulary.

    Attributes:
        ids: (D,) token ids of the logits that `select` returns, ascending.
        columns: (D,) which of the model's logits these are; None where they are the first D.
        rows: (V,) the embedding row to read for each token; None where that is its id.
    """

    ids: Int[Tensor, " tokens"]
    columns: Int[Tensor, " tokens"] | None
    rows: Int[Tensor, " vocab"] | None

    @classmethod
    def of(cls, model: PreTrainedModel, vocab: int, device: torch.device) -> TokenMap | None:
        """The map of a model for a target of `vocab` tokens; None where it has all of them.

        A token that the model has no row for is read as its last one.
        """
        own, num_rows = stood_for(model), embedding_rows(model)
        if own is None:
            if num_rows >= vocab:
                return None
            own = torch.arange(num_rows, dtype=torch.int64)
        ids, columns = own.to(device).sort()
        ids, columns = ids[ids < vocab], columns[ids < vocab]
        in_order = torch.equal(
            columns, torch.arange(len(columns), device=device, dtype=torch.int64)
        )
        rows = None
        if num_rows <= len(own):
            rows = torch.full((vocab,), num_rows - 1, dtype=torch.int64, device=device)
            rows[ids] = columns
        return cls(ids, None if in_order else columns, rows)

    @classmethod
    def among(cls, pairs: Sequence[tuple[int, int]], vocab: int, device: torch.device) -> TokenMap:
        """The map of (the target's id, the model's own id), ascending."""
        ids, columns = torch.tensor(pairs, dtype=torch.int64, device=device).T.contiguous()
        rows = torch.zeros(vocab, dtype=torch.int64, device=device).scatter(0, ids, columns)
        return cls(ids, columns, rows)

    def read(self, tokens: Int[Tensor, "rows nodes"]) -> Int[Tensor, "rows nodes"]:
        """The embedding rows to read for tokens."""
        return tokens if self.rows is None else self.rows[tokens]

    def select(
        self, logits: Float[Tensor, "rows nodes columns"]
    ) -> Float[Tensor, "rows nodes tokens"]:
        """The logits of `ids`."""
        if self.columns is None:
            return logits[..., : len(self.ids)]
        return logits.index_select(-1, self.columns)
