"""Drafts that read a text in tokens of their own, and what they have to say after it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from support.toy_texts import SCALED_TARGET
from support.toys import MarkovPair
from support.two_tokenizers import byte_level, characters, metaspace, toy_tokenizers

from mtad.engine.session import Observation
from mtad.model.lm import Model
from mtad.model.translated import translated, translation_of
from mtad.model.translation import Translation
from mtad.testing import TOY_TARGET, Table, markov_model, random_llama

TEXTS = ["the cat sat on", "der Bär aß süße Äpfel; 猫が", "x = x + 1\nx", " 🙂🙃 the mat"]


TOY_DRAFT_LAWS: Table = [
    [0.3, 0.05, 0.1, 0.35, 0.1, 0.1],
    [0.2, 0.1, 0.2, 0.4, 0.05, 0.05],
    [0.5, 0.05, 0.05, 0.3, 0.05, 0.05],
    [0.45, 0.02, 0.13, 0.2, 0.1, 0.1],
    [0.1, 0.05, 0.15, 0.6, 0.05, 0.05],
    [0.6, 0.05, 0.1, 0.1, 0.1, 0.05],
]


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


def costly(num_tokens: int) -> list[int]:
    """A text of the target of `models` that takes the draft three times as many tokens.

    It is of bytes that are no characters, for each of which a decoder puts a sign of three bytes.
    """
    return byte_level().convert_tokens_to_ids(["ĥ"]) * num_tokens


@cache
def toy_pair(scaled: bool = False) -> MarkovPair:
    """The toy target, and a draft that lacks one of its tokens and merges others."""
    translation = Translation.between(*toy_tokenizers(), 4, 6)
    draft = translated(markov_model(TOY_DRAFT_LAWS), translation)
    return MarkovPair(markov_model(SCALED_TARGET if scaled else TOY_TARGET), draft, 4)


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


def require_fresh_drafts(draft: Model, one: Observation, biases: dict[int, float]) -> int:
    """Compare what the draft said at each node with a forward of its own; how many nodes.

    Args:
        draft: reads tokens of its own.
        one: an iteration at temperature 1.
        biases: of the logits.
    """
    count, tree = 0, one.tree.whole or one.tree
    for row, length in enumerate(one.prefix.lengths.tolist()):
        text = one.prefix.tokens[row, :length].tolist()
        for node in tree.alive[row].nonzero()[1:, 0].tolist():
            path = tree.tokens[row, tree.ancestors[row, node].nonzero()[1:, 0]]
            logits = fresh_laws(draft, text, path[:-1].tolist(), one.logits.shape[-1])[-1]
            logits[list(biases)] += torch.tensor([*biases.values()])
            q = logits.log_softmax(0)
            if tree.draft_logprobs:
                above = tree.parents[row, node] - tree.levels[len(path) - 1].start
                found = tree.draft_logprobs[len(path) - 1][row, above]
                assert torch.allclose(found.exp(), q.exp(), atol=1e-4)
            else:
                assert tree.node_logprobs[row, node] == pytest.approx(float(q[path[-1]]), abs=1e-3)
            count += 1
    return count
