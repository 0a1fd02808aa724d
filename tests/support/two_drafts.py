"""Drafts that read a text in tokens of their own, and what they have to say after it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from support.two_tokenizers import byte_level, characters, metaspace

from mtad.model.lm import Model
from mtad.model.translated import translated, translation_of
from mtad.model.translation import Translation
from mtad.testing import random_llama

TEXTS = ["the cat sat on", "der Bär aß süße Äpfel; 猫が", "x = x + 1\nx", " 🙂🙃 the mat"]


@cache
def models() -> tuple[Model, Model]:
    """A target with a byte-level tokenizer, a draft with one that writes spaces as ▁."""
    target, draft = byte_level(), metaspace()
    translation = Translation.between(target, draft, len(target), len(draft))
    own = random_llama(vocab=len(draft), seed=3)
    return random_llama(vocab=len(target)), translated(own, translation)


@cache
def prompts() -> list[list[int]]:
    """`TEXTS` in the target's tokens."""
    return [byte_level()(text, add_special_tokens=False)["input_ids"] for text in TEXTS]


def renumbered(model: Model) -> Model:
    """The same network behind other token ids: its drafts are those of `model`, to the bit.

    Every token is a character of the target's tokenizer; the draft's has another order.
    """
    other: Any = copy.deepcopy(model)
    vocab = other.get_input_embeddings().weight.shape[0]
    order = torch.randperm(vocab, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for layer in {other.get_input_embeddings(), other.get_output_embeddings()}:
            layer.weight.copy_(layer.weight[order].clone())
    ours = {chr(0x4E00 + i): i for i in range(vocab)}
    theirs = {chr(0x4E00 + old): new for new, old in enumerate(order.tolist())}
    own, foreign = characters(ours), characters(theirs)
    return translated(other, Translation.between(own, foreign, vocab, vocab))


def fresh_laws(draft: Model, text: Sequence[int], path: Sequence[int], vocab: int) -> torch.Tensor:
    """The draft's logits after a text and after each token of a path, by a forward of its own.

    Args:
        draft: reads tokens of its own.
        text, path: the target's tokens; those of the path are common ones.
        vocab: number of the target's token ids.

    Returns:
        (len(path) + 1, vocab), of the tokens that both have; -inf for others.
    """
    translation = translation_of(draft)
    assert translation is not None
    own = dict(translation.pairs)
    ours, theirs = zip(*translation.pairs, strict=True)
    ids = [*translation.encode(text), *(own[token] for token in path)]
    with torch.inference_mode():
        logits = draft(torch.tensor([ids])).logits[0, -len(path) - 1 :]
    found = torch.full((len(path) + 1, vocab), -torch.inf)
    found[:, list(ours)] = logits[:, list(theirs)]
    return found
