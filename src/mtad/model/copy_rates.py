"""The rates with which a draft copies from the text, as its config has them.

What they mean is in `mtad.speculative.copying`. Any draft may have them: a head, or a model whose
config.json has `copy_rates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel

from mtad.model.recurrent_head import RecurrentHead

NAME = "copy_rates"


def checked(found: Any) -> tuple[float, ...]:
    """Rates by the length of the match, from 0 on.

    Raises:
        ValueError: they are not 0 and then shares below 1; none at all is right, too.
    """
    try:
        rates = tuple(float(rate) for rate in found or ())
    except (TypeError, ValueError):
        rates = (-1.0,)
    if rates and (rates[0] or len(rates) == 1 or not all(0 <= rate < 1 for rate in rates)):
        raise ValueError(f"{NAME} are {found!r}; give 0 and then shares below 1, such as 0, 0.5")
    return rates


def copy_rates_of(draft: PreTrainedModel | RecurrentHead) -> tuple[float, ...]:
    """The rates of a draft; empty if it does not copy.

    Raises:
        ValueError: they are no rates.
    """
    return checked(getattr(draft.config, NAME, None))


def set_copy_rates(draft: PreTrainedModel | RecurrentHead, rates: Sequence[float]) -> None:
    """Let a draft copy with these rates, as `checked` has them."""
    if isinstance(draft, RecurrentHead):
        draft.config = replace(draft.config, copy_rates=tuple(rates))
    else:
        setattr(draft.config, NAME, list(rates))
