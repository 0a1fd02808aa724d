"""How well a text of the target copies itself: the rates that a draft gets, and what they bring."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtad.distill.states import States
from mtad.speculative.copying import Copies, what_followed

LONGEST = 4
"""Tokens of the longest match that is told apart."""
MOST_ANSWERS = 512
"""Answers that are looked at."""


def counted_rates(states: States) -> tuple[float, ...]:
    """Rates by the length of the match, from how often what followed it came again.

    What a draft brings grows or falls in a straight line with the share that it copies, so that
    shares near 0 or 1 do better than those that are counted: the odds are squared.

    Args:
        states: of the target's answers; so many of them, evenly spread, are looked at.
    """
    found, right = torch.zeros(2, LONGEST + 1, dtype=torch.float64)
    answers = states.answers()
    for _, answer in answers[:: max(1, len(answers) // MOST_ANSWERS)]:
        tokens, lengths = copied_along(answer, 0)
        found += torch.bincount(lengths, minlength=LONGEST + 1)
        right += torch.bincount(lengths[tokens == answer.tokens[1:]], minlength=LONGEST + 1)
    share = (right + 0.5) / (found + 1)
    squared = share.square() / (share.square() + (1 - share).square())
    return (0.0, *(round(rate, 2) for rate in squared[1:].clamp(max=0.99).tolist()))


def copies_along(answer: States, ahead: int, rates: Float[Tensor, " matches"]) -> Copies:
    """What may be copied along an answer after `ahead` drafted tokens that were the text's own.

    Args:
        answer: one answer, n tokens.
        ahead: 0 where a block begins.
        rates: of the draft.

    Returns:
        Of a single row of n - 1 - ahead places: for the tokens at places 1 + ahead and on.
    """
    tokens, lengths = copied_along(answer, ahead, len(rates) - 1)
    return Copies(tokens[None].to(rates.device), rates[lengths.to(rates.device)][None])


def copied_along(
    answer: States, ahead: int, longest: int = LONGEST
) -> tuple[Int[Tensor, " places"], Int[Tensor, " places"]]:
    """The tokens themselves, and the lengths of the matches."""
    prompt = torch.tensor(answer.prompt_at(0), dtype=torch.int64)
    text = torch.cat([prompt, answer.tokens.cpu()])
    roots = torch.arange(len(prompt), len(text) - 1 - ahead)
    back = torch.arange(longest)
    last = text[(roots[:, None] + ahead - back).clamp(min=0)]
    places = torch.arange(len(text))
    return what_followed(text[None], last, places < roots[:, None])
