"""Drafts that know a part of the target's tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mtad.model.lm import Model
from mtad.model.trimmed import stand_for


def trimmed(model: Model, token_ids: Sequence[int], embedding: bool = False) -> Model:
    """A copy with the head's rows of some tokens alone, in this order; the embedding's, too."""
    other: Any = copy.deepcopy(model)
    with torch.no_grad():
        head = other.get_output_embeddings()
        kept = nn.Linear(head.in_features, len(token_ids), bias=False)
        kept.weight.copy_(head.weight[list(token_ids)])
        other.set_output_embeddings(kept)
        if embedding:
            rows = other.get_input_embeddings().weight[list(token_ids)].clone()
            other.set_input_embeddings(nn.Embedding.from_pretrained(rows))
    found: Model = stand_for(other, token_ids)
    return found
