"""The texts after which a method is tested, and the target's laws there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mtad.api.pair import ModelPair
from mtad.engine.request import Request
from mtad.methods.autoregressive import Autoregressive
from mtad.sampling.params import SamplingParams
from mtad.verify.contexts import MOST_CERTAIN, Context
from mtad.verify.draws import Path
from mtad.verify.laws import law_after, laws_along, read_all
from mtad.verify.scores import PathScores

TEXT = 24
"""Tokens of a text that are looked through for the place to test."""
ROOM = 32
"""Tokens that a method may plan ahead there."""
MOST_BELOW = 2
"""Contexts of each further position."""
LEAST_WEIGHT = 0.05
"""Probability of a path that is worth a context."""


def open_places(
    pair: ModelPair, prompts: Sequence[Sequence[int]], params: SamplingParams, seed: int
) -> list[Request]:
    """One place of each prompt: where in a text that the target samples most is left to chance.

    Args:
        pair: whose target samples the texts.
        prompts: token ids.
        params: sampling settings.
        seed: of the first text.

    Returns:
        The texts so far; prompts after which nothing is left to chance have none.
    """
    settings = {f: getattr(params, f) for f in params.active()} | {
        "max_new_tokens": max(TEXT, params.min_new_tokens)
    }
    seeds = [seed + place for place in range(len(prompts))]
    texts = pair.generate(
        [list(prompt) for prompt in prompts],
        Autoregressive(), seed=seeds, guard=False, **settings,
    )  # fmt: skip
    found = []
    for prompt, text in zip(prompts, texts, strict=True):
        output = [t for t in text.token_ids if t not in params.eos_token_ids]
        request = Request(prompt, params)
        if (place := _most_open(pair, request, output)) is not None:
            budget = replace(params, max_new_tokens=max(place + ROOM, params.min_new_tokens))
            found.append(replace(request, output_ids=tuple(output[:place]), sampling=budget))
    return found


def _most_open(pair: ModelPair, request: Request, output: Sequence[int]) -> int | None:
    """After how many tokens the next two are left to chance most; None where the next never is.

    That is the entropy of the law there, and of that of the token after it.
    """
    ids = [*request.prompt_ids, *output]
    logits = read_all(pair, ids)[len(request.prompt_ids) - 1 :]
    probs = laws_along(pair, request, output, logits)
    entropy = -torch.xlogy(probs, probs).sum(-1)
    is_open = (probs.amax(-1) <= MOST_CERTAIN) & (probs.amax(-1) < 1)
    both = entropy + torch.nn.functional.pad(entropy[1:], (0, 1))
    return int(both.where(is_open, -1.0).argmax()) if bool(is_open.any()) else None


def contexts_of(
    pair: ModelPair, request: Request, scores: PathScores, num_tokens: int
) -> list[Context]:
    """Where laws are tested below a text: for each position the likeliest paths with open laws.

    Args:
        pair, request, scores: of the text.
        num_tokens: positions.
    """
    level, found = [_context(pair, request, scores, (), 1.0)], list[Context]()
    for _ in range(num_tokens):
        found += level
        paths = [
            ((*one.path, token), one.weight * float(one.law.probs[token]))
            for one in level
            for token in one.order
            if token not in request.sampling.eos_token_ids
        ]
        likely = sorted((p for p in paths if p[1] >= LEAST_WEIGHT), key=lambda p: -p[1])
        level = [_context(pair, request, scores, *p) for p in likely[: 2 * MOST_BELOW]]
        level = sorted(level, key=lambda one: not one.is_open)[:MOST_BELOW]
    return found


def _context(
    pair: ModelPair, request: Request, scores: PathScores, path: Path, weight: float
) -> Context:
    return Context.of(path, weight, law_after(pair, request, path, scores.after(path)))
